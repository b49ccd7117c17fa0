"""fit, Model, callbacks, metrics and the progress bar."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from polars import DataFrame

import backends
from backends import Backend
from tests.checks import assert_array, assert_close, assert_equal
from tests.transfers import Transfers
from tinynn import tree
from tinynn.data import Samples
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Dropout, Layer, Linear, Scope, Sequential
from tinynn.losses import BinaryCrossEntropy, SoftmaxCrossEntropy, SquaredError
from tinynn.optim import SGD, Adam
from tinynn.trace import bottom, namespace
from tinynn.training import (
    EarlyStopping,
    History,
    Model,
    Run,
    TrainingStep,
    batches,
    fit,
)
from tinynn.training.engines.compiled import Compiled

pytestmark = pytest.mark.reads_scalars  # the loss looks at the range of the labels

LINE = np.asarray([[-2.0], [-1.0], [0.0], [1.0], [2.0], [3.0]], "float32")


@pytest.fixture
def x(backend: Backend) -> Any:
    return backend.asarray(LINE)


@pytest.fixture
def y(backend: Backend) -> Any:
    return backend.asarray(2 * LINE + 1)


def blobs(backend: Backend, dtype: str = "float32") -> tuple[Any, Any]:
    """Three clouds of ten points each, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    centres = np.asarray([[0.0, 3.0], [3.0, -1.0], [-3.0, -1.0]])
    points = centres[labels] + rng.normal(size=(30, 2))
    return backend.asarray(points.astype(dtype)), backend.asarray(labels)


# What fit gives.


def test_it_learns_classes(backend: Backend, float_dtype: Any) -> None:
    dtype = backend.dtype_name(float_dtype)
    x, y = blobs(backend, dtype)
    net = Sequential(Linear(8), relu, Linear(3))
    model = fit(net, x, y, optimizer=Adam(0.1), epochs=6, metrics=["accuracy"], batch_size=10)
    assert model.loss == SoftmaxCrossEntropy()
    assert list(model.history) == ["epoch", "loss", "accuracy"]
    assert model.history["epoch"] == list(range(1, 7))
    assert model.history["accuracy"][-1] >= 0.9
    assert all(type(number) is float for number in model.history["loss"])
    assert_array(model.predict(x), backend, dtype=dtype, shape=(30, 3))
    for leaf in tree.leaves(model.params):
        assert_array(leaf, backend, dtype=dtype)
    scores = model.evaluate(x, y)
    assert list(scores) == ["loss", "accuracy"]
    assert scores["accuracy"] == model.history["accuracy"][-1]


def test_it_learns_a_line(backend: Backend, x: Any, y: Any) -> None:
    model = fit(Linear(1), x, y, optimizer=SGD(0.2), epochs=20, batch_size=None, metrics=["r2"])
    assert model.loss == SquaredError()
    assert_close(model.params["weight"], [[2.0]], backend, rtol=2e-2)
    assert model.history["r2"][-1] > 0.99


