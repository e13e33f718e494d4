"""Who this process is among those that mpirun or srun started."""
import os
from typing import NamedTuple, Optional

# What the launchers tell the processes they start, number and how many: Open MPI, MPICH and Intel MPI, and Slurm with
# PMIx.
RANK_VARIABLES = {'OMPI_COMM_WORLD_RANK': 'OMPI_COMM_WORLD_SIZE', 'PMI_RANK': 'PMI_SIZE',
                  'PMIX_RANK': 'SLURM_STEP_NUM_TASKS'}


class Ranks(NamedTuple):
    """This process's number among all and among those of its machine, and which of the GPUs that it sees it takes."""
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    gpu: int = 0

    @property
    def is_chief(self) -> bool:
        return self.rank == 0


def launched_rank() -> Optional[int]:
    """The rank that the launcher gave this process, before MPI is started; None without a launcher."""
    for name in RANK_VARIABLES:
        if name in os.environ:
            return int(os.environ[name])
    return None


def launched_size() -> int:
    """How many ranks the launcher says that it started; 1 if it does not say."""
    return next((int(os.environ.get(size, 1)) for rank, size in RANK_VARIABLES.items() if rank in os.environ), 1)
