"""tinynn.sklearn under scikit-learn's own callbacks."""

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.9", reason="needs scikit-learn 1.9, with callbacks")

from sklearn import config_context
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tinynn.sklearn import NetworkClassifier, NetworkRegressor

X, Y = make_classification(60, 6, n_informative=4, n_classes=3, random_state=0)
TEXTS = np.asarray(["low", "middle", "high"])[Y]
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 4, "tol": None, "random_state": 0}


class Recorder:
    """Keeps the calls of its hooks; asks `fit` to stop after so many epochs."""

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def setup(self, estimator, context):
        self.calls.append(("setup", context.task_name, context.max_subtasks))

    def on_fit_task_begin(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.calls.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.calls.append(("end", context.task_name, context.task_id))
        self.last = X, y, metadata, fitted_estimator
        if context.task_name == "epoch":
            return context.task_id + 1 == self.stop_after
        return None

    def teardown(self, estimator, context):
        self.calls.append(("teardown", context.task_name, None))


def test_each_epoch_is_a_task():
    seen = Recorder()
    NetworkClassifier(**QUICK).set_callbacks(seen).fit(X, Y)
    epochs = [(when, "epoch", i) for i in range(4) for when in ("begin", "end")]
    assert seen.calls == [
        *[("setup", "fit", 4), ("begin", "fit", 0)],
        *epochs,
        *[("end", "fit", 0), ("teardown", "fit", None)],
    ]


def test_a_callback_ends_training():
    seen = Recorder(stop_after=2)
    model = NetworkClassifier(**QUICK).set_callbacks(seen).fit(X, Y)
    assert model.n_iter_ == 2
    assert [call for call in seen.calls if call[1] == "epoch"][-1] == ("end", "epoch", 1)


def test_hooks_are_told_what_fit_was_given():
    seen, weights = Recorder(), np.linspace(1, 2, len(Y))
    model = NetworkRegressor(**QUICK).set_callbacks(seen)
    model.fit(X, X[:, 0], sample_weight=weights)
    x, y, metadata, twin = seen.last
    assert x is X
    np.testing.assert_array_equal(y, X[:, 0])
    assert metadata["sample_weight"] is weights
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))
    assert twin.loss_curve_ == model.loss_curve_


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_scores_of_each_epoch(solver):
    """The score after k epochs is that of an estimator which was trained for so many."""
    frames = pytest.importorskip("pandas")
    frame = frames.DataFrame(X, columns=list("abcdef"))
    monitor = ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    given = {**QUICK, "solver": solver, "warm_start": True}
    model = NetworkClassifier(**given).set_callbacks(monitor)
    for _ in range(2):  # the second time there is a fitted model already
        model.fit(frame, TEXTS)
        rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
        assert [row["task_id"] for row in rows] == [0, 1, 2, 3]
        assert rows[-1]["accuracy"] == model.score(frame, TEXTS)
    short = NetworkClassifier(**{**given, "max_iter": 6, "warm_start": False}).fit(frame, TEXTS)
    assert rows[1]["accuracy"] == short.score(frame, TEXTS)
    assert len({row["neg_log_loss"] for row in rows}) == 4


def test_progress_of_a_search_reaches_the_network(capsys):
    pipe = make_pipeline(StandardScaler(), NetworkClassifier(**QUICK))
    grid = {"networkclassifier__alpha": [0.0, 0.1]}
    search = GridSearchCV(pipe, grid, cv=2).set_callbacks(ProgressBar(max_propagation_depth=None))
    search.fit(X, Y)
    assert "NetworkClassifier - fit" in capsys.readouterr().out


def test_callbacks_are_torn_down_after_an_error():
    seen = Recorder()
    model = NetworkClassifier(**QUICK, network=lambda x: x).set_callbacks(seen)
    with pytest.raises(ValueError, match="network"):
        model.fit(X, Y)
    model = NetworkClassifier(**{**QUICK, "alpha": 0}, class_weight={7: 1}).set_callbacks(seen)
    with pytest.raises(ValueError, match="class_weight"):
        model.fit(X, Y)
    assert [call[0] for call in seen.calls] == ["setup", "begin", "teardown"]
    assert not hasattr(model, "_callback_fit_ctx")


def test_metadata_reaches_the_scorer():
    monitor = ScoringMonitor(scoring="accuracy")
    with config_context(enable_metadata_routing=True):
        model = NetworkClassifier(**QUICK).set_fit_request(sample_weight=True)
        model.set_callbacks(monitor).fit(X, Y)
    assert len(monitor.get_logs().data) == 5
