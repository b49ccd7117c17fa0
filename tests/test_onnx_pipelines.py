"""skl2onnx writes pipelines that end in tinynn's estimators, and onnxruntime answers as they do."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")
pytest.importorskip("onnxruntime")

import onnxruntime
import skl2onnx
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tinynn
from tinynn.layers import BatchNorm, Dropout
from tinynn.onnx import OnnxError
from tinynn.sklearn import NetworkClassifier, NetworkRegressor, register_skl2onnx
from tinynn.trace import namespace

register_skl2onnx()
DRAW = np.random.default_rng(0)
X = (3 * DRAW.normal(size=(60, 4)) + 1).astype(np.float32)
NUMBERS = X[:, 0] - X[:, 1]
Y = np.digitize(NUMBERS, [-2, 2])
QUICK = {"max_iter": 5, "tol": None, "random_state": 0}
PLAIN = {"zipmap": False}


def pipeline(learner: Any, y: Any, x: Any = X) -> Any:
    return make_pipeline(StandardScaler(), learner).fit(x, y)


def converted(model: Any, x: Any = X, **given: Any) -> Any:
    blob = skl2onnx.to_onnx(model, x[:1], **given).SerializeToString()
    return onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])


def squares(outputs: Any, target: Any) -> Any:
    return namespace(outputs).mean(outputs * outputs)


def answers(runs: Any, x: Any) -> Any:
    return runs.run(None, {runs.get_inputs()[0].name: x})


LABELS = {
    "texts": np.asarray(["low", "middle", "high"])[Y],
    "two texts": np.where(Y > 1, "yes", "no").astype(object),
    "integers": Y * 5 - 5,
    "booleans": Y > 0,
    "one class": Y * 0 + 3,
    "labels": np.stack([Y > 0, NUMBERS > 0], axis=1).astype(int),
}


@pytest.mark.parametrize("kind", LABELS)
def test_classifiers(kind):
    sizes = [BatchNorm(), 8, Dropout(0.2), 5]
    model = pipeline(NetworkClassifier(sizes, **QUICK), LABELS[kind])
    runs = converted(model, options=PLAIN)
    assert [each.name for each in runs.get_outputs()] == ["label", "probabilities"]
    for rows in (1, 7, 256):
        x = (3 * DRAW.normal(size=(rows, 4)) + 1).astype(np.float32)
        label, chances = answers(runs, x)
        expected = model.predict(x)
        assert label.shape == expected.shape
        np.testing.assert_array_equal(label, expected)
        np.testing.assert_allclose(chances, model.predict_proba(x), atol=1e-5)


@pytest.mark.parametrize("loss", [None, "poisson"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_regressors(loss, outputs):
    y = np.abs(X[:, 0]) if outputs == 1 else np.abs(X[:, :2])
    model = pipeline(NetworkRegressor((8,), loss=loss, **QUICK), y)
    runs = converted(model)
    assert [each.name for each in runs.get_outputs()] == ["variable"]
    for rows in (1, 7, 256):
        x = (3 * DRAW.normal(size=(rows, 4)) + 1).astype(np.float32)
        (found,) = answers(runs, x)
        np.testing.assert_allclose(found, model.predict(x).reshape(rows, -1), atol=1e-5, rtol=1e-5)


def test_options_of_skl2onnx():
    model = pipeline(NetworkClassifier((8,), **QUICK), LABELS["texts"])
    chances = model.predict_proba(X)
    label, rows = answers(converted(model), X)
    assert label.tolist() == model.predict(X).tolist()
    found = [[row[name] for name in model.classes_] for row in rows]
    np.testing.assert_allclose(found, chances, atol=1e-5)
    _, *columns = answers(converted(model, options={"zipmap": "columns"}), X)
    np.testing.assert_allclose(np.stack(columns, axis=1), chances, atol=1e-5)
    named = converted(model, options={"zipmap": False, "nocl": True})
    assert model.classes_[answers(named, X)[0]].tolist() == label.tolist()
    told = converted(model, options={"zipmap": False, "output_class_labels": True})
    assert answers(told, X)[2].tolist() == model.classes_.tolist()


def test_dtypes_follow_the_input():
    double = X.astype(np.float64)
    model = pipeline(NetworkClassifier((8,), **QUICK), Y, double)
    _, chances = answers(converted(model, double, options=PLAIN), double)
    assert chances.dtype == np.float64
    np.testing.assert_allclose(chances, model.predict_proba(double), atol=1e-12)
    whole = X.round().astype(np.int64)
    alone = NetworkRegressor((8,), **QUICK).fit(whole, NUMBERS)
    (found,) = answers(converted(alone, whole), whole)
    np.testing.assert_allclose(found[:, 0], alone.predict(whole), atol=1e-4)


@pytest.mark.parametrize("kind", ["integers", "two texts"])
def test_the_file_comes_back_as_a_network(kind, tmp_path):
    model = pipeline(NetworkClassifier((8,), **QUICK), LABELS[kind])
    path = tmp_path / "pipe.onnx"
    path.write_bytes(skl2onnx.to_onnx(model, X[:1], options=PLAIN).SerializeToString())
    read = tinynn.from_onnx(path)
    np.testing.assert_allclose(read.predict(X), model.predict_proba(X), atol=1e-5)


def test_what_cannot_be_converted():
    several = NetworkClassifier((8,), **QUICK).fit(X, np.stack([Y, Y], axis=1))
    with pytest.raises(OnnxError, match=r"one column of classes, .* got several columns"):
        converted(several, options=PLAIN)
    told = NetworkClassifier((8,), loss=squares, **QUICK).fit(X, Y)
    with pytest.raises(OnnxError, match="a loss that knows probabilities"):
        converted(told, options=PLAIN)
    numbers = NetworkRegressor((8,), **QUICK).fit(X, NUMBERS)
    with pytest.raises(OnnxError, match="target_opset=21 or more, got 15"):
        converted(numbers, target_opset=15)
