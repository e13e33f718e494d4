"""The data server: worker processes that build batches, and one process that hands them on in order.

The parent writes batch numbers to a pipe that all workers read, so a free worker takes the next number; it puts the
finished batches back into order and pushes them to the trainers. A number is written only when a batch has left, which
bounds what lies in memory to ``window`` batches here and ``hwm`` batches per trainer. What is served is therefore the
stream's batches 0, 1, 2, ... whatever the number of workers.
"""
import contextlib
import ctypes
import functools
import importlib.util
import itertools
import logging
import multiprocessing
import os
import secrets
import signal
import socket
import struct
import time

import cv2
import zmq

from third_party.imagedata.handshake import InfoServer

# FD and SAT, released code: min(50, cores) worker processes, high-water mark 150 on the sending side.
MAX_WORKERS = 50
HWM = 150

logger = logging.getLogger(__name__)

_NUMBER = struct.Struct('<q')
_FAILED = b'failed'
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WorkerDied(Exception):
    """A worker process ended; the message says why."""


class AddressInUse(Exception):
    """Another process has bound the address in the message."""


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived.

    Attributes:
        exit_code (int): 128 + the signal's number.
    """

    def __init__(self, signum):
        super().__init__(signum)
        self.exit_code = 128 + signum


def stop_on_signals():
    """From now on SIGINT and SIGTERM raise ``Stopped`` in the main thread, once."""
    def stop(signum, _):
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # already stopping
        raise Stopped(signum)
    for number in _SIGNALS:
        signal.signal(number, stop)


def encoder(wire_format):
    """The function that turns ``[image, label]`` into one message: 'zmq_ops', or 'tensorpack' for its Python receivers."""
    if wire_format == 'zmq_ops':
        from third_party.zmq_ops import dump_arrays
        return dump_arrays
    # Only this file of tensorpack, as the package as a whole imports TensorFlow.
    folder = importlib.util.find_spec('tensorpack').submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location('tensorpack_serialize', os.path.join(folder, 'utils', 'serialize.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dumps


class WorkerPool:
    """Worker processes that build and encode the batches of a stream.

    A context manager; leaving it ends the workers. They also end when this process ends in any way. Enter it before the
    process has threads or ZMQ contexts, as the workers are forked (and so share the list of files).

    Args:
        stream: has ``batch(number) -> (image, label)``.
        wire_format (str): see ``encoder``.
        workers (int): number of processes.
    """

    def __init__(self, stream, wire_format, workers):
        self.window = 2 * workers + 2  # batches being built, on the way or waiting for their turn
        self._stream, self._encode, self._workers = stream, encoder(wire_format), workers
        self._processes, self._arrived, self._next = [], {}, 0
        self.unreadable = set()  # names of the images that a worker could not have

    def __enter__(self):
        # One 8-byte write is one 8-byte read on a pipe; all of a window fits into its buffer.
        numbers, self._numbers = os.pipe()
        self._written = itertools.count()
        endpoint = 'ipc://@imagenet-workers-{}-{}'.format(os.getpid(), secrets.token_hex(4))
        context = multiprocessing.get_context('fork')
        # A signal that arrived in a child before it has left this process's handlers would be handled twice.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for _ in range(self._workers):
                process = context.Process(target=_work, daemon=True, args=(
                    self._stream, self._encode, numbers, self._numbers, endpoint, os.getpid(), before))
                process.start()
                self._processes.append(process)
        finally:
            os.close(numbers)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.rcvhwm = self.window
        self._socket.bind(endpoint)
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._context.destroy(linger=0)
        os.close(self._numbers)

    def start(self):
        """Let the workers begin."""
        for _ in range(self.window):
            self._order_one()

    def peek(self):
        """The next batch in order as a ZMQ frame, or None while it is not there."""
        return self._arrived.get(self._next)

    def pop(self):
        """Drop the batch that ``peek`` showed and order another one."""
        del self._arrived[self._next]
        self._next += 1
        self._order_one()

    def register(self, poller):
        """Make ``poller`` return whenever ``receive`` has something to do."""
        poller.register(self._socket, zmq.POLLIN)
        for process in self._processes:
            poller.register(process.sentinel, zmq.POLLIN)

    def receive(self):
        """Take in what the workers have sent.

        Raises:
            WorkerDied: one of them has ended.
        """
        ended = next((process for process in self._processes if process.exitcode is not None), None)
        # Its last words may still be on the way.
        while self._socket.poll(500 if ended else 0):
            number, batch, *unreadable = self._socket.recv_multipart(copy=False)
            if number.bytes == _FAILED:
                raise WorkerDied(batch.bytes.decode())
            texts = [os.fsdecode(text.bytes) for text in unreadable]
            self._report(zip(texts[::2], texts[1::2]))
            self._arrived[_NUMBER.unpack(number.bytes)[0]] = batch
        if ended:
            raise WorkerDied("worker process {} ended with exit code {}".format(ended.pid, ended.exitcode))

    def _report(self, unreadable):
        for name, problem in unreadable:
            if name not in self.unreadable:
                self.unreadable.add(name)
                logger.warning("%s; it is left out", problem)

    def wait_for_first(self):
        """Block until the first batch is there. Raises: WorkerDied."""
        poller = zmq.Poller()
        self.register(poller)
        while self.peek() is None:
            poller.poll()
            self.receive()

    def _order_one(self):
        os.write(self._numbers, _NUMBER.pack(next(self._written)))


def _work(stream, encode, numbers, numbers_end, endpoint, parent, mask):
    """Body of a worker process: build the batches whose numbers come out of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole terminal; the parent ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _die_with(parent)
    os.close(numbers_end)
    cv2.setNumThreads(0)
    logging.disable(logging.WARNING)  # the parent warns, once for all workers
    told = ()
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.sndhwm = 1
        push.connect(endpoint)
        try:
            while True:
                number = os.read(numbers, _NUMBER.size)
                if not number:
                    return
                image, label = stream.batch(_NUMBER.unpack(number)[0])
                unreadable = stream.unreadable
                new = [name for name in unreadable if name not in told]
                texts = [os.fsencode(text) for name in new for text in (name, unreadable[name])]
                push.send_multipart([number, encode([image, label])] + texts, copy=False)
                told = unreadable
        except ValueError as error:
            push.send_multipart([_FAILED, str(error).encode()])
            raise SystemExit(1)


