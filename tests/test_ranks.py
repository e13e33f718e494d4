"""Who a process is among its ranks, and runs of several ranks under mpirun: they agree, share the work, and end."""
import json
import os
import secrets
import socket
import subprocess
import sys

import pytest

from html_pages import Page
from image_folders import make_noise_folder
from ranks import cores
from ranks.cores import _processor_limit, threads_for
from ranks.end import fail
from ranks.gather import gather_texts, together
from ranks.launched import Ranks, launched_rank
from ranks.sessions import cpu_session_config, session_config
from ranks.start import start_ranks
from small_runs import MAIN, ROOT, SECONDS, each_its_own, mpirun
from weights.find import find_checkpoint

SERVER = os.path.join(ROOT, 'third_party', 'serve-data.py')
RANK_VARIABLES = ('OMPI_COMM_WORLD_RANK', 'PMI_RANK', 'PMIX_RANK')

NUM_VALIDATION, BATCH, STEPS = 37, 8, 3  # 37 images: neither full batches nor the same share for each rank
SMALL = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--num-classes', '3', '--batch', str(BATCH)]
TRAINING = SMALL + ['--attack-iter', '1', '--eval-attack-iter', '1', '--steps-per-epoch', str(STEPS), '--epochs', '2']


@pytest.fixture
def no_launcher(monkeypatch):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_nobody_launched_has_no_rank_and_is_alone(no_launcher):
    assert launched_rank() is None
    assert start_ranks() == Ranks(0, 1, 0, 1)


