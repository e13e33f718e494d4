"""What the modes of ``main.py`` do with the resolved flags."""
import atexit
import contextlib
import functools
import json
import logging
import os
import threading
import time
from typing import Callable, List, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.utils import logger

import checkpoints
import evaluation
import nets
import recipes
import training
from adv_model import NoOpAttacker, PGDAttacker
from efficientnet.preprocessing import ReleasedValidationBatches
from stopping import StopSignal
from third_party.heartbeats import Heartbeats
from third_party.imagenet_utils import (FakeStream, ImageSet, TrainingStream, ValidationBatches, check_servers,
                                        connect, default_data_address, describe_policy, goodbye, list_images,
                                        make_policy, open_dataset)
from third_party.utils import (end_by, fail, gather_texts, library_versions, session_config, start_ranks, threads_for,
                               together)


def make_attacker(args, num_iter, epsilon, step_size, prob_start_from_clean=0.0):
    """The attacker that resolved flags ask for: PGD, or none for 0 steps."""
    if num_iter == 0:
        return NoOpAttacker()
    return PGDAttacker(num_iter, epsilon, step_size, targeted=args.targeted, num_classes=args.num_classes,
                       prob_start_from_clean=prob_start_from_clean, seed=args.seed)


def make_model(args):
    """The network of resolved flags."""
    model = getattr(nets, args.arch + 'Model')(args)
    model.seed = args.seed
    return model


def make_training_model(args, rank):
    """The network of resolved flags with its training attacker and losses."""
    model = make_model(args)
    model.attacker = make_attacker(args, args.attack_iter, args.attack_epsilon, args.attack_step_size,
                                   args.prob_start_from_clean)
    model.attack_gradient, model.update_gradient = args.attack_gradient, args.update_gradient
    model.label_smoothing, model.weight_decay, model.rank = args.label_smoothing, args.weight_decay, rank
    model.optimizer_name, model.accumulate = args.optimizer, args.accumulate
    return model


def _print_recipe(args):
    """Log every resolved flag, the recipe's own first."""
    named = recipes.Recipe._fields
    logger.info('Recipe {}: {}'.format(args.recipe, ', '.join(
        '{}={}'.format(n, getattr(args, n)) for n in named)))
    logger.info('Flags: ' + ', '.join('{}={}'.format(n, v) for n, v in sorted(vars(args).items()) if n not in named))


def run(args):
    """Do what the flags ask for; what is not this program's fault, such as a full disk, ends it with one line."""
    try:
        with _quiet_threads():
            if args.eval or args.eval_directory:
                with _started() as ranks:
                    (evaluate if args.eval else classify_directory)(args, ranks)
            else:
                with StopSignal() as signals, _started() as ranks:
                    train(args, ranks, signals)
    except (OSError, tf.errors.OpError) as error:
        end_by(error)


@contextlib.contextmanager
def _started():
    """The ranks, with heartbeats while they are at work; only the first one speaks."""
    # tensorpack 0.11 reports a failed run with a malformed logging call, whose own traceback would hide the failure.
    logging.raiseExceptions = False
    ranks = start_ranks()
    if not ranks.is_chief:
        for name in ('tensorpack', 'third_party'):
            logging.getLogger(name).setLevel(logging.ERROR)
        logger.setLevel(logging.ERROR)
    with Heartbeats(ranks):
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


def validation_batches(args, dataset, ranks, augmentation):
    """This rank's images, seen as a network wants them that was trained with ``augmentation``."""
    share = ranks.rank, ranks.size, threads_for(ranks)
    if augmentation == 'efficientnet':
        return ReleasedValidationBatches(dataset, args.batch, args.input_size, *share)
    return ValidationBatches(dataset, args.batch, args.input_size, augmentation, *share)


def open_session(ranks, args, values):
    """A session on the current graph with the checkpoint's weights, or their averages, in it.

    Raises:
        ValueError: the checkpoint does not fit the network.
    """
    pairs = checkpoints.match(tf.global_variables(), values, args.load, averages=args.moving_average_decay > 0)
    session = tf.Session(config=session_config(ranks))
    checkpoints.load_into(session, pairs)
    return session


