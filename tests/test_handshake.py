"""handshake.py, info_server.py, lease.py of data/: what trainers and data servers refuse and survive."""
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import zmq
from hypothesis import HealthCheck, given, settings, strategies as st

from data import handshake, info_server
from data.info_server import Claims, InfoServer
from files import typed
from third_party.imagenet_utils import (
    Job,
    Lease,
    check_servers,
    default_data_address,
    describe_policy,
    info_address,
    make_policy,
    new_job,
)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DESCRIPTION = {'batch': 32, 'input_size': 224, 'dtype': 'uint8', 'channels': 'BGR', 'num_images': 5, 'shard': [0, 1],
               'classes': ['ant', 'bee', 'cow'], 'dataset': '/data/imagenet', 'augmentation': 'imagenet', 'seed': 0,
               'fake': False, 'augment_name': 'randaugment', 'randaug_num_layers': 2, 'randaug_magnitude': 10}
FIRST, SECOND = Job('first job', 'the first key'), Job('second job', 'the second key')
HELLO = {'request': 'hello', 'job': 'first job', 'key': 'the first key', 'process': 'one', 'host': 'here', 'pid': 7}

# A trainer of the job in argv[2:] that claims the server at argv[1] and then waits.
TRAINER = """
import sys, time
from data import handshake, lease
handshake.RENEWAL = 0.5
lease = lease.Lease(sys.argv[1], {}, handshake.Job(*sys.argv[2:]), 20)
print('claimed', flush=True)
time.sleep(60)
"""


@pytest.fixture
def address():
    return 'ipc://@imagenet-train-b{}'.format(secrets.randbelow(10 ** 9) + 10 ** 9)


@pytest.fixture
def server(address):
    server = InfoServer(address, DESCRIPTION)
    yield server
    server.close()


@pytest.fixture
def short_leases(monkeypatch):
    """Leases of a second, renewed every fifth of one."""
    monkeypatch.setattr(handshake, 'LEASE', 1.0)
    monkeypatch.setattr(handshake, 'RENEWAL', 0.2)


def described(address, expected, job=FIRST, timeout=10):
    """The description that a trainer gets, which then leaves."""
    with Lease(address, expected, job, timeout) as lease:
        return lease.description


def start_trainer(address, job):
    trainer = subprocess.Popen([sys.executable, '-c', TRAINER, address, *job], cwd=ROOT, stdout=subprocess.PIPE)
    assert trainer.stdout.readline() == b'claimed\n'
    return trainer


