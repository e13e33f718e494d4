"""A training run: input, trainer, schedule, evaluation, checkpoints, logs."""
import json
import math
import os
import sys
from typing import NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf
import zmq
from tensorpack.callbacks import (Callback, EstimatedTimeLeft, HyperParamSetter, JSONWriter, MergeAllSummaries,
                                  MovingAverageSummary, ProgressBar, RunUpdateOps, ScalarPrinter, TFEventWriter)
from tensorpack.dataflow import DataFlow, DataFlowTerminated
from tensorpack.input_source import QueueInput, StagingInput, ZMQInput
from tensorpack.tfutils.sesscreate import NewSessionCreator
from tensorpack.tfutils.sessinit import JustCurrentSession, SessionInit
from tensorpack.train import HorovodTrainer, SimpleTrainer
from tensorpack.utils import logger

import checkpoints
import output_folders
import schedules
from adv_model import PRECISIONS, TRAINING_STEP
from averaging import AverageWeights
from evaluation import EvaluateRobustness, monitored_name
from nets import network_name
from settings import recipes, sections
from settings.resolve import flat
from stopping import StopTogether
from third_party.gpus import tensor_float_32
from third_party.imagedata.handshake import USER
from third_party.imagenet_utils import Lease, iterate
from third_party.typed import anything, list_of, record, whole
from third_party.utils import library_versions, session_config, source_version, together
from third_party.zmq_ops import ZMQPullSocket, load_arrays
from weights import card

FAKE_STEPS_PER_EPOCH = 50  # FD release
# FD release: receiving high-water marks, in batches, of the TensorFlow op and of the Python socket.
ZMQ_OP_HWM = 30
ZMQ_PYTHON_HWM = 150
QUEUE_BATCHES = 8  # prepared batches between the reading thread and the graph

RUN_FILE = 'run.json'
_STATISTICS = list_of(record({'epoch_num': whole(0, 2 ** 62)}, others=anything, maybe=['epoch_num']), 10 ** 7)


class DataServerSilent(OSError):
    """The data server has sent nothing for --data-timeout seconds; ``lost``: see ``Lease``."""

    def __init__(self, address, seconds, lost=None):
        super().__init__("no batch from '{}' for {:g} s; {}".format(
            address, seconds, 'the data server says: ' + lost if lost else 'is its data server running?'))


class FixedHorovodTrainer(HorovodTrainer):
    """tensorpack 0.11's trainer without its call of `tf.global_variables`, which TensorFlow 2 no longer has.

    Args:
        compression (str): of the gradients that ranks exchange, 'none' or 'fp16'.
    """

    def __init__(self, compression):
        import horovod.tensorflow as hvd
        super().__init__(compression=getattr(hvd.Compression, compression))

    def initialize(self, session_creator, session_init):
        self._num_global_variables = len(tf.global_variables())
        self._broadcast_op = self.hvd.broadcast_global_variables(0)
        super(HorovodTrainer, self).initialize(session_creator, session_init)
        self.sess.run(self._broadcast_op)


class AgreedSessionInit(SessionInit):
    """The first rank loads weights; if they do not fit, all ranks end with its one line."""

    def __init__(self, ranks, first):
        self.ranks, self.mine = ranks, first if ranks.is_chief else JustCurrentSession()

    def _setup_graph(self):
        together(self.ranks, self.mine._setup_graph)

    def _run_init(self, sess):
        self.mine._run_init(sess)


class StreamDataFlow(DataFlow):
    """Batches of a training stream from batch ``start`` on, in order, read by threads of this process."""
    failure = None  # see ServedDataFlow

    def __init__(self, stream, start=0):
        self.stream, self.start = stream, start

    def __iter__(self):
        for image, label in iterate(self.stream, start=self.start):
            yield [image, label]


class LearningRate(HyperParamSetter):
    """Sets `learning_rate` before each step from the global step alone, so that a resumed run goes on as it was."""
    _chief_only = False

    def __init__(self, rate_at):
        super().__init__('learning_rate')
        self.rate_at = rate_at

    def _get_value_to_set(self):
        return self.rate_at(self.global_step)

    def _trigger(self):
        """Nothing at the end of an epoch: the last step has set the next one's rate."""

    def _trigger_step(self):
        self._set_param()


