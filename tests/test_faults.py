"""What dies, and what then happens: every fault ends in one clear line within a bounded time, and loses nothing whole.

The times that tests measure are printed (pytest -s); their bounds are asserted.
"""
import contextlib
import functools
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from tensorpack.dataflow import DataFlowTerminated

from commands import training_data
from evaluation.passes import EvaluationTower
from files import output_folders
from ranks.heartbeats import Silence, Times
from small_runs import ATTACKED, LEAN, MAIN, STEPS, differing, epochs_in, read_json, start_ranks, variables, wait_for
from training import schedules, stopping
from training.callbacks import FeedTrainingStep
from training.inputs import StreamDataFlow
from weights.find import find_checkpoint, read_checkpoint, saved_steps

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]


AVERAGED = ['--moving-average-decay', '0.9', '--optimizer', 'rmsprop', '--warmup-epochs', '0']


@pytest.fixture(scope='module')
def finished(train, tmp_path_factory):
    """Log directory of a run of two epochs with averages of the weights."""
    folder = tmp_path_factory.mktemp('finished') / 'run'
    train(folder, *AVERAGED)
    return folder


@pytest.fixture
def said():
    """What is logged, a list of lines; threads of a run that has ended may add theirs."""
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
    assert type(end.value.code) is int, 'Python would print it and exit with 1'
    return end.value.code


def in_step(monkeypatch, step, act):
    """Let a run ``act`` before its step of this number, from 1."""
    before_run = FeedTrainingStep._before_run

    def run(self, context):
        if self.global_step == step - 1:
            act()
        return before_run(self, context)
    monkeypatch.setattr(FeedTrainingStep, '_before_run', run)


def signal_in_step(monkeypatch, step, number):
    in_step(monkeypatch, step, lambda: os.kill(os.getpid(), number))


@pytest.mark.parametrize('number, step', [
    (number, step) if (number, step) == (SIGNALS[0], STEPS + 2) else
    pytest.param(number, step, marks=pytest.mark.slow) for number in SIGNALS for step in (1, STEPS + 2, 2 * STEPS)])
def test_a_signal_ends_the_run_after_the_running_step_with_a_checkpoint_that_continues_it_exactly(
        train, finished, tmp_path, monkeypatch, said, number, step):
    folder = tmp_path / 'run'
    with monkeypatch.context() as patch:
        signal_in_step(patch, step, number)
        assert exit_code(train, folder, *AVERAGED) == 143
    assert [line for line in said if 'stopped' in line] == ['stopped by {} after step {}; checkpoint saved; continue '
                                                            'with --resume'.format(number.name, step)]
    assert saved_steps(str(folder)) == [STEPS] * (step > STEPS) + [step]
    assert not [name for name in os.listdir(folder) if 'writing' in name]
    train(folder, '--resume', *AVERAGED)
    assert differing(variables(finished, 2 * STEPS), variables(folder, 2 * STEPS)) == []
    assert epochs_in(folder) == [1, 2]
    for mine, expected in zip(*(read_json(path / 'stats.json') for path in (folder, finished))):
        evaluated = [name for name in expected if name.startswith('eval-')]
        assert evaluated and {k: mine[k] for k in evaluated} == {k: expected[k] for k in evaluated}
    assert read_json(folder / 'best.json') == read_json(finished / 'best.json')


@pytest.mark.slow
def test_an_interrupt_of_a_single_process_ends_it_like_a_signal_and_resuming_continues_it_exactly(
        train, finished, tmp_path, monkeypatch, said):
    folder = tmp_path / 'run'
    with monkeypatch.context() as patch:
        signal_in_step(patch, STEPS + 2, signal.SIGINT)
        assert exit_code(train, folder, *AVERAGED) == 130
    assert 'stopped by SIGINT after step {}; checkpoint saved; continue with --resume'.format(STEPS + 2) in said
    assert len([line for line in said if 'Ctrl-C' in line and 'a second one ends it at once' in line]) == 1
    train(folder, '--resume', *AVERAGED)
    assert differing(variables(finished, 2 * STEPS), variables(folder, 2 * STEPS)) == []


