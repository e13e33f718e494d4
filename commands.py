"""What the modes of ``main.py`` do with the resolved flags."""
import atexit
import contextlib
import dataclasses
import functools
import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
from typing import Callable, List, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.utils import logger

import nets
import sources
from attacks.ensemble import Ensemble
from attacks.gradient import FGSMAttacker, MomentumAttacker
from attacks.pgd import NoOpAttacker, PGDAttacker
from data.efficientnet_view import ReleasedValidationBatches
from data.folders import ImageSet, list_images
from data.handshake import Job, default_data_address, new_job
from data.lease import Lease, check_servers
from data.policies import describe_policy, make_policy
from data.stream import FakeStream, TrainingStream, ValidationBatches
from data.synsets import synsets
from evaluation import journal, judging
from evaluation.passes import ROW, EvaluationTower, row_ranges
from evaluation.results import (
    make_results,
    make_results_folder,
    print_results,
    results_name,
    threat_model,
    write_results,
)
from evaluation.verdicts import CLEAN, MAX_UNREADABLE, UNREADABLE_EXIT_CODE, too_many_unreadable
from files import output_folders
from files.atomic import write_text
from machine.gpus import check_override
from machine.versions import library_versions
from ranks.cores import threads_for
from ranks.end import end_by, fail
from ranks.gather import gather_texts, together
from ranks.heartbeats import Heartbeats
from ranks.launched import launched_rank
from ranks.sessions import session_config
from ranks.start import start_ranks
from settings import recipes, sections
from settings.resolve import flat, resolve
from smooth_activations import can_compile
from training.directory import last_run, log_directory, open_log_directory
from training.inputs import ServedBatches, local_input, served_input
from training.resume import Start, check_same_classes, check_same_run, decide_precision, find_start, trim_statistics
from training.run import FAKE_STEPS_PER_EPOCH, run_training
from training.stopping import StopSignal, exit_code, signals_of
from weights.classes import read_classes
from weights.find import find_checkpoint, open_checkpoint
from weights.flags import refuse_another_network
from weights.match import load_into, match_variables
from weights.plausible import doubts, not_finite
from zoo import published
from zoo.fetch import bring


def make_attacker(attack, num_classes, seed):
    """The attacker of a training or of its evaluations (``settings.attack.Attack``): PGD, or none for 0 steps."""
    if attack.num_iter == 0:
        return NoOpAttacker()
    return PGDAttacker(attack.num_iter, attack.epsilon, attack.step_size, targeted=attack.targeted,
                       num_classes=num_classes, prob_start_from_clean=attack.prob_start_from_clean, seed=seed,
                       xla=attack.xla)


def make_evaluation_attacker(settings):
    """What ``--eval`` attacks with: an attacker, an ``Ensemble``, or None for 0 steps.

    Args:
        settings (Settings).

    Raises:
        ValueError: there is no such version of AutoAttack, or not for this norm or number of classes.
    """
    attack, num_classes = settings.evaluation_attack, settings.network.num_classes
    if attack.kind == 'autoattack':
        from attacks.autoattack.ensemble import make_attackers
        return Ensemble('autoattack-{}-{}'.format(attack.version, attack.norm), attack.norm, attack.epsilon,
                        make_attackers(attack.version, attack.norm, attack.epsilon, num_classes))
    if attack.num_iter == 0:
        return None
    options = dict(norm=attack.norm, targeted=attack.targeted, least_likely=attack.target == 'least-likely',
                   num_classes=num_classes, seed=settings.run.seed, xla=attack.xla, early_stop=attack.early_stop)
    if attack.kind == 'fgsm':
        return FGSMAttacker(attack.epsilon, **options)
    attacker = {'pgd': PGDAttacker, 'momentum': MomentumAttacker}[attack.kind]
    return attacker(attack.num_iter, attack.epsilon, attack.step_size, **options)


def make_model(args):
    """The network of resolved flags, or of the settings in ``flat``."""
    model = getattr(nets, args.arch + 'Model')(args)
    model.seed = args.seed
    return model


def make_training_model(settings, rank):
    """The network of a training's settings, with its attacker and losses."""
    model = make_model(flat(settings.network, settings.view, settings.run))
    attack, update = settings.training_attack, settings.update
    model.attacker = make_attacker(attack, settings.network.num_classes, settings.run.seed)
    model.attack_gradient, model.update_gradient = attack.gradient, update.update_gradient
    model.attack_precision = attack.precision
    model.label_smoothing, model.weight_decay, model.rank = update.label_smoothing, update.weight_decay, rank
    model.optimizer_name, model.accumulate = update.optimizer, update.accumulate
    return model


