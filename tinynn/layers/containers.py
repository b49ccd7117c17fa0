"""Layers made of layers: one after another, beside each other, around their input."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

from tinynn.config import label, require
from tinynn.functional.errors import ShapeError
from tinynn.trace import namespace

from .base import Layer
from .inputs import is_floating
from .scope import Array, Scope, Tree

LayerLike: TypeAlias = Layer | Callable[[Array], Array]


def _checked(owner: str, layers: tuple[Any, ...], several: str) -> tuple[LayerLike, ...]:
    """The layers; TypeError for what is none. several: how to write a list of layers."""
    for index, layer in enumerate(layers):
        if isinstance(layer, type) or not callable(layer):
            hint = "Flatten() for a layer, relu for a function"
            raise TypeError(
                f"{owner}: expected layer {index} to be a layer or a function, "
                f"got {label(layer)} ({type(layer).__name__}); "
                f"write {several if isinstance(layer, list | tuple) else hint}"
            )
    return layers


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """Layers one after another; a plain function of one array is a layer too.

    Parameters
    ----------
    *layers
        Layers, and functions of one array.

    Notes
    -----
    The children are named "0", "1", ... by their place, so one layer that stands in two places is
    two children. Errors name the layer by its path: "layer 2, Linear(32): ...".

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.functional import relu
    >>> from tinynn.layers import Linear
    >>> net, x = Sequential(Linear(4), relu, Linear(2)), np.ones((3, 5))
    >>> params, state = net.init(0, x)
    >>> list(params), params["2"]["weight"].shape, net(params, x).shape
    (['0', '2'], (4, 2), (3, 2))
    """

    layers: tuple[LayerLike, ...]

    def __init__(self, *layers: LayerLike) -> None:
        object.__setattr__(self, "layers", _checked("Sequential", layers, "Sequential(*layers)"))

    def forward(self, scope: Scope, *inputs: Tree) -> Any:
        for index, layer in enumerate(self.layers):
            inputs = (scope(str(index), layer, *inputs),)
        return inputs[0] if len(inputs) == 1 else inputs


@dataclass(frozen=True, init=False)
class Parallel(Layer):
    """Layers beside each other: each is given the same inputs, and their outputs are a tuple.

    Parameters
    ----------
    *layers
        Layers, and functions.

    Notes
    -----
    The children are named "0", "1", ... by their place. `Concatenate` makes one array of the
    outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Concatenate, Linear, Sequential
    >>> net, x = Sequential(Parallel(Linear(2), Linear(3)), Concatenate()), np.ones((4, 5))
    >>> net(net.init(0, x)[0], x).shape
    (4, 5)
    """

    layers: tuple[LayerLike, ...]

    def __init__(self, *layers: LayerLike) -> None:
        object.__setattr__(self, "layers", _checked("Parallel", layers, "Parallel(*layers)"))

    def forward(self, scope: Scope, *inputs: Tree) -> tuple[Tree, ...]:
        return tuple(scope(str(i), layer, *inputs) for i, layer in enumerate(self.layers))


@dataclass(frozen=True)
class Concatenate(Layer):
    """Arrays one after another along an axis, as one array.

    Parameters
    ----------
    axis
        The axis, that of the features if it is not said; the other axes are as long in all.

    Notes
    -----
    The input is a tuple of arrays, or several inputs; integers beside floating-point numbers are
    converted to the dtype of the parameters. No parameters.

    Examples
    --------
    >>> import numpy as np
    >>> Concatenate()({}, np.ones((2, 3)), np.ones((2, 4))).shape
    (2, 7)
    """

    _: KW_ONLY
    axis: int = -1

    def __post_init__(self) -> None:
        require(self, "axis", lambda axis: isinstance(axis, int), "a whole number")

    def forward(self, scope: Scope, *inputs: Tree) -> Array:
        arrays = inputs[0] if len(inputs) == 1 else inputs
        if not isinstance(arrays, tuple | list) or not all(hasattr(a, "shape") for a in arrays):
            raise ShapeError(
                f"{self}: expected a tuple of arrays, got {type(arrays).__name__}. To fix it: put "
                "it behind Parallel, or give it several inputs"
            )
        if not all(-a.ndim <= self.axis < a.ndim for a in arrays):
            raise ShapeError(
                f"{self}: expected arrays with an axis {self.axis}, got shapes "
                f"{', '.join(str(tuple(a.shape)) for a in arrays)}. To fix it: choose another axis"
            )
        shapes = [list(a.shape) for a in arrays]
        for shape in shapes:
            shape[self.axis] = 0
        if any(shape != shapes[0] for shape in shapes):
            raise ShapeError(
                f"{self}: expected arrays that are alike but along axis {self.axis}, got shapes "
                f"{', '.join(str(tuple(a.shape)) for a in arrays)}. To fix it: make the others "
                "the same in the layers before"
            )
        if any(map(is_floating, arrays)):  # integers beside them would widen the result, or fail
            arrays = [x if is_floating(x) else scope.as_float(x) for x in arrays]
        return namespace(*arrays).concat(list(arrays), axis=self.axis)


@dataclass(frozen=True)
class Residual(Layer):
    """A layer's output, added to its input.

    Parameters
    ----------
    layer
        A layer or a function, whose output has the shape of the input, or of the shortcut's output.
    shortcut
        What is done to the input before the sum, such as a `Linear` of other width; None: nothing.

    Notes
    -----
    The children are named "layer" and "shortcut".

    References
    ----------
    He et al. 2015, arXiv:1512.03385.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.functional import relu
    >>> Residual(relu)({}, np.asarray([[-1.0, 2.0]])).tolist()
    [[-1.0, 4.0]]
    """

    layer: LayerLike
    _: KW_ONLY
    shortcut: LayerLike | None = None

    def __post_init__(self) -> None:
        given = (self.layer,) if self.shortcut is None else (self.layer, self.shortcut)
        _checked("Residual", given, "Residual(Sequential(*layers))")

    def forward(self, scope: Scope, x: Array) -> Array:
        y = scope("layer", self.layer, x)
        x = x if self.shortcut is None else scope("shortcut", self.shortcut, x)
        if tuple(x.shape) != tuple(y.shape):
            raise ShapeError(
                f"{self}: expected the layer to keep the shape {tuple(x.shape)}, got "
                f"{tuple(y.shape)}. To fix it: give a shortcut= of that shape, such as a Linear"
            )
        return namespace(x, y).add(scope.as_float(x), y)


class _Named:
    """A function under a name of the user's choice, by which it is written down and read again."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.__name__ = function, name

    def __call__(self, *inputs: Any) -> Any:
        return self.function(*inputs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((self.function, self.__name__))


@dataclass(frozen=True)
class Lambda(Layer):
    """A function as a layer that has a name.

    Parameters
    ----------
    function
        A function of the inputs, without parameters.
    name
        What it is called in errors, `explain` and files; None is the function's own name.

    Notes
    -----
    A plain function is a layer, too: `Sequential(Linear(4), relu)`. A name lets a `lambda` be
    written down: the file says the name alone, and `load(file, custom={name: function})` brings the
    function. Without one a model with a `lambda` cannot be saved (ValueError).

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import from_config, to_config
    >>> layer = Lambda(lambda x: x * x, name="squared")
    >>> layer({}, np.asarray([3.0])).tolist(), layer
    ([9.0], Lambda(squared))
    >>> description = to_config(layer)
    >>> from_config(description, custom={"squared": lambda x: x**2})
    Lambda(squared)
    """

    function: Callable[..., Any]
    _: KW_ONLY
    name: str | None = None

    def __post_init__(self) -> None:
        require(self, "function", lambda f: callable(f) and not isinstance(f, type), "a function")
        if self.name is not None:
            named = lambda name: isinstance(name, str) and name.isidentifier()  # noqa: E731
            require(self, "name", named, "a name, letters and digits")
            object.__setattr__(self, "function", _Named(self.function, self.name))

    def __repr__(self) -> str:
        return f"Lambda({label(self.function)})"

    def forward(self, scope: Scope, *inputs: Tree) -> Tree:
        return scope("function", self.function, *inputs)
