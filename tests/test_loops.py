"""The emitter `loops` computes what the step, as it is written, computes."""

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="loops are compiled by numba, which is not installed")

import backends
from backends import openblas
from tinynn import fit, grad, tree
from tinynn.compiler import loops as compiler_of_loops
from tinynn.compiler.loops import CannotEmit, Loops, worth_compiling
from tinynn.functional import elu, gelu, leaky_relu, relu, sigmoid, silu, softplus, tanh
from tinynn.layers import BatchNorm, Dropout, Flatten, LayerNorm, Linear, Sequential
from tinynn.losses import AbsoluteError, BinaryCrossEntropy, Huber, SquaredError
from tinynn.optim import L1, L2, SGD, AdamW, Chain, ClipByGlobalNorm, ClipByValue, RMSprop
from tinynn.trace import namespace
from tinynn.transforms.record import record

NUMPY = backends.get("numpy")
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((50, 6)).astype("float32")
LABELS = RANDOM.integers(0, 3, 50)
NUMBERS = RANDOM.standard_normal((50, 2)).astype("float32")
WEIGHTS = RANDOM.random(50).astype("float32")
PLAIN = Sequential(Linear(5), relu, Linear(3))
PICKS = (
    lambda x: x[1:3, ::2],
    lambda x: x[0, ...] * x[-1, ...],
    lambda x: x[:, None, 1],
    lambda x: x[::-1, :-1],
)


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    """Falling back is announced by a warning, and must not happen here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def agree(net: Any, y: Any = LABELS, x: Any = X, **settings: Any) -> None:
    settings = {"epochs": 3, "batch_size": 25, "seed": 3, "progress": False} | settings
    eager = fit(net, x, y, engine="eager", **settings)
    loops = fit(net, x, y, engine="loops", **settings)
    np.testing.assert_allclose(loops.history["loss"], eager.history["loss"], rtol=1e-4)
    for (path, a), (same, b) in zip(
        tree.paths(eager.params), tree.paths(loops.params), strict=True
    ):
        assert path == same
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            b, a, rtol=1e-3, atol=2e-4 * float(np.abs(a).max()), err_msg=path
        )


NETS = {
    "one layer": Linear(3),
    "batch norm": Sequential(Linear(5, bias=False), BatchNorm(), tanh, Linear(3)),
    "layer norm": Sequential(Linear(5), LayerNorm(), gelu, Linear(3)),
    "dropout": Sequential(Linear(5), silu, Dropout(0.3), Linear(3)),
    "deep": Sequential(Flatten(), Sequential(Linear(4), elu, Linear(3), leaky_relu), Linear(3)),
    "smooth": Sequential(Linear(5), softplus, Linear(1), sigmoid, Linear(3)),
}


@pytest.mark.parametrize("name", NETS)
def test_layers(name: str) -> None:
    agree(NETS[name], optimizer=SGD(0.1))


OPTIMIZERS = [
    SGD(0.05, momentum=0.9),
    SGD(0.05, momentum=0.9, nesterov=True),
    AdamW(0.01),
    RMSprop(0.01),
    Chain(ClipByGlobalNorm(0.5), L2(0.01), SGD(0.1)),
    Chain(ClipByValue(0.05), L1(0.01), SGD(0.1)),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_optimizers(optimizer: Any) -> None:
    agree(Linear(3), optimizer=optimizer)


LOSSES = [
    SquaredError(),
    SquaredError(reduction="sum"),
    SquaredError(reduction="half_sum"),
    AbsoluteError(),
    Huber(),
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses(loss: Any) -> None:
    agree(Linear(2), NUMBERS, loss=loss, optimizer=SGD(0.001))


def test_binary_loss() -> None:
    agree(Linear(1), LABELS == 1, loss=BinaryCrossEntropy(), optimizer=SGD(0.1))


HOW = {
    "shuffled, with a rest": {"batch_size": 16},
    "in order, with a rest": {"batch_size": 16, "shuffle": False},
    "in order": {"shuffle": False},
    "all at once": {"batch_size": None, "epochs": 50},
    "one by one": {"batch_size": 1},
    "weights": {"sample_weight": WEIGHTS},
    "held out": {"validation": 0.2, "metrics": "accuracy"},
}


@pytest.mark.parametrize("how", HOW)
def test_ways_of_training(how: str) -> None:
    agree(PLAIN, **HOW[how])


def test_float64() -> None:
    agree(PLAIN, x=X.astype("float64"))


def test_dropout_with_a_rest() -> None:
    agree(Sequential(Dropout(0.3), Linear(3)), batch_size=16)


def test_goes_on_from_given_parameters() -> None:
    start = PLAIN.init(7, X)[0]
    before = [np.array(leaf) for leaf in tree.leaves(start)]
    agree(PLAIN, params=start)
    for leaf, kept in zip(tree.leaves(start), before, strict=True):
        np.testing.assert_array_equal(leaf, kept)


# Programs of one kind of call each.


def emitted(f: Any, *given: Any, rtol: float = 3e-6) -> Loops:
    """The arrays that `f(xp, *given)` gives, by loops and as it is written."""

    def step(values: Any, given: Any) -> tuple[Any, Any]:
        xp = given[0].__array_namespace__()
        return f(xp, *given), xp.sum(given[0][:1, ...] * 0)

    with np.errstate(all="ignore"):
        expected = [np.asarray(each) for each in f(NUMPY.xp, *given)]
        start = [np.zeros_like(each) for each in expected]
        graph = record(step, start, list(given), decompositions=NUMPY.lowering.decompositions)
    loops = Loops(graph, len(start), NUMPY, [])
    loops.load(start)
    loops.run(loops.steps(1, given), 2)
    for got, wanted in zip(loops.values(), expected, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol)
    return loops


def numbers(*shape: int, dtype: str = "float32") -> Any:
    return (RANDOM.standard_normal(shape) * 2).astype(dtype)


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-38, 89.0, -104.0, 88.5, 1, -1, 700, 0.5, 2.5]
ONES = """abs acosh asinh atan ceil cos cosh exp expm1 floor isfinite isinf isnan log log1p log2
log10 negative positive reciprocal round sign sin sinh sqrt square tan tanh trunc""".split()
TWOS = """add atan2 copysign divide equal greater greater_equal hypot less less_equal logaddexp
maximum minimum multiply not_equal subtract""".split()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_numbers(dtype: str) -> None:
    x = np.asarray(SPECIAL * len(SPECIAL), dtype=dtype)
    y = np.repeat(np.asarray(SPECIAL, dtype=dtype), len(SPECIAL))

    def each(xp: Any, x: Any, y: Any) -> list[Any]:
        ones = [getattr(xp, name)(x) for name in ONES]
        twos = [getattr(xp, name)(x, y) for name in TWOS]
        return [*ones, *twos, xp.where(x > y, x, y), xp.clip(x, -1.0, 2.0), xp.pow(xp.abs(x), 1.5)]

    with np.errstate(all="ignore"):
        emitted(each, x, y, rtol=3e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "uint32"])
def test_functions_of_integers(dtype: str) -> None:
    limits = np.iinfo(dtype)
    special = [0, 1, 2, 7, limits.max, limits.min, limits.max - 1]
    x = np.asarray(special * len(special), dtype=dtype)
    y = np.repeat(np.asarray(special, dtype=dtype), len(special))

    def each(xp: Any, x: Any, y: Any) -> list[Any]:
        few = xp.bitwise_and(y, 7)
        two = [getattr(xp, f"bitwise_{name}")(x, y) for name in ("and", "or", "xor")]
        moved = [xp.bitwise_left_shift(x, few), xp.bitwise_right_shift(x, few), ~x]
        sums = [x + y, x - y, x * y, x + 3, x < y, xp.maximum(x, y), xp.astype(x, xp.float32)]
        return [*two, *moved, *sums, xp.sum(x), xp.max(x), xp.min(y), xp.any(x == y), x > 2]

    emitted(each, x, y)


SHAPES = [(4, 3, 5), (1, 7, 64), (6, 64, 10), (9, 17, 33), (5, 4, 1), (1, 9, 1), (4, 1, 40)]


def from_size(monkeypatch: pytest.MonkeyPatch, multiplications: int) -> None:
    """Leave products of so many multiplications or more to BLAS."""
    products = NUMPY.native().products
    for dtype in products:
        monkeypatch.setitem(products, dtype, multiplications)


PRODUCTS = [("loops", "float32", shape) for shape in SHAPES]
PRODUCTS += [("BLAS", dtype, (9, 17, 33)) for dtype in ("float32", "float64")]


@pytest.mark.parametrize(("how", "dtype", "shape"), PRODUCTS, ids=str)
def test_products(
    how: str, dtype: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    m, k, n = shape
    a, b, c, d = (numbers(*each, dtype=dtype) for each in ((m, k), (k, n), (n, k), (k, m)))
    from_size(monkeypatch, 1 if how == "BLAS" else 2**60)

    def each(xp: Any, a: Any, b: Any, c: Any, d: Any) -> list[Any]:
        product = a @ b
        chained = product @ xp.matrix_transpose(b)
        return [product, a @ c.mT, d.mT @ b, (d.mT @ c.mT) * 2, chained, product.mT @ a]

    loops = emitted(each, a, b, c, d, rtol=2e-4 if dtype == "float32" else 1e-13)
    blas = how == "BLAS" and openblas.product(dtype) is not None
    assert loops.source.count(f"product_{dtype}(") == (6 if blas else 0)


@pytest.mark.parametrize("large", [1, 2**60], ids=["BLAS", "loops"])
def test_products_of_stacks_vectors_and_integers(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_size(monkeypatch, large)
    a, b, v = numbers(3, 4, 6), numbers(6, 5), numbers(6)

    def each(xp: Any, a: Any, b: Any, v: Any, i: Any) -> list[Any]:
        return [a @ b, a @ v, v @ b, v @ v, xp.matrix_transpose(a) @ a, i @ i.mT]

    emitted(each, a, b, v, np.arange(12, dtype="int32").reshape(3, 4), rtol=1e-4)


def rowwise(x: Any, rows: Any) -> Any:
    return namespace(x).take(x, rows, axis=0) ** 2


def test_what_is_picked_by_numbers_known_beforehand() -> None:
    x, some = numbers(4, 5), np.asarray([3, -1, 0, 3])

    def each(xp: Any, x: Any, rows: Any) -> list[Any]:
        parts = x[1:, ::2], xp.take(x, rows, axis=0), xp.take(x, some[:2], axis=1)
        gradients = [grad(lambda x, p=p: namespace(x).sum(p(x) ** 2))(x) for p in PICKS]
        return [*parts, *gradients, grad(lambda x: namespace(x).sum(rowwise(x, rows)))(x)]

    emitted(each, x, np.asarray([0, 2, 2, -4, 1]))


def test_indices_out_of_range_are_refused_before_loops_run() -> None:
    def step(w: Any, rows: Any) -> tuple[Any, Any]:
        return w * 0.5, namespace(w).sum(rowwise(w, rows))

    rows = np.asarray([0, 3])
    graph = record(step, numbers(4, 2), rows)
    loops = Loops(graph, 1, NUMPY, [])
    loops.load([numbers(4, 2)])
    batches = loops.steps(1, [rows])
    for wrong in (4, -5):  # whatever is changed after the batches were made
        loops.run(batches)
        rows[0] = wrong
        with pytest.raises(IndexError, match=f"rows: expected indices from -4 to 3, got .*{wrong}"):
            loops.run(batches)
        rows[0] = 0
    outside = np.asarray([0, 3])
    graph = record(lambda w, x: (w + x, step(w, outside)), numbers(4, 2), numbers(2))
    loops = Loops(graph, 1, NUMPY, [])
    loops.load([numbers(4, 2)])
    batches = loops.steps(1, [numbers(2)])
    loops.run(batches)
    outside[:] = 9
    with pytest.raises(IndexError, match="outside: expected indices from -4 to 3, got 9 to 9"):
        loops.run(batches)


def test_indices_that_the_step_computes_are_left_to_calls() -> None:
    def step(w: Any, x: Any) -> tuple[Any, Any]:
        xp = x.__array_namespace__()
        best = xp.astype(xp.round(xp.abs(x)), xp.int64)
        return w * 0.5, xp.sum(xp.take(w, best, axis=0))

    graph = record(step, numbers(9, 2), numbers(3))
    with pytest.raises(CannotEmit, match=r"take\(.*test_loops.*the step computes its indices"):
        Loops(graph, 1, NUMPY, [])


def test_data_that_lies_in_steps() -> None:
    def step(w: Any, x: Any) -> tuple[Any, Any]:
        xp = x.__array_namespace__()
        return w * 0.5 + x + every, xp.sum(x)

    every, x = numbers(3, 2)[:, 0], numbers(6, 4)[:, 1]
    graph = record(step, numbers(3), x[:3])
    loops = Loops(graph, 1, NUMPY, [])
    loops.load([np.zeros(3, "float32")])
    loops.run(loops.batches(3, [x], ()))
    np.testing.assert_allclose(loops.values()[0], (x[:3] + every) * 0.5 + x[3:] + every, rtol=1e-6)


def test_reductions() -> None:
    x, y = numbers(4, 3, 5), numbers(5)

    def each(xp: Any, x: Any, y: Any) -> list[Any]:
        out = []
        for axis in (None, 0, 1, 2, (0, 1), (0, 2), (1, 2)):
            out += [xp.sum(x * y, axis=axis), xp.max(x, axis=axis, keepdims=True)]
            out += [xp.prod(x, axis=axis), xp.any(x > 3, axis=axis), xp.min(x + y, axis=axis)]
        return out

    emitted(each, x, y, rtol=2e-5)


def test_views() -> None:
    x, y = numbers(4, 6), numbers(3, 1, 8)

    def each(xp: Any, x: Any, y: Any) -> list[Any]:
        turned = xp.reshape(xp.exp(xp.permute_dims(y, (2, 0, 1))), (6, 4))
        part = x[1:3, ::2] + turned[:2, 1:]
        wide = xp.broadcast_to(x[:, :1], (4, 3)) * xp.expand_dims(part[0, :], axis=0)
        flat = xp.reshape(xp.matrix_transpose(x), (-1,))
        joined = xp.concat([xp.exp(flat), flat[:5]], axis=0)
        beside = xp.concat([x, x * 2], axis=1)
        return [turned, part, wide, flat, joined, beside, xp.moveaxis(y, 0, -1) * 2]

    emitted(each, x, y)


def test_new_values_that_are_the_old_ones_of_others() -> None:
    def step(a: Any, b: Any, c: Any, x: Any) -> Any:
        xp = x.__array_namespace__()
        new = a * 0.5 + b.mT + xp.sum(c)
        return b, a + 1.0, xp.matrix_transpose(c) + new, xp.sum(new * x)

    start = [numbers(3, 3) for _ in range(3)]
    x = numbers(4, 3, 3)
    graph = record(step, *start, x[0])
    loops = Loops(graph, 3, NUMPY, [])
    loops.load(start)
    outs = loops.run(loops.batches(3, [x.reshape(-1, 3)], ()))
    values, wanted = start, []
    for each in x:
        *values, out = step(*values, each)
        wanted.append(out)
    np.testing.assert_allclose(outs, wanted, rtol=1e-4)
    for got, value in zip(loops.values(), values, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5)


# What cannot be emitted, and what is kept.


def test_falling_back_is_announced() -> None:
    def sorted_features(x: Any) -> Any:
        return x.__array_namespace__().sort(x, axis=1)

    net = Sequential(sorted_features, Linear(3))
    settings: dict[str, Any] = {"epochs": 1, "progress": False}
    with pytest.warns(RuntimeWarning, match=r'engine="calls" instead: sort\(') as said:
        model = fit(net, X, LABELS, engine="loops", **settings)
    assert len(said) == 1
    again = fit(net, X, LABELS, engine="calls", **settings)
    np.testing.assert_allclose(model.history["loss"], again.history["loss"])


def test_what_has_no_loops_is_named() -> None:
    with pytest.raises(CannotEmit, match="cumulative_sum"):
        emitted(lambda xp, x: [xp.cumulative_sum(x)], numbers(5))


def test_numba_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends import numpy as here

    monkeypatch.setattr(here, "find_spec", lambda name: None)
    with pytest.raises(backends.BackendUnavailable, match=r"pip install tinynn-xp\[numba\]"):
        fit(PLAIN, X, LABELS, engine="loops", progress=False)


@pytest.fixture
def loops_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often loops ran."""
    turns: list[int] = []
    run = Loops.run

    def counted(self: Loops, batches: Any, times: int = 1) -> Any:
        turns.append(times)
        return run(self, batches, times)

    monkeypatch.setattr(Loops, "run", counted)
    return turns