def _print_recipe(args):
    """Log every resolved flag, the recipe's own first."""
    named = recipes.names()
    logger.info('Recipe {}: {}'.format(args.recipe, ', '.join(
        '{}={}'.format(n, getattr(args, n)) for n in named)))
    logger.info('Flags: ' + ', '.join('{}={}'.format(n, v) for n, v in sorted(vars(args).items()) if n not in named))
    logger.info('Under attack the network computes in {}, {}, with {}'.format(
        args.attack_precision or 'float32', nets.resolve_data_format(args.data_format),
        'compiled activations' if can_compile() and not args.xla else "activations of TensorFlow's ops"))
    for note in args.notes:
        logger.info(note)


def _say_idle_gpus(ranks, beside=''):
    """Log how to use all GPUs of the machine, where this is the only process and uses one of several (SAT's release
    judges with all of them in one process). ``beside``: what several ranks need."""
    gpus = len(tf.config.list_physical_devices('GPU'))
    if ranks.size == 1 and gpus > 1:
        logger.info('1 of {0} GPUs is used; for all of them type:  mpirun -np {0} -bind-to none {1}{2}'.format(
            gpus, shlex.join(['python'] + sys.argv), beside))


def run(args):
    """Do what the flags ask for; what is not this program's fault, such as a full disk, ends it with one line."""
    if args.eval:
        try:
            sources.check(args)  # before a checkpoint is brought here
        except ValueError as error:
            fail(error, launched_rank() or 0)
    try:
        with _quiet_threads():
            if args.eval_directory:
                with _started(args) as ranks:
                    classify_directory(args, ranks)
            else:
                numbers = signals_of(args.eval, launched_rank() is not None)
                with StopSignal(numbers) as signals, _started(args) as ranks, contextlib.ExitStack() as held:
                    (evaluate if args.eval else train)(args, ranks, signals, held)
    except (OSError, tf.errors.OpError) as error:
        end_by(error)


@contextlib.contextmanager
def _started(args):
    """The ranks, with heartbeats while they are at work and the weights of ``--load`` here, which are those of the
    network; only the first one speaks."""
    # tensorpack 0.11 reports a failed run with a malformed logging call, whose own traceback would hide the failure.
    logging.raiseExceptions = False
    ranks = start_ranks()
    if not ranks.is_chief:
        for name in ('tensorpack', 'data'):
            logging.getLogger(name).setLevel(logging.ERROR)
        logger.setLevel(logging.ERROR)
    with Heartbeats(ranks):
        bring_weights(args.load, ranks)
        if args.load:
            together(ranks, lambda: refuse_another_network(args))
        yield ranks


@contextlib.contextmanager
def _quiet_threads():
    """Without the traceback of TensorFlow's thread that writes events; it has logged the failure in a line."""
    hook = threading.excepthook
    threading.excepthook = lambda failed: isinstance(failed.exc_value, tf.errors.OpError) or hook(failed)
    try:
        yield
    finally:
        threading.excepthook = hook


def bring_weights(load, ranks):
    """Download what ``--load zoo:NAME`` means, by the first rank of each machine, while the others wait."""
    if published.is_named(load):
        together(ranks, lambda: ranks.local_rank == 0 and bring(load, logger.info if ranks.is_chief else None))


def validation_batches(settings, dataset, ranks, indices=None, plain=False):
    """This rank's images, of all or of ``indices``, seen as a network wants them that was trained so; ``plain``: whole
    images, but for EfficientNet's way, which crops."""
    # Another size than that of training's batches, see ``tensor_float_32``.
    batch, view = settings.data.batch + settings.update.tf32, settings.view
    share = ranks.rank, ranks.size, threads_for(ranks), indices
    if view.augmentation == 'efficientnet':
        return ReleasedValidationBatches(dataset, batch, view.input_size, *share)
    return ValidationBatches(dataset, batch, view.input_size, 'none' if plain else view.augmentation, *share)


def matched(args, values):
    """The current graph's variables with a checkpoint's weights, or their averages; see ``match_variables``.

    Raises:
        ValueError: the checkpoint does not fit the network.
    """
    return match_variables(tf.global_variables(), values, args.load, averages=args.moving_average_decay > 0)


def open_session(ranks, pairs):
    """A session on the current graph with ``pairs`` of (variable, array) in it; see ``matched``."""
    session = tf.Session(config=session_config(ranks))
    load_into(session, pairs)
    return session


