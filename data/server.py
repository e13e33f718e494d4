"""The data server: worker processes that build batches, and one process that hands them on in order.

The parent writes orders, a batch number and a slot of shared memory each, to a pipe that all workers read, so a free
worker takes the next one. The worker builds the batch in the slot; the parent puts the finished ones back into order
and has ZMQ push them to the trainers from where they lie. An order is written only when a batch has left, which bounds
the slots to ``window`` + 1 here and ``hwm`` + 1 per trainer. What is served is therefore the stream's batches
0, 1, 2, ... whatever the number of workers.
"""
import contextlib
import ctypes
import functools
import itertools
import logging
import multiprocessing
import os
import secrets
import signal
import socket
import stat
import struct
import threading
import time
from typing import NamedTuple

import cv2
import zmq

from data.doorkeeper import guard
from data.handshake import info_address
from data.info_server import InfoServer
from data.slots import Slots
from data.stopwatch import ACTIVITIES, stopwatch
from zmq_ops import message_size, payload_views

MAX_WORKERS = 50  # FD and SAT, released code: min(50, cores) worker processes
# ZMQ threads that copy batches into the trainers' sockets, each those of its trainers. With ZMQ's one, two trainers get
# 0.6 of what they get with two threads, and no more than one does (benchmarks/zmq_throughput.py).
SENDING_THREADS = 4
ENDING = 3.0  # seconds that workers have to end when they are asked to, before they are killed

logger = logging.getLogger(__name__)

_ORDER = struct.Struct('<qq')  # number of the batch, slot
# What workers report, each one record of a socket that nobody else has: a letter, and
_DONE, _DONE_FORM = b'd', struct.Struct('<qq{}d'.format(len(ACTIVITIES)))  # batch, slot, seconds of each activity
_UNREADABLE = b'u'  # name of an image, zero, what is wrong with it
_FAILED = b'f'  # why the worker ends
_LONGEST_REPORT = 1 << 16  # bytes
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


class WorkerPool:
    """Worker processes that build the batches of a stream as messages of zmq_ops.

    A context manager; leaving it ends the workers. They also end when this process ends in any way. Enter it before the
    process has threads or ZMQ contexts, as the workers are forked (and so share the list of files).

    Args:
        stream: has ``specs``, ``fill(number, image, label)`` and ``unreadable`` as ``TrainingStream``.
        workers (int): number of processes.
    Attributes:
        window (int): batches being built, on the way or waiting for their turn.
        slots (Slots): where the batches lie.
        unreadable (set of str): names of the images that a worker could not have.
        seconds (dict): what the workers together have spent in each of ``ACTIVITIES``.
    """

    def __init__(self, stream, workers):
        self.window = 2 * workers + 2
        self._size = message_size(stream.specs)
        self.slots = Slots(self._size)
        self._stream, self._workers = stream, workers
        self._processes, self._arrived, self._next = [], {}, 0
        self.unreadable, self.seconds = set(), dict.fromkeys(ACTIVITIES, 0.0)

    def __enter__(self):
        # One 16-byte write is one 16-byte read on a pipe; all of a window fits into its buffer.
        orders, self._orders = os.pipe()
        self._written = itertools.count()
        self._reports, reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        context = multiprocessing.get_context('fork')
        with _signals_blocked() as before:
            for _ in range(self._workers):
                process = context.Process(target=_work, daemon=True, args=(
                    self._stream, self.slots, orders, self._orders, reports, os.getpid(), before))
                process.start()
                self._processes.append(process)
        os.close(orders)
        reports.close()
        self._reports.setblocking(False)
        return self

    def __exit__(self, *_):
        for end in ('terminate', 'kill'):  # the latter for those that are frozen, by SIGSTOP or a debugger
            for process in self._processes:
                getattr(process, end)()
            deadline = time.monotonic() + ENDING
            for process in self._processes:
                process.join(max(0, deadline - time.monotonic()))
        self._reports.close()
        os.close(self._orders)
        self.slots.close()

    def start(self):
        """Let the workers begin."""
        for _ in range(self.window):
            self._order_one()

    def ready(self):
        """Whether the next batch in order is there."""
        return self._next in self._arrived

    def pop(self):
        """Take the next batch, which is there, and order another one.

        Returns:
            memoryview of the message, valid as long as it is referred to.
        """
        message = self.slots.lend(self._arrived.pop(self._next), self._size)
        self._next += 1
        self._order_one()
        return message

    def register(self, poller):
        """Make ``poller`` return whenever ``receive`` has something to do."""
        poller.register(self._reports, zmq.POLLIN)
        for process in self._processes:
            poller.register(process.sentinel, zmq.POLLIN)

    def receive(self):
        """Take in what the workers have sent.

        Raises:
            WorkerDied: one of them has ended.
        """
        ended = next((process for process in self._processes if process.exitcode is not None), None)
        with contextlib.suppress(BlockingIOError):  # there are no more
            while report := self._reports.recv(_LONGEST_REPORT):
                self._take(report[:1], report[1:])
        if ended:
            raise WorkerDied("worker process {} ended with exit code {}".format(ended.pid, ended.exitcode))

    def _take(self, kind, content):
        if kind == _DONE:
            number, slot, *seconds = _DONE_FORM.unpack(content)
            for activity, spent in zip(ACTIVITIES, seconds):
                self.seconds[activity] += spent
            self._arrived[number] = slot
        elif kind == _UNREADABLE:
            name, problem = map(os.fsdecode, content.split(b'\0'))
            if name not in self.unreadable:
                self.unreadable.add(name)
                logger.warning("%s; it is left out", problem)
        else:
            raise WorkerDied(os.fsdecode(content))

    def wait_for_first(self):
        """Block until the first batch is there. Raises: WorkerDied."""
        poller = zmq.Poller()
        self.register(poller)
        while not self.ready():
            poller.poll()
            self.receive()

    def _order_one(self):
        os.write(self._orders, _ORDER.pack(next(self._written), self.slots.take()))


