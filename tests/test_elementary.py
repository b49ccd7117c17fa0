"""The elementary functions of loops: at most two units in the last place from mpmath.

More points, or others: `TINYNN_POINTS=20000` or `TINYNN_POINTS=7:20000` (seed, points a function).
"""

import itertools
import math
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="loops are compiled by LLVM, which is not installed")
pytest.importorskip("mpmath", reason="results are compared with mpmath's")

import mpmath

from backends import llvm, llvm_arithmetic, llvm_functions
from tests import kernels
from tinynn.compiler.codegen.language import Constant, Expression

ULPS = 2.0
DTYPES = ("float32", "float64")
ONE: dict[str, Callable[..., Any]] = {
    name: getattr(mpmath, name)
    for name in """acos acosh asin asinh atan atanh cos cosh erf exp expm1 log log10 log1p sin sinh
        tan tanh""".split()
} | {"log2": lambda x: mpmath.log(x, 2)}
TWO: dict[str, Callable[..., Any]] = {
    "atan2": mpmath.atan2,
    "hypot": mpmath.hypot,
    "pow": mpmath.power,
    "logaddexp": lambda x, y: max(x, y) + mpmath.log1p(mpmath.exp(-abs(x - y))),
}
NAMES = (*ONE, *TWO)
# Where ranges are joined, and where results are near 0.
CORNERS = [
    0.0,
    0.0625,
    0.1716,
    0.25,
    0.3466,
    0.4142,
    0.5,
    0.53,
    0.55,
    0.6745,
    0.7071,
    1.0,
    1.0397,
    1.4142,
]
CORNERS += [math.pi / 4 * n for n in (1, 2, 3, 4, 8, 1000)] + [2.0, 9.0, 19.0, 88.0, 709.0, 8192.0]
SPECIAL = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 1e-30, 1e30, 3e38, 1e300, math.inf]


def drawn() -> tuple[int, int]:
    """The seed, and how many points for a function."""
    seed, _, count = os.environ.get("TINYNN_POINTS", "0:240").rpartition(":")
    return int(seed or 0), int(count)


