"""Doubt by several answers: Monte Carlo dropout, and ensembles with their variance in two parts."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

import backends
import tinynn
from tinynn import Model, uncertainty
from tinynn.functional import softmax
from tinynn.layers import (
    GRU,
    BatchNorm,
    Dropout,
    GaussianNoise,
    Linear,
    MultiHeadAttention,
    Sequential,
    Stacked,
    TransformerEncoderBlock,
    to_config,
)
from tinynn.losses import BinaryCrossEntropy, GaussianNLL, SoftmaxCrossEntropy, SquaredError
from tinynn.training import ModelStack

pytestmark = pytest.mark.reads_scalars  # the checks of data and loss read one boolean each, as fit


@pytest.mark.only("numpy", "array_api_strict", "torch", "cupy")  # XLA compiles the mapped net anew
def test_monte_carlo_dropout_drops_at_random_and_nothing_else(backend):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    net = Sequential(Sequential(Dropout(0.5)), Linear(1, bias=False))
    params = {"1": {"weight": backend.asarray(np.ones((4, 1)), dtype="float32")}}
    found = uncertainty.monte_carlo(net, params, {}, backend.asarray(x), draws=400, seed=1)
    found = backend.to_host(found)
    assert found.shape == (400, 3, 1)
    np.testing.assert_allclose(found.mean(axis=0), x.sum(axis=1, keepdims=True), atol=0.4)
    np.testing.assert_allclose(found.var(axis=0)[:, 0], (x**2).sum(axis=1), rtol=0.25)


def test_monte_carlo_of_models_and_what_has_no_dropout():
    x = np.random.default_rng(0).normal(size=(3, 4))
    params = {"1": {"weight": np.ones((4, 2))}}
    net = Sequential(Dropout(0.5), Linear(2, bias=False))
    passes = uncertainty.monte_carlo(net, params, {}, x, draws=9, seed=4)
    model = Model(net, params, loss=SoftmaxCrossEntropy())
    found = model.monte_carlo(x, draws=9, seed=4)
    np.testing.assert_allclose(found.mean, softmax(passes).mean(axis=0))
    assert to_config(model.net) == to_config(net)
    plain = Model(Linear(2, bias=False), params["1"], loss=SquaredError())
    with pytest.raises(ValueError, match="expected a network with dropout, got Linear"):
        plain.monte_carlo(x)
    with pytest.raises(ValueError, match="draws: expected a whole number of 1 or more, got 0"):
        model.monte_carlo(x, draws=0)


SEQUENCES = {
    "attention": lambda p: MultiHeadAttention(2, dropout=p),
    "block": lambda p: TransformerEncoderBlock(MultiHeadAttention(2), hidden=8, dropout=p),
    "recurrent": lambda p: Stacked(GRU(4), layers=2, dropout=p),
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_monte_carlo_goes_on_with_dropout_within_layers(kind):
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    net = SEQUENCES[kind](0.5)
    params, state = net.init(0, x)
    found = uncertainty.monte_carlo(net, params, state, x, draws=2, seed=4)
    # Beside dropout nothing in these nets tells training from inference.
    key = backends.random.bits(backends.random.key(4, tinynn.data.host()), (2, 2), 0)[1]
    expected = net.apply(params, state, x, key=key, training=True)[0]
    np.testing.assert_allclose(found[1], expected, rtol=1e-12)
    assert abs(found[0] - found[1]).max() > 1e-3
    with pytest.raises(ValueError, match="expected a network with dropout"):
        uncertainty.monte_carlo(SEQUENCES[kind](0.0), params, state, x)


def test_monte_carlo_leaves_all_but_dropout_as_in_inference():
    x = np.random.default_rng(0).normal(size=(3, 4))
    net = Sequential(GaussianNoise(5.0), BatchNorm(), Dropout(0.5))
    found = uncertainty.monte_carlo(net, *net.init(0, x), x, draws=40)
    kept = np.abs(found) > 0
    np.testing.assert_allclose(found, 2 * kept * x, rtol=1e-4)
    assert 0.3 < kept.mean() < 0.7


def test_ensembles_decompose_their_variance():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(5, 2)), rng.normal(size=(4, 2, 2))
    params = {"weight": weight}
    stack = ModelStack(Linear(2, bias=False), params, {}, loss=GaussianNLL())
    found, outputs = stack.uncertainty(x), x @ weight
    np.testing.assert_allclose(found.mean, outputs[..., :1].mean(axis=0))
    np.testing.assert_allclose(found.aleatoric, np.exp(outputs[..., 1:]).mean(axis=0))
    np.testing.assert_allclose(found.epistemic, outputs[..., :1].var(axis=0))
    np.testing.assert_allclose(found.variance, found.aleatoric + found.epistemic)
    stack = ModelStack(Linear(2, bias=False), params, {}, loss=SoftmaxCrossEntropy())
    found, p = stack.uncertainty(x), softmax(outputs)
    np.testing.assert_allclose(found.mean, stack.ensemble(x))
    entropies = stats.entropy(p.mean(axis=0), axis=1), stats.entropy(p, axis=2).mean(axis=0)
    np.testing.assert_allclose(found.aleatoric, entropies[1])
    np.testing.assert_allclose(found.variance, entropies[0])
    with pytest.raises(TypeError, match="classes that exclude each other"):
        ModelStack(stack.net, params, {}, loss=BinaryCrossEntropy()).uncertainty(x)


# Memory.


def peak(call):
    tracemalloc.start()
    try:
        found = call()
        return found, tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_many_rows_take_little_memory():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2000, 2))
    net = Sequential(Linear(200), Dropout(0.5), Linear(1))
    params, state = net.init(0, x)
    found, most = peak(lambda: uncertainty.monte_carlo(net, params, state, x, draws=60))
    assert most < 250  # once 392 MB, and more with more draws
    again = uncertainty.monte_carlo(net, params, state, x, draws=30)  # in other parts
    np.testing.assert_allclose(found[:30], again, rtol=1e-12, atol=1e-15)
    wide = draw.normal(size=(500, 40))
    model = Model(Linear(10), Linear(10).init(0, wide)[0], loss=SquaredError())
    posterior, most = peak(lambda: model.laplace(wide, wide[:, :10], prior_precision=1.0))
    assert most < 150  # once 674 MB: a matrix of all parameters for each row
    assert posterior.eigenvalues.sum() == pytest.approx(10 * ((wide**2).sum() + 500))
    p = draw.dirichlet([1.0] * 300, 200)
    scores, most = peak(lambda: uncertainty.adaptive_scores(p))
    assert most < 150  # once 275 MB
    np.testing.assert_allclose(scores.min(axis=1), p.max(axis=1))
    np.testing.assert_allclose(scores.max(axis=1), 1.0)
