"""Losses and metrics at values beyond the ordinary: digits, infinities, overflow and NaN."""

from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests.checks import assert_close
from tinynn.compiler import pipelines
from tinynn.functional import log_softmax, sparsemax
from tinynn.losses import KLDivergence, SoftmaxCrossEntropy, SquaredHinge
from tinynn.metrics import ROCAUC, AveragePrecision
from tinynn.training.evaluation import measure
from tinynn.transforms.record import record

INF, NAN = float("inf"), float("nan")
LOGITS = np.asarray([[1.0, -INF, 2.0], [0.5, 0.25, -INF]])
SOFT = np.asarray([[0.25, 0.0, 0.75], [0.5, 0.5, 0.0]])


def test_log_softmax_keeps_its_digits_beside_large_logits(backend: Backend) -> None:
    """PyTorch's and JAX's float32 at 1e4 are right to 1e-6; x - logsumexp(x) is to 5e-4."""
    x = np.asarray([[1e4, 1e4 + 1.0, 1e4 - 2.0], [-3e4, -3e4, -3e4 + 0.5]], dtype="float32")
    wide = x.astype("float64") - x.max(-1, keepdims=True)
    expected = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    given = backend.asarray(x)
    assert_close(log_softmax(given), expected, backend, dtype="float32", rtol=1e-6, atol=1e-6)
    loss = SoftmaxCrossEntropy(reduction="sum")(given, backend.asarray([0, 2]))
    assert_close(loss, -(expected[0, 0] + expected[1, 2]), backend, rtol=1e-6)


def test_sparsemax_of_nan_is_nan_and_of_what_is_impossible_zero(backend: Backend) -> None:
    x = backend.asarray(np.asarray([[0.5, NAN, 1.0], [0.5, -INF, 0.25]], dtype="float32"))
    found = backend.to_host(sparsemax(x))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], [0.625, 0.0, 0.375])


@pytest.mark.only("numpy")
def test_programs_look_for_the_maximum_once(backend: Backend) -> None:
    """What was shifted by its maximum has the maximum 0."""
    decompositions = pipelines.decompositions(backend.lowering)
    graph = record(log_softmax, np.ones((4, 3)), decompositions=decompositions)
    names = [node.name for node in pipelines.applied(graph, pipelines.portable()).nodes]
    assert names == ["max", "subtract", "exp", "sum", "log", "subtract"]


@pytest.mark.parametrize("kind", ["labels", "smooth", "shares", "divergence"])
def test_an_impossible_class_that_is_not_the_target_costs_nothing(
    kind: str, backend: Backend, float64: Any
) -> None:
    """As in JAX and PyTorch; where it is the target, the loss is infinite."""
    p = backend.asarray(LOGITS, dtype=float64)
    finite = np.where(np.isinf(LOGITS), -1e6, LOGITS)
    labels, loss = np.asarray([2, 0]), SoftmaxCrossEntropy()
    target = backend.asarray(labels if kind in ("labels", "smooth") else SOFT)
    if kind == "divergence":
        loss = KLDivergence()
    if kind == "smooth":  # every class is a part of the target
        loss = SoftmaxCrossEntropy(label_smoothing=0.1)
        assert backend.to_host(loss(p, target)) == INF
        return
    host = labels if kind == "labels" else SOFT
    value, gradient = tinynn.value_and_grad(lambda p: loss(p, target))(p)
    expected, slope = tinynn.value_and_grad(lambda p: loss(p, host))(finite)
    assert_close(value, expected, backend, rtol=1e-12)
    assert_close(gradient, slope, backend, rtol=1e-12, atol=1e-15)
    if kind == "labels":
        assert backend.to_host(loss(p, backend.asarray([1, 0]))) == INF


@pytest.mark.only("torch")
def test_impossible_classes_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    p = torch.tensor(LOGITS, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(p, torch.tensor([2, 0]))
    theirs.backward()
    labels, loss = np.asarray([2, 0]), SoftmaxCrossEntropy()
    value, gradient = tinynn.value_and_grad(lambda p: loss(p, labels))(LOGITS)
    assert value == pytest.approx(theirs.item(), rel=1e-14)
    np.testing.assert_allclose(gradient, p.grad.numpy(), rtol=1e-12)


def test_a_squared_hinge_far_on_the_right_side_is_zero(backend: Backend) -> None:
    """The square for the other answer overflows, and is no part of the value."""
    p = backend.asarray(np.asarray([1e30, -1e30, 0.5], dtype="float32"))
    y, loss = backend.asarray([1, 0, 1]), SquaredHinge(reduction="sum")
    with np.errstate(all="ignore"):
        value, gradient = tinynn.value_and_grad(lambda p: loss(p, y))(p)
        other = backend.to_host(loss(p, backend.asarray([0, 0, 1])))
    assert_close(value, 0.25, backend, rtol=1e-6)
    assert_close(gradient, [0.0, 0.0, -1.0], backend, rtol=1e-6)
    assert other == INF


@pytest.mark.reads_scalars
def test_roc_auc_of_one_class_is_no_number(backend: Backend) -> None:
    """Once it was 0, that of scores that are wrong throughout; scikit-learn has NaN."""
    scores, ones = backend.asarray([0.1, 0.2]), backend.asarray([1, 1])
    found = ROCAUC(task="binary")(scores, ones)
    assert np.isnan(backend.to_host(found))


@pytest.mark.reads_scalars
@pytest.mark.parametrize("metric", [ROCAUC, AveragePrecision], ids=lambda metric: metric.__name__)
def test_nan_has_no_place_in_an_order(metric: Any, backend: Backend) -> None:
    """An error where somebody asks; NaN within a training, which goes on to its own end."""
    host = np.asarray([0.1, NAN, 0.35, 0.8], dtype="float32")
    scores, y, binary = backend.asarray(host), backend.asarray([0, 0, 1, 1]), metric(task="binary")
    with pytest.raises(ValueError, match=r"expected scores that can be put in order, got NaN"):
        binary(scores, y)
    samples = tinynn.data.Samples(scores, y)
    (number,) = measure(None, [binary], scores, samples)
    assert np.isnan(backend.to_host(number))
    sound = backend.asarray(np.nan_to_num(host))
    assert backend.to_host(binary(sound, y)) == 1.0
