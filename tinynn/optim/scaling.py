"""Loss scaling, for gradients that a half precision is too coarse for."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn import tree
from tinynn.config import require
from tinynn.trace import backend_of, namespace

from .base import Optimizer, State, column, require_params
from .composed import _own_state, _refuse_searches, _require_optimizer
from .schedules import COUNT

#: Float32 has numbers below 2**128.
_MOST = 2.0**127


@dataclass(frozen=True)
class LossScaling(Optimizer):
    """An optimizer for layers computed in float16: the loss is scaled up, and gradients back.

    Gradients below 6e-8 are 0 in float16. The step of training multiplies the loss by a number
    before it is differentiated, and divides the gradients, which have the wide dtype of the
    parameters, by it. Where one of them is not finite, the number was too large: the step is left
    out, its state and the network's too, and the number divided by `factor`, down to 1 at least.
    After `interval` steps without that, it is multiplied by it, up to 2**127 at most.

    Parameters
    ----------
    optimizer
        The optimizer that makes the steps.
    start
        The number to begin with.
    factor
        How much it changes; powers of 2 lose no digit.
    interval
        Steps without a gradient that is not finite, before it grows.

    Notes
    -----
    A loop of one's own gives `update` gradients that are divided already, and `loss_scale=`, which
    `loss_scale(state)` is. bfloat16, whose range is that of float32, needs none of this.

    Source: Micikevicius et al. 2017, arXiv:1710.03740.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.optim import SGD
    >>> params, optimizer = [np.ones(1)], LossScaling(SGD(0.5), start=8.0)
    >>> state = optimizer.init(params)
    >>> for gradient in (np.inf, 1.0):
    ...     given, scale = [np.full(1, gradient)], loss_scale(state)
    ...     params, state = optimizer.update(given, state, params, loss_scale=scale)
    ...     print(params[0].tolist(), float(loss_scale(state)))
    [1.0] 4.0
    [0.5] 4.0
    """

    optimizer: Optimizer
    _: KW_ONLY
    start: float = 2.0**15
    factor: float = 2.0
    interval: int = 2000

    def __post_init__(self) -> None:
        _require_optimizer(self)
        _refuse_searches("LossScaling", self.optimizer, "compute in the dtype of the parameters")
        require(self, "start", lambda start: 1.0 <= start < _MOST, "a number from 1 to 2**127")
        require(self, "factor", lambda factor: 1.0 < factor < _MOST, "a number from 1 to 2**127")
        require(self, "interval", *COUNT)

    @property
    def needs(self) -> frozenset[str]:
        return self.optimizer.needs | {"loss_scale"}

    def init(self, params: Any) -> State:
        first = require_params(self, params)[0]
        backend = backend_of(first)
        return {
            # A product, since `start` may be an array: that of many networks.
            "loss_scale": self.start * backend.asarray(1.0, dtype=first.dtype),
            "finite_steps": backend.asarray(0, dtype=backend.xp.int32),
            "optimizer": self.optimizer.init(params),
        }

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        own = _own_state(self, state, "optimizer")
        structure = tree.flatten(params)[1]
        given = column(self, {"gradients": gradients}, "gradients", structure)
        finite = all_finite(given)
        # All of it is computed in every call, since a device does not wait for a host to decide.
        sound = [namespace(finite, g).where(finite, g, namespace(g).zeros_like(g)) for g in given]
        moved, after = self.optimizer.update(structure.unflatten(sound), own, params, **extras)

        def chosen(new: Any, old: Any) -> Any:
            return namespace(finite, new, old).where(finite, new, old)

        scale, steps = state["loss_scale"], state["finite_steps"] + 1
        xp, due = namespace(finite, scale, steps), steps == self.interval
        one = xp.ones_like(scale)
        lower = xp.maximum(scale / self.factor, one)
        # An infinite number would leave out every step from then on.
        grows = xp.logical_and(due, scale <= _MOST / self.factor)
        grown = scale * xp.where(grows, one * self.factor, one)
        return tree.map(chosen, moved, params), {
            "loss_scale": xp.where(finite, grown, lower),
            "finite_steps": xp.where(
                xp.logical_or(due, xp.logical_not(finite)), xp.zeros_like(steps), steps
            ),
            "optimizer": tree.map(chosen, after, own),
        }


def all_finite(arrays: list[Any]) -> Any:
    """True, 0-d, if all elements of all arrays are finite."""
    xp = namespace(*arrays)
    result = xp.all(xp.isfinite(arrays[0]))
    for array in arrays[1:]:
        result = xp.logical_and(result, xp.all(xp.isfinite(array)))
    return result


def loss_scale(state: State) -> Any:
    """The number by which the loss is to be multiplied, from the state of an optimizer.

    The state is that of `LossScaling`, or of an optimizer that has one inside. Raises ValueError
    for any other.

    Parameters
    ----------
    state
        Of an optimizer that has, or wraps, a `LossScaling`.
    """
    found = _scale_in(state)
    if found is None:
        raise ValueError(
            "loss_scale: expected the state of an optimizer with LossScaling in it, got one with "
            f"{', '.join(map(repr, state)) or 'nothing'}. To fix it: train with "
            "LossScaling(optimizer)"
        )
    return found


def _scale_in(state: Any) -> Any:
    if not isinstance(state, dict):
        return None
    if state.keys() == {"loss_scale", "finite_steps", "optimizer"}:
        return state["loss_scale"]
    return next((s for s in map(_scale_in, state.values()) if s is not None), None)
