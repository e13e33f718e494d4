"""What a data server tells its trainers before the first batch, and what both refuse.

Batches travel over a PUSH/PULL pair whose messages say nothing about their origin. Beside it the server answers JSON
requests on a second address, so that a trainer finds out at once that it would learn from the wrong data, and two jobs
never take each other's batches. The released programs have no such check. Ours, with these addresses:

    data  ipc://@imagenet-train-b32        info  ipc://@imagenet-train-b32-info
    data  tcp://host:5000                  info  tcp://host:5001

A request is a JSON object {"request": "hello" or "bye", "job", "key", "process", "host", "pid"}. ``job`` is a name that
anybody may see, ``key`` is known to the job's processes and its servers alone, ``process`` is a random word. The answer
to hello is {"description": ...}, or {"refused": reason, "left": seconds} while a job of another key has the server, for
so long if it renews nothing. A claim is a lease of LEASE seconds, which its process renews by the same hello until its
bye. ``like``, in a hello, is the fingerprint of the description that the process knows: a server that serves something
else refuses.

The key is also the password at the data socket (ZMQ's PLAIN): batches go to those who have claimed the server. Nothing
from either socket is believed before it is checked, and no message ends the thread that answers.
"""
import os
import re
import secrets
import shlex
import socket
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from files import typed
from machine import programs
from settings import serving

PROTOCOL = 3
FAKE = 'fake'  # the description's ``dataset`` of a server started with --fake
# FD and SAT, released code: one server per machine and batch size, on an abstract Unix socket.
DEFAULT_ADDRESS = 'ipc://@imagenet-train-b{}'
USER = 'trainer'  # the user name at the data socket; the password is the job's key

LEASE = 30.0  # seconds that a claim lasts after its last hello
RENEWAL = 5.0  # seconds between the hellos of a process
LONGEST_REQUEST, LONGEST_ANSWER = 1 << 14, 1 << 26  # bytes; an answer names all classes
WAITING = 4  # requests, and answers, of each connection; more wait on the other side or are dropped


def default_data_address(batch: Optional[int]) -> str:
    """Address of the server that makes batches of ``batch`` images on this machine."""
    return DEFAULT_ADDRESS.format(batch)


def info_address(address: str) -> str:
    """Address of the questions that belongs to a data address.

    Raises:
        ValueError: ``address`` is neither ``ipc://<name>`` nor ``tcp://<host>:<port>``.
    """
    if re.fullmatch(r'ipc://.+', address):
        return address + '-info'
    tcp = re.fullmatch(r'(tcp://.+:)(\d+)', address)
    if tcp and 0 < int(tcp.group(2)) < 65535:
        return tcp.group(1) + str(int(tcp.group(2)) + 1)
    raise ValueError("--address {!r}: choose ipc://@<name>, ipc://<path> or tcp://<host>:<port> with a port "
                     "below 65535".format(
        address))


def server_command(expected: Mapping[str, Any], address: str, shard: Sequence[int] = (0, 1)) -> str:
    """The command line that starts a server as a trainer expects it (see ``Lease``); DIR stands for the data set of one
    that would take the server's."""
    words = []
    dataset = expected.get('dataset', 'DIR')
    if dataset == FAKE:
        words.append('--fake')
    elif dataset != 'digits':
        words += ['--data', dataset]
    words += serving.flags_for(expected)
    if shard[1] > 1:
        words += ['--shard', '{}/{}'.format(*shard)]
    if address != default_data_address(expected.get('batch')):
        words += ['--address', address]
    return programs.spelt(' '.join(['.venv/bin/python third_party/serve-data.py', *map(shlex.quote, words)]))


class Job(NamedTuple):
    """A training job, the same in all its processes and different from every other.

    name (str): shown to others. key (str): known to its processes and to the servers that they claim.
    """
    name: str
    key: str


def new_job() -> Job:
    """A job with a name and a key that no other has."""
    return Job('{}-{}-{}'.format(socket.gethostname(), os.getpid(), secrets.token_hex(4)), secrets.token_hex(16))


def _line(longest: int) -> typed.Check:
    """Check for a text that may be printed as a part of a line."""
    def check(value: Any, where: str) -> str:
        found = typed.text(longest)(value, where)
        if not (found and found.isascii() and found.isprintable()):
            raise typed.Malformed('{}: {} is empty or not of printable ASCII'.format(where, typed.shown(value)))
        return found
    return check


_word = _line(255)


def _shard(value: Any, where: str) -> List[int]:
    index, count = typed.list_of(typed.whole(0, 10 ** 6), 2, shortest=2)(value, where)
    if index >= count:
        raise typed.Malformed('{}: there is no part {} of {}'.format(where, index, count))
    return [index, count]


REQUEST = typed.record({'request': typed.one_of('hello', 'bye'), 'job': _word, 'key': _word, 'process': _word,
                        'host': _word, 'pid': typed.whole(1, 2 ** 31), 'like': _word}, maybe=('like',))
ANSWER = typed.record({'description': typed.record({'protocol': typed.whole(0, 10 ** 6)}, others=typed.anything),
                       'refused': _line(2000), 'left': typed.number(0, 1e6)}, maybe=('description', 'refused', 'left'))
_NAME = typed.text(4096)


def check_description(value: Any, where: str) -> Dict[str, Any]:
    """Check, in the manner of ``typed``, of a server's description; what it says of options is checked as they say."""
    return typed.record({
        'protocol': typed.whole(PROTOCOL, PROTOCOL), 'server': _word, 'fingerprint': _word, 'shared': _word,
        'dtype': typed.one_of('uint8'), 'channels': typed.one_of('BGR'), 'num_images': typed.whole(1, 10 ** 12),
        'shard': _shard, 'classes': typed.list_of(_NAME, 10 ** 6), 'dataset': _NAME, **serving.described(),
    }, maybe=serving.perhaps_described())(value, where)
