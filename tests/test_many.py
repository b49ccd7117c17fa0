"""fit_many: network k is what fit makes of its seed and its numbers alone."""

import numpy as np
import pytest

from tinynn import fit
from tinynn.functional import tanh
from tinynn.layers import Dropout, Linear, Sequential
from tinynn.optim import SGD, Adam
from tinynn.training import fit_many


@pytest.mark.reads_scalars  # the checks of data and loss read one boolean each, as in fit
@pytest.mark.parametrize("dropout", [False, True])
def test_network_k_equals_fit_alone(backend, dropout):
    rng = np.random.default_rng(0)
    x = backend.asarray(rng.normal(size=(11, 3)), dtype="float32")
    y = backend.asarray(rng.normal(size=(11, 1)), dtype="float32")
    drops = (Dropout(0.5),) if dropout else ()
    net = Sequential(Linear(4), tanh, *drops, Linear(1))
    seeds, rates = [3, 8], [0.1, 0.01]
    stack = fit_many(
        net, x, y, seed=seeds, optimizer=Adam(), epochs=3, batch_size=4,
        hyperparameters={"learning_rate": rates},
    )  # fmt: skip
    for model, seed, rate in zip(stack, seeds, rates, strict=True):
        alone = fit(
            net, x, y, seed=seed, optimizer=Adam(rate), epochs=3, batch_size=4, engine="eager",
            progress=False,
        )  # fmt: skip
        np.testing.assert_allclose(model.history["loss"], alone.history["loss"], rtol=1e-4)
        ours, theirs = (backend.to_host(m.predict(x)) for m in (model, alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert stack.predict(x).shape == (2, 11, 1)
    mean = backend.to_host(stack.predict(x)).mean(axis=0)
    np.testing.assert_allclose(backend.to_host(stack.ensemble(x)), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "one number of networks"),
        ({"seed": [1, 2], "networks": 3}, ValueError, "2 in seed, 3 in networks"),
        ({"networks": 2, "callbacks": ()}, TypeError, "callbacks"),
        ({"hyperparameters": {"rate": [1.0]}}, ValueError, "'rate'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        fit_many(Linear(1), [[0.0], [1.0]], [0.5, 2.0], **arguments)


def test_a_number_that_the_optimizer_branches_on_is_refused():
    with pytest.raises(TypeError, match="cannot branch on it"):
        fit_many(
            Linear(1), [[0.0], [1.0]], [0.5, 2.0], optimizer=SGD(0.1),
            hyperparameters={"momentum": [0.0, 0.5]},
        )  # fmt: skip
