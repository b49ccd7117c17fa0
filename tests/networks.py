"""Fifteen layers as a user would write them; tests/test_networks.py has each of them in PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynn.functional import gelu, one_hot, relu, sigmoid, softmax, tanh
from tinynn.initializers import Constant, glorot_uniform, lecun_normal, ones, zeros
from tinynn.layers import BatchNorm, Dropout, Layer, LayerNorm, Linear, Scope, Sequential
from tinynn.rules.special import stop_gradient
from tinynn.trace import namespace

Array = Any


@dataclass(frozen=True)
class Residual(Layer):
    """What a layer makes of its input, added to it."""

    inner: Layer

    def forward(self, scope: Scope, x: Array) -> Array:
        return x + scope("inner", self.inner, x)


@dataclass(frozen=True)
class TwoInputs(Layer):
    """A hidden layer that sees a dict of two inputs."""

    hidden: int

    def forward(self, scope: Scope, x: dict[str, Array]) -> Array:
        seen = scope("image", Linear(self.hidden), x["image"])
        read = scope("text", Linear(self.hidden, bias=False), x["text"])
        return scope("out", Linear(2), tanh(seen + read))


@dataclass(frozen=True)
class TiedAutoencoder(Layer):
    """The decoder's weight is the encoder's, transposed."""

    hidden: int

    def forward(self, scope: Scope, x: Array) -> Array:
        weight = scope.param("weight", glorot_uniform, (x.shape[-1], self.hidden))
        code = sigmoid(x @ weight + scope.param("bias", zeros, (self.hidden,)))
        return code @ weight.T + scope.param("bias_out", zeros, (x.shape[-1],))


@dataclass(frozen=True)
class Siamese(Layer):
    """How far apart one tower puts two inputs."""

    tower: Layer

    def forward(self, scope: Scope, *pair: Array) -> Array:
        left, right = (scope("tower", self.tower, x) for x in pair)
        return namespace(left).sum((left - right) ** 2, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Autoencoder(Layer):
    """An encoder, a code that is charged for its size, and a decoder."""

    hidden: int

    def forward(self, scope: Scope, x: Array) -> Array:
        code = tanh(scope("encoder", Linear(self.hidden), x))
        code = scope.tap("code", code)
        scope.add_loss("size", 0.1 * namespace(code).mean(code * code))
        return scope("decoder", Linear(x.shape[-1]), code)


@dataclass(frozen=True)
class Mixture(Layer):
    """Experts, mixed by a gate that is charged for preferring some (Shazeer et al. 2017)."""

    experts: int
    features: int

    def forward(self, scope: Scope, x: Array) -> Array:
        gates = softmax(scope("gate", Linear(self.experts, bias=False), x))
        xp = namespace(gates)
        share = xp.mean(gates, axis=0)
        scope.add_loss("balance", 0.5 * self.experts * xp.sum(share * share))
        each = [scope(f"expert{i}", Linear(self.features), x) for i in range(self.experts)]
        return xp.sum(xp.stack(each, axis=1) * xp.expand_dims(gates, axis=2), axis=1)


@dataclass(frozen=True)
class Attention(Layer):
    """Multi-head self-attention. x: (batch, length, width), kept."""

    heads: int

    def forward(self, scope: Scope, x: Array) -> Array:
        xp, (batch, length, width) = namespace(x), x.shape
        split = (batch, length, self.heads, width // self.heads)
        q, k, v = (
            xp.permute_dims(xp.reshape(scope(name, Linear(width), x), split), (0, 2, 1, 3))
            for name in ("query", "key", "value")
        )
        scores = softmax((q @ k.mT) / (width // self.heads) ** 0.5)
        mixed = xp.permute_dims(scores @ v, (0, 2, 1, 3))
        return scope("out", Linear(width), xp.reshape(mixed, x.shape))


@dataclass(frozen=True)
class EncoderBlock(Layer):
    """A block of a transformer's encoder, normalised first (Xiong et al. 2020)."""

    heads: int
    rate: float = 0.0

    def forward(self, scope: Scope, x: Array) -> Array:
        y = scope("attention", Attention(self.heads), scope("norm1", LayerNorm(), x))
        x = x + scope("drop", Dropout(self.rate), y)
        hidden = gelu(scope("wide", Linear(2 * x.shape[-1]), scope("norm2", LayerNorm(), x)))
        return x + scope("narrow", Linear(x.shape[-1]), hidden)


@dataclass(frozen=True)
class FourierFeatures(Layer):
    """Sines and cosines of random frequencies, which are not trained (Tancik et al. 2020)."""

    count: int

    def forward(self, scope: Scope, x: Array) -> Array:
        xp = namespace(x)
        frequencies = scope.state("frequencies", lecun_normal, (x.shape[-1], self.count)).value
        angles = 6.283185307179586 * (x @ frequencies)
        return xp.concat([xp.sin(angles), xp.cos(angles)], axis=-1)


@dataclass(frozen=True)
class WarmUp(Layer):
    """Lets through a part of x that grows from step to step."""

    steps: int

    def forward(self, scope: Scope, x: Array) -> Array:
        xp, count = namespace(x), scope.state("count", zeros, (), "int32")
        if scope.training:
            count.value = count.value + 1
        share = xp.astype(count.value, x.dtype) / self.steps
        return x * xp.minimum(share, xp.ones_like(share))


