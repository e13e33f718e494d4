"""A training run: input, trainer, schedule, evaluation, checkpoints, logs."""
import json
import os

import tensorflow.compat.v1 as tf
from tensorpack.callbacks import (
    EstimatedTimeLeft,
    MergeAllSummaries,
    MovingAverageSummary,
    RunUpdateOps,
    ScalarPrinter,
    TFEventWriter,
)
from tensorpack.input_source import QueueInput

from data.synsets import in_words
from evaluation.during_training import EvaluateRobustness, monitored_name
from evaluation.verdicts import CLEAN
from files.atomic import write_text
from machine import programs
from machine.gpus import tensor_float_32
from machine.versions import library_versions, source_version
from ranks.sessions import session_config
from ranks.terminal import row, say
from settings import recipes
from settings.resolve import flat
from settings.run import TENSORBOARD
from training import schedules
from training.about import about
from training.averaging import AverageWeights
from training.callbacks import (
    EpochBar,
    FeedTrainingStep,
    GiveBackMemory,
    LearningRate,
    RestOfEpoch,
    Statistics,
    TrainingAccuracy,
    WatchLossScale,
)
from training.directory import RUN_FILE
from training.epoch_line import EpochLine
from training.epochs import FollowEpochs
from training.hparams import NoteFlags
from training.inputs import staged
from training.optimizers import OPTIMIZERS
from training.page import RunPage
from training.samples import DrawSamples
from training.stopping import StopTogether
from training.trackers import Trackers
from training.trainer import AgreedSessionInit, SessionCreator, make_trainer
from training.watching import WatchOverfitting
from weights import card
from weights.classes import write_classes
from weights.save import CheckpointSaver

FAKE_STEPS_PER_EPOCH = 50  # FD release


def run_training(model, settings, ranks, source, validation, make_attacker, classes, folder, start, session_init,
                 signals, flags):
    """Train ``model`` and return when the last epoch is done.

    Args:
        model (AdvImageNetModel). settings (Settings): with ``steps_per_epoch`` set. ranks (Ranks).
        source (InputSource): batches of [image, label].
        validation: (() -> ValidationBatches of this rank, number of images, () -> some of them for one rank), or None
            for a run without evaluation.
        make_attacker: (num_iter) -> attacker for the evaluations.
        classes (list of str): class names in label order.
        folder (str): log directory, used by the first rank.
        start (Start): where to begin. session_init (SessionInit): what the first rank loads.
        signals (StopSignal): what may end the run before.
        flags (dict): name to value, for the record.
    Raises:
        OSError, tf.errors.OpError: the run cannot go on, as when a disk is full or another rank has ended.
        OSError: ``source`` has given up waiting, or got what is no batch.
    """
    run, schedule = settings.run, settings.schedule
    watching = make_attacker(settings.evaluation_attack.num_iter) if validation else None
    statistics = Statistics() if ranks.is_chief else None
    overfitting = WatchOverfitting(ranks, folder, settings.evaluation.stop_when_overfitting, model.attacker, watching,
                                   run.moving_average_decay > 0, statistics)
    saver, monitors, listeners = None, [], []
    if ranks.is_chief:
        saver = _saver(settings, watching, classes, folder, statistics, overfitting.has_stayed)
        monitors = [TFEventWriter()] * (TENSORBOARD in run.track) + [statistics, ScalarPrinter()]
    accuracy = TrainingAccuracy(ranks, settings.data.batch, folder)
    stop = StopTogether(signals, ranks, folder, saver, accuracy)
    averages = AverageWeights(run.moving_average_decay, run.moving_average_ramp) if run.moving_average_decay else None
    callbacks = [RestOfEpoch(schedule.steps_per_epoch, start), _learning_rate(settings, ranks), FeedTrainingStep(),
                 GiveBackMemory(), accuracy, *[averages] * bool(averages)]
    if settings.update.precision == 'float16':
        callbacks.append(WatchLossScale(ranks, folder))
    evaluation = None
    if validation:
        make_batches, num_images, make_samples = validation
        evaluation = EvaluateRobustness(
            model, [watching], ranks, lambda: stop.watched(make_batches()), num_images,
            lambda epoch: _attackers_after(settings, make_attacker, epoch), averages)
        callbacks.append(evaluation)
    callbacks += [MovingAverageSummary(), MergeAllSummaries(), RunUpdateOps()]
    if validation and model.attacker.parts:
        callbacks.append(overfitting)
    if ranks.is_chief:
        samples = DrawSamples(evaluation, watching, make_samples, in_words(classes)) if evaluation else None
        page = RunPage(about(settings, flags, model.attacker, watching), folder, samples, overfitting.ends)
        listeners += [EpochLine(schedule.epochs, model.attacker, watching), overfitting, page]
        callbacks += [EpochBar(accuracy, model.attacker), EstimatedTimeLeft(), saver,
                      *[samples] * bool(samples), page, FollowEpochs(folder, listeners),
                      NoteFlags(flags, folder, schedule)]
        _write_record(folder, flags, classes)
    callbacks.append(stop)
    with Trackers([name for name in run.track if name != TENSORBOARD] if ranks.is_chief else (), folder, flags,
                  settings.network.num_classes) as trackers:
        listeners.append(trackers)
        _train(model, settings, ranks, source, start, session_init, callbacks, monitors, overfitting.ends)


