"""Bad input: a clear error before any training, on every backend.

Each message says what failed and where, what was expected and what came.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polars import DataFrame, Series

import backends
from backends import Backend, BackendUnavailable, MixedArrays
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Layer, Linear, Sequential, ShapeError
from tinynn.losses import SquaredError
from tinynn.trace import namespace
from tinynn.training import EarlyStopping, Model, fit, load
from tinynn.training.step import TrainingStep

pytestmark = pytest.mark.reads_scalars  # the loss looks at the range of the labels

NET = Sequential(Linear(4), relu, Linear(3))


@pytest.fixture(autouse=True)
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may get as far as a step of training."""

    def refuse(*args: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(TrainingStep, "__call__", refuse)


@pytest.fixture
def x(backend: Backend) -> Any:
    return backend.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], "float32")


@pytest.fixture
def y(backend: Backend) -> Any:
    return backend.asarray([0, 1, 2, 0])


@pytest.fixture
def model(backend: Backend) -> Model:
    x = backend.asarray(np.zeros((1, 2), "float32"))
    return Model(NET, *NET.init(0, x))


def host(backend: Backend, values: Any, name: str) -> Any:
    """Values as an array of the backend, in the dtype of that name."""
    return backend.asarray(np.asarray(values), name)


# Widths.


def test_widths_that_do_not_fit_name_the_layer(backend: Backend, x: Any, y: Any) -> None:
    params = NET.init(0, x)[0]
    params["2"] = Linear(3).init(0, host(backend, np.zeros((1, 5)), "float32"))[0]
    with pytest.raises(ShapeError, match=r"layer 2, Linear\(3\): expected .*5.*got .*4"):
        NET(params, x)
    with pytest.raises(ValueError, match=r"fit: params: '2.weight': expected \(4, 3\).*\(5, 3\)"):
        fit(NET, x, y, params=params)
    with pytest.raises(ShapeError, match=r"layer 0, Linear\(4\): expected .*2.*got .*3"):
        Model(NET, *NET.init(0, x)).predict(host(backend, np.zeros((4, 3)), "float32"))


def test_validation_of_another_width(backend: Backend, x: Any, y: Any) -> None:
    wide = host(backend, np.zeros((4, 3)), "float32")
    with pytest.raises(ValueError, match=r"validation X: expected rows .*\(2,\).*got \(3,\)"):
        fit(NET, x, y, validation=(wide, y))


def test_x_that_is_no_table(backend: Backend, x: Any, y: Any) -> None:
    with pytest.raises(ShapeError, match=r"layer 0, Linear\(4\): expected .*got \(batch\)"):
        fit(NET, x[:, 0], y)


def test_outputs_that_do_not_fit_y(backend: Backend, x: Any) -> None:
    with pytest.raises(ShapeError, match=r"SquaredError.*\(4, 3\).*got \(4, 2\)"):
        fit(NET, x, x, loss="squared_error")


# Text, NaN, gaps.

TABLES: list[tuple[Callable[[Backend], Any], str]] = [
    (
        lambda b: [[1.0, 2.0], [1.0, "red"]],
        "X, row 1, column 1: .* got text: 'red'",
    ),
    (lambda b: [[1.0, None], [1.0, 2.0]], "X, row 0, column 1: expected a number, got None"),
    (lambda b: [[1.0, float("nan")], [1.0, 2.0]], "X, column 1: expected finite.*1 of 2 rows"),
    (lambda b: [[1.0, 2.0], [1.0]], r"X, row 1: expected shape \(2,\).*got \(1,\)"),
    (
        lambda b: DataFrame({"a": [1, 2], "hue": ["red", "blue"]}),
        "X, column 'hue'.*got text: 'red'",
    ),
    (
        lambda b: DataFrame({"a": [1, 2], "hue": [None, 1.5]}),
        "X, column 'hue': expected numbers, got 1 of 2 rows that are missing",
    ),
    (
        lambda b: DataFrame({"a": [1, 2], "hue": [np.nan, 1.5]}),
        "X, column 'hue': expected finite.*1 of 2 rows",
    ),
    (
        lambda b: DataFrame({"a": [1, 2], "day": [date(2020, 1, 1)] * 2}),
        "X, column 'day': expected numbers, got Date",
    ),
    (lambda b: host(b, [[1, np.nan], [3, np.nan]], "float32"), "X, column 1: .*2 of 2 rows"),
    (lambda b: host(b, [[-np.inf, 1], [3, 4]], "float32"), "X, column 0: .*1 of 2 rows"),
    (lambda b: {}, "X: expected an array, got none"),
    (lambda b: "digits.csv", "X: expected an array.*got str"),
]


