"""tinynn.losses: values and their weighing, extremes, gradients, and what `check` finds."""

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests import loss_cases
from tests.checks import assert_close
from tests.gradients import (
    assert_matches_differences,
    assert_matches_library,
    jax_gradient,
    torch_gradient,
)
from tinynn import losses
from tinynn.functional.errors import DtypeError, ShapeError
from tinynn.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    Huber,
    Loss,
    NegativeLogLikelihood,
    Poisson,
    SoftmaxCrossEntropy,
    SquaredError,
)
from tinynn.trace import namespace

DRAW = np.random.default_rng(0)
NUMBERS = (DRAW.normal(size=(6, 3)) * 2, DRAW.normal(size=(6, 3)))
BITS = (DRAW.normal(size=(6, 3)) * 2, DRAW.integers(0, 2, size=(6, 3)))
LABELS = (DRAW.normal(size=(6, 3)) * 2, np.asarray([0, 1, 2, 2, 1, 1]))
LOG_P = (np.log(DRAW.dirichlet(np.ones(3), size=6)), LABELS[1])
PROBABILITIES = (LABELS[0], DRAW.dirichlet(np.ones(3), size=6))
SAMPLE_WEIGHTS = np.asarray([1.0, 0.0, 2.0, 0.5, 1.0, 3.0])
SMOOTH, CLASSES = 0.2, (0.5, 1.0, 3.0)

CASES: dict[str, tuple[Loss, tuple[np.ndarray, np.ndarray]]] = {
    "squared": (SquaredError(), NUMBERS),
    "half sum": (SquaredError(reduction="half_sum"), NUMBERS),
    "absolute": (AbsoluteError(reduction="sum"), NUMBERS),
    "huber": (Huber(delta=0.7), NUMBERS),
    "poisson": (Poisson(), (NUMBERS[0], BITS[1])),
    "binary": (BinaryCrossEntropy(), BITS),
    "binary, weighed": (BinaryCrossEntropy(class_weight=[0.5, 3.0], label_smoothing=0.2), BITS),
    "binary, mapping": (BinaryCrossEntropy(class_weight={0: 1.0, 1: 10.0}), BITS),
    "softmax": (SoftmaxCrossEntropy(), LABELS),
    "softmax, mapping": (SoftmaxCrossEntropy(class_weight={2: 5.0}, label_smoothing=0.1), LABELS),
    "softmax, weighed": (SoftmaxCrossEntropy(class_weight=CLASSES, label_smoothing=0.2), LABELS),
    "softmax, sum": (SoftmaxCrossEntropy(class_weight=CLASSES, reduction="sum"), LABELS),
    "softmax, probabilities": (SoftmaxCrossEntropy(class_weight=CLASSES), PROBABILITIES),
    "nll": (NegativeLogLikelihood(), LOG_P),
    "nll, weighed": (NegativeLogLikelihood(class_weight=CLASSES), LOG_P),
}


def numbers_by_class(loss: Any, classes: int) -> list[float]:
    """The class weights, a mapping's filled up with ones."""
    given = loss.class_weight or (1.0,) * classes
    if isinstance(given[0], tuple):
        given = [dict(given).get(c, 1.0) for c in range(classes)]
    return list(given)


def one_entry(loss: Any, p: np.ndarray, t: Any) -> tuple[float, float]:
    """(loss, class weight) of one number or one row, word for word as the loss is defined."""
    if isinstance(loss, SquaredError):
        return (p - t) ** 2, 1.0
    if isinstance(loss, AbsoluteError):
        return abs(p - t), 1.0
    if isinstance(loss, Huber):
        size, delta = abs(p - t), loss.delta
        return (size**2 / 2 if size <= delta else delta * (size - delta / 2)), 1.0
    if isinstance(loss, Poisson):
        return math.exp(p) - t * p, 1.0
    if isinstance(loss, BinaryCrossEntropy):
        off, on = numbers_by_class(loss, 2)
        right = 1 / (1 + math.exp(-p))
        soft = t * (1 - loss.label_smoothing) + loss.label_smoothing / 2
        value = -on * soft * math.log(right) - off * (1 - soft) * math.log(1 - right)
        return value, on * t + off * (1 - t)
    weights = np.asarray(numbers_by_class(loss, 3))
    hot = np.eye(3)[t] if np.ndim(t) == 0 else t
    smoothing = getattr(loss, "label_smoothing", 0.0)
    soft = hot * (1 - smoothing) + smoothing / 3
    log_p = p if isinstance(loss, NegativeLogLikelihood) else np.log(np.exp(p) / np.exp(p).sum())
    return -float(np.sum(weights * soft * log_p)), float(np.sum(weights * hot))