def ask(address, *frames):
    """Send bytes, or a dict as JSON, without the module under test."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(info_address(address))
        socket.send_multipart([frame if isinstance(frame, bytes) else json.dumps(frame).encode() for frame in frames])
        assert socket.poll(10000)
        return json.loads(socket.recv())


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def one_line(error):
    assert '\n' not in str(error.value)
    return str(error.value)


def test_addresses_are_those_of_the_released_code():
    assert default_data_address(32) == 'ipc://@imagenet-train-b32'
    assert info_address('ipc://@imagenet-train-b32') == 'ipc://@imagenet-train-b32-info'
    assert info_address('tcp://*:5000') == 'tcp://*:5001' and info_address('tcp://host:5000') == 'tcp://host:5001'


@pytest.mark.parametrize('wrong', ['imagenet', 'tcp://host', 'tcp://host:65535', 'ipc://', 'udp://host:1', 'tcp://host:x'])
def test_a_malformed_address_is_refused(wrong):
    with pytest.raises(ValueError, match='--address .*choose ipc://'):
        info_address(wrong)


def test_a_fitting_trainer_gets_the_description(server, address):
    found = described(address, {field: DESCRIPTION[field] for field in DESCRIPTION})
    assert {field: found[field] for field in DESCRIPTION} == DESCRIPTION and found['protocol'] == 3


@pytest.mark.parametrize('field, value, message', [
    ('batch', 64, 'batch: server 32, this run 64'),
    ('input_size', 299, 'input_size: server 224, this run 299'),
    ('dtype', 'float32', "dtype: server 'uint8', this run 'float32'"),
    ('dataset', '/data/other', "dataset: server '/data/imagenet', this run '/data/other'"),
    ('augmentation', 'cifar', "augmentation: server 'imagenet', this run 'cifar'"),
    ('augment_name', 'autoaugment', "augment_name: server 'randaugment', this run 'autoaugment'"),
    ('augment_name', None, "augment_name: server 'randaugment', this run None"),
    ('randaug_num_layers', 3, 'randaug_num_layers: server 2, this run 3'),
    ('randaug_magnitude', 9, 'randaug_magnitude: server 10, this run 9'),
    ('seed', 7, 'seed: server 0, this run 7'),
    ('fake', True, 'fake: server False, this run True'),
    ('classes', ['ant', 'bee', 'dog'], "classes: 1 of the server's 3 and this run's 3 differ"),
    ('classes', ['ant'], "classes: 2 of the server's 3 and this run's 1 differ"),
])
def test_every_difference_is_named(server, address, field, value, message):
    with pytest.raises(ValueError) as error:
        Lease(address, {field: value}, FIRST, 10)
    assert message in one_line(error)


def test_all_differences_and_the_command_are_in_one_line(server, address):
    with pytest.raises(ValueError) as error:
        Lease(address, {'batch': 64, 'input_size': 32, 'augmentation': 'cifar', 'dataset': '/my data', 'seed': 7},
              FIRST, 10)
    text = one_line(error)
    assert 'batch: server 32' in text and 'input_size: server 224' in text
    assert ("third_party/serve-data.py --data '/my data' --batch 64 --input-size 32 --augmentation cifar --seed 7 "
            '--address ' + address) in text


def test_the_command_keeps_the_servers_part_of_the_images(address):
    server = InfoServer(address, dict(DESCRIPTION, shard=[1, 4]))
    with pytest.raises(ValueError, match='--batch 8 --seed 3 --shard 1/4 --address'):
        Lease(address, {'batch': 8, 'seed': 3}, FIRST, 10)
    server.close()


@pytest.mark.parametrize('policy, flags, differ', [
    (('randaugment', 3, 28),
     ['--augment-name', 'randaugment', '--randaug-num-layers', '3', '--randaug-magnitude', '28'],
     ['randaug_num_layers', 'randaug_magnitude']),
    (('autoaugment',), ['--augment-name', 'autoaugment'],
     ['augment_name', 'randaug_num_layers', 'randaug_magnitude']),
    ((None,), [], ['augment_name', 'randaug_num_layers', 'randaug_magnitude'])])
def test_a_trainer_of_another_policy_is_told_all_differences_and_the_command(server, address, policy, flags, differ):
    with pytest.raises(ValueError) as error:
        Lease(address, dict(batch=32, dataset='/data/imagenet', **describe_policy(make_policy(*policy))), FIRST, 10)
    text = one_line(error)
    assert [part.split(':')[0] for part in text.split('does not fit this run: ')[1].split('; ')][:-1] == differ
    words = shlex.split(text.split('serve-data.py ')[1])
    assert words == ['--data', '/data/imagenet', '--batch', '32'] + flags + ['--address', address]


def test_a_trainer_that_names_no_data_set_is_not_told_to_serve_the_digits(server, address):
    with pytest.raises(ValueError) as error:
        Lease(address, {'batch': 64}, FIRST, 10)
    assert one_line(error).endswith('third_party/serve-data.py --data DIR --batch 64 --address ' + address)


def test_a_trainer_of_the_same_policy_is_served(server, address):
    expected = describe_policy(make_policy('randaugment', 2, 10))
    assert described(address, expected)['randaug_magnitude'] == 10


def test_a_server_that_knows_of_no_policies_serves_a_trainer_without_one(address):
    policies = ('augment_name', 'randaug_num_layers', 'randaug_magnitude')
    server = InfoServer(address, {field: value for field, value in DESCRIPTION.items() if field not in policies})
    try:
        described(address, describe_policy(None))
        with pytest.raises(ValueError, match="augment_name: server None, this run 'autoaugment'"):
            Lease(address, describe_policy(make_policy('autoaugment')), FIRST, 10)
    finally:
        server.close()


def test_silence_names_the_command_and_the_other_servers(address, server):
    with pytest.raises(ValueError) as error:
        Lease('ipc://@imagenet-train-b7', {'batch': 7, 'dataset': 'digits'}, FIRST, 0.3)
    text = one_line(error)
    assert 'no data server answered at ipc://@imagenet-train-b7 within 0.3 s' in text
    assert text.endswith('third_party/serve-data.py --batch 7')
    # Only data addresses are listed, and this fixture binds the info address alone.
    assert address not in text
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.bind(address)
    with pytest.raises(ValueError, match='running here: .*' + address):
        Lease('ipc://@imagenet-train-b7', {'batch': 7}, FIRST, 0.3)
    context.destroy(linger=0)


def test_a_server_that_starts_late_is_waited_for(address):
    servers = []
    timer = threading.Timer(0.5, lambda: servers.append(InfoServer(address, DESCRIPTION)))
    timer.start()
    assert described(address, {'batch': 32}, timeout=20)['batch'] == 32
    timer.join()
    servers[0].close()


def test_another_job_is_refused_while_the_first_lives(monkeypatch, server, address):
    monkeypatch.setattr(handshake, 'LEASE', 3.0)
    first = start_trainer(address, FIRST)
    try:
        Lease(address, {}, FIRST, 10).close()  # another process of the same job
        refusal = r'refused.*already feeds job first job \(host .*, pid {}\)'.format(first.pid)
        begin = time.monotonic()
        with pytest.raises(ValueError, match=refusal) as error:
            Lease(address, {}, SECOND, 60)
        one_line(error)
        assert time.monotonic() - begin < 10  # no longer than it takes to see that the job lives
    finally:
        first.kill()
        first.wait()
    Lease(address, {}, SECOND, 10).close()  # waits for the lease of the job that was killed


def test_a_claim_ends_with_its_bye(server, address):
    first = Lease(address, {}, FIRST, 10)
    with pytest.raises(ValueError, match='already feeds job first job'):
        Lease(address, {}, SECOND, 1)
    assert ask(address, dict(HELLO, request='bye', key=SECOND.key)) == {}  # not their claim to give up
    assert ask(address, dict(HELLO, request='bye')) == {}
    with pytest.raises(ValueError, match='already feeds job first job'):
        Lease(address, {}, SECOND, 1)
    first.close()
    first.close()
    Lease(address, {}, SECOND, 10).close()


def test_who_only_knows_a_jobs_name_is_not_of_the_job(server, address):
    with Lease(address, {}, FIRST, 10):
        with pytest.raises(ValueError, match='already feeds job first job'):
            Lease(address, {}, Job(FIRST.name, 'guessed'), 1)
        told = json.dumps(ask(address, dict(HELLO, key='guessed')))
        assert 'first job' in told and FIRST.key not in told


def test_a_strangers_hello_holds_the_server_for_its_lease_only(monkeypatch, server, address):
    monkeypatch.setattr(handshake, 'LEASE', 3.0)
    assert 'description' in ask(address, dict(HELLO, job='far job', host='another-machine', pid=1))
    with pytest.raises(ValueError, match='job far job .host another-machine, pid 1'):
        Lease(address, {}, SECOND, 0.3)
    Lease(address, {}, SECOND, 10).close()


def test_a_claim_is_a_lease_of_the_process_that_renews_it_wherever_it_runs():
    now, jobs = [0.0], []
    claims = Claims('address', clock=lambda: now[0], on_new_job=lambda: jobs.append(now[0]))
    other = dict(HELLO, key='another key', process='two')
    assert claims.claim(HELLO) is None and claims.claim(dict(HELLO, process='second')) is None
    for _ in range(20):
        now[0] += handshake.LEASE / 2
        assert claims.claim(HELLO) is None
        assert 'already feeds' in claims.claim(other)[0] and claims.claim(other)[1] == handshake.LEASE
    now[0] += handshake.LEASE - 0.125
    assert 'already feeds' in claims.claim(other)[0] and claims.claim(other)[1] == 0.125
    assert claims.admits(b'the first key')
    now[0] += 0.2
    assert not claims.admits(b'the first key') and not claims.admits(b'another key') and not claims.admits(b'')
    assert claims.claim(HELLO) is None and not jobs  # the same job again
    now[0] += 2 * handshake.LEASE
    assert claims.claim(other) is None and claims.admits(b'another key') and not claims.admits(b'the first key')
    assert jobs == [now[0]]


def test_the_processes_of_a_job_are_limited(monkeypatch):
    monkeypatch.setattr(info_server, 'MOST_PROCESSES', 3)
    claims = Claims('address')
    assert [claims.claim(dict(HELLO, process=str(k))) for k in range(4)] == [None] * 3 + [
        ('address feeds 3 processes already', None)]
    assert claims.claim(dict(HELLO, process='1')) is None


def test_a_trainer_renews_its_lease(short_leases, server, address):
    with Lease(address, {}, FIRST, 10) as lease:
        time.sleep(2.5)
        assert server.claims.admits(FIRST.key.encode()) and lease.lost is None
    assert not server.claims.admits(FIRST.key.encode())


def test_a_server_that_was_started_again_is_claimed_again_if_it_serves_the_same(short_leases, address):
    said = []
    first = InfoServer(address, DESCRIPTION)
    lease = Lease(address, {}, FIRST, 10, said.append)
    first.close()
    second = InfoServer(address, DESCRIPTION)
    wait_for(lambda: second.claims.admits(FIRST.key.encode()) and said)  # and the trainer has had the answer
    second.close()
    third = InfoServer(address, dict(DESCRIPTION, seed=1))
    wait_for(lambda: lease.lost and len(said) == 2)
    assert not third.claims.admits(FIRST.key.encode())
    lease.close()
    third.close()
    assert len(said) == 2 and 'started again' in said[0] and 'serves something else than when this run began' in said[1]


def test_a_trainer_that_lost_its_server_to_another_job_knows(short_leases, server, address):
    said = []
    with Lease(address, {}, FIRST, 10, said.append) as lease:
        server.claims.release(FIRST.key, lease._process)  # as if it had been suspended for long
        with Lease(address, {}, SECOND, 10):
            wait_for(lambda: lease.lost)
        wait_for(lambda: not lease.lost)
    assert len(said) == 1 and 'already feeds job second job' in said[0]


def test_a_trainer_that_found_a_mismatch_holds_no_claim(server, address):
    with pytest.raises(ValueError, match='batch'):
        Lease(address, {'batch': 1}, FIRST, 10)
    Lease(address, {}, SECOND, 10).close()


MALFORMED = [b'', b'\xff', b'[]', b'{}', b'5', b'null', b'[' * 10000, b'{"a":' * 3000, b'9' * 10000,
             *(dict(HELLO, **wrong) for wrong in (
                 {'pid': 'x'}, {'pid': -1}, {'pid': 1.5}, {'pid': True}, {'pid': 10 ** 30}, {'pid': None}, {'job': 1},
                 {'job': 'x' * 300}, {'job': 'a\nb'}, {'job': '\x1b[2J'}, {'job': '\ud800'}, {'host': ['a']},
                 {'key': ''}, {'request': 'HELLO'}, {'request': ['hello']}, {'process': {}}, {'like': 3}, {'more': 1})),
             json.dumps(HELLO).replace('7', '1e999').encode(), json.dumps(HELLO).replace('7', 'NaN').encode(),
             json.dumps(HELLO).replace('"pid": 7', '"pid": 7, "pid": 8').encode(),
             *(json.dumps({name: value for name, value in HELLO.items() if name != left_out}).encode()
               for left_out in HELLO)]


@pytest.mark.parametrize('message', MALFORMED, ids=lambda message: repr(message)[:60])
def test_malformed_requests_do_not_end_the_server(server, address, message):
    refused = ask(address, message)['refused']
    assert refused.startswith('malformed request') and '\n' not in refused and len(refused) < 500
    assert described(address, {}) and server._thread.is_alive()


def test_messages_of_several_frames_are_refused(server, address):
    for frames in ([HELLO, HELLO], [b'', b''], [HELLO] + [b'x'] * 50):
        assert ask(address, *frames)['refused'].startswith('malformed request')
    assert described(address, {}) and server._thread.is_alive()


def test_connections_that_speak_no_zmq_or_no_requests_are_survived(server, address):
    name = b'\0' + info_address(address)[len('ipc://@'):].encode()
    for content in (b'', b'GET / HTTP/1.1\r\n\r\n', b'\xff' * 5000, os.urandom(5000)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(name)
            connection.sendall(content)
    with zmq.Context() as context:
        for kind in (zmq.DEALER, zmq.PUSH, zmq.PUB, zmq.PAIR, zmq.REQ):
            with context.socket(kind) as stranger:
                stranger.linger = 200
                stranger.sndtimeo = 200
                stranger.connect(info_address(address))
                for _ in range(20):
                    try:
                        stranger.send(b'5')
                    except zmq.ZMQError:  # it may not send
                        break
    assert described(address, {}) and server._thread.is_alive()


def memory():
    """Of this process, in bytes."""
    with open('/proc/self/statm') as statm:
        return int(statm.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def test_huge_requests_take_no_memory(server, address):
    huge = b'x' * 10_000_000
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger, stranger.sndhwm, stranger.sndtimeo = 0, 1, 50
        stranger.connect(info_address(address))
        before = memory()
        for _ in range(40):
            try:
                stranger.send_multipart([b'', huge], copy=False)
            except zmq.Again:
                pass
        assert memory() - before < 100e6
    assert described(address, {}) and server._thread.is_alive()


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just([]) | st.just({})


@st.composite
def requests(draw):
    """A request with fields changed, cut, flipped and swapped; some are still good ones, or nothing like one."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    fields = dict(HELLO, request=draw(st.sampled_from(['hello', 'bye'])))
    for name in draw(st.lists(st.sampled_from(sorted(HELLO) + ['like', 'more']), max_size=2)):
        fields[name] = draw(values)
    message = bytearray(json.dumps(fields).encode())
    for _ in range(draw(st.integers(0, 2))):
        at, other = draw(st.integers(0, len(message) - 1)), draw(st.integers(0, len(message) - 1))
        kind = draw(st.sampled_from(['flip', 'cut', 'swap']))
        if kind == 'flip':
            message[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 'swap':
            message[at], message[other] = message[other], message[at]
        else:
            del message[max(at, 1):]
    return bytes(message)


@pytest.mark.parametrize('count', [1000, pytest.param(10000, marks=pytest.mark.slow)])
def test_made_up_requests_get_answers_and_leave_the_server_alive(server, address, count):
    """The answers are the description, nothing or a refusal, and afterwards a trainer is served as ever."""
    kinds = set()
    with zmq.Context() as context, context.socket(zmq.REQ) as asking:
        asking.linger = 0
        asking.connect(info_address(address))

        @settings(max_examples=count, deadline=None, derandomize=True, database=None,
                  suppress_health_check=list(HealthCheck))
        @given(frames=st.one_of(*[requests().map(lambda request: [request])] * 5,
                                st.lists(requests(), min_size=2, max_size=3)))
        def send(frames):
            asking.send_multipart(frames)
            assert asking.poll(10000)
            answer = json.loads(asking.recv())
            assert list(answer) in ([], ['description'], ['refused'], ['refused', 'left'])
            kinds.update(answer or ['nothing'])
            if 'description' in answer:
                assert answer['description']['classes'] == DESCRIPTION['classes'] and len(frames) == 1
            for request in server.claims._leases.copy().values():
                server.claims.release(request[0]['key'], request[0]['process'])
        send()
    assert kinds >= {'nothing', 'description', 'refused'}
    assert described(address, {}) and server._thread.is_alive()


def answering(address, answer):
    """A thread that gives this answer (bytes) to everybody, and what ends it."""
    context = zmq.Context()
    replier = context.socket(zmq.REP)
    replier.linger = 200
    replier.bind(info_address(address))

    def run():
        with replier:
            while True:
                try:
                    replier.recv_multipart()
                    replier.send(answer)
                except zmq.ContextTerminated:
                    return
    threading.Thread(target=run, daemon=True).start()
    return context.term


@pytest.mark.parametrize('answer, message', [
    (b'hello', 'is not a data server'), (b'[]', 'is not a data server'),
    (b'{"description": 1}', 'is not a data server'),
    (b'{}', 'is not a data server'), (b'[' * 100000, 'is not a data server'), (b'\xff', 'is not a data server'),
    (b'{"refused": 5}', 'is not a data server'), (b'{"refused": "\\u001b[2J"}', 'is not a data server'),
    (b'{"description": {"protocol": 99}}', 'speaks protocol 99, this program 3')])
def test_strange_answers_are_refused(address, answer, message):
    end = answering(address, answer)
    with pytest.raises(ValueError, match=message) as error:
        Lease(address, {}, FIRST, 10)
    one_line(error)
    end()


@pytest.mark.parametrize('field, value', [
    ('num_images', -5), ('num_images', 0), ('num_images', 10 ** 30), ('num_images', '5'), ('num_images', 2.0),
    ('classes', 'abc'), ('classes', [1, 2]), ('classes', {}), ('classes', None), ('batch', '32'), ('batch', 0),
    ('batch', True), ('input_size', 224.0), ('dtype', 'float32'), ('channels', 'RGB'), ('shard', [0, 0]),
    ('shard', [2, 2]), ('shard', [0]), ('shard', '01'), ('shard', [-1, 2]), ('seed', -1), ('seed', '0'), ('fake', 0),
    ('dataset', ['x']),
    ('augmentation', None), ('randaug_num_layers', 'many'), ('server', 7), ('server', ''), ('more', 1)])
def test_a_description_of_wrong_types_or_numbers_is_refused_by_name(address, field, value):
    description = dict(DESCRIPTION, protocol=3, server='abc', fingerprint='def', shared='ghi')
    end = answering(address, json.dumps({'description': dict(description, **{field: value})}).encode())
    with pytest.raises(ValueError, match='is not a data server of this project: its description') as error:
        Lease(address, {}, FIRST, 10)
    assert field in one_line(error)
    end()


ANSWER = json.dumps({'description': dict(DESCRIPTION, protocol=3, server='abc', fingerprint='def',
                                         shared='ghi')}).encode()


@pytest.mark.parametrize('count', [1000, pytest.param(10000, marks=pytest.mark.slow)])
def test_no_damaged_answer_is_believed_to_be_another_servers(count):
    """Flips, cuts and swaps in an answer: what a trainer needs is as it was, or the answer is refused in a line."""
    kinds = set()

    @settings(max_examples=count, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))
    @given(changes=st.lists(st.tuples(st.sampled_from(['flip', 'cut', 'swap']), st.integers(0, len(ANSWER) - 1),
                                      st.integers(0, len(ANSWER) - 1)), max_size=2))
    def read(changes):
        message = bytearray(ANSWER)
        for kind, at, other in changes:
            at, other = at % max(len(message), 1), other % max(len(message), 1)
            if kind == 'flip' and message:
                message[at] ^= 1 << other % 8
            elif kind == 'swap' and message:
                message[at], message[other] = message[other], message[at]
            elif kind == 'cut':
                del message[at:]
        lease = SimpleNamespace(address='ipc://@here')
        try:
            answer = typed.parse(bytes(message), handshake.ANSWER, 'the answer')
            found = Lease._checked(lease, answer.get('description', {}), DESCRIPTION)
        except ValueError as error:
            assert '\n' not in str(error)
            kinds.add('refused')
        else:
            assert {field: found[field] for field in DESCRIPTION} == DESCRIPTION
            kinds.add('believed')
    read()
    assert kinds == {'refused', 'believed'}


