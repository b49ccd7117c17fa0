"""Surfaces over two numbers: a network's answers over two inputs, its loss over two directions."""

import os
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from backends import random
from tinynn import tree
from tinynn.config import Configured, require_count
from tinynn.inspection.pictures import heatmap
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
    resolution: int = 60,
    answer: Callable[[Array], Array] | None = None,
) -> Surface:
    """A model's answers over the plane of its two inputs, a tenth beyond the rows on each side.

    Parameters
    ----------
    model
        A `Model` of two inputs.
    X : (rows, 2)
        Rows that the plane is to hold.
    resolution
        Places of each axis.
    answer
        Of X, (places, 2); None is `model.outputs`. `model.predict_proba` suits classes.

    Raises
    ------
    ValueError
        X has not two columns.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> model = tinynn.Model(Linear(1, bias=False), {"weight": np.ones((2, 1))})
    >>> decision_boundary(model, np.eye(2), resolution=3).values[..., 0].round(2).tolist()
    [[-0.2, 0.4, 1.0], [0.4, 1.0, 1.6], [1.0, 1.6, 2.2]]
    """
    if X.ndim != 2 or X.shape[1] != 2:
        raise ValueError(
            f"decision_boundary: X: expected the shape (rows, 2), got {tuple(X.shape)}. To fix it: "
            "for networks of more inputs take partial_dependence"
        )
    xp = namespace(X)
    low, high = xp.min(X, axis=0), xp.max(X, axis=0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    steps = xp.arange(resolution, dtype=X.dtype, device=X.device) / max(1, resolution - 1)
    x, y = (low[axis] + (high[axis] - low[axis]) * steps for axis in (0, 1))
    columns, rows = xp.meshgrid(x, y)
    plane = xp.stack([xp.reshape(columns, (-1,)), xp.reshape(rows, (-1,))], axis=1)
    found = (answer or model.outputs)(plane)
    return Surface(x, y, xp.reshape(found, (resolution, resolution, *found.shape[1:])))


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


@dataclass
class DecisionBoundary(Configured):
    """A callback that draws the answers over two inputs into an SVG file while a network learns.

    A page or an editor that shows the file follows the training.

    Parameters
    ----------
    path
        The file, replaced each time.
    model
        A function of the run that gives a model, or what has `outputs`:
        `lambda run: tinynn.Model(net, run.params, loss=loss)`.
    X : (rows, 2)
        The rows, which are drawn as points.
    labels
        (rows,) numbers, 0 or 1 or so, that the points are coloured by; None draws them alike.
    every
        Epochs between two pictures.
    resolution
        Places of each axis.
    """

    path: str | os.PathLike[str]
    model: Callable[[Any], Any]
    X: Any
    labels: Any = None
    _: KW_ONLY
    every: int = 1
    resolution: int = 40

    def __post_init__(self) -> None:
        require_count(self, "every")
        require_count(self, "resolution")

    def start(self, run: Any) -> None:
        """FileNotFoundError where the folder of the file is missing."""
        folder = Path(self.path).absolute().parent
        if not folder.is_dir():
            raise FileNotFoundError(
                f"DecisionBoundary: path: expected a folder that exists, got {folder}. To fix it: "
                "make it first"
            )

    def __call__(self, run: Any) -> None:
        """Draw the picture of this epoch, if it is one's turn."""
        if run.epoch % self.every and run.epoch != run.epochs:
            return
        found = decision_boundary(self.model(run), self.X, resolution=self.resolution)
        title = f"epoch {run.epoch}"
        text = heatmap(found, points=self.X, labels=self.labels, title=title)
        path = Path(self.path)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)  # whoever reads it meanwhile sees the old picture, whole