def reference(loss: Any, p: np.ndarray, t: np.ndarray, weights: Any = None) -> float:
    by_row = isinstance(loss, SoftmaxCrossEntropy | NegativeLogLikelihood)
    places = range(6) if by_row else itertools.product(range(6), range(3))
    total = weight_total = 0.0
    for place in places:
        value, own = one_entry(loss, p[place], t[place])
        sample = 1.0 if weights is None else weights[place if by_row else place[0]]
        total += sample * value
        weight_total += sample * own
    return {"mean": total / weight_total, "sum": total, "half_sum": total / 2}[loss.reduction]


def placed(
    name: str, backend: backends.Backend, dtype: Any
) -> tuple[Loss, Any, Any, tuple[np.ndarray, np.ndarray]]:
    """The case's loss, its arrays on the backend, and what numbers they came to hold."""
    loss, (p, t) = CASES[name]
    prediction = backend.asarray(p, dtype=dtype)
    target = backend.asarray(t, dtype=dtype if t.dtype.kind == "f" else None)
    host = backend.to_host(prediction).astype(float), backend.to_host(target)
    return loss, prediction, target, host


def test_every_loss_is_tested_here() -> None:
    here = {type(loss) for loss, _ in CASES.values()}
    others = {type(case.loss) for case in loss_cases.CASES.values()}  # tests/test_other_losses.py
    assert here | others == set(losses.NAMES.values())


# Values.


@pytest.mark.parametrize("name", CASES)
def test_value(name: str, backend: backends.Backend, float_dtype: Any) -> None:
    loss, prediction, target, host = placed(name, backend, float_dtype)
    value = loss(prediction, target)
    assert_close(value, reference(loss, *host), backend, dtype=float_dtype, shape=())


@pytest.mark.parametrize("name", CASES)
def test_value_with_sample_weights(name: str, backend: backends.Backend, float_dtype: Any) -> None:
    loss, prediction, target, host = placed(name, backend, float_dtype)
    value = loss(prediction, target, backend.asarray(SAMPLE_WEIGHTS, dtype=float_dtype))
    expected = reference(loss, *host, SAMPLE_WEIGHTS)
    assert_close(value, expected, backend, dtype=float_dtype, shape=())


@pytest.mark.parametrize("name", CASES)
def test_a_weight_counts_as_so_many_samples(name: str, backend: backends.Backend) -> None:
    loss, prediction, target, _ = placed(name, backend, "float32")
    weights = np.asarray([1, 0, 2, 1, 3, 0])
    take = backend.asarray(np.repeat(np.arange(6), weights))
    xp = backend.xp
    repeated = loss(xp.take(prediction, take, axis=0), xp.take(target, take, axis=0))
    weighed = loss(prediction, target, backend.asarray(weights))  # integers will do
    assert_close(weighed, backend.to_host(repeated), backend, dtype="float32")


@pytest.mark.parametrize("name", CASES)
def test_no_weight_at_all_is_no_loss(name: str, backend: backends.Backend) -> None:
    loss, prediction, target, _ = placed(name, backend, "float32")
    weights = backend.asarray(np.zeros(6), dtype="float32")
    assert_close(loss(prediction, target, weights), 0.0, backend, dtype="float32")
    slope = tinynn.grad(lambda p: loss(p, target, weights))(prediction)
    assert_close(slope, np.zeros((6, 3)), backend, dtype="float32")


def test_labels_and_one_hot_are_the_same(backend: backends.Backend) -> None:
    p, labels = LABELS
    prediction, target = backend.asarray(p, dtype="float32"), backend.asarray(labels)
    hot = backend.asarray(np.eye(3, dtype=int)[labels])
    for loss in (SoftmaxCrossEntropy(class_weight=CLASSES, label_smoothing=0.2),
                 NegativeLogLikelihood(class_weight=CLASSES)):  # fmt: skip
        expected = backend.to_host(loss(prediction, target))
        assert_close(loss(prediction, hot), expected, backend, dtype="float32")


def test_labels_over_more_axes(backend: backends.Backend) -> None:
    p = backend.asarray(LABELS[0].reshape(2, 3, 3), dtype="float32")
    t = backend.asarray(LABELS[1].reshape(2, 3))
    expected = reference(SoftmaxCrossEntropy(), *LABELS)
    assert_close(SoftmaxCrossEntropy()(p, t), expected, backend, dtype="float32")


