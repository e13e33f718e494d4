"""Where the batches of a training come from: threads of this process, or a data server."""
import math
import time
from typing import Callable, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf
import zmq
from tensorpack.dataflow import DataFlow, DataFlowTerminated
from tensorpack.input_source import QueueInput, StagingInput, ZMQInput

from data.handshake import USER
from data.lease import Lease
from data.stream import iterate
from ranks.terminal import warn_anywhere
from training.silence import LOOK, Silence, WatchPulls
from zmq_ops import ZMQPullSocket, load_arrays

# FD release: receiving high-water marks, in batches, of the TensorFlow op and of the Python socket.
ZMQ_OP_HWM = 30
ZMQ_PYTHON_HWM = 150
QUEUE_BATCHES = 8  # prepared batches between the reading thread and the graph


class DataServerSilent(OSError):
    """The data server has sent nothing for --data-timeout seconds; ``lost``: see ``Lease``."""

    def __init__(self, address, seconds, lost=None):
        super().__init__("no batch from '{}' for {:g} s; {}".format(
            address, seconds, 'the data server says: ' + lost if lost else 'is its data server running?'))


class StreamDataFlow(DataFlow):
    """Batches of a training stream from batch ``start`` on, in order, read by threads of this process."""
    failure = None  # see ServedDataFlow

    def __init__(self, stream, start=0):
        self.stream, self.start = stream, start

    def __iter__(self):
        for image, label in iterate(self.stream, start=self.start):
            yield [image, label]


class ServedBatches(NamedTuple):
    """What the batches of a data server must be.

    lease (Lease): this process's claim on the server. timeout (float): seconds without a batch after which the run
    ends, 0 for no limit. num_classes (int): labels are below. tell: (str) -> None, told while the server is silent.
    """
    lease: Lease
    timeout: float
    num_classes: int
    tell: Callable = warn_anywhere

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
            silence = Silence(self.served.timeout, self.served.tell)
            while not self.failure:
                try:
                    if self._wait(receiver, silence):
                        yield self._read(receiver.recv_multipart(copy=False))
                    else:
                        self.failure = self.served.silence()
                except ValueError as error:
                    self.failure = OSError('{}: {}'.format(self.served.wrong, error))
        raise DataFlowTerminated

    def _wait(self, receiver, silence):
        """Whether a message has come before the timeout."""
        begin, timeout = time.monotonic(), self.served.timeout or math.inf
        while True:
            waited = time.monotonic() - begin
            if receiver.poll(math.ceil(1000 * min(LOOK, max(0.0, timeout - waited)))):
                silence.ended(time.monotonic() - begin)
                return True
            if waited >= timeout:
                return False
            silence.waited(time.monotonic() - begin)

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
        self._watch = WatchPulls(Silence(served.timeout, served.tell))

    def _get_callbacks(self):
        return super()._get_callbacks() + [self._watch]

    def _setup(self, signature):
        super(ZMQInput, self)._setup(signature)
        lease = self.served.lease
        self._zmq_pull_socket = ZMQPullSocket(lease.address, [spec.dtype for spec in signature], hwm=ZMQ_OP_HWM,
                                              bind=False, timeout=self.served.timeout, login=(USER, lease.job.key))

    def _get_input_tensors(self):
        with tf.device('/cpu:0'):
            with tf.control_dependencies([tf.numpy_function(self._watch.begin, [], [])]):
                image, label = self._zmq_pull_socket.pull()
            fits = tf.logical_and(_has_shape(image, self.served.shape), _has_shape(label, self.served.shape[:1]))
            fits = tf.logical_and(fits, tf.reduce_all((label >= 0) & (label < self.served.num_classes)))
            with tf.control_dependencies([image]):
                came = tf.numpy_function(self._watch.end, [], [])
            checked = tf.Assert(fits, [self.served.wrong, tf.shape(image), tf.shape(label)])
            with tf.control_dependencies([came, checked]):
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


def staged(source):
    """Copy the next batch to the GPU while a step runs; on a CPU there is nothing to hide."""
    return StagingInput(source) if tf.config.list_physical_devices('GPU') else source