def _settings(args, dataset, values, attackers):
    """All that decides an evaluation's verdicts and what they consist of, JSON-ready.

    ``values`` (dict): the weights that are judged, name to array.
    """
    settings = {'checkpoint content': journal.digest_of_checkpoint(values),
                journal.DATA: journal.digest_of_data(dataset), journal.IMAGE_FILES: journal.digest_of_files(dataset),
                'columns': ROW}
    for number, attacker in enumerate(attackers, 1):
        for name, value in attacker.describe().items():
            settings['attack {}: {}'.format(number, name)] = value
    return dict(settings, **{name: getattr(args, name) for name in sections.deciding_verdicts()})


def _results_folder(args, attacker):
    """The folder of an evaluation's results: ``--results-dir``, or one of its own; with ``--resume-eval`` the last of
    these that holds an unfinished evaluation.

    Raises:
        ValueError: it cannot be made or written.
    """
    if args.results_dir:
        make_results_folder(args.results_dir)
        return args.results_dir
    base = os.path.join('results', results_name(
        nets.network_name(args), find_checkpoint(args.load), attacker, args.data or 'digits'))
    unfinished = [folder for folder in output_folders.numbered(base)[0]
                  if args.resume_eval and os.path.exists(os.path.join(folder, journal.FILE))]
    return unfinished[-1] if unfinished else output_folders.make_new(base)


def evaluate(args, ranks, signals, held):
    """``--eval``: judge a checkpoint on the validation set, clean and under attack, over all ranks.

    ``held`` (contextlib.ExitStack): keeps the folder of the results for this process alone.
    """
    begin = time.time()
    together(ranks, lambda: check_override(args.tf32))
    classes, values = together(ranks, lambda: (read_classes(args.load), open_checkpoint(args.load)))
    dataset = together(ranks, lambda: sources.open_images(args, 'val', classes))
    settings = resolve(args)
    attacker = together(ranks, lambda: make_evaluation_attacker(settings))
    _print_recipe(args)
    _say_idle_gpus(ranks)
    logger.info('{} images in {}'.format(len(dataset.files), dataset.name))
    if attacker:
        logger.info('{}: {norm}, epsilon {epsilon:g} pixel levels, {epsilon_of_unit_images:.4g} for images in [0, 1]; '
                    'verdict: {}'.format(attacker.name, attacker.verdict, **threat_model(attacker)))

    model = make_model(args)
    ensemble = isinstance(attacker, Ensemble)
    attackers = attacker.attackers if ensemble else [attacker] if attacker else []
    judge = judging.Judging(model, attackers, ranks, ensemble, settings.evaluation_attack.gradient,
                            settings.evaluation_attack.precision)

    def open_journal():
        folder = _results_folder(args, attacker)
        held.enter_context(output_folders.locked(folder, 'give another --results-dir'))
        return held.enter_context(contextlib.closing(journal.Journal(
            folder, _settings(args, dataset, {v.op.name: value for v, value in pairs}, attackers),
            row_ranges(1 + len(attackers), len(dataset.files), args.num_classes), args.resume_eval)))
    pairs = together(ranks, lambda: matched(args, values))
    kept = together(ranks, lambda: open_journal() if ranks.is_chief else None)
    with together(ranks, lambda: open_session(ranks, pairs)) as session:
        outcome = judge.run(session, dataset, lambda indices: validation_batches(settings, dataset, ranks, indices),
                            args.seed, kept, signals)
    read = len(outcome.verdicts[CLEAN].index)
    if not read and not outcome.signal:
        together(ranks, lambda: kept and kept.remove())
        fail("none of the {} images of '{}' could be read".format(len(dataset.files), dataset.name), ranks.rank)
    if ranks.is_chief:
        _report(args, ranks, attacker, dataset, kept, outcome, kept.seconds + time.time() - begin)
    if outcome.signal:
        together(ranks, lambda: None)  # a launcher kills those that are left when one has ended
        sys.exit(exit_code(outcome.signal))
    _refuse_unreadable(args, ranks, read, outcome.tried, 'the figures are of the others alone; when the same files can '
                                                         'be read, --resume-eval judges them too')


def _refuse_unreadable(args, ranks, read, total, what):
    """End all ranks with an exit code of its own if too many images could not be read; what was found is written."""
    if too_many_unreadable(read, total) and not args.allow_unreadable:
        together(ranks, lambda: None)
        fail('{} of {} images could not be read, more than {:g}%: {}; --allow-unreadable accepts that'.format(
            total - read, total, 100 * MAX_UNREADABLE, what), ranks.rank, UNREADABLE_EXIT_CODE)


