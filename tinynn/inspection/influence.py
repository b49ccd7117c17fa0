"""Influence of training rows: what leaving one out would change, without training again.

Source: Koh and Liang 2017, "Understanding Black-box Predictions via Influence Functions", ICML;
Cook and Weisberg 1982, "Residuals and Influence in Regression".
"""

from collections.abc import Callable
from math import prod
from typing import Any, TypeAlias

from tinynn import tree
from tinynn.config import label
from tinynn.layers import run
from tinynn.trace import backend_of, namespace
from tinynn.transforms import grad, hessian, jvp, vmap

Array: TypeAlias = Any

_DENSE = 1000  # parameters up to which "auto" takes the matrix
_MOST = 2 * 2**30  # bytes of the matrix


def influence(
    model: Any,
    X: Any,
    y: Array,
    X_new: Any,
    y_new: Array,
    *,
    l2: float = 0.0,
    damping: float = 0.0,
    solver: str = "auto",
    steps: int = 200,
    tolerance: float = 1e-6,
) -> Array:
    """By how much the loss of each new row would rise if a training row were left out.

    Below 0 are rows that harm: the new row would be answered better without them. With n rows, H
    the Hessian of what was minimised and g the gradients of single rows' losses it is
    g_new^T H^-1 g_row / n, the first order of what training without the row would give. It holds
    for parameters at a minimum, as second-order optimizers reach it.

    Parameters
    ----------
    model
        A `Model`, or whatever has its `net`, `params`, `state` and `loss`.
    X, y
        The training rows, as the network and the loss take them: arrays on the model's backend, X a
        tuple for several inputs. The loss counts rows alike.
    X_new, y_new
        The rows that are asked about, likewise.
    l2
        The strength of the penalty that was minimised with the mean loss, half of it times the
        squares of the parameters: what `LevenbergMarquardt(l2=...)` was given.
    damping
        Added to the Hessian's diagonal, for networks that are not at a minimum: Koh and Liang take
        0.01.
    solver
        "dense" makes the Hessian; "cg" solves by conjugate gradients through products with it, for
        each new row; "auto" is dense for up to 1,000 parameters.
    steps, tolerance
        Of conjugate gradients: the most there are, and the residual relative to the gradient at
        which they end.

    Returns
    -------
    array
        (new rows, rows).

    Raises
    ------
    TypeError
        A `ModelStack`.
    ValueError
        Rows that are not finite, or targets that the loss does not take; a loss in which rows do
        not count alike; a Hessian that is not positive definite; conjugate
        gradients that do not get there; or too large a matrix: the message has the number.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> x, y = np.asarray([[0.0], [1.0], [2.0]]), np.asarray([[0.0], [1.0], [5.0]])
    >>> model = tinynn.fit(Linear(1), x, y, optimizer="levenberg_marquardt", epochs=9)
    >>> influence(model, x, y, np.asarray([[3.0]]), np.asarray([[3.0]])).round(2).tolist()
    [[2.67, 2.67, -5.33]]
    """
    if hasattr(model, "models"):
        raise TypeError(
            f"influence: model: expected one model, got {model!r}. To fix it: ask each of its "
            "models, and take the mean: [influence(each, X, y, X_new, y_new) for each in stack]"
        )
    _check(model.loss, l2, damping, solver, steps, tolerance)
    costs, count = _Costs(model), _rows("X", X, y, least=1)
    vector = costs.vector
    if not _holds(namespace(vector).all(namespace(vector).isfinite(vector))):
        raise ValueError(
            "influence: model: expected finite parameters, got NaN or infinity. To fix it: train "
            "it to a minimum, with a lower learning rate"
        )
    for inputs, targets in ((X, y), (X_new, y_new)):
        if inputs is X or _rows("X_new", X_new, y_new, least=0):
            costs.check(inputs, targets)

    def objective(vector: Array) -> Array:
        value = namespace(vector).mean(costs(vector, X, y))
        return value + 0.5 * (l2 + damping) * namespace(vector).sum(vector * vector)

    def of_row(vector: Array, row: Array) -> Array:
        alone = tree.map(lambda a: namespace(a).expand_dims(a, axis=0), row)
        return namespace(vector).sum(costs(vector, *alone))

    slopes = vmap(lambda row: grad(of_row)(vector, row))((X_new, y_new))
    dense = solver == "dense" or (solver == "auto" and vector.shape[0] <= _DENSE)
    if dense:
        solved = _by_matrix(objective, vector, slopes, damping)
    else:
        solved = _by_products(objective, vector, slopes, steps, tolerance)
    # A product with the gradients of all training rows is one derivative along each solution.
    return vmap(lambda way: jvp(lambda v: costs(v, X, y), (vector,), (way,))[1])(solved) / count


