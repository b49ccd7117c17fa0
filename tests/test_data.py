"""What X, y and weights may be, on their way through fit, predict, evaluate and files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends import Backend, MixedArrays
from tests.checks import assert_array, assert_equal
from tests.variants import WIDE
from tinynn.data import Samples
from tinynn.functional import tanh
from tinynn.layers import Layer, Linear, Scope, Sequential
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.trace import backend_of, namespace
from tinynn.training import fit, load

pytestmark = pytest.mark.reads_scalars  # the checks look at values

RNG = np.random.default_rng(5)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = (X @ np.asarray([1.0, -2.0, 0.5], "float32")).astype("float32")
LABELS = np.arange(12) % 3


@dataclass(frozen=True)
class Two(Layer):
    """A layer of two inputs."""

    def forward(self, scope: Scope, a: Any, b: Any) -> Any:
        return scope("a", Linear(2), a) + scope("b", Linear(2), b)


@dataclass(frozen=True)
class Named(Layer):
    """A layer of a dict."""

    def forward(self, scope: Scope, inputs: Any) -> Any:
        return scope("a", Linear(2), inputs["a"]) + scope("b", Linear(2), inputs["b"])


def own_loss(prediction: Any, target: Any) -> Any:
    first = prediction[:, 0] - target["first"]
    second = prediction[:, 1] - target["second"]
    xp = namespace(first)
    return xp.mean(first * first) + xp.mean(second * second)


# Trees.


@pytest.mark.only(*WIDE)
@pytest.mark.parametrize("engine", ["eager", "calls"])
@pytest.mark.parametrize("kind", [tuple, dict])
def test_several_inputs(backend: Backend, tmp_path: Path, kind: Any, engine: str) -> None:
    a, b = backend.asarray(X), backend.asarray(X[:, :2])
    y = backend.asarray(np.stack([Y, -Y], axis=1))
    net, x = (Two(), (a, b)) if kind is tuple else (Named(), {"a": a, "b": b})
    model = fit(net, x, y, epochs=2, batch_size=5, validation=0.25, engine=engine)
    assert_array(model.predict(x), backend, dtype="float32", shape=(12, 2))
    assert_equal(model.predict(x, batch_size=12), backend.to_host(model.predict(x)), backend)
    assert set(model.evaluate(x, y)) == {"loss"}
    model.save(tmp_path / "model")
    own = {"Two": Two, "Named": Named}
    loaded = load(tmp_path / "model", backend, custom=own)
    assert_equal(loaded.predict(x), backend.to_host(model.predict(x)), backend)
    short = (a, b[:5, :]) if kind is tuple else {"a": a, "b": b[:5, :]}
    with pytest.raises(ValueError, match=r"fit: X.*: expected 12 entries"):
        fit(net, short, y, epochs=1)
    bad = backend.asarray(np.where(X[:, :2] > 1, np.nan, X[:, :2]).astype("float32"))
    with pytest.raises(ValueError, match=r"fit: X\[(1|b)\], column \d: expected finite"):
        fit(net, (a, bad) if kind is tuple else {"a": a, "b": bad}, y, epochs=1)


def test_inputs_that_the_network_does_not_take(backend: Backend) -> None:
    a, y = backend.asarray(X), backend.asarray(Y)
    with pytest.raises(TypeError, match=r"fit: X: expected other inputs than 2, as Linear\(1\)"):
        fit(Linear(1), (a, a), y)
    with pytest.raises(TypeError, match=r"fit: X: expected other inputs than 1, as Two\(\)"):
        fit(Two(), a, y)


@pytest.mark.only(*WIDE)
@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_trees_of_targets(backend: Backend, engine: str) -> None:
    x = backend.asarray(X)
    y = {"first": backend.asarray(Y), "second": backend.asarray(-Y)}
    model = fit(Linear(2), x, y, loss=own_loss, epochs=3, batch_size=5, engine=engine)
    assert model.history["loss"][-1] < model.history["loss"][0]
    assert model.evaluate(x, y)["loss"] > 0
    held = fit(Linear(2), x, y, loss=own_loss, epochs=1, validation=(x, y))
    assert held.history["validation_loss"] == [held.evaluate(x, y)["loss"]]
    with pytest.raises(ValueError, match=r"fit: y\[second\]: expected 12 entries"):
        fit(Linear(2), x, {**y, "second": y["second"][:3]}, loss=own_loss)


# Integers, and one axis.


@dataclass(frozen=True)
class OneHot(Layer):
    """Integers of one axis as rows of zeros and ones."""

    def forward(self, scope: Scope, x: Any) -> Any:
        xp = namespace(x)
        assert xp.isdtype(x.dtype, "integral"), "integers stay integers"
        assert x.ndim == 1
        columns = backend_of(x).asarray(np.arange(3), x.dtype)
        return xp.astype(x[:, None] == columns[None, :], xp.float32)


def test_integers_of_one_axis_stay_what_they_are(backend: Backend, tmp_path: Path) -> None:
    x, y = backend.asarray(LABELS), backend.asarray(LABELS)
    net = Sequential(OneHot(), Linear(3))
    model = fit(net, x, y, epochs=5, batch_size=5, dtype="float32")
    assert_array(model.predict(x), backend, dtype="float32", shape=(12, 3))
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model", backend, custom={"OneHot": OneHot})
    assert_equal(loaded.predict(x), backend.to_host(model.predict(x)), backend)
    assert model.evaluate(x, y)["loss"] < 2


def test_numbers_of_one_axis(backend: Backend) -> None:
    @dataclass(frozen=True)
    class Column(Layer):
        def forward(self, scope: Scope, x: Any) -> Any:
            return x[:, None]

    y = backend.asarray(Y)
    model = fit(Sequential(Column(), Linear(1)), y, y, epochs=2, batch_size=5)
    assert_array(model.predict(y), backend, dtype="float32", shape=(12, 1))


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames_of_float32_alone_keep_it(backend: Backend, library: str) -> None:
    made = pytest.importorskip(library)
    frame = made.table if library == "pyarrow" else made.DataFrame
    columns = dict(zip("abc", X.T, strict=True))
    default = backend.dtype_name(backend.default_float)
    for last, expected in (
        (X[:, 2], "float32"),
        (X[:, 2].astype("float64"), default),
        (np.arange(12), default),
    ):
        given = frame({**columns, "c": last})
        model = fit(Linear(1), given, Y, epochs=1, backend=backend)
        assert_array(model.params["weight"], backend, dtype=expected)
        assert_array(model.predict(given), backend, dtype=expected)


def test_the_dtype_that_is_asked_for(backend: Backend) -> None:
    for name in ("float32", "float64"):
        if name in backend.dtypes():
            model = fit(Linear(1), backend.asarray(X), backend.asarray(Y), epochs=1, dtype=name)
            assert_array(model.predict(backend.asarray(X)), backend, dtype=name)
    with pytest.raises(ValueError, match=r"fit: dtype: expected float32.* got 'float12'"):
        fit(Linear(1), backend.asarray(X), backend.asarray(Y), dtype="float12")


def test_weights_of_validation(backend: Backend) -> None:
    x, y = backend.asarray(X), backend.asarray(Y)
    weights = backend.asarray(np.linspace(0.0, 1.0, 12), "float32")
    model = fit(Linear(1), x, y, epochs=2, validation=(x, y, weights), sample_weight=weights)
    expected = model.evaluate(x, y, sample_weight=weights)["loss"]
    assert model.history["validation_loss"][-1] == expected
    assert expected != model.evaluate(x, y)["loss"]
    with pytest.raises(ValueError, match="fit: validation sample_weight: expected 12 entries"):
        fit(Linear(1), x, y, validation=(x, y, weights[:3]))


# Frames.


def frames(columns: dict[str, Any]) -> list[Any]:
    import pandas
    import polars
    import pyarrow

    return [pandas.DataFrame(columns), polars.DataFrame(columns), pyarrow.table(columns)]


@pytest.mark.only("numpy")
def test_frames_of_three_libraries() -> None:
    import pyarrow

    columns = {"a": X[:, 0].tolist(), "b": X[:, 1].tolist(), "c": (X[:, 2] > 0).tolist()}
    histories, answers = [], []
    for frame, y in zip(frames(columns), frames({"y": Y.tolist()}), strict=True):
        model = fit(Linear(1), frame, y, epochs=2, validation=(frame, y))
        assert model.columns == ("a", "b", "c")
        histories.append(model.history)
        answers.append(model.predict(frame))
    assert histories[0] == histories[1] == histories[2]
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])
    by_arrow = fit(Linear(1), frames(columns)[2], pyarrow.array(Y.tolist()), epochs=2)
    assert by_arrow.history["loss"] == histories[0]["loss"]


@pytest.mark.only("numpy")
def test_gaps_in_frames_name_the_column() -> None:
    for frame in frames({"a": [1.0, 2.0, 3.0], "n": [1, None, 3]}):
        with pytest.raises(ValueError, match=r"fit: X, column 'n': expected .*got 1 of 3 rows"):
            fit(Linear(1), frame, [0.5, 1.5, 2.5])


# Sparse matrices.


@pytest.mark.only(*WIDE)
@pytest.mark.parametrize("engine", ["eager", "calls"])
@pytest.mark.parametrize("batch_size", [5, 4, None])
def test_sparse_matrices_train_by_batch(
    backend: Backend, engine: str, batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    thin = np.where(abs(X) > 0.7, X, 0)
    matrix = sparse.csr_matrix(thin)
    rows = []
    dense = sparse.csr_matrix.toarray
    monkeypatch.setattr(sparse.csr_matrix, "toarray", lambda m: rows.append(m.shape[0]) or dense(m))
    arguments: dict[str, Any] = {
        "epochs": 3, "batch_size": batch_size, "engine": engine, "backend": backend,
        "dtype": "float32",
    }  # fmt: skip
    for shuffle in (True, False):
        by_batch = fit(Linear(1), matrix, Y, shuffle=shuffle, **arguments)
        at_once = fit(Linear(1), thin, Y, shuffle=shuffle, **arguments)
        assert by_batch.history == at_once.history
    answer = backend.to_host(at_once.predict(thin.tolist()))
    assert_equal(by_batch.predict(sparse.coo_matrix(thin)), answer, backend)
    assert by_batch.evaluate(matrix, Y.tolist()) == at_once.evaluate(thin.tolist(), Y.tolist())
    bad = matrix.copy()
    bad.data[0] = np.nan
    with pytest.raises(ValueError, match=r"fit: X: expected finite numbers.*stored"):
        fit(Linear(1), bad, Y, **arguments)


# Datasets of one's own.


class Squares:
    """Numbers and their squares, made when they are asked for."""

    def __init__(self, backend: Backend, size: int = 22, weights: bool = False) -> None:
        self.backend, self.size, self.weights = backend, size, weights
        self.asked: list[int] = []

    def take(self, order: Any) -> Samples:
        host = self.backend.to_host(order)
        self.asked.append(len(host))
        x = (host[:, None] / self.size).astype("float32")
        y = x[:, 0] ** 2
        weight = self.backend.asarray(1 + y) if self.weights else None
        return Samples(self.backend.asarray(x), self.backend.asarray(y), weight)

    def between(self, start: int, stop: int) -> Samples:
        return self.take(self.backend.asarray(np.arange(start, stop)))


@pytest.mark.only(*WIDE)
@pytest.mark.parametrize("engine", ["eager", "calls"])
@pytest.mark.parametrize("weights", [False, True])
def test_a_dataset_of_ones_own(backend: Backend, engine: str, weights: bool) -> None:
    dataset = Squares(backend, weights=weights)
    whole = dataset.between(0, 22)
    net = Sequential(Linear(4), tanh, Linear(1))
    arguments: dict[str, Any] = {
        "loss": "squared_error", "epochs": 3, "batch_size": 5, "engine": engine,
        "metrics": ["r2"],
    }  # fmt: skip
    for shuffle, validation in ((True, 0.25), (False, None)):
        given = {**arguments, "shuffle": shuffle, "validation": validation}
        ours = fit(net, Squares(backend, weights=weights), **given)
        arrays = fit(net, whole.x, whole.y, sample_weight=whole.sample_weight, **given)
        assert ours.history == arrays.history
    expected = arrays.evaluate(whole.x, whole.y, sample_weight=whole.sample_weight)
    assert ours.evaluate(dataset) == expected
    held = fit(net, dataset, validation=Squares(backend, 8), **arguments)
    assert len(held.history["validation_r2"]) == 3


def test_a_dataset_is_read_batch_by_batch(backend: Backend) -> None:
    dataset = Squares(backend, size=3000)
    fit(Linear(1), dataset, loss="squared_error", epochs=1, engine="eager", batch_size=50)
    assert max(dataset.asked) == 50


def test_datasets_that_do_not_do(backend: Backend) -> None:
    dataset, y = Squares(backend), backend.asarray(Y)
    for loss in (None, SoftmaxCrossEntropy(class_weight="balanced")):
        with pytest.raises(ValueError, match="fit: loss: expected one that needs no look at all"):
            fit(Linear(1), dataset, loss=loss)
    with pytest.raises(ValueError, match=r"fit: X: expected a dataset to give targets.*got y"):
        fit(Linear(1), dataset, y, loss="squared_error")
    with pytest.raises(ValueError, match=r"fit: X: expected .*got sample_weight beside"):
        fit(Linear(1), dataset, sample_weight=y, loss="squared_error")
    with pytest.raises(ValueError, match="fit: X: expected a dataset of size 1 or more, got size"):
        fit(Linear(1), Squares(backend, 0), loss="squared_error", backend=backend)
    with pytest.raises(TypeError, match=r"fit: y: expected .*got NoneType.*a dataset alone"):
        fit(Linear(1), backend.asarray(X))

    class Bare(Squares):
        def between(self, start: int, stop: int) -> Any:
            return list(super().between(start, stop))

    with pytest.raises(TypeError, match=r"fit: X: expected a dataset whose between.*got list"):
        fit(Linear(1), Bare(backend), loss="squared_error")
    if backend != backends.get("numpy"):
        with pytest.raises(MixedArrays, match="fit: X, x: expected arrays on"):
            fit(Linear(1), Squares(backends.get("numpy")), loss="squared_error", backend=backend)


# What is refused, and how to go on.


def refused() -> list[tuple[str, Any, Any, type[Exception], str]]:
    """(name, X, y, error, message) of what other libraries make."""
    import pandas
    import polars
    import scipy.sparse

    class Dask:
        """As an array of dask's: it has no values until it computes them."""

        shape, dtype = X.shape, X.dtype

        def compute(self) -> Any:
            return X

    lists = [[1.0, 2.0]] * 12
    return [
        ("lazy", polars.DataFrame(X).lazy(), Y, TypeError, r"X: .*lazy LazyFrame.*\.collect\(\)"),
        ("lazy y", X, polars.DataFrame({"y": Y}).lazy(), TypeError, r"y: .*lazy.*\.collect\(\)"),
        ("dask", Dask(), Y, TypeError, r"X: expected an array.*got Dask.*\.compute\(\)"),
        ("iterator", iter(X), Y, TypeError, "X: expected an array.*convert it first"),
        ("sparse y", X, scipy.sparse.csr_matrix(X), TypeError, r"y: .*make it dense, \.toarray"),
        ("big-endian", X.astype(">f4"), Y, ValueError, "X: .*this machine's byte order.*Convert"),
        (
            "lists in pandas",
            pandas.DataFrame({"a": lists}),
            Y,
            ValueError,
            "X, column 'a'.*got lists of 2",
        ),
        (
            "lists in polars",
            polars.DataFrame({"a": lists}),
            Y,
            ValueError,
            "X, column 'a'.*got List",
        ),
        ("dates", np.zeros((12, 1), "M8[s]"), Y, ValueError, "X, row 0, column 0: expected a num"),
    ]


