"""HDF5 files, by chunks."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from tinynn.data.blocks import Blocks, DataError, Files
from tinynn.data.sources.checks import BLOCK, Location, library, named_arrays


class HDF5(Blocks):
    """Datasets of an HDF5 file, by chunks of rows.

    It needs h5py: pip install "tinynn-xp[hdf5]".

    Parameters
    ----------
    path
        Of the file.
    x, y, sample_weight
        The names of the datasets in it; of weights None, if there are none.
    window
        Rows that are shuffled together; None for as many as 32 MiB hold.

    Raises
    ------
    DataError
        No such file or dataset, or another number of rows.
    ImportError
        The package h5py is not installed.
    """

    def __init__(
        self,
        path: Location,
        *,
        x: str = "x",
        y: str = "y",
        sample_weight: str | None = None,
        window: int | None = None,
    ) -> None:
        self.window, self.path = window, Path(path)
        self._h5py = library("h5py", "hdf5")
        self._names = [name for name in (x, y, sample_weight) if name is not None]
        self.files = Files([self.path])
        with self._opened() as file:
            arrays = named_arrays(path, file, (x, y, sample_weight))
            rows, first = len(arrays[0]), arrays[0]
            row = max(1, sum(a.dtype.itemsize * a.size for a in arrays) // max(rows, 1))
            chunk = first.chunks[0] if first.chunks else 1
            step = chunk * max(1, BLOCK // (row * chunk))  # whole chunks: each is read once
        self._edges = [*range(0, rows, step), rows]
        self.sizes = [stop - start for start, stop in pairwise(self._edges)]

    def _opened(self) -> Any:
        try:
            return self._h5py.File(self.path, "r")
        except OSError as error:
            raise DataError(
                f"{self.path}: expected an HDF5 file, got what cannot be read: {error}. To fix it: "
                "write it again"
            ) from error

    def read_block(self, block: int) -> tuple[Any, ...]:
        self.files.check(self.path)
        start, stop = self._edges[block : block + 2]
        with self._opened() as file:
            return tuple(file[name][start:stop] for name in self._names)

    def place(self, block: int) -> str:
        return f"{self.path}, from row {self._edges[block]}"

    def identity(self) -> Any:
        return self.files.identity()
