"""The processes that mpirun or srun started, as one: who they are, what they share, and how they end."""
