"""L-BFGS."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cache
from math import isfinite
from typing import Any, TypeAlias

from tinynn import tree
from tinynn.config import label, require
from tinynn.trace import backend_of, namespace

from .base import Array, Optimizer, State, column, require_params, required
from .flat import Flat
from .line_search import Point, StrongWolfe
from .schedules import COUNT, NOT_NEGATIVE

ValueAndGrad: TypeAlias = Callable[[Any], tuple[Array, Any]]
Along: TypeAlias = Callable[[Array, Array, float], tuple[Array, ...]]
Turn: TypeAlias = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True)
class LBFGS(Optimizer):
    """L-BFGS: quasi-Newton steps with a line search under the strong Wolfe conditions.

    The direction follows from the last `history_size` changes of the gradient.

    For a loss that is the same function of the parameters in every step: all data at once, and no
    dropout. `update` needs `value_and_grad`, evaluates it once or a few times, and decides on the
    host, so that it cannot be recorded. Its gradients may be None: they are known from the step
    before. Given gradients are trusted if `value=` comes with them.

    Where it has converged, parameters stay as they are, and `state["converged"]` says so: no
    entry of the gradient above `gradient_tolerance`, or the loss fell by less than
    `value_tolerance` relative to it (or to 1), or no better point is found. `state["value"]` is
    the loss at the new parameters, `state["evaluations"]` how often it was evaluated. Where the
    loss or its gradient is not finite, parameters stay as they are, too, and it has not converged.

    Source: Liu and Nocedal 1989; line search, first step, scaling and tolerances are those of
    L-BFGS-B 3.0, which SciPy's `minimize` has.

    Parameters
    ----------
    history_size
        Changes of the gradient that are kept.
    gradient_tolerance
        Converged where no entry of the gradient is above it.
    value_tolerance
        Converged where the loss falls by less, relative to it or to 1.
    max_evaluations
        Of the loss, in one line search; three times as many while the loss only falls.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn import value_and_grad
    >>> params, state = LBFGS().minimize(
    ...     value_and_grad(lambda p: (p["x"] - 3.0) ** 2), {"x": np.asarray(0.0)}
    ... )
    >>> round(float(params["x"]), 6), bool(state["converged"])
    (3.0, True)
    """

    whole_batch = True

    history_size: int = 10
    _: KW_ONLY
    gradient_tolerance: float = 1e-5
    value_tolerance: float = 2.2e-9
    max_evaluations: int = 20

    def __post_init__(self) -> None:
        require(self, "history_size", *COUNT)
        require(self, "gradient_tolerance", *NOT_NEGATIVE)
        require(self, "value_tolerance", *NOT_NEGATIVE)
        require(self, "max_evaluations", *COUNT)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"value_and_grad"})

    def init(self, params: Any) -> State:
        """The state to start from. The history is of all parameters as one vector: (size, n)."""
        point = Flat(require_params(self, params), tree.flatten(params)[1]).vector(params)
        xp, backend = namespace(point), backend_of(point)

        def zeros(*shape: int) -> Array:
            return xp.zeros(shape, dtype=point.dtype, device=point.device)

        size, count = self.history_size, point.shape[0]
        return {
            "step": backend.asarray(0, dtype=xp.int32),
            "evaluations": backend.asarray(0, dtype=xp.int32),
            "converged": backend.asarray(False),
            "value": zeros(),
            "point": point,
            "gradient": zeros(count),
            "direction": zeros(count),  # to search along next, the slope there, and the largest
            "slope": zeros(),  # entry of the gradient
            "largest": zeros(),
            "moves": zeros(size, count),
            "changes": zeros(size, count),
            "lengths": zeros(size),  # move . change; 0 where there is none as yet
            "inverse": zeros(size, size),  # of the upper triangle of moves @ changes.T
        }

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        """(params, state) one iteration on; gradients: a tree like the params, or None.

        extras: value_and_grad, params -> (value, gradients); value, the loss, with gradients.
        """
        evaluate = _Evaluation(self, params, required(self, extras)["value_and_grad"])
        point, value = evaluate.flat.vector(params), extras.get("value")
        counted = 0
        if gradients is not None and value is not None:
            start = evaluate.number(value), evaluate.gradient(gradients)
        elif gradients is None and self.knows(state, point):
            if bool(state["converged"]):
                return params, state
            start = None
        else:
            start, counted = evaluate(point), 1
        if start is not None:
            state = turned_to(state, point, *start)
        with backend_of(point).quiet():  # a change of 0 is divided by before it is left out
            new = self.advance(state, evaluate.along, counted)
        if new["point"] is point:
            return params, new
        return evaluate.tree(new["point"]), new

    def knows(self, state: State, point: Array) -> bool:
        """Whether the value and the gradient at a point are known from the step before."""
        return int(state["step"]) > 0 and bool(namespace(point).all(point == state["point"]))

    def advance(
        self, state: State, along: Along, counted: int = 0, turn: Turn | None = None
    ) -> State:
        """The state one iteration on.

        Parameters
        ----------
        state
            Of the point to start from: `turned_to`, or what this gave.
        along
            (point, direction, step) -> (the point there, its value, gradient and slope).
        counted
            Evaluations that were taken before.
        turn
            `turned`, or a program of it.
        """
        point, before, taken = state["point"], float(state["value"]), [counted]
        largest = float(state["largest"])
        if not isfinite(before + largest):  # there is no direction, and it has not converged
            return self._counted(state, counted, False)
        if largest <= self.gradient_tolerance:
            return self._counted(state, counted, True)
        for fresh in (False, True):  # a history that misleads is forgotten, once
            if fresh:
                state = turned_to(forgotten(state), point, state["value"], state["gradient"])
            direction, slope = state["direction"], float(state["slope"])
            if not slope < 0.0:
                continue

            def evaluate(step: float, direction: Array = direction) -> Point:
                taken[0] += 1
                found = along(point, direction, step)
                return Point(step, float(found[1]), float(found[3]), found)

            search = _search(self.max_evaluations)
            found = search(evaluate, Point(0.0, before, slope), first_step(state))
            if found.improved:
                break
        else:
            return self._counted(state, taken[0], True)
        after = found.point.value
        there, value, gradient, _ = found.point.found
        state = remembered(state, there, value, gradient, -slope * found.point.step, turn)
        still = before - after <= self.value_tolerance * max(abs(before), abs(after), 1.0)
        ends = still or float(state["largest"]) <= self.gradient_tolerance
        return self._counted(state, taken[0], ends)

    def _counted(self, state: State, taken: int, ended: bool) -> State:
        evaluations = state["evaluations"] + taken
        state = {**state, "step": state["step"] + 1, "evaluations": evaluations}
        if ended:
            state["converged"] = backend_of(state["point"]).asarray(True)
        return state

    def minimize(
        self, value_and_grad: ValueAndGrad, params: Any, *, max_steps: int = 15_000
    ) -> tuple[Any, State]:
        """(params, state) at a minimum of a function, from these params on, without a network.

        value_and_grad: params -> (value, gradients). Ends where it has converged, after so many
        steps, or where the value or the gradient is not finite at the start; `state["converged"]`
        is True of the first alone.
        """
        state = self.init(params)
        for _ in range(max_steps):
            params, state = self.update(None, state, params, value_and_grad=value_and_grad)
            if bool(state["converged"]) or not isfinite(
                float(state["value"]) + float(state["largest"])
            ):
                break
        return params, state


class _Evaluation:
    """The function and its gradient as functions of a vector."""

    def __init__(self, owner: Any, params: Any, value_and_grad: ValueAndGrad) -> None:
        self.flat = Flat(require_params(owner, params), tree.flatten(params)[1])
        self.owner, self.value_and_grad = owner, value_and_grad
        self.newest: tuple[Any, Any] = (None, None)

    def __call__(self, point: Array) -> tuple[Array, Array]:
        """(value, gradient)"""
        params = self.flat.tree(point)
        self.newest = point, params
        value, gradients = self.value_and_grad(params)
        return self.number(value), self.gradient(gradients)

    def along(self, point: Array, direction: Array, step: float) -> tuple[Array, ...]:
        """(the point a step along a direction, its value, gradient and slope)."""
        there = point + step * direction
        value, gradient = self(there)
        return there, value, gradient, direction @ gradient

    def tree(self, point: Array) -> Any:
        """The params at a point: those that were evaluated last, if they are."""
        return self.newest[1] if self.newest[0] is point else self.flat.tree(point)

    def number(self, value: Any) -> Array:
        """A 0-d array of the vector's dtype, of one or of a number."""
        dtype = self.flat.dtype
        if not hasattr(value, "dtype"):
            return backend_of(self.flat.leaves[0]).asarray(value, dtype=dtype)
        return value if value.dtype == dtype else namespace(value).astype(value, dtype)

    def gradient(self, gradients: Any) -> Array:
        """(n,); ValueError unless it is a tree like the params."""
        leaves = column(self.owner, {"gradients": gradients}, "gradients", self.flat.structure)
        shapes = [[tuple(leaf.shape) for leaf in each] for each in (self.flat.leaves, leaves)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{label(self.owner)}: expected gradients of the shapes of the params, "
                f"{shapes[0]}, got {shapes[1]}. To fix it: take gradients of the same params"
            )
        return self.flat.vector(gradients)


