"""predict(X, interval=0.9) of stacks, folds, passes with dropout, posteriors and estimators."""

import pickle

import numpy as np
import pytest

import tinynn
from tests.checks import assert_close, assert_equal
from tinynn import Model, ModelStack, uncertainty
from tinynn.functional import tanh
from tinynn.layers import Dropout, Linear, Sequential
from tinynn.losses import (
    BinaryCrossEntropy,
    GaussianNLL,
    Quantile,
    SoftmaxCrossEntropy,
    SquaredError,
)
from tinynn.tabular import fit_table
from tinynn.training import EarlyStopping
from tinynn.uncertainty.conformal import conformal_quantile

pytestmark = pytest.mark.reads_scalars

RNG = np.random.default_rng(0)
X, NEW = RNG.normal(size=(40, 2)), RNG.normal(size=(6, 2))
Y = X.sum(axis=1, keepdims=True) + RNG.normal(size=(40, 1))


def stack_of(loss, outputs, backend=None, networks=3, folds=None):
    """Linear networks, whose outputs are known."""
    home = tinynn.data.host() if backend is None else backend
    weight = np.random.default_rng(1).normal(size=(networks, 2, outputs))
    folds = None if folds is None else home.asarray(folds)
    params = {"weight": home.asarray(weight, dtype="float64")}
    stack = ModelStack(Linear(outputs, bias=False), params, {}, loss=loss, folds=folds)
    return stack, np.einsum("ri,kio->kro", X, weight), np.einsum("ri,kio->kro", NEW, weight)


def widened(scores, level=0.9):
    return np.sort(scores, axis=0)[int(np.ceil((len(scores) + 1) * level - 1e-9)) - 1]


def test_stacks_are_calibrated_together(backend, float64, tmp_path):
    stack, known, new = stack_of(SquaredError(), 1, backend)
    x, y, rows = (backend.asarray(each) for each in (X, Y, NEW))
    with pytest.raises(ValueError, match=r"expected a stack that is calibrated.*stack\.calibrate"):
        stack.predict(rows, interval=0.9)
    stack.calibrate(x, y)
    found = stack.predict(rows, interval=0.9)
    margin = widened(np.abs(known.mean(axis=0) - Y))
    assert_close(found.estimate, new.mean(axis=0), backend, dtype=float64)
    assert_close(found.upper, new.mean(axis=0) + margin, backend, dtype=float64)
    stack.save(tmp_path / "stack")
    again = tinynn.load(tmp_path / "stack", backend).predict(rows, interval=0.9)
    assert_equal(again.lower, backend.to_host(found.lower), backend)
    stack.calibrate(x, y, method="scaled")
    found = stack.predict(rows, interval=0.8)
    spread = new.std(axis=0)
    margin = widened(np.abs(known.mean(axis=0) - Y) / known.std(axis=0), 0.8) * spread
    assert_close(found.lower, new.mean(axis=0) - margin, backend, dtype=float64)


def test_mixtures_of_what_networks_predict():
    stack, known, new = stack_of(GaussianNLL(), 2)
    stack.calibrate(X, Y)
    assert stack.calibration.kind == "scaled"

    def mixture(outputs):
        mean, variance = outputs[..., :1], np.exp(outputs[..., 1:])
        return mean.mean(axis=0), np.sqrt(variance.mean(axis=0) + mean.var(axis=0))

    mean, deviation = mixture(known)
    margin = widened(np.abs(mean - Y) / deviation)
    mean, deviation = mixture(new)
    np.testing.assert_allclose(stack.predict(NEW, interval=0.9).upper, mean + margin * deviation)
    doubt = stack.uncertainty(NEW)
    np.testing.assert_allclose(np.sqrt(doubt.variance), deviation)
    normal = doubt.interval(0.9)  # of the mixture as it is
    np.testing.assert_allclose(normal.upper - normal.estimate, 1.6448536269514722 * deviation)
    quantiles, known, new = stack_of(Quantile((0.1, 0.5, 0.9)), 3)
    quantiles.calibrate(X, Y)
    lower, _, upper = np.split(known.mean(axis=0), 3, axis=1)
    margin = widened(np.maximum(lower - Y, Y - upper))
    found = quantiles.predict(NEW, interval=0.9)
    np.testing.assert_allclose(found.lower, new.mean(axis=0)[:, :1] - margin)
    labels = (Y[:, 0] > 0).astype(int)
    for loss, outputs in ((SoftmaxCrossEntropy(), 2), (BinaryCrossEntropy(), 1)):
        classes = stack_of(loss, outputs)[0]
        classes.calibrate(X, labels)
        p = uncertainty.predictions.two_columns(classes.ensemble(X))
        margin = widened(1 - p[np.arange(40), labels])
        p = uncertainty.predictions.two_columns(classes.ensemble(NEW))
        np.testing.assert_array_equal(classes.predict_set(NEW, 0.9), 1 - p <= margin + 1e-12)
        with pytest.raises(TypeError, match="take predict_set"):
            classes.predict(NEW, interval=0.9)
        with pytest.raises(TypeError, match="moments of numbers, got those of classes"):
            classes.uncertainty(NEW).interval(0.9)
    with pytest.raises(TypeError, match="predict_set: expected a model of classes"):
        stack.predict_set(NEW)


