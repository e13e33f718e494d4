"""Ranks: who this process is among those that mpirun or srun started, and how they agree on something."""
import argparse
import os
import platform
import sys
from typing import NamedTuple

import numpy as np

# What the launchers tell the processes they start: Open MPI, MPICH and Intel MPI, and PMIx (srun --mpi=pmix).
_RANK_VARIABLES = ('OMPI_COMM_WORLD_RANK', 'PMI_RANK', 'PMIX_RANK')


_OTHER_ENDED = 'Horovod has been shut down'  # what Horovod says in the ranks that are left


class Ranks(NamedTuple):
    """This process's number among all and among those of its machine."""
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_chief(self):
        return self.rank == 0


def launched_rank():
    """The rank that the launcher gave this process, before MPI is started; None without a launcher."""
    for name in _RANK_VARIABLES:
        if name in os.environ:
            return int(os.environ[name])
    return None


def start_ranks():
    """Start Horovod if a launcher started this process.

    Returns:
        Ranks: (0, 1, 0, 1) without a launcher.
    """
    if launched_rank() is None:
        return Ranks()
    import horovod.tensorflow as hvd
    hvd.init()
    return Ranks(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size())


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
    try:
        if _OTHER_ENDED in text:
            fail('another rank has ended; what it or the launcher says is the reason', rank)
        fail('rank {}: {}'.format(rank, text), 0)
    finally:
        os._exit(2)


def fail(message, rank):
    """End this process with exit code 2, saying why in one line, on rank 0 only."""
    if rank == 0:
        print('{}: error: {}'.format(os.path.basename(sys.argv[0]), ' '.join(str(message).split())), file=sys.stderr)
        sys.stderr.flush()
    sys.exit(2)


class OneLineParser(argparse.ArgumentParser):
    """Complains of a command line in one line, on the first rank only."""

    def error(self, message):
        fail(message, launched_rank() or 0)


def cpu_session_config():
    """Session configuration that leaves GPUs alone, for small work on the host."""
    import tensorflow.compat.v1 as tf
    # Else the process's first session would set the number of threads between ops for all later ones.
    return tf.ConfigProto(device_count={'GPU': 0}, intra_op_parallelism_threads=1, inter_op_parallelism_threads=1,
                          use_per_session_threads=True)


def threads_for(ranks):
    """Number of compute threads for this process: its share of the machine's cores."""
    mine = len(os.sched_getaffinity(0))
    if mine < (os.cpu_count() or mine):  # the launcher bound this process to cores of its own
        return mine
    return max(1, mine // ranks.local_size)


def session_config(ranks):
    """Session configuration of a rank: one GPU if there are any, its share of the cores."""
    import tensorflow.compat.v1 as tf
    threads = threads_for(ranks)
    config = tf.ConfigProto(allow_soft_placement=True, intra_op_parallelism_threads=threads,
                            inter_op_parallelism_threads=max(2, threads))
    # A second pass over the graph finds nothing that makes steps faster, and costs a second or two before the first one.
    config.graph_options.rewrite_options.meta_optimizer_iterations = config.graph_options.rewrite_options.ONE
    config.gpu_options.allow_growth = True
    config.gpu_options.visible_device_list = str(ranks.local_rank)
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
        with tf.Session(config=cpu_session_config()) as sess:
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
