"""Adam and what is made of it: AdamW, NAdam."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from tinynn.trace import namespace

from .base import Array, Number, Optimizer, Slots, previous
from .patterns import ALL, Patterns
from .sums import corrected, decay_of, sqrt


def adam_slots(amsgrad: bool) -> tuple[str, ...]:
    """The names of what is kept for each parameter."""
    return ("sum", "sum_of_squares", *(("largest_sum_of_squares",) if amsgrad else ()))


def adam_scalars(settings: Any, values: Any, step: Array, rate: Any) -> SimpleNamespace:
    """The scalars of `adam_direction`, and `length`, the factor of its result.

    rate: a number is put to the other numbers first, since a compiler moves one in front of an
    array out of it, to where the parameters are.
    """
    root = sqrt(corrected(step, values.beta2) / (1.0 - values.beta2))
    before = previous(settings.beta2, values.beta2, step)
    return SimpleNamespace(
        decay1=decay_of(settings.beta1, values.beta1, step),
        decay2=decay_of(settings.beta2, values.beta2, step),
        rescaled=(1.0 - before) / (1.0 - values.beta2) if callable(settings.beta2) else None,
        epsilon=values.epsilon * root,
        length=(rate * (1.0 - values.beta1)) * root / corrected(step, values.beta1),
        root=root,
    )


def adam_direction(xp: Any, gradient: Array, slots: Slots, scalars: Any) -> tuple[Array, Slots]:
    """The sum of gradients over the root of that of their squares, and the new sums."""
    total = xp.add(scalars.decay1 * slots["sum"], gradient)
    divisor, kept = adam_divisor(xp, gradient, slots, scalars)
    return xp.divide(total, divisor), {"sum": total, **kept}


def adam_divisor(xp: Any, gradient: Array, slots: Slots, scalars: Any) -> tuple[Array, Slots]:
    """The root of the sum of squares, plus epsilon; with amsgrad of the largest sum so far."""
    squares = xp.add(scalars.decay2 * slots["sum_of_squares"], gradient * gradient)
    if "largest_sum_of_squares" not in slots:
        return xp.add(xp.sqrt(squares), scalars.epsilon), {"sum_of_squares": squares}
    largest = slots["largest_sum_of_squares"]
    if scalars.rescaled is not None:  # it is a sum in the units of the beta2 before
        largest = largest * scalars.rescaled
    largest = xp.maximum(largest, squares)
    kept = {"sum_of_squares": squares, "largest_sum_of_squares": largest}
    return xp.add(xp.sqrt(largest), scalars.epsilon), kept


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam: the running mean of the gradients over the root of that of their squares.

    Parameters
    ----------
    learning_rate
        The size of the steps: a number, or a schedule of the step.
    beta1
        The decay of the running mean of the gradients.
    beta2
        The decay of the running mean of their squares.
    epsilon
        Added to the divisor.
    amsgrad
        Divide by the largest v so far, as PyTorch has it (Reddi et al. 2018, arXiv:1904.09237).

    Notes
    -----
    With g the gradient and t the step from 1 on: `m = beta1 * m + (1 - beta1) * g`, `v = beta2 * v
    + (1 - beta2) * g**2`, and `w -= learning_rate * (m / (1 - beta1**t)) / (sqrt(v / (1 -
    beta2**t)) + epsilon)`.

    References
    ----------
    Kingma and Ba 2014, arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> adam = Adam(learning_rate=0.5)
    >>> params, state = adam.update({"w": np.asarray([3.0])}, adam.init(params), params)
    >>> params["w"].round(6).tolist()
    [0.5]
    """

    learning_rate: Number = 0.001
    _: KW_ONLY
    beta1: Number = 0.9
    beta2: Number = 0.999
    epsilon: Number = 1e-8
    amsgrad: bool = False

    def slot_names(self) -> tuple[str, ...]:
        return adam_slots(self.amsgrad)

    def step_scalars(self, values: Any, step: Array) -> Any:
        return adam_scalars(self, values, step, values.learning_rate)

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(parameter, gradient, *slots.values())
        direction, slots = adam_direction(xp, gradient, slots, scalars)
        return xp.subtract(parameter, xp.multiply(direction, scalars.length)), slots


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay.

    Parameters
    ----------
    learning_rate
        The size of the steps: a number, or a schedule of the step.
    beta1
        The decay of the running mean of the gradients.
    beta2
        The decay of the running mean of their squares.
    epsilon
        Added to the divisor.
    amsgrad
        As for `Adam`.
    weight_decay
        The share by which parameters shrink, times the learning rate, in each step.
    mask
        The paths of the parameters that are shrunk: a pattern or several, such as `"*.weight"`.

    Notes
    -----
    The parameters first shrink: `w -= learning_rate * weight_decay * w`. Then comes the step of
    `Adam`.

    References
    ----------
    Loshchilov and Hutter 2017, arXiv:1711.05101.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> adamw = AdamW(learning_rate=0.5, weight_decay=0.1)
    >>> params, state = adamw.update({"w": np.asarray([3.0])}, adamw.init(params), params)
    >>> params["w"].round(6).tolist()
    [0.45]
    """

    _: KW_ONLY
    weight_decay: Number = 0.01
    mask: Patterns = ALL

    def step_scalars(self, values: Any, step: Array) -> Any:
        scalars = super().step_scalars(values, step)
        scalars.shrunk = 1.0 - values.learning_rate * values.weight_decay
        return scalars

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        return super().update_leaf(gradient, parameter * scalars.shrunk, slots, scalars)


@dataclass(frozen=True)
class NAdam(Optimizer):
    """Adam with Nesterov's momentum.

    Parameters
    ----------
    learning_rate
        The size of the steps: a number, or a schedule of the step.
    beta1
        The decay of the running mean of the gradients.
    beta2
        The decay of the running mean of their squares.
    epsilon
        Added to the divisor.
    momentum_decay
        How fast the momentum grows to its full strength.

    Notes
    -----
    The strength of the momentum at step t is `beta1 * (1 - 0.96 ** (t * momentum_decay) / 2)`. The
    formulas are PyTorch's.

    References
    ----------
    Dozat 2016, "Incorporating Nesterov momentum into Adam".

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0])}
    >>> nadam = NAdam(learning_rate=0.5)
    >>> params, state = nadam.update({"w": np.asarray([3.0])}, nadam.init(params), params)
    >>> params["w"].round(3).tolist()
    [0.472]
    """

    learning_rate: Number = 0.002
    _: KW_ONLY
    beta1: Number = 0.9
    beta2: Number = 0.999
    epsilon: Number = 1e-8
    momentum_decay: Number = 0.004

    #: The product of the strengths of all steps so far.
    carried: ClassVar[Mapping[str, float]] = {"product": 1.0}

    def slot_names(self) -> tuple[str, ...]:
        return adam_slots(amsgrad=False)

    def carry(self, values: Any, step: Array) -> Mapping[str, Array]:
        return {"product": values.product * _strength(values, step)}

    def step_scalars(self, values: Any, step: Array) -> Any:
        scalars = adam_scalars(self, values, step, 1.0)
        now, after = _strength(values, step), _strength(values, step + 1.0)
        length = values.learning_rate * scalars.root
        scalars.of_gradient = length * (1.0 - now) / (1.0 - values.product)
        of_mean = length * after / (1.0 - values.product * after)
        scalars.of_sum = of_mean * (1.0 - values.beta1)
        return scalars

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(parameter, gradient, *slots.values())
        total = xp.add(scalars.decay1 * slots["sum"], gradient)
        divisor, kept = adam_divisor(xp, gradient, slots, scalars)
        change = xp.add(scalars.of_gradient * gradient, scalars.of_sum * total)
        return xp.subtract(parameter, xp.divide(change, divisor)), {"sum": total, **kept}


def _strength(values: Any, step: Array) -> Array:
    """beta1 * (1 - 0.96 ** (step * momentum_decay) / 2)."""
    return values.beta1 * (1.0 - 0.5 * 0.96 ** (step * values.momentum_decay))
