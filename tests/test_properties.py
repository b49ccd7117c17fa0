"""What is true of every derivative, of calls that Hypothesis draws: awkward shapes first of all.

Reverse is forward transposed, forward is what differences say, gradients are like their inputs,
and a batch is its entries.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import backends
import tinynn
from tests.checks import assert_array
from tests.drawn_calls import CALLS, Call
from tests.rule_rows import missing
from tinynn import tree
from tinynn.trace import Namespace, plain

# How many calls of each function are drawn; JAX compiles each of them.
EXAMPLES = {"numpy": 30, "array_api_strict": 10, "torch": 12, "jax": 3, "dpnp": 4}
STEP = 1e-5
BATCHES = st.tuples(
    st.integers(0, 3),  # how many entries
    st.lists(st.none() | st.integers(-5, 4), min_size=3, max_size=3),  # along which axes
)


def tries(backend: backends.Backend) -> Callable[..., Any]:
    return settings(max_examples=EXAMPLES.get(backend.name, 8))


def can(backend: backends.Backend, call: Call) -> bool:
    """Whether the library has this much of the standard."""
    if backend.name == "jax":  # it compiles nothing whose size depends on values
        return not (call.name == "repeat" and isinstance(call.after[0], np.ndarray))
    if backend.name == "torch" and call.name == "getitem":
        return all(not isinstance(key, slice) or (key.step or 1) > 0 for key in call.after[0])
    ones = [backend.asarray(np.ones(shape)) for shape in call.shapes]
    return not missing(lambda: call(backend.xp, backend.asarray, *ones), backend)


def batch_axes(call: Call, drawn: list[int | None]) -> tuple[int | None, ...]:
    """One for each array: valid in it once it has one more; one of them at least is batched."""
    pairs = zip(drawn, call.shapes, strict=False)
    axes = [
        axis if axis is None or -len(shape) - 1 <= axis <= len(shape) else 0
        for axis, shape in pairs
    ]
    return tuple(axes) if any(axis is not None for axis in axes) else (0, *axes[1:])


class Numbers:
    """What a call is given, on the host: where, in which direction, and a batch of others."""

    def __init__(self, call: Call, size: int, axes: tuple[int | None, ...]) -> None:
        self.rng = np.random.default_rng(5)
        pairs = list(zip(call.shapes, call.domains, strict=False))
        self.points = [self.rng.uniform(*domain, shape) for shape, domain in pairs]
        self.directions = [self.rng.uniform(-1, 1, shape) for shape in call.shapes]
        self.entries = [
            [
                point if axis is None else self.rng.uniform(*domain, shape)
                for point, axis, (shape, domain) in zip(self.points, axes, pairs, strict=True)
            ]
            for _ in range(size)
        ]

    def weights(self, out: Any) -> list[np.ndarray]:
        """A cotangent of each array of a result; the same whenever it is asked for."""
        rng = np.random.default_rng(6)
        return [rng.uniform(-1, 1, tuple(leaf.shape)) for leaf in tree.leaves(out)]

    def batches(self, axes: tuple[int | None, ...]) -> list[np.ndarray]:
        """The entries, stacked along the axis of each argument."""
        out = []
        for i, (point, axis) in enumerate(zip(self.points, axes, strict=True)):
            rows = np.stack([point, *[entry[i] for entry in self.entries]])[1:]
            out.append(point if axis is None else np.moveaxis(rows, 0, axis))
        return out


def answers(
    call: Call, backend: backends.Backend, numbers: Numbers, axes: tuple[int | None, ...]
) -> dict[str, Any]:
    """Everything that is compared: one program, where a library compiles."""
    space = Namespace(backend.xp)
    place = backend.asarray

    def f(*arrays: Any) -> tuple[Any, ...]:
        return tuple(map(plain, tree.leaves(call(space, place, *arrays))))

    def with_gradients(*arrays: Any) -> tuple[Any, ...]:
        out, pullback = tinynn.vjp(f, *arrays)
        return *out, *pullback(tuple(map(place, numbers.weights(out))))

    def run(points: Any, directions: Any, batches: Any, entries: Any) -> dict[str, Any]:
        out, tangents = tinynn.jvp(f, tuple(points), tuple(directions))
        ahead, behind = [
            f(*[x + step * d for x, d in zip(points, directions, strict=True)])
            for step in (STEP, -STEP)
        ]
        return {
            "found": with_gradients(*points),
            "out": out,
            "tangents": tangents,
            "ahead": ahead,
            "behind": behind,
            "batch": tinynn.vmap(with_gradients, axes)(*batches),
            "entries": [with_gradients(*entry) for entry in entries],
        }

    arrays = [
        tree.map(place, part)
        for part in (numbers.points, numbers.directions, numbers.batches(axes), numbers.entries)
    ]
    if backend.name == "jax":
        import jax

        return jax.jit(run)(*arrays)
    return run(*arrays)


def inner(a: list[Any], b: list[Any]) -> float:
    return float(sum(np.sum(x * y) for x, y in zip(a, b, strict=True)))


def assert_derivatives(call: Call, found: dict[str, Any], numbers: Numbers, host: Any) -> None:
    """Reverse is forward transposed; forward is what differences say."""
    hosts = {name: list(map(host, found[name])) for name in ("out", "tangents", "ahead", "behind")}
    count, weights = len(hosts["out"]), numbers.weights(found["out"])
    forward = inner(weights, hosts["tangents"])
    backward = inner(list(map(host, found["found"][count:])), numbers.directions)
    scale = 1.0 + sum(float(np.sum(np.abs(t))) for t in hosts["tangents"])
    np.testing.assert_allclose(backward, forward, rtol=0, atol=1e-12 * scale)
    around = zip(hosts["ahead"], hosts["behind"], hosts["tangents"], strict=True)
    for ahead, behind, tangent in around:
        np.testing.assert_allclose((ahead - behind) / (2 * STEP), tangent, rtol=1e-7, atol=1e-7)


# PyTorch counts the degrees of freedom of `var` wrongly where its result has no elements.
@pytest.mark.filterwarnings("ignore:.* degrees of freedom is <= 0:UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_derivatives_of_drawn_calls(name: str, backend: backends.Backend, float64: Any) -> None:
    host = backend.to_host

    @tries(backend)
    @given(CALLS[name], BATCHES)
    def check(call: Call, batch: tuple[int, list[int | None]]) -> None:
        assume(can(backend, call))
        size, axes = batch[0], batch_axes(call, batch[1])
        numbers = Numbers(call, size, axes)
        found = answers(call, backend, numbers, axes)
        count = len(found["out"])
        for gradient, shape in zip(found["found"][count:], call.shapes, strict=True):
            assert_array(gradient, backend, dtype=float64, shape=shape)
        for out, tangent in zip(found["out"], found["tangents"], strict=True):
            assert_array(tangent, backend, dtype=out.dtype, shape=tuple(out.shape))
        assert_derivatives(call, found, numbers, host)
        for i, (whole, like) in enumerate(zip(found["batch"], found["found"], strict=True)):
            rows = [host(entry[i]) for entry in found["entries"]]
            assert_array(whole, backend, dtype=like.dtype, shape=(size, *like.shape))
            if rows:
                np.testing.assert_allclose(host(whole), np.stack(rows), rtol=1e-12, atol=1e-13)

    check()
