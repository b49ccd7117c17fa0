"""Data: trees of arrays and streams of batches, on one backend."""

from .adapter import DataAdapter, to_scalar
from .blockdataset import BlockDataset
from .blocks import Blocks, DataError
from .dataset import (
    ArrayDataset,
    Dataset,
    GivenDataset,
    Samples,
    Slice,
    Source,
    SparseDataset,
    Subset,
    held_out,
    held_out_count,
    target_like,
)
from .hostdata import columns_of, host, is_dataset
from .mixing import mixup
from .ragged import Bucketed, Ragged
from .sequences import pad_sequences
from .sources import CSV, HDF5, NpyFolder, Parquet, Zarr
from .streams import IndexedDataset, Stream

__all__ = [
    "CSV",
    "HDF5",
    "ArrayDataset",
    "BlockDataset",
    "Blocks",
    "Bucketed",
    "DataAdapter",
    "DataError",
    "Dataset",
    "GivenDataset",
    "IndexedDataset",
    "NpyFolder",
    "Parquet",
    "Ragged",
    "Samples",
    "Slice",
    "Source",
    "SparseDataset",
    "Stream",
    "Subset",
    "Zarr",
    "columns_of",
    "held_out",
    "held_out_count",
    "host",
    "is_dataset",
    "mixup",
    "pad_sequences",
    "target_like",
    "to_scalar",
]
