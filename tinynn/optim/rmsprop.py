"""RMSprop."""

from dataclasses import dataclass
from typing import Any

from tinynn.trace import namespace

from .base import Array, Optimizer, Slots, blend, descend


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Steps divided by the root of a running mean of squares:
    s = decay * s + (1 - decay) * g**2; w -= learning_rate * g / (sqrt(s) + epsilon).

    Source: Hinton 2012, lecture 6e of "Neural Networks for Machine Learning"; the place of
    epsilon is PyTorch's.

    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> rmsprop = RMSprop(learning_rate=0.05)
    >>> params, state = rmsprop.update({"w": np.asarray([3.0])}, rmsprop.init(params), params)
    >>> params["w"].round(6).tolist()
    [0.5]
    """

    learning_rate: float = 0.01
    decay: float = 0.99
    epsilon: float = 1e-8

    def slot_names(self) -> tuple[str, ...]:
        return ("mean_square",)

    def rule(self, gradient: Array, parameter: Array, slots: Slots, once: Any) -> Array:
        mean_square = blend(slots["mean_square"], gradient * gradient, self.decay)
        slots["mean_square"] = mean_square
        xp = namespace(gradient, mean_square)
        change = xp.divide(gradient, xp.sqrt(mean_square) + self.epsilon)
        return descend(parameter, change, self.learning_rate)
