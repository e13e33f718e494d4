"""Training: from fake data, from images read here, or from the machine's data server."""
import dataclasses
import functools
import json
import os

from tensorpack.utils import logger

from commands import sources
from commands.judge import some_batches, validation_batches
from commands.networks import make_attacker, make_training_model
from commands.saying import print_recipe, say_idle_gpus, say_training
from commands.training_data import open_training_data
from files import output_folders
from machine import programs
from machine.gpus import check_override
from nets import ARCHITECTURES
from ranks.gather import gather_texts, together
from ranks.precision import agreed_precisions
from ranks.terminal import keep_log, row, say
from settings.resolve import resolve
from training import trackers
from training.directory import last_run, open_log_directory
from training.freezing import variables_to_freeze
from training.resume import Start, check_same_classes, check_same_run, decide_precisions, find_start, trim_statistics
from training.run import FAKE_STEPS_PER_EPOCH, run_training
from training.samples import COUNT
from weights.flags import judged_by_averages
from weights.identity import some
from weights.match import Tuning


def train(args, ranks, signals, held):
    """Train: from fake data, from images read here, or from the machine's data server. ``held``: see ``evaluate``."""
    together(ranks, lambda: (check_override(args.tf32), trackers.check(args.track)))
    data = together(ranks, lambda: open_training_data(args, ranks))
    args.data_seed = data.seed  # into run.json
    if args.steps_per_epoch is None:
        args.steps_per_epoch = FAKE_STEPS_PER_EPOCH if args.fake else \
            max(1, round(data.num_images / (args.batch * ranks.size)))
    validation = None if args.fake else together(
        ranks, lambda: sources.open_images(args, 'val', data.classes))
    untrained = together(ranks, lambda: variables_to_freeze(resolve(args)))
    fast = agreed_precisions(ranks)
    folder, start = together(ranks, lambda: _open_run(args, ranks, data.classes, fast, held))
    session_init = together(ranks, lambda: start.session_init(_tuning(args, untrained)) if ranks.is_chief else None)
    print_recipe(args)
    say_idle_gpus(ranks, '' if args.fake else '  beside {} with the same data and --batch'.format(
        programs.spelt('python third_party/serve-data.py')))
    logger.info('{} training images, {} steps of {} x {} images an epoch'.format(
        data.num_images, args.steps_per_epoch, ranks.size, args.batch))
    settings = resolve(args)  # now that machines, data server and the run that goes on have decided their part
    model = make_training_model(settings, ranks.rank, untrained)
    say_training(args, ranks, data, validation, model.attacker, folder, start)
    if untrained:
        say(row('frozen', '{} variables: {}'.format(len(untrained), some(sorted(untrained)))))
    run_training(
        model, settings, ranks, data.source(start.step),
        validation and ((lambda: validation_batches(settings, validation, ranks)), len(validation.files),
                        lambda: some_batches(settings, validation, COUNT)),
        functools.lru_cache(None)(lambda k: make_attacker(
            dataclasses.replace(settings.evaluation_attack, num_iter=k), args.num_classes, args.seed)),
        data.classes, folder, start, session_init, signals, dict(vars(args), ranks=ranks.size))
    say('Training has ended. Its {} weights, for --load:\n  {}'.format(
        *('most robust', os.path.join(folder, 'best')) if validation else ('last', folder)))
    if data.unreadable():
        logger.warning('{} of {} training images could not be read and were left out'.format(
            len(data.unreadable()), data.num_images))


def _tuning(args, untrained):
    """The ``Tuning`` of a training of some of a checkpoint's layers, or with other classes; None for another one."""
    if not args.load or not (args.new_classifier or untrained):
        return None
    return Tuning(ARCHITECTURES[args.arch].classifier if args.new_classifier else None, judged_by_averages(args.load))


def _open_run(args, ranks, classes, fast, held):
    """(log directory, start): found by the first rank, which owns the directory, alone, and told to the others.

    Decides ``args.attack_precision`` and ``args.update_precision``; ``fast``: the fastest of all ranks.
    """
    told = ''
    error = None
    if ranks.is_chief:
        try:
            last = last_run(args, ranks.size) if args.resume_if_any else None
            folder = last or open_log_directory(args, ranks.size)
            held.enter_context(output_folders.locked(folder, 'give another --logdir'))
            resume = args.resume or last is not None
            before = None
            if resume:
                before = check_same_run(folder, dict(vars(args), ranks=ranks.size))
                check_same_classes(folder, classes)
            precisions, reasons = decide_precisions(vars(args), before, fast)
            start = find_start(args, folder, resume)
            keep_log(folder)
            for (name, precision), why in zip(precisions._asdict().items(), reasons):
                logger.info('{}: {}, {}'.format(name.replace('_', ' ').capitalize(), precision, why))
            trim_statistics(folder, start.epoch)
            told = json.dumps([folder, start, precisions])
        except (ValueError, OSError) as e:
            error = e
    told = gather_texts(ranks, told)[0]
    if error:
        raise error
    if not told:
        return None, None
    folder, start, precisions = json.loads(told)
    args.attack_precision, args.update_precision = precisions
    return folder, Start(*start)
