"""Runs that are resumed: k epochs and then k more give the bits of 2k at once."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.resumed import NET, ROWS, Stop, assert_same, data
from tinynn import losses, optim, tree
from tinynn.functional import relu
from tinynn.layers import Linear, Sequential
from tinynn.training import EarlyStopping, Model, ModelFileError, Run, files, fit, loop

pytestmark = pytest.mark.reads_scalars  # the checks look at values

PLAIN = Sequential(Linear(5), relu, Linear(3))
OPTIMIZERS = {
    "sgd": optim.SGD(0.1),
    "momentum": optim.SGD(0.1, momentum=0.9),
    "adam": optim.Adam(0.01),
    "adamw": optim.AdamW(0.01),
    "rmsprop": optim.RMSprop(0.01),
}
# What is read and written is on the host by then, and a step of dpnp's takes hundreds of NumPy's.
quick_enough = pytest.mark.only("numpy", "array_api_strict", "torch", "jax", "cupy")


def assert_resumes(
    backend: Backend, folder: Path, net: Any = NET, k: int = 2, **arguments: Any
) -> Model:
    """2k epochs at once, and k and k more: the same model, and the same bytes in the checkpoint."""
    x, y = data(backend)
    once, parts = folder / "once", folder / "parts"
    whole = fit(net, x, y, epochs=2 * k, checkpoint=once, **arguments)
    fit(net, x, y, epochs=k, checkpoint=parts, **arguments)
    resumed = fit(net, x, y, epochs=2 * k, checkpoint=parts, resume=True, **arguments)
    assert_same(resumed, whole)
    assert parts.read_bytes() == once.read_bytes(), "optimizer state, callbacks and all"
    assert sorted(path.name for path in folder.iterdir()) == ["once", "parts"]
    return whole


@pytest.fixture
def engines(backend: Backend) -> list[str]:
    """The engines that there are for this backend."""
    return ["eager", "calls"] if backend.repeat is None else ["eager", "calls", "jit"]


def test_every_engine(backend: Backend, engines: list[str], tmp_path: Path) -> None:
    for engine in engines:
        folder = tmp_path / engine
        folder.mkdir()
        assert_resumes(backend, folder, batch_size=5, engine=engine)


@pytest.mark.only("numpy", "cupy")
@pytest.mark.usefixtures("compiler_of_loops")
@pytest.mark.parametrize("net", [NET, PLAIN])
def test_loops(variant: Any, backend: Backend, tmp_path: Path, net: Any) -> None:
    if variant.id == "numpy-readonly":
        pytest.skip("loops write into arrays, which are read-only here")
    assert_resumes(backend, tmp_path, net, batch_size=5, engine="loops")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(backend: Backend, tmp_path: Path, name: str) -> None:
    assert_resumes(backend, tmp_path, PLAIN, optimizer=OPTIMIZERS[name], batch_size=8)


@quick_enough
def test_auto_goes_on_with_the_engine_it_had(backend: Backend, tmp_path: Path) -> None:
    x, y = data(backend)
    fit(NET, x, y, epochs=2, checkpoint=tmp_path / "parts")
    assert files.read(tmp_path / "parts", "checkpoint")[1]["engine"] == "eager"
    long = fit(NET, x, y, epochs=203, checkpoint=tmp_path / "parts", resume=True)
    assert files.read(tmp_path / "parts", "checkpoint")[1]["engine"] == "eager"
    assert len(long.history["loss"]) == 203


@quick_enough
@pytest.mark.parametrize(
    "arguments",
    [
        {"shuffle": False},
        {"batch_size": None},
        {"batch_size": 11},
        {"batch_size": 11, "shuffle": False},
        {"sample_weight": np.linspace(0.1, 1.0, ROWS).tolist()},
        {"validation": 0.3, "metrics": ["accuracy"]},
        {"validation": 0.3, "shuffle": False},
        {"metrics": ["accuracy"]},
        {"seed": 7, "loss": "softmax_cross_entropy"},
    ],
    ids=str,
)
def test_every_way_of_training(
    backend: Backend, engines: list[str], tmp_path: Path, arguments: dict[str, Any]
) -> None:
    arguments = {"batch_size": 5, "engine": engines[-1], **arguments}
    assert_resumes(backend, tmp_path, **arguments)


@pytest.mark.parametrize("batch_size", [None, 11])
def test_epochs_that_are_carried_out_together(
    backend: Backend, engines: list[str], tmp_path: Path, batch_size: int | None
) -> None:
    """Without a checkpoint in the second half nothing looks at each epoch."""
    x, y = data(backend)
    for engine in engines[1:]:
        arguments: dict[str, Any] = {
            "shuffle": False, "batch_size": batch_size, "engine": engine,
        }  # fmt: skip
        whole = fit(PLAIN, x, y, epochs=40, **arguments)
        fit(PLAIN, x, y, epochs=7, checkpoint=tmp_path / "file", **arguments)
        resumed = fit(PLAIN, x, y, epochs=40, resume=tmp_path / "file", **arguments)
        if engine != "jit":
            assert_same(resumed, whole)
            continue
        # XLA makes another program of another number of epochs, which may round otherwise.
        np.testing.assert_allclose(resumed.history["loss"], whole.history["loss"], rtol=1e-6)


@quick_enough
def test_several_resumes_in_a_row(backend: Backend, tmp_path: Path) -> None:
    x, y = data(backend)
    whole = fit(NET, x, y, epochs=6, batch_size=5)
    for epochs in (1, 2, 2, 5, 6, 6):
        model = fit(
            NET, x, y, epochs=epochs, batch_size=5, checkpoint=tmp_path / "file", resume=True
        )
        assert len(model.history["loss"]) == epochs
    assert_same(model, whole)


# In the middle of an epoch.


@pytest.fixture
def one_step_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        loop.Pace, "steps", property(lambda self: 1, lambda self, steps: None), raising=False
    )


@quick_enough
@pytest.mark.usefixtures("one_step_a_chunk")
@pytest.mark.parametrize("shuffle", [True, False])
def test_in_the_middle_of_an_epoch(
    backend: Backend,
    engines: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shuffle: bool,
) -> None:
    """The process ends as a checkpoint has been written, at each step in turn."""
    if backend.repeat is not None and not shuffle:
        engines = engines[-1:]  # each of the fits below is compiled anew
    x, y = data(backend)
    weights = backend.asarray(np.linspace(0.1, 1.0, ROWS), "float32")
    for engine in engines:
        arguments: dict[str, Any] = {
            "epochs": 2, "batch_size": 5, "engine": engine, "shuffle": shuffle,
            "sample_weight": weights, "checkpoint": tmp_path / engine,
            "every": timedelta(microseconds=1),
        }  # fmt: skip
        whole = fit(NET, x, y, **arguments)
        (tmp_path / engine).unlink()
        for resumes in range(20):  # noqa: B007 (looked at after the loop)
            with monkeypatch.context() as patch:
                patch.setattr(files, "write", write_and_stop(files.write))
                try:
                    model = fit(NET, x, y, resume=True, **arguments)
                    break
                except Stop:
                    pass
        assert resumes == 2 * 5, "a checkpoint after each of the steps"
        assert_same(model, whole)


def write_and_stop(write: Callable[..., None]) -> Callable[..., None]:
    def wrapper(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        raise Stop

    return wrapper


@quick_enough
@pytest.mark.usefixtures("one_step_a_chunk")
def test_ctrl_c_in_an_epoch_that_was_resumed_in_its_middle(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no whole epoch to go back to: Ctrl-C is passed on, and the file stays."""
    x, y = data(backend)
    arguments: dict[str, Any] = {
        "epochs": 3, "batch_size": 5, "checkpoint": tmp_path / "file",
        "every": timedelta(microseconds=1),
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", write_and_stop(files.write))
        for _ in range(7):
            with pytest.raises(Stop):
                fit(NET, x, y, resume=True, **arguments)
    kept = files.read(tmp_path / "file", "checkpoint")[1]
    assert (kept["epoch"], kept["step"]) == (1, 2)
    before = (tmp_path / "file").read_bytes()

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    from tinynn.training.engines.eager import Eager

    with monkeypatch.context() as patch:
        patch.setattr(Eager, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(NET, x, y, resume=True, **arguments)
    assert (tmp_path / "file").read_bytes() == before
    assert_same(fit(NET, x, y, resume=True, **arguments), fit(NET, x, y, epochs=3, batch_size=5))


def test_ctrl_c_leaves_a_checkpoint_of_the_last_whole_epoch(
    backend: Backend, tmp_path: Path
) -> None:
    x, y = data(backend)

    def interrupt(run: Run) -> None:
        if run.epoch == 3:
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="epoch 3: interrupted"):
        fit(NET, x, y, epochs=5, checkpoint=tmp_path / "file", every=10, callbacks=interrupt)
    resumed = fit(NET, x, y, epochs=5, resume=tmp_path / "file")
    assert_same(resumed, fit(NET, x, y, epochs=5))


# Callbacks.


@quick_enough
def test_early_stopping_goes_on_where_it_was(backend: Backend, tmp_path: Path) -> None:
    """The validation target is the opposite: the first epoch is the best one."""
    x, y = data(backend)
    held = (x, (y + 1) % 3)

    def train(epochs: int, **arguments: Any) -> Model:
        stopping = EarlyStopping(patience=4)
        return fit(
            NET, x, y, epochs=epochs, validation=held, batch_size=5, callbacks=[stopping],
            optimizer=optim.Adam(0.1), **arguments,
        )  # fmt: skip

    whole = train(12)
    assert len(whole.history["loss"]) < 12
    for epochs in (1, 3, 12, 12):
        model = train(epochs, checkpoint=tmp_path / "file", resume=True)
    assert_same(model, whole)


def test_a_callback_of_ones_own_is_kept(backend: Backend, tmp_path: Path) -> None:
    class Average:
        """The mean of the parameters over the epochs."""

        total: Any = None

        def __call__(self, run: Run) -> None:
            weight = run.params["bias"]
            self.total = weight if self.total is None else self.total + weight

        def get_state(self) -> dict[str, Any]:
            return {"total": self.total, "deep": {"name": "average"}}

        def set_state(self, state: dict[str, Any], run: Run) -> None:
            assert state["deep"] == {"name": "average"}
            self.total = state["total"]

    x, y = data(backend)
    once, parts = [Average(), Average()], [Average(), Average()]
    fit(Linear(3), x, y, epochs=4, callbacks=once)
    fit(Linear(3), x, y, epochs=2, callbacks=parts, checkpoint=tmp_path / "file")
    again = [Average(), Average()]
    fit(Linear(3), x, y, epochs=4, callbacks=again, resume=tmp_path / "file")
    for one, other in zip(once, again, strict=True):
        left, right = (backend.to_host(each.total) for each in (one, other))
        assert left.tobytes() == right.tobytes()


# What cannot be resumed.


@pytest.fixture
def kept(backend: Backend, tmp_path: Path) -> Iterator[Path]:
    x, y = data(backend)
    fit(NET, x, y, epochs=2, batch_size=5, checkpoint=tmp_path / "file")
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"net": PLAIN}, r"network: expected Sequential\(.*BatchNorm.*, got .*relu"),
        ({"optimizer": optim.SGD(0.1)}, r"optimizer: expected Adam\(\).*got SGD"),
        ({"loss": losses.SoftmaxCrossEntropy(reduction="sum")}, "loss: expected SoftmaxCross"),
        ({"seed": 1}, "seed: expected"),
        ({"batch_size": 6}, "batch size: expected 5, .* got 6"),
        ({"shuffle": False}, "shuffle: expected True.*got False"),
        ({"metrics": ["accuracy"]}, "history: expected .*got .*accuracy"),
        ({"validation": 0.4}, "samples: expected 22, .*got 13"),
        ({"epochs": 1}, "expected a checkpoint within 1 epochs, got one after 2"),
        ({"sample_weight": [1.0] * ROWS}, "arrays: expected .*got .*sample_weight"),
    ],
)
def test_another_run_is_refused(
    backend: Backend,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    message: str,
) -> None:
    from tinynn.training.step import TrainingStep

    monkeypatch.setattr(TrainingStep, "__call__", None)
    x, y = data(backend)
    given = {"net": NET, "epochs": 4, "batch_size": 5, **arguments}
    before = kept.read_bytes()
    with pytest.raises(ValueError, match=f"fit: resume: .*file: {message}"):
        fit(X=x, y=y, checkpoint=kept, resume=True, **given)
    assert kept.read_bytes() == before


