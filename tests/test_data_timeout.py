"""Training when its data server falls silent, or dies and comes back."""
import contextlib
import logging
import os
import pickle
import re
import secrets
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings, strategies as st

import zmq_ops
from data.doorkeeper import guard
from data.handshake import new_job
from data.info_server import InfoServer
from data.lease import Lease
from ranks.end import reason
from ranks.launched import RANK_VARIABLES
from weights.find import read_checkpoint

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAIN, SERVER = os.path.join(ROOT, 'main.py'), os.path.join(ROOT, 'third_party', 'serve-data.py')
BATCH = 4
SMALL = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--num-classes', '3', '--batch', str(BATCH),
         '--attack-iter', '0', '--fake']
SECONDS = 150  # until a run counts as hanging


@pytest.fixture
def address():
    return 'ipc://@test-data-timeout-' + secrets.token_hex(8)


IMAGES, LABELS = np.zeros((BATCH, 8, 8, 3), np.uint8), np.arange(BATCH, dtype=np.int32) % 3
GOOD = [zmq_ops.dump_arrays([IMAGES, LABELS])]


@contextlib.contextmanager
def served(address, messages):
    """A data server in this process that sends these messages, each a list of frames, and then nothing."""
    description = {'batch': BATCH, 'input_size': 8, 'dtype': 'uint8', 'channels': 'BGR', 'dataset': 'fake',
                   'fake': True, 'classes': [], 'num_images': BATCH, 'shard': [0, 1], 'seed': 0, 'augmentation': 'none'}

    ended = threading.Event()

    def push():
        for frames in messages:
            while not ended.is_set():  # a plain send would wait for ever for a receiver that has gone
                try:
                    socket.send_multipart(frames, zmq.DONTWAIT)
                    break
                except zmq.Again:
                    ended.wait(0.02)
    context = zmq.Context()
    with contextlib.closing(InfoServer(address, description)) as info, contextlib.ExitStack() as stack:
        stack.callback(context.term)  # not destroy(), which would close the socket of a thread
        with context.socket(zmq.PUSH) as socket:
            socket.linger = 0
            guard(context, socket, info.claims.admits)
            socket.bind(address)
            thread = threading.Thread(target=push)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()


@pytest.fixture
def last_line(address, graph, monkeypatch, tmp_path, capfd):
    """function(messages, flags): train on these messages, in this process; the line in which that ends."""
    import main
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(messages, flags):
        with served(address, messages), pytest.raises(SystemExit) as end:
            main.main(SMALL + ['--steps-per-epoch', '5', '--serve-address', address, '--data-timeout', '1.5'] + flags)
        err = capfd.readouterr().err
        assert end.value.code == 2 and 'Traceback' not in err, err
        line, = [line for line in err.splitlines() if 'error: ' in line]
        return line
    return run


WAYS = pytest.mark.parametrize('flags', [[], ['--no-zmq-ops']], ids=['op', 'python'])


@WAYS
def test_training_ends_with_one_line_when_the_data_server_falls_silent(address, last_line, flags):
    line = last_line([GOOD] * 2, flags)
    assert line.endswith("error: no batch from '{}' for 1.5 s; is its data server running?".format(address))


@pytest.fixture
def told(monkeypatch):
    """What is told of waits of 0.3 s and more, as of such of 30, a list of lines."""
    from training import inputs, silence
    lines = []
    monkeypatch.setattr(silence, 'FIRST_SAID', 0.3)
    for module in (silence, inputs):
        monkeypatch.setattr(module, 'LOOK', 0.05)
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    handler.addFilter(lambda record: record.name == 'tensorpack.anywhere')
    logging.getLogger('tensorpack').addHandler(handler)
    yield lines
    logging.getLogger('tensorpack').removeHandler(handler)


