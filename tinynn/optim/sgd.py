"""SGD."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn.config import is_off, require
from tinynn.trace import namespace

from .base import Array, Number, Optimizer, Slots


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent: v = momentum * v + g; w -= learning_rate * v.

    Parameters
    ----------
    learning_rate
        The size of the steps: a number, or a schedule of the step.
    momentum
        The share of the last step's direction that is kept.
    nesterov
        Take `w -= learning_rate * (g + momentum * v)` instead.

    Notes
    -----
    The formulas are PyTorch's (Sutskever et al. 2013 put the learning rate inside v).

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> sgd = SGD(learning_rate=0.5)
    >>> params, state = sgd.update({"w": np.asarray([1.0])}, sgd.init(params), params)
    >>> params["w"].tolist()
    [0.5]
    """

    learning_rate: Number = 0.01
    _: KW_ONLY
    momentum: Number = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            "nesterov",
            lambda used: not (used and is_off(self.momentum)),
            "used with momentum",
        )

    def slot_names(self) -> tuple[str, ...]:
        return () if is_off(self.momentum) else ("velocity",)

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(parameter, gradient, *slots.values())
        if not slots:
            return xp.subtract(parameter, scalars.learning_rate * gradient), slots
        velocity = xp.add(scalars.momentum * slots["velocity"], gradient)
        change = xp.add(scalars.momentum * velocity, gradient) if self.nesterov else velocity
        return xp.subtract(parameter, scalars.learning_rate * change), {"velocity": velocity}
