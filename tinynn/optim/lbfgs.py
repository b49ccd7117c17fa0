"""L-BFGS."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

from tinynn import tree
from tinynn.config import require
from tinynn.trace import backend_of, namespace

from .base import Array, Optimizer, State, require_params, required
from .flat import Flat
from .line_search import Point, StrongWolfe
from .schedules import COUNT, NOT_NEGATIVE

ValueAndGrad: TypeAlias = Callable[[Any], tuple[Array, Any]]


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
    the loss at the new parameters, `state["evaluations"]` how often it was evaluated.

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
        Of the loss, in one line search.

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
            "moves": zeros(size, count),
            "changes": zeros(size, count),
            "curvatures": zeros(size),  # 1 / (move . change); 0 where there is none as yet
        }

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        """(params, state) one iteration on; gradients: a tree like the params, or None.

        extras: value_and_grad, params -> (value, gradients); value, the loss, with gradients.
        """
        evaluate = _Evaluation(self, params, required(self, extras)["value_and_grad"])
        point = evaluate.flat.vector(params)
        start, known = self._start(evaluate, gradients, state, point, extras.get("value"))
        if known and bool(state["converged"]):
            return params, state
        xp = namespace(point)
        value, gradient = start
        new = {**state, "point": point, "value": value, "gradient": gradient}
        largest = float(xp.max(xp.abs(gradient)))
        if largest <= self.gradient_tolerance:
            return params, self._ended(new, evaluate)
        for fresh in (False, True):  # a history that misleads is forgotten, once
            if fresh:
                names = ("moves", "changes", "curvatures")
                new |= {name: xp.zeros_like(new[name]) for name in names}
            direction, first = _direction(new)
            slope = float(xp.vecdot(direction, gradient))
            if not slope < 0.0:
                continue
            found = StrongWolfe(evaluations=self.max_evaluations)(
                lambda step: evaluate.along(point, direction, step),  # noqa: B023
                Point(0.0, float(value), slope),
                first,
            )
            if found.improved:
                break
        else:
            return params, self._ended(new, evaluate)
        return self._moved(new, found.point.found, evaluate)

    def _start(
        self, evaluate: "_Evaluation", gradients: Any, state: State, point: Array, value: Any
    ) -> tuple[tuple[Array, Array], bool]:
        """(value, gradient) at the parameters, and whether they are known from the step before."""
        if gradients is not None and value is not None:
            return (evaluate.number(value), evaluate.flat.vector(gradients)), False
        xp = namespace(point)
        if gradients is None and int(state["step"]) > 0 and bool(xp.all(point == state["point"])):
            return (state["value"], state["gradient"]), True
        return evaluate(point)[:2], False

    def _moved(self, state: State, found: Any, evaluate: "_Evaluation") -> tuple[Any, State]:
        """The parameters and the state at the point that was found."""
        value, gradient, point, params = found
        xp = namespace(point)
        move, change = point - state["point"], gradient - state["gradient"]
        product = xp.vecdot(move, change)
        before, after = float(state["value"]), float(value)
        if float(product) > xp.finfo(point.dtype).eps * -float(xp.vecdot(move, state["gradient"])):
            row = xp.reshape(1.0 / product, (1,))
            pairs = [("moves", move[None, :]), ("changes", change[None, :]), ("curvatures", row)]
            state |= {name: xp.concat([state[name][1:, ...], new]) for name, new in pairs}
        state |= {"value": value, "gradient": gradient, "point": point}
        still = before - after <= self.value_tolerance * max(abs(before), abs(after), 1.0)
        if still or float(xp.max(xp.abs(gradient))) <= self.gradient_tolerance:
            return params, self._ended(state, evaluate)
        return params, self._counted(state, evaluate)

    def _counted(self, state: State, evaluate: "_Evaluation") -> State:
        evaluations = state["evaluations"] + evaluate.count
        return {**state, "step": state["step"] + 1, "evaluations": evaluations}

    def _ended(self, state: State, evaluate: "_Evaluation") -> State:
        yes = backend_of(state["point"]).asarray(True)
        return {**self._counted(state, evaluate), "converged": yes}

    def minimize(
        self, value_and_grad: ValueAndGrad, params: Any, *, max_steps: int = 15_000
    ) -> tuple[Any, State]:
        """(params, state) at a minimum of a function, from these params on, without a network.

        value_and_grad: params -> (value, gradients). Ends where it has converged, or after so many
        steps; `state["converged"]` says which.
        """
        state = self.init(params)
        for _ in range(max_steps):
            params, state = self.update(None, state, params, value_and_grad=value_and_grad)
            if bool(state["converged"]):
                break
        return params, state


class _Evaluation:
    """The function and its gradient as functions of a vector, counted."""

    def __init__(self, owner: Any, params: Any, value_and_grad: ValueAndGrad) -> None:
        self.flat = Flat(require_params(owner, params), tree.flatten(params)[1])
        self.value_and_grad, self.count = value_and_grad, 0

    def __call__(self, point: Array) -> tuple[Array, Array, Array, Any]:
        """(value, gradient, point, the point as params)."""
        self.count += 1
        params = self.flat.tree(point)
        value, gradients = self.value_and_grad(params)
        return self.number(value), self.flat.vector(gradients), point, params

    def number(self, value: Array) -> Array:
        """A 0-d array of the vector's dtype."""
        return namespace(value).astype(value, self.flat.dtype)

    def along(self, point: Array, direction: Array, step: float) -> Point:
        """The value and gradient at a distance along a direction."""
        found = self(point + step * direction)
        slope = float(namespace(direction).vecdot(direction, found[1]))
        return Point(step, float(found[0]), slope, found)


def _direction(state: State) -> tuple[Array, float]:
    """(direction, the step to try first): the two loops of Nocedal 1980."""
    moves, changes, curvatures = state["moves"], state["changes"], state["curvatures"]
    xp, rest = namespace(moves), state["gradient"]
    newest = float(curvatures[-1])
    if newest == 0.0:
        length = float(xp.sqrt(xp.vecdot(rest, rest)))
        return -rest, 1.0 / length
    shares: list[Array] = []
    rows = range(curvatures.shape[0])
    for row in reversed(rows):  # those that are not there yet are zeros, and change nothing
        shares.append(curvatures[row] * xp.vecdot(moves[row, ...], rest))
        rest = rest - shares[-1] * changes[row, ...]
    last = changes[-1, ...]
    rest = rest / (newest * xp.vecdot(last, last))
    for row, share in zip(rows, reversed(shares), strict=True):
        other = curvatures[row] * xp.vecdot(changes[row, ...], rest)
        rest = rest + (share - other) * moves[row, ...]
    return -rest, 1.0