@pytest.mark.only("numpy")
def test_what_is_no_array_is_refused_with_a_way_out(backend: Backend) -> None:
    for _, x, y, error, message in refused():
        with pytest.raises(error, match=f"fit: {message}"):
            fit(Linear(1), x, y, epochs=1)


@pytest.mark.only("torch")
@pytest.mark.filterwarnings("ignore:Sparse")
def test_tensors_that_are_refused_with_a_way_out(backend: Backend) -> None:
    import torch

    tensor = torch.asarray(X)
    for x, message in (
        (tensor.to_sparse(), r"X: expected a dense array.*to_dense\(\)"),
        (tensor.bfloat16(), "X: expected float32.*Cast it"),
    ):
        with pytest.raises(ValueError, match=f"fit: {message}"):
            fit(Linear(1), x, tensor[:, :1], epochs=1)


@pytest.mark.only("jax-x64")
def test_a_dtype_of_another_package(backend: Backend) -> None:
    import ml_dtypes

    with pytest.raises(ValueError, match=r"fit: X: expected float32.*bfloat16"):
        fit(Linear(1), X.astype(ml_dtypes.bfloat16), Y, epochs=1)


@pytest.mark.only("numpy")
def test_parameters_and_layers_that_are_no_arrays_and_functions_of_arrays() -> None:
    params = {"weight": np.ones((3, 1), "float32"), "bias": 0.0}
    with pytest.raises(
        TypeError, match=r"fit: params: 'bias': expected an array.*got float.*asarr"
    ):
        fit(Linear(1), X, Y, params=params)
    with pytest.raises(TypeError, match=r"fit: net: expected functions .*tanh.*functional.tanh"):
        fit(Sequential(Linear(2), np.tanh, Linear(1)), X, Y)


