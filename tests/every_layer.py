"""Every layer of tinynn with an input: what tests that go through all of them share."""

from typing import Any

import numpy as np

from tinynn import layers
from tinynn.functional import tanh
from tinynn.layers import GRU, Conv1d, Conv2d, Layer, Linear, MultiHeadAttention, Sequential

DRAW = np.random.default_rng(6)
ROWS, SIGNALS, IMAGES, VOLUMES = (
    DRAW.normal(size=shape) for shape in ((4, 4), (4, 6, 4), (4, 4, 4, 4), (4, 3, 3, 3, 2))
)
CONTEXT = DRAW.normal(size=(4, 3, 4))
IDS, LENGTHS = DRAW.integers(0, 5, size=(4, 6)), np.asarray([6, 2, 1, 4])

#: Layers and what they are given, in parts that one network holds side by side.
_LAYERS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "dense": (
        (Linear(3), ROWS),
        (layers.Bilinear(3), ROWS, ROWS[:, :2]),
        (layers.PReLU(), ROWS),
        (layers.Temperature(1.5), ROWS),
        (layers.BatchNorm(), IMAGES),
        (layers.LayerNorm(), ROWS),
        (layers.RMSNorm(), ROWS),
        (layers.GroupNorm(2), IMAGES),
        (layers.InstanceNorm(), IMAGES),
        (layers.WeightNorm(Linear(3)), ROWS),
        (layers.SpectralNorm(Linear(3)), ROWS),
    ),
    "containers": (
        (Sequential(Linear(3), tanh), ROWS),
        (layers.Residual(Linear(3), shortcut=Linear(3)), ROWS),
        (layers.Parallel(Linear(2), tanh), ROWS),
        (layers.Concatenate(), ROWS, ROWS),
        (layers.Lambda(tanh), ROWS),
        (layers.MixtureOfExperts(Linear(3), experts=3, chosen=2), ROWS),
        (layers.Flatten(), SIGNALS),
        (layers.Reshape((4, -1)), SIGNALS),
        (layers.Permute((2, 1)), SIGNALS),
    ),
    "random": (
        (layers.Dropout(0.3), ROWS),
        (layers.GaussianNoise(0.1), ROWS),
        (layers.RandomFlip(1), SIGNALS),
        (layers.RandomShift(1), IMAGES),
        (layers.RandomCrop(3), IMAGES),
        (layers.Cutout(2), IMAGES),
    ),
    "convolutions": (
        (Conv1d(3, padding="causal", dilation=2), SIGNALS),
        (Conv2d(4, groups=2, stride=2, padding="same"), IMAGES),
        (layers.Conv3d(2, kernel_size=2), VOLUMES),
        (layers.ConvTranspose1d(3, stride=2, padding="same"), SIGNALS),
        (layers.ConvTranspose2d(4, kernel_size=2, stride=2, groups=2), IMAGES),
        (layers.ConvTranspose3d(1, kernel_size=2), VOLUMES),
    ),
    "pools": (
        (layers.MaxPool1d(), SIGNALS),
        (layers.MaxPool2d(3, stride=1, padding="same"), IMAGES),
        (layers.MaxPool3d(), VOLUMES),
        (layers.AvgPool1d(), SIGNALS),
        (layers.AvgPool2d(3, stride=1, padding="same"), IMAGES),
        (layers.AvgPool3d(), VOLUMES),
        (layers.GlobalAvgPool(), IMAGES),
        (layers.GlobalMaxPool(), IMAGES),
    ),
    "sizes": (
        (layers.AdaptiveAvgPool(3), IMAGES),
        (layers.AdaptiveMaxPool(3), IMAGES),
        (layers.Upsample(2, method="linear"), SIGNALS),
        (layers.Pad(((1, 2),)), SIGNALS),
        (layers.SqueezeExcite(2), IMAGES),
    ),
    "sequences": (
        (layers.RNN(3, return_sequences=True), SIGNALS, LENGTHS),
        (GRU(3), SIGNALS, LENGTHS),
        (layers.LSTM(3), SIGNALS, LENGTHS),
        (layers.Bidirectional(GRU(2)), SIGNALS),
        (layers.Stacked(GRU(2)), SIGNALS),
        (layers.Embedding(5, 3), IDS),
        (layers.EmbeddingBag(5, 3), IDS, LENGTHS),
    ),
    "attention": (
        (layers.PositionEmbedding(8), SIGNALS),
        (layers.SinusoidalEncoding(), SIGNALS),
        (MultiHeadAttention(2, causal=True), SIGNALS, LENGTHS),
        (layers.TransformerEncoderBlock(2, hidden=3), SIGNALS, LENGTHS),
        (layers.TransformerDecoderBlock(2, hidden=3), SIGNALS, CONTEXT),
    ),
}

#: By the name of its class, a layer and what it is given.
LAYERS: dict[str, tuple[Layer, tuple[Any, ...]]] = {
    type(layer).__name__: (layer, inputs)
    for part in _LAYERS.values()
    for layer, *rest in part
    for inputs in [tuple(rest)]
}

#: The names of the layers of each part.
PARTS: dict[str, tuple[str, ...]] = {
    part: tuple(type(layer).__name__ for layer, *_ in rows) for part, rows in _LAYERS.items()
}
