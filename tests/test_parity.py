"""One seed gives one training, whatever the backend: starts and batches to the bit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import backends
from backends import Backend, random
from tests.checks import assert_close, assert_equal
from tinynn import tree
from tinynn.functional import relu, tanh
from tinynn.layers import BatchNorm, Dropout, Linear, Scope, Sequential
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import Adam
from tinynn.trace import bottom
from tinynn.training import Carry, TrainingStep, fit

# No bias before BatchNorm, which takes the mean away again: its gradient would be nothing but
# rounding, and Adam, which divides by its size, would make steps of that.
NET = Sequential(
    Linear(12, bias=False), BatchNorm(), relu, Dropout(0.25), Linear(8), tanh, Linear(3)
)
SAMPLES, BATCH, EPOCHS = 80, 16, 10  # 50 steps of Adam
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}

pytestmark = pytest.mark.reads_scalars  # the loss looks at the range of the labels


def data(dtype: str) -> tuple[Any, Any]:
    """Three classes, in whole and half numbers that every dtype holds exactly."""
    numbers = np.arange(SAMPLES * 6).reshape(SAMPLES, 6)
    x = ((numbers * 37 + numbers // 7) % 33 - 16) / 8
    return x.astype(dtype), (x[:, :3] + 0.5 * x[:, 3:]).argmax(axis=1)


def trained(backend: Backend, dtype: str, **settings: Any) -> tuple[list[Any], list[float]]:
    """The parameters after each step, and the loss of each step."""
    x, y = data(dtype)
    steps: list[tuple[Carry, Any]] = []

    def watched(self: TrainingStep, *args: Any) -> tuple[Carry, Any]:
        steps.append(step(self, *args))
        return steps[-1]

    step = TrainingStep.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", watched)
        fit(
            NET,
            backend.asarray(x),
            backend.asarray(y),
            loss=SoftmaxCrossEntropy(),
            optimizer=Adam(0.01),
            progress=False,
            **{"epochs": EPOCHS, "batch_size": BATCH, "seed": 11, **settings},
        )
    losses = [float(backend.to_host(value)) for _, value in steps]
    return [carry.params for carry, _ in steps], losses


def test_the_start_is_the_same_to_the_bit(backend: Backend, float_dtype: Any) -> None:
    dtype = backend.dtype_name(float_dtype)
    x, _ = data(dtype)
    expected = tree.paths(NET.init(11, x)[0])
    found = tree.paths(NET.init(11, backend.asarray(x))[0])
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, array), (_, reference) in zip(found, expected, strict=True):
        assert_equal(array, reference, backend, dtype=dtype)


def test_batches_and_masks_are_the_same(backend: Backend) -> None:
    def drawn(where: Backend) -> list[Any]:
        key = random.fold_in(random.key(11, where), 2**30)
        order = random.permutation(random.fold_in(key, 3), SAMPLES)
        mask = random.bernoulli(random.fold_in(key, 4), 0.75, (BATCH, 12))
        return [where.to_host(array) for array in (key, order, mask)]

    for found, reference in zip(drawn(backend), drawn(backends.get("numpy")), strict=True):
        np.testing.assert_array_equal(found, reference)


def test_the_batches_of_fit_are_the_same(backend: Backend) -> None:
    """A layer that keeps what it is given sees the same samples in the same order everywhere."""

    @dataclass(frozen=True)
    class Spy(Linear):
        def forward(self, scope: Scope, x: Any) -> Any:
            if scope.training:
                batches.append(bottom(x))
            return super().forward(scope, x)

    x = np.arange(20.0, dtype="float32").reshape(10, 2)
    batches: list[Any] = []
    for where in (backends.get("numpy"), backend):
        fit(Spy(1), where.asarray(x), where.asarray(x[:, 0]), epochs=2, batch_size=4, seed=3)
    half = len(batches) // 2
    shapes = [tuple(batch.shape) for batch in batches[half:]]
    assert shapes[-6:] == [(4, 2), (4, 2), (2, 2)] * 2
    for reference, found in zip(batches[:half], batches[half:], strict=True):
        assert_equal(found, reference, backend)
    epoch = np.concatenate(batches[half - 3 : half])
    assert sorted(epoch[:, 0].tolist()) == x[:, 0].tolist()
    assert epoch[:, 0].tolist() != x[:, 0].tolist()


def test_losses_follow_the_reference(backend: Backend, float_dtype: Any) -> None:
    dtype = backend.dtype_name(float_dtype)
    reference, expected = trained(backends.get("numpy"), dtype)
    params, losses = trained(backend, dtype)
    assert len(losses) == 50
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE[dtype])
    assert losses[-1] < 0.8 * losses[0]
    rtol = 100 * TOLERANCE[dtype]
    for found, wanted in zip(tree.leaves(params[-1]), tree.leaves(reference[-1]), strict=True):
        assert_close(found, wanted, backend, dtype=dtype, rtol=rtol, atol=rtol)


def test_a_held_out_part_is_the_same(backend: Backend) -> None:
    settings = {"validation": 0.2, "epochs": 1}
    _, expected = trained(backends.get("numpy"), "float32", **settings)
    _, losses = trained(backend, "float32", **settings)
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE["float32"])


def test_another_seed_is_another_training() -> None:
    numpy = backends.get("numpy")
    first = trained(numpy, "float64")[1]
    assert trained(numpy, "float64")[1] == first
    assert trained(numpy, "float64", seed=12)[1] != first
