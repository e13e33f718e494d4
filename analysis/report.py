"""The report: everything that was found about one network, or several side by side, on one page."""
import json
import os
import re
import shlex
import time
from typing import NamedTuple, Optional

import numpy as np

from analysis import figures, masking, transfer
from analysis.flags import Network
from analysis.judged import share
from analysis.landscape import Landscape
from analysis.sweep import NOISE_DRAWS, Sweep, accuracy
from data.synsets import synset_words, synsets
from files.pages import Code, Figure, Section, Table, Text, Verdict
from machine import programs
from nets import network_name
from weights.find import find_checkpoint

PASS, FLAG = 'Pass', 'Flag'
SHOWN_CHARACTERS = 20  # of a name above a small picture


class Findings(NamedTuple):
    """What was found about one network. content: the sweep's JSON. hardest: rows of ``figures.hardest``."""
    network: Network
    sweep: Sweep
    checks: list
    content: dict
    landscape: Optional[Landscape] = None
    hardest: tuple = ()


def hardest_images(subject, sweep, count):
    """The recognised images that the smallest radius breaks, of equals those of the smaller margin.

    Returns:
        list of dict: see ``figures.hardest``; at most ``count``.
    """
    images, lowest = sweep.images, sweep.breaking_epsilon()
    order = np.lexsort([sweep.clean.margin, lowest])
    chosen = [row for row in order if 0 < lowest[row] < np.inf][:count]
    shown = []
    for row in chosen:
        image = images.part(np.array([row]))
        found = subject.judge(image, sweep.plan.pgd(None, float(lowest[row])), keep=True)
        file = _shortened(os.path.basename(image.files[0]))
        shown.append({'image': image.pixels[0], 'adv': found.adv[0],
                      'title': '{}\n{}'.format(file, _name(images, image.label[0])),
                      'adv_title': '{}\nat epsilon {:g}'.format(_name(images, found.prediction[0]), lowest[row])})
    return shown


def recognised_by_all(subjects, images, count):
    """Rows of at most ``count`` images that every one of ``subjects`` recognises, spread evenly over those."""
    right = np.flatnonzero(np.all([subject.judge(images).standing for subject in subjects], axis=0))
    return right[np.unique(np.linspace(0, len(right) - 1, min(count, len(right))).round().astype(int))]


def file_name(text, extension):
    """``text`` as a file's name."""
    return '{}.{}'.format(re.sub(r'[^\w.-]+', '-', text), extension)


def _name(images, label):
    """Of a label; ImageNet's in words, without the id and the synonyms."""
    if not 0 <= label < len(images.classes):
        return str(label)
    if images.classes == synsets():
        return _shortened(synset_words()[label].split(' ', 1)[1].split(',')[0])
    return _shortened(images.classes[label])


def _shortened(text):
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS - 1] + '…'


def compose(found, crossed, extra, command, versions):
    """The page.

    Args:
        found (list of Findings). crossed (Transfer or None). extra (dict): from ``judged.read_results``.
        command (list of str): how this program was started. versions (dict): of libraries.
    Returns:
        title, lead (str), blocks (list): see ``pages.as_html``.
    """
    blocks = sweep_blocks(found, extra)
    if crossed:
        blocks += [Section('Transfer')] + transfer_blocks(crossed)
    if found[0].landscape:
        blocks += _landscapes(found)
    for f in found:
        if f.hardest:
            blocks += _hardest(f, len(found) > 1)
    blocks += [Section('How this was made')] + _provenance(found, command, versions)
    return 'Robustness of ' + ' and '.join(f.network.name for f in found), lead(found), blocks


def lead(found):
    """The line below a page's title: date, data, threat model."""
    args = found[0].network.args
    return '{}. {} images of {}. Untargeted attacks, L∞ radius {:g} of 255 unless said otherwise.'.format(
        time.strftime('%Y-%m-%d'), len(found[0].sweep.images), args.data or "scikit-learn's handwritten digits",
        args.attack_epsilon)


def sweep_blocks(found, extra):
    """Verdicts, accuracies, curves and checks."""
    blocks = []
    for f in found:
        prefix = '{}: '.format(f.network.name) if len(found) > 1 else ''
        blocks.append(Verdict(all(c.passed for c in f.checks), prefix + masking.verdict(f.checks)))
    advice = '' if extra else ' An ensemble of different attacks, as AutoAttack, is the next step.'
    return blocks + [Text(masking.NO_PROOF + advice), Section('Accuracy'), _accuracies(found, extra), Section('Curves'),
                     _curves(found), Section('Sanity checks'), _checks(found)]


def _accuracies(found, extra):
    rows = {'no attack': lambda s: s.clean, 'random noise, worst of {}'.format(NOISE_DRAWS): lambda s: s.noise[
        s.plan.epsilon], 'one step': lambda s: s.single_step}
    for k in found[0].sweep.by_steps:
        rows['PGD-{}'.format(k)] = lambda s, k=k: s.by_steps[k]
    rows['black box, {} queries'.format(found[0].sweep.plan.queries)] = lambda s: s.black_box
    cells = [[name] + [_cell(pick(f.sweep)) for f in found] for name, pick in rows.items()]
    cells.append(['all of these together'] + [
        share(int(_withstood(f.sweep).sum()), len(f.sweep.images)) for f in found])
    cells += [[name] + [row.get(f.network.name, 'not run') for f in found] for name, row in extra.items()]
    plan = found[0].sweep.plan
    return Table(['attack'] + [f.network.name for f in found], cells,
                 'Accuracy with its 95% Wilson interval, on {} images, epsilon {:g}, steps of {:g} pixel levels or '
                 'epsilon / steps where that is more. "All of these together" counts an image as right if no attack '
                 'above it in this table breaks it.'.format(len(found[0].sweep.images), plan.epsilon, plan.step_size))


