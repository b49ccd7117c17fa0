"""The losses of tests/loss_cases.py: values, gradients, other libraries', extremes, errors, fit."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests.checks import assert_close
from tests.gradients import assert_matches_differences, placed
from tests.loss_cases import BITS, CASES, LABELS, NUMBERS, SHARES, SPELLED, TIMES, P
from tinynn import losses
from tinynn.functional import sigmoid, softmax
from tinynn.functional.errors import DtypeError, ShapeError
from tinynn.layers import Linear, Sequential
from tinynn.losses import (
    CTC,
    BinaryFocal,
    CosineDistance,
    GaussianNLL,
    Hinge,
    InfoNCE,
    KLDivergence,
    LogCosh,
    Loss,
    MulticlassHinge,
    Poisson,
    Quantile,
    SmoothL1,
    SoftmaxFocal,
    SquaredHinge,
    Triplet,
    ctc_loss,
)
from tinynn.trace import namespace
from tinynn.training import Model, fit

WEIGHTS = np.asarray([1.0, 0.0, 2.0, 0.5, 1.0, 3.0])
#: A kink of a hinge or of a hardest triplet has no second derivative worth the name; there is none
#: near these numbers, but differences of differences are dear.
SMOOTH = (
    "binary focal",
    "focal, weighed",
    "kl",
    "log cosh",
    "cosine",
    "gaussian",
    "contrast",
    "ctc",
)


def on(backend: Backend, name: str, dtype: Any) -> tuple[Loss, Any, Any]:
    case = CASES[name]
    return case.loss, *(placed(each, backend, dtype) for each in (case.prediction, case.target))


def expected(name: str, weight: Any = None) -> float:
    loss, p, t, values, weights = CASES[name]
    found = values(loss, p, t)
    entry = np.ones_like(found) if weights is None else weights(loss, p, t)
    rows = np.ones(len(p)) if weight is None else weight
    rows = np.broadcast_to(rows.reshape(-1, *[1] * (found.ndim - 1)), found.shape)
    total = float(np.sum(found * rows))
    return total / float(np.sum(entry * rows)) if loss.reduction == "mean" else total


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_definition(name: str, backend: Backend) -> None:
    case, exact = CASES[name], backend.name == "numpy"  # torch's are below, in float64
    values = case.values(case.loss, case.prediction, case.target)
    for dtype, rtol in (("float32", 2e-5), *[("float64", 1e-12)] * exact):
        loss, prediction, target = on(backend, name, dtype)
        assert_close(loss.values(prediction, target), values, backend, dtype=dtype, rtol=rtol)
        for weight in (None, WEIGHTS[: len(values)]):
            rest = () if weight is None else (backend.asarray(weight, dtype=dtype),)
            found = loss(prediction, target, *rest)
            assert_close(found, expected(name, weight), backend, dtype=dtype, rtol=rtol)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_differences(name: str, backend: Backend, float64: Any) -> None:
    loss, prediction, target = on(backend, name, float64)
    assert_matches_differences(lambda p: loss(p, target), (prediction,), backend)


@pytest.mark.parametrize("name", SMOOTH)
def test_second_order_is_that_of_differences(name: str, backend: Backend, float64: Any) -> None:
    loss, prediction, target = on(backend, name, float64)

    def steepness(p: Any) -> Any:
        slope = tinynn.grad(loss)(p, target)
        return namespace(slope).sum(slope * slope + slope)

    assert_matches_differences(steepness, (prediction,), backend)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("name", CASES)
def test_compiled_it_is_the_same(name: str, backend: Backend) -> None:
    loss, prediction, target = on(backend, name, "float64")
    direct = tinynn.value_and_grad(loss)
    compiled = tinynn.compile(lambda p: direct(p, target))
    for given in (prediction, 0.5 * prediction):
        for found, wanted in zip(compiled(given), direct(given, target), strict=True):
            assert_close(found, wanted, backend, rtol=1e-12)


@pytest.mark.parametrize("name", ["focal, weighed", "kl", "quantiles", "triplet", "ctc"])
def test_weights_of_zero_are_no_loss(name: str, backend: Backend) -> None:
    loss, prediction, target = on(backend, name, "float32")
    nothing = backend.asarray(np.zeros(len(CASES[name].prediction)), dtype="float32")
    value, slope = tinynn.value_and_grad(lambda p: loss(p, target, nothing))(prediction)
    assert_close(value, 0.0, backend, dtype="float32")
    assert_close(slope, np.zeros(CASES[name].prediction.shape), backend, dtype="float32")


# Other libraries.


def focal_of_torchvision(p: Any, t: Any, alpha: float, gamma: float) -> Any:
    import torch.nn.functional as F

    chances, off = p.sigmoid(), F.binary_cross_entropy_with_logits(p, t, reduction="none")
    right = chances * t + (1 - chances) * (1 - t)
    return (alpha * t + (1 - alpha) * (1 - t)) * off * (1 - right) ** gamma


def triplets_of_torch(p: Any, near: Any, far: Any) -> Any:
    import torch.nn.functional as F

    return F.triplet_margin_loss(p, p[near], p[far], margin=3.0, eps=0.0, reduction="none")


@pytest.mark.only("torch")
def test_values_and_gradients_are_torchs(backend: Backend, float64: Any) -> None:
    import torch
    import torch.nn.functional as F

    none: dict[str, Any] = {"reduction": "none"}
    t, bits, shares, labels = map(torch.as_tensor, (NUMBERS, BITS * 1.0, SHARES, LABELS))
    signs = 2 * bits - 1
    lengths, inputs = torch.as_tensor([3, 2, 1, 2, 3, 0]), torch.as_tensor([5, 4, 4, 5, 5, 1])
    full = torch.full_like(inputs, 5)
    spelled, padded = torch.as_tensor(SPELLED), torch.as_tensor(np.maximum(SPELLED, 1))
    both = torch.as_tensor([0, 0, 1, 1, 0, 1])
    # Of one label all are positives; the farthest and the nearest are looked up.
    apart = torch.cdist(torch.as_tensor(P), torch.as_tensor(P))
    same = both[:, None] == both
    near = torch.where(same, apart, -1.0).argmax(dim=1)
    far = torch.where(same, 1e9, apart).argmin(dim=1)
    rows: list[tuple[Loss, Any, Callable[[Any], Any]]] = [
        (SmoothL1(0.7), t, lambda p: F.smooth_l1_loss(p, t, beta=0.7, **none)),
        (KLDivergence(), shares,
         lambda p: F.kl_div(p.log_softmax(-1), shares, **none).sum(-1)),
        (CosineDistance(), t, lambda p: 1 - F.cosine_similarity(p, t)),
        (GaussianNLL(), t[:, :2],
         lambda p: F.gaussian_nll_loss(p[:, :2], t[:, :2], p[:, 2:].exp(), **none)),
        (GaussianNLL(full=True), t[:, :2],
         lambda p: F.gaussian_nll_loss(p[:, :2], t[:, :2], p[:, 2:].exp(), full=True, **none)),
        (Hinge(), bits, lambda p: F.relu(1 - signs * p)),
        (SquaredHinge(), signs, lambda p: F.relu(1 - signs * p) ** 2),
        (BinaryFocal(2.0, class_weight=(0.75, 0.25)), bits,
         lambda p: focal_of_torchvision(p, bits, 0.25, 2.0)),
        (SoftmaxFocal(1.5), labels, lambda p:
         (1 - p.softmax(-1)[torch.arange(6), labels]) ** 1.5 * F.cross_entropy(p, labels, **none)),
        (Triplet(3.0), both, lambda p: triplets_of_torch(p, near, far)),
        (CTC(), spelled, lambda p: F.ctc_loss(
            p.log_softmax(-1).transpose(0, 1), padded, full, lengths, **none)),
        (CTC(), (padded, inputs, lengths), lambda p: F.ctc_loss(
            p.log_softmax(-1).transpose(0, 1), padded, inputs, lengths, **none)),
    ]  # fmt: skip
    for loss, target, theirs in rows:
        p = torch.as_tensor(TIMES if isinstance(loss, CTC) else P).requires_grad_()
        values = theirs(p)
        (slope,) = torch.autograd.grad((values**2).sum(), p)
        plain = p.detach()

        def f(p: Any, loss: Any = loss, target: Any = target) -> Any:
            values = loss.values(p, target)
            return namespace(values).sum(values * values)

        found = backend.to_host(loss.values(plain, target))
        np.testing.assert_allclose(found, backend.to_host(values.detach()), rtol=1e-12)
        assert_close(tinynn.grad(f)(plain), backend.to_host(slope), backend, rtol=1e-10)


@pytest.mark.only("jax-x64")
def test_values_are_optaxs(backend: Backend) -> None:
    """Formulas as optax writes them, by JAX's own derivatives."""
    import jax
    import jax.numpy as jnp

    logits, t, bits = jnp.asarray(P), jnp.asarray(NUMBERS), jnp.asarray(BITS)
    rows: list[tuple[Any, Any, Callable[[Any], Any]]] = [
        (LogCosh(), t, lambda p: jnp.logaddexp(p - t, t - p) - jnp.log(2.0)),
        (Hinge(), bits, lambda p: jnp.maximum(0, 1 - p * (2 * bits - 1))),
        (Quantile((0.3, 0.8)), t[:, :2], lambda p: sum(
            jnp.maximum(q * (t[:, :2] - each), (q - 1) * (t[:, :2] - each)) / 2
            for q, each in ((0.3, p[:, :2]), (0.8, p[:, 2:]))
        )),
    ]  # fmt: skip
    for loss, target, theirs in rows:
        assert_close(loss.values(logits, target), backend.to_host(theirs(logits)), backend)
        slope = tinynn.grad(lambda p, loss=loss, target=target: loss(p, target))(logits)
        expected = jax.grad(lambda p, theirs=theirs: jnp.mean(theirs(p)))(logits)
        assert_close(slope, backend.to_host(expected), backend, rtol=1e-12)