@pytest.mark.parametrize("loss", [SquaredError(), AbsoluteError(), Huber(), BinaryCrossEntropy()])
def test_a_column_and_a_vector_fit(loss: Loss, backend: backends.Backend) -> None:
    p, t = BITS[0][:, 0], BITS[1][:, 0]
    column, vector = (
        backend.asarray(p[:, None], dtype="float32"),
        backend.asarray(p, dtype="float32"),
    )
    target = backend.asarray(t)
    expected = backend.to_host(loss(vector, target))
    assert_close(loss(column, target), expected, backend, shape=())
    assert_close(loss(vector, backend.xp.reshape(target, (6, 1))), expected, backend, shape=())
    assert_close(loss(column, backend.xp.reshape(target, (6, 1))), expected, backend, shape=())
    one, row = vector[:1], target[:1]
    expected = backend.to_host(loss(one, row))  # a batch of one, which is no output of one
    assert_close(loss(one, backend.xp.reshape(row, (1, 1))), expected, backend, shape=())


def test_booleans_are_labels(backend: backends.Backend) -> None:
    p, t = backend.asarray(LABELS[0][:, :2], dtype="float32"), np.asarray([1, 0, 1, 1, 0, 1])
    on, labels = backend.asarray(t.astype(bool)), backend.asarray(t)
    for loss, prediction in ((SoftmaxCrossEntropy(), p), (BinaryCrossEntropy(), p[:, 0])):
        assert_close(
            loss(prediction, on), backend.to_host(loss(prediction, labels)), backend, shape=()
        )


# Extremes.


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_extreme_logits(size: float, backend: backends.Backend) -> None:
    logits = backend.asarray([[size, -size], [-size, size]], dtype="float32")
    for loss, t, worst in (
        (SoftmaxCrossEntropy(reduction="sum"), [1, 1], 2 * size),
        (BinaryCrossEntropy(reduction="sum"), [[0, 0], [0, 1]], size),
    ):
        target = backend.asarray(t)
        value, slope = tinynn.value_and_grad(loss)(logits, target)
        assert_close(value, worst, backend, dtype="float32")
        assert np.isfinite(backend.to_host(slope)).all()


def test_slopes_at_zero(backend: backends.Backend) -> None:
    zeros = backend.asarray(np.zeros((2, 2)), dtype="float32")
    slope = tinynn.grad(BinaryCrossEntropy(reduction="sum"))(
        zeros, backend.asarray([[0, 1], [1, 0]])
    )
    assert_close(slope, [[0.5, -0.5], [-0.5, 0.5]], backend, dtype="float32")
    for loss in (SquaredError(), AbsoluteError(), Huber()):
        assert_close(tinynn.grad(loss)(zeros, zeros), np.zeros((2, 2)), backend, dtype="float32")


def test_half_sum_has_the_difference_for_a_gradient(
    backend: backends.Backend, float_dtype: Any
) -> None:
    _, p, t, _ = placed("half sum", backend, float_dtype)
    slope = tinynn.grad(SquaredError(reduction="half_sum"))(p, t)
    assert_close(slope, backend.to_host(p) - backend.to_host(t), backend, dtype=float_dtype)


# Gradients.


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_differences(
    name: str, backend: backends.Backend, float64: Any
) -> None:
    loss, prediction, target, _ = placed(name, backend, float64)
    weights = backend.asarray(SAMPLE_WEIGHTS, dtype=float64)
    assert_matches_differences(lambda p: loss(p, target, weights), (prediction,), backend)


@pytest.mark.parametrize("name", CASES)
def test_second_order_is_that_of_differences(
    name: str, backend: backends.Backend, float64: Any
) -> None:
    loss, prediction, target, _ = placed(name, backend, float64)

    def steepness(p: Any) -> Any:
        slope = tinynn.grad(loss)(p, target)
        return namespace(slope).sum(slope * slope + slope)

    assert_matches_differences(steepness, (prediction,), backend)


def by_a_library(
    name: str, library_gradient: Callable[..., Any], backend: backends.Backend, dtype: Any
) -> None:
    loss, prediction, target, _ = placed(name, backend, dtype)
    weights = backend.asarray(SAMPLE_WEIGHTS, dtype=dtype)
    for rest in ((), (weights,)):

        def f(p: Any, rest: tuple[Any, ...] = rest) -> Any:
            return loss(p, target, *rest)

        assert_matches_library(f, library_gradient, (prediction,), backend)


