"""Transposes of exported images: they meet, and what is left is at the beginning alone."""

from typing import Any

import numpy as np
import pytest

from tests.onnx_files import assert_same, exported, made
from tinynn import functional, layers, scan
from tinynn.layers import BatchNorm, Conv2d, Flatten, LayerNorm, Linear, Sequential
from tinynn.trace import namespace

onnx = pytest.importorskip("onnx")

DRAW = np.random.default_rng(11)
FIRST: dict[str, Any] = {"channels": "first"}


def flipped(x: Any) -> Any:
    """Slices, from the other end, of rows and columns."""
    xp = namespace(x)
    return xp.flip(x[:, 1:, :4, :], axis=2) * xp.asarray([0.5, 2.0, 1.0, 3.0], dtype=x.dtype)


def extremes(x: Any) -> Any:
    """Reductions that keep axes, and such that leave them away."""
    xp = namespace(x)
    most = xp.max(x, axis=(1, 2), keepdims=True)
    return xp.concat(
        [xp.sum(x - most, axis=1), xp.mean(xp.min(x, axis=3), axis=1)[..., None]], axis=2
    )


def halves(x: Any) -> Any:
    """Images beside others, one of which was not convolved."""
    xp = namespace(x)
    return xp.concat([xp.where(x > 0, x, xp.zeros_like(x)), functional.softmax(x)], axis=-1)


