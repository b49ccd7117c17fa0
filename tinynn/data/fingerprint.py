"""The fingerprint of data: by what a run that is resumed notices that it is given others."""

import hashlib
import json
from typing import Any

from backends import Backend
from tinynn import tree
from tinynn.data.blockdataset import BlockDataset
from tinynn.data.dataset import ArrayDataset, Samples, Slice, SparseDataset, Subset
from tinynn.data.ragged import RaggedDataset, RaggedPart

_ROWS = 64  # that are looked at, as far apart as may be


def fingerprint(dataset: Any, backend: Backend) -> Any:
    """A value for JSON that other data hardly have; None where data cannot be looked at twice.

    Of arrays it is a digest of some rows, of files their names and sizes and a digest of the first
    rows, of a dataset of your own its attribute `fingerprint`, if it has one.

    Parameters
    ----------
    dataset
        All samples, or some of them.
    backend
        Where they are.

    Examples
    --------
    >>> import backends, numpy as np
    >>> data = ArrayDataset(Samples(np.ones((3, 2)), np.zeros(3)), backends.get("numpy"))
    >>> fingerprint(data, data.backend) == fingerprint(data, data.backend)
    True
    """
    # As a file gives it back: a tuple of a source's comes as a list.
    return json.loads(json.dumps(_found(dataset, backend)))


def _found(dataset: Any, backend: Backend) -> Any:
    while isinstance(dataset, Subset | Slice | RaggedPart):  # which rows follows from the seed
        dataset = dataset.dataset
    if isinstance(dataset, BlockDataset):
        return [dataset.identity(), _digest(dataset.between(0, 1), backend)]
    if isinstance(dataset, ArrayDataset | RaggedDataset | SparseDataset):
        count = min(dataset.size, _ROWS)
        rows = [place * dataset.size // count for place in range(count)]
        if not isinstance(dataset, SparseDataset):
            return _digest(dataset.take(backend.asarray(rows)), backend)
        part = dataset.matrix[rows].astype(dataset.dtype)
        part.sum_duplicates()  # and of one order
        part.eliminate_zeros()
        rest = _digest(dataset.rest.take(backend.asarray(rows))._replace(x=()), backend)
        places = (part.indptr.astype("int64"), part.indices.astype("int64"))
        return [_hash(*places, part.data), rest]
    return getattr(getattr(dataset, "dataset", None), "fingerprint", None)


def _digest(samples: Samples, backend: Backend) -> str:
    return _hash(*map(backend.to_host, tree.leaves(samples)))


def _hash(*arrays: Any) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:32]