# Extremes.


@pytest.mark.parametrize("size", [0.0, 1e3, 1e15])
def test_extreme_predictions_are_finite(size: float, backend: Backend) -> None:
    signs = np.sign(P)
    for name, case in CASES.items():
        if case.prediction.ndim != 2:
            continue
        loss, _, target = on(backend, name, "float32")
        prediction = backend.asarray(size * signs, dtype="float32")
        value, slope = tinynn.value_and_grad(loss)(prediction, target)
        assert math.isfinite(float(backend.to_host(value))), name
        assert np.isfinite(backend.to_host(slope)).all(), name


def test_ctc_of_extreme_logits_and_of_targets_that_are_too_long(backend: Backend) -> None:
    logits = backend.asarray(1e4 * np.sign(TIMES), dtype="float32")
    labels = backend.asarray(SPELLED)
    value, slope = tinynn.value_and_grad(CTC())(logits, labels)
    assert math.isfinite(float(backend.to_host(value)))
    assert np.isfinite(backend.to_host(slope)).all()
    short = logits[:, :2, :]  # [1, 2, 3], [2, 2] and [2, 1, 2] do not fit
    found = backend.to_host(ctc_loss(short, labels))
    assert np.isinf(found).tolist() == [True, True, False, False, True, False]
    whole = backend.to_host(ctc_loss(short, labels, zero_infinity=True))
    np.testing.assert_array_equal(whole, np.where(np.isinf(found), 0, found))
    slope = tinynn.grad(CTC(zero_infinity=True))(short, labels)
    assert np.isfinite(backend.to_host(slope)).all()
    assert not backend.to_host(slope)[:2].any()


