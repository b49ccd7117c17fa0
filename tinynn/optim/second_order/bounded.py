"""Minima within bounds: Levenberg-Marquardt and L-BFGS on what is free, projected onto the rest."""

from copy import copy
from dataclasses import dataclass
from math import isfinite
from typing import Any

from tinynn import tree
from tinynn.optim.flat import Flat
from tinynn.optim.lbfgs import direction_of, first_step, forgotten, remembered
from tinynn.optim.second_order.linearized import Linearized, Orthogonal, Products
from tinynn.optim.second_order.objective import Surface
from tinynn.trace import backend_of, namespace

Array = Any
Tree = Any
_DECREASE = 1e-4  # of what the slope foretells, which a step has to reach
_HALVINGS = 40  # of a step that is too long


@dataclass(frozen=True)
class Box:
    """A lower and an upper bound of each parameter, (n,), of the vector of all of them."""

    lower: Array
    upper: Array

    @property
    def is_closed(self) -> bool:
        """Whether all bounds are finite: what is continuous has a minimum within."""
        xp = namespace(self.lower)
        return bool(xp.all(xp.isfinite(self.upper - self.lower)))

    def clipped(self, point: Array) -> Array:
        """The nearest point within."""
        xp = namespace(point)
        return xp.minimum(xp.maximum(point, self.lower), self.upper)

    def free(self, point: Array, gradient: Array) -> Array:
        """(n,) 1 for each parameter that the gradient does not hold at a bound, else 0."""
        xp = namespace(point)
        low = xp.logical_and(point <= self.lower, gradient > 0)
        high = xp.logical_and(point >= self.upper, gradient < 0)
        return xp.astype(xp.logical_not(xp.logical_or(low, high)), point.dtype)

    def norm(self, point: Array, gradient: Array) -> float:
        """The largest entry of the gradient's step, as far as the bounds let it go."""
        xp = namespace(point)
        return float(xp.max(xp.abs(point - self.clipped(point - gradient))))


@dataclass
class Ended:
    """Where a bounded search has ended."""

    point: Array
    value: float
    norm: float
    steps: int
    evaluations: int
    converged: bool


def box_of(where: str, bounds: Any, params: Tree) -> Box:
    """The box that bounds say; ValueError for what is none, or a start that is not within.

    bounds: (lower, upper), each a number, a tree like the params, or None.
    """
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(
            f"{where}: bounds: expected a pair (lower, upper), each a number, None or a tree like "
            f"the params, got {type(bounds).__name__} of {_length(bounds)}. To fix it: give "
            "(lower, upper), with None or infinities where there is no bound"
        )
    flat = Flat.of(params)
    infinite = (-float("inf"), float("inf"))
    lower, upper = (
        _side(where, said, infinite[i] if given is None else given, params, flat)
        for i, (said, given) in enumerate(zip(("lower", "upper"), bounds, strict=True))
    )
    point = flat.vector(params)
    xp = namespace(point)
    for said, wrong in (
        ("a lower bound that is not above the upper one", xp.logical_not(lower <= upper)),
        ("a start within the bounds", xp.logical_or(point < lower, point > upper)),
    ):
        if bool(xp.any(wrong)):
            place = int(xp.argmax(xp.astype(wrong, xp.int8)))
            raise ValueError(
                f"{where}: expected {said}, got {_named(flat, params, place)} of "
                f"{float(point[place])} and bounds {float(lower[place])} and "
                f"{float(upper[place])}. To fix it: move the start or the bounds"
            )
    return Box(lower, upper)


def _length(value: Any) -> str:
    return f"{len(value)}" if hasattr(value, "__len__") else "no length"


def _side(where: str, said: str, given: Any, params: Tree, flat: Flat) -> Array:
    backend = backend_of(flat.leaves[0])
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = tree.map(lambda leaf: namespace(leaf).full_like(leaf, float(given)), params)
    leaves, structure = tree.flatten(given)
    if structure != tree.flatten(params)[1]:
        raise ValueError(
            f"{where}: bounds: expected the {said} ones to be a tree like the params, got another. "
            "To fix it: give an array for each of the params, or one number for all"
        )
    arrays = [a if hasattr(a, "dtype") else backend.asarray(a, dtype=flat.dtype) for a in leaves]
    for (path, own), array in zip(tree.paths(params), arrays, strict=True):
        if tuple(own.shape) != tuple(array.shape):
            raise ValueError(
                f"{where}: bounds: expected the {said} one of {path or 'the parameter'!r} to have "
                f"shape {tuple(own.shape)}, got {tuple(array.shape)}. To fix it: give a bound for "
                "each entry"
            )
    return flat.vector(structure.unflatten(arrays))


