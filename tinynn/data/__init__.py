"""Data: trees of arrays and streams of batches, on one backend."""

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
from .ragged import Bucketed, Ragged
from .sequences import pad_sequences
from .streams import IndexedDataset, Stream

__all__ = [
    "ArrayDataset",
    "Bucketed",
    "DataAdapter",
    "Dataset",
    "GivenDataset",
    "IndexedDataset",
    "Ragged",
    "Samples",
    "Source",
    "SparseDataset",
    "Stream",
    "Subset",
    "columns_of",
    "held_out",
    "held_out_count",
    "host",
    "is_dataset",
    "pad_sequences",
    "target_like",
    "to_scalar",
]
