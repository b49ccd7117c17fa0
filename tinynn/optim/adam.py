"""Adam and AdamW."""

import math
from dataclasses import dataclass
from typing import Any

from tinynn.trace import namespace

from .base import Array, Optimizer, Slots, blend


@dataclass(frozen=True)
class Adam(Optimizer):
    """Steps of running mean over root of running mean square, both corrected for their start:
    m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g**2;
    w -= learning_rate * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + epsilon).

    Source: Kingma and Ba 2014, arXiv:1412.6980.

    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> adam = Adam(learning_rate=0.5)
    >>> params, state = adam.update({"w": np.asarray([3.0])}, adam.init(params), params)
    >>> params["w"].round(6).tolist()
    [0.5]
    """

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def slot_names(self) -> tuple[str, ...]:
        return ("mean", "mean_square")

    def at_step(self, step: Array) -> Any:
        """The step's length, and the root of what corrects the mean square."""
        root = namespace(step).sqrt(_corrected(step, self.beta2))
        return self.learning_rate / _corrected(step, self.beta1), root

    def rule(self, gradient: Array, parameter: Array, slots: Slots, once: Any) -> Array:
        length, root = once
        mean = slots["mean"] = blend(slots["mean"], gradient, self.beta1)
        square = slots["mean_square"] = blend(slots["mean_square"], gradient * gradient, self.beta2)
        xp = namespace(parameter, mean, square, length)
        scale = xp.add(xp.divide(xp.sqrt(square), root), self.epsilon)
        return xp.subtract(parameter, xp.multiply(xp.divide(mean, scale), length))


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam, with the parameters first shrunk: w -= learning_rate * weight_decay * w.

    Source: Loshchilov and Hutter 2017, arXiv:1711.05101.

    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> adamw = AdamW(learning_rate=0.5, weight_decay=0.1)
    >>> params, state = adamw.update({"w": np.asarray([3.0])}, adamw.init(params), params)
    >>> params["w"].round(6).tolist()
    [0.45]
    """

    weight_decay: float = 0.01

    def rule(self, gradient: Array, parameter: Array, slots: Slots, once: Any) -> Array:
        shrunk = parameter * (1.0 - self.learning_rate * self.weight_decay)
        return super().rule(gradient, shrunk, slots, once)


def _corrected(step: Array, beta: float) -> Array:
    """1 - beta**step; near 0 for a beta near 1, where the power would lose float32's digits."""
    if beta == 0.0:
        return namespace(step).ones_like(step)
    return -namespace(step).expm1(math.log(beta) * step)
