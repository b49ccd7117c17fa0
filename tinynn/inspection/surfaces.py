"""Surfaces over two numbers: a network's answers over two inputs, its loss over two directions."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from backends import random
from tinynn import tree
from tinynn.layers import run
from tinynn.trace import backend_of, namespace
from tinynn.transforms import vmap

Array: TypeAlias = Any


class Surface(NamedTuple):
    """Numbers over a grid.

    Attributes
    ----------
    x : (columns,)
        Places of the first axis.
    y : (rows,)
        Places of the second.
    values : (rows, columns, ...)
        What is there.
    """

    x: Array
    y: Array
    values: Array


def decision_boundary(
    model: Any,
    X: Array,
    *,
    columns: tuple[int, int] | None = None,
    resolution: int = 60,
    answer: Callable[[Array], Array] | None = None,
) -> Surface:
    """A model's answers over the plane of two inputs, a tenth beyond the rows on each side.

    Parameters
    ----------
    model
        A `Model`.
    X : (rows, features)
        Rows that the plane is to hold.
    columns
        The numbers of the two inputs that vary; the others are as they are on average. None where
        there are two.
    resolution
        Places of each axis.
    answer
        Of X, (places, features); None is `model.outputs`. `model.predict_proba` suits classes.

    Raises
    ------
    ValueError
        X has not two columns, and `columns` does not say which; or it has no such columns.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> model = tinynn.Model(Linear(1, bias=False), {"weight": np.ones((2, 1))})
    >>> decision_boundary(model, np.eye(2), resolution=3).values[..., 0].round(2).tolist()
    [[-0.2, 0.4, 1.0], [0.4, 1.0, 1.6], [1.0, 1.6, 2.2]]
    """
    x, y, plane = plane_of(X, columns, resolution)
    found = (answer or model.outputs)(plane)
    shape = (resolution, resolution, *found.shape[1:])
    return Surface(x, y, namespace(found).reshape(found, shape))


def plane_of(X: Array, columns: Any, resolution: int) -> tuple[Array, Array, Array]:
    """The places of two axes, and rows of X for all pairs of them: (places, features)."""
    shape = tuple(getattr(X, "shape", ()))
    width = shape[1] if len(shape) == 2 else 0
    chosen = (0, 1) if columns is None and width == 2 else columns
    known = chosen is not None and all(each in range(width) for each in chosen)
    if not known or len(chosen) != 2 or len(set(chosen)) != 2 or not shape[0]:
        asked = "" if columns is None else f" and columns={columns!r}"
        got = shape if hasattr(X, "shape") else f"a {type(X).__name__}"
        raise ValueError(
            "decision_boundary: X: expected an array of the shape (rows, 2), or columns= with two "
            f"of its numbers, and a row or more, got {got}{asked}. To fix it: give "
            "columns=(0, 1), or take partial_dependence, which looks at one input"
        )
    chosen = tuple(int(each) for each in chosen)
    xp = namespace(X)
    if xp.isdtype(X.dtype, "integral"):  # places would be cut to whole numbers
        X = xp.astype(X, backend_of(X).default_float)
    low, high = xp.min(X, axis=0), xp.max(X, axis=0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    steps = xp.arange(resolution, dtype=X.dtype, device=X.device) / max(1, resolution - 1)
    x, y = (low[axis] + (high[axis] - low[axis]) * steps for axis in chosen)
    across, upwards = (xp.reshape(each, (-1,)) for each in xp.meshgrid(x, y))
    middle = xp.mean(X, axis=0)
    rest = [xp.zeros_like(across) + middle[axis] for axis in range(width)]
    rest[chosen[0]], rest[chosen[1]] = across, upwards
    return x, y, xp.stack(rest, axis=1)


def loss_landscape(
    model: Any,
    X: Any,
    y: Array,
    *,
    span: float = 1.0,
    resolution: int = 21,
    seed: int = 0,
) -> Surface:
    """The loss around the trained parameters, over two random directions.

    Each column of a weight's direction has the norm of that column of the weight, and biases stay,
    so that pictures of networks of other scales can be compared.

    Parameters
    ----------
    model
        A `Model` with a loss.
    X, y
        Arrays on its backend, as the network and the loss take them.
    span
        How far to go in each direction: 1 is as far as from the weights to 0.
    resolution
        Places of each axis; the trained parameters are in the middle of an odd number.
    seed
        Of the directions, the same on every library.

    References
    ----------
    Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> x = np.eye(2)
    >>> y = x @ np.asarray([[2.0], [3.0]])
    >>> model = tinynn.fit(Linear(1), x, y, optimizer="lbfgs", batch_size=None)
    >>> found = loss_landscape(model, x, y, resolution=5)
    >>> bool(found.values[2, 2] == found.values.min())
    True
    """
    leaves, structure = tree.flatten(model.params)
    xp, key = namespace(*leaves), random.key(seed, backend_of(leaves[0]))
    directions = [
        [_direction(leaf, random.fold_in(random.fold_in(key, way), place))
         for place, leaf in enumerate(leaves)]
        for way in (0, 1)
    ]  # fmt: skip
    like = leaves[0]
    steps = xp.arange(resolution, dtype=like.dtype, device=like.device)
    steps = span * (2.0 * steps / max(1, resolution - 1) - 1.0)

    def cost(a: Array, b: Array) -> Array:
        moved = []
        for leaf, first, second in zip(leaves, *directions, strict=True):
            space = namespace(leaf, a)
            step = space.add(space.multiply(a, first), space.multiply(b, second))
            moved.append(space.add(leaf, step))
        inputs = X if type(X) is tuple else (X,)
        output = run(model.net, structure.unflatten(moved), model.state, *inputs).output
        return model.loss(output, y)

    rows = [vmap(cost, in_axes=(0, None))(steps, steps[i]) for i in range(resolution)]
    return Surface(steps, steps, xp.stack(rows))


def _direction(leaf: Array, key: Array) -> Array:
    """A random direction, whose columns are as long as those of the parameter; 0 for a bias."""
    xp = namespace(leaf)
    if leaf.ndim < 2:
        return xp.zeros_like(leaf)
    drawn = random.normal(key, tuple(leaf.shape), leaf.dtype)
    axes = tuple(range(leaf.ndim - 1))
    lengths = [xp.sqrt(xp.sum(each * each, axis=axes, keepdims=True)) for each in (leaf, drawn)]
    return drawn * (lengths[0] / lengths[1])
