"""Norms and reparametrised weights: against PyTorch, on every backend, eager, compiled, ONNX."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tests.engines import compiled_by
from tests.gradients import placed
from tests.onnx_files import assert_same, exported
from tinynn import tree
from tinynn.initializers import zeros
from tinynn.layers import (
    BatchNorm,
    Conv2d,
    Flatten,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Linear,
    RMSNorm,
    Sequential,
    ShapeError,
    SpectralNorm,
    WeightNorm,
    from_config,
    to_config,
)
from tinynn.losses import SquaredError
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.training import Model, fit

DRAW = np.random.default_rng(3)
IMAGES = 2 * DRAW.normal(size=(4, 5, 3, 6)) + 1
LAYERS: dict[str, Any] = {
    "batch": BatchNorm(),
    "batch, first": BatchNorm(channels="first"),
    "layer": LayerNorm(),
    "rms": RMSNorm(epsilon=1e-3),
    "group": GroupNorm(3),
    "group, first": GroupNorm(5, channels="first"),
    "instance": InstanceNorm(),
    "instance, first": InstanceNorm(channels="first"),
    "weight": WeightNorm(Linear(4)),
    "weight of kernels": WeightNorm(Conv2d(4, kernel_size=2)),
    "spectral": SpectralNorm(Linear(4)),
    "spectral of kernels": SpectralNorm(Conv2d(4, kernel_size=2), iterations=2),
}


def moved(value: Any) -> Any:
    """Parameters or state moved from their starts, as float64."""
    draw = np.random.default_rng(7)
    return tree.map(lambda a: a + 0.3 * abs(draw.normal(size=a.shape)), value)


def started(layer: Any, x: Any = IMAGES) -> tuple[Any, Any]:
    params, state = layer.init(0, x)
    return moved(params), moved(state) if isinstance(layer, BatchNorm) else state


def loss_of(layer: Any, state: Any, training: bool = True) -> Callable[[Any, Any], Any]:
    def loss(params: Any, x: Any) -> Any:
        y, after = layer.apply(params, state, x, training=training)
        return namespace(y).sum(namespace(y).sin(y)), (y, after)

    return loss


# PyTorch's, with the same parameters: (module, its parameters by our names, its buffers likewise).


def plain(module: Any, **buffers: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    module.double()
    params = {
        name: module.get_parameter(name) for name in ("weight", "bias") if hasattr(module, name)
    }
    return module, params, {ours: module.get_buffer(name) for ours, name in buffers.items()}


def of_torch(name: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    import torch

    nn, p = torch.nn, torch.nn.utils.parametrizations
    made: dict[str, Callable[[], Any]] = {
        "batch": lambda: plain(nn.BatchNorm2d(6), mean="running_mean", var="running_var"),
        "batch, first": lambda: plain(nn.BatchNorm2d(5), mean="running_mean", var="running_var"),
        "layer": lambda: plain(nn.LayerNorm(6)),
        "rms": lambda: plain(nn.RMSNorm(6, eps=1e-3)),
        "group": lambda: plain(nn.GroupNorm(3, 6)),
        "group, first": lambda: plain(nn.GroupNorm(5, 5)),
        "instance": lambda: plain(nn.InstanceNorm2d(6, affine=True)),
        "instance, first": lambda: plain(nn.InstanceNorm2d(5, affine=True)),
    }
    if name in made:
        return made[name]()
    kernels = name.endswith("kernels")
    module = (nn.Conv2d(6, 4, 2) if kernels else nn.Linear(6, 4)).double()
    if name.startswith("weight"):
        module = p.weight_norm(module)
        weights = module.parametrizations.weight
        parts = {"weight_scale": weights.original0, "weight_direction": weights.original1}
        return module, {**parts, "bias": module.bias}, {}
    module = p.spectral_norm(module, n_power_iterations=2 if kernels else 1)
    weights = module.parametrizations.weight
    buffers = {"weight_left": weights[0]._v, "weight_right": weights[0]._u}
    return module, {"weight": weights.original, "bias": module.bias}, buffers


def as_theirs(a: np.ndarray, name: str) -> np.ndarray:
    """An array of ours in PyTorch's order of axes."""
    if name == "weight_scale":
        return a.reshape(-1, *[1] * 3)
    if a.ndim > 1:  # (height, width, inputs, outputs), or (inputs, outputs)
        return a.transpose(a.ndim - 1, a.ndim - 2, *range(a.ndim - 2))
    return a


