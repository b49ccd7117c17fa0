"""Optimizers: frozen dataclasses. `init(params) -> state`, and `update(gradients, state, params) ->
(params, state)`; nothing is changed in place.

`Chain(ClipByGlobalNorm(1.0), L2(1e-4), Adam())` prepares the gradients before the last one's step.
To write an optimizer, derive from `Optimizer`; to write a link, from `Link`.
"""

from .adam import Adam, AdamW
from .base import Optimizer
from .links import L1, L2, Chain, ClipByGlobalNorm, ClipByValue, Link
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = [
    "L1",
    "L2",
    "SGD",
    "Adam",
    "AdamW",
    "Chain",
    "ClipByGlobalNorm",
    "ClipByValue",
    "Link",
    "Optimizer",
    "RMSprop",
]