class FeedTrainingStep(Callback):
    """Tells the training attacker the number of the step that starts."""
    _chief_only = False

    def _setup_graph(self):
        self._placeholder = self.get_tensors_maybe_in_tower([TRAINING_STEP + ':0'])[0]

    def _before_run(self, _):
        return tf.train.SessionRunArgs([], feed_dict={self._placeholder: self.global_step})


class Statistics(JSONWriter):
    """stats.json, written whole or not at all; tensorpack's own would log a traceback and go on."""

    def _trigger_epoch(self):
        known = self._stats and self._stats[-1]['epoch_num'] == self.epoch_num
        if not self._stat_now and not known:
            # All steps of this epoch were before the run was resumed. Without an entry the epoch would not be over.
            self._stat_now['epoch_num'] = self.epoch_num
        super()._trigger_epoch()

    def _write_stat(self):
        # JSON has no NaN and no infinity.
        checkpoints.write_text(self._fname, json.dumps([
            {name: None if isinstance(value, float) and not math.isfinite(value) else value
             for name, value in entry.items()} for entry in self._stats]))


class RestOfEpoch(Callback):
    """Makes the first epoch of a run that is continued in mid-epoch the rest of that epoch, possibly without a step."""
    _chief_only = False

    def __init__(self, steps_per_epoch, start):
        self.steps_per_epoch = steps_per_epoch
        self.done = start.step - (start.epoch - 1) * steps_per_epoch

    def _before_epoch(self):
        self.trainer.loop.steps_per_epoch = self.steps_per_epoch - self.done
        self.done = 0


class ServedBatches(NamedTuple):
    """What the batches of a data server must be.

    lease (Lease): this process's claim on the server. timeout (float): seconds without a batch after which the run
    ends, 0 for no limit. num_classes (int): labels are below.
    """
    lease: Lease
    timeout: float
    num_classes: int

    @property
    def shape(self):
        """Shape of the images, as tuple of int."""
        served = self.lease.description
        return served['batch'], served['input_size'], served['input_size'], 3

    @property
    def wrong(self):
        """What to say of a batch that is something else."""
        return 'the data server at {} sent what is no batch of {} images of {} x {} x {} with labels below {}'.format(
            self.lease.address, *self.shape, self.num_classes)

    def silence(self):
        """The error that ends the run after ``timeout`` seconds without a batch."""
        return DataServerSilent(self.lease.address, self.timeout, self.lease.lost)


class ServedDataFlow(DataFlow):
    """Batches of a data server, received and read in Python (``--no-zmq-ops``).

    Not tensorpack's RemoteDataZMQ: that one unpickles what it receives, and its thread hangs when the process ends.

    Args:
        served (ServedBatches).
    Attributes:
        failure (OSError): why the flow has ended, or None. tensorpack would print a traceback for an exception in its
            reading thread.
    """
    failure = None

    def __init__(self, served):
        self.served = served

    def __iter__(self):
        with zmq.Context() as context, self.served.lease.receiver(context, ZMQ_PYTHON_HWM) as receiver:
            while not self.failure:
                try:
                    if receiver.poll(math.ceil(1000 * self.served.timeout) or None):
                        yield self._read(receiver.recv_multipart(copy=False))
                    else:
                        self.failure = self.served.silence()
                except ValueError as error:
                    self.failure = OSError('{}: {}'.format(self.served.wrong, error))
        raise DataFlowTerminated

    def _read(self, frames):
        if len(frames) != 1:
            raise ValueError('a message of {} frames'.format(len(frames)))
        image, label = load_arrays(frames[0].buffer, [np.uint8, np.int32])
        if image.shape != self.served.shape or label.shape != self.served.shape[:1]:
            raise ValueError('images {} with labels {}'.format(list(image.shape), list(label.shape)))
        if label.min() < 0 or label.max() >= self.served.num_classes:
            raise ValueError('labels from {} to {}'.format(label.min(), label.max()))
        return [image, label]


