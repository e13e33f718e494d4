"""What dies, and what then happens: every fault ends in one clear line within a bounded time, and loses nothing whole.

The times that tests measure are printed (pytest -s); their bounds are asserted.
"""
import functools
import logging
import os
import re
import signal
import time

import psutil
import pytest

import checkpoints
import evaluation
import training
from image_folders import make_noise_folder
from small_runs import (LEAN, MAIN, NUM_IMAGES, SMALL, STEPS, differing, epochs_in, read_json, start_ranks,
                        start_training, variables, wait_for)

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Noise images of two classes; the five for validation are two batches."""
    return make_noise_folder(tmp_path_factory.mktemp('images'), {'train': NUM_IMAGES, 'val': 5}, 'ab')


@pytest.fixture(scope='module')
def train(data):
    """function(log directory, flags): train in this process, on a fresh graph, two epochs unless told otherwise."""
    return functools.partial(start_training, data)


AVERAGED = ['--moving-average-decay', '0.9', '--optimizer', 'rmsprop', '--warmup-epochs', '0']


@pytest.fixture(scope='module')
def finished(train, tmp_path_factory):
    """Log directory of a run of two epochs with averages of the weights."""
    folder = tmp_path_factory.mktemp('finished') / 'run'
    train(folder, *AVERAGED)
    return folder


@pytest.fixture
def said():
    """What the run logs, a list of lines."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger('tensorpack')
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def no_signal_gets_through():
    """A run that ignores its signal fails; it does not end the tests."""
    def escaped(number, _):
        raise AssertionError('nobody handles signal {}'.format(number))
    before = [(number, signal.signal(number, escaped)) for number in SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def exit_code(run, *args):
    with pytest.raises(SystemExit) as end:
        run(*args)
    return end.value.code


def signal_in_step(monkeypatch, step, number):
    before_run = training.FeedTrainingStep._before_run

    def send(self, context):
        if self.global_step == step - 1:
            os.kill(os.getpid(), number)
        return before_run(self, context)
    monkeypatch.setattr(training.FeedTrainingStep, '_before_run', send)


@pytest.mark.parametrize('number', SIGNALS)
@pytest.mark.parametrize('step', [1, STEPS + 2, 2 * STEPS])
def test_a_signal_ends_the_run_after_the_running_step_with_a_checkpoint_that_continues_it_exactly(
        train, finished, tmp_path, monkeypatch, said, number, step):
    folder = tmp_path / 'run'
    with monkeypatch.context() as patch:
        signal_in_step(patch, step, number)
        assert exit_code(train, folder, *AVERAGED) == 143
    assert [line for line in said if 'stopped' in line] == ['stopped by {} after step {}; checkpoint saved; continue '
                                                            'with --resume'.format(number.name, step)]
    assert checkpoints.saved_steps(str(folder)) == [STEPS] * (step > STEPS) + [step]
    assert not [name for name in os.listdir(folder) if 'writing' in name]
    train(folder, '--resume', *AVERAGED)
    assert differing(variables(finished, 2 * STEPS), variables(folder, 2 * STEPS)) == []
    assert epochs_in(folder) == [1, 2]
    for mine, expected in zip(*(read_json(path / 'stats.json') for path in (folder, finished))):
        evaluated = [name for name in expected if name.startswith('eval-')]
        assert evaluated and {k: mine[k] for k in evaluated} == {k: expected[k] for k in evaluated}
    assert read_json(folder / 'best.json') == read_json(finished / 'best.json')


@pytest.mark.parametrize('judged', ['weights', 'averages'])
def test_a_signal_during_an_evaluation_ends_it_and_the_evaluation_runs_again_after_resuming(
        train, finished, tmp_path, monkeypatch, said, judged):
    folder, run, runs, batches = tmp_path / 'run', evaluation.EvaluationTower.run, [], []

    def send(self, session, watched, attackers, show_progress):
        runs.append(None)

        class Counted:
            __len__ = watched.__len__

            def __iter__(self):
                for batch in watched:
                    batches.append(len(runs))
                    if len(runs) == {'weights': 3, 'averages': 4}[judged]:
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield batch
        return run(self, session, Counted(), attackers, show_progress)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation.EvaluationTower, 'run', send)
        assert exit_code(train, folder, *AVERAGED) == 143
    assert batches.count(len(runs)) == 1  # of two
    assert 'stopped by SIGTERM after step {}; '.format(2 * STEPS) in said[-1]
    assert epochs_in(folder) == [1]
    assert differing(variables(finished, 2 * STEPS), variables(folder, 2 * STEPS)) == []
    train(folder, '--resume', *AVERAGED)
    assert differing(variables(finished, 2 * STEPS), variables(folder, 2 * STEPS)) == []
    assert epochs_in(folder) == [1, 2]
    assert read_json(folder / 'best.json') == read_json(finished / 'best.json')


