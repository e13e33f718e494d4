"""Training when its data server falls silent, or dies and comes back."""
import contextlib
import os
import pickle
import re
import secrets
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import zmq

import checkpoints
import zmq_ops
from third_party.imagedata.handshake import InfoServer
from third_party.utils import _RANK_VARIABLES as RANK_VARIABLES

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAIN, SERVER = os.path.join(ROOT, 'main.py'), os.path.join(ROOT, 'third_party', 'serve-data.py')
BATCH = 4
SMALL = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--num-classes', '3', '--batch', str(BATCH),
         '--attack-iter', '0', '--fake']
SECONDS = 150  # until a run counts as hanging


@pytest.fixture
def address():
    return 'ipc://@test-data-timeout-' + secrets.token_hex(8)


@contextlib.contextmanager
def served(address, batches, zmq_format=True):
    """A data server in this process that sends so many batches and then nothing."""
    arrays = [np.zeros((BATCH, 8, 8, 3), np.uint8), np.zeros(BATCH, np.int32)]
    message = zmq_ops.dump_arrays(arrays) if zmq_format else pickle.dumps(arrays)
    description = {'batch': BATCH, 'input_size': 8, 'dtype': 'uint8', 'dataset': 'fake', 'fake': True, 'classes': [],
                   'num_images': BATCH, 'shard': [0, 1], 'seed': 0, 'format': 'zmq_ops' if zmq_format else 'tensorpack'}

    def push():
        socket.poll(flags=zmq.POLLOUT)
        for _ in range(batches):
            socket.send(message)
    with contextlib.closing(InfoServer(address, description)), zmq.Context() as context:
        with context.socket(zmq.PUSH) as socket:
            socket.linger = 0
            socket.bind(address)
            thread = threading.Thread(target=push)
            thread.start()
            yield
            thread.join()


@pytest.mark.parametrize('flags', [[], ['--no-zmq-ops']], ids=['op', 'python'])
def test_training_ends_with_one_line_when_the_data_server_falls_silent(address, flags, graph, monkeypatch, tmp_path,
                                                                       capfd):
    import main
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with served(address, batches=2, zmq_format=not flags), pytest.raises(SystemExit) as end:
        main.main(SMALL + ['--steps-per-epoch', '5', '--serve-address', address, '--data-timeout', '1.5'] + flags)
    err = capfd.readouterr().err
    assert end.value.code == 2 and 'Traceback' not in err
    line, = [line for line in err.splitlines() if 'error: ' in line]
    assert line.endswith("error: no batch from '{}' for 1.5 s; is its data server running?".format(address))


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
    with served(address, batches=7):
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
    run = subprocess.Popen([sys.executable, MAIN] + SMALL + ['--serve-address', address, '--logdir', 'runs/one', *flags],
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
    assert checkpoints.read(str(tmp_path / 'runs' / 'one'))
