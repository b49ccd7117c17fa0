"""Class weights from data, which loss suits the targets, and networks that end in an activation."""

import functools
from typing import Any

import numpy as np
import pytest

import backends
from tests.checks import assert_close
from tinynn import functional, losses
from tinynn.functional import relu, sigmoid, softmax
from tinynn.losses import (
    BinaryCrossEntropy,
    Huber,
    Loss,
    NegativeLogLikelihood,
    SoftmaxCrossEntropy,
    SquaredError,
)

pytestmark = pytest.mark.reads_scalars  # as every check before training

DRAW = np.random.default_rng(1)
LABELS = DRAW.choice(4, p=[0.6, 0.3, 0.1, 0.0], size=50)
COUNTS = np.bincount(LABELS, minlength=4)
BITS = (DRAW.uniform(size=(50, 3)) < 0.2).astype(int)
SAMPLE_WEIGHT = DRAW.uniform(size=50)


def logits(backend: backends.Backend, *shape: int) -> Any:
    return backend.asarray(np.random.default_rng(2).normal(size=shape), dtype="float32")


# Class weights.


@pytest.mark.parametrize("cls", [SoftmaxCrossEntropy, NegativeLogLikelihood])
def test_balanced_weights_of_labels_and_of_one_hot(cls: Any, backend: backends.Backend) -> None:
    loss, p = cls(class_weight="balanced", reduction="sum"), logits(backend, 2, 4)
    expected = tuple(50 / (3 * n) if n else 1.0 for n in COUNTS)
    hot = np.eye(4)[LABELS]
    for target in (LABELS, hot.astype(int), hot.astype("float32"), hot.astype(bool)):
        fitted = loss.fit_to(p, backend.asarray(target))
        assert fitted.class_weight == pytest.approx(expected, rel=1e-6)
        assert fitted.reduction == "sum"


def test_balanced_weights_of_zeros_and_ones(backend: backends.Backend) -> None:
    loss = BinaryCrossEntropy(class_weight="balanced")
    for target in (BITS, BITS.astype(bool), BITS.astype("float32"), BITS[:, :1], BITS[:, 0]):
        ones = int(target.sum())
        expected = (target.size / (2 * (target.size - ones)), target.size / (2 * ones))
        p = logits(backend, 2, target.shape[1] if target.ndim > 1 else 1)
        fitted = loss.fit_to(p, backend.asarray(target))
        assert fitted.class_weight == pytest.approx(expected, rel=1e-6)


def test_balanced_weights_count_sample_weight(backend: backends.Backend) -> None:
    target, weight = backend.asarray(LABELS), backend.asarray(SAMPLE_WEIGHT, dtype="float32")
    p = logits(backend, 2, 4)
    sums = np.bincount(LABELS, weights=SAMPLE_WEIGHT, minlength=4)
    expected = tuple(sums.sum() / (3 * s) if s else 1.0 for s in sums)
    fitted = SoftmaxCrossEntropy(class_weight="balanced").fit_to(p, target, weight)
    assert fitted.class_weight == pytest.approx(expected, rel=1e-5)


@pytest.mark.only("numpy")
def test_balanced_weights_are_those_of_scikit_learn(backend: backends.Backend) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    loss = SoftmaxCrossEntropy(class_weight="balanced")
    fitted = loss.fit_to(np.zeros((1, 3)), LABELS)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert fitted.class_weight == pytest.approx(tuple(expected))
    given = {0: 2.0, 2: 7.0}
    fitted = SoftmaxCrossEntropy(class_weight=given).fit_to(np.zeros((1, 3)), LABELS)
    assert fitted.class_weight == tuple(
        compute_class_weight({1: 1.0, **given}, classes=np.arange(3), y=LABELS)
    )


def test_balanced_weights_need_targets_that_fit(backend: backends.Backend) -> None:
    loss = SoftmaxCrossEntropy(class_weight="balanced")
    with pytest.raises(ValueError, match=r"labels from 0 to 1, as the network has 2 outputs"):
        loss.fit_to(logits(backend, 1, 2), backend.asarray(LABELS))
    with pytest.raises(ValueError, match=r"expected a target of shape \(50,\) or \(50, 4\)"):
        loss.fit_to(logits(backend, 1, 4), backend.asarray(LABELS[:, None]))


