"""What a data server tells its trainers before the first batch, and what both refuse.

Batches travel over a PUSH/PULL pair whose messages say nothing about their origin. Beside it the server answers JSON
requests on a second address, so that a trainer finds out at once that it would learn from the wrong data, and two jobs
never take each other's batches. The released programs have no such check. Ours, with these addresses:

    data  ipc://@imagenet-train-b32        info  ipc://@imagenet-train-b32-info
    data  tcp://host:5000                  info  tcp://host:5001
"""
import collections
import json
import os
import re
import secrets
import shlex
import socket
import threading

import zmq

PROTOCOL = 2
FAKE = 'fake'  # the description's ``dataset`` of a server started with --fake
# FD and SAT, released code: one server per machine and batch size, on an abstract Unix socket.
DEFAULT_ADDRESS = 'ipc://@imagenet-train-b{}'


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


def server_command(expected, address):
    """The command line that starts a server as a trainer expects it (see ``connect``); DIR stands for the data set of
    one that would take the server's."""
    words = ['.venv/bin/python', 'third_party/serve-data.py']
    dataset = expected.get('dataset', 'DIR')
    if dataset == FAKE:
        words.append('--fake')
    elif dataset != 'digits':
        words += ['--data', dataset]
    for field in ('batch', 'input_size', 'augmentation', 'augment_name', 'randaug_num_layers', 'randaug_magnitude'):
        if expected.get(field) is not None:
            words += ['--' + field.replace('_', '-'), str(expected[field])]
    if expected.get('format') == 'tensorpack':
        words.append('--no-zmq-ops')
    if address != default_data_address(expected.get('batch')):
        words += ['--address', address]
    return ' '.join(shlex.quote(word) for word in words)


class InfoServer:
    """Answers trainers in a thread of its own until closed.

    Requests are JSON objects with ``request`` ('hello' or 'bye'), ``job``, ``host`` and ``pid``. The answer to 'hello' is
    ``{"description": ...}``, or ``{"refused": reason}`` while a process of another job holds the server.

    Args:
        address (str): the *data* address.
        description (dict): JSON values, see ``connect``.
    Raises:
        ValueError: malformed address. zmq.ZMQError: the info address cannot be bound.
    """

    def __init__(self, address, description):
        self._description = dict(description, protocol=PROTOCOL, server=secrets.token_hex(8))
        self._claims = Claims(address)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.linger = 0
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
                    self._socket.send(json.dumps(self._answer(self._socket.recv())).encode())
                except zmq.ContextTerminated:
                    return

    def _answer(self, message):
        try:
            request = json.loads(message)
            kind, job, process = request['request'], str(request['job']), (str(request['host']), int(request['pid']))
        except (ValueError, KeyError, TypeError):
            return {'refused': 'malformed request'}
        if kind == 'bye':
            self._claims.release(job, process)
            return {}
        refusal = self._claims.claim(job, process)
        return {'refused': refusal} if refusal else {'description': self._description}


class Claims:
    """Which job a server feeds: the job of any registered process that still lives."""

    def __init__(self, address):
        self._address = address
        self._job_of = {}  # (host, pid): job

    def claim(self, job, process):
        """Register a process, a (host, pid) pair. Returns: None, or why not."""
        self._job_of = {other: its_job for other, its_job in self._job_of.items() if _alive(*other)}
        for (host, pid), its_job in self._job_of.items():
            if its_job != job:
                return ("{} already feeds job {} (host {}, pid {}); wait until that ends, or start another server for this job "
                        "with --address".format(self._address, its_job, host, pid))
        self._job_of[process] = job
        return None

    def release(self, job, process):
        if self._job_of.get(process) == job:
            del self._job_of[process]


def _alive(host, pid):
    """False if a process of this machine has ended; a process of another machine lives until it says bye."""
    if host != socket.gethostname():
        return True
    try:
        with open('/proc/{}/stat'.format(pid), 'rb') as stat:
            return stat.read().rpartition(b')')[2].split()[0] not in (b'Z', b'X')  # ended, but not yet collected
    except OSError:
        return False


