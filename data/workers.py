"""Worker processes that build batches in shared memory, and the pool that puts these back into order.

The parent writes orders, a batch number and a slot of shared memory each, to a pipe that all workers read, so a free
worker takes the next one. The worker builds the batch in the slot; the parent puts the finished ones back into order
and has ZMQ push them to the trainers from where they lie. An order is written only when a batch has left, which bounds
the slots to ``window`` + 1 here and ``hwm`` + 1 per trainer. What is served is therefore the stream's batches
0, 1, 2, ... whatever the number of workers.
"""
import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import socket
import struct
import time
from typing import Any, Dict, List, Mapping, Set

import cv2
import zmq

from data.processes import ENDING, check_stopped, die_with, signals_blocked
from data.protocols import Stream
from data.slots import Slots
from data.stopwatch import ACTIVITIES, stopwatch
from zmq_ops import message_size, payload_views

logger = logging.getLogger(__name__)
_ORDER = struct.Struct('<qq')  # number of the batch, slot
# What workers report, each one record of a socket that nobody else has: a letter, and
_DONE, _DONE_FORM = b'd', struct.Struct('<qq{}d'.format(len(ACTIVITIES)))  # batch, slot, seconds of each activity
_UNREADABLE = b'u'  # name of an image, zero, what is wrong with it
_FAILED = b'f'  # why the worker ends
_LONGEST_REPORT = 1 << 16  # bytes


class WorkerDied(Exception):
    """A worker process ended; the message says why."""


class WorkerPool:
    """Worker processes that build the batches of a stream as messages of zmq_ops.

    A context manager; leaving it ends the workers. They also end when this process ends in any way. Enter it before the
    process has threads or ZMQ contexts, as the workers are forked (and so share the list of files).

    Args:
        stream (Stream): as ``TrainingStream`` is one.
        workers (int): number of processes.
    Attributes:
        window (int): batches being built, on the way or waiting for their turn.
        slots (Slots): where the batches lie.
        unreadable (set of str): names of the images that a worker could not have.
        seconds (dict): what the workers together have spent in each of ``ACTIVITIES``.
    """

    def __init__(self, stream: Stream, workers: int) -> None:
        self.window = 2 * workers + 2
        self._size = message_size(stream.specs)
        self.slots = Slots(self._size)
        self._stream, self._workers = stream, workers
        self._processes: List[Any] = []
        self._arrived: Dict[int, int] = {}  # batch to slot
        self._next = 0
        self.unreadable: Set[str] = set()
        self.seconds = dict.fromkeys(ACTIVITIES, 0.0)

    def __enter__(self) -> 'WorkerPool':
        # One 16-byte write is one 16-byte read on a pipe; all of a window fits into its buffer.
        orders, self._orders = os.pipe()
        self._written = itertools.count()
        self._reports, reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        context = multiprocessing.get_context('fork')
        with signals_blocked() as before:
            for _ in range(self._workers):
                process = context.Process(target=_work, daemon=True, args=(
                    self._stream, self.slots, orders, self._orders, reports, os.getpid(), before))
                process.start()
                self._processes.append(process)
        os.close(orders)
        reports.close()
        self._reports.setblocking(False)
        return self

    def __exit__(self, *_: Any) -> None:
        for end in ('terminate', 'kill'):  # the latter for those that are frozen, by SIGSTOP or a debugger
            for process in self._processes:
                getattr(process, end)()
            deadline = time.monotonic() + ENDING
            for process in self._processes:
                process.join(max(0, deadline - time.monotonic()))
        self._reports.close()
        os.close(self._orders)
        self.slots.close()

    def start(self) -> None:
        """Let the workers begin."""
        for _ in range(self.window):
            self._order_one()

    def ready(self) -> bool:
        """Whether the next batch in order is there."""
        return self._next in self._arrived

    def pop(self) -> memoryview:
        """Take the next batch, which is there, and order another one.

        Returns:
            memoryview of the message, valid as long as it is referred to.
        """
        message = self.slots.lend(self._arrived.pop(self._next), self._size)
        self._next += 1
        self._order_one()
        return message

    def register(self, poller: Any) -> None:
        """Make ``poller`` return whenever ``receive`` has something to do."""
        poller.register(self._reports, zmq.POLLIN)
        for process in self._processes:
            poller.register(process.sentinel, zmq.POLLIN)

    def receive(self) -> None:
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

    def _take(self, kind: bytes, content: bytes) -> None:
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

    def wait_for_first(self) -> None:
        """Block until the first batch is there. Raises: WorkerDied."""
        poller = zmq.Poller()
        self.register(poller)
        while not self.ready():
            check_stopped()
            poller.poll(1000)
            self.receive()

    def _order_one(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # all workers have ended: ``receive`` says why
            os.write(self._orders, _ORDER.pack(next(self._written), self.slots.take()))


def _work(stream: Stream, slots: Slots, orders: int, orders_end: int, reports: socket.socket, parent: int,
          mask: Set[Any]) -> None:
    """Body of a worker process: build the batches whose orders come out of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole terminal; the parent ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    die_with(parent)
    os.close(orders_end)
    cv2.setNumThreads(0)
    logging.disable(logging.WARNING)  # the parent warns, once for all workers
    told: Mapping[str, str] = {}
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