def test_other_data_are_refused(backend: Backend, kept: Path) -> None:
    x, y = data(backend)
    with pytest.raises(ValueError, match=r"samples: expected 22, .*got 20"):
        fit(NET, x[2:, :], y[2:], epochs=4, batch_size=5, resume=kept)
    with pytest.raises(ValueError, match=r"arrays: expected .*\[4\].*got .*\[3\]"):
        fit(NET, x[:, 1:], y, epochs=4, batch_size=5, resume=kept)
    if "float64" in backend.dtypes():
        with pytest.raises(ValueError, match=r"arrays: expected .*float32.*got .*float64"):
            fit(NET, x, y, epochs=4, batch_size=5, resume=kept, dtype="float64")


@pytest.mark.only("numpy")
def test_a_frame_takes_the_dtype_of_the_run(backend: Backend, tmp_path: Path) -> None:
    """Floats of frames and lists become those of the run that goes on."""
    polars = pytest.importorskip("polars")
    x, y = data(backend)
    frame, path = polars.DataFrame(np.asarray(x), schema=list("abcd")), tmp_path / "file"
    shared: dict[str, Any] = {"batch_size": 5, "checkpoint": path, "resume": True}
    for given in (frame, frame.cast(polars.Float64), frame.rows()):  # the run is of float32
        path.unlink(missing_ok=True)
        fit(NET, x, y, epochs=2, **shared)
        given = [list(row) for row in given] if isinstance(given, list) else given
        assert_same(fit(NET, given, y, epochs=4, **shared), fit(NET, x, y, epochs=4, batch_size=5))
    with pytest.raises(ValueError, match=r"arrays: expected .*float32.*got .*float64"):
        fit(NET, frame, y, epochs=5, dtype="float64", **shared)