def test_a_mapping_counts_as_the_numbers(backend: backends.Backend) -> None:
    p, t = logits(backend, 50, 4), backend.asarray(LABELS)
    mapping = SoftmaxCrossEntropy(class_weight={np.int64(1): 10, 0: 0.5})
    numbers = SoftmaxCrossEntropy(class_weight=[0.5, 10.0, 1.0, 1.0])
    assert_close(mapping(p, t), backend.to_host(numbers(p, t)), backend)
    assert mapping.fit_to(p, t) == numbers
    named = SoftmaxCrossEntropy(class_weight={"b": 10, "a": 0.5})
    assert named.fit_to(p, t, classes=["a", "b", "c", "d"]) == numbers
    assert SoftmaxCrossEntropy(class_weight={}) == SoftmaxCrossEntropy()
    assert SquaredError().fit_to(p, t) == SquaredError()


# Targets.

OUTPUTS: list[tuple[Any, int, Any]] = [
    (LABELS, 4, SoftmaxCrossEntropy()),
    (LABELS == 1, 2, SoftmaxCrossEntropy()),
    (LABELS.astype("uint8"), 4, SoftmaxCrossEntropy()),
    (LABELS == 1, 1, BinaryCrossEntropy()),
    (BITS[:, :1], 1, BinaryCrossEntropy()),
    (BITS[:, 0], 1, BinaryCrossEntropy()),
    (BITS, 3, BinaryCrossEntropy()),
    (BITS.astype(bool), 3, BinaryCrossEntropy()),
    (SAMPLE_WEIGHT, 1, SquaredError()),
    (SAMPLE_WEIGHT[:, None] * np.ones(3), 3, SquaredError()),
]


@pytest.mark.parametrize(("target", "outputs", "expected"), OUTPUTS)
def test_the_loss_that_targets_ask_for(
    target: Any, outputs: int, expected: Loss, backend: backends.Backend
) -> None:
    if target.dtype.name not in backend.dtypes():
        target = target.astype("float32" if target.dtype.kind == "f" else int)
    prediction, target = logits(backend, 2, outputs), backend.asarray(target)
    loss, reason = losses.for_targets(prediction, target)
    assert loss == expected
    assert reason.startswith("y holds ")
    loss.check(prediction, target)


def test_a_network_without_an_axis_of_outputs(backend: backends.Backend) -> None:
    target = backend.asarray([0, 1, 1])
    assert losses.for_targets(logits(backend, 3), target)[0] == BinaryCrossEntropy()


HOT = np.eye(4)[LABELS]
UNCLEAR: list[tuple[Any, int, str]] = [
    (HOT.astype(int), 4, "a single one in each row.*'cross_entropy'.*'binary_cross_entropy'"),
    (HOT.astype(bool), 4, "booleans, a single one.*'cross_entropy'.*'binary_cross_entropy'"),
    (HOT, 4, "0.0 and 1.0 .*'cross_entropy'.*'binary_cross_entropy'.*'squared_error'"),
    (HOT * 0.9 + 0.025, 4, "rows of numbers that sum to 1.*'cross_entropy'.*'squared_error'"),
    (BITS * 1.0, 3, "0.0 and 1.0 alone.*'binary_cross_entropy'.*'squared_error'"),
    (BITS[:, 0] * 1.0, 1, "0.0 and 1.0 alone.*'binary_cross_entropy'.*'squared_error'"),
    (LABELS, 1, "from 0 to 2.*cast y to a floating-point.*'squared_error'.*an output for each"),
    (LABELS.astype("uint8"), 1, "integers from 0 to 2, with a network of 1 output"),
    (BITS[:, 0] * 2 - 1, 1, "from -1 to 1.*code them as 0 and 1"),
    (BITS * 2, 3, "from 0 to 2, with a network of 3 outputs.*cast y to a floating-point"),
    (LABELS * 1.0, 4, r"4 numbers a sample.*got \S*float\d\d.*cast labels to integers"),
    (LABELS[:, None], 4, r"y of shape \(50, 4\), or labels of shape \(50,\).*got \(50, 1\)"),
]