@pytest.mark.parametrize(("table", "message"), TABLES)
def test_text_and_gaps_in_x_name_the_column(
    backend: Backend, table: Callable[[Backend], Any], message: str
) -> None:
    value = table(backend)
    own = backend if backends.is_array(value) else None
    y = [0, 1] if own is None else backend.asarray([0, 1])
    with pytest.raises((ValueError, TypeError), match="fit: " + message):
        fit(NET, value, y, backend=own or backend)


def test_text_and_nan_in_predict_and_evaluate(backend: Backend, model: Model) -> None:
    with pytest.raises(ValueError, match=r"predict: X, row 0, column 1: .*'red'"):
        model.predict([[1.0, "red"]])
    with pytest.raises(ValueError, match="predict: X, column 0: expected finite"):
        model.predict(host(backend, [[np.nan, 1.0]], "float32"))
    with pytest.raises(ValueError, match="evaluate: y: expected 1 entries"):
        model.evaluate([[1.0, 2.0]], [1, 2])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (["cat", "dog", "cat", "dog"], "y, row 0: expected a number, got text: 'cat'"),
        (Series("kind", ["cat", "dog", "cat", "dog"]), "y, column 'kind', row 0.*text: 'cat'"),
        ([0.5, float("nan"), 1.0, 2.0], "y: expected finite numbers, got 1 of 4 rows"),
    ],
)
def test_text_and_nan_in_y(backend: Backend, x: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match="fit: " + message):
        fit(NET, x, target)


@pytest.mark.only("numpy")
def test_text_in_frames_of_pandas_and_polars(backend: Backend) -> None:
    import pandas
    import polars

    for library in (pandas, polars):
        columns = {"size": [1.0, 2.0], "hue": ["red", "blue"]}
        with pytest.raises(ValueError, match=r"fit: X, column 'hue'.*got text: 'red'"):
            fit(NET, library.DataFrame(columns), [0, 1])
        with pytest.raises(ValueError, match=r"fit: y, column 'hue'.*got text: 'red'"):
            fit(NET, [[1.0], [2.0]], library.DataFrame(columns)["hue"])
        columns = {"size": [1.0, 2.0], "hue": [None, 2.0]}
        with pytest.raises(ValueError, match=r"fit: X, column 'hue'.*1 of 2 rows"):
            fit(NET, library.DataFrame(columns), [0, 1])
    with pytest.raises(ValueError, match=r"fit: X, column 'n'.*1 of 2 rows that are missing"):
        fit(NET, pandas.DataFrame({"n": pandas.array([1, None], dtype="Int64")}), [0, 1])


@pytest.mark.only("numpy")
def test_arrays_of_text(backend: Backend) -> None:
    with pytest.raises(ValueError, match="fit: X, row 0, column 0: expected a number, got text"):
        fit(NET, np.asarray([["1", "a"], ["2", "b"]]), [0, 1])
    with pytest.raises(ValueError, match="fit: X, row 1, column 1: expected a number, got text"):
        fit(NET, np.asarray([[1, 2], [2, "b"]], dtype=object), [0, 1])


def test_complex_x(backend: Backend, x: Any, y: Any) -> None:
    if "complex64" in backend.dtypes():
        with pytest.raises(
            ValueError, match=r"fit: X: expected real numbers, got dtype.*complex64"
        ):
            fit(NET, backend.xp.astype(x, backend.dtypes()["complex64"]), y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x.view(np.matrix), r"got matrix: .*give np\.asarray\(x\)"),
        (np.ma.masked_invalid, r"got MaskedArray: .*fill it, x\.filled\(0\.0\)"),
    ],
    ids=["matrix", "masked array"],
)
def test_arrays_that_are_not_plain(
    backend: Backend, model: Model, make: Callable[..., Any], message: str
) -> None:
    x, y = np.asarray([[1.0, np.nan], [3.0, 4.0]]), [0, 1]
    with pytest.raises(TypeError, match=f"fit: X: expected a plain array, {message}"):
        fit(NET, make(x), y, backend=backend)
    with pytest.raises(TypeError, match=f"fit: X: expected a plain array, {message}"):
        fit(NET, make(x), y)
    with pytest.raises(TypeError, match=f"fit: X, row 1: expected a plain array, {message}"):
        fit(NET, [[1.0, 2.0], make(x[1])], y, backend=backend)
    with pytest.raises(TypeError, match=f"fit: y: expected a plain array, {message}"):
        fit(NET, [[1.0, 2.0]], make(x[:1]), backend=backend)
    with pytest.raises(TypeError, match=f"predict: X: expected a plain array, {message}"):
        model.predict(make(x))
    for take in (backends.of, backend.asarray):
        with pytest.raises(TypeError, match=f"expected a plain array, {message}"):
            take(make(x))


