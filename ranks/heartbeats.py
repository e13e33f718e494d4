"""Heartbeats around the ring of ranks: each rank notices when the one before it is frozen.

Horovod's own check of stalls names a rank that is late, but not one that is frozen (SIGSTOP, a machine that hangs): it
waits for it inside MPI then. So a thread of each rank sends the next rank a UDP datagram every second. The times of
silence until a warning and until the end of the job are those of Horovod's check, from its environment variables.

Anybody can send datagrams to a port. Those of the job are signed with a key that its ranks exchange over MPI, and
numbered, so that none counts twice; all others are counted and dropped. While more arrive than are read, a silence does
not count: a flood can hide that a rank is frozen, it cannot end the job.
"""
import hashlib
import hmac
import json
import os
import secrets
import select
import socket
import struct
import sys
import threading
import time
from typing import Any, Callable, List, Optional

import psutil

from ranks.end import fail, fail_at_once
from ranks.gather import gather_texts
from ranks.launched import Ranks

PERIOD = 1.0  # seconds
MOST = 10000  # datagrams that are read in a period
STRANGERS_SAID = 600.0  # seconds at least between two warnings of strangers' datagrams
_BEAT, _BYE = 1, 2
_CONTENT = struct.Struct('<QQB')  # rank, number of the datagram from 1, sign; the HMAC-SHA256 of these follows


def sign(key: bytes, rank: int, number: int, sign_: int) -> bytes:
    """The datagram with which a rank gives a sign, ``_BEAT`` or ``_BYE``; ``key`` (bytes) is the job's."""
    content = _CONTENT.pack(rank, number, sign_)
    return content + hmac.digest(key, content, hashlib.sha256)


class Ear:
    """Knows the signs of one rank among all datagrams.

    Args:
        key (bytes): the job's. rank (int): who is listened to.
    Attributes:
        strangers (int): datagrams that were not signed with the key.
    """

    def __init__(self, key: bytes, rank: int) -> None:
        self._key, self._rank, self._last, self.strangers = key, rank, 0, 0

    def hear(self, datagram: bytes) -> Optional[int]:
        """The sign that a datagram (any bytes) is, or None if it is a stranger's, another rank's or an old one."""
        content, mac = datagram[:_CONTENT.size], datagram[_CONTENT.size:]
        if not hmac.compare_digest(mac, hmac.digest(self._key, content, hashlib.sha256)):
            self.strangers += 1
            return None
        rank, number, sign_ = _CONTENT.unpack(content)
        if rank != self._rank or number <= self._last:  # each comes from every address of the rank's machine
            return None
        self._last = number
        return sign_


class Times:
    """Seconds of silence until a warning and until the end, from Horovod's environment variables; 0 for never."""

    def __init__(self) -> None:
        off = os.environ.get('HOROVOD_STALL_CHECK_DISABLE', '0') not in ('', '0')
        self.warn = 0 if off else _seconds('HOROVOD_STALL_CHECK_TIME_SECONDS', 60)  # Horovod's default
        self.end = 0 if off else _seconds('HOROVOD_STALL_SHUTDOWN_TIME_SECONDS', 600)  # Horovod's is never


