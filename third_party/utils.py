"""Ranks: who this process is among those that mpirun or srun started, and how they agree on something."""
import argparse
import contextlib
import fractions
import functools
import json
import os
import platform
import sys
from typing import NamedTuple

import numpy as np
import psutil

from third_party import gpus

# What the launchers tell the processes they start, number and how many: Open MPI, MPICH and Intel MPI, and Slurm with PMIx.
_RANK_VARIABLES = {'OMPI_COMM_WORLD_RANK': 'OMPI_COMM_WORLD_SIZE', 'PMI_RANK': 'PMI_SIZE',
                   'PMIX_RANK': 'SLURM_STEP_NUM_TASKS'}

_OTHER_ENDED = 'Horovod has been shut down'  # what Horovod says in the ranks that are left


class Ranks(NamedTuple):
    """This process's number among all and among those of its machine, and which of the GPUs that it sees it takes."""
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    gpu: int = 0

    @property
    def is_chief(self):
        return self.rank == 0


def launched_rank():
    """The rank that the launcher gave this process, before MPI is started; None without a launcher."""
    for name in _RANK_VARIABLES:
        if name in os.environ:
            return int(os.environ[name])
    return None


def launched_size():
    """How many ranks the launcher says that it started; 1 if it does not say."""
    return next((int(os.environ.get(size, 1)) for rank, size in _RANK_VARIABLES.items() if rank in os.environ), 1)


def start_ranks():
    """Start Horovod if a launcher started this process. OMPI_MCA_mpi_yield_when_idle in the environment goes before.

    Ranks that cannot have a GPU each, though they see some, end with exit code 2, and so do those that do not find each
    other: each would do all the work.

    Returns:
        Ranks: (0, 1, 0, 1) without a launcher.
    """
    if not launched_rank():
        source_version()  # of the files as they are now, for the figures of hours later
    if launched_rank() is None:
        return Ranks()
    import horovod.tensorflow as hvd
    # Horovod's thread waits in MPI for the other ranks many times a second, and Open MPI waits by spinning: on a core that
    # the rank's own step needs this took a third of the time (docs/performance.md).
    os.environ.setdefault('OMPI_MCA_mpi_yield_when_idle', '1')
    hvd.init()
    ranks = Ranks(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size())
    if ranks.size == 1:
        if launched_size() > 1:
            fail('the launcher started {} ranks and each is alone; it and the MPI here do not fit: versions of mpirun inside '
                 'and outside of a container, or srun without --mpi=pmix'.format(launched_size()), launched_rank())
        return ranks
    seen = [json.loads(text) for text in gather_texts(ranks, json.dumps(gpus.visible()))]
    try:
        return ranks._replace(gpu=gpus.share_out(seen)[ranks.rank])
    except ValueError as error:
        fail(error, ranks.rank)


def reason(error):
    """What an OSError or one of TensorFlow's errors says, in one line, without the graph's part in it."""
    if isinstance(error, OSError):
        return str(error) if error.errno is None else '{}{}'.format(
            error.strerror, " ('{}')".format(error.filename) if error.filename else '')
    # TensorFlow puts the place in the program above the message, and the node behind it.
    lines = [type(error).__name__] + error.message.split('\n\t [[')[0].split('\n')
    return next(line for line in reversed(lines) if line.strip()).strip()


def end_by(error):
    """End this process with exit code 2, because of an OSError or one of TensorFlow's errors, in one line.

    Every rank that knows a reason says it. That another rank has ended is news on the first rank only. Among several
    ranks the process ends at once: the launcher then ends the others, while Horovod's own end would wait for them.
    """
    rank, text = launched_rank(), reason(error)
    if rank is None:
        fail(text, 0)
    if _OTHER_ENDED in text:
        fail_at_once('another rank has ended; what it or the launcher says is the reason', rank)
    fail_at_once('rank {}: {}'.format(rank, text), 0)


def fail(message, rank, code=2):
    """End this process with this exit code, saying why in one line, on rank 0 only."""
    if rank == 0:
        print('{}: error: {}'.format(os.path.basename(sys.argv[0]), ' '.join(str(message).split())), file=sys.stderr)
        sys.stderr.flush()
    sys.exit(code)


def fail_at_once(message, rank):
    """As ``fail``, also in a thread beside others that wait for ever: without any of Python's or Horovod's own ends."""
    try:
        fail(message, rank)
    finally:
        os._exit(2)


class OneLineParser(argparse.ArgumentParser):
    """Complains of a command line in one line, on the first rank only."""

    def error(self, message):
        fail(message, launched_rank() or 0)


def mode_parser(program, mode):
    """The parser of one of a program's modes, a function that its docstring describes."""
    return OneLineParser(prog=program, description=mode.__doc__, allow_abbrev=False)