def _die_with(parent):
    """Have the kernel kill this process when its parent ends, however that happens."""
    PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


@contextlib.contextmanager
def _bound_push_socket(address, hwm):
    _check_free(address)
    context = zmq.Context()
    try:
        push = context.socket(zmq.PUSH)
        push.linger = 0
        push.sndhwm = hwm
        _bind(functools.partial(push.bind, address), address)
        yield push
    finally:
        context.destroy(linger=0)


def _bind(bind, address):
    try:
        return bind()
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise AddressInUse("{} is in use".format(address)) from None
        raise ValueError("cannot serve at --address {}: {}".format(address, error.strerror)) from None


def _check_free(address):
    """ZMQ takes a socket file away from the process that serves it; refuse instead."""
    path = address[len('ipc://'):]
    if address.startswith('ipc://') and not path.startswith('@'):
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            probe.connect(path)
            raise AddressInUse("{} is in use".format(address))


def serve(pool, address, hwm, description, on_ready):
    """Push batches to whoever connects to ``address``, until a signal or an error.

    Args:
        pool (WorkerPool): entered, not started.
        hwm (int): batches that may wait per trainer (ZMQ high-water mark).
        description (dict): answer to the trainers' questions, see ``handshake.connect``.
        on_ready (callable): called when the first batch is ready to be pulled.
    Raises:
        AddressInUse, WorkerDied; ValueError: the address is malformed or cannot be bound.
    """
    with _bound_push_socket(address, hwm) as push, contextlib.closing(
            _bind(functools.partial(InfoServer, address, description), address)):
        pool.start()
        pool.wait_for_first()
        on_ready()
        poller = zmq.Poller()
        pool.register(poller)
        while True:
            poller.register(push, 0 if pool.peek() is None else zmq.POLLOUT)
            ready = dict(poller.poll())
            if ready.pop(push, 0):
                push.send(pool.peek(), copy=False)
                pool.pop()
            if ready:
                pool.receive()


def measure(pool, batch, seconds, report_every, report):
    """Speed of a started pool with nobody receiving.

    Args:
        batch (int): images per batch.
        seconds (float): length of the measurement, after a warm-up of three windows of batches.
        report_every (float): seconds between calls of ``report(images_per_second, seconds_so_far)``.
    Returns:
        images per second.
    """
    poller = zmq.Poller()
    pool.register(poller)

    def take_ready():
        poller.poll()
        pool.receive()
        count = 0
        while pool.peek() is not None:
            pool.pop()
            count += 1
        return count

    warm_up = 3 * pool.window
    while warm_up > 0:
        warm_up -= take_ready()
    begin = reported = time.perf_counter()
    images = 0
    while True:
        images += batch * take_ready()
        now = time.perf_counter()
        if now - begin >= seconds:
            return images / (now - begin)
        if now - reported >= report_every:
            report(images / (now - begin), now - begin)
            reported = now
