"""Every rule against central differences, to second order, on every backend."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_array, assert_close
from tests.rule_cases import CASES, Case
from tinynn.rules import RULES
from tinynn.trace import Function, Namespace, plain

STEP = 1e-5
ROWS = [
    pytest.param(case, id=f"{key.name if isinstance(key, Function) else key}-{i}")
    for key, cases in CASES.items()
    for i, case in enumerate(cases)
]

SMOOTH = [row for row in ROWS if row.values[0].smooth]
CONSTANT = [row for row in ROWS if not row.values[0].smooth]


def test_no_rule_lacks_a_row() -> None:
    assert set(RULES) == set(CASES)


def draw(case: Case, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    pairs = zip(case.shapes, case.domains, strict=True)
    return [np.asarray(rng.uniform(low, high, shape)) for shape, (low, high) in pairs]


def called_on(case: Case, backend: backends.Backend) -> Any:
    space = Namespace(backend.xp)
    return lambda *arrays: case.f(space, *arrays)


def inner(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return float(sum(np.sum(x * y) for x, y in zip(a, b, strict=True)))


def check_direction(f: Any, backend: backends.Backend, hosts: list[Any], dtype: Any) -> Any:
    """`vjp` of `f` in one random direction against central differences; its pullback."""
    rng = np.random.default_rng(7)
    place = lambda hosts: [backend.asarray(host, dtype=dtype) for host in hosts]  # noqa: E731
    out, pullback = tinynn.vjp(f, *place(hosts))
    outs = list(out) if isinstance(out, tuple) else [out]
    weights = [rng.normal(size=tuple(y.shape)) for y in outs]
    gs = place(weights)
    gradients = pullback(tuple(gs) if isinstance(out, tuple) else gs[0])
    for gradient, host in zip(gradients, hosts, strict=True):
        assert_array(gradient, backend, dtype=dtype, shape=host.shape)
    direction = [rng.normal(size=host.shape) for host in hosts]

    def moved(step: float) -> float:
        ys = f(*place([host + step * d for host, d in zip(hosts, direction, strict=True)]))
        ys = list(ys) if isinstance(ys, tuple) else [ys]
        return inner(weights, [backend.to_host(plain(y)) for y in ys])

    slope = (moved(STEP) - moved(-STEP)) / (2 * STEP)
    found = inner([backend.to_host(g) for g in gradients], direction)
    scale = max(1.0, abs(slope))
    assert abs(found - slope) < 1e-7 * scale, f"rule gives {found}, differences give {slope}"


@pytest.mark.parametrize("case", SMOOTH)
def test_rule_agrees_with_central_differences(
    case: Case, backend: backends.Backend, float64: Any
) -> None:
    f, hosts = called_on(case, backend), draw(case, seed=3)
    check_direction(f, backend, hosts, float64)


@pytest.mark.parametrize("case", SMOOTH)
def test_rule_agrees_with_central_differences_to_second_order(
    case: Case, backend: backends.Backend, float64: Any
) -> None:
    f, hosts = called_on(case, backend), draw(case, seed=4)
    out = f(*[backend.asarray(host, dtype=float64) for host in hosts])
    g = backend.asarray(np.random.default_rng(5).normal(size=tuple(out.shape)), dtype=float64)

    def gradient(*arrays: Any) -> Any:
        return tinynn.vjp(f, *arrays)[1](g)

    check_direction(gradient, backend, hosts, float64)


@pytest.mark.parametrize("case", ROWS)
def test_rule_in_float32_agrees_with_float64(case: Case, backend: backends.Backend) -> None:
    """On every device, also those without float64; the reference is checked above."""
    hosts, numpy = draw(case, seed=3), backends.get("numpy")

    def gradients(on: backends.Backend, name: str) -> Any:
        arrays = [on.asarray(host, dtype=on.dtypes()[name]) for host in hosts]
        out, pullback = tinynn.vjp(called_on(case, on), *arrays)
        g = np.random.default_rng(5).normal(size=tuple(out.shape))
        return pullback(on.asarray(g, dtype=on.dtypes()[name]))

    expected = [numpy.to_host(g) for g in gradients(numpy, "float64")]
    scale = max([1.0, *[float(np.max(np.abs(e), initial=0.0)) for e in expected]])
    for found, wanted in zip(gradients(backend, "float32"), expected, strict=True):
        assert_close(found, wanted, backend, dtype="float32", rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("case", CONSTANT)
def test_where_nothing_changes_the_gradient_is_zero(case: Case, backend: backends.Backend) -> None:
    arrays = [backend.asarray(host, dtype=backend.dtypes()["float32"]) for host in draw(case, 3)]
    out, pullback = tinynn.vjp(called_on(case, backend), *arrays)
    for gradient, array in zip(pullback(out), arrays, strict=True):
        assert_close(gradient, np.zeros(array.shape), backend, dtype="float32", atol=0.0)
