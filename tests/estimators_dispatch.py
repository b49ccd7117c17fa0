"""What tinynn.sklearn does with arrays that scikit-learn dispatches on: `python -m` with backends.

The first has to be here; others, its further devices, are tested where they are. In a Python of its
own, since SciPy reads SCIPY_ARRAY_API once, when it is first imported.
"""

import os
import pickle
import sys
import warnings

os.environ["SCIPY_ARRAY_API"] = "1"

import numpy as np
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_predict,
    cross_val_score,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

import backends
from tinynn.layers import BatchNorm, Dropout
from tinynn.sklearn import NetworkClassifier, NetworkRegressor

BOTH = (NetworkClassifier, NetworkRegressor)
# From 1.9 on there are checks of y elsewhere than X, and a StandardScaler of other arrays.
NEWEST = hasattr(estimator_checks, "NamespaceAndDevice")
SHORT = {"hidden_layer_sizes": (8,), "max_iter": 5, "tol": None, "random_state": 0}


def passes_the_checks(home: backends.Backend) -> None:
    """scikit-learn's own, with weights, and with y elsewhere than X."""
    library, _, device = repr(home).partition(":")
    place = None if library in ("numpy", "cupy") else device  # None: the current device
    if not NEWEST:
        for kind in BOTH:
            estimator_checks.check_array_api_input(kind.__name__, kind(**SHORT), library)
        return
    there = estimator_checks.NamespaceAndDevice(library, place)
    host = estimator_checks.NamespaceAndDevice("numpy", None)
    for kind in BOTH:
        estimator, name = kind(**SHORT), kind.__name__
        for weighs in (False, True):
            estimator_checks.check_array_api_input(
                name, estimator, library, place, "float64", check_sample_weight=weighs
            )
        for X_at, other in ((there, host), (host, there)):
            estimator_checks.check_array_api_mixed_inputs(
                name, estimator, X_ns_and_device=X_at, other_ns_and_device=other
            )
        if library != "numpy":
            estimator_checks.check_array_api_same_namespace(name, estimator, library, place)


def stays_where_x_is(home: backends.Backend) -> None:
    """Pipelines, scores, searches and splits; the numbers are those of NumPy."""
    X, y = make_classification(60, 6, n_informative=4, n_classes=3, random_state=0)
    x, labels = home.asarray(X), home.asarray(y)
    for sizes in [(8,), [BatchNorm(), 8, Dropout(0.1)]]:
        net = NetworkClassifier(sizes, max_iter=5, tol=None, random_state=0, batch_size=16)
        pipe = make_pipeline(StandardScaler(), net)
        expected = clone(pipe).fit(X, y).predict_proba(X)
        with config_context(array_api_dispatch=True):
            pipe.fit(x, labels)
            chances, answers = pipe.predict_proba(x), pipe.predict(x)
            assert backends.of(chances, answers, *net.coefs_, net.classes_) == home
            np.testing.assert_allclose(home.to_host(chances), expected, rtol=1e-8)
            for scoring in ("accuracy", "neg_log_loss", "f1_macro"):
                assert np.isfinite(cross_val_score(pipe, x, labels, scoring=scoring, cv=2)).all()
            assert backends.of(cross_val_predict(pipe, x, labels, cv=2)) == home
            parts = train_test_split(x, labels, stratify=labels, random_state=0)
            assert pipe.fit(parts[0], parts[2]).score(parts[1], parts[3]) > 0.2
            scaled = pipe[0].transform(x)
            again = pickle.loads(pickle.dumps(pipe[-1]))  # a scaler's arrays not all libraries can
            assert backends.of(again.classes_, again.predict(scaled)) == home
    grid = {"networkclassifier__alpha": [0.0, 0.1]}
    with config_context(array_api_dispatch=True):
        found = GridSearchCV(pipe, grid, cv=2).fit(x, labels)
        assert backends.of(found.predict(x)) == home
        numbers = NetworkRegressor(**SHORT).fit(x, x[:, 0])
        assert isinstance(r2_score(x[:, 0], numbers.predict(x)), float)


def answers_and_moves(home: backends.Backend) -> None:
    """Texts as labels, several columns, and models that move."""
    X, y = make_classification(60, 6, n_informative=4, n_classes=3, random_state=0)
    x, texts = home.asarray(X), np.asarray(["a", "b", "c"])[y]
    with config_context(array_api_dispatch=True):
        model = NetworkClassifier(**SHORT, class_weight="balanced").fit(x, texts)
        assert accuracy_score(texts, model.predict(x)) > 0.2
        columns = home.xp.stack([home.asarray(y), home.asarray(y % 2)], axis=1)
        several = NetworkClassifier(**SHORT).fit(x, columns)
        assert backends.of(several.predict(x), *several.predict_proba(x)) == home
        moved = model.to("numpy")
        np.testing.assert_allclose(
            moved.decision_function(X), home.to_host(model.decision_function(x)), rtol=1e-8
        )
        numbers = NetworkClassifier(**SHORT).fit(x, home.asarray(y)).to("numpy")
        assert isinstance(numbers.predict(X), np.ndarray)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for spec in sys.argv[1:]:
        try:
            target = backends.get(spec)
        except backends.BackendUnavailable:  # a second device
            if spec == sys.argv[1]:
                raise
            continue
        with target.scope():
            passes_the_checks(target)
            if NEWEST:
                stays_where_x_is(target)
                answers_and_moves(target)
