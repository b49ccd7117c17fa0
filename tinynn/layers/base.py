"""Layer: hyperparameters and one method. Parameters and state live beside it, in nested dicts."""

from typing import Any, TypeAlias

from tinynn.config import Configured, require
from tinynn.functional.errors import ShapeError
from tinynn.layers.forward import create, run
from tinynn.layers.scope import Array, Scope, Tree

Params: TypeAlias = dict[str, Any]
State: TypeAlias = dict[str, Any]


class Layer(Configured):
    """A frozen dataclass of hyperparameters with one method, `forward`.

    `forward(scope, x)` asks the scope for its parameters and state where it uses them, and calls
    its children through it, in training and in inference. Outside, everything is pure:

    >>> import numpy as np
    >>> from tinynn.layers import BatchNorm, Linear, Sequential
    >>> net, x = Sequential(Linear(2), BatchNorm()), np.ones((3, 4))
    >>> params, state = net.init(0, x)
    >>> y, state = net.apply(params, state, x, training=True)
    >>> y.shape, Linear(2)(params["0"], x).shape
    ((3, 2), (3, 2))
    """

    def forward(self, scope: Scope, *inputs: Tree) -> Tree:
        """The output for these inputs; written by each layer."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(self, scope, x)")

    def init(self, key: Array | int, *inputs: Tree, dtype: Any = None) -> tuple[Params, State]:
        """New parameters and state, from inputs like those to come.

        Parameters
        ----------
        key
            (2,) int32 of backends.random, or an int seed.
        inputs
            Arrays, (batch, ...), or trees of them; their widths, library and device count.
        dtype
            Of the parameters; None is the floating dtype of the inputs, else the default.

        Returns
        -------
        (params, state)
            Nested dicts of arrays, by the names of layers and parameters.
        """
        return create(self, key, *inputs, dtype=dtype)

    def __call__(self, params: Params, *inputs: Tree) -> Tree:
        """The output in inference, of a network without state."""
        return run(self, params, {}, *inputs).output

    def apply(
        self,
        params: Params,
        state: State,
        *inputs: Tree,
        key: Array | int | None = None,
        training: bool = False,
        first_row: int = 0,
        compute_dtype: Any = None,
    ) -> tuple[Tree, State]:
        """(output, new state). Nothing is changed in place.

        Parameters
        ----------
        params, state
            As `init` makes them.
        inputs
            Arrays, (batch, ...), or trees of them.
        key
            What random numbers are drawn with; None if no layer draws.
        training
            Whether layers act as in training.
        first_row
            The number of the first row in the whole batch, by which draws are counted.
        compute_dtype
            What layers compute in, "bfloat16" for one; the parameters and the output
            keep the dtype of the parameters. None computes in that.

        Examples
        --------
        >>> import numpy as np
        >>> from tinynn.layers import Linear
        >>> net, x = Linear(1), np.asarray([[1.0]])
        >>> net.apply(*net.init(0, x), x, compute_dtype="float16")[0].dtype
        dtype('float64')
        """
        out = run(
            self, params, state, *inputs, key=key, training=training, first_row=first_row,
            compute_dtype=compute_dtype,
        )  # fmt: skip
        return out.output, out.state


def require_layer(owner: Layer, name: str) -> None:
    """ValueError unless the setting of this name is a layer or a function."""
    expected = "a layer or a function, such as Linear(3)"
    require(owner, name, lambda f: callable(f) and not isinstance(f, type), expected)


def require_array(layer: Layer, x: Array, shape: str = "") -> None:
    """ShapeError for what is no array, such as the outputs of `Parallel`."""
    if not hasattr(x, "ndim"):
        raise ShapeError(
            f"{layer}: expected an array{shape}, got {type(x).__name__}. To fix it: "
            "pick the input that this layer is for in a layer of your own"
        )


def features(layer: Layer, x: Array) -> int:
    """The width of x: (batch, ..., features). Raises ShapeError."""
    require_array(layer, x, " of shape (batch, features)")
    if x.ndim < 2:
        got = "(batch)" if x.ndim else "()"
        raise ShapeError(
            f"{layer}: expected input of shape (batch, features), got {got}. To fix "
            "it: give one row a sample: xp.reshape(x, (-1, 1)) for samples of one number each"
        )
    return int(x.shape[-1])
