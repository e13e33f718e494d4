"""A server's addresses: taken by one server at a time, and freed of what a killed one has left."""
import contextlib
import os
import socket
import stat
from typing import Any, Callable, Iterator

import zmq

from data.handshake import info_address
from data.processes import ENDING


class AddressInUse(Exception):
    """Another process has bound the address in the message."""


def bind_at(bind: Callable[[], Any], address: str) -> Any:
    try:
        return bind()
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise AddressInUse("{} is in use".format(address)) from None
        raise ValueError("cannot serve at --address {}: {}".format(address, error.strerror)) from None


def _clear(address: str) -> None:
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


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ENDING)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
    return True


@contextlib.contextmanager
def sockets_cleared(address: str) -> Iterator[None]:
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