class ServedInput(ZMQInput):
    """Batches of a data server, received by the op.

    Args:
        served (ServedBatches).
    """

    def __init__(self, served):
        super().__init__(served.lease.address, ZMQ_OP_HWM, bind=False)
        self.served = served

    def _setup(self, signature):
        super(ZMQInput, self)._setup(signature)
        lease = self.served.lease
        self._zmq_pull_socket = ZMQPullSocket(lease.address, [spec.dtype for spec in signature], hwm=ZMQ_OP_HWM,
                                              bind=False, timeout=self.served.timeout, login=(USER, lease.job.key))

    def _get_input_tensors(self):
        with tf.device('/cpu:0'):
            image, label = self._zmq_pull_socket.pull()
            fits = tf.logical_and(_has_shape(image, self.served.shape), _has_shape(label, self.served.shape[:1]))
            fits = tf.logical_and(fits, tf.reduce_all((label >= 0) & (label < self.served.num_classes)))
            with tf.control_dependencies([tf.Assert(fits, [self.served.wrong, tf.shape(image), tf.shape(label)])]):
                batch = [tf.identity(image), tf.identity(label)]
        for tensor, spec in zip(batch, self._spec):
            tensor.set_shape(spec.shape)
        return batch


def _has_shape(tensor, shape):
    same_rank = tf.equal(tf.rank(tensor), len(shape))
    return tf.cond(same_rank, lambda: tf.reduce_all(tf.equal(tf.shape(tensor), shape)), lambda: tf.constant(False))


def local_input(stream, start):
    """Input from threads of this process."""
    return QueueInput(StreamDataFlow(stream, start), tf.FIFOQueue(QUEUE_BATCHES, [tf.uint8, tf.int32]))


def served_input(served, zmq_ops):
    """Input from a data server (ServedBatches), by the TensorFlow op or in Python."""
    return ServedInput(served) if zmq_ops else QueueInput(ServedDataFlow(served))


def make_trainer(ranks, compression):
    """The trainer of these ranks; ``compression`` as of ``FixedHorovodTrainer``."""
    return FixedHorovodTrainer(compression) if ranks.size > 1 else SimpleTrainer()


def staged(source):
    """Copy the next batch to the GPU while a step runs; on a CPU there is nothing to hide."""
    return StagingInput(source) if tf.config.list_physical_devices('GPU') else source


def log_directory(args, size):
    """Name of a training run's directory, as the releases build it; a --logdir with a slash is taken as it is."""
    if args.logdir and os.sep in args.logdir:
        return args.logdir.rstrip(os.sep)
    name = 'train_log/PGD-{}-Batch{}-{}GPUs-iter{}-epsilon{}-step{}'.format(
        network_name(args), args.batch, size, args.attack_iter, args.attack_epsilon, args.attack_step_size)
    return name + ('-' + args.logdir if args.logdir else '')


def open_log_directory(base, resume):
    """The directory to write to: a new one, or with ``resume`` that of the last run.

    Raises:
        ValueError: nothing to resume. OSError: it cannot be made.
    """
    if not resume:
        return output_folders.make_new(base)
    found, _ = output_folders.numbered(base)
    if not found:
        raise ValueError("--resume: there is no run '{}'; without --resume a new one starts".format(base))
    return found[-1]


def last_run(base):
    """Directory of the last run named ``base`` that got as far as writing its flags; None if there is none."""
    runs = [folder for folder in output_folders.numbered(base)[0] if os.path.isfile(os.path.join(folder, RUN_FILE))]
    return runs[-1] if runs else None


def fixing_a_run():
    """Names of what a resumed run must share with the run it continues: flags, and the number of ranks."""
    return sections.fixing_a_run() + ('ranks',)


