"""Transformations of gradients before an optimizer's step: clipping, penalties, moments."""

import functools
from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn import tree
from tinynn.trace import namespace

from .adam import adam_direction, adam_scalars, adam_slots
from .base import Array, AtStep, GradientTransformation, Number, Slots, State, column


@dataclass(frozen=True)
class ClipByValue(GradientTransformation):
    """Clip each entry of a gradient to [-limit, limit].

    Parameters
    ----------
    limit
        The largest absolute value of an entry: a number, or a schedule of it.

    Examples
    --------
    >>> import numpy as np
    >>> gradients, _ = ClipByValue(1.0).update([np.asarray([-3.0, 0.5])], {}, [np.zeros(2)])
    >>> gradients[0].tolist()
    [-1.0, 0.5]
    """

    limit: Number

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(gradient)
        return xp.minimum(xp.maximum(gradient, -scalars.limit), scalars.limit), slots


@dataclass(frozen=True)
class ClipByNorm(GradientTransformation):
    """Scale each gradient down to the norm `limit` where its own is larger.

    Parameters
    ----------
    limit
        The largest norm of a gradient: a number, or a schedule of it.

    Examples
    --------
    >>> import numpy as np
    >>> gradients, _ = ClipByNorm(5.0).update([np.asarray([6.0, 8.0])], {}, [np.zeros(2)])
    >>> gradients[0].round(5).tolist()
    [3.0, 4.0]
    """

    limit: Number

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(gradient)
        return xp.multiply(gradient, _shrinking(xp.sum(gradient * gradient), scalars.limit)), slots


@dataclass(frozen=True)
class ClipByGlobalNorm(GradientTransformation):
    """Scale all gradients down together to the global norm `limit` where theirs is larger.

    Source: Pascanu et al. 2012, arXiv:1211.5063; the 1e-6 that guards the division is PyTorch's.

    Parameters
    ----------
    limit
        The largest norm of all gradients together: a number, or a schedule of it.

    Examples
    --------
    >>> import numpy as np
    >>> gradients, _ = ClipByGlobalNorm(5.0).update([np.asarray([6.0, 8.0])], {}, [np.zeros(2)])
    >>> gradients[0].round(5).tolist()
    [3.0, 4.0]
    """

    limit: Number

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        leaves, structure = tree.flatten(params)
        given = column(self, {"gradients": gradients}, "gradients", structure)
        at = AtStep(self, state, leaves, structure, {})
        squares = [namespace(g).sum(g * g) for g in given]
        total = functools.reduce(lambda a, b: namespace(a, b).add(a, b), squares)
        new = []
        for index, gradient in enumerate(given):
            scale = _shrinking(total, at.scalars(index).limit)
            if scale.dtype != gradient.dtype:
                scale = namespace(scale).astype(scale, gradient.dtype)
            new.append(namespace(gradient, scale).multiply(gradient, scale))
        return structure.unflatten(new), at.state


def _shrinking(square: Array, limit: Any) -> Array:
    """The factor that brings a norm, whose square this is, down to the limit; 1 below it."""
    xp = namespace(square)
    return xp.minimum(limit / (xp.sqrt(square) + 1e-6), 1.0)


@dataclass(frozen=True)
class L1(GradientTransformation):
    """Add the gradient of strength * sum(abs(w)), for every parameter w, biases included.

    `Masked(L1(0.1), "*.weight")` leaves the others out.

    Parameters
    ----------
    strength
        0 or more: a number, or a schedule of it.

    Examples
    --------
    >>> import numpy as np
    >>> gradients, _ = L1(0.5).update([np.zeros(2)], {}, [np.asarray([-3.0, 3.0])])
    >>> gradients[0].tolist()
    [-0.5, 0.5]
    """

    strength: Number

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(gradient, parameter)
        return xp.add(gradient, scalars.strength * xp.sign(parameter)), slots


@dataclass(frozen=True)
class L2(GradientTransformation):
    """Add the gradient of strength / 2 * sum(w**2), for every parameter w, biases included.

    PyTorch's `weight_decay` does the same.

    `Masked(L2(0.1), "*.weight")` leaves the others out. After the moments, as in
    `Chain(ScaleByAdam(), L2(0.1), SGD(0.01))`, it is the weight decay of AdamW.

    Parameters
    ----------
    strength
        0 or more: a number, or a schedule of it.

    Examples
    --------
    >>> import numpy as np
    >>> gradients, _ = L2(0.5).update([np.zeros(2)], {}, [np.asarray([-3.0, 3.0])])
    >>> gradients[0].tolist()
    [-1.5, 1.5]
    """

    strength: Number

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        return namespace(gradient, parameter).add(gradient, scalars.strength * parameter), slots


@dataclass(frozen=True)
class Scale(GradientTransformation):
    """Multiply each gradient by a factor.

    Parameters
    ----------
    factor
        A number, or a schedule of it.

    Examples
    --------
    >>> import numpy as np
    >>> Scale(0.5).update([np.ones(2)], {}, [np.zeros(2)])[0][0].tolist()
    [0.5, 0.5]
    """

    factor: Number

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        return gradient * scalars.factor, slots


@dataclass(frozen=True)
class Momentum(GradientTransformation):
    """Replace each gradient by a decaying sum of gradients.

    v = decay * v + g in place of g; nesterov: g + decay * v. optax calls it `trace`.

    Parameters
    ----------
    decay
        What remains of the sum in each step: a number, or a schedule of it.
    nesterov
        Give g + decay * v in place of v.

    Examples
    --------
    >>> import numpy as np
    >>> momentum, params = Momentum(0.5), [np.zeros(1)]
    >>> gradients, state = momentum.update([np.ones(1)], momentum.init(params), params)
    >>> momentum.update([np.ones(1)], state, params)[0][0].tolist()
    [1.5]
    """

    decay: Number = 0.9
    _: KW_ONLY
    nesterov: bool = False

    def slot_names(self) -> tuple[str, ...]:
        return ("velocity",)

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(gradient, slots["velocity"])
        velocity = xp.add(scalars.decay * slots["velocity"], gradient)
        change = xp.add(scalars.decay * velocity, gradient) if self.nesterov else velocity
        return change, {"velocity": velocity}


@dataclass(frozen=True)
class ScaleByAdam(GradientTransformation):
    """Replace each gradient by Adam's direction.

    That is the running mean over the root of the running mean square:
    `Chain(ScaleByAdam(), SGD(0.001))` is `Adam(0.001)`.

    Parameters
    ----------
    beta1
        The decay of the running mean: a number, or a schedule of it.
    beta2
        The decay of the running mean square: a number, or a schedule of it.
    epsilon
        What is added to the root: a number, or a schedule of it.
    amsgrad
        Divide by the root of the largest mean square so far.

    Examples
    --------
    >>> import numpy as np
    >>> adam, params = ScaleByAdam(), [np.zeros(1)]
    >>> adam.update([np.asarray([-7.0])], adam.init(params), params)[0][0].round(6).tolist()
    [-1.0]
    """

    beta1: Number = 0.9
    _: KW_ONLY
    beta2: Number = 0.999
    epsilon: Number = 1e-8
    amsgrad: bool = False

    counts_steps = True

    def slot_names(self) -> tuple[str, ...]:
        return adam_slots(self.amsgrad)

    def step_scalars(self, values: Any, step: Array) -> Any:
        return adam_scalars(self, values, step, 1.0)

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        xp = namespace(gradient, *slots.values())
        direction, slots = adam_direction(xp, gradient, slots, scalars)
        return xp.multiply(direction, scalars.length), slots
