"""Heartbeats around the ring of ranks: each rank notices when the one before it is frozen.

Horovod's own check of stalls names a rank that is late, but not one that is frozen (SIGSTOP, a machine that hangs): it
waits for it inside MPI then. So a thread of each rank sends the next rank a UDP datagram every second. The times of
silence until a warning and until the end of the job are those of Horovod's check, from its environment variables.
"""
import json
import os
import secrets
import socket
import sys
import threading

import psutil

from third_party.utils import fail, fail_at_once, gather_texts

PERIOD = 1.0  # seconds
_BEAT, _BYE = 'beat', 'bye'


class Times:
    """Seconds of silence until a warning and until the end, from Horovod's environment variables; 0 for never."""

    def __init__(self):
        off = os.environ.get('HOROVOD_STALL_CHECK_DISABLE', '0') not in ('', '0')
        self.warn = 0 if off else _seconds('HOROVOD_STALL_CHECK_TIME_SECONDS', 60)  # Horovod's default
        self.end = 0 if off else _seconds('HOROVOD_STALL_SHUTDOWN_TIME_SECONDS', 600)  # Horovod's is never


def _seconds(name, default):
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        fail('{}={}: not a whole number of seconds'.format(name, text), 0)
    return int(text)


class Silence:
    """Judges how long a rank has been silent; counted in this rank's own periods, so that it may be suspended itself.

    Args:
        rank (int): whose. times (Times). say: (str) -> None. end: (str) -> None.
    """

    def __init__(self, rank, times, say, end):
        self.rank, self.times, self.say, self.end = rank, times, say, end
        self.seconds, self._heard, self._warned = 0.0, False, False

    def heard(self):
        """The rank lives."""
        if self._warned and self._heard:
            self.say('rank {} is back after {:.0f} s'.format(self.rank, self.seconds))
        self.seconds, self._heard, self._warned = 0.0, True, False

    def passed(self, seconds):
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

    def __init__(self, ranks):
        self.ranks, self._thread = ranks, None
        self._closing = threading.Event()

    def __enter__(self):
        if self.ranks.size == 1:
            return self
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(('', 0))
        self._socket.setblocking(False)
        me = {'port': self._socket.getsockname()[1], 'hosts': _addresses(), 'job': secrets.token_hex(8)}
        everybody = [json.loads(text) for text in gather_texts(self.ranks, json.dumps(me))]
        self._next = everybody[(self.ranks.rank + 1) % self.ranks.size]
        self._job = everybody[0]['job']
        before = (self.ranks.rank - 1) % self.ranks.size
        self._silence = Silence(before, Times(), _say, _end)
        self._thread = threading.Thread(target=self._run, name='heartbeats', daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        if self._thread:
            self._closing.set()
            self._thread.join()
            self._send(_BYE)
            self._socket.close()

    def _run(self):
        watching = True
        while not self._closing.wait(PERIOD):
            self._send(_BEAT)
            signs = set(self._received())
            watching = watching and _BYE not in signs
            if _BEAT in signs:
                self._silence.heard()
            elif watching:
                self._silence.passed(PERIOD)

    def _send(self, sign):
        message = json.dumps([self._job, self.ranks.rank, sign]).encode()
        for host in self._next['hosts']:
            try:
                self._socket.sendto(message, (host, self._next['port']))
            except OSError:  # not every address of the next rank's machine can be reached from here
                pass

    def _received(self):
        while True:
            try:
                job, rank, sign = json.loads(self._socket.recv(1024))
            except BlockingIOError:
                return
            except (OSError, ValueError):  # a stranger's datagram, or an answer that a port is closed
                continue
            if (job, rank) == (self._job, self._silence.rank):
                yield sign


def _addresses():
    """All IPv4 addresses of this machine: which of them the next rank's machine sees is not known here."""
    return [address.address for found in psutil.net_if_addrs().values() for address in found
            if address.family == socket.AF_INET]


def _say(text):
    print('{}: warning: {}'.format(os.path.basename(sys.argv[0]), text), file=sys.stderr, flush=True)


def _end(text):
    fail_at_once(text, 0)  # the other threads wait inside MPI; the launcher ends the other ranks
