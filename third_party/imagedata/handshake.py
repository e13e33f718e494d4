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
import collections
import hashlib
import hmac
import json
import math
import os
import re
import secrets
import shlex
import socket
import threading
import time
from typing import NamedTuple

import zmq

from third_party import typed

PROTOCOL = 3
FAKE = 'fake'  # the description's ``dataset`` of a server started with --fake
# FD and SAT, released code: one server per machine and batch size, on an abstract Unix socket.
DEFAULT_ADDRESS = 'ipc://@imagenet-train-b{}'
USER = 'trainer'  # the user name at the data socket; the password is the job's key

LEASE = 30.0  # seconds that a claim lasts after its last hello
RENEWAL = 5.0  # seconds between the hellos of a process
# Processes of one job that a server feeds; beyond any machine's GPUs, and a bound on what a stranger can have stored.
MOST_PROCESSES = 10000
_PATIENCE = 100  # milliseconds until a wait looks whether it should end
_LOOK = 0.5  # seconds between two looks at whether a server has become free
LONGEST_REQUEST, LONGEST_ANSWER = 1 << 14, 1 << 26  # bytes; an answer names all classes
WAITING = 4  # requests, and answers, of each connection; more wait on the other side or are dropped


def default_data_address(batch):
    """Address of the server that makes batches of ``batch`` images on this machine."""
    return DEFAULT_ADDRESS.format(batch)


def info_address(address):
    """Address of the questions that belongs to a data address.

    Raises:
        ValueError: ``address`` is neither ``ipc://<name>`` nor ``tcp://<host>:<port>``.
    """
    if re.fullmatch(r'ipc://.+', address):
        return address + '-info'
    tcp = re.fullmatch(r'(tcp://.+:)(\d+)', address)
    if tcp and 0 < int(tcp.group(2)) < 65535:
        return tcp.group(1) + str(int(tcp.group(2)) + 1)
    raise ValueError("--address {!r}: choose ipc://@<name>, ipc://<path> or tcp://<host>:<port> with a port below 65535".format(
        address))


def server_command(expected, address, shard=(0, 1)):
    """The command line that starts a server as a trainer expects it (see ``connect``)."""
    words = ['.venv/bin/python', 'third_party/serve-data.py']
    dataset = expected.get('dataset', 'digits')
    if dataset == FAKE:
        words.append('--fake')
    elif dataset != 'digits':
        words += ['--data', dataset]
    for field in ('batch', 'input_size', 'augmentation', 'augment_name', 'randaug_num_layers', 'randaug_magnitude'):
        if expected.get(field) is not None:
            words += ['--' + field.replace('_', '-'), str(expected[field])]
    if expected.get('seed'):
        words += ['--seed', str(expected['seed'])]
    if shard[1] > 1:
        words += ['--shard', '{}/{}'.format(*shard)]
    if address != default_data_address(expected.get('batch')):
        words += ['--address', address]
    return ' '.join(shlex.quote(word) for word in words)


class Job(NamedTuple):
    """A training job, the same in all its processes and different from every other.

    name (str): shown to others. key (str): known to its processes and to the servers that they claim.
    """
    name: str
    key: str


def new_job():
    """A job with a name and a key that no other has."""
    return Job('{}-{}-{}'.format(socket.gethostname(), os.getpid(), secrets.token_hex(4)), secrets.token_hex(16))


def _line(longest):
    """Check for a text that may be printed as a part of a line."""
    def check(value, where):
        found = typed.text(longest)(value, where)
        if not (found and found.isascii() and found.isprintable()):
            raise typed.Malformed('{}: {} is empty or not of printable ASCII'.format(where, typed.shown(value)))
        return found
    return check


_word = _line(255)


def _shard(value, where):
    index, count = typed.list_of(typed.whole(0, 10 ** 6), 2, shortest=2)(value, where)
    if index >= count:
        raise typed.Malformed('{}: there is no part {} of {}'.format(where, index, count))
    return [index, count]


_REQUEST = typed.record({'request': typed.one_of('hello', 'bye'), 'job': _word, 'key': _word, 'process': _word,
                         'host': _word, 'pid': typed.whole(1, 2 ** 31), 'like': _word}, maybe=('like',))
