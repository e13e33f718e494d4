"""An evaluation's results: in results.json, per_example.csv and the released programs' lines."""
import csv
import json
import os
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from attacks.threat import ANY_STEP
from evaluation.verdicts import CLEAN, attack_success, too_many_unreadable, wilson
from files.atomic import keep_older, write_text
from files.json_files import read_json
from files.typed import anything, record, truth
from machine.versions import source_version

FEW = 5  # classes, all of which are among the five best
_MAYBE_INCOMPLETE = record({'complete': truth}, others=anything, maybe=['complete'])


def results_name(network, checkpoint, attacker, data, subset=None, more=()):
    """Name of an evaluation's folder: network, checkpoint, attack with its steps, norm and radius, data set, subset.

    Args:
        network, checkpoint, data (str): names, or a path of the latter two. attacker (Attacker). subset (str or None).
        more (list of Attacker): likewise, under other threat models.
    """
    parts = [network, os.path.basename(checkpoint), attacker.name if attacker.parts else 'clean']
    if attacker.parts:
        parts += [attacker.norm] if not attacker.name.endswith(attacker.norm) else []
        parts += ['eps{:g}'.format(attacker.epsilon)]
    parts += ['{}-eps{:g}'.format(other.norm, other.epsilon) for other in more]
    return '-'.join(parts + [os.path.basename(os.path.normpath(data))] + [subset] * bool(subset))


def make_results(verdicts, attacker, files_total, args, versions, seconds, complete=True):
    """The content of results.json.

    Args:
        verdicts (dict): 'clean' and the attacks' names to ``Verdicts``, in the order of the attacks.
        attacker (Attacker): one without ``parts`` for a clean evaluation.
        files_total (int): images that were to be judged up to now. complete (bool): whether these are all there are.
    """
    return dict(about(verdicts[CLEAN], files_total, args, versions, seconds, complete), **found(verdicts, attacker))


def about(clean, files_total, args, versions, seconds, complete):
    """What results.json has of any evaluation; see ``make_results``."""
    return {'num_images': len(clean.index), 'num_unreadable': files_total - len(clean.index), 'complete': complete,
            'too_many_unreadable': too_many_unreadable(len(clean.index), files_total), 'clean': clean.summary(),
            'args': args, 'versions': versions, 'source': source_version(), 'seed': args['seed'], 'seconds': seconds,
            'tf32': tf.config.experimental.tensor_float_32_execution_enabled()}


def found(verdicts, attacker):
    """What results.json has of one attacker; see ``make_results``."""
    clean, names = verdicts[CLEAN], list(verdicts)
    results = {'adversarial': None, 'attack_success_rate': None, 'verdict': None, 'attack': attacker.describe(),
               'threat_model': None, 'attacks': []}
    if attacker.parts:
        results.update(threat_model=threat_model(attacker), verdict=attacker.verdict)
        results['attacks'] = [dict(a.describe(), **robust(verdicts, names[:number + 1]))
                              for number, a in enumerate(attacker.parts, 1) if a.name in verdicts]
    if len(names) > 1:
        attacked = verdicts[names[-1]]
        results['adversarial'] = attacked.summary()
        for name, any_step in (('attack_success_rate', False), ('attack_success_rate_at_any_step', True)):
            success, trials = attack_success(clean.of(attacked.index), attacked, any_step)
            results.update({name: success / trials if trials else 0.0,
                            name + '_95': wilson(success, trials) if trials else None, 'attack_success_of': trials})
    return results


def threat_model(attacker):
    """Norm and radius, in pixel levels, 0-255, and for images in [0, 1]; JSON-ready."""
    return {'norm': attacker.norm, 'epsilon': attacker.epsilon, 'epsilon_of_unit_images': attacker.epsilon / 255}


def robust(verdicts, names):
    """How many of the images that the last of ``names`` is done with were right in all of their verdicts."""
    index = verdicts[names[-1]].index
    correct = [verdicts[name].of(index).correct for name in names]
    return dict(robust_accuracy(correct), broken=int((np.all(correct[:-1], axis=0) & ~correct[-1]).sum()))


def robust_accuracy(correct):
    """``correct``: bool [verdicts, images]. How many images are right in all verdicts; JSON-ready."""
    n, count = len(correct[0]), int(np.all(correct, axis=0).sum())
    return {'num_images': n, 'robust_correct': count, 'robust_accuracy': count / n if n else None,
            'robust_accuracy_95': wilson(count, n) if n else None}


def make_results_folder(folder):
    """Make ``folder`` if need be.

    Raises:
        ValueError: it cannot be made, or not be written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ValueError("--results-dir '{}': {}".format(folder, error.strerror)) from error
    if not os.access(folder, os.W_OK):
        raise ValueError("--results-dir '{}': not writable".format(folder))


def columns(attacked, broken_by=None):
    """What per_example.csv has of one attacker, name to cells.

    Args:
        attacked (Verdicts): of the images that ``write_results`` is given. broken_by (list of str): a further column,
            or None.
    """
    named = {'adv_pred': attacked.prediction.tolist(), 'target': attacked.target.tolist()}
    return named if broken_by is None else dict(named, broken_by=broken_by)


def write_results(folder, results, clean, cells, files, continued=False):
    """Write results.json and per_example.csv; files of those names that are there already are kept, renamed.

    Args:
        clean (Verdicts). cells (dict): of the same images, name of a column to its cells; see ``columns``.
        files (sequence of str): names by index.
        continued (bool): whether incomplete results that are there may be of this evaluation, and be replaced.
    """
    path, table = (os.path.join(folder, name) for name in ('results.json', 'per_example.csv'))
    if not (continued and _is_incomplete(path)):
        for name in (path, table):
            keep_older(name)
    with open(table + '.writing', 'w', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(['file', 'label', 'clean_pred', *cells])
        for index, *row in zip(clean.index, clean.label.tolist(), clean.prediction.tolist(), *cells.values()):
            writer.writerow([files[index], *row])
    os.replace(table + '.writing', table)
    write_text(path, json.dumps(results, indent=2) + '\n')


def _is_incomplete(path):
    try:
        return os.path.isfile(path) and read_json(path, _MAYBE_INCOMPLETE).get('complete') is False
    except ValueError:  # damaged, or something else: to be kept
        return False


def print_results(results):
    """The released programs' three lines, of the attacked images, after the clean ones; fractions.

    Of images that were left where the attack first succeeded, they have names of their own: these figures are not the
    releases'. Of ``FEW`` classes or fewer there is no top-5 error, which would say nothing.
    """
    clean, attacked = results['clean'], results['adversarial']
    many = results['args']['num_classes'] > FEW
    stopped = results['attack'].get('early_stop')
    if attacked:
        print('Clean Top1 Error: {}'.format(clean['top1_error']))
        if many:
            print('Clean Top5 Error: {}'.format(clean['top5_error']))
    if attacked and results['verdict'] != ANY_STEP:
        print('Attack Success Rate At Any Step: {}'.format(results['attack_success_rate_at_any_step']))
    when = ' When Stopped' if stopped else ''
    print('Top1 Error{}: {}'.format(when, (attacked or clean)['top1_error']))
    if attacked:
        print('Attack Success Rate{}: {}'.format(' At Any Step' if stopped else '', results['attack_success_rate']))
    if many:
        print('Top5 Error{}: {}'.format(when, (attacked or clean)['top5_error']))
    sys.stdout.flush()
