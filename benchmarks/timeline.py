"""How much of the exchange of gradients a Horovod timeline (HOROVOD_TIMELINE) shows beside the backward pass.

For each step and gradient the timeline has when it was ready on all ranks (the end of NEGOTIATE_ALLREDUCE) and when it
was exchanged (ALLREDUCE). Nobody waits for what is exchanged before the step's last gradient is ready.
"""
import collections
import json
import statistics
from typing import NamedTuple

_GRADIENTS = 'AllReduce/'  # tensorpack's scope; other exchanges, such as batch norm's statistics, are none of ours


class Exchange(NamedTuple):
    """Of one gradient in one step: times in seconds on one clock."""
    ready: float
    begin: float
    end: float


class Step(NamedTuple):
    """Of one step, in seconds."""
    ready: float      # from the first gradient that is ready on all ranks to the last
    exchange: float   # time in which at least one gradient was being exchanged
    hidden: float     # part of ``exchange`` before the last gradient was ready
    exposed: float    # from the last gradient being ready to the end of its exchange


def read(path):
    """The exchanges of a timeline file, step by step: a list of lists of Exchange.

    Raises:
        ValueError: it is no timeline of a finished run, or has no gradients in it; says which file.
    """
    try:
        with open(path) as f:
            events = json.load(f)
    except ValueError:
        raise ValueError("'{}' is no Horovod timeline of a run that has ended".format(path)) from None
    names, opened, ready = {}, collections.defaultdict(list), {}
    steps = collections.defaultdict(list)
    counts = collections.Counter()
    for event in events:
        tensor = event.get('pid')
        if event.get('name') == 'process_name':
            names[tensor] = event['args'].get('name', '')
        elif names.get(tensor, '').startswith(_GRADIENTS) and event['ph'] in 'BE':
            if event['ph'] == 'B':
                opened[tensor].append(event)
                continue
            begun = opened[tensor].pop()
            if begun['name'] == 'NEGOTIATE_ALLREDUCE':
                ready[tensor] = event['ts'] * 1e-6
            elif begun['name'] == 'ALLREDUCE':
                steps[counts[tensor]].append(Exchange(ready[tensor], begun['ts'] * 1e-6, event['ts'] * 1e-6))
                counts[tensor] += 1
    if not steps:
        raise ValueError("'{}' has no exchange of gradients in it".format(path))
    return [steps[number] for number in sorted(steps)]


def judge(exchanges):
    """The Step of a step's exchanges."""
    last = max(exchange.ready for exchange in exchanges)
    total = hidden = 0.0
    until = float('-inf')
    for _, begin, end in sorted(exchanges, key=lambda exchange: exchange.begin):
        begin = max(begin, until)  # exchanges that were fused, or overlap, count once
        if end > begin:
            total += end - begin
            hidden += max(0.0, min(end, last) - begin)
            until = end
    return Step(last - min(exchange.ready for exchange in exchanges), total, hidden,
                max(exchange.end for exchange in exchanges) - last)


def describe(path, warm_up):
    """Lines of text: one a step behind the ``warm_up`` first ones, and the medians."""
    steps = [judge(exchanges) for exchanges in read(path)[warm_up:]]
    if not steps:
        raise ValueError("'{}' has no steps behind the first {}".format(path, warm_up))
    text = 'exchange of gradients {:.1f} ms, {:.0f}% of it hidden; last one over {:.1f} ms after the backward pass, ' \
           'whose gradients came over {:.1f} ms'

    def line(step):
        return text.format(1e3 * step.exchange, 100 * step.hidden / step.exchange, 1e3 * step.exposed, 1e3 * step.ready)
    lines = ['step {}: {}'.format(number, line(step)) for number, step in enumerate(steps, 1)]
    return lines + ['median: {:.0f}% of the exchange hidden, {:.1f} ms not'.format(
        100 * statistics.median(step.hidden / step.exchange for step in steps),
        1e3 * statistics.median(step.exposed for step in steps))]
