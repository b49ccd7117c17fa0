"""The engines of optimizers that search, and of steps of second order: same numbers, less work."""

import copy
import pickle
import signal
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tinynn import tree, value_and_grad
from tinynn.functional import tanh
from tinynn.layers import BatchNorm, Layer, Linear, Sequential
from tinynn.losses import AbsoluteError, SquaredError
from tinynn.optim import LBFGS, Averaged, LevenbergMarquardt, NewtonCG
from tinynn.trace import namespace
from tinynn.training import CSVLog, EarlyStopping, prepare
from tinynn.training.engines import select
from tinynn.training.engines.compiled import Compiled
from tinynn.training.engines.late import Late
from tinynn.training.engines.searching import Searching, VectorSearch
from tinynn.training.identity import key_of
from tinynn.training.step import TrainingStep

pytestmark = pytest.mark.reads_scalars

X = np.linspace(-1.0, 1.0, 24).reshape(-1, 1)
Y = np.sin(3.0 * X)
NET = Sequential(Linear(5), tanh, Linear(1))


def history(engine: str, net: Any = NET, x: Any = X, y: Any = Y, **options: Any) -> Any:
    options = {"optimizer": "lbfgs", "epochs": 12, **options}
    return tinynn.fit(net, x, y, engine=engine, **options).history["loss"]


def test_every_library_searches_alike(backend: backends.Backend, float64: Any) -> None:
    x, y = (backend.asarray(a, dtype="float64") for a in (X, Y))
    ours = tinynn.fit(NET, x, y, optimizer="lbfgs", epochs=6, engine="calls")
    theirs = tinynn.fit(NET, X, Y, optimizer="lbfgs", epochs=6, engine="eager")
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=1e-7)
    for our, their in zip(tree.leaves(ours.params), tree.leaves(theirs.params), strict=True):
        assert_close(our, their, backend, dtype=float64, rtol=1e-6, atol=1e-8)


@pytest.mark.only("numpy")
def test_a_fit_is_minimize(backend: backends.Backend) -> None:
    """With as many evaluations: the one where a step ends is the next one's first."""
    problem = prepare(NET, X, Y, optimizer="lbfgs")
    engine = select(problem, "calls", epochs=12)
    assert isinstance(engine, VectorSearch)
    losses = engine.run_epochs(12)
    state = engine.snapshot()[0].optimizer_state
    vg = tinynn.value_and_grad(lambda p: problem.step.loss(NET(p, X), Y))
    _, alone = LBFGS().minimize(vg, problem.start.params, max_steps=12)
    assert int(state["evaluations"]) == int(alone["evaluations"])
    np.testing.assert_allclose(state["value"], alone["value"], rtol=1e-5)
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.only("numpy")
def test_engines_agree(backend: backends.Backend) -> None:
    """Callbacks, states of layers, an average beside it, and batches that differ."""
    plain = history("eager")
    seen: list[float] = []
    for engine in ("auto", "calls"):
        np.testing.assert_allclose(history(engine), plain, rtol=1e-5)
        stop = EarlyStopping("loss", goal=plain[9] * (1 + 1e-6), patience=99)
        np.testing.assert_allclose(history(engine, callbacks=[stop]), plain[:10], rtol=1e-5)
        look = [lambda run: seen.append(run.history.last["loss"])]  # it might change the data
        np.testing.assert_allclose(history(engine, callbacks=look), plain, rtol=1e-5)
    normed = Sequential(Linear(4), BatchNorm(), tanh, Linear(1))
    for options in (
        {"net": normed, "epochs": 8},
        {"optimizer": Averaged(LBFGS()), "epochs": 12},
        {"batch_size": 8, "epochs": 2},
    ):
        losses = [history(engine, **options) for engine in ("eager", "auto", "calls")]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
        np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)
    problem = prepare(normed, X, Y, optimizer="lbfgs")
    assert type(select(problem, "calls")) is Searching


@pytest.mark.only("numpy")
def test_what_a_callback_changes_is_seen(backend: backends.Backend) -> None:
    """Parameters that are replaced, and data that are written into."""
    x, y = X.copy(), Y.copy()

    def other_params(run: Any) -> None:
        if run.epoch == 3:
            run.state.carry = run.state.carry._replace(
                params=tree.map(lambda p: 0.5 * p, run.state.carry.params)
            )

    def other_data(run: Any) -> None:
        if run.epoch == 3:
            y[...] += 1.0

    for callback in (other_params, other_data):
        losses = [history(e, x=x, y=y, epochs=6, callbacks=[callback]) for e in ("eager",)]
        y[...] = Y
        losses.append(history("calls", x=x, y=y, epochs=6, callbacks=[callback]))
        y[...] = Y
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
        assert losses[0][3] > losses[0][2]


