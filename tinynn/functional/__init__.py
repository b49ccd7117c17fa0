"""Functions of arrays without state: arrays in, arrays out, a file a kind.

All take arrays of any backend, or traced ones, and keep dtype, shape, library and device.
"""

from .activations import (
    celu,
    elu,
    gelu,
    glu,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    mish,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    softsign,
    sparsemax,
    squareplus,
    tanh,
    tanh_shrink,
)
from .convolution import conv, conv_transpose
from .dense import dropout, linear, one_hot
from .dot_product import attention
from .embeddings import embedding, rotary, sinusoidal
from .piecewise import (
    hard_shrink,
    hard_sigmoid,
    hard_silu,
    hard_tanh,
    relu6,
    soft_shrink,
    threshold,
)
from .pooling import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool, pad, upsample
from .slicing import dynamic_slice, dynamic_update_slice

__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "attention",
    "avg_pool",
    "celu",
    "conv",
    "conv_transpose",
    "dropout",
    "dynamic_slice",
    "dynamic_update_slice",
    "elu",
    "embedding",
    "gelu",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "max_pool",
    "mish",
    "one_hot",
    "pad",
    "relu",
    "relu6",
    "rotary",
    "selu",
    "sigmoid",
    "silu",
    "sinusoidal",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "sparsemax",
    "squareplus",
    "tanh",
    "tanh_shrink",
    "threshold",
    "upsample",
]