def connect(address, expected, job, timeout=60.0):
    """Ask a data server what it serves, and claim it for a job. Call in every process that will pull batches.

    Args:
        address (str): the data address.
        expected (dict): what this run needs, any of the description's fields; a field left out is not checked.
        job (str): name of the job, the same in all its processes and in no other job.
        timeout (float): seconds to wait for an answer; a server that is still starting is waited for.
    Returns:
        description (dict): protocol, batch, input_size, dtype ('uint8'), channels ('BGR'), num_images (of the whole
        data set, whatever the shard), shard ([I, N]; [0, 1] is everything), classes (list of str), dataset (see
        ``ImageSet.name``; 'fake' for constant data), augmentation and the fields of ``describe_policy``, format
        ('zmq_ops' or 'tensorpack'), seed, fake (bool), server (str, no other's).
    Raises:
        ValueError: no answer, another job holds the server, or a field differs.
    """
    answer = _ask(address, 'hello', job, timeout)
    if answer is None:
        raise ValueError("no data server answered at {} within {:g} s{}; start one on this machine:  {}".format(
            address, timeout, _others(address), server_command(expected, address)))
    if 'refused' in answer:
        raise ValueError("the data server refused this run: {}".format(answer['refused']))
    try:
        found = answer['description']
        if found['protocol'] != PROTOCOL:
            raise ValueError("the data server at {} speaks protocol {}, this program {}; start both from the same checkout"
                             .format(address, found['protocol'], PROTOCOL))
    except (KeyError, TypeError):
        raise ValueError("what answers at {} is not a data server of this project".format(info_address(address))) from None
    differences = [_difference(field, found.get(field), value) for field, value in expected.items()
                   if found.get(field) != value]
    if differences:
        goodbye(address, job)
        raise ValueError("the data server at {} does not fit this run: {}; start it with:  {}".format(
            address, '; '.join(differences), server_command(expected, address)))
    return found


def check_servers(servers):
    """Whether the data servers of one job together serve what they should.

    Args:
        servers (list of dict): for each rank what ``connect`` has returned to it.
    Returns:
        None, or a warning (str): machines learn from the same batches.
    Raises:
        ValueError: a part of the images has no server, or the parts would not be served equally often.
    """
    ranks_of = collections.Counter((found['server'], *found['shard'], found['seed']) for found in servers)
    counts = {count for _, _, count, _ in ranks_of}
    parts = collections.Counter((index, seed) for _, index, _, seed in ranks_of)
    if len(counts) > 1:
        raise ValueError("the data servers of this job were started with different N in --shard I/N ({}); give all the "
                         "number of servers".format(', '.join(map(str, sorted(counts)))))
    count = counts.pop()
    if count == 1:
        twice = any(number > 1 for number in parts.values()) and not servers[0]['fake']
        return ("{} data servers of this job serve the same batches in the same order; start them with --shard 0/{}, 1/{} "
                "... or with different --seed".format(len(ranks_of), len(ranks_of), len(ranks_of))) if twice else None
    found = sorted(index for _, index, _, _ in ranks_of)
    if found != list(range(count)):
        raise ValueError("the data servers of this job serve the parts {} of --shard I/{}, not each of 0 to {} once".format(
            ', '.join(map(str, found)), count, count - 1))
    if len(set(ranks_of.values())) > 1:
        raise ValueError("the data servers of this job feed {} ranks, so the parts of --shard I/{} would not be used up "
                         "together; start as many ranks on each machine, or the servers without --shard".format(
                             ' and '.join(map(str, sorted(ranks_of.values()))), count))
    return None


def goodbye(address, job, timeout=2.0):
    """Give up this process's claim. A server that has ended, or does not answer in ``timeout`` seconds, is fine."""
    _ask(address, 'bye', job, timeout)


def _ask(address, request, job, timeout):
    """Returns: the decoded answer; None if there was none in time; {} if it is not a JSON object."""
    endpoint = info_address(address)
    context = zmq.Context()
    try:
        sock = context.socket(zmq.REQ)
        sock.linger = 0
        sock.connect(endpoint)
        sock.send(json.dumps({'request': request, 'job': job, 'host': socket.gethostname(), 'pid': os.getpid()}).encode())
        if not sock.poll(int(timeout * 1000)):
            return None
        answer = json.loads(sock.recv())
        return answer if isinstance(answer, dict) else {}
    except ValueError:
        return {}
    finally:
        context.destroy(linger=0)


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