def jackknife(known, new, folds, level):
    """Barber et al. 2021, definition 2 and equation 13, row by row."""
    count = len(folds)
    residual = np.abs(Y[:, 0] - known[folds, np.arange(count), 0])
    place = int(np.ceil((count + 1) * level - 1e-9))
    lower = [np.sort(new[folds, r, 0] - residual)[count - place] for r in range(len(NEW))]
    upper = [np.sort(new[folds, r, 0] + residual)[place - 1] for r in range(len(NEW))]
    return np.stack([lower, upper])


@pytest.mark.parametrize("networks", [5, 40])
def test_folds_are_their_own_calibration(backend, float64, networks, tmp_path):
    """CV+, and with one row a fold the jackknife+."""
    if networks == 40 and backend.name != "numpy":
        pytest.skip("the jackknife+ is CV+ with more networks: on NumPy alone")
    folds = RNG.permutation(np.arange(40) % networks)
    stack, known, new = stack_of(SquaredError(), 1, backend, networks, folds)
    x, y, rows = (backend.asarray(each) for each in (X, Y, NEW))
    stack.calibrate(x, y)
    found = stack.predict(rows, interval=0.9)
    lower, upper = jackknife(known, new, folds, 0.9)
    assert_close(found.lower[:, 0], lower, backend, dtype=float64)
    assert_close(found.upper[:, 0], upper, backend, dtype=float64)
    assert_close(found.estimate, new.mean(axis=0), backend, dtype=float64)
    stack.save(tmp_path / "stack")
    again = tinynn.load(tmp_path / "stack", backend).predict(rows, interval=0.9)
    assert_equal(again.lower, backend.to_host(found.lower), backend)


def test_folds_have_sets_and_intervals_of_other_scores():
    folds, labels = np.arange(40) % 4, (Y[:, 0] > 0).astype(int)
    classes = stack_of(SoftmaxCrossEntropy(), 2, networks=4, folds=folds)[0]
    for method, score in (
        ("least_ambiguous", uncertainty.least_ambiguous_scores),
        ("adaptive", uncertainty.adaptive_scores),
    ):
        classes.calibrate(X, labels, method)
        p, p_new = classes.predict_proba(X), classes.predict_proba(NEW)
        own = np.asarray([score(p[folds[i]])[i, labels[i]] for i in range(40)])
        every = np.stack([score(p_new[k]) for k in folds])  # (rows, new rows, classes)
        inside = (own[:, None, None] < every).sum(axis=0) < 0.9 * 41  # Romano et al. 2020, 10
        if method == "adaptive":
            inside |= p_new.mean(axis=0) >= p_new.mean(axis=0).max(axis=1, keepdims=True)
        np.testing.assert_array_equal(classes.predict_set(NEW, 0.9), inside)
    scaled, known, new = stack_of(GaussianNLL(), 2, networks=4, folds=folds)
    scaled.calibrate(X, Y)
    rows = known[folds, np.arange(40)]
    score = np.abs(Y[:, 0] - rows[:, 0]) / np.exp(rows[:, 1] / 2)
    ends = new[folds][..., 0] + score[:, None] * np.exp(new[folds][..., 1] / 2)
    expected = conformal_quantile(ends, 0.9)
    np.testing.assert_allclose(scaled.predict(NEW, interval=0.9).upper[:, 0], expected)
    with pytest.raises(ValueError, match=r"expected the 40 samples of the training.*got 6"):
        scaled.calibrate(NEW, Y[:6])
    several = stack_of(SquaredError(), 1, networks=8, folds=folds)[0]
    with pytest.raises(ValueError, match=r"networks of one candidate, got those of 2.*ranking"):
        several.calibrate(X, Y)
    few = stack_of(SquaredError(), 1, networks=2, folds=np.arange(8) % 2)[0]
    few.calibrate(X[:8], Y[:8])
    with pytest.raises(ValueError, match=r"expected 9 calibration rows or more.* got 8"):
        few.predict(NEW, interval=0.9)


