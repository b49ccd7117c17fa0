"""Scans as loops: recurrent networks by `engine="loops"`, and the passes that make scans short."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend
from tests.engines import Interpreted, InterpretedSerially
from tinynn import initializers, tree
from tinynn.compiler import pipelines
from tinynn.compiler.codegen import barriers, interpreter
from tinynn.compiler.codegen.language import Barrier, If, Loop, walk
from tinynn.compiler.loops import Loops
from tinynn.compiler.pushed import entries_computed_in_steps, slices_pushed
from tinynn.compiler.worth import worth_compiling
from tinynn.layers import GRU, LSTM, RNN, Bidirectional, Layer, Linear, Scope, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import Adam
from tinynn.trace import namespace
from tinynn.transforms.cond import LoopBoundError
from tinynn.transforms.graph import Graph
from tinynn.transforms.record import record

NUMPY = backends.get("numpy")
DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(6, 5, 3)), DRAW.normal(size=(6, 2))
LENGTHS = np.asarray([5, 2, 0, 4, 1, 5])
NETS = {
    "RNN": Sequential(RNN(3), Linear(2)),
    "GRU": Sequential(GRU(3), Linear(2)),
    "LSTM": Sequential(LSTM(2, return_sequences=True, reverse=True), RNN(2), Linear(2)),
    "Bidirectional": Sequential(Bidirectional(LSTM(2)), Linear(2)),
    "one step": Sequential(GRU(2, bias=False, return_sequences=True), GRU(1), Linear(2)),
}


def assert_trains_alike(backend: Backend, net: Any, x: Any, engine: str = "loops") -> None:
    """By the engine, and without a warning, as by the eager one on NumPy."""
    settings = {"epochs": 2, "batch_size": 3, "seed": 1, "progress": False}
    settings |= {"loss": SquaredError(), "optimizer": Adam(0.01)}
    expected = tinynn.fit(net, x, Y, engine="eager", **settings)
    x, y = tree.map(backend.asarray, (x, Y))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = tinynn.fit(net, x, y, engine=engine, **settings)
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"], rtol=1e-9)
    for (name, leaf), (_, wanted) in zip(
        tree.paths(found.params), tree.paths(expected.params), strict=True
    ):
        np.testing.assert_allclose(
            backend.to_host(leaf), wanted, rtol=1e-7, atol=1e-9, err_msg=name
        )


@pytest.mark.only("numpy")
@pytest.mark.reads_scalars
@pytest.mark.parametrize(
    ("name", "kind", "lengths"),
    [
        ("RNN", Interpreted, LENGTHS),
        ("GRU", Interpreted, None),
        ("GRU", InterpretedSerially, LENGTHS),
        ("LSTM", Interpreted, None),
        ("LSTM", InterpretedSerially, None),
        ("Bidirectional", InterpretedSerially, LENGTHS),
        ("one step", Interpreted, None),
        ("one step", InterpretedSerially, None),
    ],
    ids=lambda value: getattr(value, "__name__", value if isinstance(value, str) else ""),
)
def test_recurrent_networks_train_in_loops(
    backend: Backend, name: str, kind: type[Loops], lengths: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinynn.compiler.engines.kind_of", lambda way, backend: kind)
    x = X[:, :1] if name == "one step" else X
    assert_trains_alike(backend, NETS[name], x if lengths is None else (x, lengths))


@pytest.mark.only("numpy", "cupy")
@pytest.mark.reads_scalars
@pytest.mark.usefixtures("compiler_of_loops")
def test_a_recurrent_network_trains_in_machine_code(backend: Backend) -> None:
    net = Sequential(GRU(2, return_sequences=True, reverse=True), LSTM(2), Linear(2))
    assert_trains_alike(backend, net, X)


def branching(w: Any, xs: Any) -> Any:
    """A step with a branch in a scan and one outside, and with a carry of each rank."""

    def loss(w: Any) -> Any:
        xp = namespace(w, xs)

        def step(carry: Any, x: Any) -> Any:
            h, count = carry
            h = tinynn.cond(xp.sum(h) > 0, lambda h: xp.tanh(h * w), lambda h: xp.sin(h + x), h)
            return (h, count + xp.sum(x)), h[:1, ...]

        (h, count), ys = tinynn.scan(step, (xs[0, ...], xp.sum(w)), xs)
        total = xp.sum(h) + xp.sum(ys) * count
        return tinynn.cond(total > 0, lambda a: a * 2.0, lambda a: -a, total)

    value, slope = tinynn.value_and_grad(loss)(w)
    return w - 0.01 * slope, value


@pytest.mark.only("numpy", "cupy")
@pytest.mark.reads_scalars
@pytest.mark.usefixtures("compiler_of_loops")
@pytest.mark.parametrize(
    "kind", [Loops, Interpreted, InterpretedSerially], ids=lambda k: k.__name__
)
def test_branches(backend: Backend, kind: type[Loops]) -> None:
    if kind is not Loops and not isinstance(backend, type(NUMPY)):
        pytest.skip("the interpreter takes NumPy's arrays")
    w, xs = DRAW.normal(size=(4,)), DRAW.normal(size=(3, 5, 4))
    with backend.scope():
        placed = backend.asarray(w), backend.asarray(xs[0])
        loops = kind(record(branching, *placed), 1, backend, [])
        loops.load(placed[:1])
        losses = loops.run(loops.steps(3, [backend.asarray(xs)]))
    for x, loss in zip(xs, backend.to_host(losses), strict=True):
        w, value = branching(w, x)
        np.testing.assert_allclose(loss, value, rtol=1e-9)
    np.testing.assert_allclose(backend.to_host(loops.values()[0]), w, rtol=1e-9)
    assert sum(isinstance(each, If) for each in walk(loops.function.body)) >= 3


def rooted(w: Any, xs: Any) -> Any:
    """A step with loops that end by themselves: the derivative of one, another in a scan."""

    def loss(w: Any) -> Any:
        xp = namespace(w, xs)
        a = xp.sum(w * w) + 1
        root = tinynn.while_loop(
            lambda x: xp.abs(x * x - a) > 1e-6, lambda x: (x + a / x) / 2, xp.ones_like(a), 12
        )
        return root * xp.sum(xs) + xp.sum(w)

    xp = namespace(w, xs)
    value, slope = tinynn.value_and_grad(loss)(w)

    def step(h: Any, x: Any) -> Any:
        small, turns = tinynn.while_loop(
            lambda c: xp.logical_and(xp.max(xp.abs(c[0])) > xp.sum(x * x), c[1] < 30),
            lambda c: (xp.sin(c[0][::-1] * 0.7) + 0 * w, c[1] + 1),
            (h, xp.astype(xp.sum(x) * 0, xp.int64)),
            31,
        )
        return h + 0.1 * small, xp.astype(turns, w.dtype)

    h, turns = tinynn.scan(step, w, xs)
    return h - 0.01 * slope, value + xp.sum(turns)


@pytest.mark.only("numpy", "cupy")
@pytest.mark.reads_scalars
@pytest.mark.usefixtures("compiler_of_loops")
@pytest.mark.parametrize(
    "kind", [Loops, Interpreted, InterpretedSerially], ids=lambda k: k.__name__
)
def test_while_loops(backend: Backend, kind: type[Loops]) -> None:
    if kind is not Loops and not isinstance(backend, type(NUMPY)):
        pytest.skip("the interpreter takes NumPy's arrays")
    w, xs = DRAW.normal(size=(4,)), 0.3 * DRAW.normal(size=(2, 3, 4))
    with backend.scope():
        placed = backend.asarray(w), backend.asarray(xs[0])
        loops = kind(record(rooted, *placed), 1, backend, [])
        loops.load(placed[:1])
        losses = loops.run(loops.steps(2, [backend.asarray(xs)]))
        start = w
        for x, loss in zip(xs, backend.to_host(losses), strict=True):
            w, value = rooted(w, x)
            np.testing.assert_allclose(loss, value, rtol=1e-9)
        np.testing.assert_allclose(backend.to_host(loops.values()[0]), w, rtol=1e-9)
        # The root of a large number takes more steps than the bound; afterwards all is well again.
        loops.load([backend.asarray(start * 1e6)])
        with pytest.raises(LoopBoundError, match=r"12 steps at most.*raise bound"):
            loops.run(loops.steps(2, [backend.asarray(xs)]))
        for _, exceeded in loops._notes:  # as a run leaves it that is interrupted
            exceeded[...] = True
        loops.load(placed[:1])
        again = loops.run(loops.steps(2, [backend.asarray(xs)]))
        np.testing.assert_array_equal(backend.to_host(again), backend.to_host(losses))
    ends = [each for each in walk(loops.function.body) if isinstance(each, Loop) and each.going]
    assert [each.stop for each in ends] == [32]


@dataclass(frozen=True)
class Halved(Layer):
    """Halved until no number of the batch is larger than 1."""

    bound: int = 2**64  # more than an index counts

    def forward(self, scope: Scope, x: Any) -> Any:
        xp = namespace(x)
        return tinynn.while_loop(
            lambda x: xp.max(xp.abs(x)) > 1, lambda x: x / 2, x, bound=self.bound
        )


@pytest.mark.only("numpy", "cupy")
@pytest.mark.reads_scalars
@pytest.mark.usefixtures("compiler_of_loops")
def test_many_networks_whose_loops_end(backend: Backend) -> None:
    x, y = backend.asarray(40 * X[:, 0]), backend.asarray(Y)
    given = {"optimizer": Adam(0.01), "loss": "mse", "epochs": 2, "batch_size": 3, "seed": [1, 2]}
    found, wanted = (
        tinynn.fit_many(Sequential(Halved(), Linear(2)), x, y, engine=engine, **given)
        for engine in ("loops", "eager")
    )
    for mine, theirs in zip(*(tree.leaves(m.params) for m in (found, wanted)), strict=True):
        np.testing.assert_allclose(*map(backend.to_host, (mine, theirs)), rtol=1e-9)
    with pytest.raises(LoopBoundError, match="2 steps at most"):
        tinynn.fit_many(Sequential(Halved(2), Linear(2)), x, y, engine="loops", **given)


@dataclass(frozen=True)
class Tokens(Layer):
    """The last state of a recurrent layer over an embedding: (batch, steps) to (batch, width)."""

    cumulative: bool = False

    def forward(self, scope: Scope, tokens: Any) -> Any:
        table = scope.param("table", initializers.glorot_uniform, (7, 2))
        xp = namespace(tokens, table)

        def step(state: Any, now: Any) -> Any:
            state = xp.tanh(state + xp.take(table, now, axis=0))
            return xp.cumulative_sum(state, axis=1) if self.cumulative else state, None

        start = xp.zeros((tokens.shape[0], 2), dtype=table.dtype)
        return tinynn.scan(step, start, xp.permute_dims(tokens, (1, 0)))[0]


@pytest.mark.only("numpy")
def test_indices_of_every_step_are_looked_at_before(backend: Backend) -> None:
    tokens = DRAW.integers(0, 7, (6, 5))
    step, given = step_of(Tokens(), tokens)
    loops = InterpretedSerially(record(step, *given), 1, backend, [])
    loops.load(tree.leaves(given[0]))
    loops.run(loops.batches(6, [tokens, given[2]], []))
    np.testing.assert_allclose(loops.values()[0], step(*given)[0]["table"], rtol=1e-9)
    tokens[5, 2] = 7
    with pytest.raises(IndexError, match="expected indices from -7 to 6, got 0 to 7"):
        loops.run(loops.batches(6, [tokens, given[2]], []))


@pytest.mark.only("numpy")
@pytest.mark.reads_scalars
def test_what_has_no_loops_is_named_once(backend: Backend) -> None:
    net = Sequential(Tokens(cumulative=True), Linear(2))
    with pytest.warns(RuntimeWarning, match=r'"calls" instead: cumulative_sum\(.*layer 0') as given:
        tinynn.fit(net, DRAW.integers(0, 7, (6, 5)), Y, loss="mse", epochs=1, engine="loops")
    assert len(given) == 1


# The number of steps.


def step_of(net: Any, x: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A training step on a batch, and its arguments."""
    params, _ = net.init(0, x)

    def step(params: Any, x: Any, y: Any) -> Any:
        def loss(params: Any) -> Any:
            y_ = net(params, x)
            return namespace(y_).sum(namespace(y_).square(y_ - y))

        value, slopes = tinynn.value_and_grad(loss)(params)
        return tree.map(lambda p, g: p - 0.1 * g, params, slopes), value

    return step, (params, x, np.ones((len(x), 2)))