def run_mode(modes, description, argv):
    """Run the mode that ``argv`` begins with, on what follows in it.

    Args:
        modes (dict): name to function (list of str) -> exit code. description (str): its first line is the program's.
    Returns:
        what the mode returns.
    """
    parser = OneLineParser(description=description.split('\n')[0], allow_abbrev=False, epilog=' '.join(
        '{}: {}'.format(name, mode.__doc__) for name, mode in modes.items()))
    parser.add_argument('mode', choices=modes, help='`MODE --help` lists its flags')
    return modes[parser.parse_args(argv[:1]).mode](argv[1:])


def threads_for(ranks):
    """Number of compute threads for this process: its share of the cores that it may run on.

    A core counts for as many parts as ranks of this machine may run on it: all of them where the launcher bound none,
    those of a socket where it bound each to its socket, one where each has cores of its own. A limit on the processor
    time of the container that all of them live in is shared in the same way. TF_NUM_INTRAOP_THREADS goes before.
    """
    wanted = _positive_in('TF_NUM_INTRAOP_THREADS')
    if wanted:
        return wanted
    mine = os.sched_getaffinity(0)
    beside = _cores_of_local_ranks() if ranks.local_size > 1 else [mine]
    if len(beside) != ranks.local_size:  # started in a way not known here: as if none was bound
        beside = [mine] * ranks.local_size
    # Exact, as thirds do not add up to 1 in floating point.
    share = sum(fractions.Fraction(1, sum(core in cores for cores in beside)) for core in mine)
    limit = _processor_limit()
    return max(1, int(share if limit is None else min(share, limit / ranks.local_size)))


@functools.lru_cache(None)  # ranks end, and TensorFlow's number of threads stays
def _cores_of_local_ranks():
    """The cores that each rank of this machine may run on, as a list of sets, of the processes beside this one: those
    that the same parent started, as far as a launcher gave them ranks. Not empty in a process with a rank."""
    try:
        process = psutil.Process()
        while _has_rank(process.parent()):  # as a script between the launcher and this program has
            process = process.parent()
        return [os.sched_getaffinity(rank.pid) for rank in process.parent().children() if _has_rank(rank)]
    except (psutil.Error, OSError, AttributeError):  # AttributeError: the parent has ended
        return []


def _has_rank(process):
    try:
        return any(name in process.environ() for name in _RANK_VARIABLES)
    except psutil.AccessDenied:  # root's, as Slurm's launcher is
        return False


def _processor_limit(root='/sys/fs/cgroup'):
    """Cores' worth of processor time that this container may use, as a Fraction; None without a limit."""
    for names in (('cpu.max',), ('cpu/cpu.cfs_quota_us', 'cpu/cpu.cfs_period_us')):  # cgroups' versions 2 and 1
        with contextlib.suppress(OSError):
            texts = []
            for name in names:
                with open(os.path.join(root, name)) as f:
                    texts += f.read().split()
            return None if texts[0] in ('max', '-1') else fractions.Fraction(*map(int, texts))
    return None


def _positive_in(name):
    """The number in an environment variable of TensorFlow's, which a session's configuration would hide from it; None
    if it is not set."""
    text = os.environ.get(name, '')
    if text and not (text.isdecimal() and int(text)):
        fail('{}={}: not a whole number above 0'.format(name, text), launched_rank() or 0)
    return int(text) if text else None


def _configuration(ranks, **fields):
    import tensorflow.compat.v1 as tf
    # The process's first session sets the number of threads within ops for all later ones: it must be right in each.
    threads = threads_for(ranks)
    config = tf.ConfigProto(intra_op_parallelism_threads=threads, **fields)
    # A thread that spins while it waits for an op takes its time from the one that computes, if they share a core.
    config.experimental.disable_thread_spinning = threads == 1
    return config


def cpu_session_config(ranks=Ranks()):
    """Session configuration that leaves GPUs alone, for small work on the host."""
    # Without threads of its own, the first session would set the number of threads between ops for all later ones.
    return _configuration(ranks, device_count={'GPU': 0}, inter_op_parallelism_threads=1, use_per_session_threads=True)


def session_config(ranks):
    """Session configuration of a rank: one GPU if there are any, its share of the cores (see ``threads_for``).

    TF_NUM_INTEROP_THREADS goes before the number of threads between ops. That is 2 at least: reading the next batch
    need not wait for a convolution to end.
    """
    config = _configuration(ranks, allow_soft_placement=True)
    config.inter_op_parallelism_threads = _positive_in('TF_NUM_INTEROP_THREADS') or max(
        2, config.intra_op_parallelism_threads)
    # A second pass over the graph finds nothing that makes steps faster, and costs a second or two before the first one.
    config.graph_options.rewrite_options.meta_optimizer_iterations = config.graph_options.rewrite_options.ONE
    config.gpu_options.allow_growth = True
    config.gpu_options.visible_device_list = str(ranks.gpu)
    return config