def test_ctc_is_one_loop_in_a_program(backend: Backend) -> None:
    logits, labels = backend.asarray(TIMES, dtype="float32"), backend.asarray(SPELLED)
    graph = tinynn.record(lambda p: CTC()(p, labels), logits)
    assert len([node for node in graph.nodes if node.name == "scan"]) == 1
    assert_close(graph.run([logits])[0], expected("ctc"), backend, rtol=2e-5)


def test_ctc_loss_has_checks_of_its_own(backend: Backend) -> None:
    logits, labels = backend.asarray(TIMES, dtype="float32"), backend.asarray(SPELLED)
    with pytest.raises(ShapeError, match=r"ctc_loss: expected labels of shape \(6, length\)"):
        ctc_loss(logits, labels[:5, :])
    with pytest.raises(ShapeError, match="with more than 4 classes, the blank among them"):
        ctc_loss(logits, labels, blank=4)
    with pytest.raises(DtypeError, match="ctc_loss: expected input_lengths of integers"):
        ctc_loss(logits, labels, logits[:, 0, 0])


def test_labels_as_one_hot_are_the_same(backend: Backend) -> None:
    p, labels = backend.asarray(P, dtype="float32"), backend.asarray(LABELS)
    hot = backend.asarray(np.eye(4, dtype=int)[LABELS])
    for loss in (SoftmaxFocal(), MulticlassHinge()):
        assert_close(loss(p, hot), backend.to_host(loss(p, labels)), backend)
    on = backend.asarray(BITS == 1)
    assert_close(Hinge()(p, on), backend.to_host(Hinge()(p, backend.asarray(BITS))), backend)


