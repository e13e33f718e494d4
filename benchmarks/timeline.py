"""How much of the exchange of gradients lies within the backward pass: a Horovod timeline (HOROVOD_TIMELINE) beside the
times at which the gradients were ready.

The timeline alone does not tell: what it calls ready is what Horovod's thread has seen, and while that exchanges one
gradient it does not see that the next is there.
"""
import collections
import json
import statistics
from typing import NamedTuple

_GRADIENTS = 'AllReduce/'  # tensorpack's scope; other exchanges, such as batch norm's statistics, are none of ours


class Step(NamedTuple):
    """Of one step, in seconds."""
    backward: float   # from the first gradient that is ready on all ranks to the last
    exchange: float   # time in which at least one gradient was being exchanged
    hidden: float     # part of ``exchange`` before the last gradient was ready
    exposed: float    # from the last gradient being ready to the end of the last exchange


def read(path):
    """The exchanges of gradients in a timeline file.

    Returns:
        list, for each step, of lists of (begin, end), in seconds since the epoch.
    Raises:
        ValueError: it is no timeline of a finished run, or has no gradients in it; says which file.
    """
    try:
        with open(path) as f:
            events = json.load(f)
    except ValueError:
        raise ValueError("'{}' is no Horovod timeline of a run that has ended".format(path)) from None
    names, opened, start = {}, collections.defaultdict(list), 0
    counts, steps = collections.Counter(), collections.defaultdict(list)
    for event in events:
        tensor = event.get('pid')
        if event.get('name') == 'process_name':
            names[tensor] = event['args'].get('name', '')
            start = event['args'].get('start_time_since_epoch_in_micros', start)
        elif names.get(tensor, '').startswith(_GRADIENTS) and event['ph'] == 'B':
            opened[tensor].append(event)
        elif names.get(tensor, '').startswith(_GRADIENTS) and event['ph'] == 'E':
            begun = opened[tensor].pop()
            if begun['name'] == 'ALLREDUCE':  # what it consists of lies within
                steps[counts[tensor]].append(tuple((start + each['ts']) * 1e-6 for each in (begun, event)))
                counts[tensor] += 1
    if not steps:
        raise ValueError("'{}' has no exchange of gradients in it".format(path))
    return [steps[number] for number in sorted(steps)]


def judge(exchanges, first, last):
    """The Step of a step's exchanges [(begin, end)] and of the times of its first and its last gradient."""
    total = hidden = 0.0
    until = float('-inf')
    for begin, end in sorted(exchanges):
        begin = max(begin, until)  # exchanges that were fused, or overlap, count once
        if end > begin:
            total += end - begin
            hidden += max(0.0, min(end, last) - begin)
            until = end
    return Step(last - first, total, hidden, until - last)


def describe(path, ready):
    """Lines of text: one for each of the timeline's last steps, and their medians.

    ``ready``: of each of these steps the times of the first and the last gradient, in seconds since the epoch.
    """
    steps = [judge(exchanges, *times) for exchanges, times in zip(read(path)[-len(ready):], ready)]
    text = 'exchange of gradients {:.1f} ms, {:.0f}% of it hidden; it ended {:.1f} ms after the backward pass, whose ' \
           'gradients came over {:.1f} ms'
    lines = ['step {}: {}'.format(number, text.format(
        1e3 * step.exchange, 100 * step.hidden / step.exchange, 1e3 * step.exposed, 1e3 * step.backward))
        for number, step in enumerate(steps, 1)]
    return lines + ['median: {:.0f}% of the exchange hidden, {:.1f} ms not'.format(
        100 * statistics.median(step.hidden / step.exchange for step in steps),
        1e3 * statistics.median(step.exchange - step.hidden for step in steps))]
