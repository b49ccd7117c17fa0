"""Derivatives by inputs, importance and dependence of features, surfaces and their pictures."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

import tinynn
from tests.checks import assert_close
from tinynn import Model, inspection
from tinynn.functional import tanh
from tinynn.layers import Embedding, Lambda, Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.uncertainty import reliability

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3))


def made(backend=None, dtype="float64"):
    home = tinynn.data.host() if backend is None else backend
    draw = np.random.default_rng(1)
    params = {
        "0": {"weight": draw.normal(size=(3, 4)), "bias": draw.normal(size=4)},
        "2": {"weight": draw.normal(size=(4, 2)), "bias": draw.normal(size=2)},
    }
    params = tinynn.tree.map(lambda a: home.asarray(a, dtype=dtype), params)
    return Model(Sequential(Linear(4), tanh, Linear(2)), params, loss=SquaredError())


def test_derivatives_by_inputs(backend, float64):
    model, plain = made(backend), made()
    x = backend.asarray(X[:4])
    found = inspection.input_gradients(model, x, output=1)
    step = 1e-6 * np.eye(3)
    for column in range(3):
        both = [plain.outputs(X[:4] + sign * step[column])[:, 1] for sign in (1, -1)]
        expected = (both[0] - both[1]) / 2e-6
        np.testing.assert_allclose(backend.to_host(found)[:, column], expected, rtol=1e-7)
    baseline = backend.asarray(X[5])
    shares = inspection.integrated_gradients(model, x, baseline, output=1, steps=24)
    rise = plain.outputs(X[:4])[:, 1] - plain.outputs(X[5:6])[:, 1]
    total = backend.to_host(shares).sum(axis=1)
    np.testing.assert_allclose(total, rise, rtol=1e-7)  # completeness


def test_integrated_gradients_of_what_is_known():
    cubic = Model(Lambda(lambda x: x[:, :1] ** 3 + x[:, 1:2]), {})
    found = inspection.integrated_gradients(cubic, X, steps=2)  # exact from two places on
    expected = np.stack([X[:, 0] ** 3, X[:, 1], 0 * X[:, 2]], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-13)
    with pytest.raises(ValueError, match="output: expected a number from 0 to 1"):
        inspection.input_gradients(made(), X, output=2)
    with pytest.raises(ValueError, match="steps: expected a whole number of 1 or more, got 0"):
        inspection.integrated_gradients(made(), X, steps=0)


MODEL = made()


@pytest.fixture
def estimator():
    """The first output of a network, as an estimator that scikit-learn takes for fitted."""
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is compared with")

    class Estimator(base.RegressorMixin, base.BaseEstimator):
        def fit(self, X, y=None):
            self.fitted_ = True
            return self

        def predict(self, X):
            return MODEL.outputs(X)[:, 0]

    return Estimator().fit(X)


@pytest.mark.parametrize("feature", [0, 2])
def test_partial_dependence_is_that_of_scikit_learn(estimator, feature):
    from sklearn.inspection import partial_dependence

    theirs = partial_dependence(
        estimator, X, [feature], kind="both", method="brute", grid_resolution=7
    )
    ours = inspection.partial_dependence(made(), X, feature, resolution=7)
    np.testing.assert_allclose(ours.grid, theirs["grid_values"][0], rtol=1e-12)
    np.testing.assert_allclose(ours.average[:, 0], theirs["average"][0], rtol=1e-12)
    np.testing.assert_allclose(ours.individual[:, :, 0].T, theirs["individual"][0], rtol=1e-12)


def test_permutation_importance_is_that_of_scikit_learn(estimator):
    from sklearn.inspection import permutation_importance

    x = np.random.default_rng(2).normal(size=(300, 3))
    y = MODEL.outputs(x)[:, 0] + 0.1
    theirs = permutation_importance(
        estimator, x, y, n_repeats=60, random_state=0, scoring="neg_mean_squared_error"
    )

    def cost(x):
        return ((MODEL.outputs(x)[:, 0] - y) ** 2).mean()

    ours = inspection.permutation_importance(cost, x, repeats=60)
    deviation = np.hypot(theirs.importances_std, ours.std(axis=1)) / 60**0.5
    assert (abs(ours.mean(axis=1) - theirs.importances_mean) < 4 * deviation).all()
    with pytest.raises(ValueError, match="repeats: expected a whole number"):
        inspection.permutation_importance(cost, x, repeats=0)
    with pytest.raises(ValueError, match="number of a column, got the shape"):
        inspection.partial_dependence(made(), x, 3)


def test_partial_dependence_on_whole_numbers_and_gaps():
    model = Model(Linear(1, bias=False), {"weight": np.asarray([[2.0], [3.0]])})
    whole = np.arange(8).reshape(4, 2)
    found = inspection.partial_dependence(model, whole, 0, [0.5, 1.5])
    assert found.grid.tolist() == [0.5, 1.5]  # once cut to 0 and 1
    assert found.average[:, 0].tolist() == [13.0, 15.0]
    codes = Model(Embedding(3, 1), {"weight": np.asarray([[1.0], [2.0], [4.0]])})
    found = inspection.partial_dependence(codes, np.asarray([[0, 1], [1, 1]]), 0, [0, 2])
    assert found.average[:, 0, 0].tolist() == [1.0, 4.0]  # which takes whole numbers
    gaps = np.asarray([[np.nan, 1.0], [np.inf, 2.0]])  # a column that is replaced may hold anything
    found = inspection.partial_dependence(model, gaps, 0, [0.0, 1.0])
    assert found.average[:, 0].tolist() == [4.5, 6.5]


def test_features_and_surfaces_on_every_library(backend):
    weight = np.asarray([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    params = {"weight": backend.asarray(weight, dtype="float32")}
    model = Model(Linear(2, bias=False), params, loss=SquaredError())
    x = backend.asarray(X, dtype="float32")
    found = inspection.partial_dependence(model, x, 1, [0.0, 1.0])
    expected = [[X[:, 0].mean() + 2 * value, X[:, 2].mean()] for value in (0.0, 1.0)]
    assert_close(found.average, expected, backend, dtype="float32")
    y = model.outputs(x)
    rise = backend.to_host(
        inspection.permutation_importance(lambda x: model.loss(model.outputs(x), y), x, repeats=1)
    )
    assert (rise > 0).all()
    surface = inspection.loss_landscape(model, x, y, resolution=3, span=0.5)
    values = backend.to_host(surface.values)
    assert values[1, 1] == 0.0 < values[0, 0]
    picture = ET.fromstring(inspection.contour(surface, title="a < b"))
    assert len(picture.findall(".//{*}rect")) == 1 + 9


def test_lines_of_a_contour_lie_at_their_height():
    x = np.linspace(-1, 1, 41)
    surface = inspection.Surface(x, x, np.hypot(*np.meshgrid(x, x)))
    text = inspection.contour(surface)
    paths = [path.get("d") for path in ET.fromstring(text).findall(".//{*}path")]
    assert len(paths) == 8
    ends = [part.split() for part in paths[1].replace("M", " M").replace("L", " ").split(" M")[1:]]
    points = np.asarray([[float(n) for n in end] for end in ends]).reshape(-1, 2)
    cell = 400 / 41
    places = (points - cell / 2) / (400 - cell) * 2 - 1
    height = 2**0.5 * 2 / 9
    np.testing.assert_allclose(np.hypot(*places.T), height, atol=0.01)


def test_a_reliability_diagram_has_a_bar_for_each_bin_with_rows():
    p = np.asarray([[0.05, 0.95], [0.45, 0.55], [0.4, 0.6], [0.9, 0.1]])
    found = reliability(p, np.asarray([1, 0, 1, 0]), bins=10)
    picture = ET.fromstring(inspection.reliability_diagram(found, title="sure?"))
    bars = picture.findall(".//{*}rect[@class='bin']")
    heights = [float(bar.get("height")) / 400 for bar in bars]
    assert heights == [0.5, 1.0, 1.0]  # of 0.5 to 0.6, of 0.8 to 0.9 and of 0.9 to 1
    # 0.5 * |0.5 - 0.575| + 0.25 * |1 - 0.9| + 0.25 * |1 - 0.95|
    assert "error 0.075" in picture.findall("{*}text")[-1].text