def test_nothing_crosses_but_the_numbers_shown(backend: Backend, transfers: Transfers) -> None:
    x, y = blobs(backend)
    net = Sequential(Linear(4), BatchNorm(), relu, Dropout(0.1), Linear(3))
    settings: dict[str, Any] = {"batch_size": 7, "validation": 0.2, "metrics": ["accuracy"]}

    def reads(epochs: int) -> list[tuple[int, ...]]:
        start = len(transfers.by_product)
        fit(net, x, y, epochs=epochs, **settings)
        return [read.shape for read in transfers.by_product[start:]]

    once, thrice = reads(1), reads(3)
    assert all(shape == () for shape in once[:-1]), "one number at a time in the checks"
    steps = -(-int(0.8 * x.shape[0]) // 7)
    assert thrice[len(once) - 1 :] == [(steps + 2,)] * 3, "one small array an epoch"


@pytest.mark.parametrize(
    ("labels", "outputs", "expected"),
    [
        ([0, 1, 2, 1, 0, 2], 3, SoftmaxCrossEntropy()),
        ([0, 1, 1, 1, 0, 0], 1, BinaryCrossEntropy()),
        ([True, False, True, True, False, False], 1, BinaryCrossEntropy()),
        ([True, False, True, True, False, False], 2, SoftmaxCrossEntropy()),
        ([[True, False], [True, True]] * 3, 2, BinaryCrossEntropy()),
        ([0.0, 1.0, 2.0, 1.0, 0.5, 2.5], 1, SquaredError()),
    ],
)
def test_the_loss_suits_y(
    backend: Backend, x: Any, labels: list[Any], outputs: int, expected: Any
) -> None:
    for y in (labels, backend.asarray(labels)):
        model = fit(Linear(outputs), x, y, epochs=1, metrics=["accuracy"] if outputs > 1 else None)
        assert model.loss == expected


def test_losses_by_name_or_as_functions(backend: Backend, x: Any, y: Any) -> None:
    def own(prediction: Any, target: Any) -> Any:
        xp = namespace(prediction, target)
        difference = xp.subtract(prediction, target)
        return namespace(difference).mean(difference * difference)

    by_name = fit(Linear(1), x, y, loss="squared_error", epochs=2)
    as_function = fit(Linear(1), x, y, loss=own, epochs=2)
    column_left_out = fit(Linear(1), x, y[:, 0], loss=own, epochs=2)
    assert by_name.history == as_function.history == column_left_out.history
    assert by_name.evaluate(x, y) == as_function.evaluate(x, y[:, 0])


def test_integers_become_floats(backend: Backend) -> None:
    x = backend.asarray([[1, 2], [3, 4]])
    model = fit(Linear(1), x, backend.asarray([0.5, 1.5]), epochs=1)
    assert_array(model.predict(x), backend, dtype=backend.default_float)


def test_the_loss_of_an_epoch(backend: Backend, x: Any, y: Any) -> None:
    """A step size of zero leaves the loss as it is: that of all the samples, however batched."""
    for reduction in ("mean", "sum"):
        loss = SquaredError(reduction=reduction)
        for weights in (None, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]):
            model = fit(
                *(Linear(1), x, y),
                loss=loss,
                optimizer=SGD(0.0),
                epochs=1,
                batch_size=4,
                sample_weight=weights,
            )
            whole = model.evaluate(x, y, sample_weight=weights)["loss"]
            assert model.history["loss"][0] == pytest.approx(whole, rel=1e-5)
            assert model.evaluate(x, y, sample_weight=weights, batch_size=2)["loss"] == whole


def test_weights_count_samples(backend: Backend, x: Any, y: Any) -> None:
    weights = backend.asarray([1, 0, 0, 2, 0, 0])
    order = np.asarray([0, 3, 3])
    repeated = backend.asarray(LINE[order])
    settings: dict[str, Any] = {"epochs": 3, "batch_size": None, "optimizer": SGD(0.05)}
    weighted = fit(Linear(1), x, y, sample_weight=weights, **settings)
    plain = fit(Linear(1), repeated, backend.asarray(2 * LINE[order] + 1), **settings)
    assert weighted.history["loss"] == pytest.approx(plain.history["loss"], rel=1e-5)


def test_validation(backend: Backend, x: Any, y: Any) -> None:
    settings: dict[str, Any] = {"epochs": 2, "metrics": ["mean_absolute_error"]}
    names = ["epoch", "loss", "validation_loss", "validation_mean_absolute_error"]
    fraction = fit(Linear(1), x, y, validation=0.34, **settings)
    pair = fit(Linear(1), x, y, validation=(x, y), **settings)
    assert list(fraction.history) == list(pair.history) == names
    assert pair.history["validation_loss"][-1] == pair.evaluate(x, y)["loss"]


def test_held_out_samples_are_not_trained_on(backend: Backend, x: Any) -> None:
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Spy(Linear):
        def forward(self, scope: Scope, x: Any) -> Any:
            seen.append(bottom(x))
            return super().forward(scope, x)

    for shuffle in (True, False):
        seen.clear()
        fit(Spy(1), x, x, epochs=1, batch_size=4, validation=0.34, shuffle=shuffle)
        (train,) = {tuple(backend.to_host(a)[:, 0].tolist()) for a in seen if a.shape[0] == 4}
        (held,) = {tuple(backend.to_host(a)[:, 0].tolist()) for a in seen if a.shape[0] == 2}
        assert sorted(train + held) == LINE[:, 0].tolist()
        assert shuffle or held == (2.0, 3.0)


