"""Starting the ranks: Horovod, and a GPU for each."""
import json
import os

from machine import gpus
from machine.versions import source_version
from ranks.end import fail
from ranks.gather import gather_texts
from ranks.launched import Ranks, launched_rank, launched_size


def start_ranks() -> Ranks:
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
    # Horovod's thread waits in MPI for the other ranks many times a second, and Open MPI waits by spinning: on a core
    # that the rank's own step needs this took a third of the time (docs/performance.md).
    os.environ.setdefault('OMPI_MCA_mpi_yield_when_idle', '1')
    hvd.init()
    ranks = Ranks(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size())
    if ranks.size == 1:
        if launched_size() > 1:
            fail('the launcher started {} ranks and each is alone; it and the MPI here do not fit: versions of mpirun '
                 'inside and outside of a container, or srun without --mpi=pmix'.format(launched_size()),
                 launched_rank() or 0)
        return ranks
    seen = [json.loads(text) for text in gather_texts(ranks, json.dumps(gpus.visible()))]
    try:
        return ranks._replace(gpu=gpus.share_out(seen)[ranks.rank])
    except ValueError as error:
        fail(error, ranks.rank)
