"""Mixup: rows and targets in the same shares, from the distribution that was asked for."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backends import Backend, random
from tests.checks import assert_close
from tinynn.data import mixup
from tinynn.functional import one_hot
from tinynn.layers import Linear
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import Adam
from tinynn.training import fit

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(6, 2, 3)).astype("float32")
LABELS = np.asarray([0, 1, 2, 0, 1, 2])


def mixed(backend: Backend, alpha: float = 0.4) -> Any:
    x, labels = backend.asarray(X), backend.asarray(LABELS)
    return mixup(random.key(5, backend), x, one_hot(labels, 3, x.dtype), alpha=alpha)


def test_rows_and_targets_are_mixed_in_the_same_shares(backend: Backend) -> None:
    """The same key gives the same batch on every library."""
    found, expected = mixed(backend), mixed(random.of(random.key(0, "numpy")))
    assert_close(found.x, expected.x, backend, dtype="float32", rtol=1e-5, atol=1e-6)
    assert_close(found.y, expected.y, backend, dtype="float32", rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(backend.to_host(found.y).sum(1), 1.0, rtol=1e-6)


@pytest.mark.only("numpy")
def test_each_row_lies_between_two(backend: Backend) -> None:
    order = backend.to_host(random.permutation(random.fold_in(random.key(5, backend), 0), 6))
    found = mixed(backend)
    shares = np.einsum("ijk,ijk->i", found.x - X[order], X - X[order])
    lengths = np.einsum("ijk,ijk->i", X - X[order], X - X[order])
    moved = lengths > 0
    shares = shares[moved] / lengths[moved]
    assert ((shares >= 0) & (shares <= 1)).all()
    hosts = np.eye(3)[LABELS]
    expected = shares[:, None] * hosts[moved] + (1 - shares[:, None]) * hosts[order][moved]
    np.testing.assert_allclose(found.y[moved], expected, atol=1e-5)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_of_the_beta_distribution(alpha: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="SciPy is compared with")
    rows = 4000
    x = np.zeros((rows, 1))
    x[::2] = 1.0
    found = mixup(random.key(0, "numpy"), x, x, alpha=alpha).x[:, 0]
    order = random.permutation(random.fold_in(random.key(0, "numpy"), 0), rows)
    apart = x[:, 0] != x[order, 0]
    shares = np.where(x[:, 0] == 1, found, 1 - found)[apart]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.only("numpy", "torch")
@pytest.mark.reads_scalars
def test_trained_on(backend: Backend) -> None:
    x = backend.asarray(X[:, 0, :])
    y = one_hot(backend.asarray(LABELS), 3, x.dtype)

    def batches(epoch: int) -> Iterator[Any]:
        yield tuple(mixup(random.fold_in(random.key(0, backend), epoch), x, y))[:2]

    settings: dict[str, Any] = {"loss": SoftmaxCrossEntropy(), "optimizer": Adam(0.05)}
    losses = fit(Linear(3), batches, epochs=60, progress=False, **settings).history["loss"]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


@pytest.mark.only("numpy")
def test_what_cannot_be_mixed_is_named() -> None:
    key = random.key(0, "numpy")
    with pytest.raises(ValueError, match=r"^mixup: y: expected floats, .* got int64. To fix it:"):
        mixup(key, X, LABELS.astype("int64"))
    with pytest.raises(ValueError, match=r"expected as many rows in x as in y, got \[5, "):
        mixup(key, X, X[:5])
    with pytest.raises(ValueError, match="alpha above 0 and at most 1, got 2"):
        mixup(key, X, X, alpha=2)
