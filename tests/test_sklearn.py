"""tinynn.sklearn: scikit-learn's own checks, and what its perceptrons refuse."""

import pickle
import re
import subprocess
import sys
import warnings
from functools import partial
from inspect import signature
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

import sklearn
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.fixes import parse_version

import tinynn
from tests.sample_estimators import mean_absolute, twice
from tinynn.functional import relu, tanh
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.losses import Huber, Quantile, SoftmaxCrossEntropy
from tinynn.optim import AdamW, CosineDecay
from tinynn.sklearn import NetworkClassifier, NetworkRegressor
from tinynn.training import ModelFileError

scipy_sparse = pytest.importorskip("scipy.sparse")

X, Y = make_classification(60, 6, n_informative=4, n_classes=3, random_state=0)
NUMBERS = X[:, 0] - 2 * X[:, 1] ** 2
NEWEST = parse_version(sklearn.__version__) >= parse_version("1.9")
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 5, "tol": None, "random_state": 0}
BOTH = pytest.mark.parametrize("kind", [NetworkClassifier, NetworkRegressor])


def targets(kind):
    return Y if kind is NetworkClassifier else NUMBERS


# scikit-learn's own checks.


def checks():
    for estimator in (NetworkClassifier(), NetworkRegressor()):
        for _, check in estimator_checks_generator(estimator):
            name = (check.func if isinstance(check, partial) else check).__name__
            if not name.startswith("check_array_api"):  # tests/estimators_dispatch.py does these
                yield pytest.param(estimator, check, id=f"{type(estimator).__name__}-{name}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_check(estimator, check):
    check(estimator)


@pytest.mark.only("numpy", "array_api_strict", "torch", "dpnp", "cupy")
def test_arrays_of_any_library(variant):
    if "-" in variant.id:
        pytest.skip("a Python of its own has no settings of ours, and needs float64")
    others = {"array_api_strict": ["array_api_strict:device1"], "cupy": ["cupy:1"]}
    specs = [variant.spec, *others.get(variant.id, ())]
    done = subprocess.run(
        [sys.executable, "-m", "tests.estimators_dispatch", *specs],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# Training on.


@BOTH
def test_a_warm_start_goes_on_as_if_it_had_not_been_stopped(kind):
    given = {**QUICK, "batch_size": 16, "engine": "calls"}
    half = kind(**given, warm_start=True)
    half.fit(X, targets(kind)).fit(X, targets(kind))
    whole = kind(**{**given, "max_iter": 10}).fit(X, targets(kind))
    assert half.loss_curve_ == whole.loss_curve_
    np.testing.assert_array_equal(half.predict(X), whole.predict(X))
    assert (half.n_iter_, whole.n_iter_, half.t_) == (5, 10, 600)


@BOTH
def test_partial_fits_are_epochs_also_across_a_pickle(kind):
    given = {**QUICK, "batch_size": 16, "engine": "calls"}
    y = targets(kind)
    first = {"classes": [0, 1, 2]} if kind is NetworkClassifier else {}
    parts = kind(**given).partial_fit(X, y, **first)
    for _ in range(4):
        parts = pickle.loads(pickle.dumps(parts)).partial_fit(X, y)
    whole = kind(**given).fit(X, y)
    np.testing.assert_array_equal(parts.predict(X), whole.predict(X))
    assert parts.loss_curve_ == whole.loss_curve_


def test_partial_fit_of_a_class_at_a_time():
    model = NetworkClassifier((8,), random_state=0).partial_fit(
        X[:5], ["a"] * 5, classes=["b", "a"]
    )
    model.partial_fit(X[:5], ["b"] * 5)
    assert model.classes_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match=r"classes not in `self.classes_`: .*out of 'a', 'b'.*'c'"):
        model.partial_fit(X[:5], ["c"] * 5)


# Pickling.


@BOTH
def test_a_pickle_is_a_model_file_and_no_code(kind):
    model = kind(**QUICK).fit(X, targets(kind))
    data = pickle.dumps(model)
    np.testing.assert_array_equal(pickle.loads(data).predict(X), model.predict(X))
    assert b'"sha256":"' in data
    weight = model.coefs_[0].tobytes()
    assert weight in data
    with pytest.raises(ModelFileError, match="digest"):
        pickle.loads(data.replace(weight, bytes(len(weight))))


def test_the_model_within_is_saved_and_loaded(tmp_path):
    model = NetworkClassifier(**QUICK).fit(X, Y)
    model.model_.save(tmp_path / "a.safetensors")
    outputs = tinynn.load(tmp_path / "a.safetensors").predict(X)
    np.testing.assert_array_equal(outputs, model.decision_function(X))


# Labels.


def test_texts_and_truth_values_are_labels():
    texts = np.asarray(["low", "middle", "high"], dtype=object)[Y]
    model = NetworkClassifier((16,), learning_rate_init=0.05, random_state=0, tol=0.01)
    assert model.fit(X, texts).score(X, texts) > 0.9
    assert model.classes_.tolist() == ["high", "low", "middle"]
    assert model.fit(X, Y > 0).predict(X).dtype == bool


def test_labels_that_do_not_exclude_each_other():
    x, y = make_multilabel_classification(80, 6, n_classes=3, random_state=0)
    model = NetworkClassifier((32,), learning_rate_init=0.05, random_state=0, tol=0.01).fit(x, y)
    assert model.score(x, y) > 0.5
    assert model.predict(x).shape == model.predict_proba(x).shape == (80, 3)
    sparse = clone(model).fit(scipy_sparse.csr_matrix(x), scipy_sparse.csr_matrix(y))
    np.testing.assert_allclose(sparse.predict_proba(x), model.predict_proba(x))
    parts = clone(model).partial_fit(x, y).partial_fit(x, y[:, :3])
    assert parts.predict(x).shape == (80, 3)


def test_several_columns_of_classes():
    y = np.stack([Y, (X[:, 0] > 0) * 5], axis=1)
    model = NetworkClassifier((32,), learning_rate_init=0.05, random_state=0, tol=0.01).fit(X, y)
    assert [each.tolist() for each in model.classes_] == [[0, 1, 2], [0, 5]]
    assert (model.predict(X) == y).mean() > 0.95
    chances = model.predict_proba(X)
    assert [each.shape for each in chances] == [(60, 3), (60, 2)]
    np.testing.assert_allclose(chances[0].sum(axis=1), 1)
    texts = np.asarray(["a", "b", "c", "d", "e", "f"])[y]
    assert (clone(model).fit(X, texts).predict(X) == texts).mean() > 0.95
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_several_numbers():
    y = np.stack([NUMBERS, X[:, 2]], axis=1)
    model = NetworkRegressor((16,), learning_rate_init=0.05, random_state=0, tol=1e-3).fit(X, y)
    assert model.score(X, y) > 0.9


# Weights.


def test_class_weights_are_sample_weights():
    by_class = {0: 1.0, 1: 3.0, 2: 0.5}
    asked = NetworkClassifier(**QUICK, class_weight=by_class).fit(X, Y)
    told = NetworkClassifier(**QUICK).fit(X, Y, sample_weight=[by_class[label] for label in Y])
    np.testing.assert_array_equal(asked.predict_proba(X), told.predict_proba(X))
    few = np.concatenate([np.flatnonzero(Y == 0)[:3], np.flatnonzero(Y == 1)])
    model = NetworkClassifier((), class_weight="balanced", solver="lbfgs", max_iter=100)
    model.fit(X[few], Y[few])
    assert (model.predict(X[few]) == 0).sum() >= 3


def test_class_weights_of_several_columns():
    y = np.stack([Y == 0, Y == 1], axis=1).astype(int)
    weights = [{0: 1, 1: 2}, {0: 1, 1: 4}]
    asked = NetworkClassifier(**QUICK, class_weight=weights).fit(X, y)
    told = NetworkClassifier(**QUICK).fit(X, y, sample_weight=(1 + y[:, 0]) * (1 + 3 * y[:, 1]))
    np.testing.assert_array_equal(asked.predict_proba(X), told.predict_proba(X))
    NetworkClassifier(**QUICK, class_weight="balanced").fit(X, y)


# Networks, losses and optimizers.


def test_layers_among_the_widths():
    sizes = [BatchNorm(), 16, Dropout(0.2), 8]
    model = NetworkClassifier(sizes, ["tanh", relu], max_iter=30, tol=None, random_state=0)
    assert tinynn.config.label(model.fit(X, Y).model_.net) == (
        "Sequential(BatchNorm(), Linear(16), tanh, Dropout(rate=0.2), Linear(8), relu, Linear(3))"
    )
    assert pickle.loads(pickle.dumps(model)).score(X, Y) == model.score(X, Y)
    assert [weight.shape for weight in model.coefs_] == [(6, 16), (16, 8), (8, 3)]


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_network_of_ones_own_for_two_classes(outputs):
    net = Sequential(Linear(8), tanh, Linear(outputs))
    model = NetworkClassifier(network=net, learning_rate_init=0.05, random_state=0, tol=0.01)
    y = np.where(Y == 0, "no", "yes")
    assert model.fit(X, y).score(X, y) > 0.9
    assert model.decision_function(X).shape == (60,)
    np.testing.assert_array_equal(model.decision_function(X) > 0, model.predict(X) == "yes")
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X))