class _Costs:
    """The loss of each row as a function of the parameters in one vector."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.leaves, self.structure = tree.flatten(model.params)
        xp = namespace(*self.leaves)
        self.vector = xp.concat([xp.reshape(leaf, (-1,)) for leaf in self.leaves])

    def __call__(self, vector: Array, X: Any, y: Array) -> Array:
        """(rows,)"""
        leaves, start = [], 0
        for leaf in self.leaves:
            stop = start + prod(leaf.shape)
            part = vector[start:stop]
            leaves.append(namespace(part).reshape(part, tuple(leaf.shape)))
            start = stop
        output, loss = self._output(self.structure.unflatten(leaves), X), self.model.loss
        loss.check_shapes(output.shape, y.shape)
        values = loss.values(output, y)
        xp = namespace(values)
        return xp.mean(xp.reshape(values, (values.shape[0], -1)), axis=1)

    def _output(self, params: Any, X: Any) -> Array:
        inputs = X if type(X) is tuple else (X,)
        return run(self.model.net, params, self.model.state, *inputs).output

    def check(self, X: Any, y: Array) -> None:
        """Let the loss check targets as it does before training."""
        first = tree.map(lambda a: a[:1, ...], X)
        if hasattr(self.model.loss, "check"):
            self.model.loss.check(self._output(self.model.params, first), y)


def _rows(name: str, X: Any, y: Array, least: int) -> int:
    """The number of these rows; ValueError unless they are finite, and y has as many."""
    arrays = [*tree.leaves(X), y]
    if not all(getattr(a, "ndim", 0) and hasattr(a, "dtype") for a in arrays):
        raise ValueError(
            f"influence: {name}: expected arrays of rows, got {type(X).__name__} and "
            f"{type(y).__name__}. To fix it: give model.prepared(X, y) where the model has a "
            "preparation, else place them with backend.asarray"
        )
    counts = [int(a.shape[0]) for a in arrays]
    if len(set(counts)) != 1 or counts[0] < least:
        raise ValueError(
            f"influence: {name}: expected {least} rows or more, and as many targets, got "
            f"{', '.join(map(str, counts))}. To fix it: give the targets of the same rows"
        )
    for array in arrays:
        xp = namespace(array)
        floats = xp.isdtype(array.dtype, ("real floating", "complex floating"))
        if floats and not _holds(xp.all(xp.isfinite(array))):
            raise ValueError(
                f"influence: {name}: expected finite numbers, got NaN or infinity. To fix it: "
                "leave those rows out"
            )
    return counts[0]


def _by_matrix(
    objective: Callable[[Array], Array], vector: Array, slopes: Array, damping: float
) -> Array:
    """The solution for each slope, by the eigenvalues of the Hessian: (new rows, parameters).

    damping: what the objective has of it.
    """
    size = int(vector.shape[0])
    if (need := 3 * 8 * size * size) > _MOST:
        raise ValueError(
            f"influence: expected {int((_MOST / 24) ** 0.5):,} parameters at most, whose matrices "
            f"fit into 2 GiB, got {size:,}, which would take {need / 2**30:,.1f} GiB. To fix it: "
            'give solver="cg"'
        )
    xp, matrix = namespace(vector), hessian(objective)(vector)
    values, vectors = xp.linalg.eigh(0.5 * (matrix + xp.matrix_transpose(matrix)))
    ends = backend_of(values).to_host(values[:: size - 1] if size > 1 else values).tolist()
    least = size * float(xp.finfo(values.dtype).eps) * abs(ends[-1])
    if ends[0] <= least:
        got = f"got one whose smallest eigenvalue is {ends[0]:.3g}"
        raise _indefinite(got, damping + least - ends[0])
    return xp.matmul(xp.matmul(slopes, vectors) / values, xp.matrix_transpose(vectors))


def _by_products(
    objective: Callable[[Array], Array],
    vector: Array,
    slopes: Array,
    steps: int,
    tolerance: float,
) -> Array:
    """The solution for each slope, by conjugate gradients: (new rows, parameters).

    All slopes go on together, each with its own lengths, until the last one is there. Source:
    Hestenes and Stiefel 1952.
    """
    xp = namespace(vector)
    products = vmap(lambda way: jvp(grad(objective), (vector,), (way,))[1])
    solved, residual, way = xp.zeros_like(slopes), slopes, slopes
    square = xp.vecdot(residual, residual)
    floor = tolerance**2 * square
    for _ in range(steps):
        going = xp.logical_not(square <= floor)  # NaN is not there
        if not _holds(xp.any(going)):
            return solved
        curved = products(way)
        curvature = xp.vecdot(way, curved)
        if _holds(xp.any(xp.logical_and(going, curvature <= 0))):
            raise _indefinite("got one of negative curvature", None)
        none = xp.zeros_like(square)
        length = xp.where(going, square / xp.where(going, curvature, none + 1.0), none)
        solved = solved + xp.expand_dims(length, axis=1) * way
        residual = residual - xp.expand_dims(length, axis=1) * curved
        new = xp.vecdot(residual, residual)
        share = xp.where(going, new / xp.where(going, square, none + 1.0), none)
        way, square = residual + xp.expand_dims(share, axis=1) * way, new
    if not _holds(xp.all(square <= floor)):
        off = xp.max(xp.sqrt(square / xp.where(floor > 0, floor, floor + 1.0))) * tolerance
        off = float(backend_of(off).to_host(off))
        raise ValueError(
            f"influence: expected conjugate gradients to get below the tolerance {tolerance:g} in "
            f"{steps} steps, got to {off:.2g} of the gradient. To fix it: give more steps=, or a "
            "damping=, which makes the problem easier"
        )
    return solved


def _holds(condition: Array) -> bool:
    return bool(backend_of(condition).to_host(condition))


def _indefinite(got: str, beyond: float | None) -> ValueError:
    least = "of 0.01 or more" if beyond is None else f"above {beyond:.2g}"
    return ValueError(
        f"influence: expected a positive definite Hessian, as at a minimum, {got}. To fix it: "
        f"train on, to where the loss falls no more, or give a damping= {least}"
    )


def _check(loss: Any, l2: Any, damping: Any, solver: Any, steps: Any, tolerance: Any) -> None:
    """Errors before any work."""
    if not hasattr(loss, "values") or not loss.by_row or getattr(loss, "class_weight", None):
        raise ValueError(
            "influence: expected a model whose loss is the mean of its rows', without "
            f"class_weight, got {label(loss)}. To fix it: train with a loss of tinynn.losses"
        )
    for name, number in (("l2", l2), ("damping", damping)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0:
            raise ValueError(f"influence: {name}: expected a number of 0 or more, got {number!r}")
    if solver not in ("auto", "dense", "cg"):
        raise ValueError(f'influence: solver: expected "auto", "dense" or "cg", got {solver!r}')
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or steps < 1:
        raise ValueError(f"influence: steps: expected a whole number of 1 or more, got {steps!r}")
    if not isinstance(tolerance, int | float) or not 0.0 < tolerance < 1.0:
        raise ValueError(
            f"influence: tolerance: expected a number between 0 and 1, got {tolerance!r}"
        )
