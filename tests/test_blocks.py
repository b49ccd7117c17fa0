"""Data in blocks: their order, the bits of the same rows in memory, and a run that goes on."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends import Backend, random
from tinynn import tree
from tinynn.data import Blocks, DataError, Ragged
from tinynn.data.ahead import ahead
from tinynn.data.blocks import Part, windows
from tinynn.functional import tanh
from tinynn.layers import GRU, BatchNorm, Dropout, Linear, Sequential
from tinynn.training import Model, batches, checkpoints, files, fit, fit_many, prepare, train

pytestmark = pytest.mark.reads_scalars  # the checks look at values

RNG = np.random.default_rng(5)
ROWS, SIZE, SIZES = 61, 8, [10, 10, 10, 10, 10, 10, 1]
X = RNG.normal(size=(ROWS, 4)).astype("float32")
LABELS = (np.arange(ROWS) % 3).astype("int32")
WEIGHTS = np.linspace(0.1, 1.0, ROWS).astype("float32")
NET = Sequential(Linear(5), BatchNorm(), tanh, Dropout(0.25), Linear(3))
PLAIN = Sequential(Linear(5), tanh, Linear(3))
CE = "softmax_cross_entropy"


class InMemory(Blocks):
    """Rows in memory as blocks of some sizes, which count how often they are read."""

    def __init__(self, *arrays: Any, sizes: list[int] = SIZES, window: int = 25) -> None:
        self.arrays = arrays or (X, LABELS)
        self.sizes, self.window, self.reads = sizes, window, 0
        self.fail_at = -1

    def read_block(self, block: int) -> tuple[Any, ...]:
        self.reads += 1
        if self.reads == self.fail_at:
            raise OSError("the disk is gone")
        start = sum(self.sizes[:block])
        return tuple(array[start : start + self.sizes[block]] for array in self.arrays)


def order_of(epoch: int, sizes: list[int] = SIZES, window: int = 25, seed: int = 0) -> list[int]:
    """The order of an epoch, from its description and the portable generator alone."""
    key = random.fold_in(random.fold_in(random.key(seed, "numpy"), 2**30), epoch)
    starts, order, row, number = np.cumsum([0, *sizes]), [], list[int](), 0

    def end() -> None:
        places = random.permutation(random.fold_in(key, 1 + number), len(row))
        order.extend(np.asarray(row)[np.argsort(places)].tolist())

    for block in random.permutation(key, len(sizes)).tolist():
        if row and len(row) + sizes[block] > window:
            end()
            row, number = [], number + 1
        row += range(starts[block], starts[block + 1])
    end()
    return order


def assert_same(one: Model, other: Model) -> None:
    assert one.history == other.history
    for part in ("params", "state"):
        pairs = [tree.paths(getattr(model, part)) for model in (one, other)]
        for (name, a), (_, b) in zip(*pairs, strict=True):
            assert one.backend.to_host(a).tobytes() == one.backend.to_host(b).tobytes(), name


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("tinynn")]


# The order.


def test_the_order_is_the_documented_one_on_every_library(backend: Backend) -> None:
    numbers = np.arange(ROWS, dtype="int32")
    blocks = InMemory(np.stack([numbers, numbers], axis=1), numbers)
    problem = prepare(Linear(1), blocks, loss="squared_error", backend=backend, batch_size=SIZE)
    for number in range(2):
        epoch = problem.batches.epoch(number)
        seen = []
        for step in range(8):
            seen += backend.to_host(problem.batches.samples(epoch, step, 1).x)[:, 0].tolist()
        assert seen == order_of(number)
        assert sorted(seen) == list(range(ROWS)), "each row once"
        # A run that goes on at a step reads what is left, and nothing else.
        before = blocks.reads
        problem.batches.close()
        rest = problem.batches.samples(epoch, 5, 3)
        assert backend.to_host(rest.x)[:, 0].tolist() == seen[5 * SIZE :]
        assert blocks.reads - before < len(SIZES)
    problem.batches.close()
    assert order_of(0) != order_of(1)


def test_one_order_is_kept_from_version_to_version() -> None:
    """What a checkpoint of today goes on with: change it, and say so in the changelog."""
    assert order_of(0, [2, 2, 2, 1], 4) == ORDER


ORDER = [2, 4, 3, 5, 0, 1, 6]


def test_windows_hold_no_more_rows_than_asked_but_for_a_block() -> None:
    key = random.key(3, "numpy")
    found = list(windows([5, 40, 5, 5, 0, 5], 10, key))
    assert sorted(b for w in found for b in w.blocks) == list(range(6))
    assert all(w.rows <= 10 or len([b for b in w.blocks if b != 4]) == 1 for w in found)
    assert [w.blocks for w in windows([0, 40, 0, 5], 10, None)] == [(0, 1), (2, 3)]
    assert [w.first for w in found] == np.cumsum([0, *[w.rows for w in found]])[:-1].tolist()


@pytest.mark.parametrize("key", [None, random.key(1, "numpy")], ids=["last", "drawn"])
def test_a_fraction_is_held_out_of_the_blocks(key: Any) -> None:
    numbers = np.arange(ROWS)
    kept, held = Part.of(InMemory(numbers, numbers), 0.2, key)
    rows = [
        np.concatenate([part.read_block(i)[0] for i in range(len(SIZES))]) for part in (kept, held)
    ]
    assert sorted([*rows[0], *rows[1]]) == list(range(ROWS))
    assert [len(part) for part in rows] == [sum(kept.sizes), sum(held.sizes)] == [49, 12]
    if key is None:
        assert rows[1].tolist() == list(range(49, ROWS))


# Training.


def assert_trains_as_in_memory(net: Any, parts: Any, engine: str, backend: Backend) -> None:
    shared: dict[str, Any] = {"loss": CE, "epochs": 1, "engine": engine, "batch_size": SIZE}
    shared |= {"backend": backend}
    blocks = fit(net, InMemory(*parts), **shared)
    ordered = [part[order_of(0)] for part in parts]
    rest = {"sample_weight": ordered[2]} if len(parts) > 2 else {}
    memory = fit(net, *ordered[:2], **rest, shuffle=False, **shared)
    if engine == "jit":  # another number of steps in a call is another program
        assert np.allclose(blocks.history["loss"], memory.history["loss"], rtol=1e-6)
    else:
        assert_same(blocks, memory)


def test_weighted_rows_give_the_bits_of_those_in_memory(backend: Backend) -> None:
    engine = "calls" if backend.repeat is None else "jit"
    assert_trains_as_in_memory(Linear(3), (X, LABELS, WEIGHTS), engine, backend)


# JAX compiles for a minute, and a step of dpnp's takes hundreds of NumPy's.
@pytest.mark.only("numpy", "array_api_strict", "torch", "cupy")
def test_draws_and_norms_give_the_bits_of_rows_in_memory(backend: Backend) -> None:
    for engine in ("eager", "calls"):
        assert_trains_as_in_memory(NET, (X, LABELS), engine, backend)


@pytest.mark.only("numpy")
def test_machine_code_trains_on_blocks(backend: Backend) -> None:
    pytest.importorskip("llvmlite")
    shared: dict[str, Any] = {"loss": "squared_error", "epochs": 2, "batch_size": SIZE}
    models = [fit(Linear(1), InMemory(X, X[:, :1]), engine=e, **shared) for e in ("loops", "eager")]
    assert np.allclose(*(model.history["loss"] for model in models), rtol=1e-5)


@pytest.mark.only("numpy", "array_api_strict", "torch", "cupy")
def test_validation_metrics_and_evaluation(backend: Backend) -> None:
    shared: dict[str, Any] = {"loss": CE, "epochs": 2, "metrics": ["accuracy"], "engine": "eager"}
    shared |= {"backend": backend, "batch_size": 16}
    few = InMemory(X[:20], LABELS[:20], sizes=[15, 5])
    model = fit(PLAIN, InMemory(), validation=few, **shared)
    measured = model.evaluate(few)
    x, y = backend.asarray(X), backend.asarray(LABELS)
    whole = model.evaluate(x[:20, ...], y[:20, ...])
    for name in ("loss", "accuracy"):
        assert measured[name] == pytest.approx(whole[name], rel=1e-5)
        assert model.history[f"validation_{name}"][-1] == pytest.approx(whole[name], rel=1e-5)
    without = fit(PLAIN, InMemory(), **shared)
    again = without.evaluate(x, y)
    assert without.history["accuracy"][-1] == pytest.approx(again["accuracy"])
    part = fit(PLAIN, InMemory(), validation=0.2, **shared)
    assert set(part.history) >= {"validation_loss", "validation_accuracy"}


@pytest.mark.parametrize("size", [None, 40])
def test_a_batch_of_more_than_waits_is_whole(size: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_READ_AHEAD", 64)
    shared: dict[str, Any] = {"loss": CE, "epochs": 2, "batch_size": size, "shuffle": False}
    one = fit(PLAIN, InMemory(), engine="eager", **shared)
    assert_same(one, fit(PLAIN, X, LABELS, engine="eager", **shared))


@pytest.mark.only("numpy", "array_api_strict")
def test_weights_of_whole_numbers_are_floats(backend: Backend) -> None:
    shared: dict[str, Any] = {"loss": CE, "epochs": 1, "engine": "eager", "backend": backend}
    counts = np.arange(ROWS) % 4
    whole, floats = (
        fit(Linear(3), InMemory(X, LABELS, weights), **shared)
        for weights in (counts, counts.astype("float32"))
    )
    assert_same(whole, floats)


def test_trees_targets_of_one_axis_and_wide_batches(backend: Backend) -> None:
    shared: dict[str, Any] = {"loss": "squared_error", "engine": "eager", "epochs": 1}
    model = fit(Linear(1), InMemory(X, X[:, 0]), batch_size=None, backend=backend, **shared)
    memory = fit(Linear(1), X, X[:, 0], batch_size=None, backend=backend, **shared)
    assert np.allclose(model.history["loss"], memory.history["loss"], rtol=1e-5)


@pytest.mark.only("numpy")
def test_float64_and_a_dtype_that_is_asked_for(backend: Backend) -> None:
    blocks = InMemory(X.astype("float64"), LABELS)
    assert fit(PLAIN, blocks, loss=CE, epochs=1).params["0"]["weight"].dtype == np.float64
    narrow = fit(PLAIN, blocks, loss=CE, epochs=1, dtype="float32")
    assert narrow.params["0"]["weight"].dtype == np.float32


@pytest.mark.only("numpy")
def test_arrays_beside_blocks_and_blocks_without_rows(backend: Backend) -> None:
    blocks = InMemory(X, LABELS, sizes=[0, 30, 0, 31, 0])
    shared: dict[str, Any] = {"loss": CE, "epochs": 1, "engine": "eager"}
    one = fit(PLAIN, blocks, validation=(X, LABELS), **shared)
    other = fit(PLAIN, X, LABELS, validation=blocks, **shared)
    assert set(one.history) == set(other.history) == {"epoch", "loss", "validation_loss"}
    assert fit(PLAIN, blocks, validation=0.3, **shared).history["loss"]
    with pytest.raises(TypeError, match="fit_many: X: expected arrays, got what is read"):
        fit_many(PLAIN, blocks, loss=CE, epochs=1, networks=2)


# Going on.


class Stop(Exception):
    """Stands in for whatever ends a process."""


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("weights", [False, True], ids=["", "weighted"])
def test_a_run_goes_on_in_the_middle_of_an_epoch(
    backend: Backend, tmp_path: Path, weights: bool
) -> None:
    sizes, path = [10] * 40 + [2], tmp_path / "run"
    parts = [np.tile(part, (7, 1))[:402] if part.ndim > 1 else np.tile(part, 7)[:402]
             for part in (X, LABELS, WEIGHTS)[: 3 if weights else 2]]  # fmt: skip

    class Stopping(InMemory):
        def read_block(self, block: int) -> tuple[Any, ...]:
            if path.exists() and files.read(path, kind="checkpoint")[1]["step"]:
                raise Stop
            return super().read_block(block)

    def source(kind: type[InMemory] = InMemory) -> InMemory:
        return kind(*parts, sizes=sizes, window=20)

    shared: dict[str, Any] = {"loss": CE, "backend": backend, "batch_size": 4}
    run = shared | {"engine": "eager", "epochs": 2}
    whole = fit(NET, source(), **run)
    with pytest.raises(DataError, match="Stop"):
        fit(NET, source(Stopping), checkpoint=path, every=timedelta(0, 0, 1), **run)
    assert checkpoints.restore(path, prepare(NET, source(), **shared)).step
    assert_same(fit(NET, source(), resume=path, **run), whole)


@pytest.mark.only("numpy", "torch", "cupy")
def test_other_data_of_the_same_shape_are_noticed(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shared: dict[str, Any] = {"loss": CE, "batch_size": 16, "engine": "eager"}
    for first, other in (
        ((X, LABELS), (X + 1, LABELS)),
        ((X, LABELS), (X, LABELS[::-1].copy())),
        ((InMemory(),), (InMemory(X + 1, LABELS),)),
        ((InMemory(),), (InMemory(window=20),)),
    ):
        here = shared | ({"backend": backend})
        fit(PLAIN, *first, epochs=1, checkpoint=path, **here)
        fit(PLAIN, *first, epochs=2, checkpoint=path, resume=True, **here)
        with pytest.raises(ValueError, match=r"data: expected those .*other_data=True"):
            fit(PLAIN, *other, epochs=3, resume=path, **here)
        rest = {k: v for k, v in here.items() if k != "engine"}
        problem = prepare(PLAIN, *other, **rest)
        state = checkpoints.restore(path, problem, other_data=True)
        assert train(problem, 3, state=state, engine="eager").epoch == 3


class Named(InMemory):
    def identity(self) -> Any:
        return ("a tuple", 1)


@pytest.mark.only("numpy", "torch", "cupy")
def test_the_same_data_in_another_form_go_on(backend: Backend, tmp_path: Path) -> None:
    scipy = pytest.importorskip("scipy.sparse")
    path, wide = tmp_path / "run", np.where(X > 0.5, X, np.float32(0.0))
    sparse = scipy.csr_array(wide)
    other = scipy.csr_array(wide)
    other.indices, other.indptr = other.indices.astype("int64"), other.indptr.astype("int64")
    ragged = [[[v] for v in row[: 1 + i % 4]] for i, row in enumerate(X.tolist())]
    net = Sequential(GRU(2), Linear(3))
    for each, first, again in (
        (PLAIN, (X, LABELS), (np.asfortranarray(X), LABELS[::-1][::-1])),
        (PLAIN, (Named(),), (Named(),)),
        (PLAIN, (sparse, LABELS), (other, LABELS)),
        (net, (Ragged(ragged), LABELS), (Ragged(ragged), LABELS)),
    ):
        shared: dict[str, Any] = {"loss": CE, "batch_size": 32, "engine": "eager"}
        shared |= {"backend": backend, "checkpoint": path}
        fit(each, *first, epochs=1, **shared)
        fit(each, *again, epochs=2, resume=True, **shared)
    with pytest.raises(ValueError, match="data: expected those"):
        fit(net, Ragged([[[v + 1] for [v] in row] for row in ragged]), LABELS, epochs=3,
            resume=True, **shared)  # fmt: skip


# What goes wrong.


def bad(name: str, value: Any) -> InMemory:
    class Bad(InMemory):
        def read_block(self, block: int) -> tuple[Any, ...]:
            read = super().read_block(block)
            return read if block != 2 else value(*read)

        def place(self, block: int) -> str:
            return f"{name}, part {block}"

    return Bad()


BAD = {
    "fewer rows": (lambda x, y: (x[:5], y), r"part 2: x: expected 10 rows .*got .*\(5, 4\)"),
    "other width": (lambda x, y: (x[:, :3], y), r"part 2: x: expected rows of shape \(4,\)"),
    "other dtype": (lambda x, y: (x, y.astype("float64")), "part 2: y: expected .*int32.*float64"),
    "nan": (
        lambda x, y: (np.where(np.arange(40).reshape(10, 4) == 6, np.nan, x).astype("f4"), y),
        "part 2: x, column 2: expected finite numbers, got 1 of 10 rows.*in row 1",
    ),
    "text": (lambda x, y: (x.astype(str), y), "part 2: x: expected 10 rows of numbers, got <U"),
    "no pair": (lambda x, y: x, r"part 2: expected \(X, y\)"),
    "weights come": (lambda x, y: (x, y, x[:, 0]), "part 2: sample_weight: expected none"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_bad_block_is_named(case: str) -> None:
    value, message = BAD[case]
    with pytest.raises(DataError, match=message) as raised:
        fit(PLAIN, bad("here", value), loss=CE, epochs=1)
    assert "fit: X: here" in str(raised.value)
    assert "To fix it:" in str(raised.value)


def test_labels_that_are_held_out_are_looked_at() -> None:
    labels = LABELS.copy()
    labels[-1] = 7
    for validation in (0.2, InMemory(X, labels)):
        given = InMemory(X, labels if validation == 0.2 else LABELS)
        with pytest.raises(ValueError, match="expected labels from 0 to 2"):
            fit(PLAIN, given, loss=CE, epochs=1, validation=validation, shuffle=False)


def test_the_epochs_before_a_bad_block_are_kept(tmp_path: Path) -> None:
    blocks = InMemory()
    blocks.fail_at = 20
    with pytest.warns(RuntimeWarning, match="OSError: the disk is gone.*as it was after this"):
        model = fit(PLAIN, blocks, loss=CE, epochs=9, checkpoint=tmp_path / "run", every=5)
    epochs = len(model.history["epoch"])
    assert 1 <= epochs < 9
    whole = fit(PLAIN, InMemory(), loss=CE, epochs=9)
    again = fit(PLAIN, InMemory(), loss=CE, epochs=9, resume=tmp_path / "run", engine="eager")
    assert np.allclose(again.history["loss"], whole.history["loss"], rtol=1e-5)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="fit: loss: expected one that needs no look"):
        fit(PLAIN, InMemory())
    with pytest.raises(DataError, match="fit: X: expected rows of data, got none"):
        fit(PLAIN, InMemory(sizes=[]), loss=CE)
    with pytest.raises(DataError, match=r"block 0: x.*: expected a host array, got float"):
        fit(PLAIN, InMemory(X.tolist(), LABELS), loss=CE)
    with pytest.raises(ValueError, match="window: expected a number of rows of 1 or more"):
        fit(PLAIN, InMemory(window=0), loss=CE)
    with pytest.raises(DataError, match=r"block 0: sample_weight: expected one number a row"):
        fit(PLAIN, InMemory(X, LABELS, WEIGHTS[:, None]), loss=CE)
    far = X.astype("float64")
    far[13, 2] = 1e300
    with pytest.raises(DataError, match=r"block 1: x, column 2: .*got 1 of 10 .*in row 3"):
        fit(PLAIN, InMemory(far, LABELS), loss=CE, dtype="float32")
    with pytest.raises(ValueError, match="expected float32 or float64, got float16"):
        fit(PLAIN, InMemory(X.astype("float16"), LABELS), loss=CE)
    with pytest.raises(ValueError, match="validation X: expected rows of shape"):
        fit(PLAIN, InMemory(), loss=CE, validation=InMemory(X[:, :2], LABELS))


# Reading ahead.


def test_what_comes_next_is_read_while_the_first_is_used() -> None:
    read, reached = [], threading.Event()

    def items() -> Iterator[int]:
        for number in range(10):
            read.append(number)
            if number == 3:
                reached.set()
            yield number

    found = ahead(items(), 2)
    assert next(found) == 0
    assert reached.wait(10), "two wait, and one more is made"
    assert read == [0, 1, 2, 3]
    assert list(found) == list(range(1, 10))


def test_an_error_comes_where_its_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(KeyError, match="two"):
        next(found)


def test_ctrl_c_ends_the_thread() -> None:
    def interrupt(run: Any) -> None:
        raise KeyboardInterrupt

    class Interrupted(InMemory):
        def read_block(self, block: int) -> tuple[Any, ...]:
            if self.reads > 30:
                raise KeyboardInterrupt
            return super().read_block(block)

    with pytest.warns(RuntimeWarning, match="interrupted"):
        fit(PLAIN, Interrupted(), loss=CE, epochs=9)
    before = threading.active_count()
    with pytest.warns(RuntimeWarning, match="interrupted"):
        fit(PLAIN, InMemory(), loss=CE, epochs=9, callbacks=[interrupt])
    assert threading.active_count() == before


def test_memory_that_is_given_away(backend: Backend) -> None:
    """A buffer becomes an array of the same numbers, whatever is put into new ones after it."""
    found = []
    for number in range(5):
        buffer = backend.host_buffer((64, 3), "float32")
        buffer[...] = number
        found.append(backend.adopt(buffer))
        del buffer
    for number, array in enumerate(found):
        assert backends.of(array) == backend
        assert (backend.to_host(array) == np.full((64, 3), number, "float32")).all()
    flags = backend.host_buffer((4,), "bool")
    flags[...] = [True, False, True, True]
    assert backend.to_host(backend.adopt(flags)).tolist() == [True, False, True, True]
