"""Communicators: what processes that train together sum and send arrays through.

A communicator has `rank`, `size`, `all_reduce(array)`, `broadcast(array)`, `barrier()` and
`abort(message)`; `tinynn.parallel.Communicator` says what each does. Those that name an array
library are files of this package, found here by name and imported when they are asked for.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any

from backends.base import Array, Backend

_BUILT_IN = {
    "gloo": ("backends.torch_distributed:Gloo", "pip install torch"),
    "nccl": ("backends.torch_distributed:NCCL", "pip install torch"),
    "cupy-nccl": ("backends.cupy_nccl:NCCL", "pip install nvidia-nccl-cu12"),
}
# A variable that a launcher sets in every process, and the communicator that it is for.
_LAUNCHERS = {
    "TORCHELASTIC_RUN_ID": "gloo",
    "PMI_RANK": "mpi",
    "PMIX_RANK": "mpi",
    "OMPI_COMM_WORLD_RANK": "mpi",
}


class ParallelError(RuntimeError):
    """A failure of processes that train together: one died, or they do not agree."""


def names() -> tuple[str, ...]:
    """The names of the communicators of array libraries.

    >>> from backends import communicators
    >>> communicators.names()
    ('gloo', 'nccl', 'cupy-nccl')
    """
    return tuple(_BUILT_IN)


def launched() -> str | None:
    """The name of the communicator for what launched this process; None if it runs alone."""
    return next((name for variable, name in _LAUNCHERS.items() if variable in os.environ), None)


def get(name: str) -> Any:
    """A communicator of an array library, by its name; ImportError says what to install.

    Parameters
    ----------
    name
        One of `names`.
    """
    place, command = _BUILT_IN[name]
    module, _, kind = place.partition(":")
    try:
        return getattr(importlib.import_module(module), kind)()
    except ImportError as error:
        raise ImportError(
            f"communicator {name!r} cannot be used: {error}. To fix it: {command}"
        ) from error


def staged(array: Array, function: Callable[[Any], Any]) -> Array:
    """The result of a function of a contiguous NumPy array for an array, on the array's device.

    Parameters
    ----------
    array
        Of any backend.
    function
        It returns another array of the same dtype, and leaves its argument as it is.
    """
    backend = Backend.find(array)
    assert backend is not None
    host = backend.to_host(array)
    found = function(host if host.flags.c_contiguous else host.copy())
    return backend.asarray(found.reshape(host.shape), array.dtype)