def _named(flat: Flat, params: Tree, place: int) -> str:
    """The path of a parameter and the place in it of an entry of the vector."""
    names = [path or "the parameter" for path, _ in tree.paths(params)]
    leaf = 0
    while place >= flat.sizes[leaf]:
        place, leaf = place - flat.sizes[leaf], leaf + 1
    return f"entry {place} of {names[leaf]!r}"


def bounded_least_squares(
    surface: Surface, point: Array, box: Box, owner: Any, max_steps: int
) -> Ended:
    """Levenberg-Marquardt's steps of what is free, projected, damped until the sum falls.

    Parameters that the gradient holds at a bound stay there in a step. With enough damping it is a
    step along the gradient, scaled, whose projection makes the sum fall: what Bertsekas 1982,
    "Projected Newton methods for optimization problems with simple constraints", proves.
    """
    xp = namespace(point)
    eps = float(xp.finfo(point.dtype).eps)
    still = 10.0 * eps if owner.value_tolerance is None else owner.value_tolerance
    short = eps ** (2 / 3) if owner.step_tolerance is None else owner.step_tolerance
    damping, scale, evaluations, steps = float(owner.damping), xp.zeros_like(point), 0, 0
    value, norm, growth = float("nan"), float("inf"), 2.0
    while steps < max_steps:
        steps += 1
        near = surface.linearized(point)
        evaluations += 1
        value, norm = float(near.value), box.norm(point, near.gradient)
        if not isfinite(value + norm) or norm <= owner.gradient_tolerance:
            return Ended(point, value, norm, steps, evaluations, isfinite(value + norm))
        free = box.free(point, near.gradient)
        scale = xp.maximum(owner.memory * scale, near.diagonal)
        by = xp.where(scale > 0, scale, xp.ones_like(scale))
        own, accepted = _of_free(near, free), False
        for _ in range(2 * owner.max_trials):
            new = _resolved(own, near, box, point, free, damping, by)
            move = new - point
            predicted = -float(near.gradient @ move) - 0.5 * _curvature(near, move)
            there = float(surface.value(new))
            evaluations += 1
            ratio = (value - there) / predicted if predicted > 0 else float("nan")
            accepted = isfinite(there) and ratio > _DECREASE
            if accepted:
                damping = max(damping * max(1 / 3, 1.0 - (2.0 * ratio - 1.0) ** 3), near.least)
                growth = 2.0
                break
            damping, growth = damping * growth, 2.0 * growth
        if not accepted:
            return Ended(point, value, norm, steps, evaluations, True)
        length = float(xp.sqrt(xp.sum(by * point * point)))
        ends = value - there <= still * value and predicted <= still * value
        ends = ends or float(xp.sqrt(xp.sum(by * move * move))) <= short * (length + eps)
        point, value = new, there
        if ends:
            return Ended(point, value, norm, steps, evaluations, True)
    return Ended(point, value, norm, steps, evaluations, False)


def _resolved(
    own: Any, near: Linearized, box: Box, point: Array, free: Array, damping: float, by: Array
) -> Array:
    """The point of a step; what it takes to a bound is put there, and the rest is solved again."""
    xp = namespace(point)
    moved, left = xp.zeros_like(point), free
    for _ in range(3):
        added = backend_of(point).asarray(damping, dtype=point.dtype)
        new = point + moved + own.step(added, by)
        clipped = box.clipped(new)
        hits = xp.logical_and(clipped != new, left > 0)
        if not bool(xp.any(hits)) or isinstance(near, Products):
            return clipped
        # The model from where those that hit are at their bounds, in those that are left.
        left = xp.where(hits, xp.zeros_like(left), left)
        moved = xp.where(hits, clipped - point, moved)
        own = _of_free(near, left)
        own.residuals = near.residuals + _along(near, moved)  # type: ignore[attr-defined]
    return clipped


def _along(near: Any, move: Array) -> Array:
    """(m,): the Jacobian times a move."""
    along = near.triangle @ move
    return along if near.turn is None else near.turn @ along