def library_versions():
    """Versions of what decides a result, JSON-ready."""
    import cv2
    import horovod
    import tensorflow
    import tensorpack
    return {'python': platform.python_version(), 'tensorflow': tensorflow.__version__,
            'tensorpack': tensorpack.__version__, 'horovod': horovod.__version__, 'numpy': np.__version__,
            'opencv': cv2.__version__}


def gather_rows(ranks, rows, name):
    """Build the op that stacks the rows of all ranks.

    Every rank must build it, and run it as often as the others: a rank that leaves one out makes the rest wait.

    Args:
        ranks (Ranks).
        rows (tf.Tensor): [n, ...], n may differ between ranks but must not be 0.
    Returns:
        tf.Tensor: [sum of n, ...], in the order of the ranks.
    """
    if ranks.size == 1:
        return rows
    import horovod.tensorflow as hvd
    return hvd.allgather(rows, name=name)


def sum_over_ranks(x):
    """Build the op that sums a tensor over all ranks, by elements; its gradient is the ranks' sum too.

    As for ``gather_rows``, every rank must build and run it.
    """
    if launched_rank() is None:
        return x
    import horovod.tensorflow as hvd
    return hvd.allreduce(x, op=hvd.Sum)


def largest_over_ranks(ranks, x, name):
    """Build the op that takes the maximum of a tensor over all ranks, by elements, for bookkeeping on the host.

    As for ``gather_rows``, every rank must build and run it.
    """
    if ranks.size == 1:
        return x
    import horovod.tensorflow as hvd
    import tensorflow.compat.v1 as tf
    with tf.device('/cpu:0'):
        return hvd.allreduce(x, op=hvd.Max, name=name)


def gather_texts(ranks, text):
    """Every rank's ``text``, as a list, on all ranks."""
    if ranks.size == 1:
        return [text]
    import tensorflow.compat.v1 as tf
    data = np.frombuffer(text.encode() + b'\0', np.uint8)
    with tf.Graph().as_default():
        local = tf.placeholder(tf.uint8, [None])
        together = gather_rows(ranks, local, 'texts')
        with tf.Session(config=cpu_session_config(ranks)) as sess:
            everything = sess.run(together, {local: data})
    return everything.tobytes().decode().split('\0')[:-1]


def together(ranks, action):
    """Run ``action`` on every rank; if it raises ValueError or OSError anywhere, all ranks end with exit code 2.

    Returns:
        what ``action`` returned here.
    """
    result, error = None, ''
    try:
        result = action()
    except (ValueError, OSError) as e:
        error = str(e) or type(e).__name__
    errors = [(rank, e) for rank, e in enumerate(gather_texts(ranks, error)) if e]
    if errors:
        rank, error = errors[0]
        fail(error if rank == 0 else 'rank {}: {}'.format(rank, error), ranks.rank)
    return result


_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@functools.lru_cache(None)  # of the files that this process has read, not of those of an hour later
def source_version(root=_ROOT):
    """Which source this program is, JSON-ready.

    Returns:
        dict: ``commit`` (str): hexadecimal name of the checkout's commit; None in an installed copy.
        ``changed`` (bool): whether files that git knows differ from that commit; None where git cannot tell.
    """
    try:
        commit = _commit_of(root)
    except OSError:  # no checkout, or one that another user may not read
        commit = None
    return {'commit': commit, 'changed': None if commit is None else _differs_from_commit(root)}


def _commit_of(root):
    """The commit that is checked out in ``root``, read without git, which containers often lack; None before the first.

    Raises:
        OSError: no checkout of git's.
    """
    folder = os.path.join(root, '.git')
    if os.path.isfile(folder):  # one of several checkouts of a repository
        folder = os.path.join(root, _first_line(folder).split('gitdir: ')[-1])
    head = _first_line(os.path.join(folder, 'HEAD'))
    if not head.startswith('ref: '):
        return head
    branch = head[len('ref: '):]
    common = os.path.join(folder, 'commondir')
    shared = os.path.join(folder, _first_line(common)) if os.path.exists(common) else folder
    with contextlib.suppress(FileNotFoundError):
        return _first_line(os.path.join(shared, branch))
    with contextlib.suppress(FileNotFoundError), open(os.path.join(shared, 'packed-refs')) as f:
        for line in f:
            if line.split()[1:] == [branch]:
                return line.split()[0]
    return None


def _first_line(path):
    with open(path) as f:
        return f.readline().strip()


def _differs_from_commit(root):
    """Whether git's own files in ``root`` differ from the commit; None where git is missing or cannot tell."""
    command = ['git', '-C', root, '--git-dir=.git', '--work-tree=.', 'diff', '--quiet', '--no-ext-diff', 'HEAD']
    environment = {name: value for name, value in os.environ.items() if not name.startswith('GIT_')}
    nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    try:
        # Not by ``subprocess``, which may fork: that is not safe in a process of MPI's, and this is.
        process = os.posix_spawnp('git', command, dict(environment, GIT_OPTIONAL_LOCKS='0'), file_actions=nowhere)
    except OSError:
        return None
    return {0: False, 1: True}.get(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
