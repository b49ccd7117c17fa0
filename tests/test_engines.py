"""Every engine of fit gives what the eager one gives: parameters, history, callbacks' view."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests.checks import assert_close
from tests.engines import compilers_of
from tests.rule_rows import skip_if_missing
from tinynn import tree
from tinynn.compiler.engines import kind_of
from tinynn.compiler.train_loop import Scanned
from tinynn.functional import (
    elu,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from tinynn.layers import BatchNorm, Dropout, Flatten, LayerNorm, Linear, Sequential
from tinynn.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    Huber,
    NegativeLogLikelihood,
    SoftmaxCrossEntropy,
    SquaredError,
)
from tinynn.optim import (
    L1,
    L2,
    SGD,
    Adam,
    AdamW,
    Chain,
    ClipByGlobalNorm,
    ClipByValue,
    RMSprop,
)
from tinynn.trace import namespace
from tinynn.training import engines, prepare
from tinynn.transforms.record import record

SMALL = Sequential(Linear(5), relu, Linear(3))
NETS = {
    "linear": Linear(3),
    "sigmoid": Sequential(Linear(5, bias=False), sigmoid, Linear(3)),
    "batch norm": Sequential(Linear(5, bias=False), BatchNorm(), tanh, Linear(3)),
    "layer norm": Sequential(Linear(5), LayerNorm(), gelu, Linear(3)),
    "dropout": Sequential(Linear(5), silu, Dropout(0.3), Linear(3)),
    "nested": Sequential(
        Flatten(), Sequential(Linear(4), elu), Sequential(leaky_relu, softplus), Linear(3)
    ),
}
OPTIMIZERS = (
    SGD(0.1),
    SGD(0.05, momentum=0.9),
    SGD(0.05, momentum=0.9, nesterov=True),
    Adam(0.01),
    AdamW(0.01),
    RMSprop(0.01),
    Chain(ClipByGlobalNorm(0.5), L2(0.01), Adam(0.01)),
    Chain(ClipByValue(0.05), L1(0.01), SGD(0.1)),
)
SETTINGS: dict[str, dict[str, Any]] = {
    "full batch": {"batch_size": None, "epochs": 9},
    "whole batches": {"batch_size": 12},
    "in order": {"shuffle": False},
    "in order, whole batches": {"shuffle": False, "batch_size": 12},
    "held out": {"validation": 0.25},
    "metrics": {"metrics": ("accuracy",)},
}
LOSSES = {
    "squared": (SquaredError(), "values"),
    "sum": (SquaredError(reduction="sum"), "values"),
    "half sum": (SquaredError(reduction="half_sum"), "values"),
    "absolute": (AbsoluteError(), "values"),
    "huber": (Huber(), "values"),
    "cross-entropy": (SoftmaxCrossEntropy(), "labels"),
    "smoothed": (SoftmaxCrossEntropy(label_smoothing=0.1), "labels"),
    "binary": (BinaryCrossEntropy(), "bits"),
    "likelihood": (NegativeLogLikelihood(), "labels"),
}

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.reads_scalars]


def data(backend: Backend) -> dict[str, Any]:
    host = np.random.RandomState(0)
    return {
        "x": backend.asarray(host.randn(36 + 5, 4)),
        "labels": backend.asarray(host.randint(0, 3, 41)),
        "values": backend.asarray(host.randn(41, 3)),
        "bits": backend.asarray((host.rand(41, 3) > 0.5).astype("float64")),
        "weights": backend.asarray(host.rand(41)),
    }


def assert_same(
    backend: Backend, net: Any, target: str = "labels", weights: bool = False, **settings: Any
) -> None:
    given = data(backend)
    settings = {"epochs": 3, "batch_size": 16, "seed": 3, **settings}
    if weights:
        settings["sample_weight"] = given["weights"]

    def trained(engine: str) -> tinynn.Model:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a step that is not compiled would say so
            return tinynn.fit(net, given["x"], given[target], engine=engine, **settings)

    eager = trained("eager")
    for compiled in map(trained, compilers_of(backend)):
        expected = dict(tree.paths(eager.params))
        for name, array in tree.paths(compiled.params):
            want = backend.to_host(expected.pop(name))
            assert_close(array, want, backend, dtype=want.dtype.name, rtol=1e-8)
        assert not expected
        assert compiled.history.keys() == eager.history.keys()
        for name, numbers in eager.history.items():
            np.testing.assert_allclose(compiled.history[name], numbers, rtol=1e-8)


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_every_layer(backend: Backend, net: Any) -> None:
    assert_same(backend, net, optimizer=SGD(0.1, momentum=0.5))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_every_optimizer(backend: Backend, optimizer: Any) -> None:
    assert_same(backend, SMALL, optimizer=optimizer)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_loss(backend: Backend, loss: Any) -> None:
    likelihood = isinstance(loss[0], NegativeLogLikelihood)
    net = Sequential(*SMALL.layers, log_softmax) if likelihood else SMALL
    assert_same(backend, net, loss[1], loss=loss[0], optimizer=SGD(0.01))
    assert_same(backend, net, loss[1], loss=loss[0], optimizer=SGD(0.01), weights=True)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_way_of_batching(backend: Backend, settings: dict[str, Any]) -> None:
    assert_same(backend, SMALL, optimizer=Adam(0.01), **settings)


def test_a_loss_of_the_users_own(backend: Backend) -> None:
    def loss(prediction: Any, target: Any) -> Any:
        xp = prediction.__array_namespace__()
        return xp.mean(xp.logaddexp(prediction, -prediction) - 0.1 * prediction * target)

    assert_same(backend, SMALL, "values", loss=loss, optimizer=SGD(0.1))


def test_a_loss_that_names_a_dtype(backend: Backend) -> None:
    def loss(prediction: Any, target: Any) -> Any:
        xp = prediction.__array_namespace__()
        error = xp.astype(prediction, xp.float32) - xp.astype(target, xp.float32)
        return xp.mean(xp.astype(error * error, prediction.dtype))

    assert_same(backend, SMALL, "values", loss=loss, optimizer=SGD(0.1))


def test_callbacks_see_and_may_replace_true_parameters(backend: Backend) -> None:
    given = data(backend)
    seen: dict[str, list[Any]] = {engine: [] for engine in ("eager", *compilers_of(backend))}

    for engine, kept in seen.items():

        def halve(run: Any, kept: list[Any] = kept) -> None:
            kept.append([backend.to_host(leaf).copy() for leaf in tree.leaves(run.params)])
            if run.epoch == 2:
                run.params = tree.map(lambda leaf: leaf * 0.5, run.params)

        tinynn.fit(SMALL, given["x"], given["labels"], epochs=5, engine=engine, callbacks=[halve])
    for eager, *others in zip(*seen.values(), strict=True):
        for compiled in others:
            for want, found in zip(eager, compiled, strict=True):
                np.testing.assert_allclose(found, want, rtol=1e-8, atol=1e-12)


def test_data_that_a_callback_changes(backend: Backend) -> None:
    try:
        data(backend)["labels"][...] = 0
    except (TypeError, ValueError):
        pytest.skip(f"the arrays of {backend!r} cannot be written into")
    histories = []
    for engine in ("eager", "calls"):
        given = data(backend)

        def relabel(run: Any, labels: Any = given["labels"]) -> None:
            labels[...] = (labels + 1) % 3

        settings: dict[str, Any] = {"batch_size": None, "epochs": 4, "callbacks": [relabel]}
        model = tinynn.fit(SMALL, given["x"], given["labels"], engine=engine, **settings)
        histories.append(model.history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-5)


def test_one_parameter_that_a_callback_replaces(backend: Backend) -> None:
    given = data(backend)

    def zero(run: Any) -> None:
        run.params["0"]["weight"] = 0 * run.params["0"]["weight"]

    found = [
        tinynn.fit(SMALL, given["x"], given["labels"], epochs=3, engine=engine, callbacks=[zero])
        for engine in ("eager", "calls")
    ]
    np.testing.assert_allclose(*[model.history["loss"] for model in found], rtol=1e-5)


def test_parameters_of_another_kind_are_refused(backend: Backend) -> None:
    given = data(backend)

    def widen(run: Any) -> None:
        run.params = tree.map(lambda leaf: backend.xp.concat([leaf, leaf]), run.params)

    name = r"params\.0\.\w+ of shape"
    words = f"a callback has replaced .* expected {name} .* got {name}"
    with pytest.raises(ValueError, match=words):
        tinynn.fit(SMALL, given["x"], given["labels"], engine="calls", callbacks=[widen])


def test_what_a_callback_keeps_stays_as_it_was(backend: Backend) -> None:
    given = data(backend)
    kept: list[tuple[Any, list[Any]]] = []

    def keep(run: Any) -> None:
        hosts = [backend.to_host(leaf).copy() for leaf in tree.leaves(run.params)]
        kept.append((run.params, hosts))

    tinynn.fit(SMALL, given["x"], given["labels"], epochs=5, engine="calls", callbacks=[keep])
    for params, hosts in kept:
        for leaf, host in zip(tree.leaves(params), hosts, strict=True):
            np.testing.assert_array_equal(backend.to_host(leaf), host)


def test_snapshots_take_the_place_of_others_only_when_told(backend: Backend) -> None:
    def step(w: Any, x: Any) -> tuple[Any, Any]:
        return w + 1.0, namespace(x).sum(x)

    w, x = (backend.asarray(np.full(shape, 1.0, "float32")) for shape in ((2, 3), (4, 2)))
    loop = kind_of("calls", backend)(record(step, w, x[:2, :]), 1, backend, [])
    loop.load([w])
    batches = loop.batches(2, [x], [])
    copies = []
    for _ in range(2):
        loop.run(batches)
        copies.append(loop.copies())
    again = loop.copies(copies[0])
    for found, value in ((copies[1], 5.0), (again, 5.0)):
        np.testing.assert_array_equal(
            backend.to_host(loop.values(found)[0]), np.full((2, 3), value)
        )
    assert (again[0] is copies[0][0]) == (backend.lowering is not None)


def test_a_value_that_is_part_of_two_sums(backend: Backend) -> None:
    def step(a: Any, b: Any, x: Any) -> tuple[Any, ...]:
        xp = namespace(x)
        u, v, r, s, t = xp.exp(a), a * x[0, 0], b * b, xp.sin(b), b * x[0, 1]
        return a - 0.1 * ((u + v) + v), b - 0.1 * ((r + s) + t), xp.sum(x)

    a, b, x = (backend.asarray(np.linspace(0, 1, n, dtype="float32")) for n in (3, 2, 2))
    x = backend.xp.reshape(x, (1, 2))
    loop = kind_of("calls", backend)(record(step, a, b, x), 2, backend, [[0, 1]])
    loop.load([a, b])
    loop.run(loop.batches(1, [x], []))
    with backend.scope():
        wanted = step(a, b, x)
    for found, expected in zip(loop.values(), wanted, strict=False):
        assert_close(found, backend.to_host(expected), backend)


def test_a_step_that_cannot_be_recorded_runs_eagerly_and_says_why(backend: Backend) -> None:
    given = data(backend)

    def loss(prediction: Any, target: Any) -> Any:
        xp = prediction.__array_namespace__()
        error = xp.mean((prediction - target) ** 2)
        return error if bool(error < 1e9) else 0 * error

    with pytest.warns(RuntimeWarning, match=r"without compiling: bool\(x\) .*test_engines.py:\d+"):
        tinynn.fit(SMALL, given["x"], given["values"], loss=loss, epochs=1, engine="calls")


def test_indices_that_are_computed_from_many_floats(backend: Backend) -> None:
    """A recording that keeps one of them for all has no range of values, and no indices."""
    table = backend.asarray(np.arange(16.0))

    def binned(x: Any) -> Any:
        xp = namespace(x)
        low, high = xp.min(x), xp.max(x)
        places = xp.clip(xp.floor((x - low) / (high - low) * 16), 0, 15)
        picked = xp.take(table, xp.astype(xp.reshape(places, (-1,)), xp.int64))
        return xp.reshape(picked, x.shape)

    x = backend.asarray(np.random.default_rng(0).standard_normal((64, 64)))
    net, y = Sequential(lambda x: x * 1.0, binned, Linear(1)), x[:, :1]
    losses = [
        tinynn.fit(net, x, y, epochs=2, batch_size=64, engine=engine).history["loss"]
        for engine in ("eager", "calls")
    ]
    np.testing.assert_allclose(*losses)


def test_a_step_of_shapes_that_follow_from_values_runs_eagerly(backend: Backend) -> None:
    given = data(backend)
    skip_if_missing(lambda: given["x"][given["x"] > 0], backend)

    def worst(prediction: Any, target: Any) -> Any:
        xp = namespace(prediction)
        errors = (prediction - target) ** 2
        return xp.mean(errors[errors > xp.mean(errors)])

    with pytest.warns(RuntimeWarning, match="without compiling: .*getitem .*follows from values"):
        tinynn.fit(SMALL, given["x"], given["values"], loss=worst, epochs=1, engine="calls")


def test_a_step_that_differs_from_call_to_call_is_not_recorded(backend: Backend) -> None:
    given, host = data(backend), np.random.RandomState(0)
    calls = []

    def noisy(x: Any) -> Any:
        noise = backend.asarray(host.randn(*x.shape), x.dtype)
        return namespace(x).add(x, noise)

    def annealed(prediction: Any, target: Any) -> Any:
        calls.append(target)
        xp = prediction.__array_namespace__()
        return xp.mean((prediction - target) ** 2) * float(len(calls))

    for net, loss in ((Sequential(Linear(3), noisy), None), (SMALL, annealed)):
        with pytest.warns(RuntimeWarning, match=r"not the same in each call: \w+ in .*py:\d+"):
            tinynn.fit(net, given["x"], given["values"], loss=loss, epochs=1, engine="calls")


def test_divergence_stops_at_the_same_epoch(backend: Backend) -> None:
    given = data(backend)
    with backend.scope():
        large = 1e3 * given["x"]

    def history(engine: str) -> list[float]:
        quiet = np.errstate(all="ignore")  # NumPy warns of the overflow itself
        with quiet, pytest.warns(RuntimeWarning, match="no longer finite"):
            model = tinynn.fit(
                Linear(3),
                large,
                given["values"],
                optimizer=SGD(0.5),
                epochs=500,
                batch_size=None,
                engine=engine,
            )
        return model.history["loss"]

    eager = history("eager")
    for compiled in map(history, compilers_of(backend)):
        assert len(eager) == len(compiled) < 500
        np.testing.assert_allclose(compiled[:20], eager[:20], rtol=1e-8)


def test_an_engine_that_does_not_exist(backend: Backend) -> None:
    given = data(backend)
    with pytest.raises(ValueError, match=r"engine: expected one of 'auto'.*got 'quantum'"):
        tinynn.fit(SMALL, given["x"], given["labels"], engine="quantum")


@pytest.mark.only("jax", "numpy")
def test_calls_and_jit(backend: Backend) -> None:
    given = data(backend)
    settings: dict[str, Any] = {"epochs": 2, "optimizer": Adam(0.01)}
    by_calls = tinynn.fit(SMALL, given["x"], given["labels"], engine="calls", **settings)
    if backend.repeat is None:
        with pytest.raises(ValueError, match="no compiler of its own"):
            tinynn.fit(SMALL, given["x"], given["labels"], engine="jit", **settings)
        return
    by_jit = tinynn.fit(SMALL, given["x"], given["labels"], engine="jit", **settings)
    np.testing.assert_allclose(by_jit.history["loss"], by_calls.history["loss"], rtol=1e-8)


def test_auto_compiles_long_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinynn.training.engines import compiled

    made = []
    original = compiled.Compiled.__init__

    def noted(self: Any, *args: Any) -> None:
        made.append(args)
        original(self, *args)

    monkeypatch.setattr(compiled.Compiled, "__init__", noted)
    x = np.random.RandomState(0).randn(20, 3)
    tinynn.fit(Linear(1), x, x[:, 0], epochs=2)
    assert not made
    tinynn.fit(Linear(1), x, x[:, 0], epochs=500)
    assert made


def test_two_trainings_at_once_do_not_meet() -> None:
    x = np.random.RandomState(0).randn(64, 3)
    alone = tinynn.fit(SMALL, x, x[:, 0] > 0, epochs=30, engine="calls").history["loss"]

    def train(_: int) -> Any:
        return tinynn.fit(SMALL, x, x[:, 0] > 0, epochs=30, engine="calls").history["loss"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(train, range(4))) == [alone] * 4


@pytest.mark.only("numpy", "torch", "cupy")
@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.9), Adam(0.01)], ids=str)
def test_large_networks(backend: Backend, optimizer: Any) -> None:
    """Where vectors go by pieces, and slopes are comparisons."""
    host = np.random.RandomState(0)
    x, y = backend.asarray(host.randn(60, 150)), backend.asarray(host.randint(0, 3, 60))
    net = Sequential(Linear(200), relu, Linear(30), relu, Linear(3))

    def params(engine: str) -> Any:
        settings: dict[str, Any] = {"optimizer": optimizer, "batch_size": 30, "epochs": 3}
        return tinynn.fit(net, x, y, engine=engine, **settings).params

    for a, b in zip(tree.leaves(params("calls")), tree.leaves(params("eager")), strict=True):
        assert_close(a, backend.to_host(b), backend, rtol=1e-9, atol=1e-9)


@pytest.mark.only("jax")
def test_what_was_compiled_is_kept(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    repeat = type(backend).repeat

    def counted(self: Any, step: Any) -> Any:
        compiled.append(step)
        return repeat(self, step)

    monkeypatch.setattr(type(backend), "repeat", counted)
    monkeypatch.setattr(Scanned, "_compiled", {})
    given = data(backend)

    def loss(seed: int = 0, rate: float = 0.1, weights: Any = None) -> float:
        scale = backend.asarray(np.full((41, 1), 0.5) if weights is None else weights)
        net = Sequential(Linear(3), lambda x: x * scale[:, :1])
        settings: dict[str, Any] = {"optimizer": SGD(rate), "engine": "jit", "batch_size": None}
        model = tinynn.fit(net, given["x"], given["labels"], seed=seed, epochs=2, **settings)
        return model.history["loss"][-1]

    first = loss()
    assert len(compiled) == 1
    assert loss() == first
    assert loss(seed=1) != first
    assert len(compiled) == 1  # the same program, started elsewhere
    assert loss(rate=0.2) != first
    assert loss(weights=np.linspace(0, 1, 41)[:, None]) != first  # what it holds is another array
    assert len(compiled) == 3
    wide = np.ones((41, 41))
    assert loss(weights=wide) == loss(weights=wide.copy())
    assert len(compiled) == 4
    assert loss(weights=np.triu(wide)) != first
    assert len(compiled) == 5


@pytest.mark.only("jax")
def test_what_another_thread_removes_is_compiled(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Emptied(dict[Any, Any]):
        """As if another thread were always sooner."""

        def __setitem__(self, key: Any, value: Any) -> None:
            pass

    monkeypatch.setattr(Scanned, "_compiled", Emptied())
    given = data(backend)
    model = tinynn.fit(Linear(3), given["x"], given["labels"], epochs=2, engine="jit")
    assert len(model.history["loss"]) == 2


def test_a_large_network_is_compiled_in_shorter_runs(backend):
    x, y = (
        backend.asarray(np.ones((2, 600), "float32")),
        backend.asarray(np.ones((2, 1), "float32")),
    )
    chosen = {}
    for width in (4, 600):
        problem = prepare(Sequential(Linear(width), Linear(1)), x, y, loss="mse", batch_size=None)
        chosen[width] = engines.select(problem, "auto", epochs=150).name
    assert chosen[4] == "eager"
    assert chosen[600] == ("calls" if backend.repeat is None else "jit")
