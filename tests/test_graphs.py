"""Recorded graphs: effects, the interpreter, a symbolic batch, where NaN began."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend
from tests.checks import assert_close, assert_equal
from tests.memory import traced_memory
from tinynn import tree
from tinynn.compiler import RecordingError, first_nonfinite, passes, pipelines, target_passes
from tinynn.compiler.codegen.schedule import inputs_copied, views_copied
from tinynn.compiler.engines import kind_of
from tinynn.compiler.flatten_params import packed
from tinynn.compiler.rewrite import CannotEmit
from tinynn.functional import relu, sigmoid
from tinynn.layers import Linear, Sequential
from tinynn.trace import Effect, Function, namespace
from tinynn.trace.scopes import scopes
from tinynn.transforms.graph import Constant, Dim, Graph, Input
from tinynn.transforms.record import recorded

calls: list[str] = []


def fake(name: str, effect: str) -> Function:
    """A communication on one process: the sum over all processes is the array itself."""

    @tinynn.custom_vjp(lambda g, y, x: (function(g),), effect=effect)
    def function(x: Any) -> Any:
        calls.append(name)
        return x * 1

    function.name = name
    return function


all_reduce, log_to_file, clock = fake("all_reduce", "communicates"), fake("log", "writes"), fake(
    "clock", "reads"
)  # fmt: skip
EFFECTS = ["all_reduce", "log", "all_reduce", "clock", "log"]


def busy(w: Any, x: Any) -> Any:
    """Effects where every pass would like to do something: twice alike, unused, of zeros, late."""
    xp = namespace(w)
    twice = all_reduce(w * 1.0) + xp.negative(xp.negative(w))
    log_to_file(w * 1.0)  # nobody takes the result
    again = all_reduce(w * 1.0)
    clock(xp.reshape(xp.zeros_like(x), (-1,)))
    log_to_file(w * 1.0)
    return xp.sum(relu(twice + again) * x)


def effects_of(graph: Graph) -> list[str]:
    return [node.name.rpartition(".")[2] for node in graph.effects]


EACH: list[Callable[[Graph], Graph]] = [
    passes.common_subexpressions,
    pipelines.simplified,
    target_passes.products,
    target_passes.slopes_of_relu,
    target_passes.without_rows_of_one,
    views_copied,
    lambda graph: inputs_copied(graph, 1),
    lambda graph: pipelines.applied(graph, pipelines.portable()),
    lambda graph: pipelines.applied(
        graph, pipelines.for_library(backends.get("numpy").lowering)
    ),
    lambda graph: pipelines.applied(graph, [pipelines.simplified, *pipelines.into_loops(1)]),
]  # fmt: skip


@pytest.mark.parametrize("each", EACH, ids=lambda each: each.__name__)
def test_passes_keep_every_effect_in_its_order(each: Callable[[Graph], Graph]) -> None:
    w, x = np.asarray([[1.0, -2.0, 3.0]]), np.asarray([[1.0, 1.0, 2.0]])
    graph = tinynn.record(busy, w, x)
    assert effects_of(graph) == EFFECTS
    assert graph.effects[0].effect is Effect.COMMUNICATES
    shorter = each(graph)
    assert effects_of(shorter) == EFFECTS
    calls.clear()
    (found,) = shorter.run([w, x])
    assert calls == EFFECTS
    np.testing.assert_allclose(found, busy(w, x))


def step(params: Any, momentum: Any, x: Any) -> Any:
    """Data-parallel training: the gradients are summed over all processes."""

    def error(params: Any, x: Any) -> Any:
        out = namespace(params["a"]).matmul(x, params["a"]) + params["b"]
        return namespace(out).sum(out**2)

    loss, slopes = tinynn.value_and_grad(error)(params, x)
    slopes = tree.map(all_reduce, slopes)
    momentum = tree.map(lambda m, g: 0.9 * m + g, momentum, slopes)
    log_to_file(loss)
    return tree.map(lambda p, m: p - 0.01 * m, params, momentum), momentum, loss


def starting(backend: Backend) -> tuple[Any, Any, Any]:
    make = lambda *shape: backend.asarray(np.linspace(0, 1, int(np.prod(shape))).reshape(shape))  # noqa: E731
    params = {"a": make(3, 2), "b": make(2)}
    return params, tree.map(lambda p: p * 0, params), make(8, 3)


def test_effects_in_flat_storage() -> None:
    params, momentum, x = starting(backends.get("numpy"))
    graph = pipelines.simplified(tinynn.record(step, params, momentum, x))
    flat, storage = packed(graph, [[0, 1], [2, 3]], 4)
    assert [each.shape for each in flat.inputs] == [(8,), (8,), (8, 3)]
    assert effects_of(flat) == ["all_reduce", "all_reduce", "log"]
    values = [*storage.stored(np, tree.leaves((params, momentum))), x]
    found = storage.values(np, flat.run(values)[:2])
    want = tree.leaves(step(params, momentum, x)[:2])
    for left, right in zip(found, want, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("engine", ["auto", "calls", "jit", "loops"])
def test_every_engine_carries_out_every_effect(backend: Backend, engine: str) -> None:
    params, momentum, x = starting(backend)
    half = x[:4, :]
    graph = tinynn.record(step, params, momentum, half)
    kept, rows = tree.leaves((params, momentum)), [[0, 1], [2, 3]]
    if engine == "loops" or (engine in ("auto", "jit") and backend.repeat is not None):
        # Loops, and a loop that the library compiles, hold no calls back to Python.
        with pytest.raises(CannotEmit, match=r"all_reduce.* communicates|no compiler of loops"):
            kind_of(engine, backend)(graph, len(kept), backend, rows)
        return
    if engine == "jit":
        with pytest.raises(ValueError, match="has no compiler of its own"):
            kind_of(engine, backend)
        return
    loop = kind_of(engine, backend)(graph, len(kept), backend, rows)
    loop.load(kept)
    calls.clear()
    loop.run(loop.batches(4, [x], []), 2)
    assert calls == ["all_reduce", "all_reduce", "log"] * 4
    for _ in range(2):
        for part in (x[:4, :], x[4:, :]):
            params, momentum, _ = step(params, momentum, part)
    for found, want in zip(loop.values(), tree.leaves((params, momentum)), strict=True):
        assert_close(found, backend.to_host(want), backend)


@pytest.mark.filterwarnings("ignore:fit. the training step runs with:RuntimeWarning")
def test_fit_carries_out_effects(backend: Backend) -> None:
    x = backend.asarray(np.linspace(0, 1, 24, dtype="float32").reshape(8, 3))
    y = backend.asarray(np.linspace(0, 1, 8, dtype="float32").reshape(8, 1))

    def loss(prediction: Any, target: Any) -> Any:
        return namespace(prediction).mean(all_reduce((prediction - target) ** 2))

    histories = []
    engines = ["eager", "calls", "loops", "jit" if backend.repeat else "auto"]
    for engine in engines if backend.native() else [e for e in engines if e != "loops"]:
        calls.clear()
        model = tinynn.fit(
            Linear(1), x, y, loss=loss, epochs=2, batch_size=None, engine=engine, progress=False
        )
        histories.append(model.history["loss"])
        assert len(calls) >= 4  # forward and backward in each step
    for each in histories[1:]:
        np.testing.assert_allclose(each, histories[0], rtol=1e-4)


def test_compiled_functions_carry_out_effects_in_every_call(backend: Backend) -> None:
    f = tinynn.compile(busy)
    w = backend.asarray(np.asarray([[1.0, -2.0, 3.0]], dtype="float32"))
    x = backend.asarray(np.asarray([[1.0, 1.0, 2.0]], dtype="float32"))
    f(w, x)
    calls.clear()
    for _ in range(2):
        assert_close(f(w, x), backend.to_host(busy(w, x)), backend)
    assert calls == EFFECTS * 4


def test_effects_of_what_follows_from_no_input_are_recorded() -> None:
    outside = np.ones(2)
    graph = tinynn.record(lambda x: x + all_reduce(outside), np.ones(2))
    assert effects_of(graph) == ["all_reduce"]
    inside = tinynn.grad(lambda x: namespace(x).sum(x * all_reduce(outside)))
    assert effects_of(tinynn.record(inside, np.ones(2))) == ["all_reduce"]
    calls.clear()
    all_reduce(outside)  # no recording is open any more
    assert calls == ["all_reduce"]


def test_no_effect_hides_inside_another_function() -> None:
    x = np.asarray([1.0, 2.0])
    with pytest.raises(RecordingError, match=r"all_reduce communicates inside body.*To fix it"):
        tinynn.record(tinynn.checkpoint(lambda x: all_reduce(x) * 2), x)
    own = tinynn.custom_vjp(lambda g, y, x: (g,), effect="communicates")(lambda x: all_reduce(x))
    assert [str(node.effect) for node in tinynn.record(own, x).nodes] == ["communicates"]


def test_effects_and_derivatives() -> None:
    slope = tinynn.grad(lambda x: namespace(x).sum(all_reduce(x) ** 2))
    x = np.asarray([1.0, 2.0])
    np.testing.assert_allclose(slope(x), 2 * x)
    assert effects_of(tinynn.record(slope, x)) == ["all_reduce", "all_reduce"]
    with pytest.raises(
        NotImplementedError, match=r"all_reduce: .* communicates once for the batch"
    ):
        tinynn.vmap(all_reduce)(x)
    with pytest.raises(ValueError, match="sings"):
        Function("f", abs, effect="sings")


def test_a_function_of_ones_own_is_not_the_standards_of_that_name(backend: Backend) -> None:
    x = backend.asarray(np.asarray([1.0, 2.0], dtype="float32"))
    for name in ("negative", "sigmoid", "reshape", "sum"):

        def body(x: Any) -> Any:
            return x * 7

        body.__name__ = name
        own = tinynn.custom_vjp(lambda g, y, x: (7 * g,))(body)
        f = tinynn.compile(lambda x, own=own: own(own(x)))
        assert_close(f(x), [49.0, 98.0], backend)
        assert f.graph.nodes[0].name == f"tests.test_graphs.{name}"
        batched = tinynn.compile(tinynn.vmap(own))
        assert_close(batched(x), [7.0, 14.0], backend)


# The interpreter.


def test_a_hook_sees_and_replaces_values(backend: Backend) -> None:
    x = backend.asarray(np.asarray([[1.0, -2.0]], dtype="float32"))
    net = Sequential(Linear(2), relu)
    params, _ = net.init(0, x)
    graph = tinynn.record(net, params, x)
    values = tree.leaves((params, x))
    seen: list[tuple[str, str]] = []
    (out,) = graph.run(values, lambda node, value: seen.append((node.name, node.origin.place)))
    assert_equal(out, backend.to_host(net(params, x)), backend)
    assert seen[0] == ("matmul", "layer 0, Linear(2)")
    assert seen[-1] == ("relu", "layer 1, relu")
    ones = lambda node, value: value * 0 + 1 if node.name == "relu" else None  # noqa: E731
    assert_equal(graph.run(values, ones)[0], [[1.0, 1.0]], backend)


def test_an_exception_in_a_rule_leaves_no_trace_of_the_pullback() -> None:
    def refuse(g: Any, y: Any, x: Any) -> Any:
        raise OSError("no derivative today")

    own = tinynn.custom_vjp(refuse)(lambda x: x * 1)
    with pytest.raises(OSError, match="today"):
        tinynn.record(tinynn.grad(lambda x: namespace(x).sum(own(x))), np.ones(2))
    assert scopes.pulled is None
    assert scopes.recording is None


def test_graphs_run_under_transformations() -> None:
    graph = tinynn.record(lambda x: namespace(x).sum(sigmoid(x) * x), np.ones(3))
    rows = np.linspace(-1, 1, 6).reshape(2, 3)
    run = lambda x: graph.run([x])[0]  # noqa: E731
    want = [np.sum(row / (1 + np.exp(-row))) for row in rows]
    np.testing.assert_allclose(tinynn.vmap(run)(rows), want)
    slope = tinynn.grad(run)(rows[0])
    s = 1 / (1 + np.exp(-rows[0]))
    np.testing.assert_allclose(slope, s + rows[0] * s * (1 - s))
    twice = tinynn.record(run, rows[0])
    assert [node.name for node in twice.nodes] == [node.name for node in graph.nodes]


def test_results_and_numbers_of_every_kind() -> None:
    def f(x: Any, rate: float) -> Any:
        xp = namespace(x)
        values, vectors = xp.linalg.eigh(xp.linalg.outer(x, x))
        return {"a": xp.clip(x, None, rate * 2 + 1), "b": (values[::-1], vectors, 3, rate / 2)}

    x = np.asarray([3.0, 1.0, 3.0])
    graph = tinynn.record(f, x, 0.5)
    found = graph.structure.unflatten(graph.run([x, 0.25]))
    want = f(x, 0.25)
    for left, right in zip(tree.leaves(found), tree.leaves(want), strict=True):
        np.testing.assert_array_equal(left, right)


def test_values_that_do_not_fit_are_refused() -> None:
    graph = tinynn.record(lambda x: x * 2, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"expected 1 values \(x\), got 2"):
        graph.run([np.ones((2, 3))] * 2)
    with pytest.raises(ValueError, match=r"x: expected shape \(2, 3\), got \(4, 3\)"):
        graph.run([np.ones((4, 3))])
    failing = Function("failing", lambda x: x @ x)
    broken = tinynn.record(lambda x: failing(x), np.ones((2, 2)))
    broken.inputs[0].shape = (2, 3)
    with pytest.raises(ValueError, match="matmul") as caught:
        broken.run([np.ones((2, 3))])
    assert "test_graphs.py" in caught.value.__notes__[0]


# A symbolic batch.


def convolved(params: Any, x: Any) -> Any:
    """What follows the batch in shapes, in keywords, in an index and in a number."""
    xp = namespace(x)
    n = x.shape[0]
    flat = xp.reshape(x, (n * 2, 2))
    wide = xp.broadcast_to(xp.expand_dims(params, axis=0), (n, 2, 2))
    both = xp.concat([flat, xp.reshape(wide, (2 * n, 2)), params], axis=0)
    return xp.reshape(both[1 : 2 * n + 1, :], (-1, 4)) * n, both, n


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_symbolic_batch(backend: Backend, size: int) -> None:
    make = lambda n: backend.asarray(  # noqa: E731
        np.arange(4.0 * n, dtype="float32").reshape(n, 2, 2) - 3
    )
    params = backend.asarray(np.asarray([[1.0, 2.0], [3.0, 4.0]], dtype="float32"))
    graph = tinynn.record(convolved, params, make(size), batch_axes=(None, 0))
    assert graph.batch == size
    assert str(graph.inputs[1].shape) == "(batch, 2, 2)"
    shapes = [str(node.shape) for node in graph.nodes]
    assert "(4*batch + 2, 2)" in shapes
    kwargs = [node.kwargs for node in graph.nodes if node.name == "broadcast_to"]
    assert str(kwargs) == "[{'shape': (batch, 2, 2)}]"
    for n in (1, 2, 3, 7):
        want = convolved(params, make(n))
        for each in (graph, pipelines.simplified(graph)):
            found = each.run([params, make(n)])
            assert found[2] == n
            for left, right in zip(found[:2], want[:2], strict=True):
                assert_equal(left, backend.to_host(right), backend)


def test_a_network_with_a_symbolic_batch(backend: Backend) -> None:
    x = backend.asarray(np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3))
    net = Sequential(Linear(5), relu, Linear(2))
    params, _ = net.init(0, x)
    graph = tinynn.record(net, params, x, batch_axes=(None, 0))
    assert [node.shape[0] for node in graph.nodes] == [Dim(4)] * len(graph.nodes)
    (out,) = pipelines.simplified(graph).run([*tree.leaves(params), x[:3, :]])
    assert_close(out, backend.to_host(net(params, x[:3, :])), backend)


def test_a_gradient_with_a_symbolic_batch() -> None:
    x = np.linspace(-1, 1, 12).reshape(4, 3)
    net = Sequential(Linear(5), relu, Linear(2))
    params, _ = net.init(0, x)

    def loss(params: Any, x: Any) -> Any:
        out = net(params, x)
        return namespace(out).mean(out**2)

    slope = tinynn.grad(loss)
    graph = tinynn.record(slope, params, x, batch_axes=(None, 0))
    found = graph.structure.unflatten(graph.run([*tree.leaves(params), x[:3]]))
    want = slope(params, x[:3])
    for left, right in zip(tree.leaves(found), tree.leaves(want), strict=True):
        np.testing.assert_allclose(left, right)


def test_numbers_that_follow_the_batch_are_not_folded() -> None:
    def f(x: Any) -> Any:
        n = x.shape[0]
        return (x * n * 0.5 / n) * 4 + namespace(x).sum(x / n) * 3 + (n + 1)

    graph = pipelines.simplified(tinynn.record(f, np.ones((4, 3)), batch_axes=0))
    for n in (1, 4, 9):
        x = np.arange(3.0 * n).reshape(n, 3)
        np.testing.assert_allclose(graph.run([x])[0], f(x))


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (lambda x, xp: xp.reshape(x @ xp.matrix_transpose(x), (-1,)), r"16 and 25 and 49"),
        (lambda x, xp: x * 2 if x.shape[0] == 4 else x + 2, "the calls are multiply and add"),
        (lambda x, xp: xp.zeros((x.shape[0], 3)) + x, r"xp.zeros_like\(x\)"),
        (lambda x, xp: x[: x.shape[0] // 2, :] + 1, "2 and 3"),
        (lambda x, xp: x * (1 / x.shape[0]), "0.25 and 0.2"),
        (lambda x, xp: [x + 1] * (x.shape[0] // 4 + x.shape[0] % 2), "results differ"),
        (lambda x, xp: sum((x[i : i + 1, :] for i in range(x.shape[0])), 0 * x), "its end"),
    ],
)
def test_what_does_not_follow_the_batch_is_refused(f: Callable[..., Any], why: str) -> None:
    with pytest.raises(RecordingError, match=rf"with batch_axes: .*{why}.* To fix it: "):
        tinynn.record(lambda x: f(x, namespace(x)), np.ones((4, 3)), batch_axes=0)


@pytest.mark.parametrize(("args", "got"), [((), "none"), ((1, "a"), r"\(1, 'a'\)")])
def test_a_recording_without_an_array_is_refused(args: tuple[Any, ...], got: str) -> None:
    with pytest.raises(TypeError, match=rf"of <lambda>: expected an array.*, got {got}\. To fix"):
        tinynn.record(lambda *args: args, *args)


def test_batches_that_do_not_agree_are_refused() -> None:
    graph = tinynn.record(
        lambda x, y: (x, y + 1), np.ones((4, 3)), np.ones((3, 4)), batch_axes=(0, 1)
    )
    with pytest.raises(ValueError, match=r"y, axis 1: expected a batch of 2 as in x, got 5"):
        graph.run([np.ones((2, 3)), np.ones((3, 5))])
    with pytest.raises(ValueError, match="batches differ in size: 4 in argument 0, 3"):
        tinynn.record(lambda x, y: x, np.ones((4, 3)), np.ones((3, 4)), batch_axes=0)
    with pytest.raises(ValueError, match=r"expected an axis .* for each of 1 arguments, got 2"):
        tinynn.record(lambda x: x, np.ones(3), batch_axes=(0, 0))
    with pytest.raises(ValueError, match="a batch of one row or more"):
        tinynn.record(lambda x: x, np.ones((0, 3)), batch_axes=0)


def test_lengths_that_follow_the_batch() -> None:
    rows = Dim(4)
    assert (2 * rows).at(10) == (rows * 2).at(10) == 20
    assert str(3 * (rows + 1)) == "3*batch + 3"
    assert str(rows + -1) == "batch - 1"
    assert rows != 4
    assert rows == Dim(4)
    assert int(rows) == 4
    assert type(rows * rows) is int
    assert rows * rows == 16
    assert np.reshape(np.ones(8), (rows, 2)).shape == (4, 2)


# Where NaN began.


@pytest.mark.reads_scalars
def test_the_first_operation_with_a_non_finite_result(backend: Backend) -> None:
    def logarithm(x: Any) -> Any:
        return namespace(x).log(x)

    net = Sequential(Linear(2), logarithm, Linear(1))
    x = backend.asarray(np.asarray([[1.0, -1.0]], dtype="float32"))
    outside = backend.asarray(np.asarray([np.inf], dtype="float32"))
    with np.errstate(all="ignore"):
        params, _ = net.init(0, x)
        graph = tinynn.record(net, params, x)
        node = first_nonfinite(graph, tree.leaves((params, x)))
        assert node is not None
        assert (node.name, node.origin.place) == ("log", "layer 1, logarithm")
        assert node.origin.line.startswith("test_graphs.py:")
        fine = tinynn.record(sigmoid, x)
        assert first_nonfinite(fine, [x * 1000]) is None
        assert isinstance(first_nonfinite(fine, [x * float("nan")]), Input)
        assert isinstance(first_nonfinite(tinynn.record(lambda x: x + outside, x), [x]), Constant)


@pytest.mark.parametrize("axes", [None, 0])
def test_shapes_that_follow_from_values_are_refused(axes: Any) -> None:
    def mean(x: Any) -> Any:
        picked = x[x > 0]
        return namespace(x).sum(picked) / picked.shape[0]  # a number, which would be kept

    with pytest.raises(RecordingError, match=r"recording of mean: .* getitem .* follows from val"):
        tinynn.record(mean, np.asarray([1.0, -1.0, 2.0]), batch_axes=axes)


def test_passes_are_listed_once() -> None:
    assert pipelines.for_library(None) == pipelines.followed() == pipelines.portable()[1:]


def test_a_recording_that_spares_memory_holds_one_call_at_a_time() -> None:
    x, seen = np.ones((256, 1024), dtype="float32"), []  # a MB

    def many(x: Any) -> Any:
        for _ in range(20):
            x = namespace(x).sin(x) + 1.0
        return x

    def shown(x: Any) -> Any:
        seen.append(x)
        return x

    note = Function("note", shown, effect="writes")
    with traced_memory():
        graph = recorded(many, (x,), sparing=True)
        assert tracemalloc.get_traced_memory()[1] < 4 * x.nbytes
    (y,) = graph.run([x])
    np.testing.assert_array_equal(y, many(x))
    recorded(lambda x: note(x * np.arange(1024, dtype="float32")), (x,), sparing=True)
    np.testing.assert_array_equal(seen[0], x * np.arange(1024, dtype="float32"))
    assert len(seen) == 1