# Errors.

CHECKS: list[tuple[Loss, Any, Any, str]] = [
    (KLDivergence(), P, LABELS, r"of shape \(6, 4\) for"),
    (KLDivergence(), P, NUMBERS, "probabilities whose sum is 1"),
    (KLDivergence(), SHARES, SHARES, "expected logits, got predictions that are probab"),
    (SoftmaxFocal(), P, LABELS + 1, "labels from 0 to 3"),
    (BinaryFocal(), P, BITS * 2, "expected targets from 0 to 1"),
    (Hinge(), P, BITS - BITS[::-1], "of 0 and 1, or of -1 and 1"),
    (MulticlassHinge(), P[:, :1], BITS[:, 0], "two outputs or more"),
    (CosineDistance(), P[:, 0], NUMBERS[:, 0], r"shape \(batch, features\), got \(6,\)"),
    (CosineDistance(), P, NUMBERS[:, :1], r"of shape \(6, 4\) for"),
    (GaussianNLL(), P[:, :3], NUMBERS[:, 0], r"\(batch, 2 \* numbers\), 2 outputs for each"),
    (GaussianNLL(), P, NUMBERS, r"of shape \(6, 2\) or \(6, 2, 1\)"),
    (Quantile(), P, NUMBERS[:, 0], r"\(batch, 3 \* numbers\), .* got \(6, 4\)"),
    (Quantile((0.1, 0.9)), P, NUMBERS[:, 0], r"of shape \(6, 2\)"),
    (InfoNCE(), P, np.arange(6), "expected labels of which some come twice"),
    (InfoNCE(), P, NUMBERS[:, 0], "expected integer labels"),
    (InfoNCE(), P[:, None, :], np.arange(6), "expected labels of which some come twice"),
    (Triplet(), P, np.zeros(6, dtype=int), "two kinds or more, got one for all samples"),
    (Triplet(), P, BITS, r"of shape \(6,\) for"),
    (Triplet(), P[:, 0], LABELS, r"or \(batch, views, features\), got \(6,\)"),
    (CTC(), P, SPELLED, r"shape \(batch, time, classes\) with more than 0 classes"),
    (CTC(), TIMES, LABELS, r"labels of shape \(6, length\)"),
    (CTC(), TIMES, SPELLED + 1, "labels from 0 to 3 other than the blank 0, and padding below 0"),
    (CTC(), TIMES, np.where(SPELLED == 3, -1, SPELLED)[:, ::-1].copy(), "padding below 0 after"),
    (CTC(blank=1), TIMES, SPELLED, "other than the blank 1"),
    (CTC(), TIMES, (SPELLED, np.zeros(6, dtype=int)), "input_lengths from 1 to 5"),
    (CTC(), TIMES, (SPELLED, np.full(6, 2)), r"too long .* or zero_infinity=True"),
    (CTC(), TIMES, (SPELLED, np.full(6, 5), np.full(6, 4)), "target_lengths from 0 to 3"),
    (CTC(), TIMES, (SPELLED, np.full(5, 5)), r"input_lengths of shape \(6,\).* got \(5,\)"),
    (CTC(), TIMES, SPELLED * 1.0, "expected labels of integers"),
    (CTC(), TIMES[:0], SPELLED[:0], "expected at least one sample"),
]