def test_an_interrupt_before_the_first_step_ends_the_program_at_once(train, tmp_path, monkeypatch, said):
    monkeypatch.setattr(training_data, 'local_input', lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert exit_code(train, tmp_path / 'run', *LEAN) == 130
    assert 'stopped by SIGINT before the first step' in said


@pytest.mark.parametrize('evaluation, launched, stops', [(False, False, True), (True, False, True), (True, True, True),
                                                         (False, True, False)])
def test_ranks_in_training_leave_an_interrupt_to_their_launcher(evaluation, launched, stops):
    assert (signal.SIGINT in stopping.signals_of(evaluation, launched)) is stops


# In a step that sees no signal for half a minute or more.
BUSY = """
import hashlib
from training import stopping
with stopping.StopSignal(stopping.signals_of(False, False)) as signals:
    signals.deferred = True
    print('busy', flush=True)
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10 ** 8)
"""


def test_a_second_interrupt_ends_the_process_at_once_also_within_a_step():
    process = subprocess.Popen([sys.executable, '-c', BUSY], cwd=os.path.dirname(MAIN), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        while process.stdout.readline() != 'busy\n':
            assert process.poll() is None
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert 'a second one ends it at once' in process.stdout.readline()  # while the step goes on
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 130
        assert 'ended by a second Ctrl-C' in process.stdout.read()
    finally:
        process.kill()
        process.communicate()


def test_an_epoch_that_is_not_judged_and_was_stopped_in_its_last_step_is_in_the_statistics(train, tmp_path,
                                                                                           monkeypatch):
    folder = tmp_path / 'run'
    with monkeypatch.context() as patch:
        signal_in_step(patch, STEPS, signal.SIGTERM)
        assert exit_code(train, folder, '--eval-every', '2') == 143
    train(folder, '--resume', '--eval-every', '2')
    assert epochs_in(folder) == [1, 2]
    assert [entry['global_step'] for entry in read_json(folder / 'stats.json')] == [STEPS, 2 * STEPS]


@pytest.mark.parametrize('judged, number, code', [
    pytest.param('weights', signal.SIGTERM, 143, marks=pytest.mark.slow),
    pytest.param('averages', signal.SIGTERM, 143, marks=pytest.mark.slow), ('averages', signal.SIGINT, 130)])
def test_a_signal_during_an_evaluation_ends_it_and_the_evaluation_runs_again_after_resuming(
        train, finished, tmp_path, monkeypatch, said, judged, number, code):
    folder, run, runs, batches = tmp_path / 'run', EvaluationTower.run, [], []

    def send(self, session, watched, attackers, show_progress):
        runs.append(None)

        class Counted:
            __len__ = watched.__len__

            def __iter__(self):
                for batch in watched:
                    batches.append(len(runs))
                    if len(runs) == {'weights': 3, 'averages': 4}[judged]:
                        os.kill(os.getpid(), number)
                    yield batch
        return run(self, session, Counted(), attackers, show_progress)
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationTower, 'run', send)
        assert exit_code(train, folder, *AVERAGED) == code
    assert batches.count(len(runs)) == 1  # of two
    assert [line for line in said if 'stopped by {} after step {}; '.format(number.name, 2 * STEPS) in line]
    assert epochs_in(folder) == [1]
    assert differing(variables(finished, 2 * STEPS), variables(folder, 2 * STEPS)) == []
    train(folder, '--resume', *AVERAGED)
    assert differing(variables(finished, 2 * STEPS), variables(folder, 2 * STEPS)) == []
    assert epochs_in(folder) == [1, 2]
    assert read_json(folder / 'best.json') == read_json(finished / 'best.json')


def test_a_signal_before_the_first_step_ends_the_program_at_once_and_leaves_nothing_to_resume(
        train, tmp_path, monkeypatch, said):
    with monkeypatch.context() as patch:
        patch.setattr(training_data, 'local_input', lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
        assert exit_code(train, tmp_path / 'run', *LEAN) == 143
    assert 'stopped by SIGUSR1 before the first step' in said
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
    from third_party.imagenet_utils import ImageSet, ValidationBatches, View
    dataset = ImageSet(['x'] * images, [0] * images, [], 'x')
    batches = [ValidationBatches(dataset, 8, View(8, 'none'), rank, ranks) for rank in range(ranks)]
    assert [b.rounds for b in batches] == [rounds] * ranks
    assert max(len(b) for b in batches) == rounds


def refusal(capsys, run, *args):
    """The line in which ``run`` ends with exit code 2."""
    capsys.readouterr()
    assert exit_code(run, *args) == 2
    out, err = capsys.readouterr()
    assert 'Traceback' not in out + err, out + err
    line, = [line for line in err.splitlines() if 'error: ' in line]
    return line


def rate_explodes(monkeypatch, step):
    """The update of this step makes weights infinite; its own loss is that of before."""
    monkeypatch.setattr(schedules, 'learning_rate', lambda number, *_: np.inf if number == step - 1 else 0.01)


@pytest.mark.parametrize('explodes, saved, named', [(1, [], 'there is no checkpoint yet'),
                                                    (STEPS + 2, [STEPS], "'{}/model-%d'" % STEPS)])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_step_and_the_last_good_checkpoint(
        train, tmp_path, monkeypatch, capsys, explodes, saved, named):
    rate_explodes(monkeypatch, explodes)
    line = refusal(capsys, train, tmp_path / 'run', *LEAN)
    assert 'the loss is not finite at step {}; '.format(explodes + 1) in line
    assert named.format(tmp_path / 'run') in line
    assert saved_steps(str(tmp_path / 'run')) == saved


def test_weights_that_are_not_finite_are_not_saved(train, tmp_path, monkeypatch, capsys):
    rate_explodes(monkeypatch, 2 * STEPS)
    line = refusal(capsys, train, tmp_path / 'run')
    assert 'not finite' in line and 'step {}:'.format(2 * STEPS) in line and 'model-{}\''.format(STEPS) in line
    assert saved_steps(str(tmp_path / 'run')) == [STEPS] and epochs_in(tmp_path / 'run') == [1]
    assert read_json(tmp_path / 'run' / 'best.json')['global_step'] == STEPS


def test_a_signal_does_not_save_weights_that_are_not_finite(train, tmp_path, monkeypatch, capsys):
    rate_explodes(monkeypatch, STEPS + 2)
    signal_in_step(monkeypatch, STEPS + 2, signal.SIGTERM)
    assert 'not finite' in refusal(capsys, train, tmp_path / 'run', *LEAN)
    assert saved_steps(str(tmp_path / 'run')) == [STEPS]


@contextlib.contextmanager
def no_room(folder):
    """A file system of its own at ``folder``, so full that nothing can be added, if a superuser runs this."""
    filler = folder / 'filler'
    with open(filler, 'wb', buffering=0) as f:
        with pytest.raises(OSError, match='No space left'):
            while True:
                f.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def read_only(folder):
    superuser = not os.geteuid()
    if superuser:  # a mode does not stop
        mount('--bind', folder, folder)
        mount('-o', 'remount,bind,ro', folder)
    else:
        folder.chmod(0o555)
    try:
        yield
    finally:
        subprocess.run(['umount', str(folder)], check=True) if superuser else folder.chmod(0o755)


def mount(*words):
    if os.geteuid() or subprocess.run(['mount'] + [str(word) for word in words], stderr=subprocess.DEVNULL).returncode:
        pytest.skip('this user cannot mount a file system')


@pytest.fixture
def small_disk(tmp_path):
    (tmp_path / 'disk').mkdir()
    mount('-t', 'tmpfs', '-o', 'size=20m', 'tmpfs', tmp_path / 'disk')
    yield tmp_path / 'disk'
    subprocess.run(['umount', '--lazy', str(tmp_path / 'disk')], check=True)


@pytest.mark.filterwarnings('error::pytest.PytestUnhandledThreadExceptionWarning')
@pytest.mark.parametrize('trouble, says', [(no_room, 'No space left on device'),
                                           (read_only, 'Read-only file system|Permission denied')],
                         ids=['full', 'read-only'])
@pytest.mark.parametrize('stopped', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_in_one_line_and_leaves_the_one_before(
        request, train, tmp_path, monkeypatch, capsys, trouble, says, stopped):
    folder = (request.getfixturevalue('small_disk') if trouble is no_room else tmp_path) / 'run'
    with contextlib.ExitStack() as until_fixed, monkeypatch.context() as patch:
        in_step(patch, STEPS + 2, lambda: until_fixed.enter_context(trouble(folder)))
        if stopped:
            signal_in_step(patch, 2 * STEPS, signal.SIGTERM)
        line = refusal(capsys, train, folder, *LEAN)
        assert 'step {}'.format(2 * STEPS) in line and re.search(says, line), line
        assert "the last good checkpoint is '{}/model-{}'".format(folder, STEPS) in line
        assert saved_steps(str(folder)) == [STEPS]
        read_checkpoint(str(folder))
    train(folder, '--resume', *LEAN)
    assert saved_steps(str(folder)) == [STEPS, 2 * STEPS] and epochs_in(folder) == [1, 2]


@pytest.fixture(scope='module')
def originals(train, tmp_path_factory):
    """function(flags): log directory of a run of three epochs with three checkpoints, made once for its flags."""
    @functools.lru_cache(maxsize=None)
    def run(*flags):
        folder = tmp_path_factory.mktemp('three') / 'run'
        train(folder, '--epochs', '3', *flags)
        return folder
    return run


@pytest.fixture
def three_epochs(originals, tmp_path):
    """A copy of such a run's directory, which its best weights are in too."""
    return shutil.copytree(originals(), tmp_path / 'run')


@pytest.fixture
def three_lean(originals, tmp_path):
    """A copy of such a run's directory, without what an evaluation leaves."""
    return shutil.copytree(originals(*LEAN), tmp_path / 'run')


def truncate(path):
    with open(path, 'r+b') as f:
        f.truncate(path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('part', ['.data-00000-of-00001', '.index'])
@pytest.mark.parametrize('damage', [truncate, flip, pytest.param(os.remove, marks=pytest.mark.slow)])
def test_resuming_falls_back_to_the_last_whole_checkpoint_and_says_so(train, three_lean, said, damage, part):
    newest = variables(three_lean, 3 * STEPS)
    damage(three_lean / 'model-{}{}'.format(3 * STEPS, part))
    train(three_lean, '--resume', *LEAN, '--epochs', '3')
    line, = [line for line in said if 'is damaged' in line]
    names = ["'{}/model-{}'".format(three_lean, k * STEPS) for k in (3, 2)]
    assert line.index(names[0]) < line.index(names[1])
    assert differing(newest, variables(three_lean, 3 * STEPS)) == []
    assert epochs_in(three_lean) == [1, 2, 3]
    kept = {path.name for path in three_lean.glob('*.damaged')}
    assert len(kept) == (1 if damage is os.remove else 2)


def test_a_damaged_checkpoint_is_not_counted_among_those_that_are_kept(train, three_lean):
    truncate(three_lean / 'model-{}.index'.format(3 * STEPS))
    train(three_lean, '--resume', *LEAN, '--epochs', '3', '--keep-checkpoints', '1')
    assert saved_steps(str(three_lean)) == [3 * STEPS]
    variables(three_lean, 3 * STEPS)


def test_a_run_without_any_whole_checkpoint_is_not_begun_again_over_it(train, three_epochs, capsys):
    for k in (1, 2, 3):
        truncate(three_epochs / 'model-{}.data-00000-of-00001'.format(k * STEPS))
    before = sorted(os.listdir(three_epochs))
    line = refusal(capsys, train, three_epochs, '--resume')
    assert 'all checkpoints in' in line and 'model-{}'.format(3 * STEPS) in line
    assert sorted(os.listdir(three_epochs)) == before


def test_data_without_any_index_is_of_a_run_that_has_not_saved_yet(train, tmp_path):
    train(tmp_path / 'run', '--epochs', '1', *LEAN)
    os.remove(tmp_path / 'run' / 'model-{}.index'.format(STEPS))
    train(tmp_path / 'run', '--resume', '--epochs', '1', *LEAN)
    variables(tmp_path / 'run', STEPS)


@pytest.mark.parametrize('content', ['', 'model_checkpoint_path: "mod', 'model_checkpoint_path: "model-77"\n'])
def test_a_damaged_checkpoint_file_is_named_and_does_not_hinder_resuming(train, three_lean, content):
    (three_lean / 'checkpoint').write_text(content)
    with pytest.raises(ValueError, match="'{0}/checkpoint' is damaged, .* such as '{0}/model-9'".format(three_lean)):
        find_checkpoint(str(three_lean))
    train(three_lean, '--resume', *LEAN, '--epochs', '4')
    assert find_checkpoint(str(three_lean)) == str(three_lean / 'model-12')


@pytest.mark.parametrize('damage', [truncate, os.remove])
@pytest.mark.parametrize('part', ['.data-00000-of-00001', '.index'])
def test_a_damaged_best_checkpoint_is_named(three_epochs, damage, part):
    name = 'best-{}'.format(read_json(three_epochs / 'best.json')['global_step'])
    damage(three_epochs / (name + part))
    with pytest.raises(ValueError, match="--load '{}/.*{}".format(three_epochs, name)):
        read_checkpoint(str(three_epochs / 'best'))


def test_a_damaged_best_json_is_named_and_chosen_anew_by_a_resumed_run(train, three_epochs, said):
    truncate(three_epochs / 'best.json')
    with pytest.raises(ValueError, match='best.json. is damaged'):
        find_checkpoint(str(three_epochs / 'best'))
    train(three_epochs, '--resume', '--epochs', '4')
    assert [line for line in said if 'best.json' in line and 'chosen anew' in line]
    assert read_json(three_epochs / 'best.json')['global_step'] == 4 * STEPS


@pytest.mark.parametrize('name', ['run.json', 'stats.json', 'classes.json'])
def test_a_damaged_file_of_the_log_directory_is_named(train, three_epochs, capsys, name):
    truncate(three_epochs / name)
    assert "'{}' is damaged".format(three_epochs / name) in refusal(capsys, train, three_epochs, '--resume')


@pytest.mark.parametrize('flag', ['--resume', '--resume-if-any'])
def test_a_run_that_is_being_written_is_refused_with_its_owner_s_name(train, three_lean, capsys, flag):
    """As when a requeued job overlaps the one before it."""
    def content():
        return {name: (three_lean / name).read_bytes() for name in os.listdir(three_lean)}
    with output_folders.locked(str(three_lean), ''):
        before = content()
        line = refusal(capsys, train, three_lean, flag, *LEAN, '--epochs', '4')
        assert 'is being written by process {} of'.format(os.getpid()) in line and 'another --logdir' in line
        assert content() == before
    train(three_lean, flag, *LEAN, '--epochs', '4')
    assert output_folders.LOCK_FILE not in os.listdir(three_lean) and epochs_in(three_lean) == [1, 2, 3, 4]


def test_a_new_run_leaves_one_that_is_being_written_alone(train, three_epochs):
    with output_folders.locked(str(three_epochs), ''):
        train(three_epochs, *LEAN, '--epochs', '1')
    assert epochs_in(three_epochs) == [1, 2, 3]


def test_data_that_end_early_are_no_success(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(StreamDataFlow, '__iter__', lambda self: (_ for _ in ()).throw(DataFlowTerminated()))
    assert 'data ended after step 0' in refusal(capsys, train, tmp_path / 'run', *LEAN)


def alive(process):
    """Whether it runs; a rank whose launcher ended first may lie there as a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Job:
    """A training run of two ranks on fake data that has just written its first checkpoint.

    Its epochs are long, so that it is in the middle of the second one for a while.
    """
    steps = 20
    flags = ATTACKED + ['--fake', '--attack-iter', '1', '--epochs', '1000', '--steps-per-epoch', str(steps), '--logdir',
                     'runs/two']

    def __init__(self, cwd, **environment):
        self.cwd, self.folder, self.environment = cwd, cwd / 'runs' / 'two', environment
        self.mpirun = start_ranks(2, MAIN, *self.flags, cwd=cwd, **environment)
        try:
            deadline = time.monotonic() + 120
            while not (self.folder / 'best.json').exists() and not saved_steps(str(self.folder)):
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
        deadline = time.monotonic() + 10  # mpirun does not wait for ranks that it has killed
        while any(alive(process) for process in ranks):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert 'Traceback' not in ended.stderr, ended.stderr
        return ended

    def resumes(self):
        """Whether --resume goes on behind the newest checkpoint and ends well; checks nothing of what it learns."""
        steps = saved_steps(str(self.folder))
        epochs = steps[-1] // self.steps + 1
        ended = wait_for(start_ranks(2, MAIN, *self.flags, '--resume', '--epochs', str(epochs), cwd=self.cwd))
        assert ended.returncode == 0, ended.stderr
        assert 'goes on     after step {:,}, in epoch '.format(steps[-1]) in ended.stdout
        return epochs_in(self.folder) == list(range(1, epochs + 1))


class QuietJob(Job):
    """Writes few lines: a mpirun that waits reads none, and a rank stands still when the pipe to it is full."""
    steps = 2000
    flags = Job.flags + ['--steps-per-epoch', str(steps)]


def assert_stopped(job, ended, name, exit_code=143):
    assert ended.returncode == exit_code, ended.stderr
    line, = re.findall(r'stopped by (\w+) after step (\d+); checkpoint saved; continue with --resume', ended.stdout)
    assert line == (name, str(saved_steps(str(job.folder))[-1]))
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
    if 'Open MPI) 4' not in subprocess.run(['mpirun', '--version'], stdout=subprocess.PIPE, text=True).stdout:
        pytest.skip('Open MPI 5 kills ranks a quarter of a second after SIGTERM, whatever it is told')
    job = QuietJob(tmp_path, OMPI_MCA_odls_base_sigkill_timeout='10')
    assert_stopped(job, job.end(lambda job: job.mpirun.terminate(), 30), 'SIGTERM', exit_code=1)


@pytest.mark.slow
def test_a_rank_killed_ends_the_job_and_mpirun_names_it(tmp_path):
    job = Job(tmp_path)
    ended = job.end(lambda job: job.rank(1).kill(), 60)
    assert ended.returncode == 128 + signal.SIGKILL
    assert re.search('process rank 1 .* exited on signal 9', ' '.join(ended.stderr.split()))
    assert job.resumes()


@pytest.mark.slow
def test_a_frozen_rank_is_named_and_ends_the_job_in_the_end(tmp_path):
    job = Job(tmp_path, HOROVOD_STALL_CHECK_TIME_SECONDS='4', HOROVOD_STALL_SHUTDOWN_TIME_SECONDS='8')
    ended = job.end(lambda job: job.rank(1).suspend(), 60)
    assert ended.returncode == 2
    warning, = re.findall('main.py: warning: rank 1 has been silent for 4 s; .*', ended.stderr)
    error, = re.findall('main.py: error: rank 1 has been silent for 8 s .*', ended.stderr)
    assert job.resumes()


@pytest.mark.slow
def test_a_rank_that_wakes_up_in_time_goes_on(tmp_path):
    job = Job(tmp_path, HOROVOD_STALL_CHECK_TIME_SECONDS='3')

    def fault(job):
        for number in (0, 1):  # then both, as a suspended job
            job.rank(number).suspend()
            time.sleep(6)
            job.rank(number).resume()
            time.sleep(2)
        both = [job.rank(number) for number in (0, 1)]
        [rank.suspend() for rank in both]
        time.sleep(6)
        [rank.resume() for rank in both]
        time.sleep(2)
        job.mpirun.send_signal(signal.SIGUSR1)
    ended = job.end(fault, 60)
    assert_stopped(job, ended, 'SIGUSR1')
    assert re.findall('warning: (rank . (?:is back|has been silent))', ended.stderr) == [
        'rank 0 has been silent', 'rank 0 is back', 'rank 1 has been silent', 'rank 1 is back']


LATE = '''
import time
from third_party import utils
ranks = utils.start_ranks()
time.sleep(8 * ranks.rank)
utils.gather_texts(ranks, '')
'''


@pytest.mark.slow
def test_horovod_names_a_rank_that_lives_but_is_late(tmp_path):
    ended = wait_for(start_ranks(2, '-c', LATE, cwd=tmp_path, HOROVOD_STALL_CHECK_TIME_SECONDS='2'))
    assert ended.returncode == 0
    assert re.search(r'Missing ranks:\s*1: \[', ended.stderr) or re.search(r'Stalled ranks:\s*1: \[', ended.stderr)


SPOILT = '''
import sys
import adv_model, main
from third_party.utils import launched_rank
smoothed_cross_entropy = adv_model.smoothed_cross_entropy
if launched_rank() == 1:
    adv_model.smoothed_cross_entropy = lambda *args: smoothed_cross_entropy(*args) * float('nan')
main.main(sys.argv[1:])
'''


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_ends_all(tmp_path):
    begin = time.monotonic()
    ended = wait_for(start_ranks(2, '-c', SPOILT, *Job.flags, cwd=tmp_path))
    print('{:.1f} s with the start'.format(time.monotonic() - begin))
    assert ended.returncode == 2 and 'Traceback' not in ended.stderr, ended.stderr
    line, = re.findall('error: (.*)', ended.stderr)
    assert line.startswith('the loss of rank 1 is not finite at step 1; there is no checkpoint yet')


@pytest.mark.slow
def test_a_full_disk_ends_all_ranks(small_disk):
    job = Job(small_disk)

    def fault(job):
        with no_room(small_disk):
            job.mpirun.wait(60)
    ended = job.end(fault, 60)
    assert ended.returncode == 2, ended.stderr
    line, = re.findall('error: (.*)', ended.stderr)
    assert 'No space left' in line and "the last good checkpoint is 'runs/two/model-" in line
    assert job.resumes()


class Record:
    """What a ``Silence`` of rank 7 says, with a warning after 3 s and the end after 6."""

    def __init__(self, **times):
        self.said, self.ended = [], []
        self.silence = Silence(7, SimpleNamespace(**dict({'warn': 3, 'end': 6}, **times)), self.said.append,
                               self.ended.append)


def test_a_silence_is_told_once_and_then_ends_the_job():
    record = Record()
    record.silence.heard()
    for _ in range(5):
        record.silence.passed(1)
    assert [line[:33] for line in record.said] == ['rank 7 has been silent for 3 s; i'] and not record.ended
    record.silence.passed(1)
    assert len(record.said) == 1 and [line[:31] for line in record.ended] == ['rank 7 has been silent for 6 s ']


def test_a_rank_that_was_never_heard_ends_nothing():
    record = Record()
    for _ in range(20):
        record.silence.passed(1)
    assert record.said == ['no heartbeat comes from rank 7; if it freezes, nobody will notice'] and not record.ended


def test_a_rank_that_is_heard_again_is_told_of_and_may_fall_silent_again():
    record = Record()
    for _ in range(2):
        record.silence.heard()
        for _ in range(4):
            record.silence.passed(1)
    record.silence.heard()
    assert [line[:24] for line in record.said] == ['rank 7 has been silent f', 'rank 7 is back after 4 s'] * 2
    assert not record.ended


def test_times_of_0_are_never():
    record = Record(warn=0, end=0)
    record.silence.heard()
    record.silence.passed(1e6)
    assert record.said == record.ended == []


def test_times_are_horovods_with_defaults_of_a_minute_and_ten(monkeypatch, capsys):
    names = 'HOROVOD_STALL_CHECK_TIME_SECONDS', 'HOROVOD_STALL_SHUTDOWN_TIME_SECONDS'
    for name in names + ('HOROVOD_STALL_CHECK_DISABLE',):
        monkeypatch.delenv(name, raising=False)
    assert vars(Times()) == {'warn': 60, 'end': 600}
    for name, value in zip(names, ('7', '8')):
        monkeypatch.setenv(name, value)
    assert vars(Times()) == {'warn': 7, 'end': 8}
    monkeypatch.setenv('HOROVOD_STALL_CHECK_DISABLE', '1')
    assert vars(Times()) == {'warn': 0, 'end': 0}
    monkeypatch.setenv('HOROVOD_STALL_CHECK_DISABLE', '0')
    monkeypatch.setenv(names[0], 'soon')
    assert exit_code(Times) == 2 and names[0] in capsys.readouterr().err