def test_auto_takes_loops_for_long_runs_alone(
    loops_run: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 150, "progress": False}
    fit(PLAIN, X, LABELS, **settings)
    assert not loops_run  # compiling would take longer
    monkeypatch.setattr(compiler_of_loops, "_COMPILING", 0.0)
    monkeypatch.setattr(compiler_of_loops, "_COMPILING_CALL", 1e-7)
    fit(PLAIN, X, LABELS, callbacks=lambda run: None, **settings)
    assert not loops_run  # it might be ended at once
    model = fit(PLAIN, X, LABELS, **settings)
    assert loops_run
    again = fit(PLAIN, X, LABELS, engine="calls", **settings)
    np.testing.assert_allclose(model.history["loss"], again.history["loss"], rtol=1e-4)


def test_auto_does_without_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends import numpy as here

    monkeypatch.setattr(compiler_of_loops, "_COMPILING", 0.0)
    monkeypatch.setattr(compiler_of_loops, "_COMPILING_CALL", 1e-7)
    settings: dict[str, Any] = {"epochs": 150, "progress": False}
    calls = fit(PLAIN, X, LABELS, engine="calls", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(here, "find_spec", lambda name: None)  # without a word about Numba
        assert fit(PLAIN, X, LABELS, **settings).history == calls.history
    cannot = Sequential(lambda x: x.__array_namespace__().sort(x, axis=1), Linear(3))
    calls = fit(cannot, X, LABELS, engine="calls", **settings)
    assert fit(cannot, X, LABELS, **settings).history == calls.history


def test_what_is_worth_compiling() -> None:
    def graph(width: int) -> Any:
        x = numbers(width)
        return record(lambda x: x * 2 + 1, x)

    assert not worth_compiling(graph(4), 100_000)
    assert worth_compiling(graph(4), 100_000_000)
    assert not worth_compiling(graph(2**19), 100_000_000)  # there the work counts, not the calls

    def powers(n: int) -> Any:
        return record(lambda x: namespace(x).pow(x, x), np.zeros(n))

    assert worth_compiling(powers(4), 100_000_000)
    assert not worth_compiling(powers(2**12), 100_000_000)  # a library's are quicker