@contextlib.contextmanager
def _signals_blocked():
    """While processes are forked. Gives the mask from before.

    A signal that arrived in a child before it has left this process's handlers would be handled twice.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(stream, slots, orders, orders_end, reports, parent, mask):
    """Body of a worker process: build the batches whose orders come out of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole terminal; the parent ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _die_with(parent)
    os.close(orders_end)
    cv2.setNumThreads(0)
    logging.disable(logging.WARNING)  # the parent warns, once for all workers
    told = ()
    try:
        while True:
            order = os.read(orders, _ORDER.size)
            if not order:
                return
            number, slot = _ORDER.unpack(order)
            before = dict(stopwatch.seconds)
            stream.fill(number, *payload_views(slots.buffer(slot), stream.specs))
            spent = [stopwatch.seconds[activity] - before[activity] for activity in ACTIVITIES]
            unreadable = stream.unreadable
            for name in unreadable:
                if name not in told:
                    reports.send(_UNREADABLE + b'\0'.join((os.fsencode(name), os.fsencode(unreadable[name]))))
            told = unreadable
            reports.send(_DONE + _DONE_FORM.pack(number, slot, *spent))
    except ValueError as error:
        reports.send(_FAILED + os.fsencode(str(error)))
        raise SystemExit(1)


def _die_with(parent):
    """Have the kernel kill this process when its parent ends, however that happens."""
    PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


@contextlib.contextmanager
def _bound_push_socket(address, hwm, admits=None):
    """``admits``: see ``guard``; None lets everybody connect."""
    context = zmq.Context(SENDING_THREADS)
    try:
        with context.socket(zmq.PUSH) as push:
            push.linger = 0
            push.sndhwm = hwm
            if admits:
                guard(context, push, admits)
            _bind(functools.partial(push.bind, address), address)
            yield push
    finally:
        context.term()


def _bind(bind, address):
    try:
        return bind()
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise AddressInUse("{} is in use".format(address)) from None
        raise ValueError("cannot serve at --address {}: {}".format(address, error.strerror)) from None


def _clear(address):
    """Remove the socket file that a server has left. ZMQ does not at its end, and removes any file at its start.

    Raises:
        AddressInUse: a process serves there. ValueError: the file is no socket, or cannot be looked at.
    """
    path = address[len('ipc://'):]
    if not address.startswith('ipc://') or path.startswith('@'):
        return
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ValueError("cannot serve at --address {}: '{}' exists and is no socket".format(address, path))
        if _somebody_listens(path):
            raise AddressInUse("{} is in use".format(address))
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ValueError("cannot serve at --address {}: {}".format(address, error.strerror or error)) from None