@pytest.mark.only("jax-x64")
@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_jax(name: str, backend: backends.Backend) -> None:
    by_a_library(name, jax_gradient, backend, "float64")


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_torch(name: str, backend: backends.Backend, float_dtype: Any) -> None:
    by_a_library(name, torch_gradient, backend, float_dtype)


@pytest.mark.only("torch")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_values_are_torchs(backend: backends.Backend, reduction: str, weighted: bool) -> None:
    import torch.nn.functional as F

    c = backend.asarray(CLASSES, dtype="float32")
    _, p, t, _ = placed("squared", backend, "float32")
    logits, bits = (placed("binary", backend, "float32")[i] for i in (1, 2))
    _, scores, labels, _ = placed("softmax", backend, "float32")
    sample = backend.asarray(SAMPLE_WEIGHTS, dtype="float32") if weighted else None
    mapping, by_bit = {0: 0.5, 2: 3.0}, 0.5 + 2.5 * bits
    ones, smooth_bits = 0 * p + 1, 0.8 * bits + 0.1
    chances = F.softmax(p, dim=-1)
    settings: dict[str, Any] = {"reduction": reduction}
    none: dict[str, Any] = {"reduction": "none"}
    for ours, args, theirs, own in (
        (SquaredError(**settings), (p, t), F.mse_loss(p, t, **none), ones),
        (AbsoluteError(**settings), (p, t), F.l1_loss(p, t, **none), ones),
        (Huber(0.7, **settings), (p, t), F.huber_loss(p, t, delta=0.7, **none), ones),
        (BinaryCrossEntropy(**settings), (logits, bits),
         F.binary_cross_entropy_with_logits(logits, bits * 1.0, **none), ones),
        (BinaryCrossEntropy(class_weight={1: 3.0, 0: 0.5}, **settings), (logits, bits),
         F.binary_cross_entropy_with_logits(logits, bits * 1.0, by_bit, **none), by_bit),
        (BinaryCrossEntropy(label_smoothing=0.2, **settings), (logits, bits),
         F.binary_cross_entropy_with_logits(logits, smooth_bits, **none), ones),
        (SoftmaxCrossEntropy(label_smoothing=0.2, **settings), (scores, labels),
         F.cross_entropy(scores, labels, label_smoothing=0.2, **none), ones[:, 0]),
        (SoftmaxCrossEntropy(class_weight=mapping, label_smoothing=0.2, **settings),
         (scores, labels), F.cross_entropy(scores, labels, c, label_smoothing=0.2, **none),
         c[labels]),
        (SoftmaxCrossEntropy(class_weight=CLASSES, **settings), (scores, chances),
         F.cross_entropy(scores, chances, c, **none), chances @ c),
        (NegativeLogLikelihood(class_weight=mapping, **settings), (scores, labels),
         F.nll_loss(scores, labels, c, **none), c[labels]),
    ):  # fmt: skip
        assert_close(ours.values(*args), backend.to_host(theirs), backend, dtype="float32")
        if sample is not None:
            rows = sample[:, None] if theirs.ndim == 2 else sample
            theirs, own = theirs * rows, own * rows
        expected = theirs.sum() / own.sum() if reduction == "mean" else theirs.sum()
        assert_close(ours(*args, sample), backend.to_host(expected), backend, dtype="float32")
    unweighted = SoftmaxCrossEntropy(class_weight=CLASSES, label_smoothing=0.2, **settings)
    expected = F.cross_entropy(scores, labels, c, label_smoothing=0.2, reduction=reduction)
    assert_close(unweighted(scores, labels), backend.to_host(expected), backend, dtype="float32")


# Errors.


def test_nothing_is_broadcast(backend: backends.Backend) -> None:
    p, t = backend.asarray(np.zeros((6, 3)), dtype="float32"), backend.asarray(np.zeros(3))
    with pytest.raises(
        ShapeError,
        match=r"SquaredError\(\): expected a target of shape \(6, 3\).*got \(3,\). To fix it: ",
    ):
        SquaredError()(p, t)
    with pytest.raises(ShapeError, match=r"of shape \(6,\) or \(6, 3\) for .*, got \(6, 1\)"):
        SoftmaxCrossEntropy()(p, backend.asarray(np.zeros((6, 1), dtype=int)))
    with pytest.raises(ShapeError, match=r"predictions of shape \(batch, classes\), got \(3,\)"):
        SoftmaxCrossEntropy()(t, t)
    with pytest.raises(ShapeError, match=r"expected sample_weight of shape \(6,\), .*, got \(3,\)"):
        SquaredError()(p, p, t)