def as_ours(a: Any, like: np.ndarray) -> np.ndarray:
    host = a.detach().numpy()
    if like.ndim > 1:
        return host.transpose(*range(2, like.ndim), 1, 0)
    return host.reshape(like.shape)


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", LAYERS)
def test_values_gradients_and_state_are_those_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    layer, nested = LAYERS[name], hasattr(LAYERS[name], "layer")
    params, state = started(layer)
    theirs, parameters, buffers = of_torch(name)
    own, kept = (params["layer"], state.get("layer", {})) if nested else (params, state)
    if "kernels" in name and kept:  # PyTorch's inputs are in another order: (inputs, height, width)
        order = np.arange(24).reshape(2, 2, 6).transpose(2, 0, 1).ravel()
    else:
        order = None
    with torch.no_grad():
        for each, parameter in parameters.items():
            host = as_theirs(own[each], each)
            parameter.copy_(torch.tensor(np.ascontiguousarray(host)).reshape(parameter.shape))
        for each, buffer in buffers.items():
            host = kept[each]
            buffer.copy_(
                torch.tensor(host[order] if order is not None and host.size == 24 else host)
            )
    first = "first" in name or name in ("layer", "rms") or (nested and "kernels" not in name)
    turned = (lambda a: a) if first else (lambda a: a.movedim(-1, 1))
    x = torch.tensor(IMAGES, requires_grad=True)
    for training in (True, False):
        theirs.train(training)
        x.grad = None
        theirs.zero_grad()
        y = theirs(turned(x))
        torch.sum(torch.sin(y)).backward()
        y = y if first else y.movedim(1, -1)
        f = tinynn.grad(loss_of(layer, state, training), argnums=(0, 1), has_aux=True)
        (by_params, by_x), (ours, after) = f(params, IMAGES)
        np.testing.assert_allclose(ours, y.detach().numpy(), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(by_x, x.grad.numpy(), rtol=1e-9, atol=1e-11)
        by_params = by_params["layer"] if nested else by_params
        for each, parameter in parameters.items():
            expected = as_ours(parameter.grad, by_params[each])
            np.testing.assert_allclose(by_params[each], expected, rtol=1e-9, atol=1e-11)
        state = after
        for each, buffer in buffers.items():
            found, expected = (after["layer"] if nested else after)[each], buffer.numpy()
            found = found[order] if order is not None and found.size == 24 else found
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


# Every backend.


@pytest.mark.parametrize("name", LAYERS)
def test_every_backend_gives_what_numpy_gives(name: str, backend: backends.Backend) -> None:
    # In one dtype, the widest: training, below, is in float32.
    float_dtype = "float64" if "float64" in backend.dtypes() else "float32"
    layer = LAYERS[name]
    host = started(layer)
    params, state, x = placed((*host, IMAGES), backend, float_dtype)
    f = tinynn.grad(loss_of(layer, state), argnums=(0, 1), has_aux=True)
    f = tinynn.compile(f) if backend.name == "jax" else f
    found, (y, after) = f(params, x)
    expected, (wanted, kept) = tinynn.grad(loss_of(layer, host[1]), argnums=(0, 1), has_aux=True)(
        host[0], IMAGES
    )
    single = backend.to_host(x).dtype == np.float32
    close = {"rtol": 2e-4, "atol": 2e-4} if single else {"rtol": 1e-9, "atol": 1e-10}
    assert_close(y, wanted, backend, dtype=float_dtype, **close)
    for (_, a), (_, b) in zip(
        tree.paths((found, after)), tree.paths((expected, kept)), strict=True
    ):
        assert_close(a, b, backend, dtype=float_dtype, **close)


@pytest.mark.parametrize("name", ["rms", "group, first", "weight", "spectral"])
def test_jvp_and_vmap(name: str, backend: backends.Backend) -> None:
    layer = LAYERS[name]
    params, state, x = placed((*started(layer), IMAGES), backend, backend.default_float)
    f = lambda x: layer.apply(params, state, x)[0]  # noqa: E731
    whole = backend.to_host(f(x))
    alone = tinynn.vmap(lambda x: f(x[None, ...])[0, ...])(x)
    assert_close(alone, whole, backend, rtol=1e-4, atol=1e-5)
    change = tinynn.jvp(f, (x,), (x,))[1]
    g = lambda x: namespace(x).sum(f(x))  # noqa: E731
    total = float(np.sum(backend.to_host(tinynn.grad(g)(x)) * IMAGES))
    np.testing.assert_allclose(backend.to_host(change).sum(), total, rtol=1e-3, atol=1e-3)


DENSE = Sequential(
    WeightNorm(Sequential(Linear(4), RMSNorm())), GroupNorm(2), SpectralNorm(Linear(4)),
    BatchNorm(), Linear(2),
)  # fmt: skip
NET = Sequential(WeightNorm(Conv2d(3)), InstanceNorm(), Flatten(), DENSE)
X = DRAW.normal(size=(8, 4, 5, 2)).astype("f4")
Y = DRAW.normal(size=(8, 2)).astype("f4")
SETTINGS: dict[str, Any] = {
    "loss": SquaredError(), "optimizer": SGD(0.05), "epochs": 3, "batch_size": 4, "seed": 1,
    "progress": False,
}  # fmt: skip


@pytest.mark.reads_scalars
def test_compiled_training_is_eager_training_of_numpy(backend: backends.Backend) -> None:
    host = fit(NET, X, Y, engine="eager", **SETTINGS)
    x, y = backend.asarray(X), backend.asarray(Y)
    here = fit(NET, x, y, engine=compiled_by(backend), **SETTINGS)
    expected = dict(tree.paths((host.params, host.state)))
    for name, leaf in tree.paths((here.params, here.state)):
        assert_close(leaf, expected[name], backend, rtol=1e-3, atol=1e-4)


@pytest.mark.only("numpy")
@pytest.mark.reads_scalars
def test_files_and_loops(tmp_path: Path) -> None:
    pytest.importorskip("llvmlite", reason="LLVM compiles NumPy's loops")
    assert from_config(to_config(NET)) == NET
    small = Sequential(Flatten(), SpectralNorm(Linear(4)), GroupNorm(2))
    x, y = X[:, 0, 0, :], np.tile(Y, 2)
    model, loops = (fit(small, x, y, engine=engine, **SETTINGS) for engine in ("calls", "loops"))
    for a, b in zip(tree.leaves(loops.params), tree.leaves(model.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    model = fit(NET, X, Y, engine="calls", **SETTINGS)
    model.save(tmp_path / "net.safetensors")
    read = tinynn.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(read.predict(X), model.predict(X))


@pytest.mark.parametrize("name", LAYERS)
def test_onnx_gives_the_same(name: str, tmp_path: Path) -> None:
    x = IMAGES.astype("f4")
    net = Sequential(LAYERS[name], Flatten(), Linear(2))
    model = Model(net, *net.init(0, x))
    assert_same(exported(model, tmp_path, x), model, x, rows=(1, 3))


# What else they promise.


@pytest.mark.only("numpy")
def test_weights_begin_as_without_the_norm() -> None:
    x = IMAGES[:, 0, 0, :]
    params, _ = WeightNorm(Linear(4)).init(0, x)
    bare = {"weight": params["layer"]["weight_direction"], "bias": params["layer"]["bias"]}
    np.testing.assert_allclose(WeightNorm(Linear(4))(params, x), Linear(4)(bare, x), rtol=1e-12)


@pytest.mark.parametrize("wrapper", [WeightNorm, SpectralNorm])
def test_a_weight_of_zeros_stays_one_and_can_be_trained(
    wrapper: Any, backend: backends.Backend
) -> None:
    x = backend.asarray(IMAGES[:, 0, 0, :].astype("f4"))
    layer = wrapper(Linear(4, weight_init=zeros))
    params, state = layer.init(0, x)
    loss, target = SquaredError(), backend.asarray(np.ones((x.shape[0], 4), "f4"))
    slopes = tinynn.grad(lambda p: loss(layer.apply(p, state, x)[0], target))(params)
    name = "weight_direction" if wrapper is WeightNorm else "weight"
    assert_close(
        layer.apply(params, state, x)[0], np.zeros((x.shape[0], 4)), backend, dtype="float32"
    )
    slope = backend.to_host(slopes["layer"][name])
    assert np.isfinite(slope).all()
    assert slope.any()


@pytest.mark.only("numpy")
def test_the_largest_singular_value_becomes_1() -> None:
    layer = SpectralNorm(Linear(4))
    params, state = layer.init(0, IMAGES[:, 0, 0, :])
    made = layer.apply(params, state, np.eye(6))[0] - params["layer"]["bias"]
    assert abs(np.linalg.svd(made)[1][0] - 1) < 0.02
    _, state = layer.apply(params, state, np.eye(6), training=True)
    for _ in range(60):
        y, state = layer.apply(params, state, np.eye(6), training=True)
    assert abs(np.linalg.svd(y - params["layer"]["bias"])[1][0] - 1) < 1e-6


@pytest.mark.only("numpy")
def test_wrappers_stand_in_each_other() -> None:
    layer, x = SpectralNorm(WeightNorm(Linear(4)), parameter="weight_direction"), IMAGES[:, 0, 0, :]
    params, state = layer.init(0, x)
    assert set(params["layer"]["layer"]) == {"weight_direction", "weight_scale", "bias"}
    assert set(state["layer"]["layer"]) == {"weight_direction_left", "weight_direction_right"}
    layer = WeightNorm(SpectralNorm(Linear(4)))
    params, state = layer.init(0, x)
    assert set(params["layer"]["layer"]) == {"weight_direction", "weight_scale", "bias"}
    assert set(state["layer"]["layer"]) == {"weight_left", "weight_right"}


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (GroupNorm(4), IMAGES, r"channels 4 groups divide, got 6 channels. To fix it: "),
        (InstanceNorm(), IMAGES[:, 0, 0, :], "2 positions or more"),
        (RMSNorm(), IMAGES[0, 0, 0], r"\(batch, features\), got \(batch\)"),
        (BatchNorm(channels="first"), np.ones(3), r"got \(batch\)"),
        (
            WeightNorm(Linear(4), parameter="kernel"),
            IMAGES,
            r"'kernel' .* got weight \(6, 4\), bias",
        ),
        (SpectralNorm(WeightNorm(Linear(4))), IMAGES, r"'weight' of two axes or more, got weight_"),
        (SpectralNorm(RMSNorm()), IMAGES, r"got weight \(6,\). To fix it"),
    ],
)
def test_bad_input_names_the_layer(layer: Any, x: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=rf"^layer 0\.0, .*{message}"):
        Sequential(Sequential(layer)).init(0, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GroupNorm(0),
        lambda: BatchNorm(channels="middle"),
        lambda: RMSNorm(epsilon=-1),
        lambda: WeightNorm(tinynn.functional.relu),
        lambda: WeightNorm(Linear(2), parameter=3),
        lambda: SpectralNorm(Linear(2), iterations=0),
    ],
)
def test_bad_settings_are_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()
