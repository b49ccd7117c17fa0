"""Newton's method by conjugate gradients, within a trust region."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from tinynn import tree
from tinynn.config import require
from tinynn.optim.base import Optimizer, State, require_params, required
from tinynn.optim.flat import Flat
from tinynn.optim.schedules import COUNT, NOT_NEGATIVE
from tinynn.optim.second_order.conjugate import steihaug
from tinynn.optim.second_order.levenberg_marquardt import POSITIVE
from tinynn.optim.second_order.objective import Surface, gain_ratio
from tinynn.trace import backend_of, namespace
from tinynn.transforms.cond import cond, while_loop

Array = Any


class _Trial(NamedTuple):
    """A point that was tried, and what is known then."""

    point: Array
    value: Array
    radius: Array
    predicted: Array
    accepted: Array
    count: Array


@dataclass(frozen=True)
class NewtonCG(Optimizer):
    """Newton's method for any loss that can be differentiated twice, where it is not convex too.

    The step is the minimum of the second-order model within a trust region, by conjugate gradients
    on products with the Hessian. Where the curvature is negative it goes to the region's edge along
    it, and so leaves saddle points; where second derivatives are not finite, along the gradient.
    For a loss that is the same in each step: all data at once (`batch_size="auto"` is that for it),
    without dropout. It ends as `LevenbergMarquardt` does.

    Parameters
    ----------
    radius
        Of the region, to start from.
    max_radius
        Which it does not grow beyond.
    gradient_tolerance
        Converged where no entry of the gradient is above it.
    value_tolerance
        Converged where the loss falls by less, relative to it or to 1; None is ten roundings of the
        dtype.
    max_trials
        How many regions a step tries; it has converged where none of them makes the loss fall.
    cg_steps
        Products with the Hessian a trial, at most.
    cg_tolerance
        The residual, relative to the gradient, at which conjugate gradients end; less near the
        minimum.

    References
    ----------
    Steihaug 1983, "The Conjugate Gradient Method and Trust Regions in Large Scale Optimization";
    Nocedal and Wright, "Numerical Optimization", algorithms 4.1 and 7.2.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> found = tinynn.minimize(  # the start is a saddle point, but for its third digit
    ...     lambda p: p["x"] ** 2 + (p["y"] ** 2 - 1.0) ** 2,
    ...     {"x": np.asarray(1.0), "y": np.asarray(0.001)}, method=NewtonCG())
    >>> round(abs(float(found.params["y"])), 6)
    1.0
    """

    whole_batch = True

    radius: float = 1.0
    _: KW_ONLY
    max_radius: float = 1e30
    gradient_tolerance: float = 1e-8
    value_tolerance: float | None = None
    max_trials: int = 25
    cg_steps: int = 200
    cg_tolerance: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("radius", "max_radius", "cg_tolerance"):
            require(self, name, *POSITIVE)
        for name in ("max_trials", "cg_steps"):
            require(self, name, *COUNT)
        require(self, "gradient_tolerance", *NOT_NEGATIVE)
        if self.value_tolerance is not None:
            require(self, "value_tolerance", *NOT_NEGATIVE)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"objective"})

    def init(self, params: Any) -> State:
        """Radius and counts to start from."""
        flat = Flat(require_params(self, params), tree.flatten(params)[1])
        backend = backend_of(flat.leaves[0])
        count = backend.xp.int32
        return {
            "step": backend.asarray(0, dtype=count),
            "evaluations": backend.asarray(0, dtype=count),
            "converged": backend.asarray(False),
            "value": backend.asarray(0.0, dtype=flat.dtype),
            "gradient_norm": backend.asarray(0.0, dtype=flat.dtype),
            "radius": backend.asarray(self.radius, dtype=flat.dtype),
        }

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        """(params, state) one step on; gradients are not looked at.

        extras: objective, an `Objective`.
        """
        surface = Surface(self, required(self, extras)["objective"], params)

        def moved(carry: tuple[Any, State]) -> tuple[Any, State]:
            params, state = carry
            vector, state = self._moved(surface, surface.flat.vector(params), state)
            return surface.flat.tree(vector), state

        return cond(state["converged"], lambda carry: carry, moved, (params, state))

    def _moved(self, surface: Surface, point: Array, state: State) -> tuple[Array, State]:
        xp = namespace(point)
        value, gradient = surface.value_and_gradient(point)
        largest = xp.max(xp.abs(gradient))
        is_flat = largest <= self.gradient_tolerance
        going = xp.logical_and(xp.logical_not(is_flat), xp.isfinite(value + largest))
        end = self._tried(surface, point, value, gradient, going, state["radius"])
        eps = float(xp.finfo(point.dtype).eps)
        least = 10.0 * eps if self.value_tolerance is None else self.value_tolerance
        least = least * xp.maximum(xp.abs(value), xp.ones_like(value))
        still = xp.logical_and(value - end.value <= least, end.predicted <= least)
        ended = xp.logical_or(still, xp.logical_not(end.accepted))
        return end.point, {
            **state,
            "step": state["step"] + 1,
            "evaluations": state["evaluations"] + 1 + end.count,
            "converged": xp.logical_or(is_flat, xp.logical_and(going, ended)),
            "value": end.value,
            "gradient_norm": largest,
            "radius": end.radius,
        }

    def _tried(
        self,
        surface: Surface,
        point: Array,
        value: Array,
        gradient: Array,
        going: Array,
        radius: Array,
    ) -> _Trial:
        """The first of several points, of ever smaller regions, at which the loss is less."""
        xp, backend = namespace(point), backend_of(point)
        product = surface.hessian(point)
        size = xp.sqrt(xp.vecdot(gradient, gradient))

        def trial(last: _Trial) -> _Trial:
            found = steihaug(
                product, gradient, last.radius, steps=self.cg_steps, tolerance=self.cg_tolerance
            )
            # Where second derivatives are not finite, the gradient alone says where to go.
            sound = xp.isfinite(found.fall)
            step = xp.where(sound, found.step, -last.radius / size * gradient)
            fall = xp.where(sound, found.fall, last.radius * size)
            new = point + step
            there = surface.value(new)
            ratio = gain_ratio(value - there, fall)
            good = xp.logical_and(xp.isfinite(there), ratio > 1e-4)
            length = xp.sqrt(xp.vecdot(step, step))
            grown = xp.minimum(2.0 * last.radius, xp.full_like(length, self.max_radius))
            wide = xp.logical_and(ratio > 0.75, found.at_edge)
            kept = xp.where(wide, grown, last.radius)
            kept = xp.where(xp.logical_and(good, ratio >= 0.25), kept, 0.25 * length)
            return _Trial(
                xp.where(good, new, point),
                xp.where(good, there, value),
                kept,
                fall,
                good,
                last.count + 1,
            )

        def unfinished(last: _Trial) -> Array:
            more = xp.logical_and(xp.logical_not(last.accepted), last.count < self.max_trials)
            return xp.logical_and(going, more)

        zero = backend.asarray(0, dtype=backend.xp.int32)
        none = xp.zeros_like(value)
        start = _Trial(point, value, radius, none, backend.asarray(False), zero)
        end: _Trial = while_loop(unfinished, trial, start, self.max_trials + 1)
        return end
