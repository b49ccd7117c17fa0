"""`minimize` and `least_squares`: the optimizers without a network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isfinite, prod
from typing import Any

from backends import scope_of
from tinynn import tree
from tinynn.config import label
from tinynn.optim.base import Optimizer, require_params
from tinynn.optim.flat import Flat
from tinynn.optim.lbfgs import LBFGS
from tinynn.optim.schedules import COUNT
from tinynn.optim.second_order.bounded import bounded_lbfgs, bounded_least_squares, box_of
from tinynn.optim.second_order.levenberg_marquardt import LevenbergMarquardt, Linearizing
from tinynn.optim.second_order.linearized import Orthogonal
from tinynn.optim.second_order.newton_cg import NewtonCG
from tinynn.optim.second_order.objective import Objective, Surface
from tinynn.trace import backend_of, namespace
from tinynn.transforms import value_and_grad

Array = Any
Tree = Any
# What is looked for is the minimum to the last digit, of functions with valleys of their own.
_ALONE = LevenbergMarquardt(gradient_tolerance=0.0, acceleration=True, memory=0.7)
_METHODS: dict[str, Callable[[], Any]] = {"lbfgs": LBFGS, "newton-cg": NewtonCG}
_BOTTOM = -1e20  # a function that falls below it has no minimum; MATLAB's ObjectiveLimit


@dataclass(frozen=True)
class Minimum:
    """The end of a search for a minimum.

    Attributes
    ----------
    params
        Where it ended, a tree as it was given.
    value
        Of the function there; of `least_squares` half the sum of the squares.
    gradient_norm
        The largest entry of the gradient, by its size, where the last step began: here, if it led
        nowhere. Within bounds, of the gradient's step as far as they let it go.
    iterations
        How many steps were taken.
    evaluations
        How often the function was evaluated.
    converged
        Whether it ended by itself.
    message
        Why it ended.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> found = tinynn.minimize(lambda x: (x - 3.0) ** 2, np.asarray(0.0))
    >>> found.converged, round(float(found.params), 6)
    (True, 3.0)
    """

    params: Tree
    value: float
    gradient_norm: float
    iterations: int
    evaluations: int
    converged: bool
    message: str


def minimize(
    function: Callable[[Tree], Array],
    params: Tree,
    method: Any = "lbfgs",
    *,
    bounds: Any = None,
    max_steps: int = 15_000,
) -> Minimum:
    """Look for a minimum of a function of a tree of arrays, from these on.

    Parameters
    ----------
    function
        params -> 0-d array, of the array library of the params, which can be differentiated (twice
        for "newton-cg").
    params
        A tree of floating-point arrays on any backend, where everything is computed.
    method
        "lbfgs"; "newton-cg", which uses second derivatives, and leaves saddle points; or an
        optimizer with settings of its own, such as `LBFGS(gradient_tolerance=1e-10)`.
    bounds
        (lower, upper), each a number, a tree like the params, or None for none: where to look, with
        "lbfgs".
    max_steps
        After which it ends if it has not converged.

    Raises
    ------
    ValueError
        For a function or a gradient that is not finite, for a function that falls below -1e20,
        which is taken to have no minimum unless all params are bounded on both sides, for an
        unknown method, for params without a number, and for params that are not within the bounds.
    TypeError
        For params that are not floating-point arrays.

    Examples
    --------
    >>> import numpy as np
    >>> def rosenbrock(p):
    ...     return (1.0 - p["x"]) ** 2 + 100.0 * (p["y"] - p["x"] ** 2) ** 2
    >>> start = {"x": np.asarray(-1.2), "y": np.asarray(1.0)}
    >>> found = minimize(rosenbrock, start, method="newton-cg")
    >>> round(float(found.params["y"]), 6), found.converged
    (1.0, True)
    """
    _require_function("minimize: function", function)
    optimizer = _METHODS[method]() if isinstance(method, str) and method in _METHODS else method
    if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "gradient_tolerance"):
        raise ValueError(
            f"minimize: method: expected {' or '.join(map(repr, _METHODS))}, or an optimizer that "
            f"knows when it has converged, got {label(method)}. To fix it: name one of these, or "
            "take fit for others"
        )
    if isinstance(optimizer, Linearizing):
        raise ValueError(
            f"minimize: method: expected one for functions of any kind, got {label(optimizer)}, "
            "which is for sums of squares. To fix it: give the residuals to tinynn.least_squares"
        )
    if bounds is not None:
        _require_method("minimize", isinstance(optimizer, LBFGS), "'lbfgs' or an LBFGS", method)
        return _bounded("minimize", optimizer, Objective(function), params, bounds, max_steps)
    extras: dict[str, Any] = {"objective": Objective(function)}
    if "objective" not in optimizer.needs:
        extras = {"value_and_grad": value_and_grad(function)}
    return _search("minimize", optimizer, params, extras, max_steps)


def least_squares(
    residuals: Callable[[Tree], Tree],
    params: Tree,
    method: Any = "levenberg-marquardt",
    *,
    bounds: Any = None,
    max_steps: int = 1000,
) -> Minimum:
    """Look for the params of which half the sum of the squares of some residuals is least.

    Parameters
    ----------
    residuals
        params -> tree of arrays, which can be differentiated.
    params
        A tree of floating-point arrays on any backend, where everything is computed.
    method
        "levenberg-marquardt", by the QR decomposition of the Jacobian up to 2500 params and by
        conjugate gradients beyond; "gauss-newton", undamped steps, halved until the sum falls; or
        `tinynn.optim.LevenbergMarquardt` with settings of its own, such as `solver="cg"`.
    bounds
        (lower, upper), each a number, a tree like the params, or None for none: where to look, by
        Levenberg-Marquardt.
    max_steps
        After which it ends if it has not converged.

    Raises
    ------
    ValueError
        For residuals or a gradient that are not finite, for an unknown method, for params without
        a number, for a Jacobian above the method's `memory_limit`, and under "gauss-newton" for
        one whose columns depend on each other; for params that are not within the bounds.
    TypeError
        For params or residuals that are not floating-point arrays.

    References
    ----------
    Moré 1978, "The Levenberg-Marquardt algorithm: implementation and theory", whose scaling it has;
    Nielsen 1999 for the damping; Bertsekas 1982, "Projected Newton methods for optimization
    problems with simple constraints", for the bounds.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.asarray([0.0, 1.0, 2.0]), np.asarray([5.0, 3.032653, 1.839397])
    >>> def residuals(p):
    ...     xp = p["rate"].__array_namespace__()
    ...     return p["size"] * xp.exp(-p["rate"] * x) - y
    >>> found = least_squares(residuals, {"size": np.asarray(1.0), "rate": np.asarray(0.0)})
    >>> round(float(found.params["size"]), 4), round(float(found.params["rate"]), 4)
    (5.0, 0.5)
    """
    _require_function("least_squares: residuals", residuals)
    checked = partial(_checked, residuals)
    objective = Objective(
        lambda params: _half_squares(checked(params)), checked, _half_squares, is_residual=True
    )
    if isinstance(method, str) and method == "gauss-newton":
        said = "'levenberg-marquardt' or a LevenbergMarquardt"
        _require_method("least_squares", bounds is None, said, method)
        return _gauss_newton(objective, params, max_steps)
    optimizer = _ALONE if method == "levenberg-marquardt" else method
    if not isinstance(optimizer, LevenbergMarquardt):
        raise ValueError(
            "least_squares: method: expected 'levenberg-marquardt', 'gauss-newton' or a "
            f"LevenbergMarquardt, got {label(method)}. To fix it: name one of these; for others "
            "take tinynn.minimize"
        )
    if bounds is not None:
        return _bounded("least_squares", optimizer, objective, params, bounds, max_steps)
    return _search("least_squares", optimizer, params, {"objective": objective}, max_steps)


def _require_method(where: str, holds: bool, said: str, method: Any) -> None:
    if not holds:
        raise ValueError(
            f"{where}: method: expected {said} where there are bounds, got {label(method)}. To fix "
            "it: take it, or leave the bounds out"
        )


def _bounded(
    where: str, optimizer: Any, objective: Objective, params: Tree, bounds: Any, max_steps: int
) -> Minimum:
    """A search within bounds."""
    first = _first(where, optimizer, params, max_steps)
    with scope_of(first), backend_of(first).quiet():
        box = box_of(where, bounds, params)
        surface = Surface(optimizer, objective, params)
        point = surface.flat.vector(params)
        if where == "least_squares":
            end = bounded_least_squares(surface, point, box, optimizer, max_steps)
        else:
            state = optimizer.init(params)
            end = bounded_lbfgs(surface, point, box, optimizer, state, max_steps)
        if not box.is_closed:
            _require_bottom(where, end.value)
        for what, number in (("value", end.value), ("gradient, and square of it,", end.norm)):
            if not isfinite(number):
                raise _not_finite(where, what)
        found = surface.flat.tree(end.point)
    flat = end.norm <= optimizer.gradient_tolerance
    return Minimum(
        found, end.value, end.norm, end.steps, end.evaluations, end.converged,
        _message(end.converged, flat, max_steps),
    )  # fmt: skip


def _require_function(where: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{where}: expected a function of the params, got {value!r}")


def _half_squares(residuals: Tree) -> Array:
    """Half the sum of the squares of a tree of arrays, in the widest dtype of them."""
    vector = Flat.of(residuals).vector(residuals)
    return 0.5 * namespace(vector).vecdot(vector, vector)


def _checked(residuals: Callable[[Tree], Tree], params: Tree) -> Tree:
    """The residuals at the params; TypeError for what has no squares to be made small."""
    out = residuals(params)
    leaves = tree.leaves(out)
    dtypes = [getattr(leaf, "dtype", None) for leaf in leaves]
    floating = [
        dtype is not None and namespace(leaf).isdtype(dtype, "real floating")
        for leaf, dtype in zip(leaves, dtypes, strict=True)
    ]
    if not leaves or not all(floating):
        wrong = leaves[floating.index(False)] if leaves else None
        got = "none" if not leaves else f"{type(wrong).__name__} of {getattr(wrong, 'dtype', None)}"
        raise TypeError(
            "least_squares: residuals: expected arrays of a real floating-point dtype, got "
            f"{got}. To fix it: return an array, or a tree of arrays, computed from the params"
        )
    return out


def _search(
    where: str, optimizer: Any, params: Tree, extras: dict[str, Any], max_steps: int
) -> Minimum:
    """Step after step, until the optimizer has converged."""
    first = _first(where, optimizer, params, max_steps)
    with scope_of(first), backend_of(first).quiet():  # steps too far are refused
        state = optimizer.init(params)
        for _ in range(max_steps):
            params, state = optimizer.update(None, state, params, **extras)
            if not _is_finite(state["value"]):
                raise _not_finite(where, "value")
            _require_bottom(where, float(state["value"]))
            if not _is_finite(_norm(state) ** 2):
                raise _not_finite(where, "gradient, and square of it,")
            if bool(state["converged"]):
                break
    converged = bool(state["converged"])
    norm = float(_norm(state))
    return Minimum(
        params,
        float(state["value"]),
        norm,
        int(state["step"]),
        int(state["evaluations"]),
        converged,
        _message(converged, norm <= optimizer.gradient_tolerance, max_steps),
    )


def _require_bottom(where: str, value: float) -> None:
    if value < _BOTTOM:
        raise ValueError(
            f"{where}: expected a function that has a minimum above {_BOTTOM:g}, got one that "
            f"falls to {value:.3g}. To fix it: look at its sign, add a penalty, give bounds= on "
            "both sides, or scale the function, if it has a minimum there"
        )


def _is_finite(value: Array) -> bool:
    return bool(namespace(value).isfinite(value))


def _norm(state: Any) -> Array:
    """The largest entry of the gradient, by its size."""
    if "gradient_norm" in state:
        return state["gradient_norm"]
    xp = namespace(state["gradient"])
    return xp.max(xp.abs(state["gradient"]))


def _not_finite(where: str, what: str) -> ValueError:
    return ValueError(
        f"{where}: expected a finite {what} at the start and wherever a step leads, got one that "
        "is not. To fix it: start from other params, or scale the function"
    )


def _first(where: str, optimizer: Any, params: Tree, max_steps: int) -> Array:
    """An array of the params; an error for params or a number of steps that mean nothing."""
    leaves = require_params(optimizer, params)
    if not COUNT[0](max_steps):
        raise ValueError(f"{where}: max_steps: expected {COUNT[1]}, got {max_steps!r}")
    if not any(prod(leaf.shape) for leaf in leaves):
        raise ValueError(
            f"{where}: params: expected a number at least, got arrays without any. To fix it: "
            "give arrays that have entries"
        )
    return leaves[0]


def _message(converged: bool, flat: bool, max_steps: int) -> str:
    if not converged:
        return f"not converged after {max_steps} steps"
    if flat:
        return "converged: the gradient is below gradient_tolerance"
    return "converged: no step makes the value less by more than the tolerances"


def _gauss_newton(objective: Objective, params: Tree, max_steps: int) -> Minimum:
    """Undamped steps, halved until the sum falls."""
    owner = LevenbergMarquardt(solver="dense")
    _first("least_squares", owner, params, max_steps)
    surface = Surface(owner, objective, params)
    point, evaluations, norm, converged = surface.flat.vector(params), 0, float("inf"), False
    xp = namespace(point)
    eps = float(xp.finfo(point.dtype).eps)
    with scope_of(point), backend_of(point).quiet():
        value = surface.value(point)
    if not _is_finite(value):
        raise _not_finite("least_squares", "value")
    none, ones = 0.0 * value, xp.ones_like(point)
    steps = 0
    with scope_of(point), backend_of(point).quiet():
        while steps < max_steps and not converged:
            steps += 1
            near = surface.linearized(point)
            assert isinstance(near, Orthogonal)
            norm = float(xp.max(xp.abs(near.gradient)))
            if not isfinite(norm):
                raise _not_finite("least_squares", "gradient")
            _require_full_rank(near, surface.flat)
            step, length = near.step(none, ones), 1.0
            there = surface.value(point + step)
            evaluations += 2
            while not (bool(there < value) or length < eps):
                length *= 0.5
                there, evaluations = surface.value(point + length * step), evaluations + 1
            converged = not bool(value - there > 10.0 * eps * value)
            if bool(there <= value):
                point, value = point + length * step, there
    flat = norm <= owner.gradient_tolerance
    return Minimum(
        surface.flat.tree(point), float(value), norm, steps, evaluations, converged,
        _message(converged, flat, max_steps),
    )  # fmt: skip


def _require_full_rank(near: Orthogonal, flat: Flat) -> None:
    """ValueError for a Jacobian whose columns depend on each other, naming the parameter."""
    xp, triangle = namespace(near.triangle), near.triangle
    rows, columns = triangle.shape
    names = [path or "the parameter" for path, _ in tree.paths(flat.tree(near.gradient))]
    bad = rows if rows < columns else None
    if bad is None:
        size = xp.sqrt(near.diagonal)
        own = xp.abs(xp.linalg.diagonal(triangle))
        dependent = own <= 8.0 * columns * float(xp.finfo(own.dtype).eps) * size
        bad = int(xp.argmax(xp.astype(dependent, xp.int8))) if bool(xp.any(dependent)) else None
    if bad is None:
        return
    place = 0
    while bad >= flat.sizes[place]:
        bad, place = bad - flat.sizes[place], place + 1
    raise ValueError(
        f"least_squares: expected a Jacobian of full rank, got a singular one: what "
        f"{names[place]!r} changes at entry {bad}, parameters before it change as well. To fix it: "
        "take method='levenberg-marquardt', or leave a parameter out"
    )