@pytest.mark.reads_scalars
@pytest.mark.parametrize(("loss", "prediction", "target", "message"), CHECKS)
def test_check_finds(
    loss: Loss, prediction: Any, target: Any, message: str, backend: Backend
) -> None:
    p, t = (placed(each, backend, "float32") for each in (prediction, target))
    with pytest.raises((ValueError, ShapeError, DtypeError), match=message):
        loss.check(p, t)


@pytest.mark.reads_scalars
@pytest.mark.parametrize("name", CASES)
def test_check_passes_what_is_right(name: str, backend: Backend) -> None:
    loss, prediction, target = on(backend, name, "float32")
    loss.check(prediction, target)
    loss.check(prediction[:1, ...], target)


@pytest.mark.reads_scalars
def test_balanced_weights_are_those_of_classes_however_they_are_called(backend: Backend) -> None:
    p = backend.asarray(np.zeros(6, dtype="float32"))
    for off in (0, -1):
        target = backend.asarray(np.asarray([1, off, off, 1, off, off]))
        fitted = Hinge(class_weight="balanced").fit_to(p, target)
        assert fitted.class_weight == (0.75, 1.5)


def test_ctc_of_no_sequences_is_none(backend: Backend) -> None:
    logits = backend.asarray(TIMES[:0].astype("float32"))
    assert ctc_loss(logits, backend.asarray(SPELLED[:0])).shape == (0,)


@pytest.mark.only("numpy")
def test_a_vector_of_zeros_has_no_direction_in_float16_either() -> None:
    vectors = np.asarray([[0.0, 0.0], [1.0, 1.0]], dtype="float16")
    assert CosineDistance().values(vectors, vectors).tolist() == [1.0, 0.0]
    assert np.isfinite(tinynn.grad(lambda v: InfoNCE()(v, np.asarray([1, 1])))(vectors)).all()


