"""Sequences that differ in length, as one array."""

from typing import Any

import numpy as np
import pytest

from backends import Backend, MixedArrays
from tests.checks import assert_equal
from tinynn.data import pad_sequences
from tinynn.layers import GRU, Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.training import fit

DRAW = np.random.default_rng(0)
ROWS = [DRAW.normal(size=(n, 2)) for n in (3, 0, 5, 1)]


def test_padded_behind(backend: Backend, float_dtype: Any) -> None:
    rows = [backend.asarray(row, dtype=float_dtype) for row in ROWS]
    x, lengths = pad_sequences(rows, length=6, value=-1.0)
    expected = np.full((4, 6, 2), -1.0)
    for row, host in zip(expected, rows, strict=True):
        row[: host.shape[0]] = backend.to_host(host)
    assert_equal(x, expected, backend, dtype=float_dtype)
    assert_equal(lengths, [3, 0, 5, 1], backend, dtype="int32")
    assert pad_sequences(rows)[0].shape == (4, 5, 2)


@pytest.mark.reads_scalars
def test_trained_on(backend: Backend) -> None:
    if backend.name == "dpnp":
        pytest.skip("a step of dpnp's takes hundreds of NumPy's")
    x, lengths = pad_sequences([backend.asarray(row, dtype="float32") for row in ROWS])
    y = backend.asarray(DRAW.normal(size=(4, 1)), dtype="float32")
    net = Sequential(GRU(2), Linear(1))
    model = fit(net, (x, lengths), y, loss=SquaredError(), epochs=2, progress=False)
    assert model.history["loss"][1] < model.history["loss"][0]


@pytest.mark.only("numpy")
def test_lists_of_numbers() -> None:
    x, lengths = pad_sequences([[7, 8, 9], [], [5]])
    np.testing.assert_array_equal(x, [[7, 8, 9], [0, 0, 0], [5, 0, 0]])
    assert x.dtype.kind == "i"
    assert lengths.tolist() == [3, 0, 1]
    assert pad_sequences([[[0.5, 1.0]], []])[0].tolist() == [[[0.5, 1.0]], [[0.0, 0.0]]]


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "one sequence or more, got none"),
        ([[1, 2, 3, 4, 5]], "sequence 0: expected 4 steps at most, got 5. To fix it: cut it"),
        ([[1], [0.5]], r"sequence 1: expected shape \(time\) and int64, .* got \(1,\) and float64"),
        ([*ROWS[:1], np.ones((2, 3))], r"sequence 1: expected shape \(time, 2\)"),
        ([np.ones(2), np.ones(())], r"sequence 1: expected shape \(time\) .* got \(\)"),
        (["abc"], "sequence 0: expected an array or a list of numbers, got str. To fix it: encode"),
    ],
)
def test_bad_sequences_are_named(sequences: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^pad_sequences: .*{message}"):
        pad_sequences(sequences, length=4)


@pytest.mark.only("torch")
def test_of_one_library(backend: Backend) -> None:
    with pytest.raises(MixedArrays):
        pad_sequences([backend.asarray([1.0]), np.ones(2)])
