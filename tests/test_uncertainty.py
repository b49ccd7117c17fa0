"""Doubt: intervals and sets with their coverage, Laplace, temperature, calibration."""

import copy

import numpy as np
import pytest
from scipy import optimize, stats

import tinynn
from tests.checks import assert_close, assert_equal
from tests.command_line import QUICK, run, train_model, write_flowers
from tinynn import Model, uncertainty
from tinynn.functional import sigmoid, tanh
from tinynn.layers import Linear, Sequential, from_config, to_config
from tinynn.losses import (
    BinaryCrossEntropy,
    GaussianNLL,
    Huber,
    Quantile,
    SoftmaxCrossEntropy,
    SquaredError,
)
from tinynn.tabular import calibrating, fit_table
from tinynn.training import EarlyStopping

pytestmark = pytest.mark.reads_scalars  # the checks of data and loss read one boolean each, as fit


def identity(width, loss, backend=None, dtype="float64", outputs=None):
    """A model whose outputs are its inputs."""
    eye, home = np.eye(width, outputs), tinynn.data.host() if backend is None else backend
    params = {"weight": home.asarray(eye, dtype=dtype)}
    return Model(Linear(eye.shape[1], bias=False), params, loss=loss)


# Conformal prediction.


def test_quantiles_are_those_of_mapie():
    """Of mapie 1.6: SplitConformalRegressor, ConformalizedQuantileRegressor, method "lac"."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(37, 3))
    middle = 2 * x[:, 0]
    y = middle + rng.normal(size=37)
    new = rng.normal(size=(6, 3))
    labels = rng.integers(0, 3, 37)
    for level, width in ((0.8, 1.1238662275656366), (0.9, 1.5246860380991516)):
        found = uncertainty.conformal_quantile(uncertainty.absolute_scores(middle, y), level)
        assert float(found) == pytest.approx(width, rel=1e-14)
        scores = uncertainty.quantile_scores(middle - 0.5, middle + 0.5, y)
        found = uncertainty.conformal_quantile(scores, level)
        assert float(found) + 0.5 == pytest.approx(width, rel=1e-14)
    model = identity(3, SoftmaxCrossEntropy())
    model.calibrate(x, labels)
    for level, sets in (
        (0.5, [[1, 0, 1], [1, 0, 0], [0, 1, 0], [1, 0, 1], [1, 0, 0], [0, 1, 1]]),
        (0.8, [[1, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 1], [1, 1, 1], [1, 1, 1]]),
    ):
        assert model.predict_set(new, level).astype(int).tolist() == sets


def splits(scores, count, repeats, seed=0):
    """The scores of calibration rows and of others in random splits: (rows, splits) each."""
    order = np.random.default_rng(seed).permuted(
        np.tile(np.arange(len(scores)), (repeats, 1)), axis=1
    )
    drawn = scores[order.T]
    return drawn[:count], drawn[count:]


@pytest.mark.parametrize("level", [0.9, 0.8])
def test_intervals_and_sets_hold_what_they_promise_over_200_splits(level):
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, 1500)
    y = np.sin(3 * x) + (0.2 + np.abs(x)) * rng.standard_t(3, 1500)
    poor = 0.5 * x  # no good model is needed
    logits = rng.normal(size=(1500, 4))
    labels = (logits + rng.gumbel(size=(1500, 4))).argmax(axis=1)
    p = np.exp(1.7 * logits) / np.exp(1.7 * logits).sum(axis=1, keepdims=True)  # too sure
    rows = np.arange(1500)
    for scores in (
        uncertainty.absolute_scores(poor, y),
        uncertainty.scaled_scores(poor, 1 + x**2, y),
        uncertainty.quantile_scores(poor - np.abs(x), poor + 1.0, y),
        uncertainty.least_ambiguous_scores(p)[rows, labels],
        uncertainty.adaptive_scores(p)[rows, labels],
    ):
        for count in (99, 400):
            known, others = splits(scores, count, 200)
            margin = uncertainty.conformal_quantile(known, level)
            theory = np.ceil((count + 1) * level - 1e-9) / (count + 1)
            assert (others <= margin).mean() == pytest.approx(theory, abs=0.01)


def test_models_keep_their_calibration(backend, tmp_path):
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(30, 2)).astype("float32"), rng.normal(size=(30, 2))
    y = (x + noise).astype("float32")
    model = identity(2, SquaredError(), backend, "float32")
    with pytest.raises(ValueError, match=r"model that is calibrated.*call model.calibrate\(X, y\)"):
        model.predict(backend.asarray(x), interval=0.9)
    model.calibrate(backend.asarray(x), backend.asarray(y))
    found = model.predict(backend.asarray(x[:4]), interval=0.9)
    margin = np.sort(np.abs(y - x), axis=0)[27]  # the 28th of 30 is at least 0.9 of 31
    assert_close(found.estimate, x[:4], backend, dtype="float32")
    assert_close(found.upper, x[:4] + margin, backend, dtype="float32")
    assert_close(found.lower, x[:4] - margin, backend, dtype="float32")
    model.save(tmp_path / "model")
    again = tinynn.load(tmp_path / "model", backend)
    read = again.predict(backend.asarray(x[:4]), interval=0.9)
    assert_equal(read.lower, backend.to_host(found.lower), backend)
    few = "expected 99 calibration rows or more for the level 0.99, got 30.*of 0.968 at most"
    with pytest.raises(ValueError, match=few):
        model.predict(backend.asarray(x), interval=0.99)


def test_functions_of_arrays_run_on_every_library(backend):
    rng, float_dtype = np.random.default_rng(0), "float32"
    logits, labels = rng.normal(size=(20, 3)), rng.integers(0, 3, 20)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ours, truth = backend.asarray(p, dtype=float_dtype), backend.asarray(labels)
    known = uncertainty.reliability(ours, truth, bins=5)
    places = np.minimum(np.ceil(p.max(axis=1) * 5) - 1, 4).astype(int)
    right = p.argmax(axis=1) == labels
    expected = [right[places == b].mean() if (places == b).any() else 0.0 for b in range(5)]
    assert_close(known.accuracy, expected, backend, dtype=float_dtype)
    gaps = [abs(right[places == b].mean() - p.max(axis=1)[places == b].mean())
            * (places == b).mean() for b in range(5) if (places == b).any()]  # fmt: skip
    error = float(backend.to_host(uncertainty.expected_calibration_error(ours, truth, bins=5)))
    assert error == pytest.approx(sum(gaps), rel=1e-4)
    brier = ((p - np.eye(3)[labels]) ** 2).sum(axis=1).mean()
    assert_close(uncertainty.brier_score(ours, truth), brier, backend, dtype=float_dtype)
    scores = uncertainty.adaptive_scores(ours)
    order = np.argsort(-p, axis=1)
    sums = np.take_along_axis(np.cumsum(np.take_along_axis(p, order, 1), 1), np.argsort(order), 1)
    assert_close(scores, sums, backend, dtype=float_dtype)
    sets = uncertainty.Calibration.of("adaptive", [scores[:, 0]]).sets(ours, 0.5)
    held = backend.to_host(sets)[np.arange(20), labels].mean()
    assert float(backend.to_host(uncertainty.set_coverage(sets, truth))) == pytest.approx(held)
    means = backend.asarray(np.stack([logits, 2 * logits]), dtype=float_dtype)
    found = uncertainty.moments(means, means**2)
    assert_close(found.epistemic, (0.5 * logits) ** 2, backend, dtype=float_dtype)
    assert_close(found.aleatoric, 2.5 * logits**2, backend, dtype=float_dtype)
    both = uncertainty.class_information(backend.asarray(np.stack([p, p]), dtype=float_dtype))
    assert_close(both.aleatoric, -(p * np.log(p)).sum(axis=1), backend, dtype=float_dtype)
    inside = uncertainty.interval_coverage(ours - 0.5, ours + 0.0, ours - 0.25)
    assert float(backend.to_host(inside)) == 1.0


@pytest.mark.only("array_api_strict")
def test_each_loss_has_its_score(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 2)), rng.normal(size=50)
    scaled = identity(2, GaussianNLL())
    scaled.calibrate(x, y)
    found = scaled.predict(x[:3], interval=0.8)
    margin = np.sort(np.abs(y - x[:, 0]) / np.exp(x[:, 1] / 2))[40]
    np.testing.assert_allclose(found.upper[:, 0], x[:3, 0] + margin * np.exp(x[:3, 1] / 2))
    quantile = identity(2, Quantile((0.1, 0.9)))
    bounds = np.sort(x, axis=1)
    quantile.calibrate(bounds, y)
    found = quantile.predict(bounds[:3], interval=0.8)
    margin = np.sort(np.maximum(bounds[:, 0] - y, y - bounds[:, 1]))[40]
    np.testing.assert_allclose(found.lower[:, 0], bounds[:3, 0] - margin)
    binary = identity(1, BinaryCrossEntropy())
    binary.calibrate(x[:, :1], x[:, :1] > 0, method="adaptive")
    assert binary.predict_set(x[:4, :1], 0.9).shape == (4, 2)
    assert binary.predict_set(x[:4, :1], 0.9).any(axis=1).all()
    binary.save(tmp_path / "binary")
    assert tinynn.load(tmp_path / "binary").calibration.kind == "adaptive"
    assert binary.to("array_api_strict").predict_set(x[:4, :1].tolist()).shape == (4, 2)
    with pytest.raises(TypeError, match=r"take predict_set\(X, 0.9\)"):
        binary.predict(x[:, :1], interval=0.9)
    with pytest.raises(TypeError, match="predict_set: expected a model of classes"):
        scaled.predict_set(x)
    with pytest.raises(ValueError, match="expected 'absolute' under Huber"):
        identity(1, Huber()).calibrate(x[:, :1], y, method="adaptive")
    with pytest.raises(TypeError, match="calibrate: expected a loss of numbers"):
        identity(2, BinaryCrossEntropy()).calibrate(x, x > 0)
    with pytest.raises(ValueError, match="expected rows that training did not see, got none"):
        scaled.calibrate(x[:0], y[:0])
    for level in (0.0, 1.0, 90, True):
        with pytest.raises(ValueError, match="expected a level between 0 and 1"):
            scaled.predict(x, interval=level)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_loses_no_rows_whose_scores_are_equal(dtype):
    draw = np.random.default_rng(0)
    estimate = draw.normal(size=(1000, 1)).astype(dtype)
    y = draw.integers(0, 10, (1000, 1)).astype(dtype)
    for row in range(200):  # all rows are of one kind: the quantile is the score of each
        one, target = estimate[row : row + 1], y[row : row + 1]
        known = uncertainty.Calibration.of("absolute", [np.abs(one - target)])
        found = known.interval(one, level=0.5)
        assert found.lower <= target <= found.upper  # once 45 of 1000 were lost
        assert found.upper - found.lower < 2.01 * np.abs(one - target) + 1e-4
    p = draw.dirichlet([1.0, 1.0, 1.0], 100).astype(dtype)
    ulps = (8 * np.asarray([1, -1]) * np.finfo(dtype).eps).astype(dtype)  # as elsewhere
    for kind in ("least_ambiguous", "adaptive"):
        score = getattr(uncertainty, f"{kind}_scores")
        for row in range(100):
            known = uncertainty.Calibration.of(kind, [score(p[row : row + 1])[:, 1]])
            for step in ulps:
                assert known.sets(p[row : row + 1] * (1 + step), 0.5)[0, 1]


def test_shapes_and_labels_of_few_bits_are_not_taken_for_others():
    one, flat = np.zeros((4, 1)), np.asarray([0.0, 0.0, 2.0, 2.0])
    for call in (
        lambda: uncertainty.interval_coverage(one, one, flat),  # once the mean of (4, 4)
        lambda: uncertainty.absolute_scores(one, flat),
        lambda: uncertainty.scaled_scores(one, one + 1, flat),
        lambda: uncertainty.quantile_scores(one, one, flat),
    ):
        with pytest.raises(ValueError, match=r"expected arrays of one shape, got \(4, 1\)"):
            call()
    with pytest.raises(ValueError, match=r"labels: expected one for each of 4 rows, got the sha"):
        uncertainty.brier_score(np.ones((4, 2)) / 2, np.zeros((4, 2), int))
    p = np.full((2, 300), 1 / 300)
    labels = np.asarray([0, 100], np.uint8)  # in which class 256 was class 0
    expected = 299 / 300**2 + (1 - 1 / 300) ** 2
    assert float(uncertainty.brier_score(p, labels)) == pytest.approx(expected)
    assert float(uncertainty.set_coverage(np.arange(300) >= np.asarray([[256]] * 2), labels)) == 0.0


@pytest.mark.only("array_api_strict")
def test_scores_are_of_the_parameters_that_made_them(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 2))
    model = identity(2, SquaredError())
    model.calibrate(x, x + 1.0)
    expected = model.predict(x, interval=0.9).upper
    model.save(tmp_path / "model")
    read, moved = tinynn.load(tmp_path / "model"), copy.deepcopy(model).to("array_api_strict")
    np.testing.assert_array_equal(read.predict(x, interval=0.9).upper, expected)
    assert moved.predict(x.tolist(), interval=0.9).upper.shape == (30, 2)
    for each in (model, read):
        each.params = {name: 2 * array for name, array in each.params.items()}
        with pytest.raises(ValueError, match="expected the parameters that the model was calibrat"):
            each.predict(x, interval=0.9)
        each.calibrate(x, x + 1.0)
        assert each.predict(x, interval=0.9).upper.shape == (30, 2)


def test_tables_have_intervals_in_their_own_unit():
    x = np.linspace(0.0, 1.0, 300)
    y = 100 + 50 * x + np.random.default_rng(0).uniform(-10, 10, 300)
    model = fit_table({"x": x, "y": y}, "y", hidden=(), epochs=30, report=lambda line: None)
    model.calibrate({"x": x}, y)
    found = model.predict({"x": x}, interval=0.9)
    np.testing.assert_allclose(found.estimate, model.predict({"x": x}))
    assert uncertainty.interval_coverage(found.lower, found.upper, y) >= 0.9
    assert 15 < (found.upper - found.lower).mean() < 30


# Laplace.


def test_laplace_of_a_linear_model_is_bayesian_regression(backend, float64):
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(30, 3)), rng.normal(size=(5, 3))
    y = x @ np.asarray([[1.0], [-2.0], [0.5]]) + 0.3 * rng.normal(size=(30, 1))
    precision, noise = 2.0, 0.09
    covariance = np.linalg.inv(x.T @ x / noise + precision * np.eye(3))
    mean = covariance @ x.T @ y / noise
    net, params = Linear(1, bias=False), {"weight": backend.asarray(mean)}
    data = backend.asarray(x), backend.asarray(y)
    given = {"prior_precision": precision, "noise": noise}
    found = uncertainty.laplace(net, params, {}, *data, SquaredError(), **given)
    answer = found.predict(backend.asarray(new))
    variance = np.einsum("ij,jk,ik->i", new, covariance, new)
    np.testing.assert_allclose(backend.to_host(answer.epistemic)[:, 0], variance, rtol=1e-12)
    np.testing.assert_allclose(backend.to_host(answer.variance)[:, 0], variance + noise, rtol=1e-12)
    evidence = stats.multivariate_normal(
        np.zeros(30), x @ x.T / precision + noise * np.eye(30)
    ).logpdf(y[:, 0])
    log = float(backend.to_host(found.log_marginal_likelihood))
    assert log == pytest.approx(evidence, abs=1e-9)


def test_the_marginal_likelihood_chooses_prior_and_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3))
    y = x @ np.asarray([[1.0], [-2.0], [0.5]]) + 0.3 * rng.normal(size=(30, 1))
    model = Model(Linear(1, bias=False), {"weight": np.linalg.lstsq(x, y)[0]}, loss=SquaredError())

    def cost(logs):
        precision, noise = map(float, np.exp(logs))
        found = model.laplace(x, y, prior_precision=precision, noise=noise)
        return -float(found.log_marginal_likelihood)

    best = optimize.minimize(cost, [0.0, 0.0], method="Nelder-Mead", tol=1e-9)
    found = model.laplace(x, y)
    chosen = float(found.prior_precision), float(found.noise)
    np.testing.assert_allclose(chosen, np.exp(best.x), rtol=1e-5)
    assert -float(found.log_marginal_likelihood) == pytest.approx(best.fun, abs=1e-9)


# Of laplace-torch 0.3, hessian_structure="full", prior_precision=2, sigma_noise=0.5: the variances
# of four rows, the probit probabilities of two, and the logarithms of the marginal likelihood.
TORCH = {
    "all": (
        [0.5867597757, 0.0699191326, 0.2836628192, 0.0762146758], -154.37165758001532,
        [[0.6232152032, 0.297177667, 0.0796071299], [0.1212669401, 0.6071833521, 0.2715497078]],
        -53.82278030022738,
    ),
    "last_layer": (
        [0.3340805611, 0.0455812875, 0.1039711895, 0.0317988146], -141.54316810336053,
        [[0.6389484361, 0.2928369131, 0.0682146508], [0.1203128045, 0.6061630738, 0.2735241217]],
        -43.54595197936041,
    ),
}  # fmt: skip


@pytest.mark.parametrize("subset", TORCH)
def test_laplace_of_networks_is_that_of_laplace_torch(subset):
    rng = np.random.default_rng(0)
    x, target, labels = rng.normal(size=(12, 2)), rng.normal(size=(12, 1)), np.arange(12) % 3
    first = {"weight": rng.normal(size=(2, 3)), "bias": rng.normal(size=3)}
    weight, bias = rng.normal(size=(3, 3)), rng.normal(size=3)
    new = rng.normal(size=(4, 2))

    def model(outputs, loss):
        last = {"weight": weight[:, :outputs], "bias": bias[:outputs]}
        return Model(
            Sequential(Linear(3), tanh, Linear(outputs)), {"0": first, "2": last}, loss=loss
        )

    variance, evidence, p, evidence_of_classes = TORCH[subset]
    given = {"last_layer": subset == "last_layer", "prior_precision": 2.0}
    found = model(1, SquaredError()).laplace(x, target, noise=0.25, **given)
    np.testing.assert_allclose(found.predict(new).epistemic[:, 0], variance, rtol=1e-8)
    assert float(found.log_marginal_likelihood) == pytest.approx(evidence, rel=1e-9)
    found = model(3, SoftmaxCrossEntropy()).laplace(x, labels, **given)
    np.testing.assert_allclose(found.predict_proba(new)[:2], p, rtol=1e-8)
    assert float(found.log_marginal_likelihood) == pytest.approx(evidence_of_classes, rel=1e-9)
    with pytest.raises(TypeError, match="take predict_proba"):
        found.predict(new)


def test_laplace_of_two_classes_says_so_by_either_loss():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(40, 2)), rng.integers(0, 2, 40)
    weight = rng.normal(size=(2, 1))
    one = Model(Linear(1, bias=False), {"weight": weight}, loss=BinaryCrossEntropy())
    found = one.laplace(x, labels, prior_precision=1.0)
    p = 1 / (1 + np.exp(-x @ weight))
    hessian = (x * p * (1 - p)).T @ x + np.eye(2)
    variance = np.einsum("ij,jk,ik->i", x, np.linalg.inv(hessian), x)
    np.testing.assert_allclose(found.variance(x)[:, 0, 0], variance, rtol=1e-12)
    expected = sigmoid(x @ weight / np.sqrt(1 + np.pi / 8 * variance[:, None]))
    np.testing.assert_allclose(found.predict_proba(x), expected, rtol=1e-12)


def test_laplace_of_answers_without_an_error_is_finite():
    x = np.linspace(-1.0, 1.0, 20)[:, None]
    model = Model(Linear(1, bias=False), {"weight": np.ones((1, 1))}, loss=SquaredError())
    found = model.laplace(x, x)
    assert 0.0 < float(found.noise) < 1e-100  # once NaN, as all that followed from it
    assert float(found.prior_precision) == pytest.approx(1.0)
    assert np.isfinite(float(found.log_marginal_likelihood))


def test_laplace_says_what_it_cannot_do():
    model = identity(2, Huber())
    with pytest.raises(TypeError, match="expected SquaredError, SoftmaxCrossEntropy or Bin"):
        model.laplace(np.zeros((2, 2)), np.zeros((2, 2)))
    for given in ({"prior_precision": 0.0}, {"prior_precision": -1.0}, {"noise": 0}):
        (name,) = given
        with pytest.raises(ValueError, match=f"laplace: {name}: expected a number above 0"):
            identity(2, SquaredError()).laplace(np.ones((2, 2)), np.ones((2, 2)), **given)
    classes, labels = np.ones((2, 2)), np.asarray([0, 1])
    with pytest.raises(ValueError, match="laplace: noise: expected none under SoftmaxCross"):
        identity(2, SoftmaxCrossEntropy()).laplace(classes, labels, noise=1.0)
    weighted = SoftmaxCrossEntropy(class_weight=(1.0, 5.0))  # once left out of the curvature
    with pytest.raises(ValueError, match="laplace: loss: expected one without class_weight"):
        identity(2, weighted).laplace(classes, labels)
    x = np.zeros((2, 100))
    large = Model(Linear(200), {"weight": np.zeros((100, 200)), "bias": np.zeros(200)},
                  loss=SquaredError())  # fmt: skip
    with pytest.raises(ValueError, match=r"9,459 parameters at most.*got 20,200.*9\.1 GiB.*last_l"):
        large.laplace(x, np.zeros((2, 200)))


# Temperature.


def test_temperature_is_the_best_there_is(tmp_path):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(300, 4))
    labels = (logits / 2.5 + rng.gumbel(size=(300, 4))).argmax(axis=1)
    loss = SoftmaxCrossEntropy()
    best = optimize.minimize_scalar(
        lambda t: float(loss(logits / t, labels)), bounds=(0.1, 20), options={"xatol": 1e-10}
    )
    found = float(uncertainty.temperature(logits, labels, loss))
    assert found == pytest.approx(best.x, rel=1e-5)
    model = identity(4, loss)
    scaled = model.with_temperature(logits, labels)
    np.testing.assert_allclose(scaled.outputs(logits), logits / found, rtol=1e-12)
    before, after = (
        float(uncertainty.expected_calibration_error(each.predict_proba(logits), labels))
        for each in (model, scaled)
    )
    assert after < before / 2
    scaled.save(tmp_path / "model")
    np.testing.assert_array_equal(
        tinynn.load(tmp_path / "model").outputs(logits), scaled.outputs(logits)
    )
    assert from_config(to_config(scaled.net)) == scaled.net
    deep = Model(Sequential(Linear(4, bias=False)), {"0": model.params}, loss=loss)
    again = deep.with_temperature(logits, labels)
    np.testing.assert_allclose(again.outputs(logits), logits / found, rtol=1e-12)
    with pytest.raises(ValueError, match="answered right without exception"):
        model.with_temperature(logits, logits.argmax(axis=1))
    with pytest.raises(TypeError, match="with_temperature: expected SoftmaxCrossEntropy"):
        identity(1, Huber()).with_temperature(logits[:, :1], logits[:, 0])


def test_labels_that_are_no_class_are_said():
    p = np.full((3, 2), 0.5)
    for labels in ([0, 1, 2], [0, -1, 1]):
        with pytest.raises(ValueError, match=r"labels: expected whole numbers from 0 to 1, one"):
            uncertainty.expected_calibration_error(p, np.asarray(labels))
        with pytest.raises(ValueError, match="brier_score: labels: expected whole numbers"):
            uncertainty.brier_score(p, np.asarray(labels))
        with pytest.raises(ValueError, match=r"set_coverage: labels: .*got labels from"):
            uncertainty.set_coverage(p > 0.0, np.asarray(labels))
    with pytest.raises(ValueError, match="got numbers between them"):
        uncertainty.reliability(p, np.asarray([0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match="reliability: expected one row or more, got none"):
        uncertainty.reliability(p[:0], np.asarray([], int))


def test_a_table_model_is_calibrated_by_the_rows_held_out(tmp_path):
    flowers, path = write_flowers(tmp_path), tmp_path / "size.safetensors"
    run("train", flowers, "--target", "size", "--drop", "species", "--out", path, *QUICK)
    lines = run("predict", path, flowers, "--interval", "0.9", "--id", "length").splitlines()
    assert lines[0] == "length,prediction,lower,upper"
    rows = np.asarray([[float(cell) for cell in line.split(",")] for line in lines[1:91]])
    truth = 3 * rows[:, 0] + 1
    assert ((rows[:, 2] < rows[:, 1]) & (rows[:, 1] < rows[:, 3])).all()
    assert ((rows[:, 2] <= truth) & (truth <= rows[:, 3])).mean() > 0.8
    model = tinynn.load(path)
    found = model.predict({"length": rows[:, 0], "colour": ["red"] * 90}, interval=0.9)
    assert found.lower.shape == (90,)
    assert model.calibration.scores.shape == (18, 1)  # a fifth of the rows
    output = run("predict", path, flowers, "--interval", "0.99", status=1)
    assert "interval: expected 99 calibration rows or more for the level 0.99, got 18" in output
    classes = train_model(flowers, tmp_path)
    assert tinynn.load(classes).predict_set({"length": [1.0], "colour": ["red"]}).shape == (1, 3)
    lines = run("predict", classes, flowers, "--interval", "0.9", "--id", "length").splitlines()
    assert lines[0] == "length,prediction,probability,set_iris,set_rosa,set_viola"
    kinds = [line.split(",")[4] for line in flowers.read_text().splitlines()[1:91]]
    inside = [
        line.split(",")[3 + ("iris", "rosa", "viola").index(kind)] == "true"
        for line, kind in zip(lines[1:91], kinds, strict=True)
    ]
    assert np.mean(inside) > 0.8
    run("train", flowers, "--target", "size", "--validation", "0", "--out", path, *QUICK)
    output = run("predict", path, flowers, "--interval", "0.9", status=1)
    assert "--interval: expected a model that was calibrated by rows held out" in output
    assert "--validation 0.2" in output


@pytest.mark.parametrize("classes", [True, False])
def test_a_table_model_of_folds_is_calibrated_across_them(classes):
    """By every row, as a network without its fold answers; about as often as they say."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=300)
    y = x + 0.2 * rng.normal(size=300)
    y = np.where(y > 0.5, "high", "low") if classes else 50.0 * y
    model = fit_table({"x": x, "y": y}, "y", hidden=(), epochs=60, folds=3, report=print)
    assert model.calibration.scores.shape[0] == 300
    new = rng.uniform(size=500)
    truth = new + 0.2 * rng.normal(size=500)
    if classes:
        sets = model.predict_set({"x": new}, 0.8)
        held = sets[np.arange(500), np.where(truth > 0.5, 0, 1)]  # "high", "low"
        assert abs(held.mean() - 0.8) < 0.06
    else:
        found = model.predict({"x": new}, interval=0.8)
        inside = (found.lower <= 50.0 * truth) & (50.0 * truth <= found.upper)
        assert abs(inside.mean() - 0.8) < 0.06


def test_rows_to_calibrate_by_are_of_the_whole_table(monkeypatch):
    """Of a sorted table the first ones are of another kind than the rest."""
    monkeypatch.setattr(calibrating, "_SCORES", 60)
    x = np.linspace(0.0, 1.0, 900)
    y = x + 0.3 * x * np.random.default_rng(0).normal(size=900)
    given = {"hidden": (), "epochs": 30, "report": lambda line: None}
    model = fit_table({"x": x, "y": y}, "y", **given)
    assert model.calibration.scores.shape[0] == 60
    found = model.predict({"x": x}, interval=0.9)
    assert uncertainty.interval_coverage(found.lower, found.upper, y) > 0.8
    stopping = EarlyStopping(patience=3)  # which chooses the epoch by these rows
    chosen = fit_table({"x": x, "y": y}, "y", callbacks=stopping, **given)
    assert chosen.calibration is None