def _somebody_listens(path):
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ENDING)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
    return True


@contextlib.contextmanager
def _sockets_cleared(address):
    """Without the socket files of a server that was killed before, and without this one's after."""
    both = address, info_address(address)
    for each in both:
        _clear(each)
    try:
        yield
    finally:
        for each in both:
            with contextlib.suppress(AddressInUse, ValueError):  # another one's by now
                _clear(each)


def serve(pool, address, hwm, description, on_ready):
    """Push batches to the processes of the job that has claimed the server, until a signal or an error.

    Args:
        pool (WorkerPool): entered, not started.
        hwm (int): batches that may wait per trainer (ZMQ high-water mark).
        description (dict): answer to the trainers' questions, see ``Lease``.
        on_ready (callable): called when the first batch is ready to be pulled.
    Raises:
        AddressInUse, WorkerDied; ValueError: the address is malformed or cannot be bound.
    """
    with _sockets_cleared(address), contextlib.closing(
            _bind(functools.partial(InfoServer, address, description), address)) as info:
        new_job = threading.Event()
        info.claims.on_new_job = new_job.set
        with _bound_push_socket(address, hwm, info.claims.admits) as push:
            pool.start()
            pool.wait_for_first()
            on_ready()
            _push_to_one_job(pool, push, new_job)
        while True:  # on a socket of its own for each job: who is still connected to the last one's gets nothing more
            new_job.clear()
            with _bound_push_socket(address, hwm, info.claims.admits) as push:
                _push_to_one_job(pool, push, new_job)


def _push_to_one_job(pool, push, new_job):
    for _ in _push_all(pool, push, new_job):
        pass


def _push_all(pool, push, until=threading.Event()):
    """Push the batches of a pool in order, each as soon as it is there and may leave. Yields after each.

    Ends within a second after the event ``until``.
    """
    poller = zmq.Poller()
    pool.register(poller)
    while not until.is_set():
        poller.register(push, zmq.POLLOUT if pool.ready() else 0)
        ready = dict(poller.poll(1000))
        if ready.pop(push, 0):
            push.send(pool.pop(), copy=False)
            yield
        if ready:
            pool.receive()


class Sink:
    """A process that receives batches and drops them, for measurements. A context manager; enter it before a pool.

    Attributes:
        address (str): where it wants to be served.
    """

    def __init__(self):
        self.address = 'ipc://@imagenet-sink-{}-{}'.format(os.getpid(), secrets.token_hex(4))

    def __enter__(self):
        with _signals_blocked():
            self._process = multiprocessing.get_context('fork').Process(
                target=_drain, args=(self.address, os.getpid()), daemon=True)
            self._process.start()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.join()


def _drain(address, parent):
    _die_with(parent)  # signals stay blocked: the parent ends this process
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.rcvhwm = 1
        pull.connect(address)
        while True:
            pull.recv(copy=False)


class Measured(NamedTuple):
    """Speed of a server: images per second, and milliseconds per image of each activity.

    Those of ``ACTIVITIES`` are of the workers' clocks, added up; 'send' is processor time of the parent process.
    """
    speed: float
    milliseconds: dict


def measure(pool, sink, batch, seconds, report_every, report):
    """Speed of a pool that sends to ``sink``.

    Args:
        pool (WorkerPool): entered, not started. sink (Sink): entered before.
        batch (int): images per batch.
        seconds (float): length of the measurement, after a warm-up of three windows of batches.
        report_every (float): seconds between calls of ``report(images_per_second, seconds_so_far)``.
    Returns:
        Measured.
    """
    with _bound_push_socket(sink.address, hwm=1) as push:
        pool.start()
        pushed = _push_all(pool, push)
        for _ in range(3 * pool.window):
            next(pushed)
        begin = reported = time.perf_counter()
        before, images = _spent(pool), 0
        for _ in pushed:
            images += batch
            now = time.perf_counter()
            if now - begin >= seconds:
                break
            if now - reported >= report_every:
                report(images / (now - begin), now - begin)
                reported = now
        after = _spent(pool)
    return Measured(images / (now - begin), {name: 1000 * (after[name] - before[name]) / images for name in after})


def _spent(pool):
    return dict(pool.seconds, send=time.process_time())