@pytest.mark.only("numpy")
@pytest.mark.parametrize("optimizer", ["lbfgs", "levenberg_marquardt"])
def test_resumed_runs_change_engines_at_the_same_step(
    optimizer: str, backend: backends.Backend, tmp_path: Any
) -> None:
    """Before and after the step at which it is recorded, bit for bit."""
    net, y = Sequential(Linear(2), tanh, Linear(1)), Y + np.cos(9.0 * X)
    asked = {"optimizer": optimizer, "epochs": 46, "engine": "auto"}
    whole = tinynn.fit(net, X, y, **asked)  # type: ignore[arg-type]
    for first in (2, 43):
        kept = {"checkpoint": tmp_path / f"{optimizer}{first}.safetensors"}
        tinynn.fit(net, X, y, **{**asked, "epochs": first}, **kept)  # type: ignore[arg-type]
        resumed = tinynn.fit(net, X, y, resume=True, **asked, **kept)  # type: ignore[arg-type]
        assert resumed.history == whole.history
        for a, b in zip(tree.leaves(resumed.params), tree.leaves(whole.params), strict=True):
            assert np.array_equal(a, b)


def test_second_order_is_recorded_at_once_unless_that_takes_seconds(
    backend: backends.Backend, float64: Any
) -> None:
    x, y = (backend.asarray(a, dtype="float64") for a in (X, Y))
    problem = prepare(NET, x, y, optimizer=LevenbergMarquardt())
    engine = select(problem, "auto", epochs=300)
    if backend.repeat is not None:
        assert isinstance(engine, Late)
        assert type(engine.engine).__name__ == "Eager"
        epoch = problem.batches.epoch
        engine.run(epoch(0), 0, 1)
        engine.run(epoch(400), 0, 1)
        assert engine.name == "auto"  # which a resumed run goes on with
        engine = engine.engine
    assert type(engine).__name__ == "Compiled"
    assert engine.fuses_epochs


@pytest.mark.parametrize("optimizer", ["lbfgs", "levenberg_marquardt"])
def test_a_step_of_an_earlier_run_is_not_recorded_again(optimizer: str, monkeypatch: Any) -> None:
    """To the bit, with data of its own; what differs in a number or a dtype is recorded."""
    from tinynn.compiler import compiled as functions
    from tinynn.compiler import reuse
    from tinynn.training.engines import compiled as loops

    recordings: list[Any] = []

    def counted(record: Any, *arguments: Any, **options: Any) -> Any:
        recordings.append(arguments)
        return record(*arguments, **options)

    for module, name in ((functions, "recorded"), (loops, "graph_of")):
        monkeypatch.setattr(module, name, partial(counted, getattr(module, name)))
    reuse.clear()
    asked = {"optimizer": optimizer, "epochs": 9}
    first = history("auto", **asked)
    made = len(recordings)
    assert made > 0
    assert history("auto", **asked) == first
    other = history("auto", y=2.0 * Y, **asked)
    assert len(recordings) == made
    reuse.clear()
    assert history("auto", y=2.0 * Y, **asked) == other
    made = len(recordings)
    for changed in (
        {"loss": tinynn.losses.Huber(2.0)},
        {"loss": tinynn.losses.Huber(3.0)},
        {"x": X.astype("float32"), "y": Y.astype("float32")},
        {"net": Sequential(Linear(5), tanh, Linear(1, bias=False))},
        {"net": Sequential(Linear(5), lambda x: x * x, Linear(1))},
    ):
        history("auto", **{**asked, **changed})
        assert len(recordings) > made
        made = len(recordings)


def test_a_program_has_one_run_at_a_time() -> None:
    """So that no lock can be held in a process that is forked."""
    from tinynn.compiler import reuse

    reuse.clear()
    alone, found = history("auto"), list[Any]()
    assert len(reuse._functions) == 2  # that of the loss and that of the history wait

    def inside(run: Any) -> None:
        if not found:
            assert not reuse._functions
            found.append(history("auto"))

    assert history("auto", callbacks=[inside]) == found[0] == alone
    assert len(reuse._functions) == 2