def test_a_description_without_a_field_is_refused(address):
    description = dict(DESCRIPTION, protocol=3, server='abc', fingerprint='def', shared='ghi')
    del description['num_images']
    end = answering(address, json.dumps({'description': description}).encode())
    with pytest.raises(ValueError, match='lacks num_images'):
        Lease(address, {}, FIRST, 10)
    end()


def test_closing_the_lease_of_a_server_that_has_ended_returns(address):
    server = InfoServer(address, DESCRIPTION)
    lease = Lease(address, {}, FIRST, 10)
    server.close()
    begin = time.monotonic()
    lease.close()
    assert time.monotonic() - begin < 2


def test_leases_leave_no_thread_and_no_descriptor(server, address):
    Lease(address, {}, FIRST, 10).close()
    before, threads = len(os.listdir('/proc/self/fd')), set(threading.enumerate())
    for _ in range(3):
        Lease(address, {}, FIRST, 10).close()
        with pytest.raises(ValueError):
            Lease(address, {'batch': 1}, FIRST, 10)
    assert set(threading.enumerate()) <= threads
    wait_for(lambda: len(os.listdir('/proc/self/fd')) <= before)


def test_jobs_have_names_and_keys_of_their_own():
    jobs = [new_job() for _ in range(100)]
    assert len({job.name for job in jobs}) == len({job.key for job in jobs}) == 100
    assert all(len(job.key) >= 32 and str(os.getpid()) in job.name for job in jobs)


