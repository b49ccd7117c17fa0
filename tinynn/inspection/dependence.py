"""Dependence of answers and errors on each feature, by changing it for all rows."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from backends import random
from tinynn.trace import backend_of, namespace

Array: TypeAlias = Any


class PartialDependence(NamedTuple):
    """A model's predictions as a function of one feature.

    Attributes
    ----------
    grid : (places,)
        The values of the feature.
    average : (places, ...)
        The mean prediction over the rows, each with this value in place of its own.
    individual : (places, rows, ...)
        That of each row: individual conditional expectations.
    """

    grid: Array
    average: Array
    individual: Array


def partial_dependence(
    model: Any,
    X: Array,
    feature: int,
    grid: Any = None,
    *,
    resolution: int = 100,
    answer: Callable[[Array], Array] | None = None,
) -> PartialDependence:
    """The mean prediction over the rows as a function of one feature.

    Parameters
    ----------
    model
        A `Model`.
    X : (rows, features)
        An array on the model's backend.
    feature
        The number of the column.
    grid
        The values that it is given; None takes `resolution` of them, of equal distance, from the
        0.05 to the 0.95 quantile of the column, as scikit-learn does.
    resolution
        Places of that grid.
    answer
        What is averaged, of X; None is `model.predict`, and `model.predict_proba` suits classes.

    Raises
    ------
    ValueError
        There is no such column.

    References
    ----------
    Friedman 2001, "Greedy Function Approximation"; Goldstein et al. 2015, "Peeking Inside the Black
    Box".

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> model = tinynn.Model(Linear(1, bias=False), {"weight": np.asarray([[2.0], [3.0]])})
    >>> partial_dependence(model, np.ones((4, 2)), 0, [0.0, 1.0]).average.tolist()
    [[3.0], [5.0]]
    """
    _check_column("partial_dependence", X, feature)
    backend, xp = backend_of(X), namespace(X)
    whole = grid is not None and xp.isdtype(backend.asarray(grid).dtype, "integral")
    if xp.isdtype(X.dtype, "integral") and not whole:  # places would be cut to whole numbers
        X = xp.astype(X, backend.default_float)
    column = X[:, feature]
    if grid is None:
        low, high = (_quantile(xp.sort(column), share) for share in (0.05, 0.95))
        steps = xp.arange(resolution, dtype=X.dtype, device=X.device) / max(1, resolution - 1)
        places = low + (high - low) * steps
    else:
        places = backend.asarray(grid, dtype=X.dtype)
    answers = [
        (answer or model.predict)(
            _with_column(X, feature, xp.broadcast_to(places[i], column.shape))
        )
        for i in range(places.shape[0])
    ]
    each = xp.stack(answers)
    return PartialDependence(places, xp.mean(each, axis=1), each)


def permutation_importance(
    cost: Callable[[Array], Array], X: Array, *, repeats: int = 5, seed: int = 0
) -> Array:
    """The rise of an error when one column is shuffled among the rows: (features, repeats).

    Parameters
    ----------
    cost
        The error of the rows X, a 0-d array: `lambda X: loss(model.outputs(X), y)`.
    X : (rows, features)
        An array, of rows that training did not see, best.
    repeats
        Shuffles of each column.
    seed
        Of the shuffles, which are the same on every library.

    Raises
    ------
    ValueError
        X is no table, or there is no repeat.

    References
    ----------
    Breiman 2001, "Random Forests"; Fisher, Rudin and Dominici 2019, "All Models are Wrong, but Many
    are Useful".

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> y = x[:, 0]
    >>> found = permutation_importance(lambda x: ((x[:, 0] - y) ** 2).mean(), x)
    >>> bool(found[0].min() > 1.0), found[1].tolist()
    (True, [0.0, 0.0, 0.0, 0.0, 0.0])
    """
    _check_column("permutation_importance", X, 0)
    if isinstance(repeats, bool) or not hasattr(repeats, "__index__") or repeats < 1:
        raise ValueError(
            "permutation_importance: repeats: expected a whole number of 1 or more, got "
            f"{repeats!r}"
        )
    xp, key = namespace(X), random.key(seed, backend_of(X))
    before, rows = cost(X), []
    for feature in range(X.shape[1]):
        column = random.fold_in(key, feature)
        shuffled = [
            xp.take(X[:, feature], random.permutation(random.fold_in(column, k), X.shape[0]))
            for k in range(repeats)
        ]
        rows.append(xp.stack([cost(_with_column(X, feature, new)) - before for new in shuffled]))
    return xp.stack(rows)


def _with_column(X: Array, feature: int, column: Array) -> Array:
    xp = namespace(X)
    width = X.shape[1]
    numbers = xp.arange(width, device=X.device)
    return xp.where(numbers == feature % width, xp.expand_dims(column, axis=1), X)


def _quantile(ordered: Array, share: float) -> Array:
    """The quantile of sorted numbers: Cunnane's, which scikit-learn's grids are made by."""
    count = ordered.shape[0]
    place = share * count + 0.4 + 0.2 * share
    low = min(max(int(place), 1), max(count - 1, 1))
    rest = min(max(place - low, 0.0), 1.0)
    return (1.0 - rest) * ordered[low - 1] + rest * ordered[min(low, count - 1)]


def _check_column(where: str, X: Array, feature: int) -> None:
    width = X.shape[1] if X.ndim == 2 else 0
    if not -width <= feature < width:
        raise ValueError(
            f"{where}: expected X of shape (rows, features) and the number of a column, got the "
            f"shape {tuple(X.shape)} and {feature}"
        )
