"""Model files: what survives, what is refused, and that a good file is never lost."""

import errno
import io
import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import backends
from backends import Backend
from tests.checks import assert_array, assert_equal
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Layer, Linear, Scope, Sequential
from tinynn.losses import Huber, SquaredError
from tinynn.metrics import R2, Accuracy
from tinynn.trace import namespace
from tinynn.training import History, Model, ModelFileError, files, fit, load
from tinynn.training.signals import unwinding


def small(backend: Backend, dtype: str = "float32") -> Model:
    """A model whose file is a few hundred bytes long."""
    params = {
        "weight": backend.asarray([[0.5], [-1.25]], dtype),
        "bias": backend.asarray([3.0], dtype),
    }
    history = History({"epoch": [1], "loss": [0.125]})
    return Model(Linear(1), params, history=history, loss=SquaredError())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.tinynn"


def test_everything_survives(backend: Backend, path: Path, float_dtype: Any) -> None:
    net = Sequential(Linear(3), BatchNorm(momentum=0.8), relu, Linear(2, bias=False))
    x = backend.asarray([[1.0, 2.0], [3.0, 5.0]], float_dtype)
    params, state = net.init(5, x)
    history = History({"epoch": [1, 2], "loss": [0.1, 1e-300], "validation_loss": [1.0, 2.0]})
    extra = {
        "classes": ["Käse", 'quo"te'],
        "scale": [0.1, None, True],
        "deep": {"sha256": "0" * 64},
    }
    columns = ("width", "höhe")
    metrics = (Accuracy(task="binary", threshold=0.5), R2(name="share"))
    model = Model(
        net, params, state, history=history, loss=Huber(2.0), metrics=metrics, columns=columns,
        extra=extra,
    )  # fmt: skip
    model.save(path)
    loaded = load(path, backend)
    assert loaded.net == net
    assert loaded.loss == Huber(2.0)
    assert tuple(loaded.metrics) == metrics
    assert loaded.history == history
    assert loaded.columns == columns
    assert loaded.extra == extra
    assert list(loaded.params) == list(params) == ["0", "1", "3"]
    assert list(loaded.state["1"]) == ["mean", "var"]
    for layer, entries in params.items():
        assert list(loaded.params[layer]) == list(entries)
        for name, array in entries.items():
            found = loaded.params[layer][name]
            assert_equal(found, backend.to_host(array), backend, dtype=float_dtype)
    assert_equal(loaded.predict(x), backend.to_host(model.predict(x)), backend)


def test_a_file_goes_to_any_backend(backend: Backend, path: Path) -> None:
    small(backends.get("numpy")).save(path)
    loaded = load(path, backend)
    assert_equal(loaded.params["weight"], [[0.5], [-1.25]], backend, dtype="float32")
    loaded.save(path)
    assert load(path).backend == backends.get("numpy")
    np.testing.assert_array_equal(load(path).params["bias"], [3.0])


def test_float64_is_refused_where_there_is_none(backend: Backend, path: Path) -> None:
    small(backends.get("numpy"), "float64").save(path)
    if "float64" in backend.dtypes():
        assert_array(load(path, backend).params["bias"], backend, dtype="float64")
        return
    with pytest.raises(TypeError, match=r"model\.tinynn: parameter 'weight'.*got float64"):
        load(path, backend)
    with pytest.raises(TypeError, match=r"to: parameter 'weight'.*got float64"):
        small(backends.get("numpy"), "float64").to(backend)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "uint8", "float32"])
def test_dtypes_and_shapes_survive(backend: Backend, path: Path, dtype: str) -> None:
    arrays = {"scalar": 1, "row": [0, 1, 1], "cube": [[[1], [0]]], "none": np.zeros((0, 2))}
    params = {name: backend.asarray(values, dtype) for name, values in arrays.items()}
    Model(Linear(1), params, loss=None).save(path)
    loaded = load(path, backend).params
    for name, array in params.items():
        assert_equal(loaded[name], backend.to_host(array), backend, dtype=dtype)


def test_any_reader_of_safetensors_can_read_it(backend: Backend, path: Path) -> None:
    small(backend).save(path)
    with safe_open(path, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("weight"), [[0.5], [-1.25]])
        assert json.loads(file.metadata()["tinynn"])["network"]["class"] == "Linear"


