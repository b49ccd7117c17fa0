"""What is no input of a layer is an error that names the layer's path, on every backend."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tinynn import functional, layers, losses
from tinynn.functional.errors import DtypeError, InputError
from tinynn.initializers import Normal
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
    (layers.PositionEmbedding(9), (X, LENGTHS), r"expected a 0-d array, .* got \(2,\). To fix it"),
    (layers.SinusoidalEncoding(), (ones(2, 6, 0),), "an even number of features, got 0"),
    (layers.ConvTranspose1d(2, output_padding=1), (X,), "output_padding below stride 1"),
    (Linear(2), (X, X), "expected 1 input, got 2. To fix it: pick the inputs"),
    (layers.Residual(Linear(4)), (X, LENGTHS), "Residual.*: expected 1 input, got 2"),
    (layers.PositionEmbedding(9), (X, LENGTHS, X), "expected 1 to 2 inputs, got 3"),
    (layers.Lambda(functional.relu), (X, X), "relu: expected 1 input, got 2"),
    (Stacked(GRU(3)), ({"h": X},), "of one step or more, got dict"),
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


COMPLEX = ("Linear", "LayerNorm", "BatchNorm", "Conv1d", "AvgPool1d", "MaxPool1d", "GRU", "PReLU",
           "Upsample", "Temperature", "MultiHeadAttention")  # fmt: skip


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("name", COMPLEX)
def test_other_than_real_numbers_are_named(name: str, backend: Backend) -> None:
    """Once means over nothing, random draws and the library's own errors spoke of them."""
    layer = next(layer for layer, _ in LAYERS if type(layer).__name__ == name)
    x = X[:, 0] if name in ("Linear", "LayerNorm", "BatchNorm", "PReLU", "Temperature") else X
    params, state = Net(layer).init(0, backend.asarray(x))
    wrong = backend.asarray(x.astype("complex64"))
    expected = r"^layer here[.\w]*, .*expected real numbers, got .*complex64. To fix it: give xp.re"
    for call in (
        lambda: Net(layer).init(0, wrong),
        lambda: Net(layer).apply(params, state, wrong, training=True),
    ):
        with pytest.raises(DtypeError, match=expected):
            call()
    if backend.name == "numpy":
        with pytest.raises(DtypeError, match=r"real numbers, got <U1\. To fix it: encode texts"):
            Net(layer).init(0, np.full(x.shape, "a"))


def test_integers_beside_floats_are_joined_as_floats(backend: Backend) -> None:
    """Once float64 of float32, or an error, as the library had it."""
    x, ids = backend.asarray(X), backend.asarray(np.ones((2, 6, 1), "int64"))
    assert layers.Concatenate()({}, x, ids).dtype == x.dtype


def test_a_layer_without_arrays_is_told_how_to_make_one() -> None:
    with pytest.raises(ValueError, match=r"^init: expected an array .*, got list. To fix it"):
        Linear(2).init(0, [[1.0, 2.0]])
    with pytest.raises(InputError, match=r"^Linear\(2\): expected 1 input, got 2"):
        Linear(2).init(0, X, X)


def test_numbers_of_many_networks_are_no_numbers_of_one() -> None:
    """Once they were broadcast against features."""
    net = layers.Sequential(layers.LayerNorm(epsilon=[0.1] * 4))
    with pytest.raises(ValueError, match=r"one number as layers.0.epsilon, got 4. To fix it: .*_m"):
        net.init(0, X)


