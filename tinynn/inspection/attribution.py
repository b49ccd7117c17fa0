"""Attribution: derivatives of an output by each number of its input."""

from collections.abc import Callable
from typing import Any, TypeAlias

from tinynn.layers import run
from tinynn.trace import backend_of, namespace
from tinynn.transforms import grad

Array: TypeAlias = Any


def input_gradients(model: Any, X: Array, output: int = 0) -> Array:
    """The derivatives of one output of each row by the row's inputs: a saliency map.

    Parameters
    ----------
    model
        A `Model`, or whatever has its `net`, `params` and `state`.
    X : (samples, ...)
        An array of floats, on the model's backend.
    output
        The number of the output: a class, or 0 where there is one.

    Returns
    -------
    array
        Of the shape of X.

    Raises
    ------
    ValueError
        There is no such output.

    References
    ----------
    Simonyan, Vedaldi and Zisserman 2014, arXiv:1312.6034.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> model = tinynn.Model(Linear(1, bias=False), {"weight": np.asarray([[2.0], [3.0]])})
    >>> input_gradients(model, np.ones((1, 2))).tolist()
    [[2.0, 3.0]]
    """
    return grad(_total(model, X, output))(X)


def integrated_gradients(
    model: Any, X: Array, baseline: Array | None = None, output: int = 0, steps: int = 32
) -> Array:
    """The share of each number of the input in what an output is above that of a baseline.

    The derivatives are averaged on the way from the baseline to the row, and multiplied by their
    distance, so that the shares of a row sum to f(x) - f(baseline): completeness. The average is by
    Gauss and Legendre, exact for outputs that are polynomials of degree 2 * steps along the way;
    for smooth networks some dozens of steps are enough, for relu more.

    Parameters
    ----------
    model, X, output
        As `input_gradients` takes them.
    baseline
        An input, or one for each row, that says nothing; None is 0.
    steps
        Places on the way.

    Returns
    -------
    array
        Of the shape of X.

    Raises
    ------
    ValueError
        There is no such output, or no step.

    References
    ----------
    Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Lambda
    >>> model = tinynn.Model(Lambda(lambda x: x[:, :1] * x[:, 1:]), {})
    >>> integrated_gradients(model, np.asarray([[2.0, 3.0]])).round(6).tolist()
    [[3.0, 3.0]]
    """
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or steps < 1:
        raise ValueError(
            f"integrated_gradients: steps: expected a whole number of 1 or more, got {steps!r}"
        )
    xp = namespace(X)
    start = xp.zeros_like(X) if baseline is None else xp.broadcast_to(baseline, tuple(X.shape))
    derivative, way, total = grad(_total(model, X, output)), X - start, xp.zeros_like(X)
    for place, weight in _gauss_legendre(steps, X):
        total = total + weight * derivative(start + place * way)
    return way * total


def _total(model: Any, X: Array, output: int) -> Callable[[Array], Array]:
    """The sum of one output over the rows: each row's depends on that row alone."""
    width = run(model.net, model.params, model.state, X[:1, ...]).output.shape[-1]
    if not -width <= output < width:
        raise ValueError(
            f"input_gradients: output: expected a number from 0 to {width - 1}, as the network has "
            f"{width} outputs, got {output}"
        )

    def total(x: Array) -> Array:
        y = run(model.net, model.params, model.state, x).output
        return namespace(y).sum(y[..., output])

    return total


def _gauss_legendre(steps: int, X: Array) -> list[tuple[Any, Any]]:
    """Places between 0 and 1, and their weights: of the eigenvalues of Jacobi's matrix.

    Source: Golub and Welsch 1969, "Calculation of Gauss Quadrature Rules".
    """
    backend, xp = backend_of(X), namespace(X)
    beside = [k / (4.0 * k * k - 1.0) ** 0.5 for k in range(1, steps)]
    rows = [
        [beside[min(i, j)] if abs(i - j) == 1 else 0.0 for j in range(steps)] for i in range(steps)
    ]
    values, vectors = xp.linalg.eigh(backend.asarray(rows, dtype=X.dtype))
    return [(0.5 * (values[i] + 1.0), vectors[0, i] ** 2) for i in range(steps)]