def test_cross_validation_holds_what_it_promises():
    """Ridge regressions of folds on fresh data, the mean of 200: close to the level."""
    draw, held = np.random.default_rng(5), []
    folds = np.arange(30) % 6
    for _ in range(200):
        x, new = draw.normal(size=(30, 3)), draw.normal(size=(40, 3))
        y, y_new = (rows.sum(axis=1) + draw.standard_t(4, len(rows)) for rows in (x, new))
        weight = [
            np.linalg.solve(a.T @ a + 0.1 * np.eye(3), a.T @ b)
            for a, b in ((x[folds != k], y[folds != k]) for k in range(6))
        ]
        params = {"weight": np.stack(weight)[..., None]}
        net = Linear(1, bias=False)
        stack = ModelStack(net, params, {}, loss=SquaredError(), folds=folds)
        stack.calibrate(x, y)
        found = stack.predict(new, interval=0.9)
        held.append(uncertainty.interval_coverage(found.lower, found.upper, y_new[:, None]))
    assert 0.89 < np.mean(held) < 0.94


def test_networks_of_fit_many():
    x = np.linspace(-1.0, 1.0, 60).reshape(-1, 1)
    y = x[:, 0] + 0.1 * np.random.default_rng(0).normal(size=60)
    stack = tinynn.fit_many(Linear(1), x, y, networks=1, folds=5, epochs=30, engine="calls")
    stack.calibrate(x, y)
    found = stack.predict(x, interval=0.9)
    assert found.lower.shape == (60, 1)
    assert 0.85 < uncertainty.interval_coverage(found.lower, found.upper, y[:, None]) <= 1.0


def test_passes_with_dropout_have_intervals(backend, float64, tmp_path):
    net = Sequential(Dropout(0.5), Linear(1))
    weight = {"weight": backend.asarray([[1.0], [2.0]], dtype="float64")}
    params = {"1": {**weight, "bias": backend.asarray([0.5], dtype="float64")}}
    model = Model(net, params, loss=SquaredError())
    x, y, rows = (backend.asarray(each) for each in (X, Y, NEW))
    model.calibrate(x, y, "scaled", draws=20, seed=3)
    known, new = (model.monte_carlo(each, draws=20, seed=3) for each in (x, rows))
    mean, spread = (backend.to_host(each) for each in (known.mean, known.variance))
    margin = widened(np.abs(mean - Y) / np.sqrt(spread))
    found = model.predict(rows, interval=0.9)
    expected = backend.to_host(new.mean) + margin * np.sqrt(backend.to_host(new.variance))
    assert_close(found.upper, expected, backend, dtype=float64)
    model.save(tmp_path / "model")
    again = tinynn.load(tmp_path / "model", backend)
    assert (again.calibration.draws, again.calibration.seed) == (20, 3)
    assert_equal(again.predict(rows, interval=0.9).upper, backend.to_host(found.upper), backend)
    with pytest.raises(ValueError, match="bounds: expected a model that is calibrated by its out"):
        model.bounds(model.outputs(rows))
    model.calibrate(x, y, draws=20)
    assert model.calibration.kind == "absolute"
    plain = Model(Linear(1), params["1"], loss=SquaredError())
    with pytest.raises(ValueError, match="monte_carlo: expected a network with dropout"):
        plain.calibrate(x, y, draws=5)


def test_posteriors_have_intervals():
    weight = np.linalg.lstsq(X, Y, rcond=None)[0]
    model = Model(Linear(1, bias=False), {"weight": weight}, loss=SquaredError())
    posterior = model.laplace(X, Y)
    with pytest.raises(ValueError, match="expected a posterior that is calibrated"):
        posterior.predict(NEW, interval=0.9)
    x = np.random.default_rng(7).normal(size=(40, 2))
    y = x.sum(axis=1, keepdims=True)
    posterior.calibrate(x, y)
    known, new = posterior.predict(x), posterior.predict(NEW)
    margin = widened(np.abs(known.mean - y) / np.sqrt(known.variance)) * np.sqrt(new.variance)
    found = posterior.predict(NEW, interval=0.9)
    np.testing.assert_allclose(found.lower, new.mean - margin)
    normal = new.interval(0.95)
    np.testing.assert_allclose(normal.upper, new.mean + 1.959963984540054 * np.sqrt(new.variance))
    with pytest.raises(ValueError, match="interval: expected a level between 0 and 1, got 95"):
        new.interval(95)
    labels = (Y[:, 0] > 0).astype(int)
    binary = Model(Linear(1, bias=False), {"weight": weight}, loss=BinaryCrossEntropy())
    classes = binary.laplace(X, labels)
    classes.calibrate(x, labels)
    p = classes.predict_proba(x)[:, 0]
    margin = widened(1 - np.where(labels == 1, p, 1 - p))
    p = classes.predict_proba(NEW)
    expected = 1 - np.concatenate([1 - p, p], axis=1) <= margin + 1e-12
    np.testing.assert_array_equal(classes.predict_set(NEW), expected)


