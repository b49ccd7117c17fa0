"""fit_many: network k is what fit makes of the k-th entries alone."""

import numpy as np
import pytest

import tinynn
from tinynn import fit, fit_many, tree
from tinynn.functional import relu, tanh
from tinynn.layers import BatchNorm, Dropout, Layer, Linear, Sequential
from tinynn.losses import Huber
from tinynn.optim import SGD, Adam, AdamW, CosineDecay
from tinynn.trace import namespace

pytestmark = pytest.mark.reads_scalars  # the checks of data and loss read one boolean each, as fit
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(11, 3)), RNG.normal(size=(11, 1))
LABELS = np.arange(11) % 3


def data(backend, labels=False):
    return backend.asarray(X, dtype="float32"), backend.asarray(LABELS if labels else Y[:, 0] * 1.0)


def arrays(backend, model):
    return [backend.to_host(a) for a in tree.leaves((model.params, model.state))]


def compiles_loops(backend):
    """Loops are compiled on CuPy; NumPy's have tests of their own, since they take seconds."""
    return ("calls", *(("loops",) if backend.name == "cupy" else ()))


NETS = {
    "dropout": (Sequential(Linear(4), tanh, Dropout(0.5), Linear(1)), Adam([0.1, 0.01])),
    "statistics": (Sequential(Linear(4), BatchNorm(), relu, Linear(1)), SGD([0.1, 0.01])),
}


@pytest.mark.parametrize("name", NETS)
def test_network_k_equals_fit_alone(backend, name):
    (x, y), (net, optimizer) = data(backend), NETS[name]
    rates, kind = optimizer.learning_rate, type(optimizer)
    held = backend.asarray(X[:4], dtype="float32"), y[:4]
    given = {
        "epochs": 2,
        "batch_size": 4,
        "validation": held,
        "metrics": "mae",
        "loss": "squared_error",
    }
    for engine in compiles_loops(backend):
        stack = fit_many(net, x, y, seed=[3, 8], optimizer=optimizer, engine=engine, **given)
        for model, seed, rate in zip(stack, (3, 8), rates, strict=True):
            alone = fit(net, x, y, seed=seed, optimizer=kind(rate), engine="eager", **given)
            assert list(model.history) == list(alone.history)
            for measure in alone.history:
                np.testing.assert_allclose(
                    model.history[measure], alone.history[measure], rtol=1e-4
                )
            for ours, theirs in zip(arrays(backend, model), arrays(backend, alone), strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_what_a_stack_answers(backend, tmp_path):
    x, labels = data(backend, labels=True)
    net = Sequential(Linear(5), relu, Linear(3))
    stack = fit_many(net, x, labels, networks=3, epochs=2, seed=4, validation=0.3, shuffle=False)
    assert (len(stack), stack.seeds, len(list(stack)), len(stack[1:])) == (3, (4, 5, 6), 3, 2)
    assert stack.predict(x).shape == (3, 11, 3)
    each = [backend.to_host(model.predict_proba(x)) for model in stack]
    together = backend.to_host(stack.ensemble(x))
    np.testing.assert_allclose(together, np.mean(each, axis=0), rtol=1e-5)
    np.testing.assert_allclose(together.sum(axis=1), 1.0, rtol=1e-5)
    last = [model.history["validation_loss"][-1] for model in stack]
    assert stack.best is stack[int(np.argmin(last))]
    stack.save(tmp_path / "stack")
    again = tinynn.load(tmp_path / "stack", backend)
    assert (len(again), again.epochs, again.seeds) == (3, stack.epochs, stack.seeds)
    for ours, theirs in zip(again, stack, strict=True):
        assert ours.history == theirs.history
        for one, other in zip(arrays(backend, ours), arrays(backend, theirs), strict=True):
            np.testing.assert_array_equal(one, other)


# What is alike on every library.


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_a_fraction_is_held_out_by_each_seed(engine):
    net, given = Linear(1), {"epochs": 2, "batch_size": 3, "validation": 0.3, "metrics": "mae"}
    weights = np.linspace(0.5, 2.0, 11)
    stack = fit_many(net, X, Y, seed=[1, 2], sample_weight=weights, engine=engine, **given)
    for model, seed in zip(stack, (1, 2), strict=True):
        alone = fit(net, X, Y, seed=seed, sample_weight=weights, engine="eager", **given)
        for name, values in alone.history.items():
            np.testing.assert_allclose(model.history[name], values, rtol=1e-10)


def of(k, given):
    """The entry of network k; None gives all."""
    return given if k is None else given[k]


VARIED = {
    "decay": lambda k: {"optimizer": AdamW(0.1, weight_decay=of(k, [0.0, 0.5]))},
    "momentum": lambda k: {"optimizer": SGD(0.1, momentum=of(k, [0.0, 0.9]))},
    "betas": lambda k: {"optimizer": Adam(beta1=of(k, [0.0, 0.5]), epsilon=of(k, [1e-8, 1e-3]))},
    "schedule": lambda k: {"optimizer": SGD(CosineDecay(of(k, [0.1, 0.01]), steps=9))},
    "loss": lambda k: {"loss": Huber(of(k, np.asarray([0.1, 2.0])))},
}


@pytest.mark.parametrize("name", VARIED)
def test_numbers_vary(name):
    given = {"epochs": 3, "batch_size": 5}
    stack = fit_many(Linear(1), X, Y, engine="calls", **given, **VARIED[name](None))
    for k, model in enumerate(stack):
        alone = fit(Linear(1), X, Y, engine="eager", **given, **VARIED[name](k))
        np.testing.assert_allclose(model.params["weight"], alone.params["weight"], rtol=1e-9)
        assert model.loss == alone.loss
    assert stack.seeds == (0, 0)


class Sometimes(Layer):
    """A layer whose step is not the same for all arrays."""

    def forward(self, scope, x):
        return x if float(namespace(x).sum(x)) > 0 else -x


def test_what_cannot_be_compiled_runs_one_by_one_and_says_so():
    nets = {
        "branch": Sequential(Sometimes(), Linear(1)),
        "rate": Sequential(Dropout([0.0, 0.5]), Linear(1)),
    }
    for net in nets.values():
        with pytest.warns(
            RuntimeWarning, match="fit_many: the networks are trained one by one"
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
    ({"networks": 2, "engine": "jit"}, "engine: expected one of"),
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
    with pytest.raises(TypeError, match="callbacks"):
        fit_many(Linear(1), X, Y, networks=2, callbacks=())
    with pytest.raises(TypeError, match="X: expected arrays, got what is read batch by batch"):
        fit_many(Linear(1), [(X, Y)], networks=2, loss="squared_error")


def test_best_needs_validation():
    with pytest.raises(ValueError, match="best: expected a history with a validation loss"):
        _ = fit_many(Linear(1), X, Y, networks=2, epochs=1).best