def _of_free(near: Linearized, free: Array) -> Any:
    """The model as a function of what is free alone."""
    own: Any = copy(near)
    own.gradient = near.gradient * free
    if isinstance(near, Orthogonal):
        own.triangle = near.triangle * free
        return own
    assert isinstance(near, Products)
    product = near.product
    own.product = lambda direction: free * product(free * direction)
    return own


def _curvature(near: Any, move: Array) -> float:
    if isinstance(near, Products):
        return float(move @ near.product(move))
    along = near.triangle @ move
    return float(along @ along)


def bounded_lbfgs(
    surface: Surface, point: Array, box: Box, owner: Any, state: Any, max_steps: int
) -> Ended:
    """L-BFGS's steps of what is free, projected, halved until the function falls enough.

    Source: Schmidt, Kim and Sra 2011, "Projected Newton-type Methods in Machine Learning", section
    11.4, the two-metric projection of Bertsekas 1982 with L-BFGS's matrix.
    """
    value_, gradient = surface.value_and_gradient(point)
    value, evaluations, steps = float(value_), 1, 0
    state = {**state, "point": point, "gradient": gradient}
    while True:
        norm = box.norm(point, gradient)
        if not isfinite(float(gradient @ gradient)):  # no slope of a step can be told
            norm = float("inf")
        flat = norm <= owner.gradient_tolerance
        if flat or not isfinite(value + norm) or steps >= max_steps:
            return Ended(point, value, norm, steps, evaluations, flat)
        steps += 1
        for fresh in (False, True):
            if fresh:
                state = forgotten(state)
            own = _masked(state, box.free(point, gradient))
            direction, step = direction_of(own), first_step(own)
            new, there, slopes, count = _projected(
                surface, box, point, direction, step, state, value
            )
            evaluations += count
            if new is not None:
                break
        if new is None:
            return Ended(point, value, norm, steps, evaluations, True)
        state = remembered(state, new, there, slopes, value - there)
        fall, point, gradient = value - there, new, slopes
        still = fall <= owner.value_tolerance * max(abs(value), abs(there), 1.0)
        value = there
        if still:
            return Ended(point, value, box.norm(point, gradient), steps, evaluations, True)


def _projected(
    surface: Surface,
    box: Box,
    point: Array,
    direction: Array,
    step: float,
    state: Any,
    value: float,
) -> tuple[Any, float, Any, int]:
    """(point, value, gradient, evaluations) at the first of ever shorter steps that falls enough.

    The point is None where there is none.
    """
    gradient = state["gradient"]
    if not float(direction @ gradient) < 0:
        return None, value, None, 0
    for count in range(1, _HALVINGS + 1):
        new = box.clipped(point + step * direction)
        slope = float(gradient @ (new - point))
        found, slopes = surface.value_and_gradient(new)
        there = float(found)
        if isfinite(there) and slope < 0 and there <= value + _DECREASE * slope:
            return new, there, slopes, count
        # The parabola through both values and the slope, not too far from halving.
        shorter = -0.5 * slope / (there - value - slope) if isfinite(there) and slope < 0 else 0.5
        step *= min(max(shorter, 0.1), 0.5)
    return None, value, None, _HALVINGS


def _masked(state: Any, free: Array) -> Any:
    """The history in what is free; pairs that do not curve there are left out."""
    xp = namespace(free)
    moves, changes = state["moves"] * free, state["changes"] * free
    products = xp.sum(moves * changes, axis=1)
    sizes = xp.sum(moves * moves, axis=1) * xp.sum(changes * changes, axis=1)
    eps = float(xp.finfo(free.dtype).eps)
    curved = xp.logical_and(products > 0, products * products > eps**2 * sizes)
    kept = xp.astype(curved, free.dtype)
    lengths, absent = products * kept, xp.ones_like(kept) - kept
    moves = moves * kept[:, None]
    # A 1 keeps out the rows that are not there, which are zeros.
    eye = xp.eye(kept.shape[0], dtype=free.dtype, device=backend_of(free).device)
    triangle = xp.triu(moves @ changes.T) * kept + eye * absent
    return {
        "moves": moves,
        "changes": changes * kept[:, None],
        "lengths": lengths,
        "inverse": xp.linalg.inv(triangle),
        "gradient": state["gradient"] * free,
    }
