"""Compiled scans: whose memory results are, and carries that steps give in another way."""

from collections.abc import Callable
from typing import Any

import pytest

import backends
import tinynn
from tests.checks import assert_close, assert_trees, placed
from tinynn import tree
from tinynn.trace import namespace

# Without a recording, cond reads its predicate, as it says.
pytestmark = pytest.mark.reads_scalars


@pytest.mark.parametrize("reverse", [False, True])
def test_results_of_a_compiled_scan_are_the_callers_own(
    backend: backends.Backend, reverse: bool
) -> None:
    def f(x: Any) -> Any:
        return tinynn.scan(
            lambda c, row: (c * row, (c, c * row, row)), x[0, ...], x, reverse=reverse
        )

    x, y = (backend.asarray(rows) for rows in ([[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]))
    compiled = tinynn.compile(f)
    first, second = compiled(x), compiled(y)
    for found, rows in ((first, x), (second, y)):
        for a, b in zip(tree.leaves(found), tree.leaves(f(rows)), strict=True):
            assert_close(a, backend.to_host(b), backend)
    # Others are never written into, and do not tell what they share.
    arrays = tree.leaves(first) if backend.lowering else []
    pairs = [(a, b) for a in arrays for b in arrays if a is not b]
    assert not any(backend.shares_memory(a, b) for a, b in pairs)


def _carries_that_branches_give(a: Any) -> Any:
    def body(carry: Any, x: Any) -> Any:
        one, two = tinynn.cond(x > 1, lambda a, b: (b, a), lambda a, b: (a, b), *carry)
        return (one, two), None

    return tinynn.scan(body, (a, 2 * a), a[0, ...])


def _result_before_the_next_carry(a: Any) -> Any:
    def body(carry: Any, x: Any) -> Any:
        given = tinynn.cond(x > 1, lambda c: c, lambda c: 2 * c, carry)
        return namespace(a).sin(carry), given

    return tinynn.scan(body, a, a[0, ...])


def _turned_carry(a: Any) -> Any:
    return tinynn.scan(lambda c, x: (c.mT, namespace(a).sum(c * x)), a, a[:2, ...])


def _large_entries(a: Any) -> Any:
    """Numbers in range, of entries whose sum is not."""
    large = 0 * a + 1.5e308
    return tinynn.scan(
        lambda c, x: (0.5 * c, c * x[0] + c * x[1]),
        1e-300 * a[0, ...],
        (large, 0.9 * large),
        length=3,
    )[1]


def _results_of_one_number(a: Any) -> Any:
    return tinynn.scan(lambda c, _: (c, namespace(a).zeros_like(c)), a, None, length=3)[1]


@pytest.mark.only("numpy", "array_api_strict", "torch", "cupy")
@pytest.mark.parametrize(
    "f",
    [
        _carries_that_branches_give,
        _result_before_the_next_carry,
        _turned_carry,
        _large_entries,
        _results_of_one_number,
    ],
)
def test_compiled_steps_give_what_the_loop_gives(
    backend: backends.Backend, f: Callable[..., Any]
) -> None:
    [a] = placed(backend, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.5]])
    with backend.scope():
        assert_trees(tinynn.compile(f)(a), f(a), backend)
