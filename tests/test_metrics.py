"""tinynn.metrics: numbers beside scikit-learn's, batches of any size, tasks, names and errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.checks import assert_close
from tinynn import config, metrics
from tinynn.functional import log_softmax
from tinynn.layers import Linear, Sequential
from tinynn.losses import (
    BinaryCrossEntropy,
    GaussianNLL,
    Hinge,
    MulticlassHinge,
    NegativeLogLikelihood,
    Poisson,
    Quantile,
    SoftmaxCrossEntropy,
    SoftmaxFocal,
    SquaredError,
    Triplet,
)
from tinynn.metrics import (
    F1,
    R2,
    ROCAUC,
    Accuracy,
    AveragePrecision,
    BalancedAccuracy,
    CohenKappa,
    ConfusionMatrix,
    IntervalCoverage,
    LogLoss,
    MatthewsCorrelation,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MedianAbsoluteError,
    Metric,
    Perplexity,
    Precision,
    Recall,
    RootMeanSquaredError,
    TopKAccuracy,
)
from tinynn.training import EarlyStopping, fit, load

X = np.random.RandomState(0).randn(20, 3)
DRAW = np.random.default_rng(3)
LOGITS = DRAW.normal(size=(40, 5))
LABELS = DRAW.integers(0, 4, size=40)  # class 4 occurs in answers at most
TIED = np.round(LOGITS, 0) + 0.25  # ties
BITS = (DRAW.uniform(size=(40, 5)) < 0.4).astype(int)
NUMBERS = LOGITS + DRAW.normal(size=(40, 5))
WEIGHT = DRAW.uniform(size=40) * DRAW.integers(0, 2, size=40)
OF_CLASSES = (Accuracy(), Precision(), Recall(), F1(), LogLoss())
RANKED = (Perplexity(), ROCAUC(), AveragePrecision(), F1(average="micro"),
          Precision(average="weighted"))  # fmt: skip
OF_COUNTS = (ConfusionMatrix(), BalancedAccuracy(), MatthewsCorrelation(), CohenKappa(),
             ConfusionMatrix(normalize="true"))  # fmt: skip
OF_NUMBERS = (MeanAbsoluteError(), MeanSquaredError(), R2(), RootMeanSquaredError(),
              MedianAbsoluteError(), MeanAbsolutePercentageError())  # fmt: skip
TASKS: dict[str, tuple[Any, Any, Any, tuple[Metric, ...]]] = {
    "multiclass": (
        SoftmaxCrossEntropy(),
        LOGITS,
        LABELS,
        (*OF_CLASSES, *RANKED, *OF_COUNTS, TopKAccuracy(k=2)),
    ),
    "one-hot": (SoftmaxCrossEntropy(), LOGITS, np.eye(5, dtype=int)[LABELS], OF_CLASSES),
    "binary": (BinaryCrossEntropy(), TIED[:, :1], BITS[:, 0], (*OF_CLASSES, *RANKED, *OF_COUNTS)),
    "booleans": (BinaryCrossEntropy(), LOGITS[:, 0], BITS[:, :1] == 1, OF_CLASSES),
    "multilabel": (BinaryCrossEntropy(), TIED, BITS, (*OF_CLASSES, *RANKED)),
    "numbers": (SquaredError(), LOGITS, NUMBERS, OF_NUMBERS),
    "a number": (SquaredError(), LOGITS[:, :1], NUMBERS[:, 0], OF_NUMBERS),
}
CASES = [(task, metric) for task, row in TASKS.items() for metric in row[3]]


def placed(task: str, metric: Metric, backend: Backend, dtype: str) -> tuple[Any, Any, Any, Any]:
    """The metric prepared for its task, predictions, targets and weights on the backend."""
    loss, p, t, _ = TASKS[task]
    prediction = backend.asarray(p, dtype=dtype)
    target = backend.asarray(t, dtype=dtype if t.dtype.kind == "f" else None)
    weight = backend.asarray(WEIGHT, dtype=dtype)
    ready: Any = metrics.prepare(metric, loss, prediction[:7, ...], target)
    return ready, prediction, target, weight


def by_hand(task: str, metric: Metric, weight: Any) -> Any:
    """scikit-learn's number, or what it is by definition."""
    from sklearn import metrics as sk

    _, p, t, _ = TASKS[task]
    if task == "one-hot":
        t = np.argmax(t, axis=1)
    elif t.size == p.size:
        t = np.reshape(t, p.shape)
    settings: dict[str, Any] = {"sample_weight": weight}
    if task in ("numbers", "a number"):
        functions = {
            R2: sk.r2_score,
            MeanAbsoluteError: sk.mean_absolute_error,
            RootMeanSquaredError: sk.root_mean_squared_error,
            MedianAbsoluteError: sk.median_absolute_error,
            MeanAbsolutePercentageError: sk.mean_absolute_percentage_error,
        }
        return float(functions.get(type(metric), sk.mean_squared_error)(t, p, **settings))
    if isinstance(metric, Perplexity):
        return float(np.exp(by_hand(task, LogLoss(), weight)))
    ranking = {ROCAUC: sk.roc_auc_score, AveragePrecision: sk.average_precision_score}
    if task in ("multiclass", "one-hot"):
        shares = np.exp(p) / np.exp(p).sum(axis=1, keepdims=True)
        if type(metric) in ranking:  # of each class that occurs
            rank = ranking[type(metric)]
            return np.mean([rank(t == c, shares[:, c], **settings) for c in range(4)])
        if isinstance(metric, TopKAccuracy):
            return float(sk.top_k_accuracy_score(t, p, k=2, labels=range(5), **settings))
        if isinstance(metric, LogLoss):
            return float(sk.log_loss(t, shares, labels=range(5), **settings))
        answers, average = np.argmax(p, axis=1), "macro"
    else:
        if isinstance(metric, LogLoss):
            values = np.logaddexp(0, p) - p * t
            values = values.reshape(40, -1).mean(axis=1)
            return float(np.average(values, weights=weight))
        answers = (p > 0).astype(int)
        t, average = t.astype(int), "macro" if task == "multilabel" else "binary"
        if average == "binary":
            t, answers, p = t.ravel(), answers.ravel(), p.ravel()
        if type(metric) in ranking:
            return float(ranking[type(metric)](t, p, **settings))
    if isinstance(metric, ConfusionMatrix):
        labels = np.arange(2 if average == "binary" else 5)
        normal = metric.normalize
        return sk.confusion_matrix(t, answers, labels=labels, normalize=normal, **settings)
    counts: Any = {
        BalancedAccuracy: sk.balanced_accuracy_score,
        MatthewsCorrelation: sk.matthews_corrcoef,
        CohenKappa: sk.cohen_kappa_score,
    }
    if type(metric) in counts:
        return float(counts[type(metric)](t, answers, **settings))
    if average != "binary":
        average = getattr(metric, "average", average)
    if isinstance(metric, Accuracy):
        if task == "multilabel":
            return float(1 - sk.hamming_loss(t, answers, **settings))
        return float(sk.accuracy_score(t, answers, **settings))
    function = {Precision: sk.precision_score, Recall: sk.recall_score, F1: sk.f1_score}
    return float(function[type(metric)](t, answers, average=average, zero_division=0, **settings))


