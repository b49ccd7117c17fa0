"""Every rule: against central differences, to second order, forward, batched, and against JAX.

Complex arrays are pairs of reals here: <a, b> is Re sum(a * b), without conjugation, as in JAX.
"""

from operator import attrgetter
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_array, assert_close
from tests.rule_cases import CASES
from tests.rule_rows import Case
from tinynn import tree
from tinynn.rules import RULES
from tinynn.trace import Function, Namespace
from tinynn.trace.standard import FUNCTIONS

STEP = 1e-5
KINDS = {"real": ("real",), "complex": ("complex",), "both": ("real", "complex")}
DTYPES = {"real": ("float32", "float64"), "complex": ("complex64", "complex128")}
INTEGERS = """all any argmax argmin argsort bitwise_and bitwise_invert bitwise_left_shift bitwise_or
    bitwise_right_shift bitwise_xor count_nonzero equal greater greater_equal isfinite isin isinf
    isnan less less_equal linalg.matrix_rank logical_and logical_not logical_or logical_xor nonzero
    not_equal searchsorted signbit""".split()

Host = np.ndarray


def rows(keep: Any = lambda case: True) -> list[Any]:
    return [
        pytest.param(key, case, kind, id=f"{getattr(key, 'name', key)}-{i}-{kind}")
        for key, cases in CASES.items()
        for i, case in enumerate(cases)
        if keep(case)
        for kind in KINDS[case.numbers]
    ]


every_row = pytest.mark.parametrize(("key", "case", "kind"), rows())
smooth_row = pytest.mark.parametrize(("key", "case", "kind"), rows(lambda case: case.smooth))


def test_no_rule_lacks_a_row() -> None:
    assert set(RULES) == set(CASES)


def test_every_function_of_the_standard_has_a_rule_or_integer_results() -> None:
    assert set(FUNCTIONS) - set(RULES) == set(INTEGERS)


def draw(rng: np.random.Generator, shape: Any, kind: str, low: float, high: float) -> Host:
    real = np.asarray(rng.uniform(low, high, shape))
    return real if kind == "real" else real + 1j * rng.uniform(low, high, shape)


def arguments(case: Case, kind: str, seed: int) -> list[Host]:
    rng = np.random.default_rng(seed)
    pairs = zip(case.shapes, case.domains, strict=True)
    return [draw(rng, shape, kind, *domain) for shape, domain in pairs]


def beside(values: Any, backend: backends.Backend, seed: int) -> list[Host]:
    """Numbers for a direction or a cotangent of each of these arrays, on the host."""
    rng, reals = np.random.default_rng(seed), DTYPES["real"]
    kinds = [
        "real" if backend.dtype_name(leaf.dtype) in reals else "complex"
        for leaf in tree.leaves(values)
    ]
    shapes = [tuple(leaf.shape) for leaf in tree.leaves(values)]
    return [draw(rng, shape, kind, -1, 1) for shape, kind in zip(shapes, kinds, strict=True)]


def placed(hosts: list[Host], like: Any, backend: backends.Backend) -> Any:
    """A tree like `like` of these numbers, each with the dtype of its leaf."""
    leaves, structure = tree.flatten(like)
    pairs = zip(hosts, leaves, strict=True)
    return structure.unflatten([backend.asarray(host, dtype=leaf.dtype) for host, leaf in pairs])


def inner(a: list[Host], b: list[Host]) -> float:
    return float(sum(np.sum((x * y).real) for x, y in zip(a, b, strict=True)))


def hosts_of(values: Any, backend: backends.Backend) -> list[Host]:
    return [backend.to_host(leaf) for leaf in tree.leaves(values)]


class Call:
    """A case on a backend: its function, of plain arrays, and its arguments."""

    def __init__(
        self,
        key: Any,
        case: Case,
        kind: str,
        backend: backends.Backend,
        seed: int,
        wide: bool = True,
    ) -> None:
        require(key, backend)
        space = Namespace(backend.xp)
        self.backend, self.dtype = backend, backend.dtypes()[DTYPES[kind][wide]]
        self.f = lambda *arrays: case.f(space, *arrays)
        self.hosts = arguments(case, kind, seed)
        self.args = [backend.asarray(host, dtype=self.dtype) for host in self.hosts]


def require(key: Any, backend: backends.Backend) -> None:
    """Skip where this backend, set up as it is, lacks the function."""
    if isinstance(key, Function):
        return
    try:
        attrgetter(key)(backend.xp)
    except (AttributeError, RuntimeError) as error:
        pytest.skip(f"{backend!r} has no {key}: {error}")


