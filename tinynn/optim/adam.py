"""Adam and AdamW."""

import math
from dataclasses import dataclass
from typing import Any

from tinynn.trace import namespace

from .base import Array, Optimizer, Slots


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
        # m / (1 - beta1) and v / (1 - beta2): the factors, put into what is computed once, cost
        # nothing there and four operations for each parameter here.
        return ("sum", "sum_of_squares")

    def at_step(self, step: Array) -> Any:
        """The step's length and epsilon, for the sums as they are kept."""
        root = namespace(step).sqrt(_corrected(step, self.beta2) / (1.0 - self.beta2))
        rate = self.learning_rate * (1.0 - self.beta1)
        return rate * root / _corrected(step, self.beta1), self.epsilon * root

    def rule(self, gradient: Array, parameter: Array, slots: Slots, once: Any) -> Array:
        length, epsilon = once
        xp = namespace(parameter, gradient, slots["sum"], length)
        total = slots["sum"] = xp.add(self.beta1 * slots["sum"], gradient)
        squares = xp.add(self.beta2 * slots["sum_of_squares"], gradient * gradient)
        slots["sum_of_squares"] = squares
        step = xp.divide(total, xp.add(xp.sqrt(squares), epsilon))
        return xp.subtract(parameter, xp.multiply(step, length))


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