def test_one_changed_byte_is_found_wherever_it_is(path: Path) -> None:
    small(backends.get("numpy")).save(path)
    blob = path.read_bytes()
    files.unpack(blob, path)
    for place, byte in enumerate(blob):
        for other in (byte ^ 1, byte ^ 32, byte ^ 255):  # 32 turns a letter's case
            changed = blob[:place] + bytes([other]) + blob[place + 1 :]
            with pytest.raises(ModelFileError, match=r"model\.tinynn: expected"):
                files.unpack(changed, path)


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    small(backends.get("numpy")).save(path)
    blob = path.read_bytes()
    for length in range(len(blob)):
        with pytest.raises(ModelFileError, match=r"model\.tinynn: expected"):
            files.unpack(blob[:length], path)
    with pytest.raises(ModelFileError, match="cut short or changed"):
        files.unpack(blob + b"\0", path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04" + b"\0" * 500])
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="expected a model file of tinynn"):
        load(path)


def test_a_newer_format_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "FORMAT", 2)
        small(backends.get("numpy")).save(path)
    with pytest.raises(ModelFileError, match="format 1, got format 2"):
        load(path)


def test_a_missing_file_and_an_unknown_backend(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"To fix it: check its name: '.*model\.tinynn"):
        load(path)
    small(backends.get("numpy")).save(path)
    with pytest.raises(backends.BackendUnavailable, match="nunpy"):
        load(path, "nunpy")