@pytest.mark.only("torch")
def test_tensors_that_autograd_follows(backend: Backend) -> None:
    import torch

    x, y = (torch.asarray(a).requires_grad_() for a in (X, Y))
    model = fit(Linear(1), x, y, epochs=2)
    plain = fit(Linear(1), x.detach(), y.detach(), epochs=2)
    assert model.history == plain.history
    assert_equal(model.predict(x).detach(), backend.to_host(plain.predict(x.detach())), backend)


# Memory, and classes of what is held out.


@pytest.mark.only("numpy")
def test_holding_out_copies_nothing(variant: Any, tmp_path: Path) -> None:
    if variant.id != "numpy":
        pytest.skip("its namespace returns views that are looked at one by one")
    import tracemalloc

    rows = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (20_000, 256))
    rows[:] = 1
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    y = np.linspace(0, 1, len(x)).astype("float32")
    tracemalloc.start()
    try:
        fit(Linear(1), x, y, epochs=1, batch_size=1024, validation=0.1, engine="eager")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < x.nbytes / 2, "batches, orders and targets, and no copy of X"


def test_each_class_has_its_share_of_what_is_held_out(backend: Backend) -> None:
    from tinynn.training import prepare

    labels = np.asarray([0] * 80 + [1] * 20)
    x = backend.asarray(np.arange(100.0).reshape(-1, 1), "float32")
    problem = prepare(Linear(2), x, backend.asarray(labels), validation=0.1)
    assert problem.validation is not None
    held = backend.to_host(problem.validation.between(0, 10).y)
    assert sorted(held.tolist()) == [0] * 8 + [1] * 2
    again = prepare(Linear(2), x, backend.asarray(labels), validation=0.1)
    assert again.validation is not None
    assert backend.to_host(again.validation.between(0, 10).y).tolist() == held.tolist()
