"""How explicit loops become machine code on the CPU: Numba, and what it keeps on disk.

A kernel is Python source. It is written to a file whose name is a hash of all that its machine code
depends on, so what Numba has kept beside the file is never that of another source, version or
processor. TINYNN_CACHE names the folder; one that cannot be written to means compiling anew.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core.compiler import Compiler

from backends.dialect import Native

# A kernel's arrays never overlap, and saying so is worth a factor of five in products. NaN and
# infinities are honoured: only the order of sums and products is left to the compiler.
HEADER = """\
from math import *
from numpy import bool_, ceil, float32, float64, floor, int8, int16, int32, int64
from numpy import rint, trunc, uint8, uint16, uint32, uint64
from backends.numba import exact, kernel

"""

_EXP = """\
@exact
def exp_{t}(x):
    c = {t}({top}) if x > {t}({top}) else x
    c = {t}({low}) if c < {t}({low}) else c
    whole = floor(c * {t}(1.4426950408889634) + {t}(0.5))
    r = c - whole * {t}({high}) - whole * {t}({rest})
{body}
    n = {i}(whole)
    half = {i}(n >> 1)
    left = {i}((half + {i}({bias})) << {bits}).view({t})
    right = {i}((n - half + {i}({bias})) << {bits}).view({t})
    return x if x != x else p * left * right

"""

# Polynomials of S. L. Moshier's Cephes library: below two units in the last place. Unlike the C
# library's, this function is nothing but arithmetic, so loops over it are vectorized.
HELPERS = {
    "exp_float32": _EXP.format(
        t="float32", i="int32", top=89, low=-104, high=0.693359375, rest=-2.12194440e-4, bits=23,
        bias=127, body="""\
    p = float32(1.9875691500e-4) * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    p = p * (r * r) + r + float32(1)""",
    ),
    "exp_float64": _EXP.format(
        t="float64", i="int64", top=710, low=-746, high=6.93145751953125e-1,
        rest=1.42860682030941723212e-6, bits=52, bias=1023, body="""\
    s = r * r
    a = (1.26177193074810590878e-4 * s + 3.02994407707441961300e-2) * s + 9.99999999999999999910e-1
    b = (3.00198505138664455042e-6 * s + 2.52448340349684104192e-3) * s + 2.27265548208155028766e-1
    a, b = r * a, b * s + 2.0
    p = 1.0 + 2.0 * (a / (b - a))""",
    ),
}  # fmt: skip


class _Disjoint(Compiler):  # type: ignore[misc]  # Numba has no types
    """Numba's compiler, told that the arrays of a function do not overlap."""

    def define_pipelines(self) -> Any:
        self.state.flags.noalias = True
        return super().define_pipelines()


_caching = False  # whether kernels that are defined now are kept on disk


def kernel(function: Callable[..., Any]) -> Any:
    """The decorator of a program's one function."""
    flags = {"contract", "reassoc", "arcp", "nsz"}
    options = {"pipeline_class": _Disjoint, "error_model": "numpy", "fastmath": flags}
    return numba.njit(cache=_caching, **options)(function)


def exact(function: Callable[..., Any]) -> Any:
    """The decorator of a function whose sums are not to be put in another order."""
    return numba.njit(error_model="numpy", fastmath={"contract"})(function)


def folder() -> Path:
    """Where compiled kernels are kept."""
    if named := os.environ.get("TINYNN_CACHE"):
        return Path(named)
    home = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "tinynn"


def key(source: str) -> str:
    """The hash of all that the machine code depends on."""
    parts = (
        source,
        sys.version,
        numba.__version__,
        llvm.llvm_version_info,
        np.__version__,
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
        HEADER,
        *HELPERS.values(),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def build(source: str) -> Callable[..., Any]:
    """The function `run` of a kernel's source, compiled when it is first called."""
    used = [text for name, text in HELPERS.items() if f"{name}(" in source]
    text = "".join([HEADER, *used, source])
    kept = _kept(text)
    plain = f"<kernel {key(text)}>"

    def fresh() -> Any:
        return _defined(text, plain, caching=False)

    if kept is None:
        return fresh()  # type: ignore[no-any-return]
    try:
        compiled = _defined(text, str(kept), caching=True)
    except (RuntimeError, OSError):  # Numba finds no place for what it would keep
        return fresh()  # type: ignore[no-any-return]
    state = {"run": compiled, "sound": False}

    def run(*arguments: Any) -> Any:
        if not state["sound"]:  # what was kept may be damaged; it is read before anything runs
            try:
                compiled.compile(tuple(map(numba.typeof, arguments)))
            except Exception:
                state["run"] = fresh()
            state["sound"] = True
        return state["run"](*arguments)

    return run


def _defined(text: str, file: str, caching: bool) -> Any:
    global _caching
    scope: dict[str, Any] = {"__name__": __name__, "__file__": file}
    _caching = caching
    try:
        exec(compile(text, file, "exec"), scope)  # the source is what the emitter wrote
    finally:
        _caching = False
    return scope["run"]


def _kept(text: str) -> Path | None:
    """The file with this text, written if it is not there; None where it cannot be."""
    try:
        place = folder()
        file = place / f"kernel_{key(text)}.py"
        with suppress(OSError, UnicodeDecodeError):
            if file.read_text() == text:
                return file
        place.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place, suffix=".tmp")
        try:
            with os.fdopen(handle, "w") as out:
                out.write(text)
            os.replace(name, file)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        return file
    except (OSError, RuntimeError):  # read-only, full, or no home
        return None


NATIVE = Native(build)
