"""third_party/serve-data.py as a program: what it sends, and how it starts and ends."""
import collections
import contextlib
import os
import random
import re
import secrets
import shlex
import signal
import socket as sockets
import struct
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import zmq

from image_folders import make_folder
from third_party.imagenet_utils import (
    Job,
    Lease,
    TrainingStream,
    View,
    describe_policy,
    info_address,
    make_policy,
    new_job,
    open_dataset,
    read_image,
)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, 'third_party', 'serve-data.py')


# Prints how many batches two workers build while the parent takes them in and hands none on, then after it dropped 5,
# and how many slots there are.
COUNT_BUILT = """
import os, sys, time
import numpy as np
from data.workers import WorkerPool
class Stream:
    unreadable = {}
    specs = [(np.uint8, (1, 2, 2, 3)), (np.int32, (1,))]
    def fill(self, number, image, label):
        os.write(log, b'x')
        image[:], label[:] = 0, number
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def settle():
    for _ in range(20):
        time.sleep(0.02)
        pool.receive()
    return os.path.getsize(sys.argv[1])
with WorkerPool(Stream(), 2) as pool:
    assert settle() == 0
    pool.start()
    first = settle()
    assert pool.slots.count == pool.window
    for number in range(5):
        assert bytes(pool.pop()[-4:]) == number.to_bytes(4, 'little')
    print(pool.window, first, settle(), pool.slots.count)
"""


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
    """Digits of this module's own, written once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        open_dataset(None, 'train', 10)
        yield


@pytest.fixture
def address():
    return 'ipc://@test-serve-data-' + secrets.token_hex(8)


@pytest.fixture
def start(address):
    """function(flags): start a server, wait until it is ready. Returns: the process, its ready line."""
    servers = []

    def run(*flags):
        server = subprocess.Popen([sys.executable, SCRIPT, '--input-size', '32', '--address', address] + list(flags),
                                  cwd='/',
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        servers.append(server)
        return server, server.stdout.readline()
    yield run
    for server in servers:
        server.kill()
        server.communicate()


@pytest.fixture
def receive(address):
    """function(count, receivers=1): that many messages, received in turn by so many sockets of one job."""
    context = zmq.Context()
    sockets, leases = [], []

    def run(count, receivers=1):
        if not leases:
            leases.append(Lease(address, {}, Job('receivers', 'their key'), 20))
        while len(sockets) < receivers:
            sockets.append(leases[0].receiver(context, 1))
        messages = []
        deadline = time.monotonic() + 30
        while len(messages) < count:
            assert time.monotonic() < deadline, 'received {} of {} messages'.format(len(messages), count)
            ready = [socket for socket in sockets if socket.poll(50)]
            messages += [socket.recv() for socket in ready]
        return messages
    yield run
    for lease in leases:
        lease.close()
    context.destroy(linger=0)


def described(address, expected, job=None):
    """What the server says to a trainer that then leaves."""
    with Lease(address, expected, job or new_job(), 10) as lease:
        return lease.description


def run_to_end(*flags):
    return subprocess.run([sys.executable, SCRIPT] + list(flags), cwd='/', stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE,
                          text=True, timeout=60)


def decode(message):
    """An image batch in the wire format of zmq_ops, read field by field."""
    arrays, place = [], 4
    assert struct.unpack_from('<i', message)[0] == 2
    for dtype, code in ((np.uint8, 4), (np.int32, 3)):
        found, rank = struct.unpack_from('<ii', message, place)
        assert found == code
        shape = struct.unpack_from('<{}i'.format(rank), message, place + 8)
        size, = struct.unpack_from('<q', message, place + 8 + 4 * rank)
        place += 16 + 4 * rank
        assert size == np.prod(shape) * np.dtype(dtype).itemsize
        arrays.append(np.frombuffer(message[place:place + size], dtype).reshape(shape))
        place += size
    assert place == len(message)
    return arrays


def assert_all_end(processes):
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_pass_is_served_once_over_two_clients(start, receive):
    # 1498 images make 107 batches of 14.
    start('--batch', '14', '--workers', '3', '--hwm', '1', '--seed', '5')
    dataset = open_dataset(None, 'train', 10)
    stream = TrainingStream(dataset, 14, View(32, 'none'), 5)
    number_of = {stream.batch(number)[0].tobytes(): number for number in range(140)}
    received = {}
    for message in receive(120, receivers=2):
        image, label = decode(message)
        assert image.shape == (14, 32, 32, 3) and label.shape == (14,)
        number = number_of[image.tobytes()]
        assert number not in received
        received[number] = [(picture.tobytes(), int(its_label)) for picture, its_label in zip(image, label)]
    served = collections.Counter(sample for number in range(107) for sample in received[number])
    assert served == collections.Counter(
        (read_image(path).tobytes(), int(label)) for path, label in zip(dataset.files, dataset.labels))


@pytest.mark.parametrize('augmentation', ['cifar', 'revisiting-at', 'revisiting-at-basic'])
def test_batches_arrive_in_the_order_of_the_stream(start, receive, augmentation):
    start('--batch', '7', '--workers', '4', '--augmentation', augmentation)
    stream = TrainingStream(open_dataset(None, 'train', 10), 7, View(32, augmentation), 0)
    for number, message in enumerate(receive(60)):
        assert (decode(message)[0] == stream.batch(number)[0]).all()


@pytest.mark.parametrize('augmentation, flags, policy', [
    ('cifar', ['--augment-name', 'autoaugment'], ('autoaugment',)),
    ('efficientnet', ['--augment-name', 'randaugment'], ('randaugment', 2, 10)),
    ('revisiting-at', ['--augment-name', 'autoaugment'], ('autoaugment',)),
    ('none', ['--augment-name', 'randaugment', '--randaug-num-layers', '3', '--randaug-magnitude', '7'],
     ('randaugment', 3, 7))])
def test_batches_are_augmented_by_the_policy(start, receive, address, augmentation, flags, policy):
    start('--batch', '5', '--workers', '2', '--augmentation', augmentation, *flags)
    dataset = open_dataset(None, 'train', 10)
    stream, plain = (TrainingStream(dataset, 5, View(32, augmentation, *each), 0) for each in (policy, ()))
    changed = 0
    for number, message in enumerate(receive(20)):
        image, label = decode(message)
        assert (image == stream.batch(number)[0]).all() and (label == stream.batch(number)[1]).all()
        changed += (image != plain.batch(number)[0]).any()
    assert changed >= 19
    expected = dict(augmentation=augmentation, **describe_policy(make_policy(*policy)))
    assert described(address, expected, Job('receivers', 'their key'))['batch'] == 5


def test_a_trainer_of_another_policy_is_refused_with_the_command_of_a_server_that_fits(start, address):
    first, _ = start('--batch', '5', '--augment-name', 'autoaugment')
    expected = dict(batch=5, input_size=32, dataset='digits', augmentation='cifar',
                    **describe_policy(make_policy('randaugment', 3, 7)))
    with pytest.raises(ValueError, match="augment_name: server 'autoaugment', this run 'randaugment'") as error:
        Lease(address, expected, new_job(), 10)
    first.terminate()
    first.communicate()
    start(*shlex.split(str(error.value).split('serve-data.py ')[1]))
    assert described(address, expected)['randaug_magnitude'] == 7


def test_no_more_than_a_window_of_batches_is_built_ahead(tmp_path):
    result = subprocess.run([sys.executable, '-c', COUNT_BUILT, str(tmp_path / 'log')], cwd=ROOT,
                            stdout=subprocess.PIPE,
                            text=True, check=True)
    window, first, second, slots = map(int, result.stdout.split())
    assert (first, second) == (window, window + 5) and window <= 10
    assert slots == window + 1  # those of dropped batches are used again; one is in hand while the next is ordered


def test_the_ready_line_and_the_description_say_what_is_served(start, address):
    _, line = start('--batch', '8', '--workers', '2')
    assert line == ('serve-data: ready at {}: digits (1498 images, 10 classes), batch 8, 32 x 32 pixels, augmentation '
                    'none, 2 workers\n'.format(address))
    expected = {'batch': 8, 'input_size': 32, 'dtype': 'uint8', 'channels': 'BGR', 'num_images': 1498,
                'dataset': 'digits',
                'seed': 0, 'classes': [str(digit) for digit in range(10)], 'augmentation': 'none',
                'shard': [0, 1], 'fake': False, 'augment_name': None, 'randaug_num_layers': None,
                'randaug_magnitude': None}
    assert described(address, expected)['batch'] == 8


def test_images_of_a_folder_are_served_with_their_labels(start, receive, tmp_path, address):
    data = make_folder(tmp_path, ['train/ant/1.png', 'train/bee/2.png', 'train/bee/3.png'])
    start('--data', data, '--batch', '2', '--augmentation', 'none')
    for message in receive(10):
        image, label = decode(message)
        assert ((image[:, 0, 0, 0] > 0) == (label == 1)).all()  # make_folder numbers its images 0, 1, 2
    expected = {'dataset': os.path.realpath(data), 'classes': ['ant', 'bee']}
    assert described(address, expected, Job('receivers', 'their key'))['num_images'] == 3


def test_without_the_op_batches_are_the_same_messages(start, receive):
    start('--batch', '4', '--no-zmq-ops')
    image, label = decode(receive(1)[0])
    stream = TrainingStream(open_dataset(None, 'train', 10), 4, View(32, 'none'), 0)
    assert (image == stream.batch(0)[0]).all() and (label == stream.batch(0)[1]).all()


def test_fake_batches_are_constant(start, receive, address):
    start('--fake', '--batch', '3', '--num-classes', '2')
    messages = receive(5)
    assert len(set(messages)) == 1 and decode(messages[0])[1].tolist() == [0, 1, 0]
    assert described(address, {'fake': True, 'dataset': 'fake'}, Job('receivers', 'their key'))['fake']


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize('receiving', [False, True])
def test_a_signal_stops_all_processes_without_a_traceback(start, receive, number, code, receiving):
    server, _ = start('--batch', '16', '--workers', '3')
    processes = psutil.Process(server.pid).children(recursive=True)
    assert len(processes) == 3
    if receiving:
        receive(3)
    begin = time.monotonic()
    server.send_signal(number)
    out, err = server.communicate(timeout=10)
    assert server.returncode == code and (out, err) == ('', '') and time.monotonic() - begin < 3
    assert_all_end(processes)


def test_workers_end_when_the_server_is_killed(start):
    server, _ = start('--workers', '3')
    processes = psutil.Process(server.pid).children(recursive=True)
    server.kill()
    server.wait()
    assert_all_end(processes)


def test_a_signal_ends_a_server_whose_workers_are_frozen(start):
    server, _ = start('--workers', '3')
    processes = psutil.Process(server.pid).children(recursive=True)
    for process in processes[:2]:
        process.suspend()
    begin = time.monotonic()
    server.terminate()
    out, err = server.communicate(timeout=10)
    assert server.returncode == 143 and (out, err) == ('', '') and time.monotonic() - begin < 10
    assert_all_end(processes)


def test_only_who_has_claimed_the_server_gets_batches(start, receive, address):
    start('--batch', '4', '--workers', '1')
    with zmq.Context() as context:
        strangers = [context.socket(zmq.PULL) for _ in range(3)]
        for stranger, login in zip(strangers, [None, (b'trainer', b'guessed'), (b'their key', b'trainer')]):
            stranger.linger = 0
            if login:
                stranger.plain_username, stranger.plain_password = login
            stranger.connect(address)
        time.sleep(0.5)
        first = receive(3)
        assert not any(stranger.poll(0) for stranger in strangers)
        stream = TrainingStream(open_dataset(None, 'train', 10), 4, View(32, 'none'), 0)
        assert [decode(message)[1].tolist() for message in first] == [stream.batch(k)[1].tolist() for k in range(3)]
        assert not any(stranger.poll(200) for stranger in strangers)
        context.destroy(linger=0)


def free_tcp_address():
    """Of a port that is free, as is the next one, and that no connection gets which another program opens."""
    for port in random.sample(range(20000, 32000), 100):
        with contextlib.suppress(OSError), sockets.socket() as one, sockets.socket() as other:
            one.bind(('127.0.0.1', port))
            other.bind(('127.0.0.1', port + 1))
            return 'tcp://127.0.0.1:{}'.format(port)
    raise OSError('no two free ports in a row')


@pytest.mark.parametrize('scheme', ['abstract', 'file', 'tcp'])
def test_the_last_job_gets_nothing_more_once_another_has_the_server(start, tmp_path, address, scheme):
    address = {'abstract': address, 'file': 'ipc://{}/socket'.format(tmp_path), 'tcp': free_tcp_address()}[scheme]
    start('--batch', '2', '--workers', '1', '--hwm', '2', '--address', address)
    with zmq.Context() as context:
        with Lease(address, {}, new_job(), 10) as first:
            old = first.receiver(context, 1)
            assert old.poll(10000) and old.recv()
        with Lease(address, {}, new_job(), 10) as second, second.receiver(context, 1) as new:
            assert new.poll(10000)
            time.sleep(1.2)
            queued = 0
            while old.poll(300):
                old.recv()
                queued += 1
                assert queued < 100  # TCP's buffers hold some 10 MB, 33 batches; who is fed gets them without end
            for _ in range(10):
                assert new.poll(10000) and new.recv()
            assert not old.poll(300)
        old.close()


def test_strangers_take_no_memory(start, address):
    address = free_tcp_address()
    server, _ = start('--batch', '2', '--workers', '1', '--address', address)
    before = psutil.Process(server.pid).memory_info().rss
    huge = b'x' * 10_000_000
    with zmq.Context() as context:
        for kind, where in ((zmq.PUSH, address), (zmq.DEALER, address), (zmq.DEALER, info_address(address)),
                            (zmq.REQ, info_address(address))):
            with context.socket(kind) as stranger:
                stranger.linger, stranger.sndhwm, stranger.sndtimeo = 0, 1, 50
                stranger.connect(where)
                for _ in range(20):
                    try:
                        stranger.send(huge, copy=False)
                    except zmq.ZMQError:  # nobody takes it
                        pass
        assert psutil.Process(server.pid).memory_info().rss - before < 30e6
        # As a trainer's own socket would have to be to get past the password.
        with Lease(address, {}, new_job(), 10) as lease, context.socket(zmq.DEALER) as known:
            known.linger, known.sndhwm, known.sndtimeo = 0, 1, 50
            known.plain_username, known.plain_password = b'trainer', lease.job.key.encode()
            known.connect(address)
            for _ in range(20):
                try:
                    known.send(huge, copy=False)
                except zmq.ZMQError:
                    pass
            with lease.receiver(context, 1) as pull:
                assert pull.poll(10000)
        assert psutil.Process(server.pid).memory_info().rss - before < 30e6


def test_workers_report_where_nobody_else_can(start):
    """No socket with a name but those of data and questions."""
    server, _ = start('--workers', '2')
    with open('/proc/net/unix') as table:
        names = {line.split()[7] for line in table if len(line.split()) > 7}
    assert not [name for name in names if re.search(r'\b{}\b'.format(server.pid), name)]


def test_the_server_ends_with_one_line_when_a_worker_dies(start):
    server, _ = start('--workers', '3')
    processes = psutil.Process(server.pid).children(recursive=True)
    processes[1].kill()
    out, err = server.communicate(timeout=10)
    assert server.returncode == 1 and out == ''
    assert err == 'serve-data: worker process {} ended with exit code -9\n'.format(processes[1].pid)
    assert_all_end(processes)


def test_an_address_in_use_is_refused_and_the_first_server_goes_on(start, receive, address, tmp_path):
    start('--batch', '4')
    second = run_to_end('--input-size', '32', '--address', address)
    assert second.returncode == 1 and second.stderr == 'serve-data: {} is in use\n'.format(address)
    assert len(receive(3)) == 3


def test_a_socket_file_in_use_is_refused(tmp_path, start):
    first, _ = start('--address', 'ipc://{}/socket'.format(tmp_path))
    second = run_to_end('--address', 'ipc://{}/socket'.format(tmp_path))
    assert second.returncode == 1 and 'is in use' in second.stderr
    first.kill()
    first.wait()
    # The files that the killed server left are no obstacle, and are gone in the end.
    assert sorted(os.listdir(tmp_path)) == ['socket', 'socket-info']
    third, line = start('--address', 'ipc://{}/socket'.format(tmp_path))
    assert 'ready' in line and third.poll() is None
    third.terminate()
    third.wait()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('name', ['socket', 'socket-info'])
def test_a_file_that_is_no_socket_is_never_taken_away(tmp_path, name):
    (tmp_path / name).write_text('weights')
    ended = run_to_end('--address', 'ipc://{}/socket'.format(tmp_path))
    assert ended.returncode == 2 and ended.stderr.count('\n') == 1
    assert "{}' exists and is no socket".format(tmp_path / name) in ended.stderr
    assert (tmp_path / name).read_text() == 'weights'


@pytest.mark.parametrize('flags, message', [
    (['--data', '/nowhere/at/all'], "--data '/nowhere/at/all': no such directory"),
    (['--data', '{empty}'], 'no class folders and no images in'),
    (['--num-classes', '5'], r'--num-classes 5: .*has label 9'),
    (['--seed', '-1'], '--seed -1'),
    (['--shard', '0/1499'], '--shard 0/1499: needs 0 <= I < N, and N no larger than the 1498 images'),
    (['--augment-name', 'randaugment', '--randaug-magnitude', '31'], '--randaug-magnitude 31: must be 0 to 30'),
    (['--augment-name', 'randaugment', '--randaug-magnitude', '-1'], '--randaug-magnitude -1: must be 0 to 30'),
    (['--address', 'nonsense'], "--address 'nonsense': choose ipc://"),
    (['--address', 'ipc:///nowhere/socket'], 'cannot serve at --address ipc:///nowhere/socket'),
])
def test_bad_input_ends_with_one_line_and_exit_code_2(tmp_path, flags, message):
    result = run_to_end(*[flag.format(empty=tmp_path) for flag in flags])
    assert result.returncode == 2 and result.stdout == ''
    assert re.match('serve-data: .*' + message, result.stderr) and result.stderr.count('\n') == 1


@pytest.mark.parametrize('flags', [['--batch', '0'], ['--workers', '0'], ['--augmentation', 'cropp'], ['--dat', '/'],
                                   ['--fake', '--data', '/'], ['--augment-name', 'cutout'],
                                   ['--randaug-num-layers', '0'], ['--randaug-magnitude', 'strong'],
                                   ['--shard', '2/2'], ['--shard', '-1/2'], ['--shard', '1'], ['--shard', '0/0']])
def test_flags_out_of_range_or_abbreviated_are_refused(flags):
    result = run_to_end(*flags)
    assert result.returncode == 2 and result.stderr.count('\n') == 1
    assert result.stderr.startswith('serve-data.py: error: ')


def test_a_set_without_a_readable_image_ends_the_server(tmp_path):
    (tmp_path / 'train' / 'ant').mkdir(parents=True)
    (tmp_path / 'train' / 'ant' / '1.png').write_text('no image')
    result = run_to_end('--data', str(tmp_path), '--workers', '1')
    assert result.returncode == 1 and result.stderr.count('\n') == 1
    assert result.stderr.startswith('serve-data: none of the 1 images of')


FAILS_AT_ONCE = '''
import numpy as np

from data.workers import WorkerDied, WorkerPool


class Stream:
    specs = (np.dtype(np.uint8), (4,)),
    unreadable = {}

    def fill(self, number, *arrays):
        raise ValueError('none of them can be read')


with WorkerPool(Stream(), 1) as pool:
    pool._order_one()
    pool._processes[0].join()
    pool.start()
    try:
        pool.receive()
    except WorkerDied as died:
        print(died)
'''


def test_workers_that_have_ended_before_all_is_ordered_say_why():
    ended = subprocess.run([sys.executable, '-c', FAILS_AT_ONCE], cwd=ROOT, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, timeout=60)
    assert ended.stdout == 'none of them can be read\n'


def test_an_unreadable_image_is_warned_of_once_by_all_workers_and_counted(tmp_path, start, receive):
    data = make_folder(tmp_path, ['train/ant/1.png', 'train/bee/2.png'])
    (tmp_path / 'train' / 'bee' / '3.png').write_text('no image')
    server, _ = start('--data', data, '--batch', '3', '--workers', '3', '--augmentation', 'none')
    assert {decode(message)[0].shape for message in receive(40)} == {(3, 32, 32, 3)}
    server.terminate()
    output, warnings = server.communicate()
    assert warnings.count('cannot decode image {}'.format(os.path.join(data, 'train', 'bee', '3.png'))) == 1
    assert output == 'serve-data: 1 of 3 images could not be decoded and were left out\n'


def test_the_benchmark_reports_and_stops_on_a_signal():
    server = subprocess.Popen([sys.executable, SCRIPT, '--benchmark', '--fake', '--input-size', '32',
                               '--workers', '2'], cwd='/',
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert re.fullmatch(r'serve-data: [1-9]\d* images/s after ([5-9]|[1-9]\d) s\n', server.stdout.readline())
    server.terminate()
    assert server.communicate(timeout=10)[1] == '' and server.returncode == 143


# A benchmark that is asked to stop in a destructor, which loses what the signal's handler raises.
STOPPED_IN_A_DESTRUCTOR = """
import os, runpy, signal, sys
from data import throughput
class Asks:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
measure = throughput.measure
throughput.measure = lambda pool, sink, batch, *_: measure(pool, sink, batch, 60, 0.1, lambda *_: Asks())
sys.argv[0] = 'third_party/serve-data.py'
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_a_signal_whose_exception_is_lost_still_stops_the_server():
    stopped = subprocess.run([sys.executable, '-c', STOPPED_IN_A_DESTRUCTOR, '--benchmark', '--batch', '4'],
                             cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30)
    assert (stopped.returncode, stopped.stderr) == (143, '')


