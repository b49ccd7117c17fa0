"""fit_many as a run: callbacks, checkpoints, starting parameters, optimizers of second order."""

import shutil

import numpy as np
import pytest

import tinynn
from tinynn import fit, fit_many, tree
from tinynn.functional import tanh
from tinynn.inspection import DecisionBoundary
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.losses import Huber
from tinynn.optim import (
    LBFGS,
    SGD,
    Adam,
    GaussNewton,
    LevenbergMarquardt,
    NaturalGradient,
    NewtonCG,
)
from tinynn.training import EarlyStopping, SuccessiveHalving

pytestmark = pytest.mark.reads_scalars  # the checks of data and loss read one boolean each, as fit
RNG = np.random.default_rng(0)
X = RNG.normal(size=(23, 2))
Y = np.sin(X[:, :1]) + X[:, 1:] ** 2
NET = Sequential(Linear(3), tanh, Linear(1))
DROPS = Sequential(Linear(3, bias=False), BatchNorm(), Dropout(0.3), Linear(1))


def assert_equal(one, other, rtol=0.0):
    assert (one.epochs, one.kept, one.seeds) == (other.epochs, other.kept, other.seeds)
    parts = [tree.paths((each.params, each.state)) for each in (one, other)]
    for (name, a), (_, b) in zip(*map(list, parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=name)
    assert list(one.history) == list(other.history)
    for name, values in one.history.items():
        np.testing.assert_allclose(values, other.history[name], rtol=rtol, err_msg=name)


# Callbacks.


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_callbacks_see_all_networks_and_end_them(engine):
    seen = []

    class Callback:
        def start(self, run):
            seen.append(("start", run.epoch, run.alive))

        def __call__(self, run):
            stack = run.stack()
            assert run.history["loss"].shape == (3, run.epoch)
            shown = fit(NET, X, Y, seed=1, epochs=run.epoch, engine="eager").predict(X)
            if 1 in run.alive:
                np.testing.assert_allclose(stack[1].predict(X), shown, rtol=1e-9)
            seen.append((run.epoch, run.alive))
            if run.epoch == 2:
                run.stop([1])
            if run.epoch == 3:
                run.stop()

        def finish(self, run):
            seen.append(("finish", run.epoch, run.alive))

    stack = fit_many(NET, X, Y, networks=3, epochs=9, callbacks=Callback(), engine=engine)
    assert stack.epochs == (3, 2, 3)
    assert seen == [
        ("start", 0, (0, 1, 2)), (1, (0, 1, 2)), (2, (0, 1, 2)), (3, (0, 2)), ("finish", 3, ()),
    ]  # fmt: skip


def test_a_boundary_of_one_of_many_is_drawn(tmp_path):
    path = tmp_path / "first.svg"
    draw = DecisionBoundary(lambda run: run.stack()[1], X, Y, to=path, resolution=4)
    fit_many(NET, X, Y, networks=2, epochs=2, callbacks=[draw])
    assert "epoch 2" in path.read_text()


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_what_callbacks_do_to_their_stack_changes_no_training(engine):
    def zeroed(run):
        for leaf in tree.leaves(run.stack().params):
            leaf[...] = 0.0
        run.history["loss"][...] = 0.0

    given = {"networks": 2, "epochs": 3, "engine": engine}
    assert_equal(fit_many(NET, X, Y, callbacks=zeroed, **given), fit_many(NET, X, Y, **given))


def test_networks_that_do_not_exist_are_not_stopped():
    for wrong in ([3], [-1], [True], ["0"]):
        with pytest.raises(ValueError, match=r"StackRun.stop: networks: expected numbers from 0 t"):
            fit_many(NET, X, Y, networks=3, callbacks=lambda run, wrong=wrong: run.stop(wrong))
    with pytest.raises(TypeError, match=r"got 1\. To fix it: run\.stop\(\[1\]\)"):
        fit_many(NET, X, Y, networks=3, callbacks=lambda run: run.stop(1))


def test_a_run_may_be_stopped_before_it_begins():
    class Never:
        def start(self, run):
            assert run.history["loss"].shape == (2, 0)
            run.stop()

        def __call__(self, run):
            raise AssertionError

    stack = fit_many(NET, X, Y, networks=2, callbacks=Never())
    assert stack.epochs == (0, 0)
    np.testing.assert_array_equal(stack[1].params["0"]["weight"], NET.init(1, X)[0]["0"]["weight"])


def test_control_c_in_a_callback_ends_training_as_elsewhere(tmp_path):
    """The file is of the last whole epoch, though it is between two checkpoints."""
    path, given = tmp_path / "run", {"networks": 3, "epochs": 6, "engine": "calls"}

    def some(run):
        if run.epoch == 2:
            run.stop([1])

    def interrupted(run):
        if run.epoch == 3:
            run.stop([0])
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="epoch 3: interrupted: the networks are as they were"):
        ended = fit_many(
            NET, X, Y, callbacks=[some, interrupted], checkpoint=path, every=4, **given
        )
    assert ended.epochs == (3, 2, 3)
    whole = fit_many(
        NET, X, Y, callbacks=[some, lambda run: run.epoch == 3 and run.stop([0])], **given
    )
    assert_equal(fit_many(NET, X, Y, resume=path, **given), whole)