@pytest.mark.parametrize("loss", ["nll", "cross_entropy", SoftmaxCrossEntropy(label_smoothing=0.1)])
def test_losses_of_classes(loss):
    model = NetworkClassifier(**{**QUICK, "max_iter": 30}, loss=loss, learning_rate_init=0.05)
    for y in (Y, Y % 2):
        assert model.fit(X, y).predict_proba(X).shape == (60, y.max() + 1)
        np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)


@pytest.mark.parametrize("loss", ["absolute_error", Huber(0.5), mean_absolute])
def test_losses_of_numbers(loss):
    given = {"loss": loss, "learning_rate_init": 0.05, "random_state": 0, "tol": 1e-3}
    assert NetworkRegressor((16,), **given).fit(X, NUMBERS).score(X, NUMBERS) > 0.8


def test_losses_that_say_more_or_less_than_others():
    given = {**QUICK, "max_iter": 200, "learning_rate_init": 0.02}
    small = NUMBERS / 10
    model = NetworkRegressor(**given, loss="gaussian_nll")
    for y in (small, np.stack([small, -small], axis=1)):
        assert model.fit(X, y).predict(X).shape == y.shape
        assert model.score(X, y) > 0.3
    quantiles = NetworkRegressor(**given, loss=Quantile((0.1, 0.9))).fit(X, small).predict(X)
    assert quantiles.shape == (60, 2)
    assert (quantiles[:, 0] < quantiles[:, 1]).mean() > 0.9
    for loss, y in (("focal", Y), ("binary_focal", Y % 2), ("hinge", Y % 2)):
        model = NetworkClassifier(**given, loss=loss).fit(X, y)
        assert model.score(X, y) > 0.6
        assert hasattr(model, "predict_proba") is (loss != "hinge")
    assert NetworkClassifier(**given, loss="multiclass_hinge").fit(X, Y).score(X, Y) > 0.6
    stopped = NetworkClassifier(**QUICK, loss="hinge", early_stopping=True).fit(X, Y % 2)
    assert max(stopped.validation_scores_) <= 1.0  # accuracies