@cache
def _search(evaluations: int) -> StrongWolfe:
    return StrongWolfe(evaluations=evaluations)


_HISTORY = ("moves", "changes", "lengths", "inverse")


def _history(state: State) -> tuple[Array, Array, Array, Array]:
    return state["moves"], state["changes"], state["lengths"], state["inverse"]


def forgotten(state: State) -> State:
    """The state without a history."""
    xp = namespace(state["moves"])
    return state | {name: xp.zeros_like(state[name]) for name in _HISTORY}


def remembered(
    state: State, point: Array, value: Array, gradient: Array, fall: float, turn: Turn | None = None
) -> State:
    """The state at a new point, with the newest pair in its history.

    A pair along which the function does not curve is left out. fall: by how much the slope at the
    start foretold the value to fall. turn: as `advance` has it.
    """
    *history, direction, slope, largest, length, square = (turn or turned)(
        *_history(state), state["point"], state["gradient"], point, gradient
    )
    rounding = float(namespace(point).finfo(point.dtype).eps) * fall
    if not (float(length) > rounding and float(square) > 0.0):
        return turned_to(state, point, value, gradient)
    return {
        **state, **dict(zip(_HISTORY, history, strict=True)), "point": point, "value": value,
        "gradient": gradient, "direction": direction, "slope": slope, "largest": largest,
    }  # fmt: skip