def evaluate(args, ranks):
    """``--eval``: judge a checkpoint on the validation set, clean and under attack, over all ranks."""
    begin = time.time()
    classes, values = together(ranks, lambda: (checkpoints.read_classes(args.load), checkpoints.read(args.load)))
    dataset = together(ranks, lambda: open_dataset(args.data, 'val', args.num_classes, classes))
    _print_recipe(args)
    logger.info('{} images in {}'.format(len(dataset.files), dataset.name))

    model = make_model(args)
    attacker = make_attacker(args, args.attack_iter, args.attack_epsilon, args.attack_step_size)
    attackers = [attacker] if attacker.num_iter else []
    tower = evaluation.EvaluationTower(model, attacker, ranks, args.attack_gradient)
    batches = validation_batches(args, dataset, ranks, args.augmentation)
    folder = args.results_dir or os.path.join('results', '{}-{}-{}'.format(
        nets.network_name(args), os.path.basename(checkpoints.find(args.load)), attacker.name))
    together(ranks, lambda: evaluation.make_results_folder(folder) if ranks.is_chief else None)
    with together(ranks, lambda: open_session(ranks, args, values)) as session:
        verdicts = tower.run(session, batches, attackers, ranks.is_chief)
    if not ranks.is_chief:
        return
    if not len(verdicts[evaluation.CLEAN].index):
        fail("none of the {} images of '{}' could be read".format(len(dataset.files), dataset.name), ranks.rank)
    attacker = attacker if attackers else None
    results = evaluation.make_results(verdicts, attacker, len(dataset.files), dict(vars(args), ranks=ranks.size),
                                      library_versions(), time.time() - begin)
    evaluation.write_results(folder, results, verdicts, attacker, dataset.files)
    evaluation.print_results(results)
    if results['num_unreadable']:
        logger.warning('{} of {} images could not be read and are left out'.format(
            results['num_unreadable'], len(dataset.files)))
    logger.info('Results are in {}'.format(folder))


def classify_directory(args, ranks):
    """``--eval-directory``: one line ``path,class index`` for every image file of a folder."""
    values = together(ranks, lambda: checkpoints.read(args.load))
    files = together(ranks, lambda: list_images(args.eval_directory))
    if not files:
        fail("--eval-directory '{}': no image files".format(args.eval_directory), ranks.rank)
    model = make_model(args)
    tower = evaluation.EvaluationTower(model, NoOpAttacker(), ranks)
    dataset = ImageSet(files, np.zeros(len(files), np.int32), [], args.eval_directory)
    # The releases' way for folders of ResNets: cubic, ignoring the aspect ratio.
    batches = validation_batches(args, dataset, ranks,
                                  'efficientnet' if args.augmentation == 'efficientnet' else 'none')
    with together(ranks, lambda: open_session(ranks, args, values)) as session:
        verdicts = tower.run(session, batches, [], ranks.is_chief)[evaluation.CLEAN]
    lines = ['{},{}\n'.format(files[k], p) for k, p in zip(verdicts.index, verdicts.prediction)]
    if ranks.is_chief:
        checkpoints.write_text(args.prediction_file, ''.join(lines))
        logger.info('{} predictions are in {}; {} files could not be read'.format(
            len(lines), args.prediction_file, len(files) - len(lines)))