def test_an_output_activation_and_a_loss_of_ones_own():
    model = NetworkRegressor(**QUICK, output_activation="softplus").fit(X, NUMBERS)
    assert (model.predict(X) > 0).all()
    model = NetworkRegressor(**QUICK, output_activation=twice).fit(X, NUMBERS)
    assert tinynn.config.label(model.model_.net).endswith("Linear(1), twice)")


def test_activations_of_each_element_have_names():
    for name in ("mish", "selu", "hard_tanh", "relu6", "threshold", "leaky_relu"):
        model = NetworkClassifier((2,), activation=name, max_iter=1, tol=None).fit(X, Y)
        assert model.model_.net.layers[1] is getattr(tinynn.functional, name)
    for name in ("softmax", "glu", "log_softmax", "conv", "nosuch"):
        with pytest.raises(ValueError, match=r"activation: expected one of celu, elu, .*got '"):
            NetworkClassifier((2,), activation=name).fit(X, Y)


def test_optimizers_and_schedules():
    for given in (
        {"solver": AdamW(CosineDecay(0.05, steps=30))},
        {"solver": "lion"},
        {"learning_rate_init": CosineDecay(0.05, steps=30)},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    ):
        model = NetworkClassifier((16,), max_iter=30, tol=None, random_state=0, **given)
        assert model.fit(X, Y).loss_ < 0.9 * model.loss_curve_[0]