# Checkpoints.

RUNS = {
    "draws": (DROPS, {"batch_size": 5}),
    "numbers": (DROPS, {"batch_size": None, "optimizer": Adam([0.1, 0.01, 0.02])}),
    "folds": (NET, {"folds": 3, "networks": 2, "metrics": "mae"}),
    "stopping": (NET, {"validation": 0.3, "early_stopping": EarlyStopping(patience=1)}),
    "halving": (NET, {"validation": 0.3, "halving": SuccessiveHalving(), "networks": 4}),
}


# Loops are compiled for seconds, and take no part in what stops.
@pytest.mark.parametrize(
    ("name", "engine"),
    [*((name, engine) for name in RUNS for engine in ("eager", "calls")), ("draws", "loops")],
)
def test_two_epochs_and_four_more_are_six(name, engine, tmp_path):
    net, options = RUNS[name]
    given = {"networks": 3, "epochs": 6, "optimizer": Adam(0.05), "engine": engine} | options
    if "optimizer" in options:
        del given["networks"]
    whole = fit_many(net, X, Y, **given)
    path, early = tmp_path / "run", tmp_path / "early"

    def copied(run):
        if run.epoch == 3:  # the file is of the epoch before
            shutil.copy(path, early)

    fit_many(net, X, Y, checkpoint=path, every=2, callbacks=copied, **given)
    assert_equal(fit_many(net, X, Y, resume=early, **given), whole)
    assert_equal(fit_many(net, X, Y, checkpoint=path, resume=True, **given), whole)  # its end