@pytest.mark.parametrize('rank, size', [
    ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'), ('PMI_RANK', 'PMI_SIZE'), ('PMIX_RANK', 'SLURM_STEP_NUM_TASKS')])
def test_ranks_that_do_not_find_each_other_are_refused_in_one_line(no_launcher, monkeypatch, capsys, rank, size):
    import horovod.tensorflow as hvd
    for name in ('rank', 'local_rank'):
        monkeypatch.setattr(hvd, name, lambda: 0)
    for name in ('size', 'local_size'):
        monkeypatch.setattr(hvd, name, lambda: 1)
    monkeypatch.setattr(hvd, 'init', lambda: None)
    for number in '01':
        monkeypatch.setenv(rank, number)
        monkeypatch.setenv(size, '2')
        with pytest.raises(SystemExit, match='2'):
            start_ranks()
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'error: the launcher started 2 ranks and each is alone' in said
    monkeypatch.setenv(size, '1')
    assert start_ranks() == Ranks(0, 1, 0, 1)


@pytest.mark.parametrize('name', RANK_VARIABLES)
def test_the_rank_is_read_from_each_launcher_s_variable(no_launcher, monkeypatch, name):
    monkeypatch.setenv(name, '3')
    assert launched_rank() == 3


ALL, LEFT, RIGHT = set(range(8)), set(range(4)), set(range(4, 8))


@pytest.mark.parametrize('ranks_may_run_on, threads', [
    ([ALL], 8), ([LEFT], 4),                             # alone, also if confined
    ([ALL] * 2, 4), ([ALL] * 3, 2), ([{0, 1}] * 8, 1),   # not bound
    ([LEFT] * 2, 2),                                     # confined together, as in a container or a job
    ([LEFT, RIGHT], 4), ([{0}, {1}], 1),                 # each bound to its own
    ([LEFT] * 2 + [RIGHT] * 2, 2),                       # bound to sockets: Open MPI's default for more than two
    ([LEFT] * 3 + [RIGHT], 1), ([RIGHT] + [LEFT] * 3, 4), ([ALL] + [LEFT], 6)])
def test_a_core_is_shared_by_the_ranks_that_may_run_on_it(monkeypatch, ranks_may_run_on, threads):
    monkeypatch.delenv('TF_NUM_INTRAOP_THREADS', raising=False)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: ranks_may_run_on[0])
    monkeypatch.setattr(cores, '_cores_of_local_ranks', lambda: ranks_may_run_on)
    monkeypatch.setattr(cores, '_processor_limit', lambda: None)
    size = len(ranks_may_run_on)
    assert threads_for(Ranks(0, size, 0, size)) == threads


def test_ranks_that_cannot_be_found_count_as_not_bound(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: ALL)
    monkeypatch.setattr(cores, '_cores_of_local_ranks', lambda: [ALL])
    monkeypatch.setattr(cores, '_processor_limit', lambda: None)
    assert threads_for(Ranks(0, 4, 0, 4)) == 2


@pytest.mark.parametrize('files, local_size, threads', [
    ({'cpu.max': '300000 100000'}, 1, 3), ({'cpu.max': '300000 100000'}, 2, 1), ({'cpu.max': 'max 100000'}, 2, 4),
    ({'cpu.max': '50000 100000'}, 1, 1), ({'cpu.max': '6400000 100000'}, 1, 8), ({}, 1, 8),
    ({'cpu/cpu.cfs_quota_us': '500000', 'cpu/cpu.cfs_period_us': '100000'}, 1, 5),
    ({'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, 1, 8)])
def test_a_container_s_limit_is_shared_like_its_cores(monkeypatch, tmp_path, files, local_size, threads):
    (tmp_path / 'cpu').mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text + '\n')
    limit = _processor_limit(str(tmp_path))
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: ALL)
    monkeypatch.setattr(cores, '_cores_of_local_ranks', lambda: [ALL] * local_size)
    monkeypatch.setattr(cores, '_processor_limit', lambda: limit)
    assert threads_for(Ranks(0, local_size, 0, local_size)) == threads


THREADS = '''
import os, sys, time
from third_party import utils
rank = utils.launched_rank()
open('here-{}'.format(rank), 'w').close()
while not all(os.path.exists('here-{}'.format(k)) for k in (0, 1)):  # as after hvd.init, all are there
    time.sleep(0.01)
found = '{} {}'.format(utils.threads_for(utils.Ranks(rank, 2, rank, 2)), len(os.sched_getaffinity(0)))
with open('found-{}'.format(rank), 'w') as f:  # mpirun may mix what the ranks print
    f.write(found)
while len(os.listdir('.')) < 4:  # nobody ends while the other looks for it
    time.sleep(0.01)
'''


@pytest.mark.parametrize('launched', [[sys.executable, '-c', THREADS],
                                      ['sh', '-c', '"$0" -c "$1"; exit $?', sys.executable, THREADS]],
                         ids=['itself', 'in a script'])
@pytest.mark.parametrize('binding', ['none', 'core'])
def test_ranks_under_mpirun_find_the_cores_of_those_beside_them(tmp_path, binding, launched):
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        pytest.skip('one core cannot be shared out')
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', PYTHONPATH=ROOT)
    ended = subprocess.run(['mpirun', '-np', '2', '-bind-to', binding] + launched, cwd=tmp_path, env=environment,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr
    found = [tuple(map(int, (tmp_path / 'found-{}'.format(rank)).read_text().split())) for rank in (0, 1)]
    for threads, mine in found:
        assert mine == cores if binding == 'none' else mine < cores or cores == 2
        # A core may have two hardware threads, and a limit of a container may be lower.
        assert threads <= (cores // 2 if binding == 'none' else mine)
        if _processor_limit() is None:
            assert threads == (cores // 2 if binding == 'none' else mine)


YIELDS = '''
import ctypes
from third_party import utils
ranks = utils.start_ranks()
yields = ctypes.c_bool.in_dll(ctypes.CDLL('libmpi.so.40'), 'ompi_mpi_yield_when_idle').value
open('found-{}'.format(ranks.rank), 'w').write(str(yields))
'''


@pytest.mark.slow
@pytest.mark.parametrize('asked, yields', [
    ({}, 'True'), ({'OMPI_MCA_mpi_yield_when_idle': '0'}, 'False')])
def test_ranks_that_wait_give_their_core_away_unless_told_otherwise(monkeypatch, tmp_path, asked, yields):
    monkeypatch.delenv('OMPI_MCA_mpi_yield_when_idle', raising=False)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    ended = mpirun(2, '-c', YIELDS, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {'found-0': yields, 'found-1': yields}


FIRST_SESSION = '''
import os
import tensorflow.compat.v1 as tf
from third_party import utils
tf.disable_v2_behavior()
def threads():
    return len(os.listdir('/proc/self/task'))
before = threads()
for config in (utils.cpu_session_config(), utils.session_config(utils.Ranks())):
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        session.run(tf.constant(0))
print(threads() - before)
'''


@pytest.mark.slow
def test_small_work_on_the_host_does_not_take_the_threads_from_the_sessions_behind_it():
    environment = dict(os.environ, PYTHONPATH=ROOT, TF_NUM_INTRAOP_THREADS='40', TF_NUM_INTEROP_THREADS='2')
    assert int(subprocess.check_output([sys.executable, '-c', FIRST_SESSION], env=environment, text=True)) >= 40


def test_tensorflow_s_own_variables_go_before(monkeypatch, capsys):
    monkeypatch.setenv('TF_NUM_INTRAOP_THREADS', '5')
    monkeypatch.setenv('TF_NUM_INTEROP_THREADS', '3')
    config = session_config(Ranks())
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (5, 3)
    monkeypatch.setenv('TF_NUM_INTEROP_THREADS', 'many')
    with pytest.raises(SystemExit):
        session_config(Ranks())
    assert 'TF_NUM_INTEROP_THREADS=many' in capsys.readouterr().err


@pytest.mark.parametrize('threads', [1, 4])
def test_threads_spin_only_beside_cores_that_are_free(monkeypatch, threads):
    monkeypatch.setenv('TF_NUM_INTRAOP_THREADS', str(threads))
    monkeypatch.delenv('TF_NUM_INTEROP_THREADS', raising=False)
    for config in (session_config(Ranks()), cpu_session_config()):
        assert config.experimental.disable_thread_spinning == (threads == 1)
        assert config.intra_op_parallelism_threads == threads
    assert session_config(Ranks()).inter_op_parallelism_threads == max(2, threads)


@pytest.mark.parametrize('rank', [0, 1])
def test_failing_ends_every_rank_with_2_and_only_the_first_speaks_in_one_line(capsys, monkeypatch, rank):
    monkeypatch.setattr(sys, 'argv', ['/somewhere/main.py'])
    with pytest.raises(SystemExit) as end:
        fail('two\n  lines', rank)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ''
    assert err == ('main.py: error: two lines\n' if rank == 0 else '')


def test_one_rank_alone_agrees_with_itself(capsys):
    assert gather_texts(Ranks(), 'a b') == ['a b']
    assert together(Ranks(), lambda: 5) == 5

    def fails():
        raise ValueError('no such thing')
    with pytest.raises(SystemExit) as end:
        together(Ranks(), fails)
    assert end.value.code == 2 and 'no such thing' in capsys.readouterr().err


AGREEMENT = '''
from third_party import utils
ranks = utils.start_ranks()
own = ['', 'grün'][ranks.rank]
assert utils.gather_texts(ranks, own) == ['', 'grün'], ranks
assert utils.gather_texts(ranks, 'x' * (1 + 1000 * ranks.rank)) == ['x', 'x' * 1001], ranks
assert utils.together(ranks, lambda: ranks.rank * 10) == ranks.rank * 10
open('agreed-{}'.format(ranks.rank), 'w').write(str(ranks[:4]))
def only_rank_1_fails():
    if ranks.rank == 1:
        raise OSError('its disk is full')
utils.together(ranks, only_rank_1_fails)
open('not-reached', 'w').close()
'''


def test_two_ranks_exchange_texts_and_end_together_when_one_of_them_fails(tmp_path):
    ended = mpirun(2, '-c', AGREEMENT, cwd=tmp_path)
    # In files: mpirun may cut the lines of two ranks into each other.
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        'agreed-0': '(0, 2, 0, 2)', 'agreed-1': '(1, 2, 1, 2)'}, ended.stderr
    assert ended.returncode == 2
    assert ended.stderr.count('rank 1: its disk is full') == 1 and 'Traceback' not in ended.stderr


SHARED_STATISTICS = '''
import sys
import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext
sys.path.insert(0, {tests!r})
from networks import make_network
from third_party import utils
tf.disable_eager_execution()
ranks = utils.start_ranks()
image = np.random.RandomState(0).uniform(-1, 1, [6, 16, 16, 3])
mine = slice(3 * ranks.rank, 3 * ranks.rank + 3)

def of_network(image, weights, *flags):
    "Weighted sum of the logits, its gradients of image and variables, the new averages; from the same variables."
    with tf.Graph().as_default():
        tf.set_random_seed(1)
        image = tf.constant(image, tf.float32)
        with TowerContext('', is_training=True):
            model = make_network('--data-format', 'NHWC', *flags, {flags})
            sum_ = tf.reduce_sum(model.network(image) * weights[:, None])
        gradients = tf.gradients(sum_, [image] + tf.trainable_variables())
        with tf.Session() as sess:
            sess.run(tf.global_variables_initializer())
            found = sess.run([sum_, gradients])
            sess.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
            return found + [sess.run([v for v in tf.global_variables() if v not in tf.trainable_variables()])]

weights = np.float32([1, -2, 3, 5, -1, 2])
sum_, gradients, averages = of_network(image, weights)
own_sum, own_gradients, own_averages = of_network(image[mine], weights[mine], '--sync-batch-norm')
with tf.Graph().as_default(), tf.Session() as sess:
    totals = sess.run([utils.sum_over_ranks(tf.constant(v)) for v in [own_sum] + own_gradients[1:]])
pairs = zip(totals + own_gradients[:1] + own_averages, [sum_] + gradients[1:] + [gradients[0][mine]] + averages)
for got, want in pairs:
    # Some gradients are 0 but for rounding: batch norm takes away what comes before it.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-3 * max(1, np.abs(want).max()))
open('right-{{}}'.format(ranks.rank), 'w').close()
'''


@pytest.mark.slow
@pytest.mark.parametrize('flags', [
    ['--arch', 'CifarResNet', '-d', '8', '--input-size', '16', '--activation-name', 'silu'],
    ['--arch', 'EfficientNet', '--width-coefficient', '0.25', '--depth-coefficient', '0.3', '--input-size', '16',
     '--num-classes', '3', '--survival-prob', '1', '--dropout-rate', '0', '--recompute']],
    ids=['ResNet', 'EfficientNet'])
def test_ranks_that_share_statistics_have_the_gradients_and_averages_of_one_rank_with_all_images(tmp_path, flags):
    program = SHARED_STATISTICS.format(tests=os.path.dirname(__file__), flags=', '.join(map(repr, flags)))
    ended = mpirun(2, '-c', program, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['right-0', 'right-1'], ended.stderr


COMPRESSED = '''
import numpy as np
import tensorflow.compat.v1 as tf
from training.trainer import make_trainer
from third_party import utils
tf.disable_v2_behavior()
ranks = utils.start_ranks()
own = np.float32([[1 / 3, 1000.1, 1e-9], [1.0, 0.0, 0.0]])[ranks.rank]
with tf.Graph().as_default(), tf.Session() as sess:
    none, fp16 = (sess.run(make_trainer(ranks, compression).allreduce([(tf.constant(own), None)])[0][0])
                  for compression in ('none', 'fp16'))
assert none.dtype == fp16.dtype == np.float32
np.testing.assert_allclose(none, [2 / 3, 500.05, 5e-10], rtol=1e-6)
# 11 bits; and nothing that is smaller than float16's smallest number.
np.testing.assert_allclose(fp16, [2 / 3, 500.05, 0], rtol=2 ** -10)
assert abs(fp16[0] - 2 / 3) > 1e-5 and fp16[2] == 0
open('right-{}'.format(ranks.rank), 'w').close()
'''


@pytest.mark.slow
def test_compressed_gradients_are_means_rounded_to_float16(tmp_path):
    ended = mpirun(2, '-c', COMPRESSED, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['right-0', 'right-1'], ended.stderr


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Noise images of three classes."""
    return make_noise_folder(tmp_path_factory.mktemp('images'), {'train': 30, 'val': NUM_VALIDATION}, 'abc')


def new_address():
    return 'ipc://@test-ranks-' + secrets.token_hex(8)


@pytest.fixture(scope='module')
def served(data):
    """Address of a data server for the images, in batches of BATCH."""
    address = new_address()
    server = subprocess.Popen([sys.executable, SERVER, '--data', data, '--batch', str(BATCH), '--input-size', '8',
                               '--workers', '1', '--address', address], stdout=subprocess.PIPE, text=True)
    try:
        assert 'ready' in server.stdout.readline()
        yield address
    finally:
        server.terminate()
        server.communicate()


@pytest.fixture(scope='module')
def trained(data, served, tmp_path_factory):
    """Log directory of a run of two ranks that the data server fed."""
    cwd = tmp_path_factory.mktemp('trained')
    ended = mpirun(2, MAIN, *TRAINING, '--data', data, '--serve-address', served, '--logdir', 'runs/two', cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return cwd / 'runs' / 'two'


def test_two_ranks_train_from_the_data_server_and_the_first_keeps_the_books(trained):
    assert os.listdir(trained.parent) == ['two']
    with open(trained / 'run.json') as f:
        run = json.load(f)
    assert (run['ranks'], run['seed'], run['data_seed']) == (2, 0, 0)
    with open(trained / 'stats.json') as f:
        statistics = json.load(f)
    assert [(entry['epoch_num'], entry['global_step']) for entry in statistics] == [(1, STEPS), (2, 2 * STEPS)]
    for entry in statistics:
        wrong = entry['eval-1step-top1-error'] * NUM_VALIDATION
        assert wrong == pytest.approx(round(wrong))
        assert entry['learning_rate'] == pytest.approx(0.1 * 2 * BATCH / 256)
    assert (trained / 'model-{}.index'.format(2 * STEPS)).exists() and find_checkpoint(str(trained / 'best'))


def test_the_first_of_two_ranks_writes_the_run_s_page(trained):
    from training.epochs import read_epochs
    from training.samples import COUNT
    content = (trained / 'index.html').read_text()
    text = ' '.join(' '.join(Page(content).text).split())
    assert '2 ranks of {} images in a step'.format(BATCH) in text
    assert 'Finished. 2 of 2 epochs are over, {0} of {0} steps.'.format(2 * STEPS) in text
    for each in read_epochs(str(trained))[-1].judged:
        assert '{} of {}'.format(each.top1_correct, NUM_VALIDATION) in text and each.num_images == NUM_VALIDATION
    assert content.count('data:image/png') == 3 * min(COUNT, NUM_VALIDATION)


@pytest.mark.slow
def test_two_ranks_without_data_take_it_from_their_server(data, served, tmp_path):
    open_ended = [word for k, word in enumerate(TRAINING) if '--num-classes' not in TRAINING[max(k - 1, 0):k + 1]]
    ended = mpirun(2, MAIN, *open_ended, '--serve-address', served, '--logdir', 'runs/two', cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    with open(tmp_path / 'runs' / 'two' / 'run.json') as f:
        run = json.load(f)
    assert (run['data'], run['num_classes'], run['augmentation']) == (os.path.realpath(data), 3, 'cifar')
    with open(tmp_path / 'runs' / 'two' / 'stats.json') as f:
        wrong = json.load(f)[-1]['eval-1step-top1-error'] * NUM_VALIDATION
    assert wrong == pytest.approx(round(wrong))


@pytest.mark.slow
def test_an_absent_data_server_is_reported_once_by_all_ranks_together(data, tmp_path):
    address = new_address()
    ended = mpirun(2, MAIN, *TRAINING, '--data', data, '--serve-address', address, '--serve-timeout', '1', cwd=tmp_path)
    assert ended.returncode == 2
    assert 'Traceback' not in ended.stderr and ended.stderr.count('error: ') == 1, ended.stderr
    line, = [line for line in ended.stderr.splitlines() if 'error: ' in line]
    assert address in line and 'serve-data.py' in line
    assert os.listdir(tmp_path) == []


@pytest.fixture
def refusal(graph, no_launcher, monkeypatch, tmp_path, capsys):
    """function(flags): the line in which training refuses these flags, in this process."""
    import main
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        with pytest.raises(SystemExit) as end:
            main.main(TRAINING + ['--serve-timeout', '20'] + list(flags))
        err = capsys.readouterr().err
        assert end.value.code == 2 and err.count('\n') == 1 and 'Traceback' not in err, err
        assert os.listdir(tmp_path) == []
        return err
    return run


@pytest.mark.parametrize('flags, named', [
    (['--batch', '4'], ['batch', '8', '4']), (['--input-size', '16'], ['input_size', '8', '16']),
    (['--augmentation', 'none'], ['augmentation', 'cifar', 'none']), (['--seed', '7'], ['seed', '0', '7', '--seed 7']),
    (['--num-classes', '2'], ['--num-classes 2', '3'])])
def test_a_data_server_that_serves_something_else_is_refused(data, served, refusal, flags, named):
    line = refusal('--data', data, '--serve-address', served, *flags)
    assert served in line and all(part in line for part in named), line


def test_a_data_server_of_other_images_is_refused(data, served, refusal, tmp_path_factory):
    other = tmp_path_factory.mktemp('other')
    line = refusal('--data', str(other), '--serve-address', served)
    assert data in line and str(other) in line


def test_a_data_server_that_feeds_another_job_is_refused(data, served, refusal):
    from third_party.imagenet_utils import Job, Lease
    with Lease(served, {}, Job('the other job', 'its key')):
        assert 'the other job' in refusal('--data', data, '--serve-address', served)


@pytest.mark.parametrize('flags', [['--batch', '4'], ['--num-classes', '2']])
def test_a_refused_job_leaves_the_data_server_free(data, served, refusal, flags):
    from third_party.imagenet_utils import Lease, new_job
    refusal('--data', data, '--serve-address', served, *flags)
    Lease(served, {}, new_job()).close()


@pytest.fixture
def line_of_two(data, served, tmp_path):
    """function(flags of the second): the line in which a job of two ranks with a server each is refused."""
    other = new_address()
    server = subprocess.Popen([sys.executable, SERVER, '--data', data, '--batch', str(BATCH), '--input-size', '8',
                               '--workers', '1', '--address', other], stdout=subprocess.PIPE, text=True)

    def run(*more):
        rank = [MAIN, *TRAINING, '--data', data, '--serve-address']
        ended = mpirun(2, *each_its_own([*rank, served], [*rank, other, *more]), cwd=tmp_path)
        assert ended.returncode == 2 and 'Traceback' not in ended.stderr and os.listdir(tmp_path) == []
        line, = [line for line in ended.stderr.splitlines() if 'error: ' in line]
        return line
    try:
        assert 'ready' in server.stdout.readline()
        yield run
    finally:
        server.terminate()
        server.communicate()


def test_two_data_servers_without_parts_are_refused_with_the_flag_of_each(line_of_two):
    assert ('2 data servers of this job serve the same batches in the same order; start that of {0} with --shard 0/2, '
            'that of {0} with --shard 1/2'.format(socket.gethostname())) in line_of_two()


@pytest.mark.slow
def test_a_data_server_that_does_not_fit_its_own_ranks_only_is_reported_once(line_of_two):
    assert 'rank 1: the data server at' in line_of_two('--seed', '3')


@pytest.mark.slow
def test_a_data_server_of_another_batch_is_reported_once_by_all_ranks_together(data, served, tmp_path):
    ended = mpirun(2, MAIN, *TRAINING, '--data', data, '--serve-address', served, '--batch', '4', cwd=tmp_path)
    assert ended.returncode == 2
    assert 'Traceback' not in ended.stderr and ended.stderr.count('error: ') == 1, ended.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize('flags', [[], ['--targeted']])
def test_any_number_of_ranks_gives_the_same_table_byte_for_byte(data, trained, tmp_path, flags):
    tables, counts = [], []
    for ranks in (1, 2, 3):
        ended = mpirun(ranks, MAIN, *SMALL, '--eval', '--load', trained, '--data', data, '--attack-iter', '3',
                       '--attack-epsilon', '16', '--results-dir', 'ranks-{}'.format(ranks), *flags, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        folder = tmp_path / 'ranks-{}'.format(ranks)
        tables.append((folder / 'per_example.csv').read_bytes())
        with open(folder / 'results.json') as f:
            counts.append(json.load(f)['num_images'])
        assert 'Top1 Error: ' in ended.stdout and ended.stdout.count('Attack Success Rate: ') == 1
    assert tables[0] == tables[1] == tables[2] and tables[0].count(b'\n') == NUM_VALIDATION + 1
    assert counts == [NUM_VALIDATION] * 3


@pytest.mark.slow
def test_two_ranks_resume_their_run(data, served, tmp_path):
    flags = TRAINING + ['--data', data, '--serve-address', served, '--logdir', 'runs/two']
    for more in (['--epochs', '1'], ['--resume']):
        ended = mpirun(2, MAIN, *flags, *more, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert os.listdir(tmp_path / 'runs') == ['two']
    with open(tmp_path / 'runs' / 'two' / 'stats.json') as f:
        assert [entry['epoch_num'] for entry in json.load(f)] == [1, 2]


@pytest.mark.slow
def test_a_run_that_the_python_receiver_feeds_ends(data, tmp_path):
    address = new_address()
    server = subprocess.Popen([sys.executable, SERVER, '--data', data, '--batch', str(BATCH), '--input-size', '8',
                               '--workers', '1', '--no-zmq-ops', '--address', address], stdout=subprocess.PIPE,
                               text=True)
    try:
        assert 'ready' in server.stdout.readline()
        ended = mpirun(1, MAIN, *TRAINING, '--data', data, '--serve-address', address, '--no-zmq-ops', '--logdir',
                       'runs/one', cwd=tmp_path)
    finally:
        server.terminate()
        server.communicate()
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / 'runs' / 'one' / 'model-{}.index'.format(2 * STEPS)).exists()


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_reported_once_by_all_ranks_together(data, trained, tmp_path):
    ended = mpirun(2, MAIN, *SMALL, '--eval', '--load', trained, '--data', data, '-d', '20', cwd=tmp_path)
    assert ended.returncode == 2
    assert 'Traceback' not in ended.stderr and ended.stderr.count('error: ') == 1, ended.stderr
