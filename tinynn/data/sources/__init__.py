"""Sources of blocks: folders of npy files, Parquet, Zarr, HDF5 and CSV.

The package that reads a format is imported where a file of that format is given. All that can be
known without reading the rows is checked when a source is made: names, shapes, dtypes and numbers
of rows. A file that changes afterwards is refused when it is read the next time.
"""

from .csv import CSV
from .hdf5 import HDF5
from .npy import NpyFolder
from .parquet import Parquet
from .zarr import Zarr

__all__ = ["CSV", "HDF5", "NpyFolder", "Parquet", "Zarr"]