@pytest.mark.only("numpy", "torch", "array_api_strict", "cupy", "dpnp")  # half a minute on JAX
@pytest.mark.parametrize("optimizer", ["lbfgs", "levenberg_marquardt", "adam"])
def test_callbacks_that_only_look_are_told_of_each_epoch(
    optimizer: str, backend: backends.Backend, float64: Any, monkeypatch: Any, tmp_path: Any
) -> None:
    """Epochs are carried out together; a stop, the best epoch and a log are those of one by one."""
    x, y = (backend.asarray(a, dtype="float64") for a in (X + 0.3, Y))
    asked: dict[str, Any] = {"optimizer": optimizer, "epochs": 9, "batch_size": None}
    kind = VectorSearch if optimizer == "lbfgs" else Compiled
    told: list[int] = []
    tell_epochs = kind.tell_epochs

    def counted(self: Any, count: int, tell: Any) -> None:
        told.append(count)
        tell_epochs(self, count, tell)

    monkeypatch.setattr(kind, "tell_epochs", counted)
    runs = []
    for engine in ("eager", "calls"):
        plain = tinynn.fit(NET, x, y, engine=engine, **asked).history["loss"]
        stop = EarlyStopping("loss", goal=plain[5] * (1 + 1e-6), patience=99)
        log = CSVLog(tmp_path / f"{engine}.csv")
        model = tinynn.fit(NET, x, y, engine=engine, callbacks=[stop, log], **asked)
        assert model.history["loss"] == plain[:6]
        assert len((tmp_path / f"{engine}.csv").read_text().splitlines()) == 7
        runs.append([backend.to_host(leaf) for leaf in tree.leaves(model.params)])
    assert told
    for a, b in zip(*runs, strict=True):  # of the best epoch
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


class Setting:
    """A callback that says that it only looks, and sets the parameters."""

    only_looks = keeps_data = True

    def __call__(self, run: Any) -> None:
        params = tree.map(lambda leaf: 0.0 * leaf, run.state.carry.params)
        run.state.carry = run.state.carry._replace(params=params)


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_callback_that_says_that_it_only_looks_cannot_change_the_state(
    optimizer: str, backend: backends.Backend
) -> None:
    x, y = backend.asarray(X), backend.asarray(Y)
    with pytest.raises(ValueError, match="that only looks"):
        tinynn.fit(
            NET, x, y, optimizer=optimizer, batch_size=None, engine="calls", callbacks=[Setting()]
        )


@pytest.mark.only("numpy")
@pytest.mark.usefixtures("usual_ctrl_c")
def test_an_interrupt_in_an_epoch_leaves_the_one_before(
    backend: backends.Backend, monkeypatch: Any
) -> None:
    """The parameters are those of the epoch that the history ends with."""
    asked: dict[str, Any] = {"optimizer": "adam", "batch_size": None, "engine": "calls"}
    wanted = tinynn.fit(NET, X, Y, epochs=4, **asked)
    run_epochs, calls = Compiled.run_epochs, list[int]()

    def interrupted(self: Any, count: int) -> Any:
        losses = run_epochs(self, count)
        calls.append(count)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return losses

    monkeypatch.setattr(Compiled, "run_epochs", interrupted)
    stop = EarlyStopping("loss", restore_best=False)
    with pytest.warns(RuntimeWarning, match="epoch 4: interrupted"):
        model = tinynn.fit(NET, X, Y, epochs=30, callbacks=[stop], **asked)
    assert model.history == wanted.history
    for ours, theirs in zip(tree.leaves(model.params), tree.leaves(wanted.params), strict=True):
        assert np.array_equal(ours, theirs)


def nothing(run: Any) -> None:
    """A callback, with which epochs are carried out one by one."""


@pytest.mark.only("numpy")
@pytest.mark.parametrize("engine", ["calls", "auto"])
@pytest.mark.parametrize("normed", [False, True])
def test_epochs_after_convergence_are_none(
    engine: str, normed: bool, backend: backends.Backend
) -> None:
    """Epochs that are carried out together end where one by one they do, states of layers too."""
    net = Sequential(BatchNorm(), Linear(2), tanh, Linear(1)) if normed else NET
    asked = {"optimizer": LevenbergMarquardt(value_tolerance=1e-2), "epochs": 300}
    together = tinynn.fit(net, X, Y, engine=engine, **asked)  # type: ignore[arg-type]
    single = tinynn.fit(net, X, Y, engine=engine, callbacks=[nothing], **asked)  # type: ignore[arg-type]
    assert 5 < len(single.history["loss"]) < 300
    assert together.history == single.history
    ours, theirs = (tree.leaves((m.params, m.state)) for m in (together, single))
    for our, their in zip(ours, theirs, strict=True):
        assert np.array_equal(our, their)