@pytest.mark.only("numpy")
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize(("task", "metric"), CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_are_those_of_scikit_learn(
    task: str, metric: Metric, weighted: bool, backend: Backend
) -> None:
    ready, prediction, target, weight = placed(task, metric, backend, "float64")
    weight = weight if weighted else None
    found = ready(prediction, target, weight)
    assert_close(found, by_hand(task, metric, weight), backend, rtol=1e-12)


@pytest.mark.parametrize(("task", "metric"), CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_are_those_of_numpy_in_batches_of_any_size(
    task: str, metric: Metric, weighted: bool, backend: Backend
) -> None:
    ready, prediction, target, weight = placed(task, metric, backend, "float32")
    rest = (weight,) if weighted else ()
    expected = metrics.prepare(metric, *TASKS[task][:3])(*TASKS[task][1:3], *[WEIGHT] * len(rest))
    assert_close(ready(prediction, target, *rest), expected, backend, rtol=1e-5)
    state = ready.init(prediction, target, *rest)
    for start in range(0, 40, 13):  # the last is a batch of one
        rows = slice(start, min(start + 13, 40))
        state = ready.update(state, *(a[rows, ...] for a in (prediction, target, *rest)))
    assert_close(ready.compute(state), expected, backend, rtol=1e-5)


@pytest.mark.parametrize(("task", "metric"), CASES)
def test_states_of_parts_merge(task: str, metric: Metric, backend: Backend) -> None:
    ready, prediction, target, weight = placed(task, metric, backend, "float32")
    parts = [
        ready.measure(prediction[rows, ...], target[rows, ...], weight[rows])
        for rows in (slice(0, 11), slice(11, 40))
    ]
    whole = backend.to_host(ready(prediction, target, weight))
    for first, second in (parts, parts[::-1]):
        assert_close(ready.compute(ready.merge(first, second)), whole, backend, rtol=1e-5)


@pytest.mark.parametrize(("task", "metric"), CASES)
def test_weights_of_zero_alone_give_no_number_at_all(
    task: str, metric: Metric, backend: Backend
) -> None:
    ready, prediction, target, weight = placed(task, metric, backend, "float32")
    # No error of nothing that varies, and the power of no mean at all.
    expected = np.nan if isinstance(metric, ROCAUC) else float(isinstance(metric, R2 | Perplexity))
    nothing = backend.xp.zeros_like(weight)
    found = ready(prediction, target, nothing)
    assert_close(found, np.full(tuple(found.shape), expected), backend)


def test_r2_of_targets_far_from_zero(backend: Backend) -> None:
    # Sums of squares would lose every digit: 1e5 ** 2 is 1e10, the deviations are about 1.
    target = (1e5 + np.round(8 * DRAW.normal(size=200)) / 8).astype("float32")
    prediction = target + np.asarray([0.25, -0.25] * 100, dtype="float32")
    exact = target.astype(float)
    expected = 1 - 200 / 16 / ((exact - exact.mean()) ** 2).sum()
    p, t = backend.asarray(prediction), backend.asarray(target)
    assert_close(R2()(p, t), expected, backend, rtol=1e-4)
    state = R2().init(p, t)
    for start in range(0, 200, 3):
        rows = slice(start, min(start + 3, 200))
        state = R2().update(state, p[rows], t[rows])
    assert_close(R2().compute(state), expected, backend, rtol=1e-4)


def test_r2_of_a_constant_target(backend: Backend) -> None:
    target = backend.asarray(np.full(10, 0.1), dtype="float32")
    assert_close(R2()(target, target), 1.0, backend)
    assert_close(R2()(backend.xp.add(target, 1.0), target), 0.0, backend)


def test_accuracy_counts_each_of_several_labels(backend: Backend) -> None:
    scores = backend.asarray(np.asarray([[2.0, 1.0], [-1.0, -2.0]], dtype="float32"))
    for dtype in (int, bool, "float32"):
        labels = backend.asarray(np.asarray([[1, 1], [0, 1]]).astype(dtype))
        metric: Any = metrics.prepare("accuracy", BinaryCrossEntropy(), scores, labels)
        assert_close(metric(scores, labels), 0.75, backend)


def test_equal_outputs_count_the_first_first(backend: Backend) -> None:
    scores = backend.asarray(np.zeros((4, 4)), dtype="float32")
    labels = backend.asarray([0, 1, 2, 3])
    assert_close(TopKAccuracy(1)(scores, labels), 0.25, backend)
    assert_close(TopKAccuracy(3)(scores, labels), 0.75, backend)
    assert_close(Accuracy()(scores, labels), 0.25, backend)


def test_log_loss_is_told_by_the_loss(backend: Backend) -> None:
    p = backend.asarray(LOGITS, dtype="float32")
    t = backend.asarray(LABELS)
    expected = backend.to_host(SoftmaxCrossEntropy()(p, t))
    weighed = SoftmaxCrossEntropy(class_weight={0: 9.0}, label_smoothing=0.3, reduction="sum")
    for loss, given in ((weighed, p), (NegativeLogLikelihood(), log_softmax(p))):
        metric: Any = metrics.prepare("log_loss", loss, given, t)
        assert_close(metric(given, t), expected, backend, rtol=1e-5)
    with pytest.raises(ValueError, match="to be told the loss"):
        LogLoss()(p, t)


# What a metric is for.


@pytest.mark.parametrize("metric", [*OF_CLASSES, TopKAccuracy(2)])
def test_metrics_of_classes_are_refused_for_numbers(metric: Metric) -> None:
    message = r'SquaredError\(\), under which .* regression task. To fix it: use "r2"'
    with pytest.raises(ValueError, match=message):
        metrics.prepare(metric, SquaredError(), LOGITS, NUMBERS)


@pytest.mark.parametrize("metric", OF_NUMBERS)
def test_metrics_of_numbers_are_refused_for_classes(metric: Metric) -> None:
    for task, kind in (("multiclass", "multiclass"), ("binary", "binary")):
        with pytest.raises(ValueError, match=rf'a {kind} task. To fix it: use "accuracy"'):
            metrics.prepare(metric, *TASKS[task][:3])


def own_loss(prediction: Any, target: Any) -> Any:
    return (prediction - target) ** 2


def test_a_metric_is_told_where_the_loss_does_not_say() -> None:
    assert metrics.prepare("accuracy", own_loss, LOGITS, LABELS) == Accuracy(task="multiclass")
    assert metrics.prepare("r2", own_loss, LOGITS, NUMBERS) == R2()
    for p, t in ((LOGITS, BITS), (LOGITS[:, 0], BITS[:, 0]), (LOGITS, NUMBERS)):
        with pytest.raises(ValueError, match=r"To fix it: F1\(task='multiclass'\), or 'binary'"):
            metrics.prepare("f1", own_loss, p, t)
    with pytest.raises(ValueError, match=r"To fix it: Accuracy\(task="):
        Accuracy()(LOGITS[:, 0], BITS[:, 0])
    told = Accuracy(task="binary", threshold=0.5)
    shares = 1 / (1 + np.exp(-LOGITS[:, 0]))
    expected = ((LOGITS[:, 0] > 0) == BITS[:, 0]).mean()
    for loss in (own_loss, SquaredError()):  # a regression on 0 and 1 may be asked for
        assert metrics.prepare(told, loss, shares, BITS[:, 0]) == told
    assert told(shares, BITS[:, 0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "target", "message"),
    [
        (Accuracy(task="multiclass"), BITS[:, :2], r"of shape \(1,\) or \(1, 5\) .* got \(1, 2\)"),
        (Accuracy(task="multiclass"), LABELS * 1.0, "expected integer labels, got float64"),
        (F1(task="multilabel", threshold=0.0), LABELS, r"shape \(1, 5\) or .* got \(1,\)"),
        (TopKAccuracy(5), LABELS, "expected k below 5"),
        (R2(), NUMBERS[:, 0], r"shape \(1, 5\)"),
        (MeanAbsoluteError(), NUMBERS[:, 0], r"shape \(1, 5\)"),
    ],
)
def test_targets_that_do_not_fit(metric: Metric, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.prepare(metric, own_loss, LOGITS, target)


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="task to be None or one of binary, multiclass, multilab"):
        Accuracy(task="classes")
    with pytest.raises(ValueError, match=r"average to be one of macro, micro, weighted"):
        F1(average="mean")
    with pytest.raises(ValueError, match='normalize to be None, "true", "pred" or "all"'):
        ConfusionMatrix(normalize="rows")
    with pytest.raises(ValueError, match="k to be a whole number of 1 or more"):
        TopKAccuracy(0)


def test_metrics_of_numbers_measure_what_predictions_stand_for(backend: Backend) -> None:
    logs, counts = backend.asarray(LOGITS, "float32"), backend.asarray(BITS)
    expected = np.abs(np.exp(LOGITS) - BITS).mean()
    metric: Any = metrics.prepare("mae", Poisson(), logs, counts)
    assert_close(metric(logs, counts), expected, backend, rtol=1e-5)
    means: Any = metrics.prepare("rmse", GaussianNLL(), logs[:, :4], counts[:, :2])
    expected = np.sqrt(((LOGITS[:, :2] - BITS[:, :2]) ** 2).mean(axis=0)).mean()
    assert_close(means(logs[:, :4], counts[:, :2]), expected, backend, rtol=1e-5)


def test_interval_coverage(backend: Backend) -> None:
    ends = backend.asarray([[0.0, 1.0], [0.0, 1.0], [1.0, 2.0], [3.0, 2.0]], "float32")
    target = backend.asarray([0.5, 2.0, 1.0, 2.5], "float32")
    loss = Quantile((0.1, 0.9))
    metric: Any = metrics.prepare("interval_coverage", loss, ends, target)
    assert_close(metric(ends, target), 0.5, backend)
    weight = backend.asarray([1.0, 1.0, 2.0, 0.0], "float32")
    assert_close(metric(ends, target, weight), 0.75, backend)
    with pytest.raises(ValueError, match=r'quantiles task. To fix it: use "interval_coverage"'):
        metrics.prepare("mae", loss, ends, target)
    with pytest.raises(ValueError, match="to be told the quantiles"):
        IntervalCoverage()(ends, target)


def test_log_loss_of_focal_losses_and_hinges() -> None:
    wanted = metrics.prepare("log_loss", SoftmaxCrossEntropy(), LOGITS, LABELS)
    for loss in (SoftmaxFocal(class_weight={0: 2.0}), SoftmaxCrossEntropy(label_smoothing=0.1)):
        assert metrics.prepare("log_loss", loss, LOGITS, LABELS) == wanted
    for name in ("log_loss", "perplexity"):
        with pytest.raises(ValueError, match="a loss that knows probabilities, got Hinge"):
            metrics.prepare(name, Hinge(), LOGITS, BITS)
    ranked = metrics.prepare("roc_auc", MulticlassHinge(), LOGITS, LABELS)
    assert 0 < float(ranked(LOGITS, LABELS)) < 1
    with pytest.raises(ValueError, match=r"embedding task. To fix it: leave it out"):
        metrics.prepare("accuracy", Triplet(), LOGITS, LABELS)


# Functions.


def test_functions_are_tried(backend: Backend) -> None:
    p = backend.asarray(LOGITS, dtype="float32")
    t = backend.asarray(NUMBERS, dtype="float32")

    def spread(prediction: Any, target: Any) -> Any:
        return backend.xp.max(backend.xp.abs(prediction - target))

    assert metrics.prepare(spread, own_loss, p[:7, ...], t) is spread
    assert metrics.direction(spread) is None
    assert metrics.name_of(spread) == "spread"
    with pytest.raises(TypeError, match=r"own_loss: expected a 0-d array of .*shape \(40, 5\) on"):
        metrics.prepare(own_loss, own_loss, p, t)
    with pytest.raises(TypeError, match=r"got 0.5 \(float\). To fix it: write a function of"):
        metrics.prepare(lambda prediction, target: 0.5, own_loss, p, t)
    with pytest.raises(TypeError, match=r"two arrays of .*, got ZeroDivisionError: division by"):
        metrics.prepare(lambda prediction, target: 1 / 0, own_loss, p, t)


@pytest.mark.only("numpy")
def test_functions_of_scikit_learn_are_refused(backend: Backend) -> None:
    from sklearn.metrics import accuracy_score

    message = r"metrics: accuracy_score: .* got one of \(y_true, y_pred\), the other way round. To"
    with pytest.raises(TypeError, match=message):
        metrics.prepare(accuracy_score, SoftmaxCrossEntropy(), LOGITS, LABELS)


# Names.


class Named:
    """A metric of that name."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, prediction: Any, target: Any) -> Any:
        return Accuracy()(prediction, target)


def test_metrics_of_one_name_are_refused() -> None:
    labels = np.arange(20) % 2
    for given in ([Accuracy(), Accuracy(threshold=0.5)], [Named("loss")], [Named("epoch")]):
        with pytest.raises(ValueError, match="metrics: expected names of their own"):
            fit(Linear(2), X, labels, metrics=given)
    model = fit(Linear(2), X, labels, epochs=1, metrics=[Accuracy(), Accuracy(name="again")])
    assert model.history["accuracy"] == model.history["again"]


def test_names_are_called_as_they_were_typed() -> None:
    assert {metrics.name_of(metrics.get(name)) for name in metrics.NAMES} == set(metrics.NAMES)
    assert metrics.name_of(TopKAccuracy(3)) == "top_3_accuracy"
    assert metrics.get("mae") == MeanAbsoluteError(name="mae")
    message = "metrics: expected one of accuracy, .* got 'acuracy'. To fix it: did you mean 'accur"
    with pytest.raises(ValueError, match=message):
        metrics.get("acuracy")
    with pytest.raises(ValueError, match=r"got 'acc'\. To fix it: did you mean 'accuracy'"):
        metrics.get("acc")
    for wrong in (Accuracy, 3, None):
        with pytest.raises(
            TypeError, match=r"metrics: expected one of .* such as Accuracy\(\), or"
        ):
            metrics.get(wrong)


def test_directions() -> None:
    better = {name for name in metrics.NAMES if metrics.direction(name)}
    assert better == {
        "accuracy", "top_k_accuracy", "precision", "recall", "f1", "r2", "balanced_accuracy",
        "matthews_correlation", "cohen_kappa", "roc_auc", "average_precision",
    }  # fmt: skip
    unknown = {name for name in metrics.NAMES if metrics.direction(name) is None}
    assert unknown == {"confusion_matrix", "interval_coverage"}
    assert metrics.direction("loss") is False
    assert metrics.direction("quality") is None
    assert metrics.direction(F1()) is True


@pytest.mark.parametrize(("task", "metric"), CASES)
def test_description_round_trip(task: str, metric: Metric) -> None:
    ready = metrics.prepare(metric, *TASKS[task][:3])
    described = json.loads(json.dumps(config.to_config(ready, metrics.KNOWN)))
    assert config.from_config(described, metrics.KNOWN) == ready


# In training.


@pytest.mark.reads_scalars  # fit looks at the targets
def test_accuracy_of_integer_labels_that_do_not_exclude_each_other(backend: Backend) -> None:
    x = backend.asarray(X, dtype="float32")
    bits = (X @ np.asarray([[1.0, 0, 1], [0, 1, 1], [1, -1, 0]]) > 0).astype(int)
    options: dict[str, Any] = {"loss": BinaryCrossEntropy(), "metrics": ["accuracy"], "epochs": 5}
    model = fit(Linear(3), x, backend.asarray(bits), **options)
    expected = ((backend.to_host(model.predict(x)) > 0) == bits).mean()
    assert model.history["accuracy"][-1] == pytest.approx(expected)


@pytest.mark.reads_scalars
def test_a_matrix_in_histories(backend: Backend, tmp_path: Path) -> None:
    x, labels = backend.asarray(X, "float32"), backend.asarray(np.arange(20) % 3)
    measured = ["confusion_matrix", "roc_auc"]
    model = fit(Linear(3), x, labels, epochs=2, metrics=measured, progress=True, engine="eager")
    matrix = model.history["confusion_matrix"][-1]
    assert np.sum(matrix, axis=1).tolist() == [7, 7, 6]
    assert model.evaluate(x, labels)["confusion_matrix"] == matrix
    assert "roc auc" in repr(model).replace("_", " ")
    assert "matrix" not in repr(model)
    model.save(tmp_path / "model.tinynn")
    assert load(tmp_path / "model.tinynn", backend).history == model.history
    for mode, message in ((None, "that does not say"), ("max", "to be a single number")):
        stopping = EarlyStopping("confusion_matrix", mode=mode)
        with pytest.raises(ValueError, match=message):
            fit(Linear(3), x, labels, epochs=2, metrics=measured, callbacks=[stopping])


def test_accuracy_of_a_regression_is_refused() -> None:
    with pytest.raises(ValueError, match='To fix it: use "r2"'):
        fit(Linear(1), X, X[:, 0], metrics=["accuracy"])


@pytest.mark.reads_scalars  # the losses look at the targets
def test_a_column_of_targets_for_a_vector_of_predictions(backend: Backend) -> None:
    net = Sequential(Linear(1), lambda x: x[:, 0])
    given, target = backend.asarray(X, "float32"), backend.asarray(X[:, 0], "float32")
    model = fit(net, given, target, epochs=5, metrics=["r2"])
    column = backend.xp.reshape(target, (-1, 1))
    assert model.evaluate(given, column) == model.evaluate(given, target)