_ANSWER = typed.record({'description': typed.record({'protocol': typed.whole(0, 10 ** 6)}, others=typed.anything),
                        'refused': _line(2000), 'left': typed.number(0, 1e6)}, maybe=('description', 'refused', 'left'))
_NAME = typed.text(4096)
_DESCRIPTION = typed.record({
    'protocol': typed.whole(PROTOCOL, PROTOCOL), 'server': _word, 'fingerprint': _word, 'shared': _word,
    'batch': typed.whole(1, 10 ** 6), 'input_size': typed.whole(1, 10 ** 5), 'dtype': typed.one_of('uint8'),
    'channels': typed.one_of('BGR'), 'num_images': typed.whole(1, 10 ** 12), 'shard': _shard,
    'classes': typed.list_of(_NAME, 10 ** 6), 'dataset': _NAME, 'augmentation': _NAME,
    'seed': typed.whole(0, 2 ** 128), 'fake': typed.truth,
    'augment_name': typed.optional(_NAME), 'randaug_num_layers': typed.optional(typed.whole(1, 10 ** 6)),
    'randaug_magnitude': typed.optional(typed.whole(0, 10 ** 6)),
}, maybe=('augment_name', 'randaug_num_layers', 'randaug_magnitude'))


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

    def __init__(self, address, description):
        self._fingerprint = _digest(description)
        self._answer_to_hello = json.dumps({'description': dict(
            description, protocol=PROTOCOL, server=secrets.token_hex(8), fingerprint=self._fingerprint,
            shared=_digest(dict(description, shard=None)))}).encode()
        self.claims = Claims(address)
        self._context = zmq.Context()
        # Trainers ask with REQ sockets. A REP socket would go deaf for good on a message without a REQ's envelope.
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        # A longer message ends its connection before it takes memory.
        self._socket.maxmsgsize = LONGEST_REQUEST
        self._socket.rcvhwm = self._socket.sndhwm = WAITING
        try:
            self._socket.bind(info_address(address))
        except (zmq.ZMQError, ValueError):
            self._context.destroy(linger=0)
            raise
        self._thread = threading.Thread(target=self._answer_all, name='info', daemon=True)
        self._thread.start()

    def close(self):
        """Stop answering and free the address."""
        self._context.term()  # ends the thread's recv with ContextTerminated, and waits until its socket is closed
        self._thread.join()

    def _answer_all(self):
        with self._socket:
            while True:
                try:
                    sender, *frames = self._socket.recv_multipart()
                    self._socket.send_multipart([sender, b'', self._answer(frames)])
                except zmq.ContextTerminated:
                    return

    def _answer(self, frames):
        envelope, *content = frames or [b'']
        try:
            request = typed.parse(content[0] if envelope == b'' and len(content) == 1 else b'', _REQUEST, 'a request')
        except typed.Malformed as error:
            return _refusal('malformed request: {}'.format(error))
        if request['request'] == 'bye':
            self.claims.release(request['key'], request['process'])
            return b'{}'
        if request.get('like', self._fingerprint) != self._fingerprint:
            return _refusal('it serves something else than when this run began')
        refusal = self.claims.claim(request)
        return _refusal(*refusal) if refusal else self._answer_to_hello


def _digest(description):
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _refusal(reason, left=None):
    return json.dumps({'refused': reason} if left is None else {'refused': reason, 'left': left}).encode()


class Claims:
    """Which job a server feeds: that of the processes whose leases have not run out. For any thread.

    Args:
        address (str): named in refusals.
        clock: () -> seconds.
        on_new_job: called, with the lock held, when a job other than the last one gets the server.
    """

    def __init__(self, address, clock=time.monotonic, on_new_job=lambda: None):
        self._address, self._clock, self.on_new_job = address, clock, on_new_job
        self._lock = threading.Lock()
        self._leases = {}  # process: (request, when it runs out); all of one key
        self._last_key = None

    def claim(self, request):
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
            self._leases[request['process']] = request, self._clock() + LEASE
            if self._last_key not in (None, request['key']):
                self.on_new_job()
            self._last_key = request['key']
            return None

    def release(self, key, process):
        """End a process's lease."""
        with self._lock:
            if process in self._leases and hmac.compare_digest(self._leases[process][0]['key'], key):
                del self._leases[process]

    def admits(self, key):
        """Whether ``key`` (bytes) is that of the job that is fed."""
        with self._lock:
            self._forget_lapsed()
            return any(hmac.compare_digest(holder['key'].encode(), key) for holder, _ in self._leases.values())

    def _forget_lapsed(self):
        now = self._clock()
        self._leases = {process: lease for process, lease in self._leases.items() if lease[1] > now}


