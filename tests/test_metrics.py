"""What models are measured by: labels and targets of several forms, names."""

from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.checks import assert_close
from tinynn.layers import Linear, Sequential
from tinynn.training import Accuracy, accuracy, fit

X = np.random.RandomState(0).randn(20, 3)


class Named:
    """A metric of that name."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, prediction: Any, target: Any) -> Any:
        return accuracy(prediction, target)


def test_accuracy_of_several_labels_each(backend: Backend) -> None:
    scores = backend.asarray(np.asarray([[2.0, 1.0], [-1.0, -2.0]], dtype="float32"))
    labels = backend.asarray(np.asarray([[True, True], [False, True]]))
    assert_close(accuracy(scores, labels), 0.75, backend, dtype="float32")


def test_metrics_of_one_name_are_refused() -> None:
    labels = np.arange(20) % 2
    for metrics in ([Accuracy(0.0), Accuracy(0.5)], [Named("loss")], [Named("epoch")]):
        with pytest.raises(ValueError, match="metrics: expected names of their own"):
            fit(Linear(2), X, labels, metrics=metrics)


def test_a_column_of_targets_for_a_vector_of_predictions(backend: Backend) -> None:
    net = Sequential(Linear(1), lambda x: x[:, 0])
    given, target = backend.asarray(X, "float32"), backend.asarray(X[:, 0], "float32")
    model = fit(net, given, target, epochs=5, metrics=["r2"])
    column = backend.xp.reshape(target, (-1, 1))
    assert model.evaluate(given, column) == model.evaluate(given, target)
