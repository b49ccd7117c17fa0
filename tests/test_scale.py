"""Many operations, many gradients, large arrays: time and memory stay in proportion.

On NumPy, and without the fixture `backend`: its calls are the quickest, `tracemalloc` sees its
memory alone, and so each test runs once.
"""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.memory import ROUNDS, left_behind, traced_memory
from tinynn import checkpoint, grad, hvp, jvp, vmap
from tinynn.trace import namespace


def test_a_chain_of_a_hundred_thousand_operations_has_its_derivative() -> None:
    decay, growth = np.asarray(1 - 1e-5), np.asarray(1e-5)

    def chain(x: Any) -> Any:
        for _ in range(25_000):
            x = decay * (x + growth * (x * x))
        return x

    at = slope = 1.0
    for _ in range(25_000):  # the chain rule, step by step
        slope *= (1 - 1e-5) * (1 + 2e-5 * at)
        at = (1 - 1e-5) * (at + 1e-5 * at * at)
    x = np.asarray(1.0)
    np.testing.assert_allclose(grad(chain)(x), slope, rtol=1e-11)
    np.testing.assert_allclose(jvp(chain, (x,), (np.asarray(1.0),))[1], slope, rtol=1e-11)


@pytest.mark.parametrize(
    ("derive", "times"),
    [
        pytest.param(grad, 10_000, id="grad"),
        pytest.param(lambda f: lambda x: vmap(grad(f))(x[None, :]), 1000, id="vmap of grad"),
        pytest.param(lambda f: lambda x: hvp(f, (x,), (x,)), 1000, id="hvp"),
        pytest.param(lambda f: grad(checkpoint(f)), 1000, id="checkpoint"),
    ],
)
def test_memory_does_not_grow(derive: Callable[..., Any], times: int) -> None:
    x = np.linspace(0.1, 0.9, 100)
    f = lambda x: namespace(x).sum(x * x)  # noqa: E731

    def run(times: int) -> None:
        for _ in range(times):
            derive(f)(x)

    run(1000)
    assert left_behind(lambda: run(times // ROUNDS)) < 1024


SEGMENTS, STEPS, SIZE = 8, 8, 100_000


def test_checkpoint_keeps_less_and_finds_the_same() -> None:
    def segment(x: Any) -> Any:
        for _ in range(STEPS):
            x = namespace(x).sin(x)
        return x

    def through(part: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def f(x: Any) -> Any:
            for _ in range(SEGMENTS):
                x = part(x)
            return namespace(x).sum(x)

        return f

    def measured(f: Callable[[Any], Any]) -> tuple[Any, float]:
        """The gradient, and the most memory it took, in arrays of the input's size."""
        with traced_memory():
            gradient = grad(f)(x)
            return gradient, tracemalloc.get_traced_memory()[1] / x.nbytes

    x = np.linspace(0.0, 3.0, SIZE)
    whole, all_kept = measured(through(segment))
    again, few_kept = measured(through(checkpoint(segment)))
    np.testing.assert_array_equal(again, whole)
    assert all_kept > SEGMENTS * STEPS  # or the measure is none
    # One array a segment, those of the segment that is run again, and a few on the way.
    assert few_kept < SEGMENTS + STEPS + 8 < all_kept / 2
