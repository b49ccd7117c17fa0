"""OpenBLAS under NumPy: whether it uses the kernels that the processor could run."""

import ctypes
import re
from contextlib import suppress
from pathlib import Path

from backends.base import Advice

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


def _core() -> str:
    """The kernels that the OpenBLAS of this process uses; "" where there is none to be asked."""
    with suppress(OSError, ValueError):
        loaded = re.search(r"/\S*openblas\S*\.so\S*", Path("/proc/self/maps").read_text())
        if loaded is not None:
            library = ctypes.CDLL(loaded[0])
            for name in _NAMES:
                ask = getattr(library, name, None)
                if ask is not None:
                    ask.restype = ctypes.c_char_p
                    return str(ask().decode())
    return ""


def _has_avx512() -> bool:
    """Whether the processor says that it has what the SkylakeX kernels need."""
    with suppress(OSError):
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        needed = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
        return flags is not None and needed <= set(flags[1].split())
    return False