def check_direction(call: Call, f: Any) -> None:
    """`vjp` and `jvp` of `f` in one random direction: against differences, and each other."""
    backend = call.backend
    out, pullback = tinynn.vjp(f, *call.args)
    weights, direction = beside(out, backend, 7), beside(call.args, backend, 8)
    gradients = pullback(placed(weights, out, backend))
    for gradient, host in zip(gradients, call.hosts, strict=True):
        assert_array(gradient, backend, dtype=call.dtype, shape=host.shape)

    def moved(step: float) -> list[Host]:
        ahead = [host + step * d for host, d in zip(call.hosts, direction, strict=True)]
        return hosts_of(f(*placed(ahead, call.args, backend)), backend)

    difference = (inner(weights, moved(STEP)) - inner(weights, moved(-STEP))) / (2 * STEP)
    backward = inner(hosts_of(gradients, backend), direction)
    bound = 1e-7 * max(1.0, abs(difference))
    assert abs(backward - difference) < bound, f"rule: {backward}, differences: {difference}"
    _, tangent = tinynn.jvp(f, tuple(call.args), tuple(placed(direction, call.args, backend)))
    forward = inner(weights, hosts_of(tangent, backend))
    bound = 1e-11 * max(1.0, abs(backward))
    assert abs(forward - backward) < bound, f"forward: {forward}, backward: {backward}"


@smooth_row
def test_rule_agrees_with_central_differences(
    key: Any, case: Case, kind: str, backend: backends.Backend, float64: Any
) -> None:
    call = Call(key, case, kind, backend, seed=3)
    check_direction(call, call.f)


@smooth_row
def test_rule_agrees_with_central_differences_to_second_order(
    key: Any, case: Case, kind: str, backend: backends.Backend, float64: Any
) -> None:
    call = Call(key, case, kind, backend, seed=4)
    out = call.f(*call.args)
    g = placed(beside(out, backend, 5), out, backend)
    check_direction(call, lambda *arrays: tinynn.vjp(call.f, *arrays)[1](g))


@every_row
def test_rule_in_single_precision_agrees_with_double(
    key: Any, case: Case, kind: str, backend: backends.Backend
) -> None:
    """On every device, also those without float64; the reference is checked above."""
    numpy = backends.get("numpy")

    def gradients(on: backends.Backend, wide: bool) -> Any:
        call = Call(key, case, kind, on, seed=3, wide=wide)
        out, pullback = tinynn.vjp(call.f, *call.args)
        return pullback(placed(beside(out, on, 5), out, on))

    expected = hosts_of(gradients(numpy, wide=True), numpy)
    scale = max([1.0, *[float(np.max(np.abs(e), initial=0.0)) for e in expected]])
    for found, wanted in zip(gradients(backend, wide=False), expected, strict=True):
        name = DTYPES[kind][0]
        assert_close(found, wanted, backend, dtype=name, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(("key", "case", "kind"), rows(lambda case: case.batch))
def test_batched_agrees_with_a_loop(
    key: Any, case: Case, kind: str, backend: backends.Backend
) -> None:
    """The function, and its rule: gradients of a batch."""
    entries = [Call(key, case, kind, backend, seed=seed, wide=False) for seed in (3, 4)]
    xp, f = backend.xp, entries[0].f
    batch = [xp.stack(pair) for pair in zip(*[entry.args for entry in entries], strict=True)]
    out = f(*entries[0].args)
    g = placed(beside(out, backend, 5), out, backend)

    def both(*arrays: Any) -> Any:
        out, pullback = tinynn.vjp(f, *arrays)
        return tree.leaves(out) + tree.leaves(pullback(g))

    looped = [both(*entry.args) for entry in entries]
    for found, *alone in zip(tinynn.vmap(both)(*batch), *looped, strict=True):
        expected = np.stack([backend.to_host(one) for one in alone])
        assert_close(found, expected, backend, rtol=1e-4, atol=1e-5)


@pytest.mark.only("jax-x64")
@pytest.mark.parametrize(("key", "case", "kind"), rows(lambda case: not case.jax))
def test_rule_agrees_with_jax(key: Any, case: Case, kind: str, backend: backends.Backend) -> None:
    """JAX's own derivative of the very same function."""
    import jax

    call = Call(key, case, kind, backend, seed=3)
    out, pullback = tinynn.vjp(call.f, *call.args)
    g = placed(beside(out, backend, 5), out, backend)
    theirs = jax.vjp(lambda *arrays: case.f(jax.numpy, *arrays), *call.args)[1](g)
    for found, expected in zip(pullback(g), theirs, strict=True):
        assert_close(found, backend.to_host(expected), backend, dtype=call.dtype, rtol=1e-9)