def test_estimators_have_intervals_and_sets():
    pytest.importorskip("sklearn")
    from tinynn.sklearn import NetworkClassifier, NetworkRegressor

    y = Y[:, 0]
    small = {"hidden_layer_sizes": (3,), "solver": "lbfgs", "max_iter": 20, "tol": None}
    with pytest.raises(Exception, match="not fitted yet"):
        NetworkRegressor().calibrate(X, y)
    found = NetworkRegressor(**small).fit(X[:20], y[:20])
    with pytest.raises(ValueError, match="expected a model that is calibrated"):
        found.predict(NEW, interval=0.9)
    assert found.calibrate(X[20:].tolist(), y[20:].tolist()) is found
    estimate, lower, upper = found.predict(NEW, interval=0.9)
    margin = widened(np.abs(found.predict(X[20:]) - y[20:]))
    np.testing.assert_array_equal(estimate, found.predict(NEW))
    found.predict(NEW, interval=np.float32(0.9))  # as NumPy's searches give levels
    np.testing.assert_allclose(upper, estimate + margin)
    read = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(read.predict(NEW, interval=0.9).lower, lower)
    with pytest.raises(ValueError, match="expected a model that is calibrated"):
        found.fit(X, y).predict(NEW, interval=0.9)
    names = np.where(y > 1, "high", np.where(y < -1, "low", "middle"))
    classes = NetworkClassifier(**small).fit(X, names).calibrate(X, names)
    p = classes.predict_proba(X)
    own = p[np.arange(40), np.searchsorted(classes.classes_, names)]
    expected = 1 - classes.predict_proba(NEW) <= widened(1 - own) + 1e-12
    np.testing.assert_array_equal(classes.predict_set(NEW, 0.9), expected)
    assert pickle.loads(pickle.dumps(classes)).predict_set(NEW).shape == (6, 3)
    with pytest.raises(ValueError, match="'other'"):
        classes.calibrate(X, np.where(y > 0, "other", names))
    columns = np.stack([y > 0, y > 1], axis=1).astype(int)
    several = NetworkClassifier(**small).fit(X, columns)
    with pytest.raises(ValueError, match="calibrate: y: expected one label a sample"):
        several.calibrate(X, columns)


def test_pipelines_pass_the_interval_on():
    pytest.importorskip("sklearn")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from tinynn.sklearn import NetworkRegressor

    small = {"hidden_layer_sizes": (3,), "solver": "lbfgs", "max_iter": 20, "tol": None}
    pipe = make_pipeline(StandardScaler(), NetworkRegressor(**small)).fit(X[:20], Y[:20, 0])
    pipe[-1].calibrate(pipe[:-1].transform(X[20:]), Y[20:, 0])
    assert pipe.predict(NEW, interval=0.9).lower.shape == (6,)


def test_tanh_networks_of_two_outputs_have_two_intervals():
    target = np.concatenate([Y, -Y], axis=1)
    stack = tinynn.fit_many(
        Sequential(Linear(3), tanh, Linear(2)), X, target, networks=2, epochs=2, engine="calls"
    )
    stack.calibrate(NEW.repeat(4, axis=0), target[:24])
    assert stack.predict(NEW, interval=0.9).upper.shape == (6, 2)


def test_folds_calibrate_no_network_that_ended_early():
    """It is another one than those that answered for the folds, which know of no callback."""
    x = np.linspace(0.0, 1.0, 40)
    told = []
    given = {"hidden": (), "epochs": 3, "folds": 2, "report": told.append}
    assert fit_table({"x": x, "y": 2 * x}, "y", **given).calibration is not None
    assert not any(line.startswith("not calibrated") for line in told)
    stop = EarlyStopping("loss", goal=1e9)
    model = fit_table({"x": x, "y": 2 * x}, "y", callbacks=stop, **given)
    assert model.calibration is None
    assert any(line.startswith("not calibrated: training ended early") for line in told)