def test_distances_of_triplets_are_those_of_vectors_far_from_zero(backend: Backend) -> None:
    near = np.random.default_rng(0).integers(-3, 4, (6, 4)).astype("float32") / 64
    labels = backend.asarray(np.asarray([0, 0, 0, 1, 1, 1]))
    values = [Triplet().values(backend.asarray(near + far), labels) for far in (0.0, 100.0)]
    assert_close(values[1], backend.to_host(values[0]), backend, dtype="float32", rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinaryFocal(-1.0), "gamma to be a number of 0 or more"),
        (lambda: SoftmaxFocal("much"), "gamma to be a number of 0 or more"),
        (lambda: SmoothL1(0), "beta to be a number above 0"),
        (lambda: CosineDistance(0.0), "eps to be a number above 0"),
        (lambda: GaussianNLL(eps=0.0), "eps to be a number above 0"),
        (lambda: Quantile((0.9, 0.1)), "in ascending order"),
        (lambda: Quantile(1.0), "above 0 and below 1"),
        (lambda: Quantile(()), "in ascending order"),
        (lambda: Triplet(-1.0), "margin to be a number of 0 or more"),
        (lambda: Triplet(mining="soft"), "one of hard, all"),
        (lambda: InfoNCE(0.0), "temperature to be a number above 0"),
        (lambda: CTC(-1), "blank to be a whole number, 0 or more"),
    ],
)
def test_settings_out_of_range(make: Callable[[], Loss], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", CASES)
def test_description_round_trip(name: str) -> None:
    loss = CASES[name].loss
    assert losses.from_config(json.loads(json.dumps(losses.to_config(loss)))) == loss


def test_ends_of_networks_that_do_not_suit() -> None:
    for loss, last, fix in (
        (BinaryFocal(), sigmoid, "loss.probabilities"),
        (SoftmaxFocal(), softmax, "NegativeLogLikelihood"),
        (KLDivergence(), softmax, "loss.probabilities"),
        (SquaredHinge(), sigmoid, "a hinge is of numbers of any size"),
        (MulticlassHinge(), softmax, "a hinge is of numbers of any size"),
    ):
        assert fix in str(losses.activation_conflict(loss, last))
    assert losses.activation_conflict(Quantile(), sigmoid) is None


# In training.

X = np.random.default_rng(0).normal(size=(24, 3))


@pytest.mark.only("numpy", "torch")  # JAX compiles each
@pytest.mark.reads_scalars
def test_training_by_name(backend: Backend) -> None:
    """One epoch each; the loss is finite and the network's outputs are those of its width."""
    x, draw = backend.asarray(X, dtype="float32"), np.random.default_rng(1)
    for name, width, y in (
        ("focal", 3, draw.integers(0, 3, size=24)),
        ("binary_focal", 1, draw.integers(0, 2, size=24)),
        ("hinge", 1, draw.integers(0, 2, size=24)),
        ("multiclass_hinge", 3, draw.integers(0, 3, size=24)),
        ("kl_divergence", 3, draw.dirichlet(np.ones(3), size=24)),
        ("gaussian_nll", 2, X[:, 0]),
        ("quantile", 3, X[:, 0]),
        ("triplet", 4, draw.integers(0, 3, size=24)),
    ):
        y = backend.asarray(y, dtype="float32" if y.dtype.kind == "f" else None)
        model = fit(Linear(width), x, y, loss=name, epochs=1, batch_size=12)
        assert math.isfinite(model.history["loss"][0]), name
        assert math.isfinite(model.evaluate(x, y)["loss"]), name
        assert tuple(model.outputs(x).shape) == (24, width)


def test_predict_gives_what_outputs_stand_for(backend: Backend) -> None:
    x, weight = backend.asarray(X, dtype="float32"), backend.asarray(P[:3, :2], dtype="float32")
    given = {"weight": weight, "bias": backend.asarray(np.zeros(2), dtype="float32")}
    outputs = X @ P[:3, :2]
    for loss, expected in (
        (GaussianNLL(), outputs[:, :1]),
        (Poisson(), np.exp(outputs)),
        (Quantile((0.1, 0.9)), outputs),
        (SoftmaxFocal(), outputs),
    ):
        model = Model(Linear(2), given, loss=loss)
        assert_close(model.predict(x), expected, backend, rtol=1e-4)
        assert_close(model.outputs(x), outputs, backend, rtol=1e-4)


@pytest.mark.only("numpy", "torch")
@pytest.mark.reads_scalars
def test_training_with_views_and_with_lengths(backend: Backend) -> None:
    x = backend.asarray(X, dtype="float32")

    def views(x: Any) -> Any:
        return namespace(x).reshape(x, (x.shape[0], 2, 4))

    labels = backend.asarray(np.arange(24))
    options: dict[str, Any] = {"epochs": 2, "batch_size": 12, "engine": "eager"}
    model = fit(Sequential(Linear(8), views), x, labels, loss="info_nce", **options)
    assert model.history["loss"][-1] < model.history["loss"][0]
    sequences = backend.asarray(np.repeat(TIMES, 4, axis=0), dtype="float32")
    spelled = np.repeat(SPELLED[:, :2], 4, axis=0)
    y = backend.asarray(spelled), backend.asarray(np.full(24, 4))
    model = fit(Linear(4), sequences, y, loss="ctc", **options)
    assert model.history["loss"][-1] < model.history["loss"][0]