def test_the_seed_is_that_of_fit():
    given = {"hidden_layer_sizes": (8,), "tol": None, "alpha": 0, "batch_size": 16, "max_iter": 3}
    model = NetworkClassifier(**given, random_state=7).fit(X, Y)
    net = Sequential(Linear(8), relu, Linear(3))
    same = tinynn.fit(net, X, Y, epochs=3, batch_size=16, seed=7)
    np.testing.assert_array_equal(model.decision_function(X), same.predict(X))
    assert NetworkClassifier(**given, random_state=np.random.RandomState(0)).fit(X, Y)


def test_early_stopping_keeps_the_best_epoch_and_shows_its_curves():
    model = NetworkClassifier((32,), early_stopping=True, learning_rate_init=0.05, random_state=0)
    model.fit(X, Y)
    assert len(model.validation_scores_) == len(model.loss_curve_) == model.n_iter_
    assert len(model.validation_loss_curve_) == model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    several = clone(model).fit(X, np.stack([Y, Y], axis=1))
    assert len(several.validation_loss_curve_) == several.n_iter_
    numbers = NetworkRegressor((8,), early_stopping=True, max_iter=20, tol=0.1).fit(X, NUMBERS)
    assert numbers.validation_scores_


def test_callbacks_see_the_run():
    seen = []
    NetworkClassifier(**QUICK, callbacks=[lambda run: seen.append(run.epoch)]).fit(X, Y)
    assert seen == [1, 2, 3, 4, 5]


# What stands around estimators.


def test_sparse_rows_are_dense_rows():
    thin = np.where(X > 0.5, X, 0)
    for kind in (NetworkClassifier, NetworkRegressor):
        dense = kind(**QUICK).fit(thin, targets(kind))
        for form in (scipy_sparse.csr_matrix, scipy_sparse.csc_array):
            sparse = kind(**QUICK).fit(form(thin), targets(kind))
            np.testing.assert_allclose(sparse.predict(form(thin)), dense.predict(thin))
    many = scipy_sparse.csr_matrix(np.tile(thin, (200, 1)))
    assert dense.predict(many).shape == (12000,)


def test_a_search_in_two_processes():
    pipe = make_pipeline(StandardScaler(), NetworkClassifier(**QUICK))
    grid = {"networkclassifier__hidden_layer_sizes": [(4,), [Dropout(0.1), 16]]}
    grid["networkclassifier__learning_rate_init"] = [1e-4, 0.05]
    search = GridSearchCV(pipe, grid, n_jobs=2, cv=2).fit(X, Y)
    assert search.best_params_["networkclassifier__learning_rate_init"] == 0.05


def test_metadata_routing():
    weights = np.ones(len(Y))
    with config_context(enable_metadata_routing=True):
        model = NetworkClassifier(**QUICK).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        scores = cross_val_score(model, X, Y, params={"sample_weight": weights}, cv=2)
    assert len(scores) == 2


def test_representation():
    model = NetworkClassifier((16,), network=Linear(3), class_weight="balanced")
    assert " ".join(repr(model).split()) == (
        "NetworkClassifier(class_weight='balanced', hidden_layer_sizes=(16,), network=Linear(3))"
    )
    assert "NetworkClassifier" in model._repr_html_()


@pytest.mark.parametrize(
    "library",
    [
        "pandas",
        pytest.param(
            "polars",
            marks=pytest.mark.skipif(
                not NEWEST, reason="before 1.9 scikit-learn cannot read names from polars"
            ),
        ),
    ],
)
def test_frames_keep_their_columns(library):
    frames = pytest.importorskip(library)
    names = list("abcdef")
    frame = frames.DataFrame({name: X[:, i] for i, name in enumerate(names)})
    model = NetworkClassifier(**QUICK).fit(frame, Y)
    assert model.feature_names_in_.tolist() == names
    np.testing.assert_array_equal(model.predict(frame), model.predict_proba(frame).argmax(axis=1))
    with pytest.raises(ValueError, match=r"feature names should match"):
        model.predict(frame[names[::-1]])


