"""Searches over estimators on joblib's other backends: Dask's and Ray's processes.

    nox -s search_backends

Not part of the suite, since both take long to start: pytest collects it where it is named.
"""

import os

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.sample_estimators import accuracy_and_process
from tinynn.layers import Dropout
from tinynn.sklearn import NetworkClassifier

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the other libraries
X, Y = make_classification(120, 6, n_informative=4, n_classes=3, random_state=0)


def searched(**given):
    """A search over networks, text labels and all; its best network is fitted in the end."""
    net = NetworkClassifier(max_iter=30, tol=None, learning_rate_init=0.05, random_state=0)
    grid = {"networkclassifier__hidden_layer_sizes": [(2,), [Dropout(0.1), 16], (16, 8)]}
    search = GridSearchCV(
        make_pipeline(StandardScaler(), net),
        grid,
        scoring=accuracy_and_process,
        refit="accuracy",
        cv=2,
        **given,
    )
    return search.fit(X, np.asarray(["low", "middle", "high"])[Y])


def check(search):
    """Other processes did the work, and found what this one finds."""
    alone = searched()
    found, expected = search.cv_results_, alone.cv_results_
    for fold in range(2):
        key = f"split{fold}_test_"
        np.testing.assert_array_equal(found[f"{key}accuracy"], expected[f"{key}accuracy"])
        assert os.getpid() not in found[f"{key}process"]
        assert set(expected[f"{key}process"]) == {os.getpid()}
    assert search.best_params_ == alone.best_params_
    np.testing.assert_array_equal(search.predict_proba(X), alone.predict_proba(X))
    return {process for fold in range(2) for process in found[f"split{fold}_test_process"]}


def test_loky():
    check(searched(n_jobs=2))


def test_dask():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        workers = set(client.run(os.getpid).values())
        with joblib.parallel_config("dask"):
            search = searched(n_jobs=-1)
        assert check(search) <= workers


def test_ray():
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        register_ray()
        with joblib.parallel_config("ray"):
            search = searched(n_jobs=2)
        check(search)
    finally:
        ray.shutdown()
