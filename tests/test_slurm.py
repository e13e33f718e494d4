"""slurm/train.sh and slurm/eval.sh under a real Slurm of two nodes (`make test-slurm`)."""
import json
import os
import re
import time

import pytest

import hosts
import slurm_cluster
from weights.find import read_checkpoint, saved_steps

pytestmark = pytest.mark.slurm

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NODES, BATCH, STEPS = 2, 8, 10
NUM_VALIDATION = 299
NETWORK = ['--arch', 'CifarResNet', '-d', '8']
TRAINING = NETWORK + ['--steps-per-epoch', str(STEPS), '--attack-iter', '1', '--eval-attack-iter', '1',
                      '--eval-attack-step-size', '4', '--eval-every', '100']
SECONDS = 180  # until a job counts as hanging
ENDED = {'COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL'}


class Job:
    """A job that was submitted from the checkout with logs in ``folder``."""

    def __init__(self, cluster, folder, script, *flags, sbatch=(), **settings):
        self._cluster = cluster
        settings = dict(dict(DATA='', BATCH=str(BATCH), SERVE_FLAGS='--input-size 32 --workers 1', LOGS=str(folder),
                             LOGDIR=str(folder / 'run'), RESULTS_DIR=str(folder / 'results'), RANKS_PER_NODE='1'),
                        **settings)
        self.number = cluster.run(
            'sbatch', '--parsable', '--nodes={}'.format(NODES), '--output={}/%j.log'.format(folder), *sbatch,
            os.path.join('slurm', script), *flags, cwd=ROOT, **settings).stdout.strip()
        self._output = folder / (self.number + '.log')

    def __getitem__(self, field):
        shown = self._cluster.run('scontrol', 'show', 'job', self.number).stdout
        return re.search(r'\b{}=(\S+)'.format(field), shown).group(1)

    def output(self):
        return self._output.read_text() if self._output.exists() else ''

    def wait(self, what, condition):
        deadline = time.time() + SECONDS
        while not condition():
            assert time.time() < deadline, 'not within {} s: {}\n{}'.format(SECONDS, what, self.output())
            assert self['JobState'] not in ENDED or condition(), 'ended before: {}\n{}'.format(what, self.output())
            time.sleep(0.2)

    def end(self):
        """Wait for the end. Returns: Slurm's name of the state."""
        self.wait('the end', lambda: self['JobState'] in ENDED)
        return self['JobState']


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    problem = hosts.NEEDED.missing() or slurm_cluster.NEEDED.missing()
    if problem:
        pytest.skip(problem)
    folder = tmp_path_factory.mktemp('slurm')
    with hosts.Network(folder, NODES) as network, slurm_cluster.Cluster(network, folder) as cluster:
        cluster.environment.update(OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1')
        yield cluster


@pytest.fixture
def submit(cluster, tmp_path):
    """function(script, flags, settings) -> Job; what the test leaves running is cancelled."""
    jobs = []

    def make(*arguments, **settings):
        jobs.append(Job(cluster, tmp_path, *arguments, **settings))
        return jobs[-1]
    yield make
    for job in jobs:
        cluster.run('scancel', job.number)


def statistics(folder):
    with open(folder / 'stats.json') as f:
        return json.load(f)


@pytest.mark.parametrize('launcher', ['mpirun', 'srun'])
def test_two_nodes_train_and_judge(submit, tmp_path, launcher):
    job = submit('train.sh', *TRAINING, '--epochs', '2', LAUNCHER=launcher)
    assert job.end() == 'COMPLETED', job.output()
    run = tmp_path / 'run'
    assert json.loads((run / 'run.json').read_text())['ranks'] == NODES
    assert [entry['global_step'] for entry in statistics(run)] == [STEPS, 2 * STEPS]
    for node in ('node1', 'node2'):
        assert 'ready at ipc://@imagenet-train-b8' in (tmp_path / 'data-{}.{}.log'.format(job.number, node)).read_text()

    # The flags as one argument, as the releases' scripts take them.
    judge = submit('eval.sh', ' '.join(NETWORK + ['--load', str(run), '--attack-iter', '2']), LAUNCHER=launcher,
                   RANKS_PER_NODE='2')
    assert judge.end() == 'COMPLETED', judge.output()
    results = json.loads((tmp_path / 'results' / 'results.json').read_text())
    assert results['num_images'] == NUM_VALIDATION and results['args']['ranks'] == 2 * NODES
    assert (tmp_path / 'results' / 'per_example.csv').read_text().count('\n') == 1 + NUM_VALIDATION


@pytest.mark.parametrize('launcher, signal', [('mpirun', 'TERM'), ('srun', 'USR1')])
def test_a_warned_job_writes_a_checkpoint_is_requeued_and_goes_on_from_it(cluster, submit, tmp_path, launcher, signal):
    job, run = submit('train.sh', *TRAINING, '--epochs', '12', LAUNCHER=launcher), tmp_path / 'run'
    job.wait('the first checkpoint', lambda: saved_steps(str(run)))
    cluster.run('scancel', '--batch', '--signal=' + signal, job.number)
    job.wait('the requeue', lambda: job['Restarts'] == '1')
    saved = saved_steps(str(run))[-1]
    assert saved < 12 * STEPS and 'requeued' in job.output(), job.output()
    assert job.end() == 'COMPLETED', job.output()
    assert 'start 2' in job.output() and 'goes on     after step {:,}, in epoch '.format(saved) in job.output()
    assert saved_steps(str(run))[-1] == 12 * STEPS
    assert [entry['epoch_num'] for entry in statistics(run)] == list(range(1, 13))
    assert not (tmp_path / 'run-2').exists()


def test_slurm_s_own_warning_before_the_time_limit_requeues_the_job(cluster, submit, tmp_path):
    job = submit('train.sh', *TRAINING, '--epochs', '1000', sbatch=['--time=3'])  # the script asks for 120 s before it
    job.wait('the requeue', lambda: job['Restarts'] == '1')
    assert 'train.sh: SIGUSR1: requeued' in job.output(), job.output()
    assert read_checkpoint(str(tmp_path / 'run'))


def test_a_cancelled_job_writes_a_checkpoint_and_stays_cancelled(cluster, submit, tmp_path):
    job = submit('train.sh', *TRAINING, '--epochs', '1000', '--keep-checkpoints', '1000', LAUNCHER='srun')
    job.wait('the first checkpoint', lambda: saved_steps(str(tmp_path / 'run')))
    cluster.run('scancel', job.number)
    assert job.end() == 'CANCELLED', job.output()
    job.wait('the checkpoint', lambda: 'stopped by SIGTERM after step' in job.output())
    assert job['Restarts'] == '0' and read_checkpoint(str(tmp_path / 'run'))


def test_a_data_server_that_dies_ends_the_job_which_says_so_and_keeps_a_checkpoint(cluster, submit, tmp_path):
    job = submit('train.sh', *TRAINING, '--epochs', '1000')
    job.wait('the first checkpoint', lambda: saved_steps(str(tmp_path / 'run')))
    cluster.kill('node2', 'serve-data.py')
    begin = time.time()
    job.wait('its message', lambda: 'train.sh: a data server ended, ' in job.output())
    said = time.time() - begin
    assert job.end() == 'FAILED'
    print('message after {:.0f} s, job ended after {:.0f} s'.format(said, time.time() - begin))
    assert said < 10
    assert 'srun: error: node2: ' in job.output(), job.output()
    assert read_checkpoint(str(tmp_path / 'run'))