# Labels.


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [-1, 0, 1, 2]])
def test_labels_out_of_range(backend: Backend, x: Any, labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"expected labels from 0 to 2.*got labels from"):
        fit(NET, x, backend.asarray(labels))


def test_labels_out_of_range_in_validation(backend: Backend, x: Any, y: Any) -> None:
    with pytest.raises(ValueError, match=r"expected labels from 0 to 2.*got labels from 0 to 7"):
        fit(NET, x, y, validation=(x, backend.asarray([0, 1, 2, 7])))


def test_labels_out_of_range_for_one_output(backend: Backend, x: Any) -> None:
    y = backend.asarray([0, 1, 2, 1])
    with pytest.raises(ValueError, match="expected targets from 0 to 1"):
        fit(Linear(1), x, y, loss="binary_cross_entropy")
    with pytest.raises(ValueError, match=r"cannot choose one .* from 0 to 2, with .* 1 output\."):
        fit(Linear(1), x, y)


# Too little, too much.


def test_empty_data(backend: Backend, x: Any, y: Any, model: Model) -> None:
    with pytest.raises(ValueError, match=r"fit: X: expected at least one sample.*\(0, 2\)"):
        fit(NET, x[:0, :], y[:0])
    with pytest.raises(ValueError, match=r"fit: X: expected at least one sample.*\(4, 0\)"):
        fit(NET, x[:, :0], y)
    with pytest.raises(ValueError, match=r"fit: X: expected at least one sample.*got shape \(0,\)"):
        fit(NET, [], [], backend=backend)
    with pytest.raises(ValueError, match="fit: X: expected at least one sample"):
        fit(
            NET, DataFrame({"a": [], "b": []}, schema={"a": float, "b": float}), [], backend=backend
        )
    with pytest.raises(ValueError, match="predict: X: expected at least one sample"):
        model.predict(x[:0, :])


def test_one_sample(backend: Backend, x: Any, y: Any) -> None:
    with pytest.raises(ValueError, match=r"fit: X: expected two samples or more to hold out 0\.2"):
        fit(NET, x[:1, :], y[:1], validation=0.2)
    net = Sequential(Linear(4), BatchNorm(), Linear(3))
    with pytest.raises(ShapeError, match=r"layer 1, BatchNorm\(\): expected 2 samples or more"):
        fit(net, x[:1, :], y[:1])


def test_a_last_batch_of_one_sample_for_batch_norm(backend: Backend, x: Any, y: Any) -> None:
    net = Sequential(Linear(4), BatchNorm(), Linear(3))
    with pytest.raises(ShapeError, match=r"layer 1, BatchNorm\(\)") as caught:
        fit(net, x, y, batch_size=3)
    assert "4 samples in batches of 3 leave a last batch of 1" in caught.value.__notes__[0]


def test_lengths_that_differ(backend: Backend, x: Any, y: Any) -> None:
    with pytest.raises(ValueError, match=r"fit: y: expected 4 entries.*got shape \(3,\)"):
        fit(NET, x, y[:3])
    with pytest.raises(
        ValueError, match=r"fit: sample_weight: expected 4 entries.*got shape \(2,\)"
    ):
        fit(NET, x, y, sample_weight=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"fit: validation y: expected 4 entries.*\(3,\)"):
        fit(NET, x, y, validation=(x, y[:3]))
    with pytest.raises(ValueError, match=r"fit: y: expected 4 entries.*got shape \(\)"):
        fit(NET, x, backend.asarray(1.0))


