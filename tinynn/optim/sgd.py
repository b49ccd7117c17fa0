"""SGD."""

from dataclasses import dataclass
from typing import Any

from tinynn.config import require
from tinynn.trace import namespace

from .base import Array, Optimizer, Slots, descend


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent: v = momentum * v + g; w -= learning_rate * v.

    nesterov: w -= learning_rate * (g + momentum * v) instead. The formulas are PyTorch's
    (Sutskever et al. 2013 put the learning rate inside v).

    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> sgd = SGD(learning_rate=0.5)
    >>> params, state = sgd.update({"w": np.asarray([1.0])}, sgd.init(params), params)
    >>> params["w"].tolist()
    [0.5]
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self, "nesterov", lambda used: not used or self.momentum > 0.0, "used with momentum"
        )

    def slot_names(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def rule(self, gradient: Array, parameter: Array, slots: Slots, once: Any) -> Array:
        if not self.momentum:
            return descend(parameter, gradient, self.learning_rate)
        xp = namespace(gradient, slots["velocity"])
        velocity = xp.add(self.momentum * slots["velocity"], gradient)
        slots["velocity"] = velocity
        change = xp.add(gradient, self.momentum * velocity) if self.nesterov else velocity
        return descend(parameter, change, self.learning_rate)
