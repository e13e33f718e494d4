"""Configurations of TensorFlow's sessions: each rank its GPU and its share of the cores."""
from typing import Any

from ranks.cores import positive_in, threads_for
from ranks.launched import Ranks


def _configuration(ranks: Ranks, **fields: Any) -> Any:
    import tensorflow.compat.v1 as tf
    # The process's first session sets the number of threads within ops for all later ones: it must be right in each.
    threads = threads_for(ranks)
    config = tf.ConfigProto(intra_op_parallelism_threads=threads, **fields)
    # A thread that spins while it waits for an op takes its time from the one that computes, if they share a core.
    config.experimental.disable_thread_spinning = threads == 1
    return config


def cpu_session_config(ranks: Ranks = Ranks()) -> Any:
    """Session configuration that leaves GPUs alone, for small work on the host."""
    # Without threads of its own, the first session would set the number of threads between ops for all later ones.
    return _configuration(ranks, device_count={'GPU': 0}, inter_op_parallelism_threads=1, use_per_session_threads=True)


def session_config(ranks: Ranks) -> Any:
    """Session configuration of a rank: one GPU if there are any, its share of the cores (see ``threads_for``).

    TF_NUM_INTEROP_THREADS goes before the number of threads between ops. That is 2 at least: reading the next batch
    need not wait for a convolution to end.
    """
    config = _configuration(ranks, allow_soft_placement=True)
    config.inter_op_parallelism_threads = positive_in('TF_NUM_INTEROP_THREADS') or max(
        2, config.intra_op_parallelism_threads)
    # A second pass over the graph finds nothing that makes steps faster, and costs a second or two before the first
    # one.
    config.graph_options.rewrite_options.meta_optimizer_iterations = config.graph_options.rewrite_options.ONE
    config.gpu_options.allow_growth = True
    config.gpu_options.visible_device_list = str(ranks.gpu)
    return config
