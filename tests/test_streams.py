"""Batches of the user's own as data: the bits of the same rows in memory, and clear errors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends import Backend, MixedArrays
from tinynn import tree
from tinynn.functional import tanh
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.training import Model, checkpoints, fit, prepare, train
from tinynn.training import engines as made

pytestmark = pytest.mark.reads_scalars  # the checks look at values

RNG = np.random.default_rng(8)
ROWS, SIZE = 13, 5
X = RNG.normal(size=(ROWS, 4)).astype("float32")
LABELS = np.arange(ROWS) % 3
WEIGHTS = np.linspace(0.1, 1.0, ROWS).astype("float32")
NET = Sequential(Linear(5), BatchNorm(), tanh, Dropout(0.25), Linear(3))
PLAIN = Sequential(Linear(5), tanh, Linear(3))
CE = "softmax_cross_entropy"
Pair = tuple[Any, ...]
# A step of dpnp's takes hundreds of NumPy's, and what is tested here happens before the steps.
quick_enough = pytest.mark.only("numpy", "array_api_strict", "torch", "jax", "cupy")


def arrays(backend: Backend, weights: bool = False) -> Pair:
    parts = (X, LABELS, WEIGHTS) if weights else (X, LABELS)
    return tuple(map(backend.asarray, parts))


def batches_of(parts: Pair, size: int = SIZE) -> Callable[[], Iterator[Pair]]:
    def batches() -> Iterator[Pair]:
        for start in range(0, ROWS, size):
            yield tuple(part[start : min(start + size, ROWS), ...] for part in parts)

    return batches


def assert_same(one: Model, other: Model) -> None:
    assert one.history == other.history
    for part in ("params", "state"):
        pairs = [tree.paths(getattr(model, part)) for model in (one, other)]
        for (name, a), (_, b) in zip(*pairs, strict=True):
            assert one.backend.to_host(a).tobytes() == one.backend.to_host(b).tobytes(), name


@pytest.fixture
def engines(backend: Backend, variant: Any) -> list[str]:
    found = ["eager", "calls" if backend.repeat is None else "jit"]
    return [*found, "loops"] if variant.id == "numpy" else found


@pytest.mark.parametrize("weights", [False, True], ids=["", "weighted"])
def test_the_bits_of_rows_in_memory(backend: Backend, engines: list[str], weights: bool) -> None:
    parts = arrays(backend, weights)
    x, y, *rest = parts
    for engine in engines:
        shared = {"loss": CE, "epochs": 2, "engine": engine}
        if engine == "loops":
            pytest.importorskip("llvmlite")
        net = PLAIN if weights else NET
        streamed = fit(net, batches_of(parts), **shared)
        memory = fit(
            net, x, y, sample_weight=rest[0] if rest else None, shuffle=False, batch_size=SIZE,
            **shared,
        )  # fmt: skip
        if engine == "jit":  # another number of steps in a call is another program
            assert np.allclose(streamed.history["loss"], memory.history["loss"], rtol=1e-6)
        else:
            assert_same(streamed, memory)


@quick_enough
def test_metrics_validation_and_evaluation(backend: Backend) -> None:
    parts = arrays(backend)
    batches, few = batches_of(parts), tuple(part[:10, ...] for part in parts)
    held = [tuple(part[start : start + 5, ...] for part in parts) for start in (0, 5)]
    shared = {"loss": CE, "epochs": 2, "metrics": ["accuracy"], "engine": "eager"}
    streamed = fit(PLAIN, batches, validation=held, **shared)
    memory = fit(PLAIN, *parts, validation=few, shuffle=False, batch_size=SIZE, **shared)
    assert list(streamed.history) == list(memory.history)
    for name, numbers in memory.history.items():
        assert np.allclose(streamed.history[name], numbers, rtol=1e-5), name
    without = fit(PLAIN, batches, **shared)
    measured, whole = streamed.evaluate(batches), streamed.evaluate(*parts)
    assert measured["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert measured["accuracy"] == pytest.approx(whole["accuracy"])
    assert without.history["accuracy"][-1] == pytest.approx(without.evaluate(*parts)["accuracy"])


def test_trees_numbers_and_other_targets(backend: Backend) -> None:
    """Targets of one axis fit predictions of two, batch by batch, as in memory."""
    x, y = backend.asarray(X), backend.asarray(X[:, 0])
    shared = {"loss": "squared_error", "epochs": 3, "engine": "eager"}
    streamed = fit(Linear(1), batches_of((x, y)), **shared)
    assert_same(streamed, fit(Linear(1), x, y, shuffle=False, batch_size=SIZE, **shared))


@quick_enough
def test_lists_loaders_and_functions_of_the_epoch(backend: Backend) -> None:
    parts, seen = arrays(backend), []
    plain = batches_of(parts)

    def by_epoch(epoch: int) -> Iterator[Pair]:
        seen.append(epoch)
        return plain()

    class Loader:
        def __iter__(self) -> Iterator[Pair]:
            return iter([list(batch) for batch in plain()])

        def __len__(self) -> int:
            return 3

    shared = {"loss": CE, "epochs": 3, "engine": "eager"}
    want = fit(PLAIN, plain, **shared)
    for source in (list(plain()), Loader(), by_epoch):
        assert_same(fit(PLAIN, source, **shared), want)
    assert seen == [0, 1, 2], "the batch that was looked at first is not read again"
    once = fit(PLAIN, plain(), **(shared | {"epochs": 1}))
    assert once.history["loss"] == want.history["loss"][:1]


@pytest.mark.only("torch")
def test_data_loaders_of_pytorch(backend: Backend) -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x, y = arrays(backend)
    dataset = TensorDataset(x, y)
    shared = {"loss": CE, "epochs": 2, "engine": "calls"}
    memory = fit(PLAIN, x, y, shuffle=False, batch_size=SIZE, **shared)
    assert_same(fit(PLAIN, DataLoader(dataset, batch_size=SIZE), **shared), memory)
    assert_same(fit(PLAIN, dataset, shuffle=False, batch_size=SIZE, **shared), memory)
    shuffled = fit(PLAIN, dataset, batch_size=SIZE, validation=0.2, **shared)
    assert shuffled.history["validation_loss"]
    loader = DataLoader(dataset, batch_size=SIZE, shuffle=True, drop_last=True)
    assert len(fit(PLAIN, loader, **shared).history["loss"]) == 2
    assert torch.is_tensor(shuffled.params["0"]["weight"])


def test_single_samples_by_number(backend: Backend) -> None:
    x, y = arrays(backend)

    class Rows:
        """A map-style dataset: an array and a Python number a sample."""

        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, number: int) -> Pair:
            return x[number, :], int(LABELS[number])

    shared = {"loss": CE, "epochs": 2, "engine": "eager", "batch_size": SIZE}
    assert_same(fit(PLAIN, Rows(), **shared), fit(PLAIN, x, y, **shared))
    assert fit(PLAIN, Rows(), validation=0.3, **shared).history["validation_loss"]


def test_host_batches_go_where_backend_says(backend: Backend) -> None:
    host = batches_of((X, LABELS))
    model = fit(PLAIN, host, loss=CE, epochs=1, backend=backend)
    assert model.backend == backend
    if backend != backends.get("numpy"):
        there = batches_of(arrays(backend))
        mixed = lambda: iter([next(there()), next(host())])  # noqa: E731
        with pytest.raises(MixedArrays, match=r"X, batch 2: X: expected an array on"):
            fit(PLAIN, mixed, loss=CE, epochs=1)


# Going on.


@quick_enough
def test_k_epochs_and_k_more(backend: Backend, engines: list[str], tmp_path: Path) -> None:
    batches = batches_of(arrays(backend, weights=True))
    for engine in engines:
        shared: dict[str, Any] = {"loss": CE, "engine": engine}
        whole = fit(NET, batches, epochs=2, **shared)
        path = tmp_path / engine
        fit(NET, batches, epochs=1, checkpoint=path, **shared)
        rest = fit(NET, batches, epochs=2, checkpoint=path, resume=True, **shared)
        assert_same(rest, whole)


def test_going_on_within_an_epoch_skips_what_was_done(backend: Backend, tmp_path: Path) -> None:
    plain, path = batches_of(arrays(backend, weights=True)), tmp_path / "parts"
    shared: dict[str, Any] = {"loss": CE, "engine": "eager"}
    problem = prepare(NET, plain, loss=CE)
    state = train(problem, 1, engine="eager").state
    epoch = problem.batches.epoch(1)
    engine = made.select(problem, "eager", carry=state.carry)
    with problem.backend.scope():
        assert problem.batches.available(epoch, 0, 99) == 3
        state.losses = [engine.run(epoch, 0, 2)]
    state.carry, state.step = engine.snapshot()[0], 2
    checkpoints.save(path, state, problem)
    assert_same(
        fit(NET, plain, epochs=2, resume=path, **shared), fit(NET, plain, epochs=2, **shared)
    )
    short = lambda: iter(list(plain())[:1])  # noqa: E731
    with pytest.raises(ValueError, match=r"expected more than 2 batches, to go on.* got 1"):
        fit(NET, short, epochs=3, resume=path, **shared)


# What is refused.


def test_an_iterator_is_gone_through_once(backend: Backend) -> None:
    batches = batches_of(arrays(backend))
    for epochs, more in ((2, {}), (1, {"metrics": ["accuracy"]})):
        with pytest.raises(ValueError, match=r"fit: X: expected batches that can be gone through "):
            fit(PLAIN, batches(), loss=CE, epochs=epochs, **more)
    with pytest.raises(ValueError, match=r"fit: validation X: expected batches that can be"):
        fit(PLAIN, batches, loss=CE, epochs=2, validation=batches())
    problem = prepare(PLAIN, batches(), loss=CE)
    first = train(problem, 1)
    with pytest.raises(ValueError, match="gone through again"):
        train(problem, 2, state=first.state)
    generator = batches()
    again = type("Again", (), {"__iter__": lambda self: generator})()
    with pytest.raises(ValueError, match=r"expected 13 samples in each pass.* got 0 in 0 batches"):
        fit(PLAIN, again, loss=CE, epochs=2)


def replaced(parts: Pair, place: int, *batch: Any) -> list[Pair]:
    """The batches, with another at that place."""
    batches: list[Any] = list(batches_of(parts)())
    batches[place] = batch
    return batches


@quick_enough
def test_batches_that_do_not_fit(backend: Backend) -> None:
    x, y = parts = arrays(backend)
    xp = backend.xp
    bad = backend.asarray(np.where(X > 0, np.nan, X).astype("float32"))
    cases = [
        ((x[:3, :], y[:3]), r"batch 2: expected 5 samples, as in the first batch .* got 3"),
        ((x[:7, :], y[:7]), r"batch 2: expected 5 samples, as in the first batch .* got 7"),
        ((x[:5, :3], y[:5]), r"batch 2: x: expected rows of shape \(4,\) and .* shape \(3,\)"),
        ((x[:5, :], y[:4]), r"batch 2: y: expected 5 entries"),
        ((x[:5, :], xp.astype(y[:5], xp.int16)), r"batch 2: y: expected .* got .*int16"),
        ((x[:5, :], y[:5], x[:5, 0] * x[:5, 0]), r"batch 2: sample_weight: expected none, .*"),
        ((bad[:5, :], y[:5]), r"batch 2: X, column 0: expected finite numbers"),
        ((x[:5, :], y[:5] + 7), r"expected"),
        ((x[:5, :],), r"batch 2: expected \(X, y\) or \(X, y, sample_weight\), got tuple of 1"),
    ]
    for batch, said in cases:
        with pytest.raises((ValueError, TypeError), match=said):
            fit(PLAIN, replaced(parts, 1, *batch), loss=CE, epochs=1, engine="eager")
    for rows, said in (([], "expected at least one batch"), ([[1.0, 2.0]], "give y beside it")):
        with pytest.raises((ValueError, TypeError), match=rf"fit: X.*{said}"):
            fit(PLAIN, rows, loss=CE)


def test_arguments_that_batches_refuse(backend: Backend) -> None:
    batches = batches_of(arrays(backend))
    for name, value in (("batch_size", 8), ("batch_size", None), ("shuffle", True)):
        with pytest.raises(ValueError, match=rf"fit: {name}: expected .* beside batches as X"):
            fit(PLAIN, batches, loss=CE, **{name: value})
    with pytest.raises(ValueError, match=r"fit: validation: expected .* beside batches as X"):
        fit(PLAIN, batches, loss=CE, validation=0.2)
    with pytest.raises(ValueError, match=r"fit: loss: expected one that needs no look"):
        fit(PLAIN, batches)
    with pytest.raises(ValueError, match=r"to bring targets and weights themselves"):
        fit(PLAIN, batches, loss=CE, sample_weight=WEIGHTS)
    fit(PLAIN, batches, loss=CE, shuffle=False, epochs=1)


@pytest.mark.only("numpy")
def test_an_error_of_the_users_says_where_it_was(backend: Backend) -> None:
    def broken() -> Iterator[Pair]:
        yield X[:5], LABELS[:5]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as error:
        fit(PLAIN, broken, loss=CE, epochs=1)
    assert error.value.__notes__ == ["fit: X: raised where batch 2 was asked for"]
    with pytest.raises(TypeError, match="a function that returns an iterable of batches, got int"):
        fit(PLAIN, lambda: 3, loss=CE)


@pytest.mark.only("numpy")
def test_little_of_a_stream_is_held(backend: Backend) -> None:
    """Batches are read ahead up to a number of bytes, not the whole pass."""
    made = 0
    x = np.zeros((2**16, 64))  # 32 MiB a batch

    def large() -> Iterator[Pair]:
        nonlocal made
        for _ in range(12):
            made += 1
            yield x, x[:, 0]

    problem = prepare(Linear(1), large, loss="squared_error")
    assert problem.batches.available(problem.batches.epoch(0), 0, 100) == 2
    assert made <= 4, "and one more, to know whether the last is the last"
    assert problem.batches.steps is None


@pytest.mark.only("numpy")
def test_a_bar_without_a_known_end(
    backend: Backend, variant: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if variant.id != "numpy":
        pytest.skip("one variant shows it")
    fit(PLAIN, batches_of((X, LABELS)), loss=CE, epochs=2, progress=True)
    assert "epoch 2/2" in capsys.readouterr().err
