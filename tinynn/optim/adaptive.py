"""Steps that adapt to each parameter: RMSprop, Adagrad, Adadelta, Lion."""

from dataclasses import KW_ONLY, dataclass
from types import SimpleNamespace
from typing import Any

from tinynn.config import is_off, require
from tinynn.trace import namespace

from .base import Array, Number, Optimizer, Slots, previous
from .patterns import ALL, Patterns
from .schedules import NOT_NEGATIVE
from .sums import decay_of, sqrt


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop: steps divided by the root of a running mean of squared gradients.

    Parameters
    ----------
    learning_rate
        The size of the steps: a number, or a schedule of the step.
    decay
        The share of the running mean that is kept in each step.
    epsilon
        Added to the divisor.
    momentum
        If it is not 0: `b = momentum * b + g / (sqrt(v) + epsilon)`, and `w -= learning_rate * b`.
    centered
        The square of the running mean of g is taken from v.

    Notes
    -----
    `v = decay * v + (1 - decay) * g**2`, and `w -= learning_rate * g / (sqrt(v) + epsilon)`. The
    place of epsilon is PyTorch's.

    References
    ----------
    Hinton 2012, lecture 6e of "Neural Networks for Machine Learning".

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> rmsprop = RMSprop(learning_rate=0.05)
    >>> params, state = rmsprop.update({"w": np.asarray([3.0])}, rmsprop.init(params), params)
    >>> params["w"].round(6).tolist()
    [0.5]
    """

    learning_rate: Number = 0.01
    _: KW_ONLY
    decay: Number = 0.99
    epsilon: Number = 1e-8
    momentum: Number = 0.0
    centered: bool = False

    def slot_names(self) -> tuple[str, ...]:
        centered = ("sum",) if self.centered else ()
        return ("sum_of_squares", *centered, *(("velocity",) if not is_off(self.momentum) else ()))

    def step_scalars(self, values: Any, step: Array) -> Any:
        root = sqrt(1.0 - values.decay)
        before = sqrt(1.0 - previous(self.decay, values.decay, step))
        return SimpleNamespace(
            decay=decay_of(self.decay, values.decay, step),
            new=1.0 - values.decay,
            epsilon=values.epsilon / root,
            length=values.learning_rate / root,
            momentum=values.momentum * (root / before) if callable(self.decay) else values.momentum,
        )

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(parameter, gradient, *slots.values())
        squares = xp.add(scalars.decay * slots["sum_of_squares"], gradient * gradient)
        kept = {"sum_of_squares": squares}
        if self.centered:
            total = kept["sum"] = xp.add(scalars.decay * slots["sum"], gradient)
            squares = xp.subtract(squares, scalars.new * (total * total))
            squares = xp.maximum(squares, xp.zeros_like(squares))  # rounding may leave less
        change = xp.divide(gradient, xp.sqrt(squares) + scalars.epsilon)
        if "velocity" in slots:
            change = kept["velocity"] = xp.add(scalars.momentum * slots["velocity"], change)
        return xp.subtract(parameter, scalars.length * change), kept


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad: steps divided by the root of the sum of all squared gradients so far.

    Parameters
    ----------
    learning_rate
        The size of the steps: a number, or a schedule of the step.
    epsilon
        Added to the divisor.
    initial_sum
        The value that the sum starts from.

    Notes
    -----
    `s += g**2`, and `w -= learning_rate * g / (sqrt(s) + epsilon)`. The place of epsilon is
    PyTorch's.

    References
    ----------
    Duchi, Hazan and Singer 2011, JMLR 12.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> adagrad = Adagrad(learning_rate=0.5)
    >>> params, state = adagrad.update({"w": np.asarray([3.0])}, adagrad.init(params), params)
    >>> params["w"].round(6).tolist()
    [0.5]
    """

    learning_rate: Number = 0.01
    _: KW_ONLY
    epsilon: Number = 1e-10
    initial_sum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "initial_sum", *NOT_NEGATIVE)

    def slot_names(self) -> tuple[str, ...]:
        return ("sum_of_squares",)

    def init_leaf(self, name: str, parameter: Array) -> Array:
        return namespace(parameter).full_like(parameter, self.initial_sum)

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(parameter, gradient, slots["sum_of_squares"])
        squares = xp.add(slots["sum_of_squares"], gradient * gradient)
        change = xp.divide(gradient, xp.sqrt(squares) + scalars.epsilon)
        return xp.subtract(parameter, scalars.learning_rate * change), {"sum_of_squares": squares}


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Adadelta: gradients scaled by the ratio of past steps to past gradients.

    Parameters
    ----------
    learning_rate
        The size of the steps: a number, or a schedule of the step.
    decay
        The share of the running means that is kept in each step.
    epsilon
        Added to both running means.

    Notes
    -----
    `v = decay * v + (1 - decay) * g**2`, `d = sqrt((u + epsilon) / (v + epsilon)) * g`, `u = decay
    * u + (1 - decay) * d**2`, and `w -= learning_rate * d`.

    References
    ----------
    Zeiler 2012, arXiv:1212.5701.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> adadelta = Adadelta()
    >>> params, state = adadelta.update({"w": np.asarray([3.0])}, adadelta.init(params), params)
    >>> params["w"].round(5).tolist()
    [0.99684]
    """

    learning_rate: Number = 1.0
    _: KW_ONLY
    decay: Number = 0.9
    epsilon: Number = 1e-6

    def slot_names(self) -> tuple[str, ...]:
        return ("sum_of_squares", "sum_of_squared_steps")

    def step_scalars(self, values: Any, step: Array) -> Any:
        before = previous(self.decay, values.decay, step)
        return SimpleNamespace(
            decay=decay_of(self.decay, values.decay, step),
            epsilon=values.epsilon / (1.0 - values.decay),
            rescaled=(1.0 - before) / (1.0 - values.decay) if callable(self.decay) else None,
            learning_rate=values.learning_rate,
        )

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(parameter, gradient, *slots.values())
        squares = xp.add(scalars.decay * slots["sum_of_squares"], gradient * gradient)
        steps = slots["sum_of_squared_steps"]
        before = steps if scalars.rescaled is None else steps * scalars.rescaled
        ratio = xp.divide(before + scalars.epsilon, squares + scalars.epsilon)
        change = xp.multiply(xp.sqrt(ratio), gradient)
        steps = xp.add(scalars.decay * steps, change * change)
        kept = {"sum_of_squares": squares, "sum_of_squared_steps": steps}
        return xp.subtract(parameter, scalars.learning_rate * change), kept


@dataclass(frozen=True)
class Lion(Optimizer):
    """Lion: steps of one length, in the direction of the signs of a running mean.

    Parameters
    ----------
    learning_rate
        The size of the steps: a number, or a schedule of the step.
    beta1
        The share of the running mean in the direction of a step.
    beta2
        The share of the running mean that is kept.
    weight_decay
        The share by which parameters shrink, times the learning rate, in each step.
    mask
        The paths of the parameters that are shrunk: a pattern or several, such as `"*.weight"`.

    Notes
    -----
    `w -= learning_rate * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * w)`, and `m = beta2 *
    m + (1 - beta2) * g`.

    References
    ----------
    Chen et al. 2023, arXiv:2302.06675.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> lion = Lion(learning_rate=0.25)
    >>> params, state = lion.update({"w": np.asarray([3.0])}, lion.init(params), params)
    >>> params["w"].tolist()
    [0.75]
    """

    learning_rate: Number = 0.0001
    _: KW_ONLY
    beta1: Number = 0.9
    beta2: Number = 0.99
    weight_decay: Number = 0.0
    mask: Patterns = ALL

    def slot_names(self) -> tuple[str, ...]:
        return ("sum",)

    def step_scalars(self, values: Any, step: Array) -> Any:
        before = previous(self.beta2, values.beta2, step)
        return SimpleNamespace(
            decay=decay_of(self.beta2, values.beta2, step),
            share=values.beta1 * (1.0 - before) / (1.0 - values.beta1),
            shrunk=1.0 - values.learning_rate * values.weight_decay,
            learning_rate=values.learning_rate,
        )

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(parameter, gradient, slots["sum"])
        sign = xp.sign(xp.add(scalars.share * slots["sum"], gradient))
        total = xp.add(scalars.decay * slots["sum"], gradient)
        return xp.subtract(parameter * scalars.shrunk, scalars.learning_rate * sign), {"sum": total}