def calls(graph: Graph) -> int:
    bodies = [v for node in graph.nodes for v in node.kwargs.values() if isinstance(v, Graph)]
    return len(graph.nodes) + sum(map(calls, bodies))


@pytest.mark.only("numpy")
def test_a_thousand_steps_take_no_longer_than_ten(backend: Backend) -> None:
    """To record, to simplify and to write: it is the same program but for numbers."""
    sizes, lines, times = {}, {}, {}
    for steps in (10, 1000) * 3:
        step, given = step_of(NETS["GRU"], np.ones((4, steps, 3)))
        start = process_time()
        graph = record(step, *given)
        loops = InterpretedSerially(graph, len(tree.leaves(given[0])), backend, [])
        times[steps] = min(process_time() - start, times.get(steps, np.inf))
        sizes[steps] = calls(graph), calls(loops.graph)
        lines[steps] = len(loops.source.splitlines())
    assert sizes[10] == sizes[1000]
    assert lines[1000] <= lines[10]  # large products are calls of BLAS
    assert times[1000] < 2 * times[10]


@pytest.mark.only("numpy")
def test_recording_does_not_warn_of_numbers_that_are_none(backend: Backend) -> None:
    """A recording carries out one step, of whose results all are alike."""

    def f(h: Any, xs: Any) -> Any:
        xp = namespace(h, xs)
        ys = tinynn.scan(lambda h, x: (h + x, h * x), h, xs)[1]
        return xp.sum(h / xp.std(ys, axis=0))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = tinynn.grad(f)(H[:, :2], XS)
        found = tinynn.compile(tinynn.grad(f))(H[:, :2], XS)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.only("numpy")
