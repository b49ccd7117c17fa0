"""Convolution and pooling: against PyTorch, JAX and each other, on every backend and engine."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import backends
import tinynn
from tests.checks import assert_close, assert_equal, dtype_name
from tests.engines import compiled_by
from tests.gradients import placed
from tests.onnx_files import assert_same, exported
from tinynn import functional as F
from tinynn import layers
from tinynn.functional import conv, conv_transpose, relu
from tinynn.layers import (
    AvgPool2d,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose2d,
    Flatten,
    GlobalMaxPool,
    Linear,
    MaxPool2d,
    Sequential,
    ShapeError,
)
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import SGD
from tinynn.trace import backend_of, namespace
from tinynn.training import Model, fit

CLOSE = 1e-12
counts = st.integers(1, 3)


@st.composite
def cases(draw: Any, transposed: bool = False) -> Any:
    """(x, weight, bias, settings), channels last."""
    axes, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    kernel, spatial = each(1, 3), each(3, 6 if axes < 3 else 4)
    inputs, outputs = draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    chosen = {"stride": each(1, 3), "dilation": each(1, 2), "groups": groups}
    low = each(0, 2)
    chosen["padding"] = tuple(zip(low, low, strict=True))
    if transposed:
        chosen["padding"] = tuple((min(p, (k - 1) * d),) * 2 for (p, _), k, d in zip(
            chosen["padding"], kernel, chosen["dilation"], strict=True))  # fmt: skip
        chosen["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1))
            for s, d in zip(chosen["stride"], chosen["dilation"], strict=True)
        )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = rng.normal(size=(2, *spatial, groups * inputs))
    return x, rng.normal(size=(*kernel, inputs, outputs)), rng.normal(size=outputs), chosen


def in_torch(x: Any, weight: Any, bias: Any, chosen: Any, transposed: bool) -> Any:
    """The same by torch.nn.functional, and back to channels last."""
    import torch

    axes, groups = x.ndim - 2, chosen["groups"]
    function = getattr(torch.nn.functional, f"conv{'_transpose' if transposed else ''}{axes}d")
    w = torch.movedim(weight, (-1, -2), (0, 1))
    if transposed:  # (inputs, outputs // groups, *kernel) there
        outputs = weight.shape[-1] // groups
        w = weight.reshape(*weight.shape[:-1], groups, outputs)
        w = torch.movedim(w, (-2, -3, -1), (0, 1, 2)).reshape(-1, outputs, *weight.shape[:axes])
    padding = [low for low, _ in chosen["padding"]]
    return torch.movedim(
        function(torch.movedim(x, -1, 1), w, bias, **{**chosen, "padding": padding}), 1, -1
    )


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "conv_transpose"])
@pytest.mark.only("numpy", "torch")
@settings(max_examples=20)
@given(data=st.data())
def test_values_and_two_derivatives_are_pytorchs(
    transposed: bool, data: Any, backend: backends.Backend
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    host = backends.get("torch").to_host
    x, weight, bias, chosen = data.draw(cases(transposed))
    arrays = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    try:
        y = in_torch(*arrays, chosen, transposed)
    except RuntimeError:  # no element would come out
        assume(False)
    first = torch.autograd.grad(torch.sum(torch.sin(y)), arrays, create_graph=True)
    second = torch.autograd.grad(sum(torch.sum(g * g) for g in first), arrays)

    ours = conv_transpose if transposed else conv

    def f(x: Any, weight: Any, bias: Any) -> Any:
        xp = namespace(x)
        return xp.sum(xp.sin(ours(x, weight, bias, **chosen)))

    def squared(*arrays: Any) -> Any:
        found = tinynn.grad(f, (0, 1, 2))(*arrays)
        xp = namespace(*arrays)
        return sum(xp.sum(g * g) for g in found)

    here = placed([x, weight, bias], backend, "float64")
    assert_close(ours(*here, **chosen), host(y.detach()), backend, rtol=1e-11)
    for found, expected in zip(tinynn.grad(f, (0, 1, 2))(*here), first, strict=True):
        assert_close(found, host(expected.detach()), backend, rtol=1e-11)
    for found, expected in zip(tinynn.grad(squared, (0, 1, 2))(*here), second, strict=True):
        assert_close(found, host(expected.detach()), backend, rtol=1e-10)


@pytest.mark.parametrize(
    ("length", "ends"), [(3, (-1, 2)), (1, (-2, 4)), (2, (4, -3)), (4, (-1, -1)), (2, (-3, 5))]
)
def test_negative_padding_cuts(length: int, ends: tuple[int, int], backend: Any) -> None:
    """As in JAX: what is cut may be more than there was, and is then of the zeros behind."""
    rng, (low, high) = np.random.default_rng(length), ends
    x, weight = rng.normal(size=(2, length, 3)), rng.normal(size=(2, 3, 4))
    wide = np.pad(x, ((0, 0), (max(low, 0), max(high, 0)), (0, 0)))
    cut = wide[:, max(-low, 0) : wide.shape[1] - max(-high, 0)]
    expected = cut[:, :-1] @ weight[0] + cut[:, 1:] @ weight[1]

    def f(x: Any, weight: Any) -> Any:
        return namespace(x).sum(conv(x, weight, padding=(ends,)))

    here = placed([x, weight], backend, "float64")
    assert_close(conv(*here, padding=(ends,)), expected, backend, rtol=1e-11)
    by_x, by_weight = tinynn.grad(f, (0, 1))(*here)
    sums = np.stack([cut[:, :-1].sum((0, 1)), cut[:, 1:].sum((0, 1))])
    assert_close(by_weight, np.repeat(sums[:, :, None], 4, axis=2), backend, rtol=1e-11)
    count = np.pad(np.ones(cut.shape[1] - 1), 1)  # results that an element takes part in
    share = np.outer(count[1:], weight[0].sum(1)) + np.outer(count[:-1], weight[1].sum(1))
    whole = np.zeros(wide.shape[1:])
    whole[max(-low, 0) : wide.shape[1] - max(-high, 0)] = share
    expected = np.broadcast_to(whole[max(low, 0) : max(low, 0) + length], x.shape)
    assert_close(by_x, expected, backend, rtol=1e-11)


RNG = np.random.default_rng(3)
OPTIONS: dict[str, Any] = {
    "plain": ((2, 7, 6, 3), (3, 2, 3, 4), {}),
    "many channels": ((2, 5, 5, 12), (3, 3, 12, 10), {"padding": "same"}),
    "stride and dilation": ((2, 9, 7, 2), (2, 3, 2, 3), {"stride": (2, 3), "dilation": (3, 1)}),
    "same, odd": ((2, 7, 8, 2), (3, 4, 2, 3), {"padding": "same", "stride": 2}),
    "groups": ((2, 6, 5, 4), (3, 3, 2, 6), {"groups": 2, "padding": ((2, 0), (0, 1))}),
    "depthwise": ((2, 6, 5, 4), (3, 2, 1, 8), {"groups": 4, "padding": 1}),
    "causal": ((2, 8, 3), (3, 3, 2), {"padding": "causal", "dilation": 2}),
    "volume": ((1, 4, 5, 4, 2), (2, 3, 2, 2, 3), {"stride": 2, "padding": 1}),
    "one row left": ((2, 5, 5, 3), (5, 5, 3, 4), {}),
}


def norm_of(ours: Any, options: Any) -> Any:
    def f(x: Any, weight: Any) -> Any:
        xp = namespace(x)
        return xp.sum(xp.sin(ours(x, weight, **options)))

    return f


@pytest.mark.parametrize("ours", [conv, conv_transpose])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_backend_is_as_numpy_and_differences(
    name: str, ours: Any, backend: backends.Backend, float_dtype: Any
) -> None:
    x_shape, w_shape, options = OPTIONS[name]
    if ours is conv_transpose and options.get("padding") == "causal":
        options = {**options, "padding": "same", "stride": 2}
    host = [0.5 * RNG.normal(size=shape) for shape in (x_shape, w_shape)]
    x, weight = placed(host, backend, float_dtype)
    host = [backend.to_host(a).astype(np.float64) for a in (x, weight)]
    short = dtype_name(float_dtype, backend) == "float32"
    bound = {"rtol": 1e-4, "atol": 1e-4} if short else {"rtol": 1e-11}
    expected = ours(*host, **options)
    assert_close(ours(x, weight, **options), expected, backend, dtype=float_dtype, **bound)
    f = norm_of(ours, options)
    found, reference = tinynn.grad(f, (0, 1))(x, weight), tinynn.grad(f, (0, 1))(*host)
    for each, other in zip(found, reference, strict=True):
        assert_close(each, other, backend, dtype=float_dtype, **bound)
    tangents = [RNG.normal(size=a.shape) for a in host]
    slope = tinynn.jvp(f, (x, weight), tuple(placed(tangents, backend, float_dtype)))[1]
    inner = sum(np.sum(g * t) for g, t in zip(reference, tangents, strict=True))
    assert_close(slope, inner, backend, rtol=1e-3 if short else 1e-10, atol=1e-3 if short else 1e-9)
    step = 1e-6
    ends = [f(*[a + s * t for a, t in zip(host, tangents, strict=True)]) for s in (step, -step)]
    np.testing.assert_allclose(inner, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("name", ["groups", "depthwise", "stride and dilation", "causal"])
def test_vmap_is_a_loop(name: str, axes: Any, backend: backends.Backend) -> None:
    x_shape, w_shape, options = OPTIONS[name]
    host = [
        RNG.normal(size=shape if axis is None else (3, *shape)).astype("float32")
        for shape, axis in zip((x_shape, w_shape), axes, strict=True)
    ]
    arrays = placed(host, backend, "float32")
    found = tinynn.vmap(lambda x, w: conv(x, w, **options), in_axes=axes)(*arrays)
    rows = [
        conv(*[a if axis is None else a[i] for a, axis in zip(host, axes, strict=True)], **options)
        for i in range(3)
    ]
    assert_close(found, np.stack(rows), backend, rtol=1e-4, atol=1e-4)


@pytest.mark.only("jax")
def test_channels_first_and_same_are_those_of_jax() -> None:
    lax = pytest.importorskip("jax", reason="JAX is compared with").lax
    for length, stride, size in ((7, 2, 3), (8, 3, 2), (5, 2, 4), (6, 4, 3)):
        x, w = (
            RNG.normal(size=(2, length, 3)).astype("f4"),
            RNG.normal(size=(size, 3, 2)).astype("f4"),
        )
        expected = lax.conv_general_dilated(
            x, w, (stride,), "SAME", dimension_numbers=("NXC", "XIO", "NXC")
        )
        found = conv(x, w, stride=stride, padding="same")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        first = conv(np.moveaxis(x, -1, 1), w, stride=stride, padding="same", channels="first")
        np.testing.assert_array_equal(np.moveaxis(first, 1, -1), found)
        if size >= stride:
            expected = lax.conv_transpose(
                x, w[::-1], (stride,), "SAME", dimension_numbers=("NXC", "XIO", "NXC")
            )
            found = conv_transpose(x, w, stride=stride, padding="same")
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.only("torch")
@settings(max_examples=20)
@given(data=st.data())
def test_pools_are_pytorchs(data: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    axes = data.draw(st.integers(1, 3))
    each = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    window, stride, dilation = each(1, 3), each(1, 3), each(1, 2)
    ends = tuple(data.draw(st.integers(0, w // 2)) for w in window)
    padding = tuple((n, n) for n in ends)
    x = RNG.permutation(2 * 2 * 6**axes).reshape(2, 2, *(6,) * axes) / 7.0
    g = RNG.normal()
    settings = {"window": window, "stride": stride, "padding": padding}
    size = {"size": each(1, 7)}
    for kind, ours, theirs in (
        ("max_", {**settings, "dilation": dilation}, (window, stride, ends, dilation)),
        ("avg_", settings, (window, stride, ends, False, False)),  # padding is not counted
        ("adaptive_max_", size, tuple(size.values())),
        ("adaptive_avg_", size, tuple(size.values())),
    ):
        t = torch.tensor(x, requires_grad=True)
        y = getattr(torch.nn.functional, f"{kind}pool{axes}d")(t, *theirs)
        torch.sum(torch.sin(g * y)).backward()
        call = partial(getattr(F, f"{kind}pool"), channels="first", **ours)
        f = lambda x, call=call: namespace(x).sum(namespace(x).sin(g * call(x)))  # noqa: E731
        for each_x in (x, torch.tensor(x)):
            np.testing.assert_allclose(call(each_x), y.detach().numpy(), rtol=1e-12, atol=1e-12)
            found = tinynn.grad(f)(each_x)
            np.testing.assert_allclose(found, t.grad.numpy(), rtol=1e-10, atol=1e-12)
    mode = ("linear", "bilinear", "trilinear")[axes - 1]
    for ours, theirs in (("nearest", {}), ("linear", {"mode": mode, "align_corners": False})):
        expected = torch.nn.functional.interpolate(torch.tensor(x), scale_factor=3.0, **theirs)
        found = F.upsample(x, 3, method=ours, channels="first")
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-10)


@pytest.mark.only("jax")
def test_ties_are_those_of_jax() -> None:
    jax = pytest.importorskip("jax", reason="JAX is compared with")
    x = RNG.integers(0, 2, size=(2, 6, 7, 2)).astype("float32")
    for window, stride in (((2, 2), (2, 2)), ((3, 2), (2, 1))):

        def theirs(x: Any, window: Any = window, stride: Any = stride) -> Any:
            y = jax.lax.reduce_window(
                x, -np.inf, jax.lax.max, (1, *window, 1), (1, *stride, 1), "VALID"
            )
            return (y * jax.numpy.arange(y.size).reshape(y.shape)).sum()

        def ours(x: Any, window: Any = window, stride: Any = stride) -> Any:
            y = F.max_pool(x, window, stride=stride)
            return namespace(x).sum(y * np.arange(y.size, dtype="f4").reshape(y.shape))

        np.testing.assert_array_equal(tinynn.grad(ours)(x), jax.grad(theirs)(x))


@pytest.mark.parametrize("pool", [F.max_pool, partial(F.adaptive_max_pool, size=4)])
def test_of_a_window_with_nan_the_last_is_the_largest(pool: Any, backend: backends.Backend) -> None:
    host = np.asarray([1.0, np.nan, -np.inf, -np.inf, np.nan, 2.0, np.nan, np.nan], "f4")
    x = backend.asarray(host.reshape(1, 8, 1))
    g = backend.asarray(np.asarray([[[1.0], [2.0], [3.0], [4.0]]], "f4"))
    y, pull = tinynn.vjp(pool, x)
    kept = np.asarray([[[np.nan], [-np.inf], [np.nan], [np.nan]]])
    assert_equal(y, kept, backend, dtype="float32")
    expected = np.asarray([0.0, 1, 2, 0, 3, 0, 0, 4]).reshape(1, 8, 1)
    assert_equal(pull(g)[0], expected, backend, dtype="float32")
    along = backend.asarray(np.arange(8, dtype="f4").reshape(1, 8, 1))
    change = tinynn.jvp(pool, (x,), (along,))[1]
    assert_equal(change, np.asarray([[[1.0], [2], [4], [7]]]), backend, dtype="float32")


@pytest.mark.parametrize(
    ("window", "options"),
    [
        ((2, 2), {}),
        ((3, 2), {"stride": (2, 1), "padding": ((1, 1), (1, 1))}),
        ((2, 2), {"stride": 1, "dilation": (2, 1), "padding": ((0, 1), (1, 0))}),
    ],
)
def test_of_equal_elements_the_first_has_the_derivative(
    window: Any, options: Any, backend: backends.Backend
) -> None:
    host = RNG.integers(0, 3, size=(2, 5, 4, 2)).astype("float32")
    weight = RNG.normal(size=F.max_pool(host, window, **options).shape).astype("float32")

    def f(x: Any) -> Any:
        xp = namespace(x)
        y = F.max_pool(x, window, **options)
        return xp.sum(y * y * backend_of(x).asarray(weight))

    x = backend.asarray(host)
    for g in (tinynn.grad(f), tinynn.compile(tinynn.grad(f))):
        assert_close(g(x), tinynn.grad(f)(host), backend, dtype="float32", rtol=1e-5)
    along = backend.asarray(RNG.normal(size=host.shape).astype("float32"))
    _, change = tinynn.jvp(f, (x,), (along,))
    expected = tinynn.jvp(f, (host,), (backend.to_host(along),))[1]
    assert_close(change, expected, backend, dtype="float32", rtol=1e-4)


POOLS = {
    "max": partial(F.max_pool, window=(4, 3), stride=2, padding=((2, 2), (1, 1))),
    "avg": partial(F.avg_pool, window=(3, 2), stride=(2, 1), padding=1),
    "adaptive max": partial(F.adaptive_max_pool, size=(3, 2)),
    "adaptive avg": partial(F.adaptive_avg_pool, size=(3, 2)),
    "linear": partial(F.upsample, scale=(2, 3), method="linear"),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools_on_every_backend(name: str, backend: backends.Backend, float_dtype: Any) -> None:
    ours, host = POOLS[name], RNG.permutation(2 * 7 * 6 * 3).reshape(2, 7, 6, 3) / 64.0
    f = lambda x: namespace(x).sum(ours(x) * ours(x))  # noqa: E731
    x = backend.asarray(host, dtype=float_dtype)
    bound = {"dtype": float_dtype, "rtol": 1e-5, "atol": 1e-5}
    assert_close(ours(x), ours(host), backend, **bound)
    along = [RNG.normal(size=host.shape)]
    slope = tinynn.grad(f)
    found = tinynn.jvp(slope, (x,), tuple(placed(along, backend, float_dtype)))
    for each, other in zip(found, tinynn.jvp(slope, (host,), tuple(along)), strict=True):
        assert_close(each, other, backend, **bound)
    batch = backend.asarray(np.stack([host, host[::-1]]), dtype=float_dtype)
    expected = np.stack([ours(host), ours(host[::-1])])
    assert_close(tinynn.vmap(ours)(batch), expected, backend, rtol=1e-5)


# Layers.

NET = Sequential(
    Conv2d(4, padding="same"), relu, MaxPool2d(), Conv2d(6, groups=2), relu, AvgPool2d(), Flatten(),
    Linear(3),
)  # fmt: skip
IMAGES = RNG.normal(size=(12, 8, 8, 2))
LABELS = np.arange(12) % 3


@pytest.mark.reads_scalars
@pytest.mark.parametrize("compiles", [False, True], ids=["eager", "compiled"])
def test_training_is_that_of_numpy(compiles: bool, backend: backends.Backend) -> None:
    if backend.name == "jax" and not compiles:
        pytest.skip("JAX compiles each function anew when called by itself, which takes long")
    engine = compiled_by(backend) if compiles else "eager"

    def trained(x: Any, y: Any, engine: str) -> Any:
        return fit(
            NET, x, y, loss=SoftmaxCrossEntropy(), optimizer=SGD(0.1), epochs=3, batch_size=4,
            seed=1, progress=False, engine=engine,
        )  # fmt: skip

    host = trained(IMAGES.astype("f4"), LABELS, "eager")
    here = trained(backend.asarray(IMAGES, dtype="float32"), backend.asarray(LABELS), engine)
    for name, leaf in tinynn.tree.paths(here.params):
        expected = dict(tinynn.tree.paths(host.params))[name]
        assert_close(leaf, expected, backend, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*loops.*")
def test_loops_give_the_training_of_calls(tmp_path: Path) -> None:
    pytest.importorskip("llvmlite", reason="LLVM compiles NumPy's loops")
    kinds = {"loss": SoftmaxCrossEntropy(), "optimizer": SGD(0.1), "seed": 1, "progress": False}
    x = IMAGES.astype("f4")
    both = [
        fit(NET, x, LABELS, epochs=2, batch_size=4, engine=engine, **kinds)
        for engine in ("calls", "loops")
    ]
    for a, b in zip(*[tinynn.tree.leaves(model.params) for model in both], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    both[0].save(tmp_path / "net.safetensors")
    read = tinynn.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(read.predict(x), both[0].predict(x))


@pytest.mark.parametrize(
    "layer",
    [
        Conv2d(4, kernel_size=(3, 2), stride=2, padding="same"),
        Conv2d(4, groups=2, dilation=2, padding=((1, 2), (0, 3)), channels="last"),
        Conv2d(4, channels="first"),
        ConvTranspose2d(4, groups=2, stride=2, padding="same"),
        ConvTranspose2d(2, kernel_size=(2, 3), stride=(3, 2), output_padding=1, padding=1),
        MaxPool2d(3, stride=2, padding="same"),
        MaxPool2d(),
        AvgPool2d(3, stride=1, padding=1),
        layers.AdaptiveAvgPool((3, 2)),
        GlobalMaxPool(),
        layers.Upsample(2, method="linear"),
        layers.Pad(((1, 0), (0, 2)), value=2.0),
    ],
    ids=str,
)
def test_onnx_gives_the_same(layer: Any, tmp_path: Path) -> None:
    x = RNG.normal(size=(4, 8, 8, 2)).astype("f4")
    x = np.moveaxis(x, -1, 1) if getattr(layer, "channels", "") == "first" else x
    net = Sequential(layer, Flatten(), Linear(2))
    model = Model(net, *net.init(0, x))
    assert_same(exported(model, tmp_path, x), model, x, rows=(1, 3))


def test_layers_are_written_down_and_read_again() -> None:
    for layer in (
        NET, Conv1d(3, padding="causal", dilation=2), Conv3d(2, kernel_size=(1, 2, 3)),
        ConvTranspose2d(2, stride=2, output_padding=(1, 0), padding=((1, 0), (0, 1))),
        GlobalMaxPool(channels="first"), layers.AdaptiveAvgPool((2, 3)), layers.Pad(((0, 1),)),
        layers.Upsample(3, method="linear"),
    ):  # fmt: skip
        assert layers.from_config(layers.to_config(layer)) == layer


def test_fans_count_the_kernel() -> None:
    x = np.ones((1, 9, 9, 4))
    weight = Conv2d(100, kernel_size=5, groups=2).init(0, x)[0]["weight"]
    assert weight.shape == (5, 5, 2, 100)
    limit = np.sqrt(6.0 / (25 * (2 + 100)))  # glorot_uniform
    assert 0.98 * limit < abs(weight).max() <= limit


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Conv2d(3, kernel_size=9), (2, 8, 8, 1), "padded input of 9 elements or more"),
        (Conv2d(4, groups=2), (2, 8, 8, 3), "channels 2 groups divide, got 3"),
        (Conv2d(4), (2, 8, 8), r"\(batch, height, width, channels\), got \(2, 8, 8\)"),
        (Conv1d(4, channels="first"), (2, 8), r"\(batch, channels, length\)"),
        (MaxPool2d(3), (2, 2, 8, 1), "smaller kernel"),
        (MaxPool2d(2, padding=2), (2, 8, 8, 1), "nothing but padding"),
        (GlobalMaxPool(), (2, 8), "no axis empty"),
        (ConvTranspose2d(1, padding=5), (2, 2, 2, 1), "cut less"),
    ],
)
def test_bad_input_names_the_layer(layer: Any, shape: Any, message: str) -> None:
    net = Sequential(Sequential(layer))
    with pytest.raises(ShapeError, match=message) as caught:
        net.init(0, np.ones(shape))
    assert str(caught.value).startswith("layer 0.0, ")
    assert "To fix it: " in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Conv2d(3, padding="full"),
        lambda: Conv2d(3, padding="causal"),
        lambda: Conv2d(3, padding=((1, 1),)),
        lambda: Conv2d(3, kernel_size=(3, 3, 3)),
        lambda: Conv2d(3, stride=0),
        lambda: Conv2d(3, groups=2),
        lambda: Conv2d(3, channels="middle"),
        lambda: MaxPool2d(0),
        lambda: layers.AdaptiveMaxPool(0),
        lambda: layers.Upsample(1.5),
        lambda: layers.Upsample(2, method="cubic"),
    ],
)
def test_bad_settings_are_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


def test_a_convolution_without_channels_is_refused() -> None:
    for x, weight in (((2, 5, 0), (3, 0, 4)), ((2, 5, 4), (3, 4, 0))):
        with pytest.raises(ShapeError, match="conv: expected one channel or more of the input"):
            conv(np.ones(x), np.ones(weight))
