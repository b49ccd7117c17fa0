"""Ragged sequences in buckets: batches of one length each, under every engine."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.checks import assert_equal
from tests.engines import compiled_by
from tinynn import tree
from tinynn.data import Ragged, pad_sequences
from tinynn.layers import GRU, Dropout, Lambda, Linear, Sequential
from tinynn.training import Model, checkpoints, fit, prepare
from tinynn.training import engines as made
from tinynn.training.engines.compiled import Compiled
from tinynn.training.pace import Pace

pytestmark = pytest.mark.reads_scalars  # the checks look at values

DRAW = np.random.default_rng(4)
LENGTHS = [3, 9, 1, 2, 5, 8, 2, 4, 6, 1, 7]
ROWS = [DRAW.normal(size=(n, 2)).astype("float32") for n in LENGTHS]
LABELS = np.arange(len(ROWS)) % 2
NET = Sequential(GRU(3), Linear(2))
FIRST = Sequential(Lambda(lambda x, lengths: x[:, 0, :], name="first"), Linear(2))
SIZE = 3
# A step of dpnp's takes hundreds of NumPy's.
quick_enough = pytest.mark.only("numpy", "array_api_strict", "torch", "jax", "cupy")


def given(backend: Backend, **options: Any) -> tuple[Ragged, Any]:
    rows = [backend.asarray(row) for row in ROWS]
    return Ragged(rows, **({"buckets": (2, 5, 9)} | options)), backend.asarray(LABELS)


def bits(model: Model) -> list[bytes]:
    return [model.backend.to_host(leaf).tobytes() for leaf in tree.leaves(model.params)]


def test_padded_to_one_length(backend: Backend) -> None:
    ragged, _ = given(backend, value=-1.0)
    x, lengths = pad_sequences([backend.asarray(row) for row in ROWS], value=-1.0)
    padded, counted = ragged.padded()
    assert_equal(padded, backend.to_host(x), backend, dtype="float32")
    assert_equal(counted, backend.to_host(lengths), backend, dtype="int32")


@pytest.mark.only("numpy", "array_api_strict", "torch", "cupy")
def test_each_batch_has_the_length_of_its_bucket(backend: Backend) -> None:
    ragged, y = given(backend)
    batches = prepare(FIRST, ragged, y, batch_size=SIZE).batches
    epochs = [batches.epoch(number) for number in (0, 1, 0)]
    assert epochs[0].order == epochs[2].order != epochs[1].order
    for epoch in epochs[:2]:
        found, shapes = [], []
        for step in range(batches.steps):
            x, lengths = (backend.to_host(a) for a in batches.samples(epoch, step, 1).x)
            shapes.append(x.shape)
            for row, steps, number in zip(x, lengths, epoch.order[step].order, strict=True):
                found.append(number)
                np.testing.assert_array_equal(row[:steps], ROWS[number])
                assert not row[steps:].any()
        assert sorted(found) == list(range(len(ROWS)))
        # Of 4, 3 and 4 sequences one goes on to the longer bucket, and two are left at the end.
        assert sorted(shapes[:-1]) == [(3, 2, 2), (3, 5, 2), (3, 9, 2)]
        assert shapes[-1] == (2, 9, 2)


@quick_enough
def test_engines_agree_and_padding_changes_no_bit(backend: Backend) -> None:
    net = FIRST if backend.name == "jax" else NET  # a scan takes XLA seconds for each shape
    weights = np.linspace(0.5, 1.5, len(ROWS)).astype("float32")
    shared: dict[str, Any] = {"epochs": 2, "batch_size": SIZE}
    expected = fit(
        net, Ragged(ROWS, buckets=(2, 5, 9)), LABELS, sample_weight=weights, engine="eager",
        backend="numpy", **shared,
    )  # fmt: skip
    (ragged, y), (spoilt, _) = (given(backend, value=v) for v in (0.0, float("nan")))
    shared["sample_weight"] = backend.asarray(weights)
    # Without a program JAX compiles each operation for each shape.
    for engine in (compiled_by(backend), *(("eager",) if backend.name != "jax" else ())):
        clean = fit(net, spoilt, y, engine=engine, **shared)
        if backend.name != "jax":
            other = fit(net, ragged, y, engine=engine, **shared)
            assert bits(clean) == bits(other)
            assert clean.history == other.history
        assert clean.history["loss"] == pytest.approx(expected.history["loss"], rel=1e-5)
        pairs = zip(tree.leaves(clean.params), tree.leaves(expected.params), strict=True)
        for one, host in pairs:
            np.testing.assert_allclose(backend.to_host(one), host, rtol=1e-4, atol=1e-5)


@pytest.mark.only("numpy", "array_api_strict", "torch", "cupy")
def test_a_program_for_each_shape(backend: Backend) -> None:
    ragged, y = given(backend)
    problem = prepare(NET, ragged, y, batch_size=SIZE)
    engine = made.select(problem, compiled_by(backend))
    assert isinstance(engine, Compiled)
    assert len(engine.loops) == 4
    engine.run(problem.batches.epoch(0), 0, 4)
    assert len(engine.loops) == 4


@pytest.mark.only("numpy")
def test_machine_code_agrees() -> None:
    pytest.importorskip("llvmlite")
    ragged = Ragged(ROWS, buckets=(9,))
    shared: dict[str, Any] = {"epochs": 2, "batch_size": SIZE, "shuffle": False}
    losses = [
        fit(NET, ragged, LABELS, engine=engine, **shared).history["loss"]
        for engine in ("calls", "loops")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.only("numpy", "torch")
def test_resumed_within_an_epoch(backend: Backend, tmp_path: Path, monkeypatch: Any) -> None:
    ragged, y = given(backend)
    net = Sequential(GRU(3), Dropout(0.25), Linear(2))
    for engine in ("eager", compiled_by(backend)):
        shared: dict[str, Any] = {"epochs": 2, "batch_size": SIZE, "engine": engine}
        whole = fit(net, ragged, y, **shared)
        monkeypatch.setattr(sys.modules["tinynn.training.loop"], "Pace", _OneStep)
        path, kept = tmp_path / engine, []
        keep = _keeping(checkpoints.Checkpointer.write, path, kept)
        monkeypatch.setattr(checkpoints.Checkpointer, "write", keep)
        fit(net, ragged, y, checkpoint=path, every=timedelta(microseconds=1), **shared)
        monkeypatch.undo()
        _, step, saved = next(each for each in kept if each[:2] == (1, 2))
        path.write_bytes(saved)
        rest = fit(net, ragged, y, checkpoint=path, resume=True, **shared)
        assert step == 2
        assert rest.history == whole.history
        assert bits(rest) == bits(whole)
    other = Ragged([backend.asarray(row) for row in ROWS], buckets=(4, 9))
    with pytest.raises(ValueError, match="buckets: expected"):
        fit(net, other, y, checkpoint=path, resume=True, **shared)


def _keeping(write: Any, path: Path, kept: list[Any]) -> Any:
    """The method that writes a checkpoint, each of which is kept with its epoch and step."""

    def kept_too(self: Any, state: Any, problem: Any, **rest: Any) -> None:
        write(self, state, problem, **rest)
        kept.append((state.epoch, state.step, path.read_bytes()))

    return kept_too


class _OneStep(Pace):
    """The pace of one step in a call."""

    def __init__(self, steps: int | None, alone: bool = True) -> None:
        super().__init__(1, alone)

    def adapt(self, took: float) -> None:
        """It stays so."""


@pytest.mark.only("numpy", "torch", "cupy")
def test_held_out_and_measured(backend: Backend) -> None:
    ragged, y = given(backend)
    for shuffle in (True, False):
        model = fit(
            NET, ragged, y, epochs=1, batch_size=SIZE, validation=0.3, metrics=["accuracy"],
            shuffle=shuffle, engine="eager",
        )  # fmt: skip
        assert list(model.history) == ["epoch", "loss", "validation_loss", "validation_accuracy"]
    padded = ragged.padded()
    np.testing.assert_array_equal(
        *(backend.to_host(model.predict(x)) for x in (ragged, padded)), strict=True
    )
    assert model.evaluate(ragged, y)["loss"] == pytest.approx(model.evaluate(padded, y)["loss"])


@pytest.mark.only("numpy")
def test_buckets_of_about_as_many_sequences() -> None:
    assert Ragged([[1] * n for n in (1, 2, 3, 4, 5, 6, 7, 8)], buckets=4).buckets == (2, 4, 6, 8)
    assert Ragged([[1, 2]] * 5).buckets == (2,)
    assert Ragged([[], [1], [2, 3]], buckets=3).buckets == (1, 2)
    assert repr(Ragged([[1], [2, 3]])) == "Ragged(2 sequences, buckets=(1, 2))"


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("sequences", "buckets", "message"),
    [
        ([], 2, "one sequence or more, got none"),
        ([[], []], 2, "a sequence of one step or more, got empty ones alone"),
        ([[1, 2, 3]], 0, "buckets: expected one or more, .* got 0"),
        ([[1, 2, 3]], 2.5, r"buckets: expected one or more, .* got 2\.5"),
        (
            [[1, 2, 3]],
            [2.5, 4],
            r"buckets: expected lengths that are whole numbers, got \[2\.5, 4\]",
        ),
        ([[1, 2, 3]], (1, 2), r"the last of 3 or more .* got \(1, 2\). To fix it: add a longer"),
        ([[1], [0.5]], 1, "sequence 1: expected shape"),
    ],
)
def test_bad_buckets_are_named(sequences: Any, buckets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^Ragged: .*{message}"):
        Ragged(sequences, buckets=buckets)


@pytest.mark.only("numpy")
def test_a_value_that_whole_numbers_cannot_be_is_refused() -> None:
    assert Ragged([[1], [2, 3]], buckets=np.asarray([1, 4])).buckets == (1, 4)
    for given in (Ragged, pad_sequences):
        assert given([[1], [2, 3]], value=-1.0) is not None
        for value in (0.5, float("nan")):
            with pytest.raises(ValueError, match=r"value: expected a whole number.*To fix it"):
                given([[1], [2, 3]], value=value)
