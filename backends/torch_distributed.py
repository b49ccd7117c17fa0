"""Communicators through torch.distributed: gloo on the CPU, NCCL on CUDA devices.

They take part in the process group that is there, or make one of the variables that torchrun
sets (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
"""

import atexit
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from backends.base import Array, MixedArrays
from backends.communicators import ParallelError, staged

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Seconds, seconds, questions, and milliseconds: what is sent, or asked, is answered within 15 s.
_ASKING = {
    "TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 15_000,
}  # fmt: skip


class Gloo:
    """Processes of torch.distributed that sum through gloo; arrays of any library.

    PyTorch's tensors are summed where they are, other arrays are staged through the host.

    Parameters
    ----------
    timeout
        Seconds after which a process that waits for the others gives up. One that dies closes its
        connections, which the others notice at once; of a machine that answers no more, without a
        word, Linux tells them after 15 seconds.

    Raises
    ------
    ParallelError
        There is no process group, and nothing to make one of.
    """

    kinds = "gloo"

    def __init__(self, timeout: float = 300.0) -> None:
        if not dist.is_available():
            raise ImportError("this build of PyTorch is without torch.distributed")
        if not dist.is_initialized():
            if missing := [name for name in _VARIABLES if name not in os.environ]:
                raise ParallelError(
                    f"communicator: expected {', '.join(missing)} in the environment, as torchrun "
                    "sets them, got none. To fix it: start with torchrun --nproc-per-node 2 "
                    "script.py, or call torch.distributed.init_process_group before"
                )
            if devices := torch.cuda.device_count():  # processes of gloo may share one
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % devices)
            before = _descriptors()
            dist.init_process_group(self.kinds, timeout=timedelta(seconds=timeout))
            _ask_the_others(_descriptors() - before)
            atexit.register(_leave)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank={self.rank}, size={self.size})"

    def all_reduce(self, array: Array) -> Array:
        """The sum over all processes, of every entry."""
        return self._carried_out("all_reduce", array, dist.all_reduce)

    def broadcast(self, array: Array) -> Array:
        """The array that rank 0 has; the others give one of the same shape and dtype."""
        return self._carried_out("broadcast", array, lambda tensor: dist.broadcast(tensor, 0))

    def barrier(self) -> None:
        """Wait for all processes."""
        self._guarded("barrier", dist.barrier)

    def abort(self, message: str) -> None:
        """Leave the group, so that the others, which wait for this process, fail at once."""
        _leave()

    def _carried_out(self, name: str, array: Array, in_place: Callable[[Any], Any]) -> Array:
        def of_host(host: Any) -> Any:
            tensor = torch.tensor(host)  # a copy
            self._guarded(name, lambda: in_place(tensor))
            return tensor.numpy()

        if not isinstance(array, torch.Tensor):
            return staged(array, of_host)
        copy = array.detach().clone(memory_format=torch.contiguous_format)
        self._guarded(name, lambda: in_place(copy))
        return copy

    def _guarded(self, name: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except (RuntimeError, ValueError) as error:
            raise ParallelError(
                f"rank {self.rank} of {self.size}: {name}: expected an answer of all processes, "
                f"got {str(error).splitlines()[0] if str(error) else type(error).__name__}. To fix "
                "it: see what another one, which has died or waits, printed; then resume from the "
                "checkpoint, on as many processes as you like"
            ) from error


class NCCL(Gloo):
    """Processes of torch.distributed whose tensors on CUDA are summed by NCCL.

    Tensors on the CPU, and the few numbers that processes compare, go through gloo.
    """

    kinds = "cpu:gloo,cuda:nccl"

    def all_reduce(self, array: Array) -> Array:
        if not isinstance(array, torch.Tensor) and hasattr(array, "__cuda_array_interface__"):
            raise MixedArrays(
                "communicator 'nccl': expected PyTorch's tensors, got an array of another library "
                "on CUDA. To fix it: use communicator='cupy-nccl' or 'mpi'"
            )
        return super().all_reduce(array)


def _descriptors() -> set[int]:
    """The numbers of the files and connections that this process has open; none but on Linux."""
    try:
        return set(map(int, os.listdir("/proc/self/fd")))
    except OSError:
        return set()


def _ask_the_others(descriptors: set[int]) -> None:
    """Let the system ask, on these connections, whether the other side is there, and end them.

    gloo asks nobody: of a machine without power, or behind a cut cable, it learns by its limit of
    time alone, which is as long as the others may compute between two sums.
    """
    for descriptor in descriptors:
        try:
            copy = socket.socket(fileno=os.dup(descriptor))
        except OSError:  # no socket, or closed since
            continue
        with copy:  # of the number, not of the connection
            if copy.family in (socket.AF_INET, socket.AF_INET6):
                copy.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in _ASKING.items():
                    if option := getattr(socket, name, None):
                        copy.setsockopt(socket.IPPROTO_TCP, option, value)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
