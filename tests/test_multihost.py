"""One job of ``mpirun`` over several machines, each with a data server of its own (`make test-multihost`)."""
import contextlib
import json
import os
import re
import subprocess
import sys
import time

import pytest

import hosts
from small_runs import each_its_own
from weights.find import read_checkpoint, saved_steps

pytestmark = pytest.mark.multihost

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAIN = os.path.join(ROOT, 'main.py')
SERVER = os.path.join(ROOT, 'third_party', 'serve-data.py')
BATCH, STEPS, EPOCHS = 8, 6, 2
NETWORK = ['--arch', 'CifarResNet', '-d', '8', '--batch', str(BATCH), '--steps-per-epoch', str(STEPS)]
TRAINING = NETWORK + ['--epochs', str(EPOCHS), '--attack-iter', '1', '--eval-attack-iter', '1',
                      '--eval-attack-step-size', '4', '--base-lr', '1', '--warmup-epochs', '0']
ADDRESS, OTHER = 'ipc://@imagenet-train-b{}'.format(BATCH), 'ipc://@another'
SECONDS = 240  # until a job counts as hanging
# What docs/cluster.md recommends and slurm/launch.sh sets: mpirun notices a silent machine after 30 to 60 s.
# Open MPI 4's names and 5's.
KEEPALIVE = {program + '_MCA_oob_tcp_keepalive_' + name: value for program in ('OMPI', 'PRTE')
             for name, value in [('time', '30'), ('intvl', '10'), ('probes', '3')]}


@pytest.fixture(scope='module')
def environment():
    return dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', PYTHONPATH=ROOT,
                **KEEPALIVE)


@pytest.fixture
def network(tmp_path):
    """Two machines and the login machine."""
    problem = hosts.NEEDED.missing()
    if problem:
        pytest.skip(problem)
    with hosts.Network(tmp_path, 2) as network:
        yield network


@pytest.fixture
def mpirun(network, environment, tmp_path):
    """function(flags and programs) -> subprocess.Popen of mpirun on the login machine, with its output in a pipe."""
    jobs = []

    def start(*words):
        jobs.append(subprocess.Popen(
            network.login.command(['mpirun', '--mca', 'plm_rsh_agent', network.agent, '-bind-to', 'none', *words],
                                  tmp_path),
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return jobs[-1]
    yield start
    for job in jobs:
        job.terminate()
        job.communicate()


@contextlib.contextmanager
def data_server(machine, environment, shard, address=ADDRESS):
    """A server of one half of the digits, 0 or 1."""
    command = [sys.executable, SERVER, '--batch', BATCH, '--input-size', '32', '--workers', '1', '--shard',
               '{}/2'.format(shard), '--address', address]
    with subprocess.Popen(machine.command(command), env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert 'ready' in server.stdout.readline()
            yield
        finally:
            server.terminate()


def peers(machine):
    """How many processes are connected to the machine's data server."""
    with_state = re.findall(r'(\w\w) +\d+ @imagenet-train-b{}@*$'.format(BATCH),
                            machine.run('cat', '/proc/net/unix'), re.MULTILINE)
    return with_state.count('03')  # connected; the listening socket itself has 01


def statistics(folder):
    with open(folder / 'stats.json') as f:
        return json.load(f)


def test_ranks_are_numbered_on_each_machine(mpirun, tmp_path):
    program = ('import socket; from third_party.utils import start_ranks; ranks = start_ranks(); '
               'open("rank-{}".format(ranks.rank), "w").write("{} {}".format(socket.gethostname(), tuple(ranks[:4])))')
    job = mpirun('-H', 'node1:2,node2:1', sys.executable, '-c', program)
    assert job.wait(SECONDS) == 0, job.stdout.read()
    assert {path.name: path.read_text() for path in tmp_path.glob('rank-*')} == {
        'rank-0': 'node1 (0, 3, 0, 2)', 'rank-1': 'node1 (1, 3, 1, 2)', 'rank-2': 'node2 (2, 3, 0, 1)'}


def test_two_machines_with_a_server_each_train_as_one_machine_with_two_servers(network, environment, mpirun, tmp_path):
    first, second = network.nodes
    with data_server(first, environment, 0), data_server(second, environment, 1):
        job = mpirun('-H', 'node1:1,node2:1', sys.executable, MAIN, *TRAINING, '--logdir', tmp_path / 'two')
        most = [0, 0]
        while job.poll() is None:
            most = [max(m, peers(node)) for m, node in zip(most, network.nodes)]
            time.sleep(0.2)
        assert job.returncode == 0, job.stdout.read()
    assert most == [1, 1] and peers(network.login) == 0

    rank = [MAIN, *TRAINING, '--logdir', tmp_path / 'one']
    with data_server(network.login, environment, 0), data_server(network.login, environment, 1, OTHER):
        job = mpirun('-H', 'login:2', sys.executable, *each_its_own(rank, [*rank, '--serve-address', OTHER]))
        assert job.wait(SECONDS) == 0, job.stdout.read()
    two, one = statistics(tmp_path / 'two'), statistics(tmp_path / 'one')
    assert [entry['global_step'] for entry in two] == [STEPS, 2 * STEPS] and two == one


def test_a_cut_network_ends_the_job_with_the_name_of_the_machine(network, mpirun, tmp_path):
    job = mpirun('-H', 'node1:1,node2:1', sys.executable, MAIN, *NETWORK, '--fake', '--attack-iter', '0', '--epochs',
                 '1000', '--logdir', tmp_path / 'run')
    while not saved_steps(str(tmp_path / 'run')):
        assert job.poll() is None, job.stdout.read()
        time.sleep(0.2)
    network.cut(network.nodes[1])
    begin = time.time()
    output, _ = job.communicate(timeout=120)
    print('the job ended {:.0f} s after the network was cut'.format(time.time() - begin))
    assert job.returncode != 0 and re.search('Remote daemon: .* on node node2', output), output
    assert read_checkpoint(str(tmp_path / 'run'))
