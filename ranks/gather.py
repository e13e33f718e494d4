"""What ranks share: rows, sums, texts, and the failure of one of them."""
from typing import Any, Callable, List, TypeVar

import numpy as np

from ranks.end import fail
from ranks.launched import Ranks, launched_rank
from ranks.sessions import cpu_session_config

Result = TypeVar('Result')


def gather_rows(ranks: Ranks, rows: Any, name: str) -> Any:
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


def sum_over_ranks(x: Any) -> Any:
    """Build the op that sums a tensor over all ranks, by elements; its gradient is the ranks' sum too.

    As for ``gather_rows``, every rank must build and run it.
    """
    if launched_rank() is None:
        return x
    import horovod.tensorflow as hvd
    return hvd.allreduce(x, op=hvd.Sum)


def largest_over_ranks(ranks: Ranks, x: Any, name: str) -> Any:
    """Build the op that takes the maximum of a tensor over all ranks, by elements, for bookkeeping on the host.

    As for ``gather_rows``, every rank must build and run it.
    """
    if ranks.size == 1:
        return x
    import horovod.tensorflow as hvd
    import tensorflow.compat.v1 as tf
    with tf.device('/cpu:0'):
        return hvd.allreduce(x, op=hvd.Max, name=name)


def share_variables(ranks: Ranks, variables: Any) -> Any:
    """Build the op that gives all ranks the first one's values of a list of variables.

    As for ``gather_rows``, every rank must build and run it.
    """
    if ranks.size == 1:
        import tensorflow.compat.v1 as tf
        return tf.no_op()
    import horovod.tensorflow as hvd
    return hvd.broadcast_variables(variables, root_rank=0)


def gather_texts(ranks: Ranks, text: str) -> List[str]:
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


def together(ranks: Ranks, action: Callable[[], Result]) -> Result:
    """Run ``action`` on every rank; if it raises ValueError or OSError anywhere, all ranks end with exit code 2.

    Returns:
        what ``action`` returned here.
    """
    result: Any = None
    error = ''
    try:
        result = action()
    except (ValueError, OSError) as e:
        error = str(e) or type(e).__name__
    errors = [(rank, e) for rank, e in enumerate(gather_texts(ranks, error)) if e]
    if errors:
        rank, error = errors[0]
        fail(error if rank == 0 else 'rank {}: {}'.format(rank, error), ranks.rank)
    return result