def _seconds(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        fail('{}={}: not a whole number of seconds'.format(name, text), 0)
    return int(text)


class Silence:
    """Judges how long a rank has been silent; counted in this rank's own periods, so that it may be suspended itself.

    Args:
        rank (int): whose. times (Times). say: (str) -> None. end: (str) -> None.
    """

    def __init__(self, rank: int, times: Times, say: Callable[[str], None], end: Callable[[str], None]) -> None:
        self.rank, self.times, self.say, self.end = rank, times, say, end
        self.seconds, self._heard, self._warned = 0.0, False, False

    def heard(self) -> None:
        """The rank lives."""
        if self._warned and self._heard:
            self.say('rank {} is back after {:.0f} s'.format(self.rank, self.seconds))
        self.seconds, self._heard, self._warned = 0.0, True, False

    def passed(self, seconds: float) -> None:
        """So much more time without a sign of life."""
        self.seconds += seconds
        if self._heard and self.times.end and self.seconds >= self.times.end:
            self.end('rank {} has been silent for {:.0f} s (HOROVOD_STALL_SHUTDOWN_TIME_SECONDS); this job ends, '
                     'continue with --resume'.format(self.rank, self.seconds))
        if self.times.warn and self.seconds >= self.times.warn and not self._warned:
            self._warned = True
            self.say('rank {} has been silent for {:.0f} s; it is frozen, or its machine is cut off'.format(
                self.rank, self.seconds) if self._heard else
                'no heartbeat comes from rank {}; if it freezes, nobody will notice'.format(self.rank))


class Heartbeats:
    """As a context, on all ranks together: sends heartbeats, and judges those of the rank before.

    Args:
        ranks (Ranks): nothing happens if there is but one.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self._sent = ranks, 0
        self._thread: Optional[threading.Thread] = None

    def __enter__(self) -> 'Heartbeats':
        if self.ranks.size == 1:
            return self
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(('', 0))
        self._socket.setblocking(False)
        me = {'port': self._socket.getsockname()[1], 'hosts': _addresses(), 'key': secrets.token_hex(32)}
        everybody = [json.loads(text) for text in gather_texts(self.ranks, json.dumps(me))]
        self._next = everybody[(self.ranks.rank + 1) % self.ranks.size]
        self._key = bytes.fromhex(everybody[0]['key'])
        before = (self.ranks.rank - 1) % self.ranks.size
        self._ear, self._strangers = Ear(self._key, before), StrangersReport(_say)
        self._silence = Silence(before, Times(), _say, _end)
        self._closing, self._close = os.pipe()
        self._thread = threading.Thread(target=self._run, name='heartbeats', daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._thread:
            os.close(self._close)  # which wakes the thread
            self._thread.join()
            os.close(self._closing)
            self._send(_BYE)
            self._socket.close()

    def _run(self) -> None:
        watching, listening, deaf = True, select.poll(), select.poll()
        listening.register(self._socket, select.POLLIN)
        for poll in (listening, deaf):
            poll.register(self._closing, select.POLLIN)
        while True:
            self._send(_BEAT)
            signs, count, end = set(), 0, time.monotonic() + PERIOD
            while (left := end - time.monotonic()) > 0:
                ready = dict((listening if count < MOST else deaf).poll(1000 * left))
                if self._closing in ready:
                    return
                if ready:
                    signs.add(self._received())
                    count += 1
            self._strangers.passed(PERIOD, self._ear.strangers)
            watching = watching and _BYE not in signs
            if _BEAT in signs:
                self._silence.heard()
            elif watching and count < MOST:
                self._silence.passed(PERIOD)

    def _send(self, sign_: int) -> None:
        self._sent += 1
        message = sign(self._key, self.ranks.rank, self._sent, sign_)
        for host in self._next['hosts']:
            try:
                self._socket.sendto(message, (host, self._next['port']))
            except OSError:  # not every address of the next rank's machine can be reached from here
                pass

    def _received(self) -> Optional[int]:
        """What the next datagram is, see ``Ear``."""
        try:
            return self._ear.hear(self._socket.recv(256))  # what is longer is cut, and then no signature fits
        except OSError:  # an answer that a port is closed, or a datagram with a wrong checksum
            return None


class StrangersReport:
    """Says that datagrams come from outside the job: at once, and then not before STRANGERS_SAID seconds have passed.

    Args:
        say: (str) -> None.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said, self._quiet = say, 0, STRANGERS_SAID

    def passed(self, seconds: float, count: int) -> None:
        """So much more time, with ``count`` such datagrams since the beginning."""
        self._quiet += seconds
        if count > self._said and self._quiet >= STRANGERS_SAID:
            self._say('{} datagrams that are not from this job came to its port of heartbeats; they are ignored'.format(
                count))
            self._said, self._quiet = count, 0.0


def _addresses() -> List[str]:
    """All IPv4 addresses of this machine: which of them the next rank's machine sees is not known here."""
    return [address.address for found in psutil.net_if_addrs().values() for address in found
            if address.family == socket.AF_INET]


def _say(text: str) -> None:
    print('{}: warning: {}'.format(os.path.basename(sys.argv[0]), text), file=sys.stderr, flush=True)


def _end(text: str) -> None:
    fail_at_once(text, 0)  # the other threads wait inside MPI; the launcher ends the other ranks
