"""The passes: what each leaves of a program, and that it computes the same."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend
from tests.checks import assert_close, assert_equal
from tests.programs import Program, transformed
from tinynn import tree
from tinynn.compiler import (
    ahead,
    fused_calls,
    horizontal,
    passes,
    pipelines,
    pushed,
    signs,
    target_passes,
)
from tinynn.compiler.rewrite import Visit, simplest
from tinynn.functional import max_pool, relu
from tinynn.layers import LSTM
from tinynn.rules.special import first_maximum
from tinynn.trace import namespace
from tinynn.transforms.graph import Graph
from tinynn.transforms.record import record


def alone(pattern: Visit) -> Callable[[Graph], Graph]:
    """One of the patterns without the others, as a pass."""
    patterns = {name: [pattern] for name, each in passes.PATTERNS.items() if pattern in each}

    def applied(graph: Graph) -> Graph:
        return simplest(graph, patterns)

    applied.__name__ = pattern.__name__.strip("_")
    return applied


def fused_horizontally(graph: Graph) -> Graph:
    return horizontal.fused_horizontally(graph, 1, backends.get("numpy").lowering.into)


def without_negatives(graph: Graph) -> Graph:
    return signs.without_negatives(graph, 1)


def both_between_steps(graph: Graph) -> Graph:
    return without_negatives(fused_horizontally(pipelines.simplified(graph)))


def computed_ahead_and_fused(graph: Graph) -> Graph:
    into = backends.get("numpy").lowering.into
    graph = ahead.computed_ahead(pipelines.simplified(graph), into, pipelines.simplified)
    names = "addcmul addmm add_scaled sigmoid_pullback tanh_pullback"
    return fused_calls.fused_calls(graph, names.split())


EACH = (
    *[
        alone(pattern)
        for pattern in sorted({p for each in passes.PATTERNS.values() for p in each}, key=str)
    ],
    passes.common_subexpressions,
    pipelines.simplified,
    pushed.entries_computed_in_steps,
    pushed.slices_pushed,
    target_passes.products,
    target_passes.slopes_of_maximum,
    target_passes.slopes_of_relu,
    target_passes.sums_of_chosen,
    target_passes.sums_of_rows,
    target_passes.without_rows_of_one,
    fused_horizontally,
    without_negatives,
    both_between_steps,
    computed_ahead_and_fused,
)


@pytest.mark.parametrize("each", EACH, ids=lambda each: each.__name__)
def test_a_pass_changes_no_result(each: Callable[[Graph], Graph]) -> None:
    for seed in range(12):
        program = Program(seed, scans=seed % 2 == 1)
        f, given = transformed(program, backends.get("numpy"))
        graph = record(f, *given)
        values = tree.leaves(given)
        shorter = each(graph)
        pairs = zip(shorter.run(values), graph.run(values), strict=True)
        for found, want in pairs:
            scale = float(np.max(np.abs(want), initial=0.0))
            np.testing.assert_allclose(
                found, want, rtol=1e-9, atol=1e-9 * scale, err_msg=str(program)
            )


def graph_of(f: Callable[..., Any], *args: Any) -> Graph:
    return pipelines.simplified(record(f, *args))


X = np.asarray([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("f", "calls"),
    [
        (lambda x, xp: xp.negative(-x) + 1, ["add"]),
        (lambda x, xp: x * 1.0 + 0.0 * 1.0, []),
        (lambda x, xp: x + x, ["multiply"]),
        (lambda x, xp: 0.5 * (x + x), []),
        (lambda x, xp: (x * 3) / 2 * 4, ["multiply"]),
        (lambda x, xp: xp.exp(x) * xp.exp(x), ["exp", "multiply"]),
        (lambda x, xp: x**2, ["multiply"]),
        (lambda x, xp: x / 3 * 1, ["divide"]),
        (lambda x, xp: -(x / 3) + x / 3, ["divide", "subtract"]),
        (lambda x, xp: x / 3 - x / 3 / 1, ["divide", "subtract"]),
        (lambda x, xp: x + xp.negative(xp.exp(x)), ["exp", "subtract"]),
        (lambda x, xp: xp.ones_like(x) * 3 * x, ["multiply"]),
        (lambda x, xp: xp.broadcast_to(xp.sum(x), (2, 2)) * x, ["sum", "multiply"]),
        (lambda x, xp: xp.sum(3 * x), ["sum", "multiply"]),
        (lambda x, xp: xp.sum(xp.sum(x, axis=0)), ["sum"]),
        (lambda x, xp: xp.reshape(xp.expand_dims(x, axis=0), (4,)), ["reshape"]),
        (lambda x, xp: xp.matrix_transpose(xp.matrix_transpose(x)), []),
        (lambda x, xp: (xp.exp(x), x)[1], []),
        (lambda x, xp: xp.astype(x, x.dtype) * 2, ["multiply"]),
        (lambda x, xp: xp.reshape(xp.sum(x, axis=0, keepdims=True), (2,)), ["sum"]),
    ],
)
def test_what_passes_leave(f: Callable[..., Any], calls: list[str]) -> None:
    graph = graph_of(lambda x: f(x, namespace(x)), X)
    assert [node.name for node in graph.nodes] == calls
    np.testing.assert_allclose(graph.run([X])[0], f(X, np))


ROW = np.asarray([[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("f", "shapes"),
    [
        (lambda x, xp: x + x[0, :], {"add": (3,)}),
        (lambda x, xp: x * xp.exp(x), {"multiply": (1, 3), "exp": (1, 3)}),  # nothing to gain
        (lambda x, xp: (x + 1) @ xp.ones((3, 2)) + xp.ones(2), {"matmul": (2,), "add": (2,)}),
        (lambda x, xp: (x + 1) @ xp.ones((3, 1)), {"matmul": (1,)}),
        (lambda x, xp: x @ xp.ones((3, 2)), {"matmul": (1, 2)}),  # from outside: as it is
        (lambda x, xp: x - xp.max(x, axis=1, keepdims=True), {"max": (), "subtract": (1, 3)}),
        (lambda x, xp: x + xp.sum(x[None], axis=(0, 2))[..., None], {"sum": (), "add": (1, 3)}),
        (lambda x, xp: x + x.mT, {"add": (3, 3)}),
        (lambda x, xp: xp.sum(x * x, axis=0) + x, {"multiply": (1, 3), "add": (3,)}),
        (lambda x, xp: xp.ones((1, 1, 4)) + x[..., None][..., :1, :], {"add": (1, 1, 4)}),
    ],
)  # fmt: skip
def test_a_batch_of_one_without_its_axis(
    f: Callable[..., Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    graph = graph_of(lambda x: f(x, namespace(x)), ROW)
    flat = pipelines.simplified(target_passes.without_rows_of_one(graph))
    found = {node.name: node.shape for node in flat.nodes}
    assert {name: found.get(name) for name in shapes} == shapes
    assert flat.outputs[0].shape == f(ROW, np).shape
    np.testing.assert_allclose(flat.run([ROW])[0], f(ROW, np))


@pytest.mark.parametrize("cuts", [(0, 6), (0, 2, 6), (0, 1, 3, 6), (1, 2, 4, 5), (0, 3, 4, 5)])
@pytest.mark.parametrize("order", [1, -1])
def test_derivatives_of_slices_are_put_together_once(cuts: tuple[int, ...], order: int) -> None:
    x = np.arange(12.0).reshape(2, 6)

    def f(x: Any) -> Any:
        xp = namespace(x)
        pairs = list(pairwise(cuts))[::order]
        return sum(xp.sum(xp.exp((i + 1) * x[:, a:b])) for i, (a, b) in enumerate(pairs))

    graph = graph_of(tinynn.grad(f), x)
    names = [node.name for node in graph.nodes]
    parts = len(cuts) - 1
    assert names.count("concat") == (0 if cuts == (0, 6) else 1)
    assert names.count("exp") == parts
    np.testing.assert_array_equal(graph.run([x])[0], tinynn.grad(f)(x))


def test_slices_that_overlap_are_added() -> None:
    def f(x: Any) -> Any:
        return namespace(x).sum(x[:, :2] ** 2) + namespace(x).sum(x[:, 1:] ** 3)

    x = np.arange(6.0).reshape(2, 3)
    graph = graph_of(tinynn.grad(f), x)
    assert [node.name for node in graph.nodes].count("concat") == 2
    np.testing.assert_allclose(graph.run([x])[0], tinynn.grad(f)(x))


def test_sums_over_all_axes_but_the_last_are_sums_of_rows() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    graph = target_passes.sums_of_rows(graph_of(lambda x: namespace(x).sum(x, axis=(0, 1)), x))
    assert [(node.name, node.shape) for node in graph.nodes] == [("reshape", (6, 4)), ("sum", (4,))]
    np.testing.assert_allclose(graph.run([x])[0], x.sum((0, 1)))


def test_a_weights_gradient_is_one_product_of_all_rows(backend: Backend) -> None:
    def slope(a: Any, b: Any) -> Any:
        xp = namespace(a)
        return xp.sum(xp.matmul(xp.matrix_transpose(a), b), axis=(0, 1))

    draw = np.random.default_rng(0).normal
    a, b = draw(size=(2, 3, 5, 4)), draw(size=(2, 3, 5, 7))
    graph = target_passes.products(graph_of(slope, a, b))
    assert [(node.name, node.shape) for node in graph.nodes if node.name != "reshape"] == [
        ("matrix_transpose", (4, 30)),
        ("matmul", (4, 7)),
    ]
    compiled = tinynn.compile(slope)(*map(backend.asarray, (a, b)))
    assert_close(compiled, np.einsum("ijkm,ijkn->mn", a, b), backend)
    # One row of all matrices is no sum of products of rows.
    graph = target_passes.products(graph_of(slope, a, b[:1]))
    assert [node.name for node in graph.nodes][-2:] == ["matmul", "sum"]


@pytest.mark.only("numpy", "torch")
def test_slopes_of_a_maximum_are_no_choices(backend: Backend) -> None:
    def slope(x: Any) -> Any:
        def loss(x: Any) -> Any:
            return namespace(x).sum(relu(first_maximum(x[:2000], x[2000:])) ** 2)

        return tinynn.grad(loss)(x)

    x = np.random.default_rng(0).normal(size=4000)
    x[:3], x[2000:2003] = (1, -1, 0), (1, -1, 0)
    compiled = tinynn.compile(slope)
    assert_equal(compiled(backend.asarray(x)), slope(x), backend)
    assert "where" not in str(compiled.source)


def test_cotangents_of_a_maximum_are_products_with_a_mask() -> None:
    def loss(x: Any) -> Any:
        return namespace(x).sum(first_maximum(x[0], x[1]) ** 2)

    lowering = backends.get("numpy").lowering
    with lowering.recording():
        decomposed = pipelines.decompositions(lowering)
        graph = record(tinynn.grad(loss), X, decompositions=decomposed)
    graph = pipelines.simplified(graph)
    masked = target_passes.slopes_of_maximum(graph)
    names = [[node.name for node in each.nodes] for each in (graph, masked)]
    assert [each.count("where") for each in names] == [2, 0]
    assert names[1].count("equal") == 1
    np.testing.assert_array_equal(masked.run([X])[0], tinynn.grad(loss)(X))


def test_no_gradient_is_computed_that_nobody_asked_for() -> None:
    def loss(w: Any, x: Any) -> Any:
        return namespace(x).sum((x @ w) ** 2)

    both = graph_of(tinynn.grad(loss, (0, 1)), X, X)
    one = graph_of(lambda w, x: tinynn.grad(loss, (0, 1))(w, x)[0], X, X)
    count = [sum(node.name == "matmul" for node in graph.nodes) for graph in (both, one)]
    assert count == [3, 2]


def test_what_passes_leave_alone(backend: Backend) -> None:
    xp = backend.xp
    whole = xp.asarray([1, 2, 3], dtype=xp.int32, device=backend.device)
    wide = xp.asarray([1e25, 1.0], dtype=xp.float32, device=backend.device)
    signs = tinynn.compile(lambda x: 3 * (-x) - 1)(whole)
    assert_equal(signs, np.asarray([-4, -7, -10], dtype="int32"), backend)
    small = tinynn.compile(lambda x: namespace(x).sum((x / 1e20) ** 2))(wide)
    assert_close(small, np.asarray(1e10, dtype="float32"), backend)
    holes = wide * xp.asarray([xp.nan, 1.0], dtype=xp.float32, device=backend.device)
    positive = tinynn.compile(lambda x: (relu(x), namespace(x).astype(x > 0, x.dtype)))(holes)[1]
    assert_equal(positive, np.asarray([0.0, 1.0], dtype="float32"), backend)
    first = tinynn.compile(lambda x: (x * 2)[0] * 3)
    for factor in (1.0, 2.0):
        assert_close(first(wide * factor), np.asarray(6e25 * factor, dtype="float32"), backend)


# XLA, which compiles programs of JAX, moves them itself.
@pytest.mark.only("numpy", "torch", "array_api_strict", "dpnp", "cupy")
def test_scalings_that_keep_numbers_in_range_stay(backend: Backend) -> None:
    xp = backend.xp
    x = xp.asarray([1e20], dtype=xp.float32, device=backend.device)
    for f in (lambda x: (x * 1e-5) * (x * 1e-5), lambda x: (x / 1e12) * (1e-8 * x)):
        assert_close(tinynn.compile(f)(x), backend.to_host(f(x)), backend)


def test_numbers_of_few_bits_or_two_parts_keep_their_range() -> None:
    half = np.full((1000,), 100.0, dtype="float16")
    total = tinynn.compile(lambda x: namespace(x).sum(x / 1000))(half)
    np.testing.assert_allclose(total, 100, rtol=1e-2)
    infinite = np.asarray([complex(np.inf, 0.0)])
    np.testing.assert_array_equal(tinynn.compile(lambda x: x + x)(infinite), infinite + infinite)


def test_sums_of_what_a_mask_picks_are_one_call() -> None:
    x = np.asarray([[1.0, -np.inf], [np.nan, 4.0]])
    f = tinynn.compile(lambda x: namespace(x).sum(namespace(x).where(x > 0, x, 0.0)))
    assert float(f(x)) == 5.0  # what is not picked leaves no trace
    graph = target_passes.sums_of_chosen(record(lambda x: namespace(x).sum(
        namespace(x).where(x > 0, x, 0.0)), x))  # fmt: skip
    assert [node.name for node in graph.nodes] == ["greater", "sum_where"]


def test_parts_without_elements_are_put_together() -> None:
    x = np.asarray([1.0, 2.0, 3.0])

    def f(x: Any) -> Any:
        xp = namespace(x)
        return xp.concat([xp.zeros_like(x), xp.zeros_like(x[:0])]) + xp.concat([x])

    np.testing.assert_array_equal(graph_of(f, x).run([x])[0], x)


@pytest.mark.only("torch")
def test_a_pool_and_a_relu_know_what_their_slopes_need(backend: Backend) -> None:
    def loss(x: Any) -> Any:
        y = max_pool(relu(x), (2, 3), stride=(2, 1))
        return namespace(x).sum(y * y * y)

    x = backend.asarray(np.random.default_rng(0).normal(size=(2, 16, 24, 3)))
    slope = tinynn.grad(loss)
    compiled = tinynn.compile(slope)
    assert_close(compiled(x), slope(backend.to_host(x)), backend)
    source = str(compiled.source)
    assert source.count("max_pool_with_indices") == source.count("max_pool_from_indices") == 1
    assert "gated(" in source
    alone = tinynn.compile(loss)
    assert_close(alone(x), loss(backend.to_host(x)), backend)
    assert "max_pool(" in str(alone.source)


@pytest.mark.only("torch")
def test_a_step_of_an_lstm_is_few_calls(backend: Backend) -> None:
    layer = LSTM(3)
    x = backend.asarray(np.random.default_rng(0).normal(size=(2, 4, 2)))
    params = layer.init(0, x)[0]

    def loss(params: Any) -> Any:
        y = layer(params, x)
        return namespace(y).sum(y * y)

    slope = tinynn.grad(loss)
    compiled = tinynn.compile(slope)
    for found, wanted in zip(*map(tree.leaves, (compiled(params), slope(params))), strict=True):
        assert_close(found, backend.to_host(wanted), backend)
    steps = [line for line in compiled.source.splitlines() if line.startswith(" " * 8)]
    assert len(steps) == 16  # of the loops forward and back, two of them products
    assert sum("mm(" in line for line in steps) == 2