class Lease:
    """This process's claim on a data server, renewed by a thread until it is closed. A context manager.

    Make one in every process that will pull batches; nothing is forked.

    Args:
        address (str): the data address.
        expected (dict): what this run needs, any of the description's fields; a field left out is not checked.
        job (Job): the same in all its processes.
        timeout (float): seconds to wait for an answer, and for the lease of a job that seems to have ended without a
            bye; a server that is still starting is waited for.
        warn: (str) -> None, called by the thread when something changes.
    Attributes:
        address, job: as given.
        description (dict): protocol, batch, input_size, dtype ('uint8'), channels ('BGR'), num_images (of the whole
            data set, whatever the shard), shard ([I, N]; [0, 1] is everything), classes (list of str), dataset (see
            ``ImageSet.name``; 'fake' for constant data), augmentation and the fields of ``describe_policy``, seed, fake
            (bool), server (str, no other's), fingerprint (str, of what it serves), shared (str, the same without
            shard).
        lost (str or None): why this process is no longer fed.
    Raises:
        ValueError: no answer, another job has the server, or a field differs.
    """

    def __init__(self, address, expected, job, timeout=60.0, warn=lambda text: None):
        self.address, self.job, self.lost, self._warn = address, job, None, warn
        self._process = secrets.token_hex(8)
        self._context = zmq.Context()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._renew, name='lease', daemon=True)
        try:
            self.description = self._claim(expected, timeout)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Give the claim up. A server that has ended, or does not answer within a second, is fine. May be repeated."""
        if not self._closing.is_set():
            self._closing.set()
            self._thread.join()
            self._ask('bye', 1.0)
            self._context.destroy(linger=0)

    def receiver(self, context, hwm):
        """A PULL socket that gets the server's batches, ``hwm`` of them waiting at most."""
        pull = context.socket(zmq.PULL)
        pull.linger, pull.rcvhwm = 0, hwm
        pull.plain_username, pull.plain_password = USER.encode(), self.job.key.encode()
        pull.connect(self.address)
        return pull

    def _claim(self, expected, timeout):
        deadline = time.monotonic() + timeout
        answer, left = self._ask('hello', timeout), math.inf
        # A job that was killed leaves a lease that runs out; a living one renews it.
        while answer and answer.get('left', left) < left and time.monotonic() < deadline:
            left = answer['left']
            time.sleep(_LOOK)
            answer = self._ask('hello', timeout)
        if answer is None:
            raise ValueError('no data server answered at {} within {:g} s{}; start one on this machine:  {}'.format(
                self.address, timeout, _others(self.address), server_command(expected, self.address)))
        if 'refused' in answer:
            raise ValueError('the data server refused this run: {}'.format(answer['refused']))
        try:
            return self._checked(answer.get('description', {}), expected)
        except ValueError:
            self._ask('bye', 1.0)
            raise

    def _checked(self, found, expected):
        """A server's description that is what this run needs. Raises: ValueError."""
        if found.get('protocol', PROTOCOL) != PROTOCOL:
            raise ValueError('the data server at {} speaks protocol {}, this program {}; start both from the same '
                             'checkout'.format(self.address, found['protocol'], PROTOCOL))
        try:
            found = _DESCRIPTION(found, 'its description')
        except typed.Malformed as error:
            raise ValueError('what answers at {} is not a data server of this project: {}'.format(
                info_address(self.address), error)) from None
        differences = [_difference(field, found.get(field), value) for field, value in expected.items()
                       if found.get(field) != value]
        if differences:
            raise ValueError('the data server at {} does not fit this run: {}; start it with:  {}'.format(
                self.address, '; '.join(differences), server_command(expected, self.address, found['shard'])))
        return found

    def _renew(self):
        server = self.description['server']
        while not self._closing.wait(RENEWAL):
            answer = self._ask('hello', RENEWAL, like=self.description['fingerprint']) or {}
            lost = answer.get('refused')
            if lost and not self.lost:
                self._warn('the data server at {} feeds this run no longer: {}'.format(self.address, lost))
            self.lost = lost
            now = answer.get('description', {}).get('server', server)
            if now != server:
                self._warn('the data server at {} was started again and is at the beginning of its order of '
                           'images'.format(self.address))
            server = now

    def _ask(self, request, timeout, **more):
        """Returns: the answer, checked; None if there was none in time; {} if it is none of a data server."""
        with self._context.socket(zmq.REQ) as sock:
            sock.linger, sock.maxmsgsize = 0, LONGEST_ANSWER
            try:
                sock.connect(info_address(self.address))
            except zmq.ZMQError as error:
                raise ValueError('no data server can be at {}: {}'.format(self.address, error.strerror)) from None
            sock.send(json.dumps(dict(more, request=request, job=self.job.name, key=self.job.key, process=self._process,
                                      host=socket.gethostname(), pid=os.getpid())).encode())
            deadline = time.monotonic() + timeout
            while not sock.poll(_PATIENCE):
                if time.monotonic() >= deadline or request == 'hello' and self._closing.is_set():
                    return None
            try:
                frames = sock.recv_multipart()
                return typed.parse(frames[0] if len(frames) == 1 else b'', _ANSWER, 'the answer')
            except typed.Malformed:
                return {}