def test_labels_that_are_no_integers(backend: backends.Backend) -> None:
    p, t = backend.asarray(LABELS[0]), backend.asarray(LABELS[1] * 1.0)
    with pytest.raises(DtypeError, match=r"SoftmaxCrossEntropy\(\): expected integer labels, got"):
        SoftmaxCrossEntropy()(p, t)


def test_class_weights_of_another_number(backend: backends.Backend) -> None:
    p, t = backend.asarray(LABELS[0]), backend.asarray(LABELS[1])
    with pytest.raises(
        ShapeError, match=r"expected class_weight to have 3 numbers, one for each class, got 2"
    ):
        SoftmaxCrossEntropy(class_weight=[1.0, 2.0])(p, t)


CHECKS: list[tuple[Loss, tuple[int, ...], Any, str]] = [
    (SoftmaxCrossEntropy(), (1, 3), [0, 3], "labels from 0 to 2, as .* 3 outputs, got .* 0 to 3."),
    (SoftmaxCrossEntropy(), (1, 3), [-1, 2], "got labels from -1 to 2"),
    (NegativeLogLikelihood(), (1, 3), [5, 2], "got labels from 2 to 5"),
    (NegativeLogLikelihood(), (1, 3), [1, 2], "expected log-probabilities"),
    (SoftmaxCrossEntropy(class_weight="balanced"), (1, 3), [0, 1], "loss.fit_to"),
    (SoftmaxCrossEntropy(class_weight={3: 2}), (1, 3), [0, 1], "classes out of 0, 1, 2, got 3"),
    (BinaryCrossEntropy(class_weight={"yes": 2}), (1, 1), [0, 1], "out of 0, 1, got 'yes'"),
    (SoftmaxCrossEntropy(), (1, 3), [0.0, 1.0], "expected integer labels"),
    (SoftmaxCrossEntropy(), (1, 3), [[1.0, 0.5, 0.0]], "probabilities whose sum is 1"),
    (SoftmaxCrossEntropy(), (1, 3), [[2.0, -1.0, 0.0]], "probabilities whose sum is 1"),
    (SoftmaxCrossEntropy(), (1, 3), [[1, 0]], r"shape \(1,\) or \(1, 3\).*got \(1, 2\)"),
    (SoftmaxCrossEntropy(), (1, 1), [0, 0], "expected two outputs or more, got one"),
    (SoftmaxCrossEntropy(class_weight=(1, 2)), (1, 3), [0, 1], "have 3 numbers"),
    (BinaryCrossEntropy(), (1, 1), [0, 2], r"expected targets from 0 to 1, got .* 0.0 to 2.0"),
    (BinaryCrossEntropy(), (1,), [0.5, math.nan], "expected targets from 0 to 1"),
    (SquaredError(), (1, 2), [0.0, 1.0], r"target of shape \(2, 2\)"),
    (SquaredError(), (1, 2), np.zeros((0, 2)), "expected at least one sample, got none"),
]


@pytest.mark.reads_scalars
@pytest.mark.parametrize(("loss", "shape", "target", "message"), CHECKS)
def test_check_finds(
    loss: Loss, shape: tuple[int, ...], target: Any, message: str, backend: backends.Backend
) -> None:
    prediction = backend.asarray(np.zeros(shape), dtype="float32")
    with pytest.raises(ValueError, match=message):
        loss.check(prediction, backend.asarray(target))


@pytest.mark.reads_scalars
@pytest.mark.parametrize("name", CASES)
def test_check_passes_what_is_right(name: str, backend: backends.Backend) -> None:
    loss, prediction, target, _ = placed(name, backend, "float32")
    weights = backend.asarray(SAMPLE_WEIGHTS, dtype="float32")
    loss.check(prediction, target, sample_weight=weights)
    loss.check(prediction[:2, :], target, weights)  # the prediction may be that of a few rows
    with pytest.raises(ValueError, match="to have one weight for each of 6 samples"):
        loss.check(prediction, target, weights[:3])
    with pytest.raises(ValueError, match="sample weights of 0 or more"):
        loss.check(prediction, target, backend.xp.negative(weights))
    with pytest.raises(DtypeError, match="predictions of a real floating-point dtype"):
        loss.check(backend.asarray(np.zeros((6, 3), dtype=int)), target)


