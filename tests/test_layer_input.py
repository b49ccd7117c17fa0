"""What is no input of a layer is an error that names the layer's path, on every backend."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tinynn import functional, layers
from tinynn.functional.errors import InputError
from tinynn.layers import GRU, LSTM, Layer, Linear, MultiHeadAttention, Scope, Stacked

pytestmark = pytest.mark.reads_scalars  # lengths and ids are looked at

ROWS, SIGNALS, IMAGES = (2, 4), (2, 6, 4), (2, 6, 6, 4)

LAYERS: list[tuple[Layer, tuple[int, ...]]] = [
    *((getattr(layers, name)(2), SIGNALS) for name in ("Conv1d", "ConvTranspose1d", "MaxPool1d")),
    *((getattr(layers, name)(2), SIGNALS) for name in ("AvgPool1d", "AdaptiveAvgPool", "Upsample")),
    *((getattr(layers, name)(), IMAGES) for name in ("GlobalAvgPool", "GlobalMaxPool")),
    *((getattr(layers, name)(), ROWS) for name in ("BatchNorm", "LayerNorm", "RMSNorm", "PReLU")),
    *((getattr(layers, name)(2), SIGNALS) for name in ("GroupNorm", "RNN", "GRU", "LSTM")),
    *((getattr(layers, name)(2), SIGNALS) for name in ("RandomFlip", "RandomShift", "RandomCrop")),
    *((of(0.1), ROWS) for of in (layers.Dropout, layers.GaussianNoise, layers.Temperature)),
    *((layers.Bidirectional(GRU(2)), SIGNALS), (Stacked(GRU(2)), SIGNALS)),
    *((layers.Pad(1), SIGNALS), (layers.Cutout(2), SIGNALS), (layers.SqueezeExcite(1), IMAGES)),
    *((layers.AdaptiveMaxPool((2, 2)), IMAGES), (layers.InstanceNorm(), SIGNALS)),
    *((layers.Flatten(), SIGNALS), (layers.Reshape((24,)), SIGNALS)),
    *((layers.Permute((2, 1)), SIGNALS), (layers.Residual(Linear(4)), ROWS), (Linear(2), ROWS)),
    *((MultiHeadAttention(2), SIGNALS), (layers.TransformerEncoderBlock(2), SIGNALS)),
    *((layers.PositionEmbedding(9), SIGNALS), (layers.SinusoidalEncoding(), SIGNALS)),
]  # fmt: skip


@dataclass(frozen=True)
class Net(Layer):
    """A layer at the path "here"."""

    inner: Layer

    def forward(self, scope: Scope, *inputs: Any) -> Any:
        return scope("here", self.inner, *inputs)


@pytest.mark.only("numpy", "torch", "jax", "array_api_strict")
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=[str(layer) for layer, _ in LAYERS])
def test_what_is_no_array_is_named(layer: Layer, shape: tuple[int, ...], backend: Backend) -> None:
    net, x = Net(layer), backend.asarray(np.ones(shape, "float32"))
    params, state = net.init(0, x)
    for wrong in ((x, x, x), [[1.0, 2.0]], None, "text"):
        with pytest.raises(InputError, match=r"^layer here[.\w]*, "):
            net.apply(params, state, wrong, key=0, training=True)


def ones(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype)


X, LENGTHS = ones(2, 6, 4), np.asarray([7, 2])
MASK = ones(2, 5, dtype="bool")
CASES: list[tuple[Layer, tuple[Any, ...], str]] = [
    (layers.Conv2d(2, kernel_size=7), (ones(2, 3, 3, 4),), "expected a padded input of 7 elements"),
    (layers.Conv1d(2, dilation=4), (X,), "expected a padded input of 9 elements"),
    (layers.MaxPool1d(7), (X,), "expected a padded input of 7 elements"),
    (layers.Conv2d(4, groups=2), (ones(2, 5, 5, 3),), "expected input whose channels 2 groups div"),
    (layers.ConvTranspose1d(2, kernel_size=1, padding=3), (X,), "expected a result of one element"),
    (layers.SqueezeExcite(1), (ones(2, 0, 3),), "expected input with spatial axes, no axis empty"),
    (layers.RandomCrop((2, 2)), (X,), "expected size to be .* one for each of 1 spatial axes"),
    (layers.RandomShift((1, 1)), (X,), "expected limit to be .* one for each of 1 spatial axes"),
    (layers.Pad(-3), (X,), "expected one element or more to be left"),
    (layers.Pad(((1, 1), (1, 1))), (X,), "with 2 spatial axes, got"),
    (layers.Conv1d(2, kernel_size=1, padding=1), (ones(2, 0, 4),), "axes of one element or more"),
    (layers.ConvTranspose1d(2), (ones(2, 0, 4),), "spatial axes of one element or more"),
    (MultiHeadAttention(2), (ones(2, 6, 0),), "features that 2 heads divide, got 0"),
    *((of, (X, LENGTHS), "lengths from 0 to 6, got") for of in (GRU(3), LSTM(3), Stacked(GRU(3)))),
    *((of, (X, MASK), r"a mask of shape .* \(2, 6\), got") for of in (GRU(3), Stacked(LSTM(3)))),
    (MultiHeadAttention(2), (X, LENGTHS), "expected lengths from 0 to 6, got"),
    (MultiHeadAttention(2), (X, MASK), r"a mask of shape .* \(2, 6\), got"),
    (MultiHeadAttention(2), (X, {"a": LENGTHS}), "expected a cache of 'key', 'value' and 'index'"),
    (layers.Embedding(4, 3), (np.asarray([[4, 1]]),), "expected ids from 0 to 3, got"),
    (layers.Embedding(4, 3), (X,), "expected ids of an integer dtype, got .*float32"),
    (layers.EmbeddingBag(4, 3), (X[..., 0],), "expected ids of an integer dtype, got .*float32"),
    (layers.EmbeddingBag(4, 3), (ones(2, 0, dtype="int32"),), "of one step or more"),
    (GRU(3), (ones(2, 0, 4),), "of one step or more"),
    *((of(2), (ones(2, 6, 0),), "one feature or more") for of in (Linear, layers.Conv1d, GRU)),
    (layers.SinusoidalEncoding(), (X, ones()), "expected the place of the first step of an int"),
]


@pytest.mark.parametrize(("layer", "inputs", "message"), CASES)
def test_bad_input_is_named(
    layer: Layer, inputs: tuple[Any, ...], message: str, backend: Backend
) -> None:
    def placed(a: Any) -> Any:
        return {k: placed(v) for k, v in a.items()} if isinstance(a, dict) else backend.asarray(a)

    with pytest.raises(InputError, match=rf"^layer here[.\w]*, .*{message}"):
        Net(layer).init(0, *map(placed, inputs))


def test_odd_sizes_under_same_with_strides(backend: Backend) -> None:
    """Give ceil(length / stride) elements, as in JAX."""
    for length in (1, 2, 5, 6, 7):
        x = backend.asarray(ones(1, length, 2))
        layer = layers.Conv1d(3, stride=2, padding="same")
        assert tuple(layer(layer.init(0, x)[0], x).shape) == (1, -(-length // 2), 3)


@pytest.mark.parametrize("padding", ["same", "causal", 1.5, ((1,),)])
def test_words_are_no_padding_of_pad(padding: Any) -> None:
    """Which did nothing once, as there is no kernel."""
    for make in (layers.Pad, lambda padding: functional.pad(X, padding)):
        with pytest.raises(ValueError, match="ad: expected padding to be"):
            make(padding)


def test_a_carry_may_come_in_a_tuple(backend: Backend) -> None:
    """As a layer in a Sequential is given all inputs."""
    x, layer = backend.asarray(X), GRU(3)
    params, _ = layer.init(0, x)
    y, carry = layer(params, x, layer.carry(x))
    again, other = layer(params, (x, layer.carry(x)))
    assert backend.to_host(again == y).all()
    assert carry.keys() == other.keys()