def check_servers(servers):
    """Check that the data servers of one job together serve every image equally often.

    Args:
        servers (list of dict): for each rank ``server``, ``shard``, ``shared``, ``num_images`` and ``fake`` of its
            server's description, and ``host``, where it runs.
    Raises:
        ValueError: machines would learn from the same batches or from different data sets, a part of the images has no
            server, or the parts would not be used up together. It names the --shard of each server.
    """
    if all(found['fake'] for found in servers):
        return
    ranks_of = collections.Counter(found['server'] for found in servers)
    of_server = {found['server']: found for found in servers}  # in the order of the ranks
    shards = [tuple(found['shard']) for found in of_server.values()]
    wanted = [(index, len(shards)) for index in range(len(shards))]
    if len(shards) == 1 and shards != wanted:
        raise ValueError('the data server of this job serves part {} of {} only; start it without --shard, or one for '
                         'each part'.format(*shards[0]))
    if sorted(shards) != wanted:
        problem = 'the same batches in the same order' if set(shards) == {(0, 1)} else 'the parts {}'.format(
            ', '.join('{}/{}'.format(*shard) for shard in shards))
        raise ValueError('{} data servers of this job serve {}; start {}'.format(len(shards), problem, ', '.join(
            'that of {} with --shard {}/{}'.format(found['host'], *shard)
            for found, shard in zip(of_server.values(), wanted))))
    if len({found['shared'] for found in of_server.values()}) > 1:
        raise ValueError('the data servers of this job do not serve parts of one data set: {}; give all the same images '
                         'and flags'.format(', '.join(
                             'that of {host} has {num_images} images'.format(**found) for found in of_server.values())))
    if len(set(ranks_of.values())) > 1:
        raise ValueError('the data servers of this job feed {} ranks, so their parts would not be used up together; '
                         'start as many ranks on each machine, or one server for all with --address '
                         'tcp://*:<port>'.format(' and '.join(map(str, sorted(ranks_of.values())))))


def _difference(field, found, wanted):
    if field == 'classes' and found is not None:
        pairs = list(zip(found, wanted))
        changed = sum(a != b for a, b in pairs) + abs(len(found) - len(wanted))
        return "classes: {} of the server's {} and this run's {} differ".format(changed, len(found), len(wanted))
    return "{}: server {!r}, this run {!r}".format(field, found, wanted)


def _others(address):
    """Names the other default servers of this machine; the batch size is part of their address."""
    if not address.startswith('ipc://@'):
        return ''
    try:
        with open('/proc/net/unix', encoding='ascii', errors='replace') as table:
            names = re.findall(r'\s@(imagenet-train-b\d+)@*$', table.read(), re.MULTILINE)
    except OSError:
        return ''
    others = sorted({'ipc://@' + name for name in names} - {address})
    return " (running here: {}; the number is the batch)".format(', '.join(others)) if others else ''