def test_a_signal_before_the_first_step_ends_the_program_at_once_and_leaves_nothing_to_resume(
        train, tmp_path, monkeypatch, said):
    with monkeypatch.context() as patch:
        patch.setattr(training, 'local_input', lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
        assert exit_code(train, tmp_path / 'run', *LEAN) == 143
    assert said[-1] == 'stopped by SIGUSR1 before the first step'
    train(tmp_path / 'run', '--resume-if-any', '--epochs', '1', *LEAN)
    assert sorted(os.listdir(tmp_path)) == ['run', 'run-2']  # the first has not even its flags


def test_signals_are_the_caller_s_again_after_a_run(train, tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS]
    train(tmp_path / 'run', '--epochs', '1', *LEAN)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_resume_if_any_starts_a_run_and_then_continues_it(train, tmp_path, monkeypatch):
    folder = tmp_path / 'run'
    with monkeypatch.context() as patch:
        signal_in_step(patch, STEPS + 1, signal.SIGUSR1)
        assert exit_code(train, folder, '--resume-if-any', *LEAN) == 143
    train(folder, '--resume-if-any', *LEAN)
    assert os.listdir(tmp_path) == ['run']
    assert epochs_in(folder) == [1, 2]


def test_resume_if_any_loads_weights_into_a_new_run_only(train, finished, tmp_path, said):
    flags = LEAN + ['--resume-if-any', '--load', str(finished), '--base-lr', '0']
    for epochs in ('1', '2'):
        train(tmp_path / 'run', '--epochs', epochs, *flags)
    assert os.listdir(tmp_path) == ['run'] and epochs_in(tmp_path / 'run') == [1, 2]
    loaded = [line.rpartition(' ')[2] for line in said if line.startswith('Loaded ')]
    assert loaded == [str(finished), str(tmp_path / 'run' / 'model-{}'.format(STEPS))]


def test_resume_if_any_with_other_flags_is_refused(train, tmp_path, capsys):
    train(tmp_path / 'run', '--epochs', '1', *LEAN)
    assert exit_code(train, tmp_path / 'run', '--resume-if-any', '--seed', '9', *LEAN) == 2
    assert 'seed' in capsys.readouterr().err


@pytest.mark.parametrize('flags', [['--resume', '--resume-if-any'], ['--eval', '--load', 'X.npz', '--resume-if-any']])
def test_resume_if_any_is_of_training_and_is_not_resume(capsys, flags):
    import main
    assert exit_code(main.main, flags) == 2
    assert '--resume-if-any' in capsys.readouterr().err


@pytest.mark.parametrize('ranks, images, rounds', [(1, 37, 5), (2, 37, 3), (3, 37, 2), (5, 37, 1), (7, 37, 1)])
def test_all_ranks_know_how_many_batches_the_busiest_has(ranks, images, rounds):
    from third_party.imagenet_utils import ImageSet, ValidationBatches
    dataset = ImageSet(['x'] * images, [0] * images, [], 'x')
    batches = [ValidationBatches(dataset, 8, 8, 'none', rank, ranks) for rank in range(ranks)]
    assert [b.rounds for b in batches] == [rounds] * ranks
    assert max(len(b) for b in batches) == rounds


class Job:
    """A training run of two ranks on fake data that has just written its first checkpoint.

    Its epochs are long, so that it is in the middle of the second one for a while.
    """
    steps = 20
    flags = SMALL + ['--fake', '--attack-iter', '1', '--epochs', '1000', '--steps-per-epoch', str(steps), '--logdir',
                     'runs/two']

    def __init__(self, cwd, **environment):
        self.cwd, self.folder, self.environment = cwd, cwd / 'runs' / 'two', environment
        self.mpirun = start_ranks(2, MAIN, *self.flags, cwd=cwd, **environment)
        try:
            deadline = time.monotonic() + 120
            while not (self.folder / 'best.json').exists() and not checkpoints.saved_steps(str(self.folder)):
                assert self.mpirun.poll() is None and time.monotonic() < deadline, self.mpirun.communicate()
                time.sleep(0.02)
        except BaseException:
            self.mpirun.terminate()
            raise

    def rank(self, number):
        """Process of a rank."""
        for process in psutil.Process(self.mpirun.pid).children(recursive=True):
            if process.environ().get('OMPI_COMM_WORLD_RANK') == str(number):
                return process

    def end(self, fault, seconds):
        """``fault``, its name for the printed time, and what mpirun says of it in so many ``seconds``."""
        ranks = [self.rank(number) for number in range(2)]
        begin = time.monotonic()
        fault(self)
        ended = wait_for(self.mpirun, seconds)
        print('{:.1f} s'.format(time.monotonic() - begin))
        # A rank whose launcher ended first may lie there as a zombie.
        assert not [process for process in ranks if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert 'Traceback' not in ended.stderr, ended.stderr
        return ended

    def resumes(self):
        """Whether --resume goes on behind the newest checkpoint and ends well; checks nothing of what it learns."""
        steps = checkpoints.saved_steps(str(self.folder))
        epochs = steps[-1] // self.steps + 1
        ended = wait_for(start_ranks(2, MAIN, *self.flags, '--resume', '--epochs', str(epochs), cwd=self.cwd))
        assert ended.returncode == 0, ended.stderr
        assert 'global_step={}'.format(steps[-1]) in ended.stdout
        return epochs_in(self.folder) == list(range(1, epochs + 1))


def assert_stopped(job, ended, name, exit_code=143):
    assert ended.returncode == exit_code, ended.stderr
    line, = re.findall(r'stopped by (\w+) after step (\d+); checkpoint saved; continue with --resume', ended.stdout)
    assert line == (name, str(checkpoints.saved_steps(str(job.folder))[-1]))
    assert job.resumes()


@pytest.mark.slow
@pytest.mark.parametrize('number, rank', [(signal.SIGTERM, 1), (signal.SIGUSR1, 0)])
def test_a_signal_to_one_rank_ends_all_after_the_same_step(tmp_path, number, rank):
    job = Job(tmp_path)
    assert_stopped(job, job.end(lambda job: job.rank(rank).send_signal(number), 30), number.name)


@pytest.mark.slow
def test_mpirun_passes_sigusr1_on_to_all_ranks(tmp_path):
    job = Job(tmp_path)
    assert_stopped(job, job.end(lambda job: job.mpirun.send_signal(signal.SIGUSR1), 30), 'SIGUSR1')


@pytest.mark.slow
def test_mpirun_passes_sigterm_on_and_waits_for_the_checkpoint_as_long_as_it_is_told(tmp_path):
    """It waits once before the signal and once after it, and says 1."""
    job = Job(tmp_path, OMPI_MCA_odls_base_sigkill_timeout='10')
    assert_stopped(job, job.end(lambda job: job.mpirun.terminate(), 30), 'SIGTERM', exit_code=1)