@pytest.mark.parametrize("weights", [[1, 1, -1, 1], [0, 0, 0, 0], [1, 1, float("nan"), 1]])
def test_weights_that_cannot_be_meant(
    backend: Backend, x: Any, y: Any, weights: list[float]
) -> None:
    with pytest.raises(ValueError, match="fit: sample_weight: expected one number a sample"):
        fit(NET, x, y, sample_weight=weights)


# Backends, devices, dtypes.


def test_unknown_backend_and_device(backend: Backend, model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    for name, message in (("nunpy", "nunpy"), (f"{backend.name}:warp9", "warp9")):
        with pytest.raises(BackendUnavailable, match=message):
            fit(NET, [[1.0]], [0], backend=name)
        with pytest.raises(BackendUnavailable, match=message):
            load(tmp_path / "model", name)
        with pytest.raises(BackendUnavailable, match=message):
            model.to(name)


@pytest.mark.only("torch", "jax")
def test_a_cuda_device_that_is_not_there(backend: Backend, model: Model) -> None:
    for name in (f"{backend.name}:cuda:99", f"{backend.name}:cuda:x"):
        with pytest.raises(BackendUnavailable, match="cuda"):
            fit(NET, [[1.0]], [0], backend=name)
        with pytest.raises(BackendUnavailable, match="cuda"):
            model.to(name)


def test_cupy_without_a_device(backend: Backend) -> None:
    with pytest.raises(BackendUnavailable, match="cupy"):
        fit(NET, [[1.0]], [0], backend="cupy:99")


def test_float64_where_there_is_none(backend: Backend, tmp_path: Path) -> None:
    wide = backends.get("numpy")
    x = wide.asarray([[1.0, 2.0]], "float64")
    model = Model(NET, *NET.init(0, x))
    model.save(tmp_path / "model")
    if "float64" in backend.dtypes():
        assert load(tmp_path / "model", backend).backend == backend
        return
    with pytest.raises(TypeError, match=r"parameter '0\.weight'.*expected .*got float64"):
        load(tmp_path / "model", backend)
    with pytest.raises(TypeError, match=r"parameter '0\.weight'.*expected .*got float64"):
        model.to(backend)


@pytest.mark.only("array_api_strict", "torch", "jax", "dpnp", "cupy")
def test_arrays_of_two_libraries(backend: Backend, x: Any, y: Any, model: Model) -> None:
    numpy = backends.get("numpy")
    x_there = numpy.asarray([[1.0, 2.0]] * 4, "float32")
    y_there = numpy.asarray([0, 1, 2, 0])
    weights = numpy.asarray([1.0] * 4, "float32")
    for call, name in (
        (lambda: fit(NET, x, y_there), "fit: y"),
        (lambda: fit(NET, x_there, y), "fit: y"),
        (lambda: fit(NET, x, y, sample_weight=weights), "fit: sample_weight"),
        (lambda: fit(NET, x, y, validation=(x_there, y)), "fit: validation X"),
        (lambda: fit(NET, x, y, params=NET.init(0, x_there)[0]), "fit: params"),
        (lambda: model.predict(x_there), r"predict: X.*model\.to"),
        (lambda: model.evaluate(x, y_there), r"evaluate: y"),
    ):
        with pytest.raises(MixedArrays, match=name):
            call()


@pytest.mark.only("array_api_strict")
def test_arrays_of_two_devices(backend: Backend, x: Any, y: Any, model: Model) -> None:
    elsewhere = backends.get("array_api_strict:device2")
    y_there = elsewhere.asarray([0, 1, 2, 0])
    with pytest.raises(MixedArrays, match=r"fit: y: expected an array on .*, got one on .*device2"):
        fit(NET, x, y_there)
    with pytest.raises(MixedArrays, match=r"fit: X: expected an array on .*device2"):
        fit(NET, x, y_there, backend=elsewhere)
    with pytest.raises(MixedArrays, match=r"predict: X: .*model\.to"):
        model.predict(elsewhere.asarray([[1.0, 2.0]], "float32"))


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs: expected a whole number of 1 or more, got 0"),
        ({"epochs": -3}, "epochs: expected .* got -3"),
        ({"epochs": 2.5}, r"epochs: expected .* got 2\.5"),
        ({"epochs": True}, "epochs: expected .* got True"),
        ({"epochs": None}, "epochs: expected .* got None"),
        ({"batch_size": 0}, "batch_size: expected .* got 0"),
        ({"batch_size": -1}, "batch_size: expected .* got -1"),
        ({"batch_size": "all"}, "batch_size: expected .* got 'all'"),
        ({"validation": 0.0}, "validation: expected a fraction between 0 and 1.* got 0.0"),
        ({"validation": 1}, "validation: expected .* got 1"),
        ({"validation": "some"}, "validation: expected .* got 'some'"),
        ({"seed": 1.5}, r"seed: expected a whole number, got 1\.5"),
        ({"seed": 2**64}, "seed"),
        ({"loss": "quality"}, "loss: expected one of squared_error.*got 'quality'"),
        ({"metrics": ["acuracy"]}, "metrics: expected one of accuracy.*got 'acuracy'"),
        ({"optimizer": "adm"}, r"optim\.get: expected .*'adm'.*did you mean 'adam'"),
        ({"loss": SquaredError}, "loss: expected a loss .*its name, .* got <class"),
        ({"loss": 3}, "loss: expected a loss .* got 3"),
        ({"validation": ("x",) * 4}, r"validation: expected .* got \('x', 'x', 'x', 'x'\)"),
        ({"params": {}}, r"params: '0\.weight': expected \(2, 4\) .*, as net\.init .* got none"),
        ({"callbacks": EarlyStopping}, "callbacks: expected functions of the run.* got <class"),
        ({"callbacks": [3]}, "callbacks: expected functions of the run.* got 3"),
        ({"callbacks": EarlyStopping()}, "EarlyStopping: expected monitor .*validation=0.1"),
        ({"callbacks": [EarlyStopping("acuracy")]}, "EarlyStopping: expected .*got 'acuracy'"),
    ],
)
def test_settings_that_cannot_be_meant(
    backend: Backend, x: Any, y: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        fit(NET, x, y, **settings)


def test_weights_for_a_loss_that_takes_none(backend: Backend, x: Any, y: Any) -> None:
    def loss(prediction: Any, target: Any) -> Any:
        return namespace(prediction).mean(prediction)

    with pytest.raises(
        TypeError, match=r"fit: sample_weight: expected a loss that takes .* got loss"
    ):
        fit(NET, x, y, sample_weight=[1.0] * 4, loss=loss)


@pytest.mark.only("numpy", "torch", "jax")
def test_floats_of_half_the_width(backend: Backend, x: Any, y: Any) -> None:
    with pytest.raises(ValueError, match=r"fit: X: expected float32 or float64, got .*float16\. "):
        fit(NET, backend.xp.astype(x, backend.xp.float16), y)


def test_a_net_that_is_none(backend: Backend, x: Any, y: Any) -> None:
    for net in (relu, Layer, [Linear(3)]):
        with pytest.raises(TypeError, match="fit: net: expected a layer"):
            fit(net, x, y)


def test_batch_size_of_predict(backend: Backend, x: Any, model: Model) -> None:
    with pytest.raises(ValueError, match="predict: batch_size: expected 1 or more"):
        model.predict(x, batch_size=0)


# Files: what cannot be read, and what must not be lost. The rest is in test_files.py.


def test_a_model_file_cut_or_edited(backend: Backend, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.tinynn"
    model.save(path)
    blob = path.read_bytes()
    middle = len(blob) // 2
    edited = blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :]
    for bad in (blob[:-1], blob[:middle], edited, b""):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"model\.tinynn: expected"):
            load(path, backend)


def test_bad_input_never_replaces_a_good_file(
    backend: Backend, x: Any, y: Any, model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "model.tinynn"
    model.save(path)
    good = path.read_bytes()
    with backend.scope():
        shifted = y + 1
    with pytest.raises(ValueError, match="labels"):
        fit(NET, x, shifted).save(path)
    model.params["2"]["bias"] = host(backend, [np.nan] * 3, "float32")
    with pytest.raises(ValueError, match="expected finite"):
        model.save(path)
    assert path.read_bytes() == good
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_jacobian_that_no_memory_holds(backend: Backend) -> None:
    """With its number of bytes, before it is computed; what its products are is said."""
    import tinynn

    if backend.memory_size() is None:
        assert ":cpu" not in repr(backend)
        return
    x = backend.xp.zeros(3_000_000, dtype=backend.xp.float32, device=backend.device)
    with pytest.raises(MemoryError, match=r"3,000,000 by 3,000,000 .* 72,000,000,000,000 bytes.*j"):
        tinynn.jacobian(lambda x: x * x)(x)