def test_training_goes_on_from_params(backend: Backend, x: Any, y: Any) -> None:
    settings: dict[str, Any] = {"optimizer": SGD(0.1), "batch_size": None}
    once = fit(Linear(1), x, y, epochs=4, **settings)
    half = fit(Linear(1), x, y, epochs=2, **settings)
    rest = fit(Linear(1), x, y, epochs=2, params=half.params, **settings)
    assert half.history["loss"] + rest.history["loss"] == once.history["loss"]


def test_a_step_is_pure(backend: Backend, x: Any, y: Any) -> None:
    net = Sequential(Linear(3), BatchNorm(), Dropout(0.5), Linear(1))
    step = TrainingStep(net, SquaredError(), Adam())
    key = backends.random.key(1, backend)
    carry = step.init(0, Samples(x, y))
    before = [backend.to_host(leaf).copy() for leaf in tree.leaves(carry)]
    first = step(carry, Samples(x, y), key)
    second = step(carry, Samples(x, y), key)
    for one, other in zip(tree.leaves(first), tree.leaves(second), strict=True):
        assert_equal(one, backend.to_host(other), backend)
    for leaf, copy in zip(tree.leaves(carry), before, strict=True):
        assert_equal(leaf, copy, backend)
    assert tree.flatten(first[0])[1] == tree.flatten(carry)[1]


# Where data come from.


def test_lists_and_frames_go_to_the_backend(backend: Backend) -> None:
    rows = [[1.0, 2], [3, 4.5], [5, 6]]
    frame = DataFrame({"a": [1.0, 3.0, 5.0], "b": [2.0, 4.5, 6.0]})
    target = DataFrame({"t": [0, 1, 1]})
    models = [
        fit(Linear(2), x, y, epochs=2, backend=backend)
        for x, y in ((rows, [0, 1, 1]), (frame, target), (frame, target["t"]))
    ]
    array = np.asarray(rows, backend.dtype_name(backend.default_float))
    models.append(fit(Linear(2), array, np.asarray([0, 1, 1]), epochs=2, backend=backend))
    for model in models:
        assert model.backend == backend
        assert model.history == models[0].history
    expected = backend.to_host(models[0].predict(rows))
    assert_close(models[1].predict(frame), expected, backend, dtype=backend.default_float)