@WAYS
def test_a_silent_data_server_is_told_of_with_the_time_until_which_training_waits(last_line, told, flags):
    begin = time.time()
    last_line([GOOD] * 2, flags)
    found = [re.fullmatch(r'no data for [01] s, waiting until (\d\d:\d\d:\d\d) \(--data-timeout 1.5\)', line)
             for line in told]
    # After 0.3, 0.6 and 1.2 s; a look that comes late says what two would have.
    assert 0 < len(found) <= 3 and all(found), told
    until = {match.group(1) for match in found}
    assert len(until) <= 2 and until <= {
        time.strftime('%H:%M:%S', time.localtime(second)) for second in range(int(begin), int(time.time()) + 2)}


@WAYS
def test_data_that_come_again_are_told_of(batches, told, sess, flags):
    import tensorflow.compat.v1 as tf

    from training.inputs import served_input
    pause = threading.Event()
    with batches(later([GOOD], pause)) as served_batches:
        source = served_input(served_batches, not flags)
        threading.Timer(0.5, pause.set).start()
        if flags:
            image, label = next(iter(source.ds))
        else:
            source.setup([tf.TensorSpec([None, 8, 8, 3], tf.uint8, 'image'), tf.TensorSpec([None], tf.int32, 'label')])
            tensors = source.get_input_tensors()
            watch = source.get_callbacks()[-1]
            watch.before_train()
            image, label = sess.run(tensors)
            watch.after_train()
    assert (image == IMAGES).all() and (label == LABELS).all()
    assert re.match('no data for [01] s, waiting until ', told[0]) and told[-1].startswith('data again after '), told


def later(messages, event):
    """The messages, once the event has happened."""
    event.wait(20)
    yield from messages


@pytest.mark.parametrize('timeout, lines', [
    (100.0, ['no data for 30 s, waiting until {} (--data-timeout 100)', 'no data for 61 s, waiting until {} '
             '(--data-timeout 100)', 'data again after 99 s']),
    (0.0, ['no data for 30 s, waiting without an end (--data-timeout 0)',
           'no data for 61 s, waiting without an end (--data-timeout 0)', 'data again after 99 s'])])
def test_waits_are_told_of_more_and_more_rarely_until_there_are_data(monkeypatch, timeout, lines):
    from training import silence
    monkeypatch.setattr(silence.time, 'time', lambda: 1e9)
    said = []
    watched = silence.Silence(timeout, said.append)
    for seconds in (1, 29.9, 30.2, 31, 59, 61, 99):
        watched.waited(seconds)
    watched.ended(99)
    watched.waited(29)
    watched.ended(29)
    ends = [time.strftime('%H:%M:%S', time.localtime(1e9 + timeout - seconds)) for seconds in (30.2, 61)]
    assert said == [line.format(*ends[k:k + 1]) for k, line in enumerate(lines)]
    watched.waited(200)  # of a limit of 100 the error says it
    assert len(said) == 3 + (timeout == 0)


def message(image=IMAGES, label=LABELS):
    return [zmq_ops.dump_arrays([image, label])]


class Touch:
    """Makes a file where it is unpickled."""

    def __reduce__(self):
        return open, ('unpickled', 'w')


WRONG = {
    'fewer images than announced': message(IMAGES[:3], LABELS[:3]),
    'more labels than images': message(label=LABELS[[0] * 5]), 'another size': message(IMAGES[:, :7]),
    'another rank': message(IMAGES[..., 0]), 'labels of rank 2': message(label=LABELS[:, None]),
    'a label too high': message(label=LABELS + 1), 'a label below 0': message(label=LABELS - 1),
    'labels of another type': message(label=LABELS.astype(np.int64)), 'no label': [zmq_ops.dump_arrays([IMAGES])],
    'a pickle': [pickle.dumps([IMAGES, LABELS, Touch()])], 'nothing': [b''], 'two frames': GOOD * 2,
    'a cut message': [GOOD[0][:-1]]}


