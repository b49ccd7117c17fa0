"""Levenberg-Marquardt, Gauss-Newton and the natural gradient."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from tinynn import tree
from tinynn.config import require
from tinynn.optim.base import AtStep, Optimizer, State, require_params, required
from tinynn.optim.flat import Flat
from tinynn.optim.schedules import COUNT, NOT_NEGATIVE, is_number
from tinynn.optim.second_order.linearized import Linearized
from tinynn.optim.second_order.objective import Surface, gain_ratio
from tinynn.trace import backend_of, namespace
from tinynn.transforms.cond import cond, while_loop

Array = Any
_BEND = 0.375  # of the step that its correction may be
SOLVERS = ("auto", "dense", "cg")
POSITIVE = (lambda value: is_number(value) and value > 0, "a number above 0")


@dataclass(frozen=True)
class Linearizing(Optimizer):
    """Base class of the methods that take the prediction as linear in the parameters."""

    whole_batch = True

    _: KW_ONLY
    solver: str = "auto"
    memory_limit: float = 4e9
    cg_steps: int = 100
    cg_tolerance: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "solver", SOLVERS.__contains__, f"one of {', '.join(SOLVERS)}")
        require(self, "memory_limit", *POSITIVE)
        require(self, "cg_steps", *COUNT)
        require(self, "cg_tolerance", *POSITIVE)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"objective"}


class _Trial(NamedTuple):
    """A point that was tried, and what is known then."""

    point: Array
    value: Array
    damping: Array
    growth: Array
    move: Array  # its length in the scaled parameters, over theirs
    predicted: Array  # by how much the model falls
    accepted: Array
    count: Array


@dataclass(frozen=True)
class LevenbergMarquardt(Linearizing):
    """Levenberg-Marquardt: Gauss-Newton's steps, damped for the loss to fall.

    For small networks on small data, without dropout and all samples at once (which
    `batch_size="auto"` is for it), this reaches losses that first-order methods do not. The loss is
    a sum of squares (`SquaredError`, weighted or not), or another that is convex in the prediction
    (the cross-entropies, `Huber`, `LogCosh`, `Poisson`), of which the generalised Gauss-Newton
    matrix takes the place of the squares'.

    A step computes the derivatives once and tries lengths until the loss falls. Up to 2500
    parameters it solves with the matrix, beyond by conjugate gradients. Parameters stay as they are
    where it has converged, which `state["converged"]` says and `fit` ends at.

    Parameters
    ----------
    damping
        What the first step starts from, relative to the matrix's diagonal.
    l2
        The strength of a penalty, half of it times the squares of the parameters, added to the
        loss.
    gradient_tolerance
        Converged where no entry of the gradient is above it.
    value_tolerance
        Converged where the loss falls by less, relative to it; None is ten roundings of the dtype.
    step_tolerance
        Converged where the parameters move by less, relative to them; None is the dtype's rounding
        to the power of two thirds.
    acceleration
        Whether a step follows the bend of the prediction along it, for another solution a trial;
        for narrow curved valleys.
    memory
        How much of the largest diagonal so far is kept from step to step.
    max_trials
        How many lengths a step tries; it has converged where none of them makes the loss fall.
    solver
        "dense" for the matrix, "cg" for conjugate gradients, "auto" for the one that is sensible.
    memory_limit
        Bytes that the matrices may take.
    cg_steps
        Conjugate gradients a trial, at most.
    cg_tolerance
        The residual, relative to the gradient, at which they end.

    Raises
    ------
    ValueError
        For a loss that is not convex in the prediction, and for matrices above the limit, before
        they are made.

    Notes
    -----
    The matrix is J^T H J, with J the derivatives of the prediction and H the second derivatives of
    the loss by it; its diagonal is what damping is relative to (Marquardt 1963), of the largest
    value so far (Moré 1978), of which `memory` is kept. The damping follows the ratio of the loss's
    fall to the model's (Nielsen 1999). Where there is no matrix, the curvature along the gradient
    stands for the diagonal.

    References
    ----------
    Levenberg 1944; Marquardt 1963; Moré 1978, "The Levenberg-Marquardt algorithm"; Nielsen 1999,
    "Damping parameter in Marquardt's method", IMM-REP-1999-05; Schraudolph 2002 for losses that are
    no squares; Transtrum and Sethna 2012, arXiv:1201.5885, for the acceleration.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.functional import tanh
    >>> from tinynn.layers import Linear, Sequential
    >>> x = np.linspace(-1.0, 1.0, 40).reshape(-1, 1)
    >>> net = Sequential(Linear(6), tanh, Linear(1))
    >>> model = tinynn.fit(net, x, np.sin(3 * x), optimizer=LevenbergMarquardt(), epochs=100)
    >>> min(model.history["loss"]) < 2e-5
    True
    """

    damping: float = 1e-3
    _: KW_ONLY
    l2: float = 0.0
    gradient_tolerance: float = 1e-10
    value_tolerance: float | None = None
    step_tolerance: float | None = None
    max_trials: int = 16
    acceleration: bool = False
    memory: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "damping", *POSITIVE)
        require(self, "l2", *NOT_NEGATIVE)
        require(self, "gradient_tolerance", *NOT_NEGATIVE)
        require(self, "max_trials", *COUNT)
        require(self, "memory", lambda m: is_number(m) and 0 <= m <= 1, "a number from 0 to 1")
        for name in ("value_tolerance", "step_tolerance"):
            if getattr(self, name) is not None:
                require(self, name, *NOT_NEGATIVE)

    def init(self, params: Any) -> State:
        """Damping, scale and counts to start from."""
        flat = Flat(require_params(self, params), tree.flatten(params)[1])
        backend = backend_of(flat.leaves[0])

        def number(value: float) -> Array:
            return backend.asarray(value, dtype=flat.dtype)

        zeros = backend.xp.zeros(flat.size, dtype=flat.dtype, device=backend.device)
        count = backend.xp.int32
        return {
            "step": backend.asarray(0, dtype=count),
            "evaluations": backend.asarray(0, dtype=count),
            "converged": backend.asarray(False),
            "value": number(0.0),
            "gradient_norm": number(0.0),
            "damping": number(self.damping),
            "growth": number(2.0),
            "scale": zeros,
        }

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        """(params, state) one step on; gradients are not looked at.

        extras: objective, an `Objective`.
        """
        objective = required(self, extras)["objective"]
        surface = Surface(self, objective.penalized(self.l2, params), params)

        def moved(carry: tuple[Any, State]) -> tuple[Any, State]:
            params, state = carry
            vector, state = self._moved(surface, surface.flat.vector(params), state)
            return surface.flat.tree(vector), state

        return cond(state["converged"], lambda carry: carry, moved, (params, state))

    def _moved(self, surface: Surface, point: Array, state: State) -> tuple[Array, State]:
        xp = namespace(point)
        near = surface.linearized(point)
        scale = xp.maximum(self.memory * state["scale"], near.diagonal)
        largest = xp.max(xp.abs(near.gradient))
        is_flat = largest <= self.gradient_tolerance
        going = xp.logical_and(xp.logical_not(is_flat), xp.isfinite(near.value + largest))
        end = self._tried(surface, near, point, scale, going, state)
        fall = near.value - end.value
        eps = float(xp.finfo(point.dtype).eps)
        least = 10.0 * eps if self.value_tolerance is None else self.value_tolerance
        least = least * xp.abs(near.value)
        still = xp.logical_and(fall <= least, end.predicted <= least)
        short = eps ** (2 / 3) if self.step_tolerance is None else self.step_tolerance
        arrived = xp.logical_or(still, end.move <= short)
        stuck = xp.logical_and(going, xp.logical_not(end.accepted))
        converged = xp.logical_or(xp.logical_or(is_flat, stuck), xp.logical_and(going, arrived))
        return end.point, {
            **state,
            "step": state["step"] + 1,
            "evaluations": state["evaluations"] + 1 + end.count,
            "converged": converged,
            "value": end.value,
            "gradient_norm": largest,
            "damping": end.damping,
            "growth": end.growth,
            "scale": scale,
        }

    def _tried(
        self,
        surface: Surface,
        near: Linearized,
        point: Array,
        scale: Array,
        going: Array,
        state: State,
    ) -> _Trial:
        """The first of several points, ever nearer, at which the loss is less."""
        xp, backend = namespace(point), backend_of(point)
        by = xp.where(scale > 0, scale, xp.ones_like(scale))  # a parameter that moves nothing
        length = xp.sqrt(xp.vecdot(by * point, point))

        def trial(last: _Trial) -> _Trial:
            step = near.step(last.damping, by)
            new, gentle = point + step, True
            if self.acceleration:
                second = surface.second(point, step)
                bend = near.bend(second, last.damping, by)
                gentle = xp.vecdot(by * bend, bend) <= _BEND**2 * xp.vecdot(by * step, step)
                new = new + bend
            value = surface.value(new)
            predicted = 0.5 * xp.vecdot(step, last.damping * by * step - near.gradient)
            ratio = gain_ratio(near.value - value, predicted)
            good = xp.logical_and(xp.isfinite(value), ratio > 1e-4)
            good = xp.logical_and(good, gentle)
            eased = last.damping * xp.maximum(
                xp.full_like(ratio, 1 / 3), 1.0 - (2.0 * ratio - 1.0) ** 3
            )
            eased = xp.maximum(eased, xp.full_like(eased, near.least))
            return _Trial(
                xp.where(good, new, point),
                xp.where(good, value, near.value),
                xp.where(good, eased, last.damping * last.growth),
                xp.where(good, xp.full_like(last.growth, 2.0), 2.0 * last.growth),
                xp.sqrt(xp.vecdot(by * step, step)) / (length + float(xp.finfo(by.dtype).eps)),
                predicted,
                good,
                last.count + 1,
            )

        def unfinished(last: _Trial) -> Array:
            more = xp.logical_and(xp.logical_not(last.accepted), last.count < self.max_trials)
            return xp.logical_and(going, more)

        none, zero = xp.zeros_like(near.value), backend.asarray(0, dtype=backend.xp.int32)
        start = _Trial(
            point, near.value, state["damping"], state["growth"], none, none,
            backend.asarray(False), zero,
        )  # fmt: skip
        end: _Trial = while_loop(unfinished, trial, start, self.max_trials + 1)
        return end


@dataclass(frozen=True)
class GaussNewton(Linearizing):
    """Gauss-Newton steps with a damping and a learning rate of one's own choice.

    Nothing is tried, so that it suits batches: each step is one of the model at hand. For all data
    at once `LevenbergMarquardt` finds the damping by itself. Losses and solvers are those of it.

    Parameters
    ----------
    learning_rate
        How much of a step is taken.
    damping
        What is added to the matrix's diagonal, relative to it.
    l2
        The strength of a penalty, half of it times the squares of the parameters.
    solver, memory_limit, cg_steps, cg_tolerance
        As `LevenbergMarquardt` has them.

    Raises
    ------
    ValueError
        As `LevenbergMarquardt`; and for a damping of 0, as the matrix of a network is singular.

    References
    ----------
    Schraudolph 2002, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent".

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> x = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> model = tinynn.fit(Linear(1), x, 2 * x + 1, optimizer=GaussNewton(damping=1e-6), epochs=3)
    >>> np.round(model.predict(np.asarray([[5.0]])), 4).tolist()
    [[11.0]]
    """

    learning_rate: Any = 1.0
    _: KW_ONLY
    damping: float = 1e-3
    l2: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self, "damping", POSITIVE[0],
            "a number above 0 (without one the matrix of a network is singular)",
        )  # fmt: skip
        require(self, "l2", *NOT_NEGATIVE)

    def damped(self, near: Linearized) -> Array:
        """(n,): the minimum of the damped model."""
        xp, scale = namespace(near.diagonal), near.diagonal
        scale = xp.where(scale > 0, scale, xp.ones_like(scale))
        return near.step(max(self.damping, near.least), scale)

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        """(params, state) one step on; gradients are not looked at.

        extras: objective, an `Objective`.
        """
        given = required(self, extras)
        surface = Surface(self, given["objective"].penalized(self.l2, params), params)
        at = AtStep(self, state, surface.flat.leaves, surface.flat.structure, given)
        point = surface.flat.vector(params)
        step = self.damped(surface.linearized(point))
        rate = at.scalars(0).learning_rate
        rate = rate if not hasattr(rate, "dtype") else namespace(rate).astype(rate, step.dtype)
        return surface.flat.tree(point + rate * step), {name: at.state[name] for name in state}


@dataclass(frozen=True)
class NaturalGradient(GaussNewton):
    """The natural gradient: the gradient in the metric of what the network says is likely.

    The metric is the Fisher information of the predictive distribution, a Gaussian's for
    `SquaredError`, a Bernoulli's for `BinaryCrossEntropy`, a categorical's for
    `SoftmaxCrossEntropy` and a Poisson's for `Poisson`. For these it is the Gauss-Newton matrix of
    the loss (Martens 2020, section 9.2), which here is damped by the same number everywhere.

    Parameters
    ----------
    learning_rate
        How much of a step is taken.
    damping
        What is added to the Fisher information's diagonal.
    l2
        The strength of a penalty, half of it times the squares of the parameters.
    solver, memory_limit, cg_steps, cg_tolerance
        As `LevenbergMarquardt` has them.

    References
    ----------
    Amari 1998, "Natural Gradient Works Efficiently in Learning"; Martens 2020, "New Insights and
    Perspectives on the Natural Gradient Method".

    Examples
    --------
    >>> NaturalGradient(0.5, damping=1e-2)
    NaturalGradient(learning_rate=0.5, damping=0.01)
    """

    def damped(self, near: Linearized) -> Array:
        xp = namespace(near.gradient)
        least = near.least * xp.max(near.diagonal)  # below it the matrix is singular to rounding
        damping = xp.maximum(xp.full_like(least, self.damping), least)
        return near.step(damping, xp.ones_like(near.gradient))
