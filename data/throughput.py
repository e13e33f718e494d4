"""How many images a server sends to a receiver on this machine, and where the time goes."""
import multiprocessing
import os
import secrets
import time
from typing import Any, Callable, Dict, NamedTuple

import zmq

from data.processes import die_with, signals_blocked
from data.server import bound_push_socket, push_all
from data.workers import WorkerPool


class Sink:
    """A process that receives batches and drops them, for measurements. A context manager; enter it before a pool.

    Attributes:
        address (str): where it wants to be served.
    """

    def __init__(self) -> None:
        self.address = 'ipc://@imagenet-sink-{}-{}'.format(os.getpid(), secrets.token_hex(4))

    def __enter__(self) -> 'Sink':
        with signals_blocked():
            self._process = multiprocessing.get_context('fork').Process(
                target=_drain, args=(self.address, os.getpid()), daemon=True)
            self._process.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.join()


def _drain(address: str, parent: int) -> None:
    die_with(parent)  # signals stay blocked: the parent ends this process
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
    milliseconds: Dict[str, float]


def measure(pool: WorkerPool, sink: Sink, batch: int, seconds: float, report_every: float,
            report: Callable[[float, float], None]) -> Measured:
    """Speed of a pool that sends to ``sink``.

    Args:
        pool (WorkerPool): entered, not started. sink (Sink): entered before.
        batch (int): images per batch.
        seconds (float): length of the measurement, after a warm-up of three windows of batches.
        report_every (float): seconds between calls of ``report(images_per_second, seconds_so_far)``.
    Returns:
        Measured.
    """
    with bound_push_socket(sink.address, hwm=1) as push:
        pool.start()
        pushed = push_all(pool, push)
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


def _spent(pool: WorkerPool) -> Dict[str, float]:
    return dict(pool.seconds, send=time.process_time())
