"""How many threads a rank computes with: its share of the cores and of the processor time that it may use."""
import contextlib
import fractions
import functools
import os
from typing import Any, List, Optional, Set

import psutil

from ranks.end import fail
from ranks.launched import RANK_VARIABLES, Ranks, launched_rank


def threads_for(ranks: Ranks) -> int:
    """Number of compute threads for this process: its share of the cores that it may run on.

    A core counts for as many parts as ranks of this machine may run on it: all of them where the launcher bound none,
    those of a socket where it bound each to its socket, one where each has cores of its own. A limit on the processor
    time of the container that all of them live in is shared in the same way. TF_NUM_INTRAOP_THREADS goes before.
    """
    wanted = positive_in('TF_NUM_INTRAOP_THREADS')
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
def _cores_of_local_ranks() -> List[Set[int]]:
    """The cores that each rank of this machine may run on, as a list of sets, of the processes beside this one: those
    that the same parent started, as far as a launcher gave them ranks. Not empty in a process with a rank."""
    try:
        process = psutil.Process()
        while _has_rank(process.parent()):  # as a script between the launcher and this program has
            process = process.parent()
        return [os.sched_getaffinity(rank.pid) for rank in process.parent().children() if _has_rank(rank)]
    except (psutil.Error, OSError, AttributeError):  # AttributeError: the parent has ended
        return []


def _has_rank(process: Any) -> bool:
    try:
        return any(name in process.environ() for name in RANK_VARIABLES)
    except psutil.AccessDenied:  # root's, as Slurm's launcher is
        return False


def _processor_limit(root: str = '/sys/fs/cgroup') -> Optional[fractions.Fraction]:
    """Cores' worth of processor time that this container may use, as a Fraction; None without a limit."""
    for names in (('cpu.max',), ('cpu/cpu.cfs_quota_us', 'cpu/cpu.cfs_period_us')):  # cgroups' versions 2 and 1
        with contextlib.suppress(OSError):
            texts = []
            for name in names:
                with open(os.path.join(root, name)) as f:
                    texts += f.read().split()
            return None if texts[0] in ('max', '-1') else fractions.Fraction(*map(int, texts))
    return None


def positive_in(name: str) -> Optional[int]:
    """The number in an environment variable of TensorFlow's, which a session's configuration would hide from it; None
    if it is not set."""
    text = os.environ.get(name, '')
    if text and not (text.isdecimal() and int(text)):
        fail('{}={}: not a whole number above 0'.format(name, text), launched_rank() or 0)
    return int(text) if text else None
