"""The data server's side of the handshake: a thread that answers trainers, and who has the server."""
import hashlib
import hmac
import json
import secrets
import threading
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import zmq

from data import handshake
from files import typed

# Processes of one job that a server feeds; beyond any machine's GPUs, and a bound on what a stranger can have stored.
MOST_PROCESSES = 10000


class InfoServer:
    """Answers trainers in a thread of its own until closed; any bytes from anybody get an answer or none.

    Args:
        address (str): the *data* address.
        description (dict): JSON values, see ``Lease``.
    Attributes:
        claims (Claims): who is fed.
    Raises:
        ValueError: malformed address. zmq.ZMQError: the info address cannot be bound.
    """

    def __init__(self, address: str, description: Mapping[str, Any]) -> None:
        self._fingerprint = _digest(description)
        self._answer_to_hello = json.dumps({'description': dict(
            description, protocol=handshake.PROTOCOL, server=secrets.token_hex(8), fingerprint=self._fingerprint,
            shared=_digest(dict(description, shard=None)))}).encode()
        self.claims = Claims(address)
        self._context = zmq.Context()
        # Trainers ask with REQ sockets. A REP socket would go deaf for good on a message without a REQ's envelope.
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        # A longer message ends its connection before it takes memory.
        self._socket.maxmsgsize = handshake.LONGEST_REQUEST
        self._socket.rcvhwm = self._socket.sndhwm = handshake.WAITING
        try:
            self._socket.bind(handshake.info_address(address))
        except (zmq.ZMQError, ValueError):
            self._context.destroy(linger=0)
            raise
        self._thread = threading.Thread(target=self._answer_all, name='info', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the address."""
        self._context.term()  # ends the thread's recv with ContextTerminated, and waits until its socket is closed
        self._thread.join()

    def _answer_all(self) -> None:
        with self._socket:
            while True:
                try:
                    sender, *frames = self._socket.recv_multipart()
                    self._socket.send_multipart([sender, b'', self._answer(frames)])
                except zmq.ContextTerminated:
                    return

    def _answer(self, frames: List[bytes]) -> bytes:
        envelope, *content = frames or [b'']
        try:
            request = typed.parse(content[0] if envelope == b'' and len(content) == 1 else b'', handshake.REQUEST,
                                  'a request')
        except typed.Malformed as error:
            return _refusal('malformed request: {}'.format(error))
        if request['request'] == 'bye':
            self.claims.release(request['key'], request['process'])
            return b'{}'
        if request.get('like', self._fingerprint) != self._fingerprint:
            return _refusal('it serves something else than when this run began')
        refusal = self.claims.claim(request)
        return _refusal(*refusal) if refusal else self._answer_to_hello


def _digest(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _refusal(reason: str, left: Optional[float] = None) -> bytes:
    return json.dumps({'refused': reason} if left is None else {'refused': reason, 'left': left}).encode()


class Claims:
    """Which job a server feeds: that of the processes whose leases have not run out. For any thread.

    Args:
        address (str): named in refusals.
        clock: () -> seconds.
        on_new_job: called, with the lock held, when a job other than the last one gets the server.
    """

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic,
                 on_new_job: Callable[[], None] = lambda: None) -> None:
        self._address, self._clock, self.on_new_job = address, clock, on_new_job
        self._lock = threading.Lock()
        self._leases: Dict[str, Tuple[Dict[str, Any], float]] = {}  # of processes: request, when it ends; of one key
        self._last_key = None

    def claim(self, request: Dict[str, Any]) -> Optional[Tuple[str, Optional[float]]]:
        """Register a process by its hello, or renew its lease.

        Returns:
            None; or why not (str) and the seconds after which it could, if nothing is renewed, or None.
        """
        with self._lock:
            self._forget_lapsed()
            for holder, _ in self._leases.values():
                if not hmac.compare_digest(holder['key'], request['key']):
                    return ('{} already feeds job {job} (host {host}, pid {pid}); wait until that ends, or start '
                            'another server for this job with --address'.format(self._address, **holder),
                            max(end for _, end in self._leases.values()) - self._clock())
            if request['process'] not in self._leases and len(self._leases) >= MOST_PROCESSES:
                return '{} feeds {} processes already'.format(self._address, MOST_PROCESSES), None
            self._leases[request['process']] = request, self._clock() + handshake.LEASE
            if self._last_key not in (None, request['key']):
                self.on_new_job()
            self._last_key = request['key']
            return None

    def release(self, key: str, process: str) -> None:
        """End a process's lease."""
        with self._lock:
            if process in self._leases and hmac.compare_digest(self._leases[process][0]['key'], key):
                del self._leases[process]

    def admits(self, key: bytes) -> bool:
        """Whether ``key`` (bytes) is that of the job that is fed."""
        with self._lock:
            self._forget_lapsed()
            return any(hmac.compare_digest(holder['key'].encode(), key) for holder, _ in self._leases.values())

    def _forget_lapsed(self) -> None:
        now = self._clock()
        self._leases = {process: lease for process, lease in self._leases.items() if lease[1] > now}