def test_closing_frees_the_address(address):
    InfoServer(address, DESCRIPTION).close()
    InfoServer(address, DESCRIPTION).close()
    server = InfoServer(address, DESCRIPTION)
    with pytest.raises(zmq.ZMQError):
        InfoServer(address, DESCRIPTION)
    server.close()


def ranks_with(*servers):
    """What the ranks of a job know of their servers by (name, index, count, host) each."""
    return [{'server': name, 'shard': [index, count], 'fake': False, 'host': host, 'shared': 'abc', 'num_images': 5}
            for name, index, count, host in servers]


@pytest.mark.parametrize('servers', [
    [('a', 0, 1, 'x')] * 3,  # one machine
    [('a', 0, 2, 'x'), ('b', 1, 2, 'y')] * 2,
    [('a', 0, 3, 'x'), ('b', 2, 3, 'y'), ('c', 1, 3, 'z')]])
def test_servers_that_fit_together_are_accepted(servers):
    check_servers(ranks_with(*servers))


def test_servers_of_the_same_batches_are_refused_with_the_part_of_each_but_for_constant_ones():
    servers = ranks_with(*[('a', 0, 1, 'x')] * 2, ('b', 0, 1, 'y'), ('c', 0, 1, 'z'))
    with pytest.raises(ValueError, match='3 data servers of this job serve the same batches in the same order; start '
                                         'that of x with --shard 0/3, that of y with --shard 1/3, that of z with '
                                         '--shard 2/3'):
        check_servers(servers)
    check_servers([dict(server, fake=True) for server in servers])


