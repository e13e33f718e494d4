"""Who may connect to a socket that sends batches: those with the password of the job that is fed.

ZMQ's PLAIN mechanism, whose verdicts ZMQ asks for on a socket inside the process (ZAP, its RFC 27). The password
crosses the network as it is, once for each connection; nothing is encrypted, so batches lose no speed.
"""
import threading
from typing import Any, Callable

import zmq

_VERDICTS = 'inproc://zeromq.zap.01'  # fixed by ZAP
_ADMITTED, _NOT_NOW = b'200', b'300'
# Milliseconds until somebody who was turned away is disconnected, and may come again: the job may have the server then.
_HANDSHAKE = 3000
# Receivers send nothing after the handshake, whose commands are shorter. A longer message ends its connection before it
# takes memory, and what is shorter stays in the sender's own.
_LONGEST_MESSAGE, _WAITING = 4096, 1


def guard(context: Any, sock: Any, admits: Callable[[bytes], bool]) -> None:
    """Let only those connect to ``sock`` whom ``admits`` names; call it before ``sock`` is bound, once in a context.

    The thread that decides ends with the context: close ``sock``, then ``term()`` it. ``destroy()`` and a ``with`` of
    the context would close the thread's socket under its feet.

    Args:
        context (zmq.Context), sock (zmq.Socket): one of its sockets. admits: (password, bytes) -> bool.
    """
    verdicts = context.socket(zmq.REP)
    verdicts.linger = 0
    verdicts.bind(_VERDICTS)
    threading.Thread(target=_decide, args=(verdicts, admits), name='doorkeeper', daemon=True).start()
    sock.plain_server, sock.zap_domain = True, b'batches'
    sock.handshake_ivl = _HANDSHAKE
    sock.maxmsgsize, sock.rcvhwm = _LONGEST_MESSAGE, _WAITING


def _decide(verdicts: Any, admits: Callable[[bytes], bool]) -> None:
    with verdicts:
        while True:
            try:
                version, request, _, _, _, mechanism, *credentials = verdicts.recv_multipart()
                admitted = mechanism == b'PLAIN' and admits(credentials[1])  # the first is the user name
                verdicts.send_multipart([version, request, _ADMITTED if admitted else _NOT_NOW, b'', b'', b''])
            except zmq.ContextTerminated:
                return
