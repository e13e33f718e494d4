"""Who this process is among those that mpirun or srun started."""
import os
from typing import NamedTuple

# What the launchers tell the processes they start: Open MPI, MPICH and Intel MPI, and PMIx (srun --mpi=pmix).
RANK_VARIABLES = ('OMPI_COMM_WORLD_RANK', 'PMI_RANK', 'PMIX_RANK')


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
    for name in RANK_VARIABLES:
        if name in os.environ:
            return int(os.environ[name])
    return None