def test_long_sequences_are_worth_compiling(backend: Backend) -> None:
    step, given = step_of(NETS["GRU"], np.ones((4, 100, 3)))
    graph = pipelines.simplified(record(step, *given))
    assert worth_compiling(graph, 10_000)
    assert not worth_compiling(graph, 10)


# Threads.


@pytest.mark.only("numpy")
def test_threads_wait_inside_of_a_scan_and_a_missing_barrier_shows(backend: Backend) -> None:
    step, given = step_of(Sequential(RNN(3), Linear(2)), X[:, :4])
    loops = Interpreted(record(step, *given), len(tree.leaves(given[0])), backend, [])
    scans = [s for s in walk(loops.function.body) if isinstance(s, Loop) and s.stop == 4]
    assert any(isinstance(s, Barrier) for scan in scans for s in walk(scan.body))

    def without(statements: Any) -> Any:
        for each in statements:
            if isinstance(each, Loop):
                yield replace(each, body=tuple(without(each.body)))
            elif not isinstance(each, Barrier):
                yield each

    function = loops.function
    bare = replace(function, body=tuple(without(function.body)))
    assert barriers.with_barriers(bare.body) == function.body

    def results(function: Any) -> set[float]:
        """The losses by different orders of the threads; none of memory that is read too early."""
        found = set()
        for seed in range(4):
            draw = np.random.default_rng(0)
            memory = [draw.normal(size=b.size or 200).tolist() for b in function.arguments]
            with suppress(RuntimeError):
                interpreter.run(function, (1, 1), *memory, seed=seed)
                found.add(memory[0][0])
        return found

    assert len(results(function)) == 1
    assert results(bare) != results(function)


