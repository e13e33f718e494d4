"""The data server: one process that takes batches from workers, in order, and has ZMQ push them to the trainers."""
import contextlib
import functools
import threading
from typing import Any, Callable, Iterator, Mapping, Optional

import zmq

from data.addresses import bind_at, sockets_cleared
from data.doorkeeper import guard
from data.info_server import InfoServer
from data.processes import check_stopped
from data.workers import WorkerPool

MAX_WORKERS = 50  # FD and SAT, released code: min(50, cores) worker processes
# ZMQ threads that copy batches into the trainers' sockets, each those of its trainers. With ZMQ's one, two trainers get
# 0.6 of what they get with two threads, and no more than one does (benchmarks/zmq_throughput.py).
SENDING_THREADS = 4


@contextlib.contextmanager
def bound_push_socket(address: str, hwm: int, admits: Optional[Callable[[bytes], bool]] = None) -> Iterator[Any]:
    """``admits``: see ``guard``; None lets everybody connect."""
    context = zmq.Context(SENDING_THREADS)
    try:
        with context.socket(zmq.PUSH) as push:
            push.linger = 0
            push.sndhwm = hwm
            if admits:
                guard(context, push, admits)
            bind_at(functools.partial(push.bind, address), address)
            yield push
    finally:
        context.term()


def serve(pool: WorkerPool, address: str, hwm: int, description: Mapping[str, Any],
          on_ready: Callable[[], None]) -> None:
    """Push batches to the processes of the job that has claimed the server, until a signal or an error.

    Args:
        pool (WorkerPool): entered, not started.
        hwm (int): batches that may wait per trainer (ZMQ high-water mark).
        description (dict): answer to the trainers' questions, see ``Lease``.
        on_ready (callable): called when the first batch is ready to be pulled.
    Raises:
        AddressInUse, WorkerDied; ValueError: the address is malformed or cannot be bound.
    """
    with sockets_cleared(address), contextlib.closing(
            bind_at(functools.partial(InfoServer, address, description), address)) as info:
        new_job = threading.Event()
        info.claims.on_new_job = new_job.set
        with bound_push_socket(address, hwm, info.claims.admits) as push:
            pool.start()
            pool.wait_for_first()
            on_ready()
            _push_to_one_job(pool, push, new_job)
        while True:  # on a socket of its own for each job: who is still connected to the last one's gets nothing more
            new_job.clear()
            with bound_push_socket(address, hwm, info.claims.admits) as push:
                _push_to_one_job(pool, push, new_job)


def _push_to_one_job(pool: WorkerPool, push: Any, new_job: threading.Event) -> None:
    for _ in push_all(pool, push, new_job):
        pass


def push_all(pool: WorkerPool, push: Any, until: threading.Event = threading.Event()) -> Iterator[None]:
    """Push the batches of a pool in order, each as soon as it is there and may leave. Yields after each.

    Ends within a second after the event ``until``.
    """
    poller = zmq.Poller()
    pool.register(poller)
    while not until.is_set():
        check_stopped()
        poller.register(push, zmq.POLLOUT if pool.ready() else 0)
        ready = dict(poller.poll(1000))
        if ready.pop(push, 0):
            push.send(pool.pop(), copy=False)
            yield
        if ready:
            pool.receive()