def check_same_run(folder, run):
    """Refuse to resume a run with other flags than it was started with; ``run`` maps flags to values.

    Returns:
        dict: the flags that it was started with. Of a precision of None any is right: machines decide it.
    Raises:
        ValueError: names the flag and both values, or that the directory holds no run.
    """
    path = os.path.join(folder, RUN_FILE)
    if not os.path.isfile(path):
        raise ValueError("--resume: '{}' holds no {}; it is not a run's directory".format(folder, RUN_FILE))
    before = checkpoints.read_json(path, record({}, others=anything))
    for name in fixing_a_run():
        if (name, run[name]) == ('attack_precision', None):
            continue
        if before.get(name) != json.loads(json.dumps(run[name])):
            raise ValueError("--resume: '{}' was started with {} {}, now it is {}".format(
                folder, name, before.get(name), run[name]))
    return before


def decide_precision(typed, recorded, fast):
    """What the network computes in under the training attack.

    A run that goes on elsewhere keeps its own, so that it may be queued again on machines of another kind.

    Args:
        typed: of --attack-precision, or None. recorded (dict): flags of the run that goes on, or None.
        fast (str): of ``nets.agreed_precision``.
    Returns:
        precision and why, in words.
    Raises:
        ValueError: the run that goes on has recorded none that there is.
    """
    if typed:
        return typed, 'as typed'
    if recorded is None:
        return fast, 'the fastest that all ranks have'
    precision = recorded.get('attack_precision')
    if precision not in PRECISIONS:
        raise ValueError('--resume: the run has the attack_precision {}, which is none of {}'.format(
            precision, ', '.join(PRECISIONS)))
    return precision, 'as the run began; the fastest that all ranks have is {}'.format(fast)


def check_same_classes(folder, classes):
    """Refuse to resume a run on data with other classes, or in another order, than it was started with.

    Raises:
        ValueError: they differ.
    """
    before = checkpoints.classes_in(folder)
    if before is not None and before != list(classes):
        raise ValueError("--resume: '{}' was started on {} classes ({}, ...), the data now has {} ({}, ...)".format(
            folder, len(before), before[0], len(classes), classes[0]))


def _statistics(folder):
    path = os.path.join(folder, JSONWriter.FILENAME)
    if not os.path.isfile(path):
        return []
    return checkpoints.read_json(path, _STATISTICS, '; move it away to go on without the statistics so far')


def trim_statistics(folder, next_epoch):
    """Forget statistics of epochs that will run again, so that stats.json goes on without a gap or a double."""
    before = _statistics(folder)
    if before:
        checkpoints.write_text(os.path.join(folder, JSONWriter.FILENAME), json.dumps(
            [entry for entry in before if entry.get('epoch_num', 0) < next_epoch]))