# The passes.


def simplified(f: Any, *args: Any) -> Graph:
    graph = record(f, *args)
    shorter = pipelines.simplified(graph)
    values = tree.leaves(args)
    for now in (shorter, entries_computed_in_steps(shorter), slices_pushed(shorter)):
        for found, wanted in zip(now.run(values), graph.run(values), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
    return shorter


def products(graph: Graph) -> list[str]:
    """Of each product of a program, where it is."""
    found = []
    for node in graph.nodes:
        if node.name == "scan":
            found += ["in each step" for each in node.kwargs["body"].nodes if each.name == "matmul"]
        elif node.name == "matmul":
            found.append("once")
    return found


def recurrence(w: Any, u: Any, h: Any, xs: Any) -> Any:
    xp = namespace(w, u, h, xs)

    def step(h: Any, x: Any) -> Any:
        h = xp.tanh(xp.matmul(h, w) + xp.matmul(xp.sin(x) * 2, xp.exp(u)))
        return h, xp.matmul(h, u.mT)

    h, ys = tinynn.scan(step, h, xs)
    return xp.sum(h * h) + xp.sum(xp.sin(ys))


W, U, H, XS = (DRAW.normal(size=shape) for shape in ((3, 3), (2, 3), (4, 3), (5, 4, 2)))


@pytest.mark.only("numpy")
def test_products_that_need_not_wait_are_one(backend: Backend) -> None:
    graph = simplified(recurrence, W, U, H, XS)
    assert products(graph) == ["once", "in each step", "once"]
    [scan] = [node for node in graph.nodes if node.name == "scan"]
    assert "exp" not in [node.name for node in scan.kwargs["body"].nodes]
    # Of the gradients, too: by w and u after the scan, by h in each step, by x not at all.
    graph = simplified(tinynn.grad(recurrence, (0, 1)), W, U, H, XS)
    assert products(graph).count("in each step") == 2
    graph = simplified(tinynn.grad(recurrence, (0, 1, 2, 3)), W, U, H[0], XS[:, 0])
    assert products(graph).count("in each step") <= 4


@pytest.mark.only("numpy")
def test_what_would_take_much_memory_stays_in_the_steps(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinynn.compiler.scans._MOST", 50)
    graph = simplified(tinynn.grad(recurrence, (0, 1)), W, U, H, XS)
    # But for products of what is kept of all steps anyhow.
    assert products(graph).count("once") == 2
    assert products(graph).count("in each step") == 6


@pytest.mark.only("numpy")
def test_what_nobody_reads_is_not_computed(backend: Backend) -> None:
    def f(h: Any, xs: Any) -> Any:
        xp = namespace(h, xs)

        def step(carry: Any, x: Any) -> Any:
            h, unread = carry
            return (xp.tanh(h + x), unread + xp.cos(x)), (xp.exp(x), h)

        return tinynn.scan(step, (h, h), xs)[1][1]

    graph = simplified(f, H[:, :2], XS)
    [scan] = [node for node in graph.nodes if node.name == "scan"]
    body = scan.kwargs["body"]
    assert [node.name for node in body.nodes] == ["add", "tanh"]
    assert (len(body.outputs), scan.kwargs["carries"]) == (2, 1)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("keepdims", [False, True])
def test_sums_over_all_steps(backend: Backend, reverse: bool, keepdims: bool) -> None:
    def f(w: Any, h: Any, xs: Any) -> Any:
        xp = namespace(w, h, xs)

        def step(carry: Any, x: Any) -> Any:
            total, sums, h = carry
            h = xp.sin(h + xp.sum(x))
            return (
                total + xp.matmul(x.mT, h),
                xp.sum(h, axis=0, keepdims=keepdims) + sums,
                h,
            ), None

        first = xp.sum(h, axis=0, keepdims=keepdims)
        return tinynn.scan(step, (w, first, h), xs, reverse=reverse)[0]

    graph = simplified(f, U, H, XS)
    assert products(graph) == ["once"]
    [scan] = [node for node in graph.nodes if node.name == "scan"]
    assert scan.kwargs["carries"] == 1


@pytest.mark.only("numpy")
def test_gradients_of_slices_are_joined(backend: Backend) -> None:
    def f(x: Any) -> Any:
        xp = namespace(x)
        return xp.sum(xp.sin(x[:, :2]) * xp.cos(x[:, 4:])) + xp.sum(x[:, 2:3] ** 3)

    graph = simplified(tinynn.grad(f), DRAW.normal(size=(3, 6)))
    names = [node.name for node in graph.nodes]
    assert names.count("concat") == 1
    assert "add" not in names
