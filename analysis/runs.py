"""What the commands do with the resolved flags."""
import contextlib
import json
import os
import time

import matplotlib
import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.utils import logger

from analysis import activations, figures, judged, landscape, masking, report, sweep, transfer
from analysis.subject import Subject
from commands import sources
from commands.run import bring_weights
from evaluation.results import make_results_folder
from files import output_folders, pages
from files.atomic import write_text
from machine import programs
from machine.gpus import check_override
from machine.versions import library_versions, source_version
from nets import network_name
from ranks.end import end_by, fail
from ranks.gather import together
from ranks.launched import Ranks, launched_rank
from sat.images import open_images
from weights.classes import read_classes
from weights.find import find_checkpoint


def run(own, networks):
    """Do what the flags ask for, in one process; a full disk and the like end it with one line."""
    if launched_rank() is not None:
        fail('runs in one process; start it without mpirun or srun', launched_rank())
    _asked(lambda: check_override(False))
    try:
        for network in networks:
            _asked(lambda network=network: sources.check(network.args))
            _asked(lambda network=network: bring_weights(network.args.load, Ranks()))
            for note in network.args.notes:
                logger.info(note)
        folder = _COMMANDS[own.command](own, networks)
    except (OSError, tf.errors.OpError) as error:
        end_by(error)
    logger.info('Results are in {}'.format(folder))


def _asked(action):
    """``action()``; a mistake in what was asked for ends the program with one line."""
    return together(Ranks(), action)


def _new_folder(own, networks):
    name = own.results_dir or os.path.join('results', '-'.join([own.command] + [
        '{}-{}'.format(network_name(n.args), os.path.basename(find_checkpoint(n.args.load))) for n in networks]))
    name = output_folders.make_new(name.rstrip(os.sep))
    _asked(lambda: make_results_folder(name))
    return name


def _images(own, networks):
    """The images that all networks are to see.

    Raises:
        ValueError: there are none, or the networks' labels mean different classes.
    """
    images = open_images(networks[0].args, own.images)
    for network in networks[1:]:
        classes = sources.open_images(network.args, 'val', read_classes(network.args.load)).classes
        if list(classes) != images.classes:
            raise ValueError("--model {} and --model {} were trained with different classes or another order".format(
                networks[0].name, network.name))
    return images


@contextlib.contextmanager
def _opened(own, networks):
    """(images, subjects)."""
    images = _asked(lambda: _images(own, networks))
    with contextlib.ExitStack() as stack:
        yield images, [stack.enter_context(_asked(lambda n=n: Subject.open(n.name, n.args))) for n in networks]


def _plan(own, args):
    return sweep.Plan(args.attack_epsilon, args.attack_step_size, args.attack_iter, own.steps, own.epsilons,
                      own.queries)


def _pgd(args):
    return sweep.Plan(args.attack_epsilon, args.attack_step_size, args.attack_iter).pgd()


def _command():
    return programs.command()


def _versions():
    return dict(library_versions(), matplotlib=matplotlib.__version__)


def _write_json(folder, name, networks, content):
    """Figures with how they came about."""
    origin = {'command': _command(), 'date': time.strftime('%Y-%m-%d %H:%M:%S'), 'versions': _versions(),
              'source': source_version(), 'tf32': tf.config.experimental.tensor_float_32_execution_enabled()}
    if networks:
        origin.update(seed=networks[0].args.seed, networks={n.name: vars(n.args) for n in networks})
    write_text(os.path.join(folder, name), json.dumps(dict(origin, **content), indent=1) + '\n')


def _write_markdown(folder, name, title, lead, blocks):
    for block in blocks:
        if isinstance(block, pages.Figure):
            _write_picture(folder, block.name, block.content)
    write_text(os.path.join(folder, name), pages.as_markdown(title, lead, blocks))


def _write_picture(folder, name, content):
    with open(os.path.join(folder, name), 'wb') as f:
        f.write(content)


def _write_landscape(folder, name, found):
    np.savez_compressed(os.path.join(folder, name), loss=found.loss, offsets=found.offsets, index=found.images.index,
                        label=found.images.label, files=np.array(found.images.files))