def _train(model, settings, ranks, source, start, session_init, callbacks, monitors, ends):
    run, schedule, compression = settings.run, settings.schedule, settings.update.gradient_compression

    tf.set_random_seed(run.seed)
    trainer = make_trainer(ranks, compression)
    trainer.setup_graph(model.get_input_signature(), staged(source), model.build_graph, model.get_optimizer)
    say(row('parameters', '{:,}'.format(sum(v.shape.num_elements() for v in tf.trainable_variables()))))
    try:
        with tensor_float_32(settings.update.tf32):
            trainer.train(callbacks, monitors, SessionCreator(session_config(ranks)),
                          AgreedSessionInit(ranks, session_init), schedule.steps_per_epoch, start.epoch,
                          schedule.epochs)
    except tf.errors.DeadlineExceededError:  # nothing but the pull has a deadline
        raise source.served.silence() from None
    if isinstance(source, QueueInput) and source.ds.failure:
        raise source.ds.failure
    # For tensorpack, data that end are a good end.
    if trainer.global_step < schedule.epochs * schedule.steps_per_epoch and not ends():
        raise OSError('the training data ended after step {}'.format(trainer.global_step))


def _write_record(folder, flags, classes):
    write_classes(folder, classes)
    write_text(os.path.join(folder, RUN_FILE), json.dumps(dict(
        flags, command=programs.command(), versions=library_versions(), source=source_version()), indent=2) + '\n')


def _learning_rate(settings, ranks):
    schedule, warmup_start = settings.schedule, OPTIMIZERS[settings.update.optimizer].warmup_start
    return LearningRate(lambda step: schedules.learning_rate(
        step, schedule.steps_per_epoch, settings.data.batch * ranks.size, schedule, warmup_start))


def _saver(settings, watching, classes, folder, statistics, is_judged):
    run = settings.run
    monitored = monitored_name(watching or CLEAN, run.moving_average_decay > 0) + '-top1-error'
    return CheckpointSaver(folder, run.keep_checkpoints, monitored, statistics, card.make(
        flat(settings.network, settings.view, run), classes), is_judged)


def _attackers_after(settings, make_attacker, epoch):
    last = settings.schedule.epochs
    if epoch % settings.evaluation.eval_every and epoch != last:
        return []
    also = recipes.RECIPES[settings.run.recipe].judged_also
    steps = recipes.evaluation_steps(also, settings.evaluation_attack.num_iter, epoch, last)
    attackers = [make_attacker(k) for k in sorted({*steps, *settings.evaluation.more_steps})]
    return list({attacker.name: attacker for attacker in attackers}.values())  # one, if its steps are not to be chosen
