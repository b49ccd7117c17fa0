"""Runs that are killed: what is left on disk is always a run that can go on, to the same bits.

Faults strike in children that are forked, at a call of the file system that the seed chooses or at
any moment: tests/faults.py has them, and carries out thousands.
"""

import errno
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests import endurance, faults
from tests.faults import EPOCHS, train
from tests.memory import traced_memory
from tinynn import tree
from tinynn.layers import Linear, Sequential
from tinynn.training import ModelFileError, files, fit, loop
from tinynn.training.signals import Signals

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="faults strike in forked processes")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of the checkpoint of a run that nothing happens to."""
    path = tmp_path_factory.mktemp("alone") / "run"
    train(path)
    return path.read_bytes()


@forks
def test_killed_at_each_call_of_the_file_system(tmp_path: Path, alone: bytes) -> None:
    path, calls = tmp_path / "run", 0
    while faults.killed(faults.at_call, calls, faults.kill, train, path, keep=2):
        assert path.exists() <= files.is_sound(path)
        calls += 1
        path.unlink(missing_ok=True)
    assert calls >= 3 * EPOCHS, "a file is opened, fsynced and renamed for each checkpoint"
    assert path.read_bytes() == alone


@forks
@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again(tmp_path: Path, seed: int, alone: bytes) -> None:
    path, draw, kills = tmp_path / "run", np.random.default_rng(seed), 0
    while faults.killed(faults.after, float(draw.uniform(0.0, 0.01 * (1 + kills))), train, path):
        kills += 1  # later and later, so that there is an end
    assert kills, "the run was over before"
    assert path.read_bytes() == alone
    assert [each.name for each in tmp_path.iterdir()] == ["run"], "nothing else is left"


@forks
@pytest.mark.parametrize("source", faults.SOURCES)
def test_killed_with_the_best_epoch_kept(source: str, tmp_path: Path) -> None:
    """On arrays, batches and blocks, checkpoints within epochs too: at calls of the file system."""
    kind: dict[str, Any] = {"source": source, "best": True, "often": True}
    alone, path, draw = tmp_path / "alone", tmp_path / "run", np.random.default_rng(1)
    train(alone, **kind)
    kills = 0
    while faults.killed(faults.at_call, int(draw.integers(20)), faults.kill, train, path, **kind):
        kills += 1
    assert kills >= 2, "the run was over before"
    assert faults.files_of(path) == faults.files_of(alone)
    assert sorted(faults.files_of(path)) == ["", ".best"]
    for each in (path, path.with_name("run.best")):
        assert np.isfinite(tinynn.load(each).predict(np.ones((2, 3)))).all(), "a model, as it is"
    assert len(list(tmp_path.iterdir())) == 4, "nothing else is left"


@forks
def test_a_folder_that_turns_read_only(tmp_path: Path, alone: bytes) -> None:
    """The run ends, warned, with the last checkpoint whole, and goes on when it may be written."""
    path = tmp_path / "run"
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))

    def fails(*args: Any, **kwargs: Any) -> None:
        raise error

    train(path, epochs=2)
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "link", "unlink"):
            patch.setattr(os, name, fails)
        patch.setattr(files, "open", fails, raising=False)
        with pytest.warns(RuntimeWarning, match="cannot be written .*training goes on"):
            train(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
    train(path)
    assert path.read_bytes() == alone


@pytest.mark.parametrize("error", faults.ERRORS, ids=lambda error: error.strerror)
def test_a_disk_that_fails_for_a_while(tmp_path: Path, error: OSError, alone: bytes) -> None:
    path = tmp_path / "run"
    with pytest.warns(RuntimeWarning, match="cannot be written .*training goes on"):
        faults.at_call(4, error, train, path)
    assert path.read_bytes() == alone


def test_earlier_checkpoints_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(path, keep=3)
    found = [files.read(each, "checkpoint")[1]["epoch"] for each in (path, *files.earlier(path))]
    assert found == [EPOCHS, EPOCHS - 1, EPOCHS - 2]
    assert len(list(tmp_path.iterdir())) == 3


def test_killed_between_the_earlier_file_and_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(path, epochs=2, keep=3)
    os.replace(tmp_path / "run.1", tmp_path / "run.2")
    os.link(path, tmp_path / "run.1")  # as far as a write had come
    train(path, epochs=3, keep=3)
    found = [files.read(each, "checkpoint")[1]["epoch"] for each in (path, *files.earlier(path))]
    assert found == [3, 2, 1]
    assert len(list(tmp_path.iterdir())) == 3, "nothing else is left"


def test_a_broken_checkpoint_gives_way_to_the_one_before(tmp_path: Path, alone: bytes) -> None:
    path = tmp_path / "run"
    train(path, epochs=EPOCHS - 2, keep=2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.warns(RuntimeWarning, match=r"cut short.*goes on from .*run\.1, the one before"):
        train(path, epochs=EPOCHS - 2, keep=2)
    assert path.read_bytes() == whole
    before = [files.read(each, "checkpoint")[1]["epoch"] for each in files.earlier(path)]
    assert before == [EPOCHS - 3], "the broken file took the place of none that is whole"
    train(path, keep=2)
    assert path.read_bytes() == alone


def test_a_broken_checkpoint_alone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(path, epochs=1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelFileError, match="cut short"):
        train(path)


@pytest.mark.parametrize("keep", [0, -1, True, 1.5, "all"])
def test_how_many_to_keep(tmp_path: Path, keep: Any) -> None:
    with pytest.raises(ValueError, match="fit: keep: expected a whole number of 1 or more"):
        train(tmp_path / "run", keep=keep)


def test_a_folder_in_the_place_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.engines, "select", None)  # nothing is trained
    with pytest.raises(IsADirectoryError, match=r"^fit: checkpoint: expected the path of a file, "):
        train(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^fit: checkpoint: the folder .*does not exist"):
        train(tmp_path / "nowhere" / "run")
    with pytest.raises(IsADirectoryError, match=r"^fit: resume: expected a checkpoint, got the fo"):
        fit(faults.NET, np.ones((4, 1)), np.ones(4) / 2, epochs=1, resume=tmp_path)


@pytest.mark.parametrize("argument", [{"keep": 3}, {"every": 5}])
def test_a_schedule_without_a_file(argument: Any) -> None:
    with pytest.raises(ValueError, match=r"fit: (keep|every): expected checkpoint= beside it, got"):
        fit(faults.NET, np.ones((4, 1)), np.ones(4), epochs=1, **argument)


SCRIPT = """
import signal, sys, warnings
from pathlib import Path
from tests.faults import train
signal.signal(signal.SIGINT, signal.default_int_handler)
print("begins", flush=True)
warnings.simplefilter("error")
train(Path(sys.argv[1]), pause=0.02)
print("is over", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_signal_ends_a_run_with_its_state_written(
    tmp_path: Path, number: int, status: int, alone: bytes
) -> None:
    path = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"begins\n"
    while not path.exists():
        assert child.poll() is None
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == status, err.decode()
    assert b"is over" not in out
    train(path)
    assert path.read_bytes() == alone


def test_signals_are_left_alone_where_they_are_anothers() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert heard == [signal.SIGINT]
            assert signals.received is None
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_ctrl_c")
def test_a_second_signal_acts_at_once() -> None:
    with Signals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("usual_ctrl_c")
def test_nothing_is_noted_once_the_run_is_over() -> None:
    """A handler of the user's own, put there meanwhile, may still call the one it found."""
    with Signals() as signals:
        found: Any = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda number, frame: found(number, frame))
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signals.received is None


