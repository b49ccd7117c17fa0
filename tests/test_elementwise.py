"""An elementwise function is one row: every transformation, engine and target knows it then.

A user's is declared by `custom_elementwise`, one that tinynn brings by `rules.special.elementwise`
or, where the standard has it, by a row of `rules.elementwise`.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend
from tests.checks import assert_close
from tests.engines import Interpreted, InterpretedSerially
from tinynn.compiler.loops import Loops
from tinynn.layers import Linear, Sequential
from tinynn.rules import RULES, special
from tinynn.trace import namespace

NUMPY = backends.get("numpy")


@tinynn.custom_elementwise(lambda g, y, x: g / (1 + abs(x)) ** 2)
def softsign2(x: Any) -> Any:
    """x / (1 + |x|)."""
    return x / (1 + abs(x))


@tinynn.custom_elementwise(lambda g, y, x: g / (3 * y * y), c="cbrt")
def cube_root(x: Any) -> Any:
    """The number whose third power is x."""
    xp = namespace(x)
    return xp.sign(x) * xp.abs(x) ** (1 / 3)


@tinynn.custom_elementwise(
    lambda g, y, x, z: g * y * (x - z) * -2, lambda g, y, x, z: g * y * (x - z) * 2
)
def bell(x: Any, z: Any) -> Any:
    """exp(-(x - z)^2)."""
    return namespace(x, z).exp(-((x - z) ** 2))


@special.elementwise(lambda xp, g, y, x: g * -1.1283791670955126 * xp.exp(-(x * x)), c="erfc")
def erfc(xp: Any, x: Any) -> Any:
    """1 - erf(x)."""
    return 1 - special.erf(x)


@special.elementwise(lambda xp, g, y, x: g * (-2 * x * y))
def bump(xp: Any, x: Any) -> Any:
    """exp(-x^2)."""
    return xp.exp(-xp.square(x))


ADDED = {f: RULES.pop(f) for f in (erfc, bump)}  # while these tests run, and no longer


@pytest.fixture(scope="module", autouse=True)
def added() -> Iterator[None]:
    RULES.update(ADDED)
    yield
    for f in ADDED:
        del RULES[f]


def signs(x: Any) -> Any:
    """Of the standard, and of no machine: its row says what it is made of."""
    xp = namespace(x)
    return xp.astype(xp.signbit(x), x.dtype) + 0.5 * x


VALUES = np.asarray([[-2.5, -1.0, -0.3], [0.2, 1.0, 4.0]])
OTHERS = np.asarray([0.4, -0.9, 3.0])
CASES: dict[str, tuple[Any, Any, tuple[Any, ...]]] = {
    "softsign2": (softsign2, lambda x: x / (1 + np.abs(x)), (VALUES,)),
    "cube_root": (cube_root, np.cbrt, (VALUES,)),
    "bell": (bell, lambda x, z: np.exp(-((x - z) ** 2)), (VALUES, OTHERS)),
    "erfc": (erfc, np.vectorize(math.erfc), (VALUES,)),
    "bump": (bump, lambda x: np.exp(-(x**2)), (VALUES,)),
    "signbit": (signs, lambda x: np.signbit(x) + 0.5 * x, (VALUES,)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Any, Any, tuple[Any, ...]]:
    return CASES[request.param]


def slopes(exact: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
    """Central differences of the sum, by each argument."""
    found = []
    for place, a in enumerate(args):
        out = np.zeros_like(a)
        for i in np.ndindex(a.shape):
            ends = []
            for h in (1e-6, -1e-6):
                moved = [each.copy() for each in args]
                moved[place][i] += h
                ends.append(exact(*moved).sum())
            out[i] = (ends[0] - ends[1]) / 2e-6
        found.append(out)
    return found


def total(f: Any) -> Callable[..., Any]:
    return lambda *args: namespace(*args).sum(f(*args))


def test_it_is_differentiated_and_batched(backend: Backend, float64: Any, case: Any) -> None:
    f, exact, given = case
    args = [backend.asarray(a, dtype=float64) for a in given]
    assert_close(f(*args), exact(*given), backend, dtype=float64)
    every = tuple(range(len(args)))
    wanted = slopes(exact, given)
    for found, want in zip(tinynn.grad(total(f), every)(*args), wanted, strict=True):
        assert_close(found, want, backend, dtype=float64, rtol=1e-6)
    _, tangent = tinynn.jvp(total(f), tuple(args), tuple(args))
    change = sum((a * w).sum() for a, w in zip(given, wanted, strict=True))
    np.testing.assert_allclose(backend.to_host(tangent), change, rtol=1e-6)
    rows = tinynn.vmap(f, in_axes=(1, *[0] * (len(args) - 1)))(*args)
    columns = [exact(given[0][:, i], *[a[i] for a in given[1:]]) for i in range(3)]
    assert_close(rows, np.stack(columns), backend, dtype=float64)


def test_programs_of_calls(backend: Backend, float64: Any, case: Any) -> None:
    f, exact, given = case
    args = [backend.asarray(a, dtype=float64) for a in given]
    program = tinynn.compile(tinynn.value_and_grad(total(f), tuple(range(len(args)))))
    for _ in range(2):
        value, found = program(*args)
        np.testing.assert_allclose(backend.to_host(value), exact(*given).sum(), rtol=1e-12)
        for each, want in zip(found, slopes(exact, given), strict=True):
            assert_close(each, want, backend, dtype=float64, rtol=1e-6)


def test_the_form_into_a_buffer_follows() -> None:
    """By the name where NumPy has a ufunc of it, else by the calls that the function makes."""
    x = NUMPY.asarray(VALUES)
    program = tinynn.compile(lambda x: namespace(x).sum(cube_root(x) * 2))
    program(x)
    assert "cbrt(x, t0)" in program.source
    program = tinynn.compile(lambda x: namespace(x).sum(softsign2(x) * 2))
    program(x)
    assert [name for name in ("absolute(", "abs(", "divide(") if name in program.source][1:]
    assert "softsign2" not in program.source
    program = tinynn.compile(lambda x: namespace(x).sum(erfc(x) * bump(x)))
    program(x)
    assert all(f"{name}(" in program.source for name in ("erf", "exp"))
    assert not any(name in program.source for name in ("erfc", "bump"))


@pytest.mark.only("numpy", "cupy")
@pytest.mark.usefixtures("compiler_of_loops")
def test_loops(backend: Backend, case: Any) -> None:
    """Machine code, CUDA C, and what the interpreter of their language does."""
    f, exact, given = case
    args = [backend.asarray(a) for a in given]

    def step(out: Any, *args: Any) -> Any:
        return f(*args), namespace(*args).sum(f(*args))

    with backend.scope():
        wanted = backend.asarray(exact(*given))
        graph = tinynn.record(step, wanted, *args)
    host = isinstance(backend, type(NUMPY))
    for kind in (Loops, Interpreted, InterpretedSerially) if host else (Loops,):
        loops = kind(graph, 1, backend, [])
        loops.load([0 * wanted])
        loops.run(loops.steps(1, args))
        found = backend.to_host(loops.values()[0])
        np.testing.assert_allclose(found, exact(*given), rtol=1e-14)


@pytest.mark.only("numpy", "cupy")
@pytest.mark.reads_scalars
@pytest.mark.usefixtures("compiler_of_loops")
@pytest.mark.parametrize("f", [softsign2, cube_root], ids=["softsign2", "cube_root"])
def test_a_network_with_it_is_trained_by_every_engine(backend: Backend, f: Any) -> None:
    draw = np.random.default_rng(0)
    x, y = backend.asarray(draw.normal(size=(20, 3))), backend.asarray(draw.normal(size=(20, 1)))
    net = Sequential(Linear(4), f, Linear(1))
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 10, "seed": 1, "progress": False}
    eager = tinynn.fit(net, x, y, engine="eager", **settings)
    for engine in ("calls", "loops"):
        other = tinynn.fit(net, x, y, engine=engine, **settings)
        np.testing.assert_allclose(other.history["loss"], eager.history["loss"], rtol=1e-5)


def test_what_is_no_declaration() -> None:
    with pytest.raises(ValueError, match=r"c: expected one of acos, .* got 'round'. To fix it"):
        tinynn.custom_elementwise(lambda g, y, x: g, c="round")
    for partials, c in (((), ""), ((lambda g, y, x, z: g,) * 2, "")):
        with pytest.raises(TypeError, match="expected a partial derivative for each of 1 argum"):
            tinynn.custom_elementwise(*partials, c=c)(lambda x: x)
    with pytest.raises(TypeError, match="for each of 2 arguments, got 1 for 1"):
        tinynn.custom_elementwise(lambda g, y, x: g, c="fmod")(lambda x: x)