def _sweep_of(subject, images, network, own):
    """(Sweep, checks, JSON)."""
    found = sweep.measure(subject, images, _plan(own, network.args), show_progress=True)
    checks = masking.check(found)
    content = dict(sweep.as_json(found, checks), verdict=masking.verdict(checks))
    for check in checks:
        logger.info('{}: {} {}: {}'.format(subject.name, 'pass' if check.passed else 'FLAG', check.name, check.text))
    logger.info('{}: {}'.format(subject.name, content['verdict']))
    return found, checks, content


def run_sweep(own, networks):
    """The curves, the checks and the verdict."""
    network, = networks
    with _opened(own, networks) as (images, (subject,)):
        _asked(lambda: sweep.check_recognised(subject, images))
        folder = _new_folder(own, networks)
        findings = report.Findings(network, *_sweep_of(subject, images, network, own))
    _write_json(folder, 'sweep.json', networks, findings.content)
    _write_markdown(folder, 'sweep.md', 'Sweep of ' + network.name, report.lead([findings]),
                    report.sweep_blocks([findings], {}))
    return folder


def run_landscape(own, networks):
    """The loss around some images, as numbers and as a picture."""
    network, = networks
    with _opened(own, networks) as (images, (subject,)):
        folder = _new_folder(own, networks)
        found = _landscape(subject, images, network.args, own)
    _write_json(folder, 'landscape.json', networks, landscape.as_json(found))
    _write_landscape(folder, 'landscape.npz', found)
    titles = [os.path.basename(file) for file in images.files]
    _write_picture(folder, 'landscape.png', figures.png(figures.landscapes({network.name: found}, titles)))
    return folder


def _landscape(subject, images, args, own):
    return landscape.measure(subject, images, _pgd(args), own.span or 2 * args.attack_epsilon, own.grid, args.seed)


def run_activations(own, networks):
    """The paper's figures 1 and 2, or one of other activations."""
    folder = _new_folder(own, networks)
    content = {}
    for name, names in ({'activations': own.names} if own.names else activations.FIGURES).items():
        x, found = activations.measure(names)
        _write_picture(folder, name + '.png', figures.png(figures.activations(x, found)))
        content[name] = {'x': x.tolist(), 'activations': {
            key: {'value': value.tolist(), 'derivative': slope.tolist()} for key, (value, slope) in found.items()}}
    _write_json(folder, 'activations.json', networks, content)
    return folder


def run_transfer(own, networks):
    """The matrix of accuracies."""
    with _opened(own, networks) as (images, subjects):
        folder = _new_folder(own, networks)
        found = transfer.measure(subjects, images, _pgd(networks[0].args))
    _write_json(folder, 'transfer.json', networks, transfer.as_json(found))
    _write_markdown(folder, 'transfer.md', 'Transfer between ' + ' and '.join(found.names),
                    '{} images, epsilon {:g}.'.format(len(images), networks[0].args.attack_epsilon),
                    report.transfer_blocks(found))
    logger.info(transfer.in_words(found))
    return folder


def run_report(own, networks):
    """Everything, for one network or several side by side, on one page."""
    extra = _asked(lambda: judged.read_results(own.results, networks))
    with _opened(own, networks) as (images, subjects):
        for subject in subjects:
            _asked(lambda: sweep.check_recognised(subject, images))
        folder = _new_folder(own, networks)
        around = images.part(report.recognised_by_all(subjects, images, own.landscapes))
        findings = []
        for number, (network, subject) in enumerate(zip(networks, subjects)):
            found, checks, content = _sweep_of(subject, images, network, own)
            stem = network.name if len(networks) == 1 else '{}-{}'.format(number + 1, network.name)
            _write_json(folder, report.file_name('sweep-' + stem, 'json'), [network], content)
            plane = None
            if len(around):
                plane = _landscape(subject, around, network.args, own)
                _write_landscape(folder, report.file_name('landscape-' + stem, 'npz'), plane)
            findings.append(report.Findings(network, found, checks, content, plane,
                                            report.hardest_images(subject, found, own.hardest)))
        crossed = transfer.measure(subjects, images, _pgd(networks[0].args)) if len(subjects) > 1 else None
    title, lead, blocks = report.compose(findings, crossed, extra, _command(), _versions())
    _write_markdown(folder, 'report.md', title, lead, blocks)
    write_text(os.path.join(folder, 'report.html'), pages.as_html(title, lead, blocks))
    return folder


_COMMANDS = {'sweep': run_sweep, 'landscape': run_landscape, 'activations': run_activations,
             'transfer': run_transfer, 'report': run_report}