def _cell(outcome):
    figures_of = accuracy(outcome)
    return share(figures_of['correct'], len(outcome.standing))


def _withstood(sweep):
    """bool [N]: right without attack and under every attack of the plan's radius."""
    outcomes = [sweep.clean, sweep.noise[sweep.plan.epsilon], sweep.single_step, sweep.black_box, sweep.attacked]
    return np.all([o.standing for o in outcomes + list(sweep.by_steps.values())], axis=0)


_CURVES = '{}: {:.1f}% without attack, {:.1f}% after {} steps, {:.1f}% after {}; {:.1f}% at epsilon {:g}'


def _curves(found):
    said = []
    for f in found:
        first, (steps, longest), largest = min(f.sweep.by_steps), f.sweep.strongest, max(f.sweep.by_epsilon)
        shown = f.sweep.clean, f.sweep.by_steps[first], longest, f.sweep.by_epsilon[largest]
        clean, short, long, wide = (100 * o.standing.mean() for o in shown)
        said.append(_CURVES.format(f.network.name, clean, short, first, long, steps, wide, largest))
    content = figures.png(figures.curves({f.network.name: f.content for f in found}))
    return Figure('curves.png', content, 'Two line charts of accuracy, against attack steps and against epsilon. '
                  + '; '.join(said) + '.',
                  'Accuracy with 95% intervals. Left: more steps at one radius, beside no attack (dashed) and the '
                  'attack without gradients (dash-dotted). Right: a growing radius, beside random noise of the same '
                  'radius (dotted). Under an attack that works, accuracy falls with both, stays below that of noise, '
                  'and reaches about 0.')


def _checks(found):
    marks = (PASS, FLAG)
    rows = [[checks[0].name] + ['{}: {}'.format(marks[not c.passed], c.text) for c in checks]
            for checks in zip(*(f.checks for f in found))]
    return Table(['check'] + [f.network.name for f in found], rows,
                 'Comparisons are exact one-sided McNemar tests on the same images, at a level of {:g} for each '
                 'check.'.format(masking.LEVEL), marks)


def transfer_blocks(crossed):
    """What attacked images of one network do to the others."""
    values = crossed.accuracies()
    rows = [['no attack'] + [_cell(o) for o in crossed.clean]]
    rows += [['made with ' + name] + [_cell(o) for o in row] for name, row in zip(crossed.names, crossed.attacked)]
    said = '; '.join('{} on images made with {}: {:.1f}%'.format(target, source, 100 * values[i, j])
                     for i, source in enumerate(crossed.names) for j, target in enumerate(crossed.names))
    return [Verdict(not crossed.surprises(), transfer.in_words(crossed)),
            Table(['images'] + ['judged by ' + name for name in crossed.names], rows,
                  'Accuracy on images attacked with one network and shown to another.'),
            Figure('transfer.png', figures.png(figures.matrix(crossed.names, values)),
                   'Heat map of accuracies: ' + said + '.',
                   "Accuracy in %; the diagonal is each network's own attack.")]


def _landscapes(found):
    images = found[0].landscape.images
    titles = ['{} ({})'.format(_name(images, label), os.path.basename(file))
              for label, file in zip(images.label, images.files)]
    content = figures.png(figures.landscapes({f.network.name: f.landscape for f in found}, titles))
    said = '; '.join('{}, {}: loss from {:.3g} to {:.3g}'.format(f.network.name, title, loss.min(), loss.max())
                     for f in found for title, loss in zip(titles, f.landscape.loss))
    return [Section('Loss landscapes'),
            Figure('landscapes.png', content, 'Surfaces and heat maps of the loss around {} images. {}.'.format(
                len(titles), said),
                'Cross entropy of the true label over the plane of the attack\'s direction (the sign of what PGD adds) '
                'and a random one, around the image in the middle; offsets in pixel levels. One scale for each row.')]


def _hardest(f, several):
    said = '; '.join('{title}, taken for {adv_title}'.format(**row) for row in f.hardest).replace('\n', ' ')
    title = 'Hardest images' + (': ' + f.network.name if several else '')
    content = figures.png(figures.hardest(f.hardest))
    return [Section(title), Figure(
        file_name('hardest-' + f.network.name, 'png'), content,
        'Images, their attacked versions and the magnified changes. {}.'.format(said),
        'The recognised images that fall to the smallest radius of the curve above: as they are, as attacked at that '
        'radius with what they are taken for, and the change, magnified around grey.')]


def _provenance(found, command, versions):
    lines = ['# this report', shlex.join(command)]
    for f in found:
        lines += ['', '# {}: the same attack on the whole validation set'.format(f.network.name),
                  programs.spelt('python main.py --eval --untargeted ' + shlex.join(f.network.flags))]
    plan, args = found[0].sweep.plan, found[0].network.args
    blocks = [Code('\n'.join(lines)), Table(
        ['setting', 'value'],
        [['seed', str(args.seed)], ['images', '{}, spread evenly over the validation set'.format(
            len(found[0].sweep.images))],
         ['attack', 'PGD, {} steps, epsilon {:g}, step size {:g}, random start'.format(
             plan.num_iter, plan.epsilon, plan.step_size)]]
        + [['network ' + f.network.name, '{}, weights {}'.format(
            network_name(f.network.args), find_checkpoint(f.network.args.load))] for f in found]
        + [[name, version] for name, version in versions.items()], 'Settings and versions.')]
    return blocks + [Code(json.dumps(vars(f.network.args), indent=1, sort_keys=True),
                          'All flags of {}'.format(f.network.name)) for f in found]