@pytest.mark.only("numpy")
def test_an_engine_that_gives_way_begins_at_an_easy_pace(
    backend: backends.Backend, monkeypatch: Any
) -> None:
    """Epochs of one step say nothing of how many the recorded ones can carry out in a call."""
    from tinynn.training.engines.compiled import Compiled

    counts: list[int] = []
    run = Compiled.run_epochs

    def counted(self: Any, count: int) -> Any:
        counts.append(count)
        return run(self, count)

    monkeypatch.setattr(Compiled, "run_epochs", counted)
    asked = {"optimizer": LevenbergMarquardt(), "epochs": 60, "engine": "auto"}
    losses = tinynn.fit(NET, X, Y + np.cos(9.0 * X), **asked).history["loss"]  # type: ignore[arg-type]
    assert len(losses) == 60
    assert counts[0] == 1
    assert 2 <= len(counts) < 30


@pytest.mark.only("numpy")
def test_what_cannot_be_recorded_is_searched_without(backend: backends.Backend) -> None:
    @dataclass(frozen=True)
    class Deciding(Layer):
        def forward(self, scope: Any, x: Any) -> Any:
            out = scope("line", Linear(1), x)
            return out if float(tinynn.stop_gradient(out)[0, 0]) < 9.0 else 0.0 * out

    with pytest.warns(RuntimeWarning, match="runs without compiling"):
        losses = history("calls", net=Deciding(), epochs=12)
    np.testing.assert_allclose(losses, history("eager", net=Deciding(), epochs=12), rtol=1e-12)


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    "other", [AbsoluteError.__call__, Mock(side_effect=lambda self, *given: None)]
)
def test_a_method_that_was_replaced_is_another_step(other: Any, monkeypatch: Any) -> None:
    step, arrays = TrainingStep(NET, SquaredError(), LBFGS()), (X,)
    before = key_of(step, backends.get("numpy"), arrays)
    assert before is not None
    monkeypatch.setattr(SquaredError, "__call__", other)
    assert key_of(step, backends.get("numpy"), arrays) != before
    monkeypatch.undo()
    assert key_of(step, backends.get("numpy"), arrays) == before