@WAYS
def test_training_ends_with_one_line_when_what_arrives_is_no_batch(address, last_line, flags):
    line = last_line([GOOD, WRONG['fewer images than announced']] + [GOOD] * 20, flags)
    assert 'the data server at {} sent what is no batch of 4 images of 8 x 8 x 3 with labels below 3'.format(
        address) in line


def test_silence_names_what_the_server_has_said():
    from training.inputs import ServedBatches
    lease = SimpleNamespace(address='ipc://@here', lost='it feeds another job')
    assert str(ServedBatches(lease, 3.0, 2).silence()) == (
        "no batch from 'ipc://@here' for 3 s; the data server says: it feeds another job")


@pytest.fixture
def batches(address):
    """function(messages): a context in which they are served, as a ServedBatches."""
    @contextlib.contextmanager
    def run(messages):
        from training.inputs import ServedBatches
        with served(address, messages), Lease(address, {}, new_job(), 20) as lease:
            yield ServedBatches(lease, 20.0, 3)
    return run


@pytest.mark.parametrize('wrong', WRONG)
def test_the_op_gives_no_batch_but_of_the_announced_shape(batches, sess, wrong):
    import tensorflow.compat.v1 as tf

    from training.inputs import ServedInput
    with batches([GOOD, WRONG[wrong], GOOD]) as served_batches:
        source = ServedInput(served_batches)
        source.setup([tf.TensorSpec([None, 8, 8, 3], tf.uint8, 'image'), tf.TensorSpec([None], tf.int32, 'label')])
        tensors = source.get_input_tensors()
        image, label = sess.run(tensors)
        assert (image == IMAGES).all() and (label == LABELS).all()
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            sess.run(tensors)
        line = reason(error.value)
        assert '\n' not in line and (served_batches.wrong in line or line.startswith('zmq_ops: '))


@pytest.mark.parametrize('wrong', WRONG)
def test_python_gives_no_batch_but_of_the_announced_shape(batches, tmp_path, monkeypatch, wrong):
    from tensorpack.dataflow import DataFlowTerminated

    from training.inputs import ServedDataFlow
    monkeypatch.chdir(tmp_path)
    with batches([GOOD, WRONG[wrong], GOOD]) as served_batches:
        flow = ServedDataFlow(served_batches)
        arriving = iter(flow)
        image, label = next(arriving)
        assert (image == IMAGES).all() and (label == LABELS).all() and not flow.failure
        with pytest.raises(DataFlowTerminated):
            next(arriving)
        assert isinstance(flow.failure, OSError) and '\n' not in str(flow.failure)
        assert str(flow.failure).startswith(served_batches.wrong)
    assert os.listdir(tmp_path) == []  # nothing was unpickled


damaged = st.builds(lambda parts: b''.join(parts), st.lists(st.one_of(
    st.integers(0, len(GOOD[0])).map(lambda at: GOOD[0][:at]), st.binary(max_size=40),
    st.integers(0, len(GOOD[0])).map(lambda at: GOOD[0][at:])), max_size=3))
flipped = st.builds(lambda at, byte: GOOD[0][:at] + bytes([GOOD[0][at] ^ byte]) + GOOD[0][at + 1:],
                    st.integers(0, len(GOOD[0]) - 1), st.integers(0, 255))


@pytest.mark.parametrize('count', [300, pytest.param(10000, marks=pytest.mark.slow)])
def test_no_damaged_message_becomes_a_wrong_batch(address, count):
    """Read in Python: a batch of the announced shape with labels in range, or a ValueError; never anything else."""
    from training.inputs import ServedBatches, ServedDataFlow
    lease = SimpleNamespace(address=address, description={'batch': BATCH, 'input_size': 8})
    flow = ServedDataFlow(ServedBatches(lease, 1.0, 3))
    kinds = set()

    @settings(max_examples=count, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))
    @given(frames=st.lists(damaged | flipped, min_size=1, max_size=2))
    def read(frames):
        try:
            image, label = flow._read([zmq.Frame(frame) for frame in frames])
        except ValueError:
            kinds.add('refused')
        else:
            kinds.add('read')
            assert image.shape == IMAGES.shape and label.shape == LABELS.shape and set(label.tolist()) <= {0, 1, 2}
            assert len(frames) == 1 and zmq_ops.dump_arrays([image, label]) == frames[0]
    read()
    assert kinds == {'refused', 'read'}


