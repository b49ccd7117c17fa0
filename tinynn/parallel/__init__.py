"""Training on several processes: communicators, and each process's part of a step.

`tinynn.fit(..., communicator="mpi")` trains on all processes that `mpiexec -n 4` started; "gloo",
"nccl" and "auto" are the others. See docs/parallel.md.
"""

from tinynn.parallel.communicator import Communicator, ParallelError, communicator
from tinynn.parallel.mpi import MPI
from tinynn.parallel.shard import Shard, all_reduce_of

__all__ = ["MPI", "Communicator", "ParallelError", "Shard", "all_reduce_of", "communicator"]
