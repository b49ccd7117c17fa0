"""Training on several ranks: the losses of one, to rounding; they agree, or say why not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import Backend, communicators
from tests.checks import assert_close, assert_equal
from tests.ranks import NET, ROWS, fitted, samples
from tests.threads import Threads, succeeded, together
from tinynn import tree
from tinynn.data import Samples
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Dropout, Layer, Linear, Sequential, ShapeError
from tinynn.losses import InfoNCE, SoftmaxCrossEntropy
from tinynn.optim import SGD
from tinynn.parallel import Communicator, ParallelError, Shard, all_reduce_of, communicator
from tinynn.trace import Effect, namespace
from tinynn.training import prepare
from tinynn.training.engines.compiled import recorded
from tinynn.training.ranks import Ranks, code_of
from tinynn.training.sharded import Gathering, ShardedBatches, rows_of

pytestmark = pytest.mark.reads_scalars  # `fit` checks the targets that it is given
FAST = ("numpy", "torch", "array_api_strict", "cupy")  # the others compile each operation


@pytest.fixture
def data(backend: Backend) -> tuple[Any, Any]:
    return samples(backend)


def same_as_one(data: Any, backend: Backend, sizes: tuple[int, ...] = (2,), **given: Any) -> None:
    one = fitted(data, **given)
    for size in sizes:
        models = succeeded(together(size, lambda c: fitted(data, c, **given)))
        for model in models:
            assert model.history.keys() == one.history.keys()
            for name, column in one.history.items():
                np.testing.assert_allclose(model.history[name], column, rtol=1e-5)
            for left, right in zip(*map(tree.leaves, (model.params, one.params)), strict=True):
                assert_close(left, backend.to_host(right), backend)
            for left, right in zip(*map(tree.leaves, (model.state, one.state)), strict=True):
                assert_close(left, backend.to_host(right), backend)
            for left, right in zip(
                *map(tree.leaves, (model.params, models[0].params)), strict=True
            ):
                np.testing.assert_array_equal(backend.to_host(left), backend.to_host(right))


@pytest.mark.only(*FAST)
def test_ranks_give_the_losses_of_one(data: Any, backend: Backend) -> None:
    # Dropout, an order of its own in each epoch, statistics of the batch, a smaller last batch of
    # which rank 0 of 4 has no row, samples held out, and a metric.
    held = {"validation": 0.25, "metrics": ["accuracy"]}
    same_as_one(data, backend, (2, 4), engine="eager", **held)


@pytest.mark.only(*FAST)
def test_compiled_ranks_give_the_losses_of_one(data: Any, backend: Backend) -> None:
    held = {"validation": 0.25, "metrics": ["accuracy"]}
    same_as_one(data, backend, (2,), engine="calls", **held)


@pytest.mark.only(*FAST, "jax", "dpnp")
def test_parts_of_a_step_become_the_whole(backend: Backend) -> None:
    grown = [backend.asarray(np.asarray(row, dtype="float32")) for row in ([1.0, 2.0], [5.0, 8.0])]
    count = backend.asarray(7)

    def reduced(c: Any) -> Any:
        shard = Shard(all_reduce_of(c), (1, 3)[c.rank], c.rank, 4)
        turned = backend.asarray(np.asarray([1j, 2.0][c.rank], dtype="complex64"))
        state = {"mean": grown[c.rank], "count": count, "turned": turned}
        loss = shard.part_of_loss(backend.xp.sum(grown[c.rank]), None)
        return shard.reduced(loss, state, [grown[c.rank], grown[c.rank][:1]])

    for loss, state, (whole, part) in succeeded(together(2, reduced)):
        assert_close(loss, np.float32(3 / 4 + 13 * 3 / 4), backend)
        assert_close(state["mean"], np.asarray([16 / 4, 26 / 4], "float32"), backend)
        assert_close(state["turned"], np.asarray((1j + 3 * 2.0) / 4, "complex64"), backend)
        assert state["count"] is count
        assert_close(whole, np.asarray([6.0, 10.0], "float32"), backend)
        assert_close(part, np.asarray([6.0], "float32"), backend)


@pytest.mark.only(*FAST, "jax", "dpnp")
def test_rows_are_brought_together(backend: Backend) -> None:
    rows = np.asarray([[True, False], [False, False], [True, True]])

    def gathered(c: Any) -> Any:
        gathering = Gathering(c, 3, backend.xp)
        own = rows[gathering.start : max(gathering.stop, gathering.start + 1)]
        return gathering.gathered({"flags": backend.asarray(own)})

    for found in succeeded(together(4, gathered)):
        assert_equal(found["flags"], rows, backend)


def test_rows_are_split_in_order() -> None:
    assert [rows_of(rank, 4, 3) for rank in range(4)] == [(0, 0), (0, 1), (1, 2), (2, 3)]
    assert [rows_of(rank, 3, 10) for rank in range(3)] == [(0, 3), (3, 6), (6, 10)]


@dataclass(frozen=True)
class Penalised(Layer):
    """A linear layer that adds a penalty of its outputs, a mean over the rows."""

    def forward(self, scope: Any, x: Any) -> Any:
        x = scope("inner", Linear(3), x)
        scope.add_loss("size", 0.1 * namespace(x).mean(x * x))
        return x


@pytest.mark.only(*FAST)
@pytest.mark.parametrize(
    "change",
    [
        {"sample_weight": True},
        {"loss": SoftmaxCrossEntropy(class_weight=(1.0, 2.0, 0.5))},
        {"loss": SoftmaxCrossEntropy(reduction="sum"), "optimizer": SGD(0.01)},
        {"net": Penalised()},
        {"net": Penalised(), "loss": SoftmaxCrossEntropy(reduction="sum"), "optimizer": SGD(0.01)},
        {"shuffle": False, "net": Linear(3)},
        {"shuffle": False, "net": Linear(3), "batch_size": None},
    ],
    ids=["weights", "class weights", "sum", "penalty", "penalty and sum", "in order", "whole"],
)
def test_every_loss_is_that_of_the_whole_batch(
    data: Any, backend: Backend, change: dict[str, Any]
) -> None:
    if change.get("sample_weight"):
        change = {"sample_weight": backend.asarray(np.linspace(0.0, 2.0, ROWS, dtype="float32"))}
    same_as_one(data, backend, (3,), **{"engine": "eager", **change})


@pytest.mark.only("numpy")
def test_streams_and_calls_that_go_together(data: Any, backend: Backend) -> None:
    x, y = data

    def batches() -> Any:
        for start in range(0, ROWS, 10):
            yield x[start : start + 10], y[start : start + 10]

    same_as_one((batches,), backend, (2, 4), engine="calls", batch_size="auto")
    # All epochs are alike, and carried out together.
    same_as_one(data, backend, (2,), engine="calls", net=Linear(3), shuffle=False, batch_size=ROWS)


@dataclass
class Watched:
    """A dataset that notes what is read of it."""

    x: Any
    y: Any
    seen: list[int]
    size: int = ROWS

    def take(self, order: Any) -> Samples:
        self.seen += np.asarray(order).tolist()
        return Samples(self.x[order], self.y[order])

    def between(self, start: int, stop: int) -> Samples:
        return self.take(np.arange(start, stop))


def test_each_rank_reads_its_own_rows() -> None:
    x = np.linspace(0, 1, ROWS * 4, dtype="float32").reshape(ROWS, 4)
    y = np.arange(ROWS) % 3
    problem = prepare(Linear(3), x, y, batch_size=10)
    read = []
    for rank in range(3):
        dataset = Watched(x, y, [])
        whole = replace(problem.batches, dataset=dataset)
        threads: Any = Threads(rank, _Parties(3), [])
        shard = ShardedBatches(whole, threads)
        epoch = shard.epoch(0)
        for step in range(shard.steps or 0):
            shard.samples(epoch, step, 1)
        read.append(dataset.seen)
    assert sorted(chain(*read)) == list(range(ROWS))


def test_weights_are_read_once() -> None:
    x, y, seen = np.linspace(0, 1, ROWS)[:, None], np.zeros(ROWS), []

    class Weighted(Watched):
        def take(self, order: Any) -> Samples:
            seen.append(len(order))
            return Samples(self.x[order], self.y[order], np.linspace(0.5, 1.5, ROWS)[order])

    def losses(epochs: int) -> Any:
        data = Weighted(x, y, [])
        return fitted((data,), net=Linear(1), loss="squared_error", epochs=epochs).history["loss"]

    weights = np.linspace(0.5, 1.5, ROWS)
    kept = fitted((x, y), net=Linear(1), loss="squared_error", epochs=3, sample_weight=weights)
    assert losses(3) == kept.history["loss"]
    rows = []
    for epochs in (1, 3):
        seen.clear()
        losses(epochs)
        rows.append(sum(seen))
    # Each epoch more reads its rows, and looks at one whether it has a weight.
    assert rows[1] - rows[0] == 2 * (ROWS + 1)


@dataclass
class _Parties:
    parties: int


@pytest.mark.only(*FAST)
def test_the_step_has_one_all_reduce(data: Any, backend: Backend) -> None:
    net = Sequential(Linear(6), BatchNorm(), relu, Dropout(0.5), Linear(3))
    problem = prepare(net, *data, batch_size=10, loss=SoftmaxCrossEntropy())
    threads: Any = Threads(0, _Parties(2), [])  # whose calls would wait: a recording makes none
    batches = ShardedBatches(problem.batches, threads)
    step = replace(problem.step, shard=batches.shard())
    epoch = batches.epoch(0)
    keys = batches.keys(epoch, 0, 1)
    graph = recorded(step, backend, problem.start, batches.samples(epoch, 0, 1), keys[0, ...])
    assert [node.effect for node in graph.effects] == [Effect.COMMUNICATES]
    # The gradient, the loss, and the mean and variance of 6 features.
    size = sum(int(np.prod(leaf.shape)) for leaf in tree.leaves(problem.start.params))
    assert graph.effects[0].shape == (size + 1 + 12,)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("seed", lambda rank: {"seed": rank}),
        ("network", lambda rank: {"net": Linear(3, bias=rank == 0)}),
        ("optimizer", lambda rank: {"optimizer": ("adam", "sgd")[rank]}),
        ("batch size", lambda rank: {"batch_size": 10 + rank}),
        ("epochs", lambda rank: {"epochs": 2 + rank}),
        ("code", lambda rank: {"net": Sequential(Linear(3), _one if rank else _other)}),
        ("history", lambda rank: {"metrics": ["accuracy"][:rank]}),
        ("loss", lambda rank: {"loss": SoftmaxCrossEntropy(label_smoothing=0.1 * rank)}),
        ("shuffle", lambda rank: {"shuffle": rank == 0}),
        ("arrays", lambda rank: {"dtype": ("float32", "float64")[rank]}),
        ("arrays", lambda rank: {"sample_weight": (None, np.ones(ROWS))[rank]}),
        ("samples", lambda rank: {"validation": (None, 0.25)[rank]}),
        ("validation", lambda rank: {"validation": (np.full((3, 4), rank, "f4"), [0, 1, 2])}),
        ("compute dtype", lambda rank: {"compute_dtype": (None, "float16")[rank]}),
        ("callbacks", lambda rank: {"callbacks": [print][:rank]}),
        ("engine", lambda rank: {"engine": ("calls", "eager")[rank]}),
        ("checkpoint", lambda rank: {"checkpoint": (None, "run")[rank]}),
    ],
)
@pytest.mark.only("numpy")
def test_ranks_that_differ_are_found(
    data: Any, what: str, change: Callable[[int], dict[str, Any]]
) -> None:
    errors = together(2, lambda c: fitted(data, c, **{"net": Linear(3), **change(c.rank)}))
    for error in errors:
        assert isinstance(error, ParallelError)
        assert str(error).startswith(f"fit: {what}: expected the same in all processes, got ")
        assert "in rank 1. To fix it:" in str(error)


def _one(x: Any) -> Any:
    return x * 2.0


def _other(x: Any) -> Any:
    return x * 2.5


_one.__name__ = _other.__name__ = "scaled"


def test_code_is_compared() -> None:
    assert code_of(_one) != code_of(_other)
    assert code_of(NET) == code_of(NET)


@pytest.mark.only("numpy")
def test_ranks_with_other_data_are_found(data: Any) -> None:
    x, y = data
    other = x.copy()
    other[ROWS - 1, 3] += 1e-3
    errors = together(2, lambda c: fitted(((x, other)[c.rank], y), c))
    assert all(str(error).startswith("fit: data: expected the same") for error in errors)
    errors = together(2, lambda c: fitted((x[: ROWS - c.rank], y[: ROWS - c.rank]), c))
    assert all(str(error).startswith("fit: samples: expected the same") for error in errors)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("rows", [30, 41])  # a batch less, and as many of which the last is smaller
def test_streams_that_end_elsewhere_are_found(data: Any, rows: int) -> None:
    def batches(stop: int) -> Callable[[], Iterator[Any]]:
        return lambda: ((data[0][i:j], data[1][i:j]) for i, j in cuts(stop))

    def cuts(stop: int) -> list[tuple[int, int]]:
        return [(start, min(start + 10, stop)) for start in range(0, stop, 10)]

    given = {"net": Linear(3), "batch_size": "auto"}
    errors = together(2, lambda c: fitted((batches((ROWS, rows)[c.rank]),), c, **given))
    for error in errors:
        assert isinstance(error, ParallelError)
        assert "fit: rows of the batches from number 1 of epoch 1 on: expected the" in str(error)
        assert f"got 43 in rank 0 and {rows} in rank 1" in str(error)


@pytest.mark.only("numpy")
def test_what_cannot_be_shared_is_refused(data: Any) -> None:
    errors = together(3, lambda c: fitted(data, c, batch_size=2, net=Linear(3)))
    assert all("batch_size: expected 3 rows or more, one for each" in str(e) for e in errors)
    errors = together(2, lambda c: fitted(data, c, loss=InfoNCE()))
    assert all("compares the rows of a batch. To fix it" in str(error) for error in errors)
    with pytest.raises(ValueError, match=r"expected one of 'auto', 'mpi', 'gloo'.*got 'smoke'"):
        fitted(data, "smoke")
    with pytest.raises(TypeError, match="expected a name, or an object with rank, size"):
        fitted(data, 3)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_a_share_that_is_too_small_for_a_layer_is_refused(data: Any, engine: str) -> None:
    # Of 43 rows in batches of 10 the last has 3: one for rank 0 of 2.
    net = Sequential(Linear(6), BatchNorm(), Linear(3))
    for error in together(2, lambda c: fitted(data, c, net=net, engine=engine)):
        assert isinstance(error, ShapeError)
        assert str(error).startswith("layer 1, BatchNorm(): expected 2 samples or more")
        (note,) = error.__notes__
        assert note.startswith("fit: batches of 3 rows leave 1 for one of 2 processes. To fix it")


@pytest.mark.only("numpy")
def test_a_checkpoint_of_another_network_is_refused_by_all(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "run"
    fitted(data, net=Linear(3), checkpoint=path)
    before = path.read_bytes()
    other = {"net": Sequential(Linear(4), Linear(3)), "checkpoint": path, "resume": True}
    for error in together(2, lambda c: fitted(data, c, **other)):
        assert isinstance(error, ValueError)
        assert "network" in str(error)
        assert str(path) in str(error)
    assert path.read_bytes() == before
    # One rank that does not resume, or from another file, begins at another epoch.
    given = {"net": Linear(3), "checkpoint": path, "epochs": 4}
    for error in together(2, lambda c: fitted(data, c, resume=c.rank == 0, **given)):
        assert isinstance(error, ParallelError)
        assert str(error).startswith("fit: epochs: expected the same in all processes")
    assert path.read_bytes() == before


@pytest.mark.only("numpy")
def test_an_error_of_one_rank_is_one_of_all(data: Any) -> None:
    x, y = data
    own, other = together(2, lambda c: fitted(data if c.rank else (x, y[:-1]), c))
    assert isinstance(own, ValueError)
    assert not isinstance(own, ParallelError)
    assert isinstance(other, ParallelError)
    assert (
        "fit: the arguments: expected all 2 processes to succeed, got an error in rank 0: "
        in str(other)
    )
    assert str(own)[:100] in str(other)

    def fails(run: Any) -> None:
        if run.rank == 1:
            raise OSError("no space")

    other, own = together(2, lambda c: fitted(data, c, callbacks=[fails]))
    assert isinstance(own, OSError)
    assert "fit: callbacks: expected all 2 processes" in str(other)


@pytest.mark.only("numpy")
def test_a_rank_that_fails_in_a_step_takes_the_others_down(data: Any) -> None:
    def failing(rank: int) -> Any:
        calls = [0]

        def loss(prediction: Any, target: Any) -> Any:
            calls[0] += 1
            if calls[0] == 6 and rank == 1:
                raise ZeroDivisionError("in one rank")
            return namespace(prediction).mean(prediction**2)

        return loss

    other, own = together(
        2, lambda c: fitted(data, c, loss=failing(c.rank), engine="eager", epochs=3)
    )
    assert isinstance(own, ZeroDivisionError)
    assert isinstance(other, ParallelError)


@pytest.mark.only("numpy")
def test_one_rank_stops_all(data: Any) -> None:
    def stops(run: Any) -> None:
        if run.rank == 1 and run.epoch == 2:
            run.stop()

    models = succeeded(together(2, lambda c: fitted(data, c, callbacks=[stops], epochs=5)))
    assert [model.history["epoch"] for model in models] == [[1, 2], [1, 2]]


@pytest.mark.only("numpy", "torch")
def test_a_run_goes_on_with_another_number_of_ranks(
    data: Any, backend: Backend, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    given: dict[str, Any] = {"engine": "calls", "checkpoint": path}
    one = fitted(data, engine="calls", epochs=6)
    succeeded(together(3, lambda c: fitted(data, c, epochs=2, **given)))
    assert [file.name for file in tmp_path.iterdir()] == ["run"]  # written once, and nothing left
    succeeded(together(2, lambda c: fitted(data, c, epochs=4, resume=True, **given)))
    model = fitted(data, epochs=6, resume=True, **given)
    np.testing.assert_allclose(model.history["loss"], one.history["loss"], rtol=1e-5)
    # On as many ranks as before it is bit for bit that of a run at once.
    whole = succeeded(together(2, lambda c: fitted(data, c, engine="calls", epochs=4)))
    halves = tmp_path / "halves"
    for epochs in (2, 4):
        parts = succeeded(
            together(
                2,
                lambda c, n=epochs: fitted(
                    data, c, engine="calls", epochs=n, checkpoint=halves, resume=True
                ),
            )
        )
    for left, right in zip(*map(tree.leaves, (parts[1].params, whole[0].params)), strict=True):
        np.testing.assert_array_equal(backend.to_host(left), backend.to_host(right))


@pytest.mark.only("numpy")
def test_loops_and_library_compilers_give_way_to_calls(data: Any) -> None:
    def run(c: Any) -> Any:
        return fitted(data, c, engine="loops", net=Linear(3))

    with pytest.warns(RuntimeWarning, match='engine="calls" instead: .*it communicates'):
        succeeded(together(2, run))


def test_launchers_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert communicator("auto") is None
    monkeypatch.setenv("PMI_RANK", "0")
    assert communicators.launched() == "mpi"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun inside mpiexec: the inner one counts
    assert communicators.launched() == "gloo"
    assert isinstance(Threads(0, _Parties(2), []), Communicator)  # type: ignore[arg-type]


def test_one_alone_agrees_with_itself() -> None:
    ranks = Ranks(None)
    assert ranks.gathered([1.0, 2.0]) == [[1.0, 2.0]]
    ranks.check_same({"seed": 1})
    ranks.barrier()
    with pytest.raises(KeyError), ranks.together("this"):
        raise KeyError("this")
