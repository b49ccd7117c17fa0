"""Computing in one dtype with parameters of another: what is cast, and what stays wide."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.checks import assert_array
from tests.engines import compiled_by
from tinynn import tree, value_and_grad
from tinynn.functional import relu, tanh
from tinynn.initializers import ones
from tinynn.layers import BatchNorm, Dropout, Layer, LayerNorm, Linear, Scope, Sequential
from tinynn.losses import SquaredError
from tinynn.training import engines as engines_of
from tinynn.training import fit, load, prepare, train

pytestmark = pytest.mark.reads_scalars

RNG = np.random.default_rng(6)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = np.tanh(X @ RNG.normal(size=(4, 2))).astype("float32")
NET = Sequential(Linear(8), BatchNorm(), tanh, Dropout(0.1), LayerNorm(), Linear(2))
PLAIN = Sequential(Linear(8), relu, Linear(2))
# What cannot be computed in on a library or device is not in its `compute_dtypes`.
DTYPES = ("float16", "bfloat16", "float32")


@pytest.fixture(params=DTYPES)
def computed(request: pytest.FixtureRequest, backend: Backend) -> str:
    if request.param not in backend.compute_dtypes():
        pytest.skip(f"{backend!r} does not compute in {request.param}")
    return str(request.param)


@dataclass(frozen=True)
class Seen(Layer):
    """A layer that keeps the dtypes it meets."""

    inner: Any
    kept: Any

    def forward(self, scope: Scope, x: Any) -> Any:
        weight = scope.param("weight", ones, (1,), "float32")
        self.kept.append((x.dtype, scope.compute_dtype, scope.dtype, weight.dtype))
        return scope("inner", self.inner, x)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_parameters_state_and_losses_stay_wide(
    backend: Backend, computed: str, engine: str
) -> None:
    x, y = backend.asarray(X), backend.asarray(Y)
    engine = compiled_by(backend) if engine == "compiled" else engine
    shared: dict[str, Any] = {"epochs": 3, "batch_size": 10, "engine": engine, "validation": (x, y)}
    model = fit(NET, x, y, compute_dtype=computed, **shared)
    for name, leaf in [*tree.paths(model.params), *tree.paths(model.state)]:
        assert_array(leaf, backend, dtype="float32")
        assert name
    assert_array(model.predict(x), backend, dtype="float32", shape=(24, 2))
    assert model.history["validation_loss"][-1] < model.history["validation_loss"][0]
    assert model.history["validation_loss"][-1] == pytest.approx(model.evaluate(x, y)["loss"])
    wide = fit(NET, x, y, **shared)
    near = {"float16": 0.01, "bfloat16": 0.05, "float32": 1e-6}[computed]
    assert np.allclose(model.history["loss"], wide.history["loss"], rtol=near)
    if computed != "float32":
        assert model.history["loss"] != wide.history["loss"]


@pytest.mark.only("numpy", "torch", "jax", "cupy")
def test_layers_are_given_the_narrow_dtype(backend: Backend, computed: str) -> None:
    x, kept = backend.asarray(X), []
    net = Sequential(LayerNorm(), Seen(Linear(2), kept))
    params, state = net.init(0, x)
    y, _ = net.apply(params, state, x, compute_dtype=computed)
    narrow, wide = backend.compute_dtypes()[computed], x.dtype
    assert_array(y, backend, dtype="float32")
    assert all(a == b for a, b in zip(kept[-1], (narrow, narrow, wide, wide), strict=True))
    again, _ = net.apply(params, state, backend.xp.astype(x, narrow), compute_dtype=computed)
    assert_array(again, backend, dtype="float32")


def test_masters_of_float64(backend: Backend) -> None:
    if "float64" not in backend.dtypes():
        pytest.skip(f"{backend!r} has no float64")
    x, y = backend.asarray(X), backend.asarray(Y)
    shared: dict[str, Any] = {"epochs": 2, "engine": "eager", "dtype": "float64"}
    model = fit(NET, x, y, compute_dtype="float32", **shared)
    wide = fit(NET, x, y, **shared)
    for _, leaf in tree.paths(model.params):
        assert_array(leaf, backend, dtype="float64")
    assert np.allclose(model.history["loss"], wide.history["loss"], rtol=1e-5)
    assert model.history["loss"] != wide.history["loss"]


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_gradients_are_those_of_pytorch_by_hand(backend: Backend, name: str) -> None:
    """Masters of float32, products in a half precision, the loss in float32."""
    import torch

    x, y = backend.asarray(X), backend.asarray(Y)
    net = Sequential(Linear(8), LayerNorm(), relu, Linear(2))
    params, _ = net.init(0, x)

    def loss(params: Any) -> Any:
        output, _ = net.apply(params, {}, x, compute_dtype=name)
        return SquaredError()(output, y)

    value, gradients = value_and_grad(loss)(params)
    half = getattr(torch, name)
    own = {path: leaf.clone().requires_grad_() for path, leaf in tree.paths(params)}
    first = x.to(half) @ own["0.weight"].to(half) + own["0.bias"].to(half)
    normal = torch.nn.functional.layer_norm(
        first.float(), (8,), own["1.weight"], own["1.bias"], eps=1e-5
    )
    hidden = torch.relu(normal.to(half))
    out = hidden @ own["3.weight"].to(half) + own["3.bias"].to(half)
    expected = torch.mean((out.float() - y) ** 2)
    expected.backward()
    ulp = torch.finfo(half).eps
    assert float(value) == pytest.approx(float(expected.detach()), rel=ulp)
    for path, gradient in tree.paths(gradients):
        assert gradient.dtype == torch.float32
        scale = float(own[path].grad.abs().max())
        assert float((gradient - own[path].grad).abs().max()) <= 4 * ulp * scale, path


@pytest.mark.only("numpy")
def test_machine_code_computes_in_float32_but_not_in_half(backend: Backend, variant: Any) -> None:
    if variant.id != "numpy":
        pytest.skip("loops write into arrays, which are read-only here")
    pytest.importorskip("llvmlite")
    shared: dict[str, Any] = {"epochs": 2, "dtype": "float64", "batch_size": 10}
    loops = fit(PLAIN, X, Y, compute_dtype="float32", engine="loops", **shared)
    eager = fit(PLAIN, X, Y, compute_dtype="float32", engine="eager", **shared)
    assert np.allclose(loops.history["loss"], eager.history["loss"], rtol=1e-5)
    problem = prepare(PLAIN, X, Y, compute_dtype="float16")
    with pytest.warns(RuntimeWarning, match="machine code has no float16"):
        train(problem, 1, engine="loops")
    assert engines_of.select(problem, "auto", epochs=10**9, never_stops_early=True).name == "calls"


@pytest.mark.only("numpy")
def test_files_hold_the_masters(backend: Backend, tmp_path: Path) -> None:
    path, shared = tmp_path / "run", {"engine": "calls", "checkpoint": tmp_path / "run"}
    model = fit(PLAIN, X, Y, epochs=2, compute_dtype="float16", **shared)
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.params["0"]["weight"].tobytes() == model.params["0"]["weight"].tobytes()
    assert loaded.predict(X).tobytes() == model.predict(X).tobytes()
    whole = fit(PLAIN, X, Y, epochs=4, compute_dtype="float16", engine="calls")
    rest = fit(PLAIN, X, Y, epochs=4, compute_dtype="float16", resume=True, **shared)
    assert rest.history == whole.history
    with pytest.raises(ValueError, match="compute dtype: expected float16, as the run was started"):
        fit(PLAIN, X, Y, epochs=5, resume=path)


@pytest.mark.only("numpy")
def test_exported_to_onnx_in_the_dtype_of_the_parameters(backend: Backend, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = fit(PLAIN, X, Y, epochs=2, compute_dtype="float16")
    model.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (answer,) = session.run(None, {"input": X})
    assert answer.dtype == np.float32
    assert np.allclose(answer, model.predict(X), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_computed_in(backend: Backend) -> None:
    x, y = backend.asarray(X), backend.asarray(Y)
    for wrong in ("int32", "half", 16):
        with pytest.raises(ValueError, match=r"fit: compute_dtype: expected .*float32.* got"):
            fit(PLAIN, x, y, compute_dtype=wrong)
    params, state = PLAIN.init(0, x)
    with pytest.raises(TypeError, match="dtype int32 cannot be computed in"):
        PLAIN.apply(params, state, x, compute_dtype="int32")
