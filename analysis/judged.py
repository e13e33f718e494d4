"""What evaluations have written, for the table of the report."""
import os

from evaluation.verdicts import wilson
from files.json_files import read_json
from files.typed import anything, list_of, number, optional, record, text, whole
from weights.find import find_checkpoint

# What is taken from the results of an evaluation.
_RESULTS = record({'attack': anything, 'adversarial': anything, 'num_images': whole(1, 2 ** 31),
                   'args': record({'load': text(10 ** 4)}, others=anything)}, others=anything)
_ATTACK = record({'name': text(200), 'norm': text(20), 'epsilon': number(0)}, others=anything)


def read_results(paths, networks):
    """Results of evaluations, by the network they are of.

    Args:
        paths: results.json files of ``main.py --eval``. networks (list of Network).
    Returns:
        dict: row of the table to {name of a network: cell}.
    Raises:
        ValueError: a file is not readable, holds no attack, or is of none of the networks.
    """
    rows = {}
    for path in paths:
        try:
            results = read_json(path, _RESULTS)
            load, total = results['args']['load'], results['num_images']
            cells = _several(results) if results.get('threat_models') is not None else _single(results)
        except (OSError, ValueError) as error:
            raise ValueError("--results '{}': no results of main.py --eval ({})".format(path, error)) from error
        if not cells:
            raise ValueError("--results '{}': of clean images alone; an attack is wanted".format(path))
        owners = [n.name for n in networks if _same_checkpoint(n.args.load, load)]
        if not owners:
            raise ValueError("--results '{}': of checkpoint '{}', which is none of {}".format(
                path, load, ', '.join("'{}'".format(n.args.load) for n in networks)))
        for name, cell in cells.items():
            for owner in owners:
                rows.setdefault('{}, {} images'.format(name, total), {})[owner] = cell
    return rows


def _single(results):
    """The cells of an evaluation under one threat model, by what it was judged with; none of a clean one."""
    if not results['adversarial']:
        return {}
    attack = _ATTACK(results['attack'], 'attack')
    attacked = record({'top1_correct': whole(0, results['num_images'])}, others=anything)(
        results['adversarial'], 'adversarial')
    return {_named(attack): share(attacked['top1_correct'], results['num_images'])}


def _several(results):
    """Likewise under several, beside the published figures, and of their worst case."""
    total = results['num_images']
    counts = record({'num_images': whole(0, total)}, others=anything)
    right = record({'top1_correct': whole(0, total)}, others=anything)
    each = record({'attack': _ATTACK, 'adversarial': optional(right), 'attacks': list_of(counts, 100),
                   'published': optional(number(0))}, others=anything)
    known = optional(record({'model': text(200)}, others=anything))(results.get('published'), 'published')
    worst = optional(record({'robust_correct': whole(0, total), 'num_images': whole(0, total)}, others=anything))(
        results.get('worst_case'), 'worst_case')
    models, cells = list_of(each, 100)(results['threat_models'], 'threat_models'), {}
    for model in models:
        judged = model['attacks'][-1]['num_images'] if model['adversarial'] and model['attacks'] else 0
        if judged:
            cells[_named(model['attack'])] = share(model['adversarial']['top1_correct'], judged) + (
                '; published for {}: {:g}%'.format(known['model'], model['published'])
                if known and model['published'] is not None else '')
    if worst and worst['num_images']:
        cells['worst case of {} threat models'.format(len(models))] = share(
            worst['robust_correct'], worst['num_images'])
    return cells


def _named(attack):
    return '{}, {} epsilon {:g}'.format(attack['name'], attack['norm'], attack['epsilon'])


def _same_checkpoint(first, second):
    try:
        return os.path.realpath(find_checkpoint(first)) == os.path.realpath(find_checkpoint(second))
    except ValueError:  # what was judged then is no longer there
        return False


def share(right, total):
    """A fraction in %, with its 95% interval."""
    low, high = wilson(right, total)
    return '{:.1f}% ({:.1f}–{:.1f})'.format(100 * right / total, 100 * low, 100 * high)