def test_the_same_model_gives_the_same_bytes(backend: Backend, path: Path) -> None:
    small(backend).save(path)
    first = path.read_bytes()
    small(backend).save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    small(backends.get("numpy")).save(path)
    old = path.read_bytes()

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(data[: len(data) // 2])
            raise failure

    def fail(*args: Any) -> None:
        raise failure

    model = small(backends.get("numpy"))
    model.extra["new"] = True
    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(files, "open", Full, raising=False)
        else:
            patch.setattr(os, step, fail)
        with pytest.raises(type(failure)):
            model.save(path)
    assert path.read_bytes() == old
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    model.save(path)
    assert load(path).extra == {"new": True}


def test_two_interruptions_leave_nothing_beside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that has handled Ctrl-C may tell it once more, which comes while one cleans up."""
    unlink, told = Path.unlink, [KeyboardInterrupt()]

    def interrupted(self: Path, missing_ok: bool = False) -> None:
        if told:
            raise told.pop()
        unlink(self, missing_ok)

    def parts() -> Iterator[bytes]:
        yield b"some"
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, parts())
    assert not told
    assert not [*path.parent.iterdir()]


def test_a_full_disk_is_told_with_the_file(path: Path) -> None:
    def parts() -> Iterator[bytes]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield b""

    with pytest.raises(OSError, match=rf"No space left.*{path.name}"):
        files.write(path, parts())


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_diverged_model_never_replaces_a_good_file(
    backend: Backend, path: Path, bad: str
) -> None:
    small(backend).save(path)
    old = path.read_bytes()
    model = small(backend)
    model.params["bias"] = backend.asarray([float(bad)], "float32")
    with pytest.raises(ValueError, match="save: parameter 'bias': expected finite"):
        model.save(path)
    assert path.read_bytes() == old


def test_what_cannot_be_written_is_refused_before_writing(backend: Backend, path: Path) -> None:
    small(backend).save(path)
    old = path.read_bytes()
    weight = small(backend).params["weight"]
    extra = small(backend)
    extra.extra["array"] = object()
    for model, message in (
        (extra, "extra.*JSON"),
        (Model(Sequential(Linear(1), lambda x: x), {}), "lambda"),
        (Model(Linear(1), [weight]), "expected nested dicts of arrays, got list"),
        (Model(Linear(1), {"a.b": weight}), "names without dots, got 'a.b'"),
        (Model(Linear(1), {"a": 0.5}), "'a'.*got float"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            model.save(path)
    assert path.read_bytes() == old
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_folders_are_told_apart_from_files(path: Path) -> None:
    model = small(backends.get("numpy"))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        model.save(path.parent / "nowhere" / "model")
    with pytest.raises(IsADirectoryError, match="expected the path of a file"):
        model.save(path.parent)


@pytest.mark.skipif(os.name == "nt", reason="links and modes are POSIX's")
def test_links_and_permissions_stay(path: Path) -> None:
    model = small(backends.get("numpy"))
    model.save(path)
    path.chmod(0o600)
    link = path.with_name("link")
    link.symlink_to(path)
    model.extra["new"] = True
    model.save(link)
    assert link.is_symlink()
    assert load(path).extra == {"new": True}
    assert path.stat().st_mode & 0o777 == 0o600


@dataclass(frozen=True)
class Scale(Layer):
    """A layer of a user's own."""

    factor: float = 2.0

    def forward(self, scope: Scope, x: Any) -> Any:
        return self.factor * x


def square(x: Any) -> Any:
    return x * x


def closeness(prediction: Any, target: Any) -> Any:
    return namespace(prediction).mean(abs(prediction - target))


def test_what_is_the_users_own_must_be_given_again(backend: Backend, path: Path) -> None:
    net = Sequential(Scale(3.0), square, Linear(1))
    x = backend.asarray([[1.0, 2.0]], "float32")
    Model(net, *net.init(0, x), loss=closeness, metrics=(closeness,)).save(path)
    own = {"Scale": Scale, "square": square, "closeness": closeness}
    for name in own:
        with pytest.raises(ValueError, match=rf"model\.tinynn: .*custom={{'{name}': "):
            load(path, backend, custom={key: own[key] for key in own if key != name})
    loaded = load(path, backend, custom=own)
    assert loaded.net == net
    assert loaded.loss is closeness
    assert loaded.metrics == (closeness,)


def test_a_loaded_model_can_be_evaluated(backend: Backend, path: Path) -> None:
    small(backend).save(path)
    x = backend.asarray([[1.0, 2.0], [4.0, 0.0]], "float32")
    y = backend.asarray([1.0, 3.0], "float32")
    assert load(path, backend).evaluate(x, y) == {"loss": pytest.approx((0.0 + 4.0) / 2)}


@pytest.mark.skipif(os.name == "nt", reason="devices, FIFOs, sockets and links are POSIX's")
def test_only_regular_files_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    x = np.full((4, 2), 0.5)
    model = fit(Linear(1), x, x[:, 0], epochs=1)
    os.mkfifo("fifo")
    os.mkdir("folder")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for path in ("fifo", "socket", "folder", "/dev/null"):
            mode = os.stat(path).st_mode
            expected = "got the folder" if path == "folder" else "device, FIFO or socket"
            with pytest.raises(OSError, match=f"{expected}.*To fix it"):
                model.save(path)
            with pytest.raises(OSError, match=f"{expected}.*To fix it"):
                fit(Linear(1), x, x[:, 0], epochs=1, checkpoint=path)
            assert os.stat(path).st_mode == mode
    os.symlink("target", "link")
    fit(Linear(1), x, x[:, 0], epochs=1, checkpoint="link")
    assert os.path.islink("link")
    assert fit(Linear(1), x, x[:, 0], epochs=2, resume="target").history["epoch"] == [1, 2]


@pytest.mark.skipif(os.name == "nt", reason="elsewhere a process cannot be asked for")
def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    dead = os.spawnv(os.P_NOWAIT, "/bin/true", ["true"])
    os.waitpid(dead, 0)
    left = tmp_path / f".file.{dead}-0123.tmp"
    others = [
        tmp_path / f".file.{os.getpid()}-0123.tmp",  # of a process that runs
        tmp_path / f".other.{dead}-0123.tmp",
        tmp_path / ".file.tmp",
    ]
    for path in (left, *others):
        path.write_bytes(b"")
    x = np.full((4, 2), 0.5)
    fit(Linear(1), x, x[:, 0], epochs=1, checkpoint=tmp_path / "file")
    assert not left.exists()
    assert all(path.exists() for path in others)


def test_a_signal_to_end_leaves_no_half_written_file(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"first"
        signal.raise_signal(signal.SIGTERM)
        yield b"second"

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit, match="143"), unwinding():
            files.write(tmp_path / "answers.csv", parts())
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(tmp_path.iterdir()) == []
