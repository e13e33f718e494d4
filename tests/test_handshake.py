"""third_party/imagedata/handshake.py: what trainers and data servers refuse."""
import json
import os
import secrets
import shlex
import subprocess
import sys
import threading
import time

import pytest
import zmq

from third_party.imagedata.handshake import InfoServer
from third_party.imagenet_utils import (check_servers, connect, default_data_address, describe_policy, goodbye, info_address,
                                        make_policy)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DESCRIPTION = {'batch': 32, 'input_size': 224, 'dtype': 'uint8', 'channels': 'BGR', 'num_images': 5,
               'classes': ['ant', 'bee', 'cow'], 'dataset': '/data/imagenet', 'augmentation': 'imagenet', 'seed': 0,
               'fake': False, 'format': 'zmq_ops', 'augment_name': 'randaugment', 'randaug_num_layers': 2,
               'randaug_magnitude': 10}

# A trainer of the job in argv[2] that claims the server at argv[1] and then waits.
TRAINER = """
import sys, time
from third_party.imagenet_utils import connect
connect(sys.argv[1], {}, sys.argv[2], 20)
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


def start_trainer(address, job):
    trainer = subprocess.Popen([sys.executable, '-c', TRAINER, address, job], cwd=ROOT, stdout=subprocess.PIPE)
    assert trainer.stdout.readline() == b'claimed\n'
    return trainer


def ask(address, request):
    """Send bytes, or a dict as JSON, without the module under test."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.connect(info_address(address))
        socket.send(request if isinstance(request, bytes) else json.dumps(request).encode())
        assert socket.poll(10000)
        return json.loads(socket.recv())


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
    found = connect(address, {field: DESCRIPTION[field] for field in DESCRIPTION}, 'job', 10)
    assert {field: found[field] for field in DESCRIPTION} == DESCRIPTION and found['protocol'] == 2


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
    ('format', 'tensorpack', "format: server 'zmq_ops', this run 'tensorpack'"),
    ('fake', True, 'fake: server False, this run True'),
    ('classes', ['ant', 'bee', 'dog'], "classes: 1 of the server's 3 and this run's 3 differ"),
    ('classes', ['ant'], "classes: 2 of the server's 3 and this run's 1 differ"),
])
def test_every_difference_is_named(server, address, field, value, message):
    with pytest.raises(ValueError) as error:
        connect(address, {field: value}, 'job', 10)
    assert message in one_line(error)


def test_all_differences_and_the_command_are_in_one_line(server, address):
    with pytest.raises(ValueError) as error:
        connect(address, {'batch': 64, 'input_size': 32, 'augmentation': 'cifar', 'dataset': '/my data',
                          'format': 'tensorpack'}, 'job', 10)
    text = one_line(error)
    assert 'batch: server 32' in text and 'input_size: server 224' in text
    assert ("third_party/serve-data.py --data '/my data' --batch 64 --input-size 32 --augmentation cifar --no-zmq-ops --address "
            + address) in text


@pytest.mark.parametrize('policy, flags, differ', [
    (('randaugment', 3, 28),
     ['--augment-name', 'randaugment', '--randaug-num-layers', '3', '--randaug-magnitude', '28'],
     ['randaug_num_layers', 'randaug_magnitude']),
    (('autoaugment',), ['--augment-name', 'autoaugment'],
     ['augment_name', 'randaug_num_layers', 'randaug_magnitude']),
    ((None,), [], ['augment_name', 'randaug_num_layers', 'randaug_magnitude'])])
def test_a_trainer_of_another_policy_is_told_all_differences_and_the_command(server, address, policy, flags, differ):
    with pytest.raises(ValueError) as error:
        connect(address, dict(batch=32, dataset='/data/imagenet', **describe_policy(make_policy(*policy))), 'job', 10)
    text = one_line(error)
    assert [part.split(':')[0] for part in text.split('does not fit this run: ')[1].split('; ')][:-1] == differ
    words = shlex.split(text.split('serve-data.py ')[1])
    assert words == ['--data', '/data/imagenet', '--batch', '32'] + flags + ['--address', address]


def test_a_trainer_that_names_no_data_set_is_not_told_to_serve_the_digits(server, address):
    with pytest.raises(ValueError) as error:
        connect(address, {'batch': 64}, 'job', 10)
    assert one_line(error).endswith('third_party/serve-data.py --data DIR --batch 64 --address ' + address)


def test_a_trainer_of_the_same_policy_is_served(server, address):
    expected = describe_policy(make_policy('randaugment', 2, 10))
    assert connect(address, expected, 'job', 10)['randaug_magnitude'] == 10


def test_a_server_that_knows_of_no_policies_serves_a_trainer_without_one(address):
    server = InfoServer(address, {'batch': 32})
    try:
        connect(address, describe_policy(None), 'job', 10)
        with pytest.raises(ValueError, match="augment_name: server None, this run 'autoaugment'"):
            connect(address, describe_policy(make_policy('autoaugment')), 'job', 10)
    finally:
        server.close()


def test_silence_names_the_command_and_the_other_servers(address, server):
    with pytest.raises(ValueError) as error:
        connect('ipc://@imagenet-train-b7', {'batch': 7, 'dataset': 'digits'}, 'job', 0.3)
    text = one_line(error)
    assert 'no data server answered at ipc://@imagenet-train-b7 within 0.3 s' in text
    assert text.endswith('third_party/serve-data.py --batch 7')
    # Only data addresses are listed, and this fixture binds the info address alone.
    assert address not in text
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.bind(address)
    with pytest.raises(ValueError, match='running here: .*' + address):
        connect('ipc://@imagenet-train-b7', {'batch': 7}, 'job', 0.3)
    context.destroy(linger=0)


