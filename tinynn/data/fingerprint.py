"""The fingerprint of data: by what a run that is resumed notices that it is given others."""

import hashlib
from typing import Any

from backends import Backend
from tinynn import tree
from tinynn.data.blockdataset import BlockDataset
from tinynn.data.dataset import ArrayDataset, Samples, Slice, SparseDataset, Subset

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
    while isinstance(dataset, Subset | Slice):  # which rows it has follows from the seed
        dataset = dataset.dataset
    if isinstance(dataset, BlockDataset):
        return [dataset.identity(), _digest(dataset.between(0, 1), backend)]
    if isinstance(dataset, ArrayDataset | SparseDataset):
        count = min(dataset.size, _ROWS)
        rows = [place * dataset.size // count for place in range(count)]
        if isinstance(dataset, ArrayDataset):
            return _digest(dataset.take(backend.asarray(rows)), backend)
        part = dataset.matrix[rows]
        rest = _digest(dataset.rest.take(backend.asarray(rows))._replace(x=()), backend)
        return [_hash(part.indptr, part.indices, part.data), rest]
    return getattr(getattr(dataset, "dataset", None), "fingerprint", None)


def _digest(samples: Samples, backend: Backend) -> str:
    return _hash(*map(backend.to_host, tree.leaves(samples)))


def _hash(*arrays: Any) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:32]