def test_files_that_are_no_checkpoints(backend: Backend, kept: Path) -> None:
    x, y = data(backend)
    model = kept.with_name("model")
    fit(NET, x, y, epochs=1).save(model)
    with pytest.raises(ModelFileError, match=r"expected a checkpoint, got a model.*tinynn\.load"):
        fit(NET, x, y, epochs=4, resume=model)
    with pytest.raises(FileNotFoundError, match=r"fit: resume: .*nowhere.*resume=True"):
        fit(NET, x, y, epochs=4, resume=kept.with_name("nowhere"))
    with pytest.raises(ValueError, match="fit: resume: expected a checkpoint= to resume from"):
        fit(NET, x, y, epochs=4, resume=True)
    for every in (0, -1, True, 1.5, timedelta(0)):
        with pytest.raises(ValueError, match="fit: every: expected a number of epochs"):
            fit(NET, x, y, checkpoint=kept, every=every)  # type: ignore[arg-type]
    blob = kept.read_bytes()
    middle = len(blob) // 2
    edited = blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :]
    for bad in (b"", blob[:middle], blob[:-1], edited, blob + b"\0"):
        kept.write_bytes(bad)
        with pytest.raises(ModelFileError, match="file: expected"):
            fit(NET, x, y, epochs=4, batch_size=5, resume=kept)


