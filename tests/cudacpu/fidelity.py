"""Compares CuPy on the emulated device with NumPy, so that a fault of the emulation shows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

# How many units in the last place of its largest element a result may be off.
UNITS = {"e": 4, "f": 100, "d": 1000}


@dataclass(frozen=True)
class Call:
    """An expression, the dtype of its arrays, and why CuPy answers otherwise if it does."""

    expression: str
    dtype: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.expression} of {np.dtype(self.dtype).name}"


def chapters() -> dict[str, list[Call]]:
    """The calls of calls.txt."""
    found: dict[str, list[Call]] = {}
    calls: list[Call] = []
    for line in Path(__file__).with_name("calls.txt").read_text().splitlines():
        if line.startswith("["):
            calls = found[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            dtypes, _, rest = line.partition(": ")
            expression, _, reason = rest.partition(" ! ")
            calls += [Call(expression, dtype, reason) for dtype in dtypes]
    return found


def drawn(dtype: str, seed: int) -> dict[str, np.ndarray]:
    """The arrays that expressions name, as calls.txt says."""
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        kind = np.dtype(dtype).kind
        if kind in "biu":
            low, high = {"b": (0, 2), "i": (-9, 10), "u": (0, 20)}[kind]
            return generator.integers(low, high, shape).astype(dtype)
        values = generator.normal(size=shape)
        if kind == "c":
            values = values + 1j * generator.normal(size=shape)
        return values.astype(dtype)

    x = draw(3, 4)
    positive = np.abs(x.real).astype("float64" if np.dtype(dtype).kind in "fc" else "int64")
    special = generator.normal(size=(3, 4))
    special[0, 1], special[1, 2], special[2, 3] = np.nan, np.inf, -np.inf
    return {
        "x": x,
        "y": draw(3, 4),
        "v": draw(7),
        "w": draw(7),
        "t": draw(2, 3, 4),
        "p": (positive + 1).astype(dtype),
        "m": draw(4, 4) + 4 * np.eye(4, dtype=dtype),
        "q": draw(2, 4, 4) + 4 * np.eye(4, dtype=dtype),
        "one": draw(),
        "i": generator.integers(-3, 3, (3, 4)),
        "k": generator.integers(0, 3, 5),
        "o": generator.integers(0, 2, (3, 4)) > 0,
        "n": special,
    }


def changed(array: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of the array after the change."""
    copy = array.copy()
    change(copy)
    return copy


def product(a: Any, b: Any) -> Any:
    return a @ b


def svd_product(u: Any, s: Any, vh: Any) -> Any:
    return (u * s[..., None, :]) @ vh


def eigh_product(values: Any, vectors: Any) -> Any:
    return (vectors * values[..., None, :]) @ vectors.conj().swapaxes(-1, -2)


HELPERS = (changed, product, svd_product, eigh_product)


def answer(call: Call, xp: Any) -> Any:
    """What the expression gives with the arrays of a library, or the exception it raises."""
    arrays = drawn(call.dtype, crc32(str(call).encode()))
    names = {helper.__name__: helper for helper in HELPERS}
    names |= {"xp": xp} | {name: xp.asarray(array) for name, array in arrays.items()}
    try:
        with np.errstate(all="ignore"):
            return eval(call.expression, names)
    except Exception as error:
        return error


def differences(expected: Any, got: Any, to_host: Callable[[Any], np.ndarray]) -> Iterator[str]:
    """In what two answers differ: nothing where they agree."""
    if isinstance(expected, Exception) or isinstance(got, Exception):
        if not (isinstance(got, type(expected)) or isinstance(expected, type(got))):
            yield f"expected {expected!r}, got {got!r}"
        return
    if isinstance(expected, tuple | list):
        if not isinstance(got, tuple | list) or len(got) != len(expected):
            yield f"expected {len(expected)} results, got {got!r}"
            return
        for left, right in zip(expected, got, strict=True):
            yield from differences(left, right, to_host)
        return
    if not hasattr(expected, "dtype"):
        if expected != (to_host(got).item() if hasattr(got, "dtype") else got):
            yield f"expected {expected!r}, got {got!r}"
        return
    left = np.asarray(expected)
    right = to_host(got) if hasattr(got, "dtype") else np.asarray(got)
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        yield f"expected {left.dtype} {left.shape}, got {right.dtype} {right.shape}"
    elif not close(left, right):
        yield f"expected {left!r}, got {right!r}"


def close(left: np.ndarray, right: np.ndarray) -> bool:
    if left.dtype.kind not in "fc":
        return np.array_equal(left, right)
    real = left.real.dtype
    finite = np.abs(left[np.isfinite(left)]).astype("float64")
    limit = UNITS[real.char] * np.finfo(real).eps * max(1.0, float(finite.max(initial=0.0)))
    wide = "complex128" if left.dtype.kind == "c" else "float64"
    return np.allclose(left.astype(wide), right.astype(wide), rtol=0, atol=limit, equal_nan=True)