@dataclass(frozen=True)
class SpectralLinear(Layer):
    """A linear layer of spectral norm 1, by power iteration (Miyato et al. 2018)."""

    features: int

    def forward(self, scope: Scope, x: Array) -> Array:
        weight = scope.param("weight", glorot_uniform, (x.shape[-1], self.features))
        xp, fixed = namespace(weight), stop_gradient(weight)
        u = scope.state("u", Constant(0.5), (self.features,))
        v = fixed @ u.value
        v = v / xp.sqrt(xp.sum(v * v))
        if scope.training:
            after = fixed.T @ v
            u.value = after / xp.sqrt(xp.sum(after * after))
        return (x @ weight) / xp.sum(v * (weight @ u.value))


@dataclass(frozen=True)
class GatedLinear(Layer):
    """x @ weight, through gates of its own (Dauphin et al. 2017)."""

    features: int

    def forward(self, scope: Scope, x: Array) -> Array:
        both = scope("both", Linear(2 * self.features), x)
        return both[:, : self.features] * sigmoid(both[:, self.features :])


@dataclass(frozen=True)
class Highway(Layer):
    """Between a layer and its input, feature by feature (Srivastava et al. 2015)."""

    def forward(self, scope: Scope, x: Array) -> Array:
        carried = sigmoid(scope("gate", Linear(x.shape[-1], bias_init=Constant(-1.0)), x))
        return carried * relu(scope("change", Linear(x.shape[-1]), x)) + (1.0 - carried) * x


@dataclass(frozen=True)
class Heads(Layer):
    """Two answers from one body."""

    body: Layer

    def forward(self, scope: Scope, x: Array) -> dict[str, Array]:
        hidden = scope("body", self.body, x)
        return {"kind": scope("kind", Linear(3), hidden), "size": scope("size", Linear(1), hidden)}


@dataclass(frozen=True)
class Embedding(Layer):
    """A vector for each id, and one for each position, added."""

    size: int
    width: int

    def forward(self, scope: Scope, ids: Array) -> Array:
        table = scope.param("table", lecun_normal, (self.size, self.width))
        places = scope.param("places", lecun_normal, (ids.shape[1], self.width))
        xp = namespace(table, ids)
        rows = xp.take(table, xp.reshape(ids, (-1,)), axis=0)
        return xp.reshape(rows, (*ids.shape, self.width)) + places


@dataclass(frozen=True)
class StandardLinear(Layer):
    """A linear layer whose weight has mean 0 and variance 1 (Qiao et al. 2019)."""

    features: int

    def forward(self, scope: Scope, x: Array) -> Array:
        weight = scope.param("weight", glorot_uniform, (x.shape[-1], self.features))
        gain = scope.param("gain", ones, (self.features,))
        xp = namespace(weight)
        centred = weight - xp.mean(weight, axis=0)
        return x @ (gain * centred / xp.sqrt(xp.mean(centred * centred, axis=0) + 1e-4))


@dataclass(frozen=True)
class MeanPool(Layer):
    """The mean over the length. x: (batch, length, width)."""

    def forward(self, scope: Scope, x: Array) -> Array:
        return namespace(x).mean(x, axis=1)


def networks(rate: float = 0.0) -> dict[str, Layer]:
    """A small network with each of the layers; `rate` is that of dropout, where there is some."""
    block = Sequential(Linear(4), BatchNorm(), relu, Dropout(rate), Linear(3))
    return {
        "residual": Sequential(Residual(block), Linear(2)),
        "two inputs": TwoInputs(4),
        "tied": TiedAutoencoder(2),
        "siamese": Siamese(Sequential(Linear(3), tanh, Dropout(rate))),
        "autoencoder": Autoencoder(2),
        "mixture": Mixture(3, 2),
        "encoder": Sequential(EncoderBlock(2, rate), MeanPool(), Linear(2)),
        "fourier": Sequential(FourierFeatures(4), Linear(2)),
        "warm up": Sequential(Linear(4), WarmUp(3), Linear(2)),
        "spectral": Sequential(SpectralLinear(4), tanh, SpectralLinear(2)),
        "gated": Sequential(GatedLinear(4), Linear(2)),
        "highway": Sequential(Highway(), Linear(2)),
        "heads": Heads(Sequential(Linear(4), tanh)),
        "embedding": Sequential(Embedding(7, 4), MeanPool(), Linear(2)),
        "standard": Sequential(StandardLinear(4), tanh, Linear(2)),
    }


def squared(prediction: Array, target: Array) -> Array:
    """The mean of the squared errors, for those networks that give one array."""
    error = prediction - target
    return namespace(error).mean(error * error)


def of_heads(prediction: dict[str, Array], target: dict[str, Array]) -> Array:
    """A cross entropy for the kind, and a squared error for the size."""
    xp = namespace(prediction["kind"])
    likely = xp.log(softmax(prediction["kind"]))
    chosen = one_hot(target["kind"], 3, likely.dtype)
    return -xp.mean(xp.sum(xp.multiply(chosen, likely), axis=-1)) + squared(
        prediction["size"], target["size"]
    )


def loss_of(name: str) -> Callable[[Any, Any], Array]:
    return of_heads if name == "heads" else squared


# What they are called with: X, if they are not among INPUTS.
DRAW = np.random.default_rng(11)
ROWS, X = 8, DRAW.normal(size=(8, 3))
TOKENS = DRAW.normal(size=(ROWS, 3, 4))
INPUTS: dict[str, Any] = {
    "two inputs": {"image": X, "text": DRAW.normal(size=(ROWS, 2))},
    "siamese": (X, DRAW.normal(size=(ROWS, 3))),
    "encoder": TOKENS,
    "embedding": DRAW.integers(0, 7, size=(ROWS, 3)),
}