def test_a_data_timeout_is_300_seconds_by_default_and_cannot_be_negative(address, capsys):
    import main
    flags = SMALL + ['--serve-address', address]
    assert main.parse_args(flags).data_timeout == 300
    assert main.parse_args(flags + ['--data-timeout', '0']).data_timeout == 0
    with pytest.raises(SystemExit):
        main.parse_args(flags + ['--data-timeout', '-1'])
    assert '--data-timeout' in capsys.readouterr().err


@pytest.mark.slow
def test_a_silent_data_server_ends_all_ranks_and_the_line_names_the_rank(address, tmp_path):
    with served(address, [GOOD] * 7):
        ended = subprocess.run(
            ['mpirun', '--oversubscribe', '-bind-to', 'none', '-np', '2', sys.executable, MAIN] + SMALL +
            ['--steps-per-epoch', '50', '--serve-address', address, '--data-timeout', '3'],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=SECONDS,
            env=dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1'))
    assert ended.returncode == 2 and 'Traceback' not in ended.stderr, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if 'error: ' in line]
    assert lines and all(re.search(r"error: rank [01]: no batch from '.*' for 3 s", line) for line in lines), lines


@contextlib.contextmanager
def data_server(address):
    server = subprocess.Popen([sys.executable, SERVER, '--fake', '--num-classes', '3', '--batch', str(BATCH),
                               '--input-size', '8', '--workers', '1', '--address', address],
                              stdout=subprocess.PIPE, text=True)
    try:
        assert 'ready' in server.stdout.readline()
        yield server
    finally:
        server.kill()
        server.communicate()


@contextlib.contextmanager
def training(address, cwd, *flags):
    """A run that a data server feeds, behind its first epoch."""
    environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    run = subprocess.Popen([sys.executable, MAIN] + SMALL
                           + ['--serve-address', address, '--logdir', 'runs/one', *flags],
                           cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        deadline = time.monotonic() + SECONDS
        while not (cwd / 'runs' / 'one' / 'checkpoint').exists():
            assert run.poll() is None, run.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield run
    finally:
        run.kill()
        run.wait()


@pytest.mark.slow
def test_training_goes_on_with_a_data_server_that_was_killed_and_started_again(address, tmp_path):
    """The run is long enough to outlive the first server, and the second is there before the timeout."""
    flags = ['--steps-per-epoch', '400', '--epochs', '2', '--data-timeout', '60']
    with data_server(address) as first, training(address, tmp_path, *flags) as run:
        first.kill()
        first.wait()
        time.sleep(1)
        assert run.poll() is None
        with data_server(address):
            out, _ = run.communicate(timeout=SECONDS)
    assert run.returncode == 0, out
    assert (tmp_path / 'runs' / 'one' / 'model-800.index').exists()


@pytest.mark.slow
def test_a_data_server_killed_for_good_ends_the_run_after_the_timeout_and_leaves_its_checkpoints(address, tmp_path):
    flags = ['--steps-per-epoch', '200', '--epochs', '1000', '--data-timeout', '5']
    with data_server(address) as server, training(address, tmp_path, *flags) as run:
        server.kill()
        begin = time.monotonic()
        out, _ = run.communicate(timeout=60)
        print('{:.1f} s after the kill'.format(time.monotonic() - begin))
    assert run.returncode == 2 and "no batch from '{}' for 5 s".format(address) in out and 'Traceback' not in out, out
    assert read_checkpoint(str(tmp_path / 'runs' / 'one'))