SETTINGS: list[tuple[Any, str]] = [
    *(
        (lambda v=v: Linear(2, bias=v), "Linear: expected bias to be True or False")
        for v in (0, "no", None)
    ),
    (
        lambda: GRU(2, return_sequences="no"),
        "expected return_sequences to be True or False, got 'no'",
    ),
    (
        lambda: Linear(2, weight_init=Normal),
        r"Linear: .*weight_init to be a function.*write Normal\(",
    ),
    (lambda: Linear(2, weight_init=0.1), "expected weight_init to be a function, got 0.1"),
    (lambda: layers.TransformerEncoderBlock(2, activation="relu"), "activation to be a function"),
    (lambda: layers.TransformerEncoderBlock(2, norm=None), "Block: expected norm to be a layer or"),
    (lambda: layers.TransformerEncoderBlock(2, dropout=2.0), "^TransformerEncoderBlock: .*dropout"),
    (
        lambda: Stacked(GRU(2), dropout=1.0),
        r"^Stacked: expected dropout to be a number in \[0, 1\)",
    ),
    (lambda: layers.MixtureOfExperts(3, experts=2), "expected layer to be a layer or a function"),
    (lambda: Linear(np.asarray(2)), r"a whole number of 1 or more, got array\(2\)"),
    (lambda: layers.Conv1d(2, kernel_size=True), "expected kernel_size to be .* got True"),
    (lambda: layers.Conv1d(2, padding=True), "expected padding to be .* got True"),
    (lambda: layers.RandomCrop(()), r"expected size to be .* got \(\)"),
    (lambda: layers.RandomFlip(True), "expected axis to be a whole number"),
    (lambda: layers.LayerNorm(epsilon=True), "expected epsilon to be a finite number"),
    (lambda: layers.BatchNorm(epsilon=float("inf")), "expected epsilon to be a finite number"),
    (lambda: layers.Temperature(float("inf")), "expected value to be a finite number above 0"),
    (lambda: layers.Pad(1, value="edge"), "Pad: expected value to be a number, got 'edge'"),
    (lambda: layers.Cutout(1, fill=None), "Cutout: expected fill to be a number, got None"),
    (lambda: layers.Reshape({}), r"Reshape: expected shape to be a tuple .*, got \{\}"),
    (lambda: layers.Permute({1: 2}), "Permute: expected axes to be a tuple"),
    (lambda: losses.CTC(zero_infinity=1), "CTC: expected zero_infinity to be True or False, got 1"),
]


@pytest.mark.parametrize(("make", "message"), SETTINGS)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


F, W, Q = functional, ones(3, 4, 5), ones(2, 5, 2, 4)
CALLS: list[tuple[Any, str]] = [
    *((lambda f=f: f([[1.0]], 1), "expected an array, got list") for f in (F.max_pool, F.pad)),
    (lambda: F.conv(X.tolist(), W), "expected an array, got list"),
    (lambda: F.conv(X, W[:0]), "conv: expected a kernel of one element or more"),
    (lambda: F.conv(X, W, groups=True), "expected groups that divide .* got True"),
    (
        lambda: F.pad(ones(2, 6, 4, dtype="int32"), 1, 0.5),
        "pad: expected a whole number as the val",
    ),
    (
        lambda: F.dropout(X, 1.0, ones(2, dtype="int32")),
        "dropout: expected a rate of 0 or more and",
    ),
    (lambda: F.rotary(Q, base=0), "rotary: expected a base above 0, got 0"),
    (lambda: F.attention(Q, Q, Q, start=1), "attention: expected causal=True beside a start"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_bad_input_of_functions_is_named(call: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@dataclass(frozen=True)
class Annotated(layers.Layer):
    """Settings whose annotations are texts, as `from __future__ import annotations` makes them."""

    bias: "bool" = True
    scale: "Callable[[Any], Any]" = abs
    plain: Callable = None  # type: ignore[assignment, type-arg]

    def forward(self, scope: layers.Scope, x: Any) -> Any:
        return self.scale(x)


def test_annotations_that_are_texts_are_read() -> None:
    with pytest.raises(ValueError, match="expected bias to be True or False, got 1"):
        Annotated(bias=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected scale to be a function, got 1"):
        Annotated(scale=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected plain to be a function, got 1"):
        Annotated(plain=1)  # type: ignore[arg-type]
    layer = Annotated(plain=None)  # what it is if it is left out
    assert replace(layer, bias=False).plain is None


def test_numbers_of_numpys_are_settings() -> None:
    settings: Any = {"features": np.int64(3), "bias": np.bool_(False)}
    net = layers.Sequential(Linear(**settings), layers.Dropout(np.float32(0.25)))
    assert str(net) == "Sequential(Linear(3, bias=False), Dropout(rate=0.25))"
    assert layers.from_config(json.loads(json.dumps(layers.to_config(net)))) == net
    assert set(net.init(0, np.ones((2, 4), "float32"))[0]["0"]) == {"weight"}


def test_a_value_to_pad_with_has_to_fit() -> None:
    x = np.ones((1, 2, 1))
    unit: Any = 1j
    assert functional.pad(x.astype("complex128"), 1, unit)[0, 0, 0] == unit
    cases: tuple[Any, ...] = (
        (1j, "float64", "expected a real number as the value beside input of float64, got 1j"),
        (0.5, "int64", "expected a whole number as the value beside input of int64, got 0.5"),
        (None, "float64", "expected a number as the value, got None"),
    )
    for value, dtype, message in cases:
        with pytest.raises((DtypeError, TypeError), match=f"pad: {message}. To fix it"):
            functional.pad(x.astype(dtype), 1, value)
    with pytest.raises(TypeError, match="adaptive_max_pool: expected real input, got complex128"):
        functional.adaptive_max_pool(x.astype("complex128"))