# A short benchmark of serve-data.py with the flags in argv.
SHORT_BENCHMARK = """
import runpy, sys
from data import throughput
measure = throughput.measure
throughput.measure = lambda pool, sink, batch, seconds, *rest: measure(pool, sink, batch, 0.5, *rest)
sys.argv[0] = 'third_party/serve-data.py'
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_the_benchmark_says_where_the_time_goes():
    result = subprocess.run([sys.executable, '-c', SHORT_BENCHMARK, '--benchmark', '--batch', '4', '--workers', '1'],
                            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, '')
    first, second = result.stdout.splitlines()
    speed, per_core = re.fullmatch(r'serve-data: (\d+) images/s, (\d+) per core \(1 workers, \d+ cores\)',
                                   first).groups()
    assert int(speed) == int(per_core) > 0
    parts = dict(part.split() for part in second[len('serve-data: ms per image: '):].split(', '))
    assert list(parts) == ['read', 'decode', 'augment', 'batch', 'send']
    parts = {name: float(value) for name, value in parts.items()}
    assert all(value > 0 for value in parts.values())
    # One worker does the first four, one after the other.
    assert sum(parts.values()) - parts['send'] <= 1.05 * 1000 / int(speed)


def memory_of_batches(server):
    """Bytes that a server holds for batches."""
    folder = '/proc/{}/fd'.format(server.pid)
    found = {os.stat(os.path.join(folder, name)) for name in os.listdir(folder)
             if 'memfd:batches' in os.readlink(os.path.join(folder, name))}
    assert len(found) == 1
    return found.pop().st_blocks * 512


def test_memory_is_bounded_while_nobody_pulls_and_while_trainers_stand_still(start, receive):
    server, _ = start('--batch', '64', '--workers', '2', '--hwm', '3')
    slot, window = 64 * 32 * 32 * 3 + 4096, 2 * 2 + 3
    time.sleep(1)
    assert memory_of_batches(server) <= window * slot
    messages = receive(4, receivers=2)
    time.sleep(1)
    still = memory_of_batches(server)
    # What a connection itself has taken out of its queue counts as one more batch.
    assert window * slot < still <= (window + 2 * (3 + 1)) * slot
    messages += receive(96, receivers=2)
    # Those that have just left come back a moment later.
    assert memory_of_batches(server) <= (window + 2 * (3 + 1) + 10) * slot
    stream = TrainingStream(open_dataset(None, 'train', 10), 64, View(32, 'none'), 0)
    number_of = {stream.batch(number)[0].tobytes(): number for number in range(120)}
    assert len({number_of[decode(message)[0].tobytes()] for message in messages}) == len(messages)  # none written over


@pytest.mark.parametrize('count', [2, 3])
def test_the_parts_of_all_machines_together_hold_every_image_once(address, count):
    dataset, served = open_dataset(None, 'train', 10), collections.Counter()
    context = zmq.Context()
    servers = []
    try:
        for index in range(count):
            here = '{}-{}'.format(address, index)
            servers.append(subprocess.Popen(
                [sys.executable, SCRIPT, '--input-size', '32', '--batch', '2', '--workers', '1', '--address', here,
                 '--shard', '{}/{}'.format(index, count)], stdout=subprocess.PIPE, text=True))
            assert 'ready' in servers[-1].stdout.readline()
            part = len(range(index, 1498, count))
            with Lease(here, {'num_images': 1498, 'shard': [index, count]}, new_job(), 10) as lease, \
                    lease.receiver(context, 1) as pull:
                images = [picture.tobytes() for _ in range(-(-part // 2)) for picture in decode(pull.recv())[0]]
            served.update(images[:part])
    finally:
        for server in servers:
            server.kill()
            server.communicate()
        context.destroy(linger=0)
    assert served == collections.Counter(read_image(path).tobytes() for path in dataset.files)


def test_a_python_without_the_packages_is_told_which_one_to_use():
    result = subprocess.run([sys.executable, '-S', '-E', SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)
    assert result.returncode != 0 and result.stderr.count('\n') == 1
    assert re.match(r"serve-data: .* has no module '\w+'; run `make setup`, then .venv/bin/python .*serve-data.py",
                    result.stderr)


def test_help_needs_no_data():
    result = run_to_end('--help-all')
    assert result.returncode == 0 and all(flag in result.stdout
                                          for flag in ('--no-zmq-ops', '--hwm', '--shard', '--augmentation',
                                                                               '--augment-name'))