def train(args, ranks, signals):
    """Train: from fake data, from images read here, or from the machine's data server."""
    data = together(ranks, lambda: _open_training_data(args, ranks))
    if args.steps_per_epoch is None:
        args.steps_per_epoch = training.FAKE_STEPS_PER_EPOCH if args.fake else \
            max(1, round(data.num_images / (args.batch * ranks.size)))
    validation = None if args.fake else together(
        ranks, lambda: open_dataset(args.data, 'val', args.num_classes, data.classes))
    folder, start = together(ranks, lambda: _open_run(args, ranks, data.classes))
    session_init = together(ranks, lambda: start.session_init() if ranks.is_chief else None)
    _print_recipe(args)
    logger.info('{} training images, {} steps of {} x {} images an epoch'.format(
        data.num_images, args.steps_per_epoch, ranks.size, args.batch))
    training.train(
        make_training_model(args, ranks.rank), args, ranks, data.source(start.step),
        validation and ((lambda: validation_batches(args, validation, ranks, args.augmentation)),
                        len(validation.files)),
        functools.lru_cache(None)(
            lambda k: make_attacker(args, k, args.eval_attack_epsilon, args.eval_attack_step_size)),
        data.classes, folder, start, session_init, signals)
    if data.unreadable():
        logger.warning('{} of {} training images could not be read and were left out'.format(
            len(data.unreadable()), data.num_images))


class _TrainingData(NamedTuple):
    """Where the training batches come from.

    num_images (int); classes (list of str); source: (first step) -> InputSource; unreadable: () -> files that could not
    be read so far, as far as this process reads them.
    """
    num_images: int
    classes: List[str]
    source: Callable
    unreadable: Callable = tuple


def _open_training_data(args, ranks):
    if args.fake and not args.serve_address:
        stream = FakeStream(args.batch, args.input_size, args.num_classes)
        return _TrainingData(args.batch, [str(c) for c in range(args.num_classes)],
                             lambda step: training.local_input(stream, step))
    if ranks.size == 1 and not args.serve_address:
        dataset = open_dataset(args.data, 'train', args.num_classes)
        stream = TrainingStream(dataset, args.batch, args.input_size, args.augmentation, args.seed, _policy(args))
        return _TrainingData(len(dataset.files), dataset.classes, lambda step: training.local_input(stream, step),
                             lambda: stream.unreadable)
    return _served_data(args, ranks)


def _policy(args):
    return make_policy(args.augment_name, args.randaug_num_layers, args.randaug_magnitude)


def _served_data(args, ranks):
    """Claim this machine's data server for this job, and check that it serves what this run needs."""
    address = args.serve_address or default_data_address(args.batch)
    job = gather_texts(ranks, training.new_job_name())[0]
    expected = {'batch': args.batch, 'input_size': args.input_size, 'dtype': 'uint8',
                'format': 'tensorpack' if args.no_zmq_ops else 'zmq_ops'}
    if args.fake:
        expected['dataset'] = 'fake'
    else:
        expected['dataset'] = os.path.realpath(args.data) if args.data else 'digits'
        expected.update(augmentation=args.augmentation, **describe_policy(_policy(args)))
    served = connect(address, expected, job, args.serve_timeout)
    atexit.register(goodbye, address, job)
    if len(served['classes']) > args.num_classes:
        raise ValueError('--num-classes {}: the data server at {} serves {} classes'.format(
            args.num_classes, address, len(served['classes'])))
    shared = gather_texts(ranks, json.dumps({field: served[field] for field in ('server', 'shard', 'seed', 'fake')}))
    warning = check_servers([json.loads(text) for text in shared])
    if warning:
        logger.warning(warning)
    return _TrainingData(served['num_images'], served['classes'],
                         lambda step: training.served_input(address, not args.no_zmq_ops, args.data_timeout))


def _open_run(args, ranks, classes):
    """(log directory, start): found by the first rank, which owns the directory, and told to the others."""
    told = ''
    error = None
    if ranks.is_chief:
        try:
            base = training.log_directory(args, ranks.size)
            last = training.last_run(base) if args.resume_if_any else None
            folder = last or training.open_log_directory(base, args.resume)
            resume = args.resume or last is not None
            if resume:
                training.check_same_run(folder, dict(vars(args), ranks=ranks.size))
                training.check_same_classes(folder, classes)
            start = training.find_start(args, folder, resume)
            logger.set_logger_dir(folder, action='k')
            training.trim_statistics(folder, start.epoch)
            told = json.dumps([folder, start])
        except (ValueError, OSError) as e:
            error = e
    told = gather_texts(ranks, told)[0]
    if error:
        raise error
    if not told:
        return None, None
    folder, start = json.loads(told)
    return folder, training.Start(*start)
