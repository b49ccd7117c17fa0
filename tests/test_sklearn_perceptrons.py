"""tinynn.sklearn beside scikit-learn's own perceptrons: the same parameters, the same numbers."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from tinynn.sklearn import NetworkClassifier, NetworkRegressor

X, Y = make_classification(60, 6, n_informative=4, n_classes=3, random_state=0)
NUMBERS = X[:, 0] - 2 * X[:, 1] ** 2


@pytest.mark.parametrize(
    ("ours", "theirs"), [(NetworkClassifier, MLPClassifier), (NetworkRegressor, MLPRegressor)]
)
def test_every_parameter_of_theirs_has_its_name_and_default(ours, theirs):
    mine, known = ours().get_params(), theirs().get_params()
    known.pop("loss", None)  # theirs is named, ours is None for the same
    assert {name: mine[name] for name in known} == known
    ours(**theirs().get_params())


SETTINGS = {
    "adam": {"solver": "adam", "epsilon": 1e-14},  # theirs is put in at another place
    "sgd": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "alpha": 1.0},
    "tanh": {"activation": "tanh", "epsilon": 1e-14, "hidden_layer_sizes": (4, 3)},
    "logistic": {"activation": "logistic", "epsilon": 1e-14, "alpha": 0.1},
}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_epochs_are_those_of_mlpclassifier(settings, classes, weighted):
    """From the same weights, in batches of the same samples, the same numbers."""
    given = {"hidden_layer_sizes": (5,), "learning_rate_init": 0.1, **settings}
    y = Y % classes
    given |= {"shuffle": False, "batch_size": 25, "random_state": 0}
    given = {"solver": "adam", **given}
    weights = np.linspace(0, 3, len(y)) if weighted else None
    ours = NetworkClassifier(**(given | {"solver": "rmsprop"})).partial_fit(X, y, classes=set_of(y))
    theirs = MLPClassifier(**given).partial_fit(X, y, classes=set_of(y))
    for name in ("coefs_", "intercepts_"):
        for mine, their in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            their[...] = mine
    del theirs._optimizer
    ours.set_params(**given)  # another solver begins anew
    for _ in range(3):
        ours.partial_fit(X, y, sample_weight=weights)
        theirs.partial_fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6)
    if not weighted:  # theirs counts the loss of a batch by its samples even then
        np.testing.assert_allclose(ours.loss_curve_[1:], theirs.loss_curve_[1:], rtol=1e-9)


def test_epochs_are_those_of_mlpregressor():
    given = {"hidden_layer_sizes": (5,), "solver": "sgd", "shuffle": False, "batch_size": 25}
    ours = NetworkRegressor(**given, learning_rate_init=0.01, alpha=0.2)
    theirs = MLPRegressor(**given, learning_rate_init=0.02, alpha=0.1)  # of half the squares
    ours.set_params(solver="rmsprop").partial_fit(X, NUMBERS)
    theirs.partial_fit(X, NUMBERS)
    for name in ("coefs_", "intercepts_"):
        for mine, their in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            their[...] = mine
    del theirs._optimizer
    ours.set_params(solver="sgd")
    for _ in range(3):
        ours.partial_fit(X, NUMBERS)
        theirs.partial_fit(X, NUMBERS)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9)


def set_of(labels):
    return sorted(set(labels.tolist()))


# scikit-learn before 1.8 gives SciPy options that it warns of.
SEARCHES = pytest.mark.filterwarnings("ignore:scipy.optimize. The `disp` and `iprint`")


@SEARCHES
def test_poisson_is_that_of_mlpregressor():
    y = np.random.default_rng(0).poisson(np.exp(X[:, 0]))
    given = {"loss": "poisson", "solver": "lbfgs", "alpha": 0.1, "max_iter": 5000, "tol": 1e-6}
    given |= {"hidden_layer_sizes": (), "random_state": 0}
    ours, theirs = NetworkRegressor(**given).fit(X, y), MLPRegressor(**given).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-3)


@SEARCHES
def test_lbfgs_finds_the_minimum_that_mlpclassifier_finds():
    given = {"solver": "lbfgs", "alpha": 1.0, "max_iter": 2000, "tol": 1e-6, "random_state": 0}
    given |= {"hidden_layer_sizes": ()}  # where there is but one
    ours, theirs = NetworkClassifier(**given).fit(X, Y), MLPClassifier(**given).fit(X, Y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-3)
    assert ours.n_iter_ < 200
    assert abs(ours.loss_ - theirs.loss_) < 1e-6


def test_adaptive_rates_fall_until_training_ends():
    given = {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.5}
    given |= {"max_iter": 2000, "n_iter_no_change": 2, "tol": 1e-3, "random_state": 0}
    ours = NetworkClassifier((4,), **given).fit(X, Y)
    assert ours.n_iter_ < 2000
    scale = ours._optimizer_state["schedules"]["learning_rate"]["scale"]
    assert float(scale) * 0.5 <= 1e-6


def test_training_ends_when_the_loss_stands_still():
    ours = NetworkClassifier((4,), learning_rate_init=0.1, tol=1e-2, random_state=0).fit(X, Y)
    assert ours.n_iter_ == len(ours.loss_curve_) < 200
    with pytest.warns(ConvergenceWarning, match="max_iter=2 epochs are done"):
        NetworkClassifier((4,), max_iter=2).fit(X, Y)