def train(model, settings, ranks, source, validation, make_attacker, classes, folder, start, session_init, signals,
          flags):
    """Train ``model`` and return when the last epoch is done.

    Args:
        model (AdvImageNetModel). settings (Settings): with ``steps_per_epoch`` set. ranks (Ranks).
        source (InputSource): batches of [image, label].
        validation: (() -> ValidationBatches of this rank, number of images), or None for a run without evaluation.
        make_attacker: (num_iter) -> PGDAttacker for the evaluations.
        classes (list of str): class names in label order.
        folder (str): log directory, used by the first rank.
        start (Start): where to begin. session_init (SessionInit): what the first rank loads.
        signals (StopSignal): what may end the run before.
        flags (dict): name to value, for the record.
    Raises:
        OSError, tf.errors.OpError: the run cannot go on, as when a disk is full or another rank has ended.
        OSError: ``source`` has given up waiting, or got what is no batch.
    """
    run, schedule, compression = settings.run, settings.schedule, settings.update.gradient_compression
    judged_steps = settings.evaluation_attack.num_iter
    saver = None
    monitors = []
    if ranks.is_chief:
        statistics = Statistics()
        saver = checkpoints.CheckpointSaver(folder, run.keep_checkpoints, monitored_name(
            judged_steps, run.moving_average_decay > 0) + '-top1-error', statistics, card.make(
                flat(settings.network, settings.view, run), classes))
        monitors = [TFEventWriter(), statistics, ScalarPrinter()]
    stop = StopTogether(signals, ranks, folder, saver)
    rated = flat(settings.update, schedule)
    callbacks = [RestOfEpoch(schedule.steps_per_epoch, start), LearningRate(lambda step: schedules.learning_rate(
        step, schedule.steps_per_epoch, settings.data.batch * ranks.size, rated)), FeedTrainingStep()]
    averages = AverageWeights(run.moving_average_decay) if run.moving_average_decay else None
    if averages:
        callbacks.append(averages)
    if validation:
        make_batches, num_images = validation
        callbacks.append(EvaluateRobustness(
            model, make_attacker(judged_steps), ranks, lambda: stop.watched(make_batches()), num_images,
            lambda epoch: _attackers_after(settings, make_attacker, epoch), averages))
    callbacks += [MovingAverageSummary(), MergeAllSummaries(), RunUpdateOps()]
    if ranks.is_chief:
        callbacks += [ProgressBar(), EstimatedTimeLeft(), saver]
        checkpoints.write_classes(folder, classes)
        checkpoints.write_text(os.path.join(folder, RUN_FILE),
                               json.dumps(dict(flags, command=sys.argv, versions=library_versions(),
                                               source=source_version()), indent=2) + '\n')
    callbacks.append(stop)

    tf.set_random_seed(run.seed)
    trainer = make_trainer(ranks, compression)
    trainer.setup_graph(model.get_input_signature(), staged(source), model.build_graph, model.get_optimizer)
    try:
        with tensor_float_32(settings.update.tf32):
            trainer.train(callbacks, monitors, NewSessionCreator(config=session_config(ranks)),
                          AgreedSessionInit(ranks, session_init), schedule.steps_per_epoch, start.epoch,
                          schedule.epochs)
    except tf.errors.DeadlineExceededError:  # nothing but the pull has a deadline
        raise source.served.silence() from None
    if isinstance(source, QueueInput) and source.ds.failure:
        raise source.ds.failure
    if trainer.global_step < schedule.epochs * schedule.steps_per_epoch:  # for tensorpack, data that end are a good end
        raise OSError('the training data ended after step {}'.format(trainer.global_step))


def _attackers_after(settings, make_attacker, epoch):
    last = settings.schedule.epochs
    if epoch % settings.evaluation.eval_every and epoch != last:
        return []
    steps = recipes.evaluation_steps(settings.run.recipe, settings.evaluation_attack.num_iter, epoch, last)
    return [make_attacker(k) for k in sorted({*steps, *settings.evaluation.more_steps})]


class Start(NamedTuple):
    """Where a run begins; the first rank finds out and tells the others.

    epoch: first epoch, from 1. step: global step to begin at, in that epoch or, if only its evaluation is left, at its
    end. load: checkpoint to start from, or None.
    everything: restore momentum, rate and step counter too, as a resumed run must.
    """
    epoch: int
    step: int
    load: Optional[str]
    everything: bool

    def session_init(self):
        """What to load into the session.

        Raises:
            ValueError: the checkpoint cannot be read.
        """
        if not self.load:
            return JustCurrentSession()
        return checkpoints.LoadWeights(self.load, checkpoints.stored(self.load), self.everything,
                                       global_step=self.step if self.step and not self.everything else None)


def find_start(args, folder, resume):
    """Start of a new run, or with ``resume`` behind the last whole checkpoint in ``folder``.

    Raises:
        ValueError: there are checkpoints to resume from, and all are damaged.
    """
    step = checkpoints.newest_whole(folder) if resume else None
    if step is None:
        if resume:
            logger.warning("--resume: '{}' has no checkpoint yet, so the run starts at its beginning".format(folder))
        return Start(args.starting_epoch, (args.starting_epoch - 1) * args.steps_per_epoch, args.load, False)
    epochs, more = divmod(step, args.steps_per_epoch)
    # An epoch is over when it is in the statistics; else the run was stopped before its evaluation, or in it.
    over = more == 0 and epochs in (entry.get('epoch_num') for entry in _statistics(folder))
    return Start(epochs + bool(more or over), step, checkpoints.prefix_of(folder, step), True)
