"""Folders of npy files."""

from math import prod
from pathlib import Path
from typing import Any

from tinynn.data.blocks import Blocks, DataError, Files
from tinynn.data.hostdata import host
from tinynn.data.sources.checks import BLOCK, Location, matching


class NpyFolder(Blocks):
    """A folder of npy files: those of X and those of y go together in the order of their names.

    The files are read a few MiB at a time.

    Parameters
    ----------
    folder
        Where they are.
    x, y, sample_weight
        The patterns of their names; of weights None, if there are none.
    window
        Rows that are shuffled together; None for as many as 32 MiB hold.

    Raises
    ------
    DataError
        No file of a pattern, another number of them or of rows, or a shape unlike the first's.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> for part in range(2):
    ...     np.save(f"{folder}/x-{part}.npy", np.ones((5, 3), "float32"))
    ...     np.save(f"{folder}/y-{part}.npy", np.arange(5))
    >>> sum(NpyFolder(folder, x="x-*.npy", y="y-*.npy").sizes)
    10
    """

    def __init__(
        self,
        folder: Location,
        *,
        x: str = "x*.npy",
        y: str = "y*.npy",
        sample_weight: str | None = None,
        window: int | None = None,
    ) -> None:
        self.window = window
        at = _folder(folder)
        columns = [matching(at, each) for each in filter(None, (x, y, sample_weight))]
        if len({len(paths) for paths in columns}) > 1:
            found = ", ".join(f"{len(paths)} of {paths[0].name}" for paths in columns)
            raise DataError(
                f"{folder}: expected as many files of each pattern, got {found} and the like. To "
                "fix it: write X and y in files of the same numbers"
            )
        self.files = Files([path for paths in columns for path in paths])
        self.sizes, self._rows = [], []
        first: list[Any] = []
        for paths in zip(*columns, strict=True):
            arrays = [_mapped(path) for path in paths]
            first = first or arrays
            for path, array, like in zip(paths, arrays, first, strict=True):
                _check_like(path, array, like, arrays[0].shape[:1])
            rows = len(arrays[0])
            step = max(1, BLOCK // max(1, sum(a.nbytes for a in arrays) // max(1, rows)))
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                self._rows.append((paths, start, stop))
                self.sizes.append(stop - start)

    def read_block(self, block: int) -> tuple[Any, ...]:
        paths, start, stop = self._rows[block]
        for path in paths:
            self.files.check(path)
        return tuple(_rows(path, start, stop) for path in paths)

    def place(self, block: int) -> str:
        paths, start, _ = self._rows[block]
        return f"{paths[0]}, from row {start}"

    def identity(self) -> Any:
        return self.files.identity()


def _folder(folder: Location) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"{folder}: expected a folder, got none. To fix it: give the path of one")
    return path


def _mapped(path: Path) -> Any:
    try:
        return host().xp.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: expected an npy file of numbers, got what cannot be read: {error}. To fix "
            "it: write it again"
        ) from error


def _rows(path: Path, start: int, stop: int) -> Any:
    """Some rows of a file, read: a map of a file that is cut short meanwhile ends the process."""
    array = _mapped(path)  # of which nothing but its header is looked at
    if not array.flags.c_contiguous:
        return array[start:stop].copy()
    shape = (stop - start, *array.shape[1:])
    place = array.offset + start * prod(shape[1:]) * array.itemsize
    found = host().xp.fromfile(path, dtype=array.dtype, count=prod(shape), offset=place)
    if found.size != prod(shape):
        raise DataError(
            f"{path}: expected rows {start} to {stop}, got a file that ends before. To fix it: let "
            "files alone while they are trained on, and write others beside them"
        )
    return found.reshape(shape)


def _check_like(path: Path, array: Any, like: Any, rows: tuple[int, ...]) -> None:
    """Refuse an array whose rows are not like the first one's, or are fewer or more."""
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise DataError(
            f"{path}: expected rows of numbers, got {array.dtype} of shape {array.shape}. To fix "
            "it: write an array of numbers with a row for each sample"
        )
    if array.shape[:1] != rows:
        raise DataError(
            f"{path}: expected {rows[0] if rows else 'no'} rows, as the files that go with it "
            f"have, got {len(array)}. To fix it: write X and y with the same rows"
        )
    if (array.shape[1:], array.dtype) != (like.shape[1:], like.dtype):
        raise DataError(
            f"{path}: expected rows of shape {like.shape[1:]} and {like.dtype}, as in the first "
            f"file, got {array.shape[1:]} and {array.dtype}. To fix it: make all files alike"
        )