@pytest.mark.parametrize("gone", ["problem", "engine", "epoch", "history", "values"])
def test_a_description_with_gaps(backend: Backend, kept: Path, gone: str) -> None:
    """A file whose digest is right, which is no checkpoint all the same."""
    x, y = data(backend)
    tensors, description = files.read(kept, "checkpoint")
    for broken in ({k: v for k, v in description.items() if k != gone}, {**description, gone: 3}):
        if broken.get(gone) == 3 and gone in ("engine", "epoch"):
            continue
        arrays = [(name, np.asarray(t.values)) for name, t in tensors.items()]
        kept.write_bytes(files.pack(arrays, {**broken, "kind": "checkpoint"}, "checkpoint"))
        with pytest.raises(ModelFileError, match="file: expected the content of a checkpoint"):
            fit(NET, x, y, epochs=4, batch_size=5, resume=kept)


# Whole or not at all, and only over regular files.


@quick_enough
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_checkpoint(
    backend: Backend, kept: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    x, y = data(backend)
    before = kept.read_bytes()

    def crash(*args: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, crash)
        with pytest.warns(RuntimeWarning, match="cannot be written .disk full.: training goes on"):
            fit(NET, x, y, epochs=4, batch_size=5, checkpoint=kept, resume=True)
    assert kept.read_bytes() == before
    assert [path.name for path in kept.parent.iterdir()] == ["file"]
    resumed = fit(NET, x, y, epochs=4, batch_size=5, checkpoint=kept, resume=True)
    assert_same(resumed, fit(NET, x, y, epochs=4, batch_size=5))


@pytest.mark.filterwarnings("ignore:fit")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of a library's own
def test_a_diverged_state_never_replaces_a_good_one(backend: Backend, tmp_path: Path) -> None:
    x, y = data(backend)
    good: list[bytes] = []

    def spoil(run: Run) -> None:
        if run.epoch == 2:
            good.append((tmp_path / "file").read_bytes())
            run.params = tree.map(lambda a: a * float("inf"), run.params)

    fit(PLAIN, x, y, epochs=4, checkpoint=tmp_path / "file", callbacks=spoil, every=1)
    kept = files.read(tmp_path / "file", "checkpoint")[1]
    assert kept["epoch"] <= 2
    assert np.isfinite(kept["history"]["loss"]).all()
