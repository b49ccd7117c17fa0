"""Data: trees of arrays, taken apart into batches on one backend."""

from .adapter import DataAdapter, to_scalar
from .dataset import (
    ArrayDataset,
    Dataset,
    GivenDataset,
    Samples,
    Source,
    SparseDataset,
    Subset,
    held_out,
    held_out_count,
    target_like,
)
from .hostdata import columns_of, host, is_dataset

__all__ = [
    "ArrayDataset",
    "DataAdapter",
    "Dataset",
    "GivenDataset",
    "Samples",
    "Source",
    "SparseDataset",
    "Subset",
    "columns_of",
    "held_out",
    "held_out_count",
    "host",
    "is_dataset",
    "target_like",
    "to_scalar",
]