SHARED = DRAW.normal(size=(40, 3))
CONV = Conv2d(4, padding=1)
LAST = Linear(3, bias=False)
TWICE = (layers.SqueezeExcite(), CONV, layers.SqueezeExcite())
NETS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "flattened": (Sequential(CONV, Flatten(), functional.tanh, LAST), (5, 5, 2), 1),
    "squeeze": (Sequential(CONV, *TWICE), (5, 5, 2), 2),
    "groups": (Sequential(CONV, layers.GroupNorm(2), functional.silu, CONV), (5, 5, 2), 2),
    "groups, first": (
        Sequential(Conv2d(4, **FIRST), layers.GroupNorm(2, **FIRST), functional.relu), (2, 5, 5), 0,
    ),
    "instances": (Sequential(CONV, layers.InstanceNorm(), CONV, BatchNorm()), (5, 5, 2), 2),
    "channels": (Sequential(CONV, layers.RMSNorm(), functional.elu, CONV), (5, 5, 2), 2),
    # LayerNormalization is over the last axes, so that these two are turned there and back.
    "layer norm": (Sequential(CONV, LayerNorm(), functional.gelu, CONV, Flatten(), Linear(2)),
                   (5, 5, 2), 3),
    "slices": (Sequential(CONV, flipped, CONV), (5, 5, 2), 2),
    "reductions": (Sequential(CONV, extremes, Flatten(), Linear(2)), (5, 5, 2), 1),
    "branches": (Sequential(CONV, halves, CONV, layers.Residual(CONV)), (5, 5, 2), 2),
    "one channel": (Sequential(CONV, functional.relu, Flatten(), Linear(2)), (5, 5, 1), 0),
    "a shape between": (
        Sequential(CONV, layers.Reshape((25, 4)), functional.relu, layers.Reshape((5, 5, 4)), CONV),
        (5, 5, 2), 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_few_transposes_are_left(name, tmp_path):
    net, shape, count = NETS[name]
    x = DRAW.normal(size=(3, *shape))
    model = made(net, x)
    assert_same(exported(model, tmp_path, x), model, x)
    found = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert found.count("Transpose") == count, found
    assert "Identity" not in found


def test_weights_keep_their_names_where_their_order_is_another(tmp_path):
    net = Sequential(Conv2d(4), BatchNorm(), functional.relu, Flatten(), Linear(3))
    x = DRAW.normal(size=(3, 5, 5, 2))
    model = made(net, x)
    exported(model, tmp_path, x)
    arrays = {a.name: a for a in onnx.load(tmp_path / "model.onnx").graph.initializer}
    weight = onnx.numpy_helper.to_array(arrays["4.weight"])
    other = model.params["4"]["weight"].reshape(3, 3, 4, 3).transpose(2, 0, 1, 3).reshape(36, 3)
    np.testing.assert_array_equal(weight, other.astype(np.float32))
    assert not any(a.doc_string or "turned" in name for name, a in arrays.items())


def test_weights_that_two_orders_need_are_there_twice(tmp_path):
    def both(x: Any) -> Any:
        xp, shape = namespace(x), (x.shape[0], -1)
        weight = xp.asarray(SHARED, dtype=x.dtype)
        one = xp.reshape(functional.relu(x), shape) @ weight
        return one + xp.reshape(xp.permute_dims(functional.tanh(x), (0, 2, 3, 1)), shape) @ weight

    x = DRAW.normal(size=(3, 4, 5, 2))
    model = made(Sequential(Conv2d(2, padding=1), both), x)
    assert_same(exported(model, tmp_path, x), model, x)


MATRIX = DRAW.normal(size=(4, 4)).astype(np.float32)
CUBE = DRAW.normal(size=(4, 4, 4))
WIDE = DRAW.normal(size=(100, 3))


def filled(x: Any) -> Any:
    """An array of one number in the shape of the images, beside what is not of that shape."""
    xp = namespace(x)
    return xp.zeros_like(x) + xp.mean(x, axis=(1, 2), keepdims=True)


def next_gates(x: Any) -> Any:
    """Images of all samples but the last, each with gates of the one behind it."""
    xp = namespace(x)
    gates = functional.sigmoid(functional.linear(xp.mean(x, axis=(1, 2)), MATRIX))
    return x[:-1] * gates[1:, None, None, :]


def several(x: Any) -> Any:
    """Outputs that are one another with their axes in another order, or the same."""
    xp = namespace(x)
    turned = xp.permute_dims(x, (0, 3, 1, 2))
    positive = functional.relu(turned)
    back = xp.permute_dims(positive, (0, 2, 3, 1))
    return {"x": x, "turned": turned, "again": [x, positive], "back": back, "both": back + x}


def flat_too(x: Any) -> Any:
    """Rows of all that a sample has, as they are and in a product."""
    xp = namespace(x)
    rows = functional.tanh(xp.reshape(x, (x.shape[0], -1)))
    return {"rows": rows, "product": rows @ xp.asarray(WIDE, dtype=x.dtype)}


def stepped(x: Any) -> Any:
    """Steps along the height whose carry and outputs have other axes than the images."""
    xp = namespace(x)

    def step(carry: Any, row: Any) -> Any:
        carry = functional.tanh(carry + xp.permute_dims(row, (0, 2, 1)))
        back = xp.permute_dims(carry, (0, 2, 1))
        return carry, {"carry": carry, "back": back, "again": back}

    rows = xp.permute_dims(x, (1, 0, 2, 3))
    last, steps = scan(step, xp.zeros_like(xp.permute_dims(rows[0], (0, 2, 1))), rows)
    return {"last": last, "steps": steps, "back": xp.permute_dims(steps["back"], (1, 0, 2, 3))}


def deep(x: Any) -> Any:
    """More calls one after another than Python may be called into."""
    for _ in range(1200):
        x = -x
    return x


def kernel(x: Any) -> Any:
    """An array from outside, as long along each axis as the images."""
    return x + namespace(x).asarray(CUBE, dtype=x.dtype)


HARD: dict[str, tuple[Any, tuple[int, ...]]] = {
    "a cube": (Sequential(CONV, kernel, CONV), (4, 4, 2)),
    "filled": (Sequential(CONV, filled, CONV), (5, 5, 2)),
    "other samples": (Sequential(CONV, next_gates, CONV), (5, 5, 2)),
    "outputs": (Sequential(CONV, several), (4, 5, 2)),
    "outputs, first": (Sequential(Conv2d(4, **FIRST), several), (2, 5, 5)),
    "rows that are an output": (Sequential(CONV, flat_too), (5, 5, 2)),
    "deep": (Sequential(CONV, Flatten(), deep, LAST), (3, 2, 2)),
    "in a scan": (Sequential(CONV, stepped), (4, 5, 2)),
}


@pytest.mark.parametrize("name", HARD)
def test_what_moves_is_what_it_was(name, tmp_path):
    net, shape = HARD[name]
    x = DRAW.normal(size=(3, *shape))
    model = made(net, x)
    assert_same(exported(model, tmp_path, x), model, x, rows=(2, 7))