def test_servers_of_different_data_are_refused(address):
    found = []
    for index, num_images in enumerate((5, 4)):
        server = InfoServer(address, dict(DESCRIPTION, shard=[index, 2], num_images=num_images))
        found.append(dict(described(address, {}), host='xy'[index]))
        server.close()
    with pytest.raises(ValueError, match='parts of one data set: that of x has 5 images, that of y has 4 images'):
        check_servers(found)
    check_servers([found[0], dict(found[0], server='other', host='y', shard=[1, 2])])


@pytest.mark.parametrize('wrong', ['ipc://' + 'x' * 200, 'tcp://a b:5000'])
def test_an_address_where_no_server_can_be_is_refused(wrong):
    with pytest.raises(ValueError, match='no data server can be at') as error:
        Lease(wrong, {}, FIRST, 1)
    one_line(error)


@pytest.mark.parametrize('servers, message', [
    ([('a', 0, 2, 'x'), ('b', 0, 2, 'y')], 'the parts 0/2, 0/2; .* x with --shard 0/2, that of y with --shard 1/2'),
    ([('a', 0, 2, 'x')] * 2, 'serves part 0 of 2 only'),
    ([('a', 0, 3, 'x'), ('b', 2, 3, 'y')], 'the parts 0/3, 2/3; .* x with --shard 0/2, that of y with --shard 1/2'),
    ([('a', 0, 2, 'x'), ('b', 1, 3, 'y')], 'serve the parts 0/2, 1/3; '),
    ([('a', 0, 1, 'x'), ('b', 1, 2, 'y')], 'serve the parts 0/1, 1/2; '),
    ([('a', 0, 2, 'x'), ('b', 1, 2, 'y'), ('b', 1, 2, 'y')], 'feed 1 and 2 ranks')])
def test_servers_that_do_not_serve_every_image_once_are_refused(servers, message):
    with pytest.raises(ValueError, match=message):
        check_servers(ranks_with(*servers))
