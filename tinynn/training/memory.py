"""The error for a device that has too little memory for training."""

from collections.abc import Iterator
from contextlib import contextmanager

from backends import Backend


class OutOfMemoryError(MemoryError):
    """The device has not enough memory for the data, the network and a step on a batch."""


@contextmanager
def memory_suffices(home: Backend, batch_size: int | None) -> Iterator[None]:
    """OutOfMemoryError in place of whatever the library raises, with the advice that helps.

    Nothing that was there before is changed by it: neither the data nor the parameters given.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not home.is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines()
        raise OutOfMemoryError(
            f"fit: batch_size={batch_size}: expected the samples, the network and a step on a "
            f"batch to fit in the memory of {home!r}, got {type(error).__name__}"
            f"{f' ({said[0]})' if said else ''}. To fix it: give a smaller batch_size, fewer "
            "samples, float32 instead of float64, or free what else is held on the device"
        ) from error