def test_a_state_is_copied_and_kept_by_a_callback() -> None:
    kept: list[Any] = []

    def keep(run: Any) -> None:
        makers = (lambda a: pickle.loads(pickle.dumps(a)), copy.deepcopy, copy.copy, replace)
        kept.append([each(run.state).carry for each in makers])

    model = tinynn.fit(NET, X, Y, optimizer="lbfgs", epochs=3, callbacks=[keep])
    for carry in kept[-1]:
        for ours, theirs in zip(tree.leaves(carry.params), tree.leaves(model.params), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(kept[0][0].optimizer_state["point"], carry.optimizer_state["point"])


def test_a_gradient_whose_square_is_zero() -> None:
    start = {"x": np.asarray([1.0, 2.0, 9.0])}
    params, state = LBFGS(gradient_tolerance=0.0).minimize(
        value_and_grad(lambda p: 1e-170 * p["x"] @ p["x"]), start
    )
    assert bool(state["converged"])
    assert np.all(np.isfinite(params["x"]))


def test_a_goal(backend: backends.Backend) -> None:
    with pytest.raises(ValueError, match="EarlyStopping: expected goal to be a finite number"):
        EarlyStopping("loss", goal=float("nan"))
    stop = EarlyStopping("accuracy", goal=0.9, patience=999, mode="max")
    labels = (X[:, 0] > 0).astype(int)
    model = tinynn.fit(
        Sequential(Linear(4), tanh, Linear(2)), X, labels, metrics=["accuracy"], epochs=200,
        callbacks=[stop], optimizer="lbfgs",
    )  # fmt: skip
    assert model.history["accuracy"][-1] >= 0.9 > max(model.history["accuracy"][:-1], default=0.0)


@pytest.mark.only("numpy")
def test_a_run_at_its_goal_goes_on_to_another_alone(
    backend: backends.Backend, tmp_path: Any
) -> None:
    def epochs(goal: float, **options: Any) -> int:
        stop = EarlyStopping("loss", goal=goal, restore_best=False)
        kept = {"checkpoint": tmp_path / "run.safetensors", "callbacks": [stop], **options}
        return len(history("auto", epochs=99, **kept))

    first = epochs(0.05)
    assert epochs(0.05, resume=True) == first
    assert epochs(0.01, resume=True) > first


def test_one_weighted_step_is_its_epochs_loss(backend: backends.Backend) -> None:
    """To the bit, of however many epochs at once: a run that is resumed has the same history."""
    x, y, weights = (backend.asarray(a, dtype="float32") for a in (X, Y, np.linspace(0.1, 2, 24)))
    batches = prepare(NET, x, y, optimizer="lbfgs", sample_weight=weights).batches
    losses = backend.asarray(np.linspace(0.1, 0.7, 17), dtype="float32")[:, None]
    assert bool(backend.xp.all(batches.loss_of_epoch(losses, batches.epoch(0)) == losses[:, 0]))


@pytest.mark.only("numpy", "torch", "jax")
@pytest.mark.parametrize("optimizer", [LBFGS(), NewtonCG()])
def test_training_ends_at_a_gradient_that_is_not_finite_and_says_so(
    optimizer: Any, backend: backends.Backend, float64: Any
) -> None:
    """The root of 0 is finite, and its derivative is not: nothing has converged there."""

    def distance(answers: Any, targets: Any) -> Any:
        xp, error = namespace(answers), answers - targets
        return xp.mean(xp.sqrt(error * error))

    net, x = Sequential(Linear(1, bias=False)), backend.asarray(X, dtype="float64")
    start = {"0": {"weight": 0.0 * x[:1, :]}}
    with pytest.warns(RuntimeWarning, match="epoch 1: the gradient is not finite"):
        model = tinynn.fit(net, x, 0.0 * x, loss=distance, optimizer=optimizer, params=start)
    assert model.history["loss"] == [0.0]
    assert float(model.params["0"]["weight"][0, 0]) == 0.0
    many = {"0": {"weight": backend.asarray([[[0.0]], [[1.0]]], dtype="float64")}}
    asked: dict[str, Any] = {"loss": distance, "optimizer": optimizer, "params": many}
    with pytest.warns(RuntimeWarning, match=r"not finite in [12] of 2 networks.*were: 0"):
        tinynn.fit_many(net, x, 0.0 * x, networks=2, epochs=3, engine="eager", **asked)


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("start", [0.0, float("nan")])
def test_lbfgs_has_not_converged_where_the_gradient_is_not_finite(
    start: float, backend: backends.Backend
) -> None:
    root = value_and_grad(lambda x: namespace(x).sqrt(x))
    with backend.quiet():
        params, state = LBFGS().minimize(root, backend.asarray(start))
    assert not bool(state["converged"])
    assert int(state["step"]) == 1
    assert_close(params, start, backend)


@pytest.mark.only("numpy", "array_api_strict")
def test_lbfgs_without_curvature_warns_of_nothing(backend: backends.Backend) -> None:
    """The change of the gradient of a line is 0, and no pair for the history."""
    params, state = LBFGS().minimize(value_and_grad(lambda x: -x), backend.asarray(0.0))
    assert float(params) > 1e6
    assert not np.any(backend.to_host(state["lengths"]))


@pytest.mark.only("numpy", "torch")
def test_lbfgs_takes_numbers_and_no_gradients_of_other_params(backend: backends.Backend) -> None:
    def written(params: Any) -> Any:
        return float((params["x"][0] - 3.0) ** 2), {"x": 2.0 * (params["x"] - 3.0)}

    params, _ = LBFGS().minimize(written, {"x": backend.asarray([0.0])})
    assert_close(params["x"], [3.0], backend)
    for gradients in ({"y": params["x"]}, {"x": params["x"][0]}, {"x": params["x"], "y": 0.0}):
        with pytest.raises(ValueError, match=r"LBFGS\(\): expected gradients"):
            LBFGS().minimize(Mock(return_value=(1.0, gradients)), params)


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "auto"])
def test_a_network_may_answer_with_one_number(optimizer: str, backend: backends.Backend) -> None:
    """With a loss of one's own, which alone knows what that is of."""
    x, net = backend.asarray(X), Sequential(Linear(1), lambda x: namespace(x).sum(x))
    model = tinynn.fit(net, x, x, loss=lambda out, _: (out - 1.0) ** 2, optimizer=optimizer)
    assert model.history["loss"][-1] <= model.history["loss"][0]
