"""fit_many: network k is what fit makes of the k-th entries alone."""

import warnings
from functools import partial

import numpy as np
import pytest

import tinynn
from tests import faults
from tinynn import fit, fit_many, tree
from tinynn.functional import tanh
from tinynn.layers import BatchNorm, Dropout, Layer, Linear, Sequential
from tinynn.losses import Huber
from tinynn.optim import SGD, Adam, AdamW, CosineDecay
from tinynn.trace import namespace
from tinynn.training import CSVLog, prepare
from tinynn.training.many import engines, training
from tinynn.training.many.networks import Networks

pytestmark = pytest.mark.reads_scalars  # the checks of data and loss read one boolean each, as fit
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(11, 3)), RNG.normal(size=(11, 1))
NET = Sequential(Linear(4), tanh, Dropout(0.5), Linear(1))


def arrays(backend, model):
    return [backend.to_host(a) for a in tree.leaves((model.params, model.state))]


def test_network_k_equals_fit_alone_and_all_answer_together(backend, tmp_path):
    x = backend.asarray(X, dtype="float32")
    y = backend.asarray((X[:, 0] > 0).astype("float32"))
    given = {"epochs": 2, "batch_size": 4, "loss": "binary_cross_entropy", "metrics": "accuracy"}
    held, seeds, rates = (x[:4, ...], y[:4]), (3, 8), (0.1, 0.01)
    # Loops are compiled on CuPy; NumPy's have a test of their own, since they take seconds.
    for engine in ("auto", *(("loops",) if backend.name == "cupy" else ())):
        stack = fit_many(
            NET, x, y, seed=seeds, optimizer=Adam(rates), validation=held, engine=engine, **given
        )
        for model, seed, rate in zip(stack, seeds, rates, strict=True):
            alone = fit(
                NET, x, y, seed=seed, optimizer=Adam(rate), validation=held, engine="eager", **given
            )
            assert list(model.history) == list(alone.history)
            for name, values in alone.history.items():
                np.testing.assert_allclose(model.history[name], values, rtol=1e-4)
            for ours, theirs in zip(arrays(backend, model), arrays(backend, alone), strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert (len(stack), stack.seeds, len(list(stack)), len(stack[1:])) == (2, seeds, 2, 1)
    assert stack.predict(x).shape == (2, 11, 1)
    each = [backend.to_host(model.predict_proba(x)) for model in stack]
    together = backend.to_host(stack.ensemble(x))
    np.testing.assert_allclose(together, np.mean(each, axis=0), rtol=1e-5)
    last = [model.history["validation_loss"][-1] for model in stack]
    assert stack.best is stack[int(np.argmin(last))]
    stack.save(tmp_path / "stack")
    again = tinynn.load(tmp_path / "stack", backend)
    assert (len(again), again.epochs, again.seeds) == (2, stack.epochs, seeds)
    for ours, theirs in zip(again, stack, strict=True):
        assert ours.history == theirs.history
        for one, other in zip(arrays(backend, ours), arrays(backend, theirs), strict=True):
            np.testing.assert_array_equal(one, other)


# What is alike on every library.


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_a_fraction_is_held_out_by_each_seed(engine):
    net, given = (
        Sequential(Linear(3), BatchNorm(), Linear(1)),
        {"validation": 0.3, "metrics": "mae"},
    )
    given |= {"epochs": 2, "batch_size": 3, "sample_weight": np.linspace(0.5, 2.0, 11)}
    stack = fit_many(net, X, Y, seed=[1, 2], engine=engine, **given)
    for model, seed in zip(stack, (1, 2), strict=True):
        alone = fit(net, X, Y, seed=seed, engine="eager", **given)
        for name, values in alone.history.items():
            np.testing.assert_allclose(model.history[name], values, rtol=1e-8)
        np.testing.assert_allclose(model.state["1"]["mean"], alone.state["1"]["mean"], rtol=1e-8)


@pytest.mark.parametrize("engine", ["loops", "calls"])
def test_one_seed_holds_out_the_same_from_batches_in_order(engine):
    given = {"seed": 5, "validation": 0.3, "batch_size": None, "epochs": 2}
    rates = [0.1, 0.01, 0.02]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none is trained in another way
        stack = fit_many(Linear(1), X, Y, optimizer=SGD(rates), engine=engine, **given)
    for model, rate in zip(stack, rates, strict=True):
        alone = fit(Linear(1), X, Y, optimizer=SGD(rate), engine="eager", **given)
        for name, values in alone.history.items():
            np.testing.assert_allclose(model.history[name], values, rtol=1e-8)


@pytest.mark.parametrize("training", [True, False])
def test_ctrl_c_gives_the_last_whole_epoch(training):
    """In a step, and while the networks are measured: in the second pass of the second epoch."""
    passes, last = [], 5 if training else 7  # those of the checks and of `init` count

    class Interrupt(Layer):
        def forward(self, scope, x):
            passes.append(scope.training)
            if scope.training == training and passes.count(training) == last:
                raise KeyboardInterrupt
            return x

    net = Sequential(Linear(1), Interrupt())
    given = {"seed": [1, 2], "batch_size": None, "metrics": ("mae",), "engine": "eager"}
    with pytest.warns(RuntimeWarning, match="epoch 1: interrupted: the networks are as they"):
        stack = fit_many(net, X, Y, epochs=9, **given)
    assert stack.epochs == (1, 1)
    expected = fit_many(Sequential(Linear(1), lambda x: x), X, Y, epochs=1, **given)
    np.testing.assert_array_equal(stack.params["0"]["weight"], expected.params["0"]["weight"])
    for name, values in expected.history.items():
        np.testing.assert_array_equal(stack.history[name], values)


@pytest.mark.usefixtures("usual_ctrl_c")
@pytest.mark.filterwarnings("ignore:.*interrupted")
def test_ctrl_c_leaves_parameters_and_histories_of_one_epoch():
    """At every seventh line of the loop."""
    given = {"seed": [1, 2], "batch_size": None, "metrics": ("mae",), "engine": "eager"}

    def trained(epochs, line=0):
        stack = fit_many(Linear(1), X, Y, epochs=epochs, progress=False, **given)
        assert {values.shape for values in stack.history.values()} == {(2, stack.epochs[0])}
        return stack.epochs[0], stack.params["weight"]

    whole, ended = dict(map(trained, (1, 2))), 0
    for _, (epochs, weights) in faults.struck(training.__file__, 7, partial(trained, 2)):
        np.testing.assert_array_equal(weights, whole[epochs])
        ended += epochs < 2
    assert ended > 1


def test_many_start_as_few_do():
    few, many = (fit_many(NET, X, Y, networks=n, epochs=1, engine="calls") for n in (2, 12))
    for name, array in tree.paths(few.params):
        rest = dict(tree.paths(many.params))[name]
        np.testing.assert_allclose(rest[:2, ...], array, rtol=1e-12)
    assert len(np.unique(rest[:, 0])) == 12


def of(k, given):
    """The entry of network k; None gives all."""
    return given if k is None else given[k]


VARIED = {
    "decay": lambda k: {"optimizer": AdamW(0.1, weight_decay=of(k, [0.0, 0.5]))},
    "momentum": lambda k: {"optimizer": SGD(0.1, momentum=of(k, [0.0, 0.9]))},
    "betas": lambda k: {"optimizer": Adam(beta1=of(k, [0.0, 0.5]), epsilon=of(k, [1e-8, 1e-3]))},
    "schedule": lambda k: {"optimizer": SGD(CosineDecay(of(k, [0.1, 0.01]), steps=9))},
    "layer": lambda k: {"net": Sequential(BatchNorm(momentum=of(k, [0.1, 0.5])), Linear(1))},
    "loss": lambda k: {"loss": Huber(of(k, np.asarray([0.1, 2.0])))},
}


@pytest.mark.parametrize("name", VARIED)
def test_numbers_vary(name):
    given = {"net": Linear(1), "X": X, "y": Y, "epochs": 3, "batch_size": 4}
    stack = fit_many(engine="calls", **given | VARIED[name](None))
    for k, model in enumerate(stack):
        alone = fit(engine="eager", **given | VARIED[name](k))
        rows = [tree.leaves((each.params, each.state)) for each in (model, alone)]
        for ours, theirs in zip(*rows, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)
        assert (model.loss, model.net) == (alone.loss, alone.net)
    assert stack.seeds == (0, 0)


# Loops on NumPy.


@pytest.mark.only("numpy")
@pytest.mark.usefixtures("compiler_of_loops")
def test_loops_give_the_bits_of_fit_on_any_number_of_threads(monkeypatch):
    given = {"epochs": 3, "batch_size": 4, "validation": 0.3, "sample_weight": X[:, 0] ** 2}
    stacks = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        stacks.append(fit_many(NET, X, Y, networks=3, engine="loops", **given))
    for seed, (one, three) in enumerate(zip(*stacks, strict=True)):
        alone = fit(NET, X, Y, seed=seed, engine="loops", **given)
        rows = [tree.leaves((model.params, model.state)) for model in (one, three, alone)]
        for ours, theirs, expected in zip(*rows, strict=True):
            np.testing.assert_array_equal(ours, expected)
            np.testing.assert_array_equal(theirs, expected)
        for name, values in alone.history.items():
            np.testing.assert_allclose(one.history[name], values, rtol=1e-12)


@pytest.mark.only("numpy")
@pytest.mark.usefixtures("compiler_of_loops")
@pytest.mark.parametrize("shuffle", [True, False])
def test_loops_with_numbers_that_vary_and_one_that_diverges(shuffle):
    rates = [0.1, 1e30, 0.01]
    given = {"epochs": 90, "batch_size": 4, "shuffle": shuffle}
    x, y = X[:8], Y[:8]
    with pytest.warns(RuntimeWarning, match=r"in 1 of 3 networks, .*: 1 \(after epoch \d"):
        stack = fit_many(Linear(1), x, y, optimizer=SGD(rates), engine="loops", **given)
    for k in (0, 2):
        alone = fit(Linear(1), x, y, optimizer=SGD(rates[k]), engine="eager", **given)
        np.testing.assert_allclose(stack[k].params["weight"], alone.params["weight"], rtol=1e-12)
        np.testing.assert_allclose(stack[k].history["loss"], alone.history["loss"], rtol=1e-12)
    assert stack.epochs == (90, len(stack[1].history["loss"]), 90)
    known = fit(
        Linear(1), x, y, optimizer=SGD(1e30), engine="eager", **given | {"epochs": stack.epochs[1]}
    )
    np.testing.assert_allclose(stack[1].history["loss"], known.history["loss"], rtol=1e-9)
    np.testing.assert_allclose(stack[1].params["weight"], known.params["weight"], rtol=1e-9)
    assert np.isfinite(stack[1].params["weight"]).all()


def test_long_sweeps_take_loops_by_themselves(monkeypatch):
    seen = []
    monkeypatch.setattr(engines, "Loops", lambda together: seen.append("loops") or 1 / 0)
    for epochs, way in ((1, []), (10**7, ["loops"])):
        problem = prepare(Linear(1), X, Y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = engines.select(Networks([problem], range(9), {}), "auto", epochs)
        assert seen == way
        assert made.name == ("eager" if way else "calls")


class Sometimes(Layer):
    """A layer whose step is not the same for all arrays."""

    def forward(self, scope, x):
        return x if float(namespace(x).sum(x)) > 0 else -x


def test_what_cannot_be_compiled_runs_one_by_one_and_says_so():
    net = Sequential(Sometimes(), Linear(1))
    with pytest.warns(
        RuntimeWarning, match="the networks are trained one by one, .*recorded"
    ) as seen:
        stack = fit_many(net, X, Y, networks=2, epochs=2)
    assert len(seen) == 1
    for k, model in enumerate(stack):
        alone = fit(model.net, X, Y, seed=k, epochs=2, engine="eager")
        np.testing.assert_array_equal(model.params["1"]["weight"], alone.params["1"]["weight"])


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_a_network_that_diverges_stays_and_the_others_go_on(engine, tmp_path):
    optimizer = SGD([0.01, 1e30, 0.01])
    with pytest.warns(RuntimeWarning, match=r"in 1 of 3 networks, .*: 1 \(after epoch \d") as seen:
        stack = fit_many(
            Linear(1), X, Y, optimizer=optimizer, epochs=9, batch_size=4, engine=engine
        )
    assert len(seen) == 1
    assert stack.epochs[0] == stack.epochs[2] == 9 > stack.epochs[1]
    assert np.isfinite(stack.params["weight"]).all()
    assert np.isfinite(stack[1].history["loss"]).all()
    assert len(stack[0].history["loss"]) == 9
    np.testing.assert_array_equal(stack[0].params["weight"], stack[2].params["weight"])
    stack.save(tmp_path / "stack")


BAD = [
    ({}, "networks: expected how many"),
    ({"seed": [1, 2], "networks": 3}, "2 in seed, 3 in networks"),
    ({"seed": [1, 2], "optimizer": Adam([0.1] * 3)}, "3 in optimizer.learning_rate, 2 in seed"),
    ({"networks": 0}, "networks: expected a whole number of 1 or more, got 0"),
    ({"seed": []}, "0 in seed"),
    ({"seed": [1.5]}, "seed: expected a whole number"),
    ({"networks": 2, "epochs": [1, 2]}, "epochs: expected one for all networks, got 2"),
    ({"networks": 2, "batch_size": [1, 2]}, "what can vary are seed="),
    ({"networks": 2, "shuffle": [True, False]}, "shuffle: expected one for all networks, got 2"),
    ({"networks": 2, "seed": None}, "seed: expected a whole number, or a list of them, got None"),
    ({"seed": [[1, 2]]}, "seed: expected a whole number"),
    ({"seed": np.ones((2, 2), int)}, "seed: expected a whole number, or a list of them"),
    ({"networks": 2, "engine": "fast"}, "engine: expected one of 'auto', 'loops', "),
    ({"networks": 2, "engine": "jit"}, "no compiler of its own"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_many(Linear(1), X, Y, **arguments)


def test_numbers_of_many_are_for_fit_many():
    with pytest.raises(ValueError, match="expected one number as learning_rate of Adam"):
        fit(Linear(1), X, Y, optimizer=Adam([0.1, 0.2]))
    with pytest.raises(ValueError, match="learning_rate to be a number of 0 or more, or a sched"):
        Adam([0.1, -0.2])
    with pytest.raises(ValueError, match=r"rate to be a number in \[0, 1\), or as many"):
        Dropout([0.1, 1.5])
    with pytest.raises(TypeError, match=r"callbacks: .* a StackRun, got CSVLog.*early_stopping="):
        fit_many(Linear(1), X, Y, networks=2, callbacks=CSVLog("a.csv"))
    with pytest.raises(TypeError, match="X: expected arrays, got what is read batch by batch"):
        fit_many(Linear(1), [(X, Y)], networks=2, loss="squared_error")


def test_best_needs_validation():
    with pytest.raises(ValueError, match="best: expected a history with a validation loss"):
        _ = fit_many(Linear(1), X, Y, networks=2, epochs=1).best