def _report(args, ranks, attacker, dataset, kept, outcome, seconds):
    """Write and print what an evaluation has found, all of it or up to a signal."""
    folder = os.path.dirname(kept.path)
    clean = outcome.verdicts[CLEAN]
    stopped = 'stopped by {} after {} of {} images{{}}; continue with --resume-eval'.format(
        signal.Signals(outcome.signal).name, outcome.tried, len(dataset.files)) if outcome.signal else ''
    if not len(clean.index):
        logger.warning(stopped.format(''))
        return
    results = make_results(outcome.verdicts, attacker, outcome.tried, dict(vars(args), ranks=ranks.size),
                                      library_versions(), seconds, not stopped)
    results['warnings'] = doubts(results['num_images'], results['clean']['top1_correct'], dataset.classes, synsets(),
                                 args)
    results['warnings'] += not_finite([verdicts.prediction for verdicts in outcome.verdicts.values()])
    write_results(folder, results, clean, outcome.latest, dataset.files, outcome.broken_by, kept.resumed)
    if results['num_unreadable']:
        logger.warning('{} of {} images could not be read and are left out'.format(
            results['num_unreadable'], outcome.tried))
    for warning in results['warnings']:
        logger.warning(warning)
    if isinstance(attacker, Ensemble):
        for attack in results['attacks']:
            logger.info('After {name}: robust {robust_correct} of {num_images}'.format(**attack))
    if stopped:
        logger.warning(stopped.format('; results so far are in {}'.format(folder)))
        return
    if args.allow_unreadable or not results['too_many_unreadable']:
        kept.remove()
    print_results(results)
    logger.info('Results are in {}'.format(folder))


def classify_directory(args, ranks):
    """``--eval-directory``: one line ``path,class index`` for every image file of a folder."""
    together(ranks, lambda: check_override(args.tf32))
    values = together(ranks, lambda: open_checkpoint(args.load))
    files = together(ranks, lambda: list_images(args.eval_directory))
    if not files:
        fail("--eval-directory '{}': no image files".format(args.eval_directory), ranks.rank)
    model = make_model(args)
    tower = EvaluationTower(model, NoOpAttacker(), ranks)
    dataset = ImageSet(files, np.zeros(len(files), np.int32), [], args.eval_directory)
    # The releases' way for folders of ResNets: cubic, ignoring the aspect ratio.
    batches = validation_batches(resolve(args), dataset, ranks, plain=True)
    with together(ranks, lambda: open_session(ranks, matched(args, values))) as session:
        verdicts = tower.run(session, batches, [], ranks.is_chief)[CLEAN]
    lines = ['{},{}\n'.format(files[k], p) for k, p in zip(verdicts.index, verdicts.prediction)]
    if ranks.is_chief:
        write_text(args.prediction_file, ''.join(lines))
        logger.info('{} predictions are in {}; {} files could not be read'.format(
            len(lines), args.prediction_file, len(files) - len(lines)))
        for warning in not_finite([verdicts.prediction]):
            logger.warning(warning)
    _refuse_unreadable(args, ranks, len(lines), len(files), 'they have no prediction')


def train(args, ranks, signals, held):
    """Train: from fake data, from images read here, or from the machine's data server. ``held``: see ``evaluate``."""
    together(ranks, lambda: check_override(args.tf32))
    data = together(ranks, lambda: _open_training_data(args, ranks))
    args.data_seed = data.seed  # into run.json
    if args.steps_per_epoch is None:
        args.steps_per_epoch = FAKE_STEPS_PER_EPOCH if args.fake else \
            max(1, round(data.num_images / (args.batch * ranks.size)))
    validation = None if args.fake else together(
        ranks, lambda: sources.open_images(args, 'val', data.classes))
    fast = nets.agreed_precision(ranks)
    folder, start = together(ranks, lambda: _open_run(args, ranks, data.classes, fast, held))
    session_init = together(ranks, lambda: start.session_init() if ranks.is_chief else None)
    _print_recipe(args)
    _say_idle_gpus(ranks, '' if args.fake else '  beside third_party/serve-data.py with the same data and --batch')
    logger.info('{} training images, {} steps of {} x {} images an epoch'.format(
        data.num_images, args.steps_per_epoch, ranks.size, args.batch))
    settings = resolve(args)  # now that machines, data server and the run that goes on have decided their part
    run_training(
        make_training_model(settings, ranks.rank), settings, ranks, data.source(start.step),
        validation and ((lambda: validation_batches(settings, validation, ranks)), len(validation.files)),
        functools.lru_cache(None)(lambda k: make_attacker(
            dataclasses.replace(settings.evaluation_attack, num_iter=k), args.num_classes, args.seed)),
        data.classes, folder, start, session_init, signals, dict(vars(args), ranks=ranks.size))
    if data.unreadable():
        logger.warning('{} of {} training images could not be read and were left out'.format(
            len(data.unreadable()), data.num_images))


