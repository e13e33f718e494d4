"""The trainer's side of the handshake: a claim on a data server, and whether a job's servers fit together."""
import collections
import json
import math
import os
import re
import secrets
import socket
import threading
import time
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

import zmq

from data import handshake
from files import typed

_PATIENCE = 100  # milliseconds until a wait looks whether it should end
_LOOK = 0.5  # seconds between two looks at whether a server has become free


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

    def __init__(self, address: str, expected: Mapping[str, Any], job: handshake.Job, timeout: float = 60.0,
                 warn: Callable[[str], None] = lambda text: None) -> None:
        self.address, self.job, self._warn = address, job, warn
        self.lost: Optional[str] = None
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

    def __enter__(self) -> 'Lease':
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Give the claim up. A server that has ended, or does not answer within a second, is fine. May be repeated."""
        if not self._closing.is_set():
            self._closing.set()
            self._thread.join()
            self._ask('bye', 1.0)
            self._context.destroy(linger=0)

    def receiver(self, context: Any, hwm: int) -> Any:
        """A PULL socket that gets the server's batches, ``hwm`` of them waiting at most."""
        pull = context.socket(zmq.PULL)
        pull.linger, pull.rcvhwm = 0, hwm
        pull.plain_username, pull.plain_password = handshake.USER.encode(), self.job.key.encode()
        pull.connect(self.address)
        return pull

    def _claim(self, expected: Mapping[str, Any], timeout: float) -> Dict[str, Any]:
        deadline = time.monotonic() + timeout
        answer, left = self._ask('hello', timeout), math.inf
        # A job that was killed leaves a lease that runs out; a living one renews it.
        while answer and answer.get('left', left) < left and time.monotonic() < deadline:
            left = answer['left']
            time.sleep(_LOOK)
            answer = self._ask('hello', timeout)
        if answer is None:
            raise ValueError('no data server answered at {} within {:g} s{}; start one on this machine:  {}'.format(
                self.address, timeout, _others(self.address), handshake.server_command(expected, self.address)))
        if 'refused' in answer:
            raise ValueError('the data server refused this run: {}'.format(answer['refused']))
        try:
            return self._checked(answer.get('description', {}), expected)
        except ValueError:
            self._ask('bye', 1.0)
            raise

    def _checked(self, found: Dict[str, Any], expected: Mapping[str, Any]) -> Dict[str, Any]:
        """A server's description that is what this run needs. Raises: ValueError."""
        if found.get('protocol', handshake.PROTOCOL) != handshake.PROTOCOL:
            raise ValueError('the data server at {} speaks protocol {}, this program {}; start both from the same '
                             'checkout'.format(self.address, found['protocol'], handshake.PROTOCOL))
        try:
            found = handshake.check_description(found, 'its description')
        except typed.Malformed as error:
            raise ValueError('what answers at {} is not a data server of this project: {}'.format(
                handshake.info_address(self.address), error)) from None
        differences = [_difference(field, found.get(field), value) for field, value in expected.items()
                       if found.get(field) != value]
        if differences:
            raise ValueError('the data server at {} does not fit this run: {}; start it with:  {}'.format(
                self.address, '; '.join(differences), handshake.server_command(expected, self.address, found['shard'])))
        return found

    def _renew(self) -> None:
        server = self.description['server']
        while not self._closing.wait(handshake.RENEWAL):
            answer = self._ask('hello', handshake.RENEWAL, like=self.description['fingerprint']) or {}
            lost = answer.get('refused')
            if lost and not self.lost:
                self._warn('the data server at {} feeds this run no longer: {}'.format(self.address, lost))
            self.lost = lost
            now = answer.get('description', {}).get('server', server)
            if now != server:
                self._warn('the data server at {} was started again and is at the beginning of its order of '
                           'images'.format(self.address))
            server = now

    def _ask(self, request: str, timeout: float, **more: Any) -> Optional[Dict[str, Any]]:
        """Returns: the answer, checked; None if there was none in time; {} if it is none of a data server."""
        with self._context.socket(zmq.REQ) as sock:
            sock.linger, sock.maxmsgsize = 0, handshake.LONGEST_ANSWER
            try:
                sock.connect(handshake.info_address(self.address))
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
                return typed.parse(frames[0] if len(frames) == 1 else b'', handshake.ANSWER, 'the answer')
            except typed.Malformed:
                return {}


def check_servers(servers: Sequence[Mapping[str, Any]]) -> None:
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
        raise ValueError('the data servers of this job do not serve parts of one data set: {}; give all the same '
                         'images and flags'.format(', '.join(
                             'that of {host} has {num_images} images'.format(**found) for found in of_server.values())))
    if len(set(ranks_of.values())) > 1:
        raise ValueError('the data servers of this job feed {} ranks, so their parts would not be used up together; '
                         'start as many ranks on each machine, or one server for all with --address '
                         'tcp://*:<port>'.format(' and '.join(map(str, sorted(ranks_of.values())))))


def _difference(field: str, found: Any, wanted: Any) -> str:
    if field == 'classes' and found is not None:
        pairs = list(zip(found, wanted))
        changed = sum(a != b for a, b in pairs) + abs(len(found) - len(wanted))
        return "classes: {} of the server's {} and this run's {} differ".format(changed, len(found), len(wanted))
    return "{}: server {!r}, this run {!r}".format(field, found, wanted)


def _others(address: str) -> str:
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