def own_handler(number: int, frame: Any) -> None:
    raise KeyboardInterrupt("the user's own")


HANDLERS = (signal.default_int_handler, own_handler)


@pytest.mark.usefixtures("usual_ctrl_c")
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("noted", [True, False])
def test_signals_wait_for_what_is_done_whole(handler: Any, noted: bool) -> None:
    signal.signal(signal.SIGINT, handler)
    done = []

    def interrupted() -> None:
        with Signals(noted) as signals, signals.unbroken():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # which nobody would note
            done.append(noted)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert signal.getsignal(signal.SIGINT) is handler
    assert done == [noted]


def epoch_only(run: Any) -> None:
    """A callback that looks at an epoch once it is done."""


epoch_only.only_looks = True  # type: ignore[attr-defined]

RUNS: dict[str, Any] = {
    "measured": {"engine": "eager", "metrics": ["r2"], "batch_size": 4},
    "fused": {"engine": "calls", "batch_size": None, "shuffle": False},
    "told": {
        "engine": "calls", "batch_size": None, "shuffle": False, "callbacks": [epoch_only],
    },
}  # fmt: skip


@pytest.mark.usefixtures("usual_ctrl_c")
@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.filterwarnings("ignore:.*interrupted")
def test_ctrl_c_leaves_parameters_and_history_of_one_epoch(kind: str) -> None:
    """At every fourth line of the loop, under whatever handler, and then again."""
    x = np.random.default_rng(0).normal(size=(8, 3))
    net, y = Sequential(Linear(2)), x[:, :2] * x[:, 1:]

    def trained(epochs: int, line: int = 0) -> tuple[int, np.ndarray]:
        signal.signal(signal.SIGINT, HANDLERS[line % 8 == 0])
        model = fit(net, x, y, loss="squared_error", epochs=epochs, progress=False, **RUNS[kind])
        assert {len(column) for column in model.history.values()} == {len(model.history["loss"])}
        return len(model.history["loss"]), np.concatenate(
            [*map(np.ravel, tree.leaves(model.params))]
        )

    whole, ended = dict(map(trained, (1, 2))), 0
    runs = faults.struck(loop.__file__, 4, partial(trained, 2), lambda line: line % 3)
    for line, (epochs, params) in runs:
        assert np.allclose(params, whole[epochs], rtol=1e-12), line
        ended += epochs < 2
    assert ended > 2