def turned(
    moves: Array,
    changes: Array,
    lengths: Array,
    inverse: Array,
    old: Array,
    before: Array,
    point: Array,
    gradient: Array,
) -> tuple[Any, ...]:
    """(*history, direction, slope, largest, length, square), with the newest pair in the history.

    old, before: the point before and its gradient. length, square: the change of the gradient
    times the move, and times itself. All arrays, so that it can be recorded.
    """
    xp = namespace(moves)
    move, change = point - old, gradient - before
    length = change @ move
    older = moves[1:, :]
    # Of a triangular matrix that loses its first row and column, so does the inverse.
    column = (inverse[1:, 1:] @ (older @ change)) / -length
    last = xp.reshape(length, (1,))
    left = xp.concat([inverse[1:, 1:], inverse[-1:, :-1]])  # the last row begins with zeros
    column = xp.concat([column, 1.0 / last])
    history = (
        xp.concat([older, move[None, :]]),
        xp.concat([changes[1:, :], change[None, :]]),
        xp.concat([lengths[1:], last]),
        xp.concat([left, column[:, None]], axis=1),
    )
    square = change @ change
    direction = _direction(*history, gradient, length / square)
    largest = xp.max(xp.abs(gradient))
    return *history, direction, direction @ gradient, largest, length, square


def turned_to(state: State, point: Array, value: Array, gradient: Array) -> State:
    """The state at another point, with the history as it is."""
    xp, state = namespace(gradient), {**state, "point": point, "value": value, "gradient": gradient}
    direction = direction_of(state)
    return {
        **state, "direction": direction, "slope": direction @ gradient,
        "largest": xp.max(xp.abs(gradient)),
    }  # fmt: skip


def direction_of(state: State) -> Array:
    """The direction by the history and the gradient in a state."""
    if not _has_history(state):
        return -state["gradient"]
    change = state["changes"][-1, :]
    scale = state["lengths"][-1] / (change @ change)
    return _direction(*_history(state), state["gradient"], scale)


def first_step(state: State) -> float:
    """The step to try first along the direction: of length 1 where there is no history."""
    if _has_history(state):
        return 1.0
    gradient = state["gradient"]
    largest = float(namespace(gradient).max(abs(gradient)))
    if largest == 0.0:
        return 1.0
    unit = gradient / largest  # its square may be 0
    return 1.0 / float(unit @ unit) ** 0.5 / largest


def _has_history(state: State) -> bool:
    return float(state["lengths"][-1]) != 0.0


def _direction(
    moves: Array, changes: Array, lengths: Array, inverse: Array, gradient: Array, scale: Any
) -> Array:
    """The two loops, each as the solution of a triangle.

    Both are products with its inverse, which `turned` keeps up: a number of calls that does not
    grow with the history.

    Source: the loops of Nocedal 1980, "Updating quasi-Newton matrices with limited storage"; the
    triangle of Byrd, Nocedal and Schnabel 1994, "Representations of quasi-Newton matrices and their
    use in limited memory methods", theorem 2.2.
    """
    first = inverse @ (moves @ gradient)
    rest = scale * (gradient - first @ changes)
    second = lengths * first - changes @ rest
    return -(rest + (second @ inverse) @ moves)