@pytest.mark.reads_scalars
def test_check_takes_unsigned_and_boolean_labels(backend: backends.Backend) -> None:
    prediction = backend.asarray(np.zeros((1, 2)), dtype="float32")
    for dtype in {"bool", "uint8", "uint16", "uint32", "uint64"} & set(backend.dtypes()):
        SoftmaxCrossEntropy().check(prediction, backend.asarray([0, 1], dtype=dtype))


@pytest.mark.reads_scalars
@pytest.mark.parametrize("label", [2**31, 2**32, 2**32 + 1, 2**63, 2**64 - 1])
def test_check_refuses_labels_that_do_not_fit_in_fewer_bits(
    backend: backends.Backend, label: int
) -> None:
    prediction = backend.asarray(np.zeros((1, 2)), dtype="float32")
    for dtype in {"uint32", "uint64", "int64"} & set(backend.dtypes()):
        if label <= np.iinfo(dtype).max:
            target = backend.asarray(np.asarray([0, label], dtype=dtype))
            got = f"from 0 to 1, as .* got labels from 0 to {str(label)[:6]}"
            with pytest.raises(ValueError, match=got):
                SoftmaxCrossEntropy().check(prediction, target)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SquaredError(reduction="average"), "one of mean, sum, half_sum, got 'average'"),
        (lambda: Huber(delta=0), "Huber: expected delta to be a number above 0"),
        (lambda: SoftmaxCrossEntropy(class_weight=[1.0, -1.0]), "numbers of 0 or more"),
        (lambda: SoftmaxCrossEntropy(class_weight={0: math.inf}), "numbers of 0 or more"),
        (lambda: SoftmaxCrossEntropy(class_weight={0.5: 1.0}), 'class_weight to be None, "bal'),
        (lambda: SoftmaxCrossEntropy(class_weight=[(0, 1.0), 2.0]), "class_weight to be None"),
        (lambda: SoftmaxCrossEntropy(class_weight="balance"), "class_weight to be None.*'balance'"),
        (lambda: BinaryCrossEntropy(class_weight=[0.0, 0.0]), "a number above 0.*nothing counts"),
        (lambda: SoftmaxCrossEntropy(class_weight=3), "class_weight"),
        (lambda: SoftmaxCrossEntropy(label_smoothing=1.5), r"a number in \[0, 1\]"),
    ],
)
def test_settings_out_of_range(make: Callable[[], Loss], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Names and descriptions.


def test_get() -> None:
    names = """
        squared_error:SquaredError mean_squared_error:SquaredError mse:SquaredError
        absolute_error:AbsoluteError mean_absolute_error:AbsoluteError mae:AbsoluteError
        huber:Huber smooth_l1:SmoothL1 log_cosh:LogCosh poisson:Poisson
        gaussian_nll:GaussianNLL quantile:Quantile pinball:Quantile cosine_distance:CosineDistance
        binary_cross_entropy:BinaryCrossEntropy bce:BinaryCrossEntropy
        cross_entropy:SoftmaxCrossEntropy softmax_cross_entropy:SoftmaxCrossEntropy
        nll:NegativeLogLikelihood negative_log_likelihood:NegativeLogLikelihood
        binary_focal:BinaryFocal focal:SoftmaxFocal softmax_focal:SoftmaxFocal
        kl_divergence:KLDivergence hinge:Hinge squared_hinge:SquaredHinge
        multiclass_hinge:MulticlassHinge ctc:CTC triplet:Triplet info_nce:InfoNCE
    """
    found = {name: type(losses.get(name)).__name__ for name in losses.NAMES}
    assert found == dict(pair.split(":") for pair in names.split())
    message = "loss: expected one of squared_error, .*got 'hubber'. To fix it: did you mean 'huber'"
    with pytest.raises(ValueError, match=message):
        losses.get("hubber")
    with pytest.raises(ValueError, match=r"got 'quality'$"):
        losses.get("quality")


@pytest.mark.parametrize("name", CASES)
def test_description_round_trip(name: str) -> None:
    loss = CASES[name][0]
    again = losses.from_config(json.loads(json.dumps(losses.to_config(loss))))
    assert again == loss
    assert hash(again) == hash(loss)


def test_a_function_may_be_a_loss() -> None:
    def mine(prediction: Any, target: Any) -> Any:
        return prediction

    described = losses.to_config(mine)
    assert losses.from_config(described, custom={"mine": mine}) is mine
    with pytest.raises(ValueError, match="no function is known as 'mine'"):
        losses.from_config(described)