def test_columns_are_found_by_name(backend: Backend) -> None:
    frame = DataFrame({"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 7.0]})
    turned = DataFrame({"b": [2.0, 4.0, 7.0], "extra": ["x", "y", "z"], "a": [1.0, 3.0, 5.0]})
    model = fit(Linear(1), frame, [0.0, 1.0, 2.0], epochs=1, backend=backend)
    assert model.columns == ("a", "b")
    assert_equal(model.predict(turned), backend.to_host(model.predict(frame)), backend)
    with pytest.raises(ValueError, match=r"predict: X: expected the columns a, b.*no column 'b'"):
        model.predict(DataFrame({"a": [1.0]}))


@pytest.mark.only("numpy")
def test_frames_of_pandas_and_polars(backend: Backend) -> None:
    import pandas
    import polars

    columns = {"a": [1.0, 3.0, 5.0], "b": [2, 4, 7], "c": [True, False, True], "y": [0, 1, 1]}
    histories = []
    for library in (pandas, polars):
        frame = library.DataFrame(columns)
        x = frame[["a", "b", "c"]]
        for y in (frame["y"], frame[["y"]]):
            model = fit(Linear(2), x, y, epochs=2)
            histories.append(model.history)
            assert_array(model.predict(frame), backend, dtype="float64", shape=(3, 2))
    assert histories == histories[:1] * 4


def test_predict_casts_and_batches(backend: Backend, x: Any, y: Any) -> None:
    model = fit(Linear(1), x, y, epochs=1)
    expected = backend.to_host(model.predict(x))
    assert_close(model.predict(x, batch_size=4), expected, backend, dtype="float32")
    assert_close(model.predict(LINE.tolist()), expected, backend, dtype="float32")
    wide = backend.dtypes().get("float64", x.dtype)
    assert_close(model.predict(backend.xp.astype(x, wide)), expected, backend, dtype="float32")


def test_a_model_moves(backend: Backend, x: Any, y: Any) -> None:
    model = fit(Linear(1), x, y, epochs=1)
    there = model.to("numpy")
    np.testing.assert_allclose(there.predict(LINE), backend.to_host(model.predict(x)), rtol=1e-6)
    back = there.to(backend)
    assert_equal(back.predict(x), backend.to_host(model.predict(x)), backend)


def test_a_net_without_parameters_predicts(backend: Backend, x: Any) -> None:
    assert_equal(Model(Sequential(relu), {}).predict(x), np.maximum(LINE, 0), backend)


def test_the_repr_says_what_the_model_is(backend: Backend, x: Any, y: Any) -> None:
    net = Sequential(Linear(4), relu, Linear(1))
    model = Model(net, *net.init(0, x))
    assert repr(model) == (
        f"<Model Sequential(Linear(4), relu, Linear(1)), 13 parameters, {backend!r}>"
    )
    model = fit(net, x, y, epochs=2)
    assert repr(model).startswith(repr(Model(net, model.params))[:-1] + ", epoch 2, loss ")
    assert repr(Model(relu, {})) == "<Model relu, 0 parameters>"
    assert model != fit(net, x, y, epochs=2), "models are not compared array by array"


def test_no_keys_are_made_where_nobody_draws(
    backend: Backend, x: Any, y: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def epochs(net: Layer) -> list[Any]:
        drawn: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(batches.random, "bits", lambda *args: drawn.append(args) or bits(*args))
            fit(net, x, y, epochs=2, shuffle=False)
        return drawn

    bits = batches.random.bits
    assert epochs(Sequential(Linear(2), BatchNorm(), relu, Sequential(Linear(1)))) == []
    assert epochs(Sequential(Linear(1), Dropout(0.0))) == []
    assert len(epochs(Sequential(Sequential(Linear(2), Dropout(0.5)), Linear(1)))) >= 2


# Callbacks.


def test_callbacks_see_the_run(backend: Backend, x: Any, y: Any) -> None:
    seen: list[tuple[int, int, float]] = []

    def look(run: Run) -> None:
        seen.append((run.epoch, run.epochs, run.history["loss"][-1]))
        assert_array(run.params["weight"], backend)
        if run.epoch == 3:
            run.stop()

    model = fit(Linear(1), x, y, epochs=9, callbacks=[look])
    assert [row[:2] for row in seen] == [(1, 9), (2, 9), (3, 9)]
    assert model.history["loss"] == [row[2] for row in seen]
    assert fit(Linear(1), x, y, epochs=9, callbacks=look).history == model.history


@pytest.mark.parametrize("epochs", [9, 3])
def test_early_stopping_restores_the_best(backend: Backend, x: Any, y: Any, epochs: int) -> None:
    """The validation target is the opposite: each step makes it worse."""
    params: list[Any] = []
    stopping = EarlyStopping(patience=3)
    model = fit(
        *(Linear(1), x, y),
        epochs=epochs,
        validation=(x, backend.xp.negative(y)),
        callbacks=[lambda run: params.append(run.params), stopping],
        optimizer=SGD(0.1),
    )
    assert model.history["epoch"] == list(range(1, min(epochs, 4) + 1))
    assert model.params is params[0]
    assert model.evaluate(x, backend.xp.negative(y))["loss"] == min(
        model.history["validation_loss"]
    )
    again = fit(
        Linear(1), x, y, epochs=2, validation=(x, backend.xp.negative(y)), callbacks=[stopping]
    )
    assert len(again.history["loss"]) == 2, "it forgets the run before"


def test_early_stopping_on_a_metric(backend: Backend, x: Any, y: Any) -> None:
    settings: dict[str, Any] = {"epochs": 9, "metrics": ["r2"], "optimizer": SGD(0.1)}
    rising = fit(Linear(1), x, y, callbacks=[EarlyStopping("r2", patience=1)], **settings)
    assert len(rising.history["r2"]) == 9, "a larger R2 is better"
    small = EarlyStopping("loss", patience=2, min_delta=1e9, restore_best=False)
    stopped = fit(Linear(1), x, y, callbacks=[small], **settings)
    assert len(stopped.history["loss"]) == 3
    assert stopped.evaluate(x, y)["r2"] == stopped.history["r2"][-1]
    for bad in ({"patience": 0}, {"min_delta": -1.0}):
        with pytest.raises(ValueError, match=f"EarlyStopping: expected {next(iter(bad))}"):
            EarlyStopping(**bad)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Interrupt(Layer):
    """Stands in for a Ctrl-C in the middle of an epoch."""

    when: Callable[[], bool] = lambda: False

    def forward(self, scope: Scope, x: Any) -> Any:
        if scope.training and self.when():
            raise KeyboardInterrupt
        return x


def test_ctrl_c_gives_the_last_whole_epoch(backend: Backend, x: Any, y: Any) -> None:
    params: list[Any] = []
    calls: list[None] = []

    def when() -> bool:
        calls.append(None)
        return len(params) == 2 and len(calls) % 2 == 0

    net = Sequential(Linear(1), Interrupt(when))
    with pytest.warns(RuntimeWarning, match="epoch 2: interrupted"):
        model = fit(
            net, x, y, epochs=9, batch_size=3, callbacks=[lambda run: params.append(run.params)]
        )
    assert model.history["epoch"] == [1, 2]
    assert model.params is params[-1]
    with pytest.raises(KeyboardInterrupt):
        fit(Sequential(Linear(1), Interrupt(lambda: True)), x, y)


def test_ctrl_c_between_epochs_that_are_told(
    backend: Backend, x: Any, y: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameters are in place, and may be a step further than what was told."""
    run_epochs, calls = Compiled.run_epochs, []

    def interrupted(engine: Any, count: int) -> Any:
        losses = run_epochs(engine, count)
        calls.append(count)
        if len(calls) == 6:  # of epochs 4 to 7, which are carried out together
            raise KeyboardInterrupt
        return losses

    settings: Any = {"batch_size": 6, "shuffle": False, "engine": "calls"}
    looks = EarlyStopping("loss", restore_best=False)
    net, whole = Sequential(Linear(1)), fit(Sequential(Linear(1)), x, y, epochs=5, **settings)
    monkeypatch.setattr(Compiled, "run_epochs", interrupted)
    with pytest.warns(RuntimeWarning, match="epoch 5: interrupted"):
        model = fit(net, x, y, epochs=9, callbacks=[looks], **settings)
    assert model.history == whole.history
    for found, expected in zip(tree.leaves(model.params), tree.leaves(whole.params), strict=True):
        assert_equal(found, backend.to_host(expected), backend)


def diverging(match: str) -> Any:
    """A context in which training has to say this of its end, and NumPy nothing of overflows."""
    stack = contextlib.ExitStack()
    stack.enter_context(np.errstate(all="ignore"))
    stack.enter_context(pytest.warns(RuntimeWarning, match=f"no longer finite.*{match}"))
    return stack


def test_a_loss_that_diverges_ends_training(backend: Backend, x: Any, y: Any) -> None:
    with diverging(r"gave NaN or infinity, in (update|loss|layer 0, Linear\(1\))"):
        model = fit(Linear(1), x, y, optimizer=SGD(1e25), epochs=9)
    assert len(model.history["loss"]) < 9


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_what_made_the_loss_infinite_is_named(
    backend: Backend, x: Any, y: Any, engine: str
) -> None:
    def steep(x: Any) -> Any:
        return namespace(x).exp(1e4 * (x * x + 1))

    with diverging(r"exp gave NaN or infinity, in layer 1, steep, test_training.py:\d+"):
        fit(Sequential(Linear(2), steep, Linear(1)), x, y, epochs=300, engine=engine)


def test_the_failing_step_is_found_late_in_the_run(backend: Backend, x: Any, y: Any) -> None:
    with diverging(r"gave NaN or infinity, in (update|loss|layer 0, Linear\(1\))"):
        model = fit(Linear(1), x, y, optimizer=SGD(1.5), epochs=900, batch_size=None)
    assert 8 < len(model.history["loss"]) < 900


def test_history() -> None:
    history = History()
    assert history.last == {}
    history.add({"epoch": 1, "loss": 0.5})
    assert history == {"epoch": [1], "loss": [0.5]}