@pytest.mark.only("jax")
def test_the_librarys_compiler_goes_on_too(backend, tmp_path):
    x, y, path = backend.asarray(X), backend.asarray(Y), tmp_path / "run"
    given = {"networks": 2, "batch_size": None, "engine": "jit"}
    whole = fit_many(NET, x, y, epochs=2, **given)
    fit_many(NET, x, y, epochs=1, checkpoint=path, **given)
    again = fit_many(NET, x, y, epochs=2, resume=path, **given)
    for ours, theirs in zip(tree.leaves(again.params), tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(backend.to_host(ours), backend.to_host(theirs), rtol=1e-6)


def test_what_cannot_be_gone_on_with_is_said(tmp_path):
    path = tmp_path / "run"
    given = {"networks": 2, "epochs": 2, "engine": "calls"}
    fit_many(NET, X, Y, checkpoint=path, resume=True, **given)  # which begins
    for other, said in (
        ({"networks": 3}, "seeds: expected"),
        ({"epochs": 1}, "within 1 epochs, got one .* after 2"),
        ({"engine": "eager"}, "by engine='eager'.*got one by engine='calls'"),
        ({"optimizer": SGD(0.1)}, "optimizer: expected Adam"),
        ({"halving": SuccessiveHalving(), "validation": (X, Y)}, "history: expected"),
    ):
        with pytest.raises(ValueError, match=said):
            fit_many(NET, X, Y, resume=path, **given | other)
    begun = fit_many(NET, X, Y, **given)
    for more in ({"params": begun.params}, {"state": begun.state}):
        with pytest.raises(ValueError, match=r"resume: expected no params= or state= beside it"):
            fit_many(NET, X, Y, resume=path, **given | more)
        fit_many(NET, X, Y, checkpoint=path, resume=True, **given | more)  # begun, or gone on with
    with pytest.raises(ValueError, match="data: expected those that the run was begun with"):
        fit_many(NET, X + 1.0, Y, resume=path, **given)
    with pytest.raises(FileNotFoundError, match="fit_many: resume: expected a checkpoint, got"):
        fit_many(NET, X, Y, resume=tmp_path / "none", **given)
    with pytest.raises(ValueError, match="fit_many: every: expected a whole number of epochs"):
        fit_many(NET, X, Y, checkpoint=path, every=0, **given)
    with pytest.raises(ValueError, match="fit_many: every: expected checkpoint= beside it"):
        fit_many(NET, X, Y, every=2, **given)
    with pytest.raises(
        tinynn.training.ModelFileError, match=r"got a stack checkpoint.*go on from it with fit_many"
    ):
        tinynn.load(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(tinynn.training.ModelFileError):
        fit_many(NET, X, Y, resume=path, **given)


# Starting parameters.


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_networks_start_from_those_of_a_stack(engine):
    first = fit_many(DROPS, X, Y, seed=[3, 4], epochs=2, engine=engine)
    given = {"epochs": 2, "optimizer": Adam(0.01), "batch_size": 8}
    stack = fit_many(
        DROPS, X, Y, seed=[5, 6], params=first.params, state=first.state, engine=engine, **given
    )
    for k, seed in enumerate((5, 6)):
        alone = fit(
            DROPS, X, Y, seed=seed, params=first[k].params, state=first[k].state, engine="eager",
            **given,
        )  # fmt: skip
        np.testing.assert_allclose(stack[k].predict(X), alone.predict(X), rtol=1e-8)
    with pytest.raises(ValueError, match=r"params: '0.weight': expected the shape \(3, 2, 3\), wi"):
        fit_many(DROPS, X, Y, networks=3, params=first.params)
    with pytest.raises(ValueError, match=r"state: '1.mean': expected the shape \(2, 3\).*got \(3,"):
        fit_many(DROPS, X, Y, networks=2, state=first[0].state)


# Second order.


@pytest.mark.parametrize(
    "optimizer",
    [LevenbergMarquardt(), GaussNewton(l2=0.1), NaturalGradient(0.1, l2=0.1), NewtonCG()],
    ids=lambda each: type(each).__name__,
)
def test_optimizers_of_second_order_train_many(optimizer):
    given = {"optimizer": optimizer, "epochs": 4, "batch_size": "auto"}
    stack = fit_many(NET, X, Y, networks=2, **given)
    for k, model in enumerate(stack):
        alone = fit(NET, X, Y, seed=k, engine="eager", **given)
        np.testing.assert_allclose(model.history["loss"], alone.history["loss"], rtol=1e-6)
        np.testing.assert_allclose(model.predict(X), alone.predict(X), rtol=1e-5, atol=1e-7)


def test_networks_that_have_converged_end():
    given = {"optimizer": LevenbergMarquardt(l2=0.2), "epochs": 100}
    stacks = [fit_many(NET, X, Y, networks=2, engine=e, **given) for e in ("eager", "calls")]
    alone = [fit(NET, X, Y, seed=k, engine="calls", **given) for k in range(2)]
    for stack in stacks:
        assert max(stack.epochs) < 100
        for one, other in zip(stack, alone, strict=True):
            assert one.history["loss"][-1] == pytest.approx(other.history["loss"][-1], rel=1e-6)
    # Numbers may vary, beside a state that knows of its end.
    varied = fit_many(NET, X, Y, optimizer=LevenbergMarquardt(l2=[0.2, 0.4]), epochs=100)
    assert max(varied.epochs) < 100
    assert varied[0].history["loss"][-1] == pytest.approx(alone[0].history["loss"][-1], rel=1e-6)
    auto = fit_many(NET, X, Y, networks=2, optimizer="auto", epochs=3)
    chosen = fit(NET, X, Y, optimizer="auto", epochs=3)
    assert isinstance(chosen.optimizer, LevenbergMarquardt)
    assert auto[0].history["loss"] == pytest.approx(chosen.history["loss"], rel=1e-6)
    losses = Huber(delta=[0.5, 1.0])
    assert len(fit_many(NET, X, Y, loss=losses, optimizer="auto", epochs=1)) == 2


def test_an_error_of_every_step_is_said_once(recwarn):
    with pytest.raises(ValueError, match="convex in the prediction"):
        fit_many(NET, X, Y, networks=2, loss="absolute_error", optimizer=LevenbergMarquardt())
    assert not recwarn.list


def test_lbfgs_trains_one_network_after_another_and_says_so():
    with pytest.warns(
        RuntimeWarning, match="one by one, without compiling: the optimizer needs va"
    ):
        stack = fit_many(NET, X, Y, networks=2, optimizer=LBFGS(), epochs=5)
    alone = fit(NET, X, Y, seed=1, optimizer=LBFGS(), epochs=5)
    assert stack[1].history["loss"] == pytest.approx(alone.history["loss"], rel=1e-9)