def points(draw: np.random.Generator, count: int, dtype: str) -> Any:
    """Of all bit patterns, of ranges that are used, and near corners."""
    whole = np.uint32 if dtype == "float32" else np.uint64
    top = np.iinfo(whole).max
    parts = [draw.integers(0, top, count, dtype=whole, endpoint=True).view(dtype)]
    parts += [draw.uniform(-s, s, count // 4) for s in (1e-3, 0.1, 1, 3, 12, 800)]
    near = draw.choice(CORNERS, count // 2) * draw.choice([-1, 1], count // 2)
    parts += [near * (1 + draw.normal(size=count // 2) * 10.0 ** draw.uniform(-8, -1, count // 2))]
    with np.errstate(over="ignore"):
        return draw.permutation(np.concatenate([part.astype(dtype) for part in parts]))


@cache
def kernel(dtype: str) -> Any:
    """All functions at once, since compiling takes its time."""
    source = kernels.of_many(dtype, {name: 1 + (name in TWO) for name in NAMES})
    return llvm.build(source, [dtype] * (1 + 3 * len(NAMES)))


def computed(dtype: str, x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    """All functions' results; every function gets as many arguments."""
    (count,) = {len(each) for each in x.values()}
    out = {name: np.empty(count, dtype) for name in NAMES}
    kernel(dtype)(count, 1, np.empty(1, dtype), *[a for n in NAMES for a in (x[n], y[n], out[n])])
    return out


def error(got: Any, args: tuple[Any, ...], exact: Callable[..., Any]) -> float:
    """In units in the last place."""
    value = exact(*[mpmath.mpf(float(a)) for a in args])
    if isinstance(value, mpmath.mpc):
        return 0.0 if np.isnan(got) else math.inf
    limits = np.finfo(got.dtype)
    if abs(value) > mpmath.mpf(float(limits.max)) * (1 + mpmath.mpf(2) ** -limits.nmant):
        return 0.0 if got == math.copysign(math.inf, value) else math.inf
    if not np.isfinite(got):  # within a unit of the largest number
        return 0.0 if abs(value) > mpmath.mpf(float(np.nextafter(limits.max, 0))) else math.inf
    _, exponent = mpmath.frexp(value)
    unit = max(int(exponent) - limits.nmant - 1, limits.minexp - limits.nmant)
    return float(abs(mpmath.mpf(float(got)) - value) / mpmath.mpf(2) ** unit)


def of_pow(draw: np.random.Generator, x: Any, y: Any) -> tuple[Any, Any]:
    """Positive bases mostly, with exponents whose results are in range."""
    base = np.where(np.arange(len(x)) % 8 == 0, x, np.abs(x))
    with np.errstate(all="ignore"):
        reach = draw.uniform(-1, 1, len(x)) * (100 if x.dtype == np.float32 else 740)
        fitting = (reach / np.log(np.abs(base).astype("float64"))).astype(x.dtype)
    y = np.where(np.isfinite(fitting), fitting, y)
    return base, np.where(base < 0, np.rint(y), y).astype(x.dtype)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of arguments out of bounds
@pytest.mark.parametrize("dtype", DTYPES)
def test_errors(dtype: str) -> None:
    seed, count = drawn()
    draw = np.random.default_rng(seed)
    x = {name: points(draw, count, dtype) for name in NAMES}
    y = {name: points(draw, count, dtype) for name in NAMES}
    for name in ("acos", "asin", "atanh"):
        x[name] = np.where(np.abs(x[name]) > 1, 1 / x[name], x[name])
    for name in ("log", "log2", "log10", "acosh"):
        x[name] = np.abs(x[name])
    x["acosh"] = np.where(x["acosh"] < 1, 1 + x["acosh"], x["acosh"])
    x["pow"], y["pow"] = of_pow(draw, x["pow"], y["pow"])
    y["logaddexp"] = np.where(np.arange(len(y["pow"])) % 2 == 0, 0, y["logaddexp"]).astype(dtype)
    out = computed(dtype, x, y)
    worst = {}
    with mpmath.workprec(1200 if dtype == "float64" else 240):  # sines of huge angles need it
        for name, exact in (ONE | TWO).items():
            given = zip(x[name], y[name], strict=True) if name in TWO else zip(x[name])
            cases = [
                (args, got)
                for args, got in zip(given, out[name], strict=True)
                if all(map(np.isfinite, args)) and defined(name, *args)
            ]
            assert len(cases) > len(x[name]) // 4, name
            worst[name] = max((error(got, args, exact), *map(float, args)) for args, got in cases)
    assert {name: case for name, case in worst.items() if case[0] > ULPS} == {}


def defined(name: str, x: Any, y: Any = 0.0) -> bool:
    """Whether mpmath has a number there that is to be compared."""
    if name == "logaddexp":  # between, its two parts cancel, and the error is one of the larger
        return not -1.4 < max(x, y) < 0
    if name == "atan2":  # mpmath has no -0
        return bool(x != 0)
    if name == "pow":
        return bool(x > 0 or (x < 0 and y == np.rint(y) and abs(y) < 1e6)) and abs(y) < 1e9
    low = {"log": 0, "log2": 0, "log10": 0, "log1p": -1, "acosh": 1, "atanh": -1}.get(name)
    if low is not None and (x < low or (x == low and name != "acosh")):
        return False
    if name in ("acos", "asin"):
        return bool(abs(x) <= 1)
    if name in ("exp", "expm1", "sinh", "cosh") and abs(x) > 1e4:
        return False
    return name != "atanh" or bool(x < 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype: str) -> None:
    limits = np.finfo(dtype)
    values = [*SPECIAL, float(limits.tiny), float(limits.smallest_subnormal), float(limits.max)]
    with np.errstate(over="ignore"):
        every = np.asarray([*values, *[-v for v in values], math.nan]).astype(dtype)
    pairs = np.asarray(list(itertools.product(every, every)))
    x, y = (np.ascontiguousarray(pairs[:, i]) for i in range(2))
    out = computed(dtype, dict.fromkeys(NAMES, x), dict.fromkeys(NAMES, y))
    numpys = {"acos": "arccos", "asin": "arcsin", "atan": "arctan", "atan2": "arctan2"}
    numpys |= {"acosh": "arccosh", "asinh": "arcsinh", "atanh": "arctanh", "pow": "power"}
    with np.errstate(all="ignore"):
        for name in set(NAMES) - {"erf"}:
            wanted = getattr(np, numpys.get(name, name))(*((x, y) if name in TWO else (x,)))
            unusual = ~np.isfinite(wanted) | (wanted == 0)
            np.testing.assert_array_equal(out[name][unusual], wanted[unusual], name)
            zero = wanted == 0
            signs = np.signbit(out[name][zero]), np.signbit(wanted[zero])
            np.testing.assert_array_equal(*signs, name)
            assert np.isfinite(out[name][~unusual]).all(), name
    wanted = np.sign(x)
    far = (np.abs(x) > 6) | np.isnan(x) | (x == 0)
    np.testing.assert_array_equal(out["erf"][far], wanted[far])
    np.testing.assert_array_equal(np.signbit(out["erf"]), np.signbit(x) & ~np.isnan(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounded_functions_stay_in_their_bounds(dtype: str) -> None:
    draw = np.random.default_rng(3)
    x = np.concatenate([draw.uniform(-25, 25, 20000), draw.normal(size=20000)]).astype(dtype)
    out = computed(dtype, dict.fromkeys(NAMES, x), dict.fromkeys(NAMES, x))
    for name in ("tanh", "erf", "sin", "cos"):
        assert np.abs(out[name]).max() <= 1, name
    for name in ("exp", "cosh", "logaddexp"):
        assert (out[name][x > -25] > (0 if name != "cosh" else 0.999)).sum() > 0, name
    order = np.sort(x)
    out = computed(dtype, dict.fromkeys(NAMES, order), dict.fromkeys(NAMES, order * 0))
    for name in ("tanh", "erf", "expm1", "logaddexp"):  # nowhere down by more than they may err
        drop = np.diff(out[name]) / np.spacing(np.abs(out[name][1:]))
        assert drop.min() >= -2 * ULPS, name


def power_of(exponent: float, dtype: str) -> str:
    def value(x: Expression) -> Expression:
        return kernels.called("pow", x, Constant(exponent, dtype))

    return kernels.source([dtype, dtype], value)


@pytest.mark.parametrize("value", [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0])
def test_powers_that_are_known_are_products_and_roots(value: float) -> None:
    source = power_of(value, "float64")
    _, called, _ = llvm._compiled(source).split(b"\n", 2)
    assert called == b""  # what is left of the general case would call the C library
    x = np.abs(np.random.default_rng(0).normal(size=100)) + 0.1
    out = np.empty_like(x)
    llvm.build(source, ["float64", "float64"])(100, 1, out, x)
    forms = {-0.5: 1 / np.sqrt(x), 0.5: np.sqrt(x), 2.0: x * x, 3.0: x * x * x, -2.0: 1 / (x * x)}
    forms |= {-1.0: 1 / x, 0.0: x**0, 1.0: x, 4.0: (x * x) * (x * x)}
    np.testing.assert_array_equal(out, forms[value])


WHOLE = {
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "bitwise_left_shift": np.left_shift,
    "bitwise_right_shift": np.right_shift,
    "pow": np.power,
}


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint64"])
@pytest.mark.parametrize("name", WHOLE)
def test_functions_of_integers(name: str, dtype: str) -> None:
    """NumPy's, where quotients by 0 are 0 and results wrap around."""
    limits = np.iinfo(dtype)
    values = [*range(-7 if limits.min else 0, 8), 31, 63, 64, limits.min, limits.max]
    x, y = map(np.ravel, np.meshgrid(np.asarray(values, dtype), np.asarray(values, dtype)))
    if name == "pow":
        x, y = x[(y >= 0) & (y < 9)], y[(y >= 0) & (y < 9)]
    elif "shift" in name:
        x, y = x[(y >= 0) & (y < 64)], y[(y >= 0) & (y < 64)]
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    out = np.empty_like(x)
    kernels.built([dtype] * 3, lambda x, y: kernels.called(name, x, y))(len(x), 1, out, x, y)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out, WHOLE[name](x, y))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["floor_divide", "remainder"])
def test_quotients_rounded_down(name: str, dtype: str) -> None:
    draw = np.random.default_rng(0).uniform(-9, 9, 40).round(1)
    values = np.asarray([*draw, 0.0, -0.0, 1.0, -1.0, 0.1, math.inf, -math.inf, math.nan], dtype)
    x, y = (np.ascontiguousarray(a.ravel()) for a in np.meshgrid(values, values))
    out = np.empty_like(x)
    kernels.built([dtype] * 3, lambda x, y: kernels.called(name, x, y))(len(x), 1, out, x, y)
    with np.errstate(all="ignore"):
        wanted = WHOLE[name](x, y)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(np.signbit(out[wanted == 0]), np.signbit(wanted[wanted == 0]))


def test_a_kernel_gets_the_functions_that_it_calls() -> None:
    declared = {"tanh_float32": 1, "pow_int64": 2, "fmod_float32": 2, "llvm.fabs.f64": 1}
    text = llvm_functions.library(declared)
    heads = [line for line in text.splitlines() if line.startswith("define")]
    assert [line.split("@")[1].split("(")[0].strip('"') for line in heads] == [
        "tanh_float32",
        "pow_int64",
        "fmod_float32",
    ]
    assert 'call float @"fmodf"(float %".1", float %".2")' in text


def test_without_fused_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvm_arithmetic, "_has_fma", lambda: False)

    def value(x: Expression) -> Expression:
        return kernels.called("add", kernels.called("tan", x), kernels.called("sin", x))

    code = llvm._compiled(kernels.source(["float64", "float64"], value))
    x = np.random.default_rng(0).uniform(-1000, 1000, 1000)
    out = np.empty_like(x)
    llvm._Kernel(code, ["float64", "float64"])(1000, 1, out, x)
    np.testing.assert_allclose(out, np.tan(x) + np.sin(x), rtol=1e-15, atol=1e-15)
