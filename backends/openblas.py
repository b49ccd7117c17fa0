"""OpenBLAS under NumPy: its products, and whether it uses the kernels the processor could run."""

import ctypes
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backends.base import Advice

# Multiplications from which on a product is faster than loops compiled for the processor, as
# measured: with the kernels for AVX-512, among which there are some for small matrices, and with
# those for AVX2 on a processor that has AVX-512.
_WIDE = ("skylakex", "cooperlake", "sapphirerapids")
_LARGE_WIDE, _LARGE = 2**13, 2**25

_PRODUCTS = {"float32": "sgemm", "float64": "dgemm"}
_SPELLED = ("scipy_cblas_{}64_", "cblas_{}64_", "cblas_{}")
_NAMES = ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename")
_PROBE = """
import time
import numpy as np
a = np.ones((1024, 1024), np.float32)
a @ a
times = []
for _ in range(15):
    start = time.perf_counter()
    a @ a
    times.append(time.perf_counter() - start)
print(min(times))
"""


def advice() -> Advice | None:
    """A setting that makes large products faster here; None where there is nothing to gain.

    OpenBLAS chooses its kernels by the processor's name, and for some processors with AVX-512 it
    takes those for AVX2.
    """
    core = _core()
    if core not in ("Haswell", "Zen") or not _has_avx512():
        return None
    return Advice(
        f"OpenBLAS runs its {core} kernels on a processor that has AVX-512: set "
        "OPENBLAS_CORETYPE=SkylakeX before Python starts, and large products may be faster",
        {"OPENBLAS_CORETYPE": "SkylakeX"},
        _PROBE,
    )


class Product(NamedTuple):
    """The function for matrix products in C, cblas_?gemm.

    Attributes:
        name: its symbol.
        address: where it is in this process.
        bits: of its integers.
    """

    name: str
    address: int
    bits: int


@cache
def product(dtype: str) -> Product | None:
    """The product of matrices of a dtype; None if there is none, or NumPy has another BLAS."""
    for spelled in _SPELLED if dtype in _PRODUCTS else ():
        name = spelled.format(_PRODUCTS[dtype])
        found = getattr(_library(), name, None)
        if found is not None:
            address = ctypes.cast(found, ctypes.c_void_p).value
            assert address is not None
            return Product(name, address, 64 if name.endswith("64_") else 32)
    return None


@cache
def products() -> dict[str, int]:
    """The dtypes that `product` knows, and from how many multiplications on it beats loops."""
    large = _LARGE_WIDE if _core().lower() in _WIDE else _LARGE
    return {dtype: large for dtype in _PRODUCTS if product(dtype)}


@cache
def _library() -> ctypes.CDLL | None:
    """NumPy's OpenBLAS in this process, where the system tells what is loaded.

    SciPy's wheel brings another one. A single one, of a Linux distribution, serves both.
    """
    with suppress(OSError, ValueError):
        loaded = re.findall(r"/\S*openblas\S*\.so\S*", Path("/proc/self/maps").read_text())
        beside = str(Path(np.__file__).parent)  # numpy, and numpy.libs
        own = [path for path in loaded if path.startswith(beside)]
        return ctypes.CDLL((own or loaded)[0]) if loaded else None
    return None


def _core() -> str:
    """The kernels that the OpenBLAS of this process uses; "" where there is none to be asked."""
    for name in _NAMES:
        ask = getattr(_library(), name, None)
        if ask is not None:
            ask.restype = ctypes.c_char_p
            return str(ask().decode())
    return ""


def _has_avx512() -> bool:
    """True if the processor says that it has what the SkylakeX kernels need."""
    with suppress(OSError):
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        needed = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
        return flags is not None and needed <= set(flags[1].split())
    return False
