"""Zarr groups, by chunks."""

from itertools import pairwise, product
from pathlib import Path
from typing import Any

from tinynn.data.blocks import Blocks, DataError, Files
from tinynn.data.sources.checks import Location, library, named_arrays


class Zarr(Blocks):
    """Arrays of a Zarr group in a folder, by chunks of rows.

    It needs zarr: pip install "tinynn-xp[zarr]".

    Parameters
    ----------
    path
        The folder of the group.
    x, y, sample_weight
        The names of the arrays; of weights None, if there are none.
    empty_chunks
        True takes a chunk that is not there for one of fill values, as Zarr reads it: by its
        defaults it writes none that holds nothing else. False refuses it as lost.
    window
        Rows that are shuffled together; None for as many as 32 MiB hold.

    Raises
    ------
    DataError
        No such group or array, another number of rows, or a chunk that is not there.
    ImportError
        The package zarr is not installed.
    """

    def __init__(
        self,
        path: Location,
        *,
        x: str = "x",
        y: str = "y",
        sample_weight: str | None = None,
        empty_chunks: bool = False,
        window: int | None = None,
    ) -> None:
        self.window, self.path, self.empty_chunks = window, Path(path), empty_chunks
        zarr = library("zarr", "zarr")
        try:
            group = zarr.open_group(str(path), mode="r")
        except Exception as error:  # of Zarr's own kinds
            raise DataError(
                f"{path}: expected a folder with a Zarr group, got {error}. To fix it: give the "
                "path of one"
            ) from error
        self._arrays = named_arrays(path, group, (x, y, sample_weight))
        self.files = Files([])
        chunks = (self._arrays[0].shards or self._arrays[0].chunks)[0]
        rows = self._arrays[0].shape[0]
        self._edges = [*range(0, rows, chunks), rows]
        self.sizes = [stop - start for start, stop in pairwise(self._edges)]
        for block in range(len(self.sizes)):
            self._check_chunks(block)

    def read_block(self, block: int) -> tuple[Any, ...]:
        self._check_chunks(block)
        start, stop = self._edges[block : block + 2]
        return tuple(array[start:stop] for array in self._arrays)

    def _check_chunks(self, block: int) -> None:
        """Refuse chunks that are lost, which Zarr gives as fill values, or have changed."""
        start, stop = self._edges[block : block + 2]
        for array in self._arrays:
            sizes = array.shards or array.chunks
            counts = [-(-n // size) for n, size in zip(array.shape, sizes, strict=True)]
            along = range(start // sizes[0], -(-stop // sizes[0]))
            for place in product(along, *map(range, counts[1:])):
                key = array.metadata.encode_chunk_key(place)
                file = self.path / array.path.lstrip("/") / key
                if file.exists():
                    self.files.check(file)
                elif not self.empty_chunks or file in self.files.stamps:
                    raise DataError(
                        f"{self.path}: {array.path}, chunk {key}: expected the file {file}, got "
                        "none. To fix it: put it back; or, if the chunk was never written since it "
                        "holds fill values alone, say empty_chunks=True"
                    )

    def place(self, block: int) -> str:
        return f"{self.path}, from row {self._edges[block]}"

    def identity(self) -> Any:
        return [[a.path, list(a.shape), str(a.dtype)] for a in self._arrays]