def test_a_server_that_starts_late_is_waited_for(address):
    servers = []
    timer = threading.Timer(0.5, lambda: servers.append(InfoServer(address, DESCRIPTION)))
    timer.start()
    assert connect(address, {'batch': 32}, 'job', 20)['batch'] == 32
    timer.join()
    servers[0].close()


def test_another_job_is_refused_until_the_first_ends(server, address):
    first = start_trainer(address, 'first job')
    try:
        connect(address, {}, 'first job', 10)  # another process of the same job
        goodbye(address, 'first job')
        refusal = r'refused.*already feeds job first job \(host .*, pid {}\)'.format(first.pid)
        with pytest.raises(ValueError, match=refusal) as error:
            connect(address, {}, 'second job', 10)
        one_line(error)
    finally:
        first.kill()
    time.sleep(0.2)  # killed, but not yet waited for
    connect(address, {}, 'second job', 10)
    first.wait()


def test_a_claim_ends_with_goodbye(server, address):
    connect(address, {}, 'first job', 10)
    with pytest.raises(ValueError, match='already feeds job first job'):
        connect(address, {}, 'second job', 10)
    goodbye(address, 'second job')  # not its claim to give up
    with pytest.raises(ValueError, match='already feeds job first job'):
        connect(address, {}, 'second job', 10)
    goodbye(address, 'first job')
    connect(address, {}, 'second job', 10)


def test_a_process_of_another_machine_holds_its_claim_until_goodbye(server, address):
    far = {'job': 'far job', 'host': 'another-machine', 'pid': 1}
    assert 'description' in ask(address, dict(far, request='hello'))
    with pytest.raises(ValueError, match='job far job .host another-machine, pid 1'):
        connect(address, {}, 'near job', 10)
    assert ask(address, dict(far, request='bye')) == {}
    connect(address, {}, 'near job', 10)


def test_a_trainer_that_found_a_mismatch_holds_no_claim(server, address):
    with pytest.raises(ValueError, match='batch'):
        connect(address, {'batch': 1}, 'first job', 10)
    connect(address, {}, 'second job', 10)


@pytest.mark.parametrize('message', [b'', b'\xff', b'[]', b'{}', b'{"request": "hello", "job": 1, "host": "a", "pid": "x"}'])
def test_malformed_requests_do_not_end_the_server(server, address, message):
    assert ask(address, message) == {'refused': 'malformed request'}
    connect(address, {}, 'job', 10)


@pytest.mark.parametrize('answer, message', [
    (b'hello', 'is not a data server'), (b'[]', 'is not a data server'), (b'{"description": 1}', 'is not a data server'),
    (b'{"description": {"protocol": 99}}', 'speaks protocol 99, this program 2')])
def test_strange_answers_are_refused(address, answer, message):
    context = zmq.Context()
    socket = context.socket(zmq.REP)
    socket.bind(info_address(address))
    thread = threading.Thread(target=lambda: (socket.recv(), socket.send(answer), socket.close()))
    thread.start()
    with pytest.raises(ValueError, match=message):
        connect(address, {}, 'job', 10)
    thread.join()
    context.term()


def test_goodbye_to_a_server_that_has_ended_returns(address):
    begin = time.monotonic()
    goodbye(address, 'job', timeout=0.2)
    assert time.monotonic() - begin < 2


def test_closing_frees_the_address(address):
    InfoServer(address, DESCRIPTION).close()
    InfoServer(address, DESCRIPTION).close()
    server = InfoServer(address, DESCRIPTION)
    with pytest.raises(zmq.ZMQError):
        InfoServer(address, DESCRIPTION)
    server.close()


def ranks_with(*servers):
    """What the ranks of a job were told by (name, index, count, seed) each."""
    return [{'server': name, 'shard': [index, count], 'seed': seed, 'fake': False} for name, index, count, seed in servers]


@pytest.mark.parametrize('servers', [
    [('a', 0, 1, 0)] * 3,  # one machine
    [('a', 0, 1, 0), ('b', 0, 1, 1)],  # each its own order
    [('a', 0, 2, 0), ('b', 1, 2, 0)] * 2,
    [('a', 0, 3, 0), ('b', 2, 3, 5), ('c', 1, 3, 0)]])
def test_servers_that_fit_together_are_accepted(servers):
    assert check_servers(ranks_with(*servers)) is None


def test_servers_of_the_same_batches_are_warned_of_but_for_constant_ones():
    servers = ranks_with(('a', 0, 1, 0), ('b', 0, 1, 0))
    assert '2 data servers of this job serve the same batches' in check_servers(servers)
    assert check_servers([dict(server, fake=True) for server in servers]) is None


@pytest.mark.parametrize('servers, message', [
    ([('a', 0, 2, 0), ('b', 0, 2, 0)], 'serve the parts 0, 0 of --shard I/2, not each of 0 to 1 once'),
    ([('a', 0, 2, 0)] * 2, 'serve the parts 0 of --shard I/2'),
    ([('a', 0, 3, 0), ('b', 2, 3, 0)], 'serve the parts 0, 2 of --shard I/3'),
    ([('a', 0, 2, 0), ('b', 1, 3, 0)], r'different N in --shard I/N \(2, 3\)'),
    ([('a', 0, 1, 0), ('b', 1, 2, 0)], r'different N in --shard I/N \(1, 2\)'),
    ([('a', 0, 2, 0), ('b', 1, 2, 0), ('b', 1, 2, 0)], 'feed 1 and 2 ranks')])
def test_servers_that_do_not_serve_every_image_once_are_refused(servers, message):
    with pytest.raises(ValueError, match=message):
        check_servers(ranks_with(*servers))