def test_other_dtypes():
    for dtype, given in (("float32", None), ("float64", "float32")):
        model = NetworkClassifier(**QUICK, dtype=given).fit(X.astype(dtype), Y)
        assert model.predict_proba(X.astype(dtype)).dtype == np.float32
    model.partial_fit(X.astype("int64"), Y)
    assert model.coefs_[0].dtype == np.float32
    assert NetworkClassifier(**QUICK).fit((X * 9).astype("int8"), Y).coefs_[0].dtype == np.float64


# What is wrong is said.

WRONG = {
    "hidden_layer_sizes": (0, "expected whole numbers above 0, or layers"),
    "activation": ("rellu", "expected one of celu, .*got 'rellu'"),
    "solver": (Dropout, "expected 'adam', 'sgd', 'lbfgs'"),
    "network": (Linear, "expected a layer, such as"),
    "loss": ("quality", "expected None, one of"),
    "alpha": (-1, "expected a number of 0 or more, got -1"),
    "batch_size": (0, "expected 'auto', a whole number of 1 or more"),
    "learning_rate": (0.1, "a schedule is for learning_rate_init"),
    "learning_rate_init": (0, "expected a number above 0, or a schedule"),
    "max_iter": (1.5, "expected a whole number of 1 or more, got 1.5"),
    "momentum": (2, "expected a number of 0 or more and at most 1, got 2"),
    "validation_fraction": (1, "expected a number above 0 and below 1"),
    "shuffle": ("yes", "expected True or False, got 'yes'"),
    "dtype": ("float16", "expected None, 'float32' or 'float64'"),
    "class_weight": ({7: 1}, r"expected labels out of \[0, 1, 2\], got 7"),
    "callbacks": (3, "functions of the run"),
    "engine": ("fast", "engine"),
}


@pytest.mark.parametrize(("name", "wrong"), WRONG.items(), ids=WRONG)
def test_wrong_parameters(name, wrong):
    value, message = wrong
    model = NetworkClassifier(**{**QUICK, name: value})
    with pytest.raises(ValueError, match=message) as caught:
        model.fit(X, Y)
    assert name in str(caught.value)


def test_wrong_data():
    model = NetworkClassifier(**QUICK)
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        model.fit(X, NUMBERS)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, Y)
    with pytest.raises(ValueError, match=re.escape("expected outputs of shape (3,)")):
        clone(model).set_params(network=Linear(4)).fit(X, Y)
    with pytest.raises(ValueError, match="expected 1 outputs a sample"):
        NetworkRegressor(network=Linear(4)).fit(X, NUMBERS)
    with pytest.raises(ValueError, match="sample_weight: expected one number for each of 60"):
        model.fit(X, Y, sample_weight=[1.0, 2.0])
    first = clone(model).partial_fit(X, Y, classes=[2, 1, 0])
    with pytest.raises(ValueError, match=r"those of the first call, \[0, 1, 2\], or none"):
        first.partial_fit(X, Y, classes=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="'balanced', which is of all data"):
        NetworkClassifier(class_weight="balanced").partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="solver='lbfgs', which needs all of them"):
        NetworkRegressor(solver="lbfgs").partial_fit(X, NUMBERS)
    warm = NetworkClassifier(**QUICK, warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match="same classes as in the previous call"):
        warm.fit(X[Y > 0], Y[Y > 0])
    with pytest.raises(ValueError, match=r"params: .*expected \(6, 9\)"):
        warm.set_params(hidden_layer_sizes=(9,)).fit(X, Y)


def test_divergence_is_an_error():
    model = NetworkRegressor((8,), solver="sgd", learning_rate_init=1e9, max_iter=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="the loss is no longer finite"):
            model.fit(X, NUMBERS)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_the_two_estimators_have_the_same_parameters():
    """scikit-learn reads them off each signature, so that they are written twice."""
    classifier, regressor = (
        {name: each.default for name, each in signature(kind).parameters.items()}
        for kind in (NetworkClassifier, NetworkRegressor)
    )
    assert classifier.pop("class_weight") is None
    assert classifier == regressor


@pytest.mark.parametrize(
    ("label", "kinds"), [(None, "NoneType, str"), (1, "int, str"), (0.5, "float, str")]
)
def test_labels_of_several_types(label, kinds):
    y = np.asarray([label, "a"] * 10, dtype=object)
    with pytest.raises(
        ValueError, match=f"expected labels that are all texts.*got {kinds}. To fix"
    ):
        NetworkClassifier((4,), max_iter=1).fit(np.ones((20, 2)), y)
