"""Functions of arrays without state: arrays in, arrays out, a file a kind.

All take arrays of any backend, or traced ones, and keep dtype, shape, library and device.
"""

from .activations import (
    dropout,
    elu,
    gelu,
    leaky_relu,
    linear,
    log_softmax,
    one_hot,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from .convolution import conv, conv_transpose
from .dot_product import attention
from .embeddings import embedding, rotary, sinusoidal
from .pooling import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool, pad, upsample

__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "attention",
    "avg_pool",
    "conv",
    "conv_transpose",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool",
    "one_hot",
    "pad",
    "relu",
    "rotary",
    "sigmoid",
    "silu",
    "sinusoidal",
    "softmax",
    "softplus",
    "tanh",
    "upsample",
]
