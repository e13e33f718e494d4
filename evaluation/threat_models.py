"""The results of an evaluation under several threat models: each by itself, their worst case, the published figures."""
import numpy as np

from evaluation.results import about, columns, found, robust_accuracy
from evaluation.verdicts import CLEAN

ROBUST_UNDER_ALL = 'robust_under_all'  # a column of per_example.csv


def make_results(outcome, attackers, model, args, versions, seconds, complete=True):
    """The content of results.json.

    Args:
        outcome (Outcome): with each of ``attackers`` (list of Attacker).
        model (published.Model): which the checkpoint is, or None.
        args (dict), versions, seconds, complete: as of ``evaluation.results.make_results``.
    """
    figures = model and model.figures_at(args['input_size'])
    results = about(outcome.clean, outcome.tried, args, versions, seconds, complete)
    results['published'] = figures and {
        'model': model.name, 'input_size': figures.size, 'clean': figures.clean, 'with': model.release.title,
        'page': model.release.page}
    results['threat_models'] = [
        dict(found(each.verdicts, attacker),
             published=figures and model.published_under(figures, attacker.describe()))
        for each, attacker in zip(outcome.found, attackers)]
    results['worst_case'] = worst_case(outcome.found)
    # What the results of one threat model have, and of several nobody may take for theirs.
    return dict(results, attack=None, adversarial=None)


def worst_case(found):
    """How many images are right without an attack and under every threat model, of those that all are done with.

    Args:
        found (list of Found).
    Returns:
        dict: JSON-ready; None where a threat model has not begun its last attack.
    """
    if not all(each.begun for each in found):
        return None
    last = [list(each.verdicts.values())[-1] for each in found]
    index = last[0].index
    for verdicts in last[1:]:
        index = np.intersect1d(index, verdicts.index, assume_unique=True)
    return robust_accuracy([v.of(index).correct for each in found for v in each.verdicts.values()])


def cells(outcome, attackers_titles):
    """The columns of per_example.csv, name to cells: of each threat model those of ``columns`` with its title, and
    whether an image is right in all verdicts: 1, 0, or '' where that is still open."""
    clean = outcome.clean
    named, robust, open_ = {}, clean.correct.copy(), np.zeros(len(clean.index), bool)
    for title, each in zip(attackers_titles, outcome.found):
        named.update({'{} {}'.format(name, title): values
                      for name, values in columns(each.latest, each.broken_by).items()})
        robust &= each.latest.correct
        if each.broken_by is not None:
            open_ |= np.array(each.broken_by, object) == ''
    return dict(named, **{ROBUST_UNDER_ALL: ['' if o and r else int(r) for o, r in zip(open_, robust)]})


def table(results):
    """Clean images, each threat model and their worst case, beside the published figures; lines of text."""
    known = results['published']
    rows = [('', 'attack', 'right', '95%', 'published' if known else '')]
    clean = results['clean']
    rows.append((CLEAN, '', *_share(clean['top1_correct'], results['num_images'], clean['top1_error_95'])))
    rows[-1] += (_published(known and known['clean'], known),)
    for each in results['threat_models']:
        right, model = each['adversarial'], each['threat_model']
        name = '{norm} {epsilon:g} ({epsilon_of_unit_images:.4g} of 1)'.format(**model)
        share = _share(right['top1_correct'], each['attacks'][-1]['num_images'], right['top1_error_95']) \
            if right else ('not run', '')
        rows.append((name, each['attack']['name'], *share, _published(each['published'], known)))
    worst = results['worst_case']
    if worst and worst['num_images']:
        low, high = worst['robust_accuracy_95']
        rows.append(('worst case of all', '', _percent(worst['robust_accuracy']), _between(low, high), ''))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    if known:
        lines.append('published: {model} at {input_size} pixels; {with}'.format(**known))
    return lines


def _share(right, total, error_95):
    low, high = error_95
    return _percent(right / total), _between(1 - high, 1 - low)


def _percent(fraction):
    return '{:.2f}%'.format(100 * fraction)


def _between(low, high):
    return '{:.1f} to {:.1f}'.format(100 * low, 100 * high)


def _published(figure, known):
    return '' if not known else '-' if figure is None else '{:.1f}%'.format(figure)