def test_a_large_network_is_trained_in_few_copies_of_itself() -> None:
    """Twelve times its parameters, counted with what is never written to.

    Those to start with, new and with two moments; three of the program, the gradients and two
    vectors of scratch; three of the last epoch, whose memory that of the next one takes.
    """
    x = np.ones((8, 512), dtype="float32")
    net = Sequential(Linear(512), Linear(512))
    fit(net, x[:, :2], x, loss="squared_error", epochs=1, batch_size=4, engine="calls")
    with traced_memory():
        model = fit(net, x, x, loss="squared_error", epochs=4, batch_size=4, engine="calls")
        most = tracemalloc.get_traced_memory()[1]
    assert most < 12.5 * sum(leaf.nbytes for leaf in tree.leaves(model.params))


def test_other_threads_train_without_signals(tmp_path: Path, alone: bytes) -> None:
    thread = threading.Thread(target=train, args=(tmp_path / "run",))
    thread.start()
    thread.join()
    assert (tmp_path / "run").read_bytes() == alone


@pytest.mark.usefixtures("usual_ctrl_c")
def test_ctrl_c_before_the_first_step_gives_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Early(Signals):
        def __enter__(self) -> Signals:
            super().__enter__()
            signal.raise_signal(signal.SIGINT)
            return self

    monkeypatch.setattr(loop, "Signals", Early)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("usual_ctrl_c")
@pytest.mark.only("numpy", "torch", "array_api_strict", "jax", "cupy")
def test_ctrl_c_gives_the_last_epoch_and_keeps_the_place(backend: Backend, tmp_path: Path) -> None:
    x = backend.asarray(np.linspace(0.0, 1.0, 24, dtype="float32").reshape(12, 2))
    arguments: dict[str, Any] = {"engine": "eager", "loss": "squared_error", "batch_size": 3}
    path = tmp_path / "run"

    def interrupt(run: Any) -> None:
        if run.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(RuntimeWarning, match="epoch 2: interrupted: the model is as it was"):
        model = fit(faults.NET, x, x[:, 0], epochs=5, checkpoint=path, callbacks=[interrupt],
                    **arguments)  # fmt: skip
    assert model.history["epoch"] == [1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit(faults.NET, x, x[:, 0], epochs=5, checkpoint=path, resume=True, **arguments)
    assert model.history["epoch"] == [1, 2, 3, 4, 5]


@pytest.mark.only("numpy")
@pytest.mark.usefixtures("compiler_of_loops")
@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells the numbers")
def test_a_day_in_very_small() -> None:
    """In a process of its own: the memory of this one is the tests' as well."""
    day = ["--steps=100000", "--calls=1000", "--fits=100", "--programs=0", "--slowing=5"]
    command = [sys.executable, "-m", "tests.endurance", *day]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3


def test_the_watch_finds_what_grows() -> None:
    watch = endurance.Watch("leaking")
    watch.memory, watch.threads = [float(number) for number in range(100)], [1] * 100
    watch.handles, watch.seconds = [3, *range(4, 103)], [1.0] * 90 + [1.3] * 10
    assert watch.faults() == [
        "leaking: memory grew by 90.0 MB",
        "leaking: handles went from 4 to 102, 102 at most",
        "leaking: the last tenth took 1.30 of the first's processor time",
    ]