@pytest.mark.parametrize(("target", "outputs", "message"), UNCLEAR)
def test_targets_that_can_mean_several_things(
    target: Any, outputs: int, message: str, backend: backends.Backend
) -> None:
    if target.dtype.name not in backend.dtypes():
        target = target.astype("float32" if target.dtype.kind == "f" else int)
    with pytest.raises(ValueError, match=message) as caught:
        losses.for_targets(logits(backend, 2, outputs), backend.asarray(target))
    assert "To fix it: " in str(caught.value)


# Activations at the end.


def test_a_softmax_under_a_cross_entropy_is_refused(backend: backends.Backend) -> None:
    p, labels = logits(backend, 50, 4), backend.asarray(LABELS)
    SoftmaxCrossEntropy().check(p, labels)
    SoftmaxCrossEntropy().check(relu(p), labels)
    SoftmaxCrossEntropy().check(sigmoid(p), labels)
    with pytest.raises(ValueError, match=r"expected logits, got .* To fix it: take the softmax"):
        SoftmaxCrossEntropy().check(softmax(p), labels)
    with pytest.raises(ValueError, match="take the softmax off"):
        SoftmaxCrossEntropy().check(softmax(1000 * p), labels)
    bits = backend.asarray(BITS)
    BinaryCrossEntropy().check(p[:, :3], bits)
    with pytest.raises(ValueError, match="take the softmax off the end of the network"):
        BinaryCrossEntropy().check(softmax(p[:, :3]), bits)


def test_likelihoods_are_of_log_probabilities(backend: backends.Backend) -> None:
    p, labels = logits(backend, 50, 4), backend.asarray(LABELS)
    for size in (1.0, 1e4):
        NegativeLogLikelihood().check(functional.log_softmax(size * p), labels)
    for wrong in (p, 1000 * p, softmax(p), sigmoid(p)):
        with pytest.raises(ValueError, match=r"log-probabilities.*let the network end in log_s"):
            NegativeLogLikelihood().check(wrong, labels)


def test_activation_conflict() -> None:
    conflict = losses.activation_conflict
    for loss in (BinaryCrossEntropy(), SoftmaxCrossEntropy(), NegativeLogLikelihood()):
        for last in (softmax, sigmoid, functools.partial(softmax, axis=-1)):
            message = conflict(loss, last)
            assert message is not None
            assert str(loss) in message
            assert "To fix it: " in message
    assert conflict(BinaryCrossEntropy(), functional.log_softmax) is not None
    for loss in (SquaredError(), Huber(), len):
        assert conflict(loss, sigmoid) is None
    for last in (relu, None, functional.tanh):
        assert conflict(SoftmaxCrossEntropy(), last) is None
    assert conflict(NegativeLogLikelihood(), functional.log_softmax) is None


# What predictions are.


def test_tasks_labels_and_probabilities(backend: backends.Backend) -> None:
    p = backend.asarray([[2.0, -1.0], [-3.0, 4.0]], dtype="float32")
    host = backend.to_host(p)
    shares = np.exp(host) / np.exp(host).sum(1, keepdims=True)
    binary = BinaryCrossEntropy()
    assert binary.task(p) == "multilabel"
    assert binary.task(p[:, :1]) == binary.task(p[:, 0]) == "binary"
    assert backend.to_host(binary.decide(p)).tolist() == [[True, False], [False, True]]
    assert_close(binary.probabilities(p), 1 / (1 + np.exp(-host)), backend, rtol=1e-5)
    for loss, given in (
        (SoftmaxCrossEntropy(), p),
        (NegativeLogLikelihood(), functional.log_softmax(p)),
    ):
        assert loss.task(given) == "multiclass"
        assert backend.to_host(loss.decide(given)).tolist() == [0, 1]
        assert_close(loss.probabilities(given), shares, backend, rtol=1e-5)
    assert SquaredError().task(p) == "regression"
    assert_close(SquaredError().residuals(p, p + 1), -np.ones((2, 2)), backend)
    for ask in (Huber().decide, Huber().probabilities):
        with pytest.raises(TypeError, match="expected a loss for classes"):
            ask(p)