class _TrainingData(NamedTuple):
    """Where the training batches come from.

    num_images (int); classes (list of str); seed (int): of order and augmentation; source: (first step) -> InputSource;
    unreadable: () -> files that could not be read so far, as far as this process reads them.
    """
    num_images: int
    classes: List[str]
    seed: int
    source: Callable
    unreadable: Callable = tuple


def _open_training_data(args, ranks):
    if args.fake and not args.serve_address:
        stream = FakeStream(args.batch, args.input_size, args.num_classes)
        return _TrainingData(args.batch, [str(c) for c in range(args.num_classes)], args.seed,
                             lambda step: local_input(stream, step))
    classes = read_classes(args.load) if args.load and not args.ignore_checkpoint_flags else None
    if ranks.size == 1 and not args.serve_address:
        dataset = sources.open_images(args, 'train', classes)
        stream = TrainingStream(dataset, args.batch, args.input_size, args.augmentation, args.seed, _policy(args))
        return _TrainingData(len(dataset.files), dataset.classes, args.seed,
                             lambda step: local_input(stream, step), lambda: stream.unreadable)
    return _served_data(args, ranks, classes)


def _policy(args):
    return make_policy(args.augment_name, args.randaug_num_layers, args.randaug_magnitude)


def _served_data(args, ranks, classes):
    """Claim this machine's data server for this job, check that it serves what this run needs, and take from it what
    the command has left open.

    ``classes`` (list of str): of the checkpoint that training starts from; None for any.
    """
    address = args.serve_address or default_data_address(args.batch)
    job = Job(*json.loads(gather_texts(ranks, json.dumps(new_job()))[0]))
    # Its warnings as errors, which ranks beside the first one say too.
    expected = sources.expected_of_server(args, describe_policy(_policy(args)))
    lease = together(ranks, lambda: Lease(address, expected, job, args.serve_timeout, warn=logger.error))
    atexit.register(lease.close)
    served = lease.description
    try:
        here = {field: served.get(field) for field in (
            'server', 'shard', 'shared', 'num_images', 'fake', *sources.taken())}
        here['host'] = socket.gethostname()
        of_all = [json.loads(text) for text in gather_texts(ranks, json.dumps(here))]
        sources.take_served(args, served, address, of_all)
        check_servers(of_all)
        if len(served['classes']) > args.num_classes:
            raise ValueError('--num-classes {}: the data server at {} serves {} classes'.format(
                args.num_classes, address, len(served['classes'])))
        if classes and list(served['classes']) != list(classes) and not args.fake:
            raise ValueError(
                "--load '{}': its {} classes ({}, ...) are not the {} of the data server at {} ({}, ...), or in "
                'another order; with --ignore-checkpoint-flags its weights are trained on other labels'.format(
                    args.load, len(classes), classes[0], len(served['classes']), address, served['classes'][0]))
    except ValueError:
        lease.close()  # now: the program that called may live on
        raise
    batches = ServedBatches(lease, args.data_timeout, len(served['classes']) or args.num_classes)
    return _TrainingData(served['num_images'], served['classes'], served['seed'],
                         lambda step: served_input(batches, not args.no_zmq_ops))


def _open_run(args, ranks, classes, fast, held):
    """(log directory, start): found by the first rank, which owns the directory, alone, and told to the others.

    Decides ``args.attack_precision``; ``fast``: the fastest of all ranks.
    """
    told = ''
    error = None
    if ranks.is_chief:
        try:
            base = log_directory(args, ranks.size)
            last = last_run(base) if args.resume_if_any else None
            folder = last or open_log_directory(base, args.resume)
            held.enter_context(output_folders.locked(folder, 'give another --logdir'))
            resume = args.resume or last is not None
            before = None
            if resume:
                before = check_same_run(folder, dict(vars(args), ranks=ranks.size))
                check_same_classes(folder, classes)
            args.attack_precision, why = decide_precision(args.attack_precision, before, fast)
            start = find_start(args, folder, resume)
            logger.set_logger_dir(folder, action='k')
            logger.info('Attack precision: {}, {}'.format(args.attack_precision, why))
            trim_statistics(folder, start.epoch)
            told = json.dumps([folder, start, args.attack_precision])
        except (ValueError, OSError) as e:
            error = e
    told = gather_texts(ranks, told)[0]
    if error:
        raise error
    if not told:
        return None, None
    folder, start, args.attack_precision = json.loads(told)
    return folder, Start(*start)
