"""What once went wrong without a word, and is tested nowhere else: it is refused, or right."""

import subprocess
import sys
import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.checks import assert_close
from tinynn import losses, optim
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Dropout, Layer, Linear, Sequential
from tinynn.training import Model, ModelFileError, files, fit, load

pytestmark = pytest.mark.reads_scalars

X = np.random.default_rng(2).normal(size=(40, 3)).astype("float32")
Y = X[:, 0]


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Linear(64, 32), "bias="),
        (lambda: Dropout(0.5, 1), ""),
        (lambda: BatchNorm(0.9), "momentum="),
        (lambda: losses.SoftmaxCrossEntropy(0.1), "label_smoothing="),
        (lambda: optim.Adam(0.1, 0.9), "beta1="),
    ],
)
def test_hyperparameters_after_the_first_go_by_keyword(
    backend: Backend, make: Any, named: str
) -> None:
    with pytest.raises(TypeError, match=rf"expected (no|1|2) arguments? by position.*{named}"):
        make()


def test_params_of_another_width_are_refused(backend: Backend) -> None:
    x, y = backend.asarray(X), backend.asarray(Y)
    params, _ = Linear(2).init(0, x)
    with pytest.raises(ValueError, match=r"fit: params: 'weight': expected \(3, 1\) .*got \(3, 2"):
        fit(Linear(1), x, y, params=params, epochs=1)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("base", [Layer, losses.Loss, optim.Optimizer, optim.Schedule])
def test_a_subclass_without_dataclass_has_a_repr_or_says_so(backend: Backend, base: Any) -> None:
    plain = type("Plain", (base,), {})
    assert repr(plain()) == "Plain()"
    fields = type("Fields", (base,), {"__annotations__": {"size": int}, "size": 3})
    with pytest.raises(TypeError, match=r"Fields: expected a frozen dataclass"):
        fields()
    with pytest.raises((FrozenInstanceError, AttributeError)):
        Linear(1).features = 2  # type: ignore[misc]


@pytest.mark.only("numpy")
def test_a_run_that_diverges_warns_once(backend: Backend) -> None:
    net = Sequential(Linear(64), relu, Linear(1))
    for engine in ("eager", "calls"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(net, X * 1e6, Y, epochs=30, optimizer=optim.SGD(1e9), engine=engine)
        (said,) = [str(each.message) for each in caught]
        assert "training diverged" in said


@pytest.mark.only("numpy")
def test_a_run_that_diverges_has_another_exit_status(backend: Backend, tmp_path: Path) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "model"
    rows = [f"{x:.3f},{'ab'[int(x > 0)]}" for x in X[:, 0]]
    table.write_text("\n".join(["x,kind", *rows]))
    options = ["--target", "kind", "--learning-rate", "1e9", "--out", str(out), "--no-progress"]
    done = subprocess.run(
        [sys.executable, "-m", "tinynn", "train", str(table), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "training diverged" in done.stderr
    assert not out.exists()


def held(tensors: Any, backend: Backend) -> list[Any]:
    """The arrays of a file, by name."""
    return [
        (name, np.array(backend.asarray(files.values_of(each, backend), each.dtype)))
        for name, each in tensors.items()
    ]


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", None), ("network", {"class": 3}), ("network", []), ("loss", 1), ("extra", None),
        ("columns", 5), ("history", {"loss": "low"}), ("state", [1]), ("preparation", "x"),
    ],
)  # fmt: skip
def test_a_crafted_file_with_a_right_digest_is_one_named_error(
    backend: Backend, tmp_path: Path, name: str, value: Any
) -> None:
    path = tmp_path / "model"
    Model(Linear(1), Linear(1).init(0, X)[0]).save(path)
    tensors, description = files.read(path, "model")
    arrays = held(tensors, backend)
    files.write(path, files.pack(arrays, {**description, name: value}))
    with pytest.raises((ModelFileError, ValueError), match=r"model"):
        load(path)
    del description[name]
    files.write(path, files.pack(arrays, description))
    with pytest.raises(ModelFileError, match=name):
        load(path)


@pytest.mark.only("numpy")
def test_a_calibration_of_an_earlier_version_is_told_from_damage(
    backend: Backend, tmp_path: Path
) -> None:
    path, model = (
        tmp_path / "model",
        Model(Linear(1), Linear(1).init(0, X)[0], loss=losses.SquaredError()),
    )
    model.calibrate(X, np.ones(len(X)))
    model.save(path)
    tensors, description = files.read(path, "model")
    files.write(
        path, files.pack(held(tensors, backend), {**description, "calibration": "absolute"})
    )
    with pytest.raises(ModelFileError, match="got 'absolute' alone, as an earlier version of tiny"):
        load(path)


@pytest.mark.only("numpy")
def test_nan_in_a_file_is_found(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "model"
    Model(Linear(1), Linear(1).init(0, X)[0]).save(path)
    tensors, description = files.read(path, "model")
    arrays = [(n, each * np.float32("nan")) for n, each in held(tensors, backend)]
    files.write(path, files.pack(arrays, description))
    with pytest.raises(ModelFileError, match="NaN or infinity"):
        load(path)


@pytest.mark.only("jax")
def test_predict_under_the_compiler_of_jax(backend: Backend) -> None:
    import jax

    x = backend.asarray(X)
    model = fit(Sequential(Linear(4), relu, Linear(1)), x, backend.asarray(Y), epochs=1)
    assert_close(jax.jit(model.predict)(x), backend.to_host(model.predict(x)), backend)


@pytest.mark.only("torch")
def test_predict_under_the_compiler_of_pytorch(backend: Backend) -> None:
    """Of affine layers; Dynamo stops at the namespace's `result_type`, which relu calls."""
    import torch

    x = backend.asarray(X)
    model = fit(Sequential(Linear(4), Linear(1)), x, backend.asarray(Y), epochs=1)
    expected = backend.to_host(model.predict(x))
    with warnings.catch_warnings():  # it warns of the caches that it looks into
        warnings.simplefilter("ignore")
        compiled = torch.compile(model.predict, fullgraph=True, backend="eager")
        assert_close(compiled(x), expected, backend)


@pytest.mark.only("jax")
def test_float64_models_load_in_float32(backend: Backend, variant: Any, tmp_path: Path) -> None:
    params = {"weight": np.ones((3, 1)), "bias": np.zeros(1)}
    model = Model(Linear(1), params)
    model.save(tmp_path / "model")
    for there in (load(tmp_path / "model", backend, dtype="float32"), model.to(backend, "float32")):
        assert str(there.params["weight"].dtype) == "float32"
