"""Networks that are no chain: calls by name, each of what earlier ones gave."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn.functional.errors import ShapeError
from tinynn.initializers import zeros
from tinynn.layers import Layer, Scope
from tinynn.trace import namespace


@dataclass(frozen=True)
class Call:
    """One call of a `GraphNetwork`.

    Parameters
    ----------
    name
        That of the result.
    layer
        A layer or a plain function.
    args
        The names of what it takes, or numbers.
    child
        The name of the child whose parameters it has; "" is the name of the result. A child that is
        called twice shares its parameters.
    """

    name: str
    layer: Any
    args: tuple[Any, ...]
    _: KW_ONLY
    child: str = ""


@dataclass(frozen=True)
class GraphNetwork(Layer):
    """Layers and functions, each of which takes the results of any before it.

    `tinynn.from_onnx` reads networks with branches as such.

    Parameters
    ----------
    inputs
        Names for the inputs, by place.
    calls
        In order of execution.
    output
        The name of the result.
    arrays
        Parameters of the network itself, which calls take by name: pairs of a name and a shape.
    buffers
        The same of arrays that are not trained, and are kept in the state: triples of a name, a
        shape and a dtype.

    Notes
    -----
    Parameters and state: those of the children by their names, and the network's own arrays, which
    `init` makes zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from operator import add
    >>> from tinynn.layers import Linear
    >>> calls = Call("hidden", Linear(3), ("x",)), Call("sum", add, ("hidden", "x"))
    >>> net, x = GraphNetwork(("x",), calls, "sum"), np.ones((2, 3))
    >>> params, state = net.init(0, x)
    >>> list(params), net(params, x).shape
    (['hidden'], (2, 3))
    """

    inputs: tuple[str, ...]
    calls: tuple[Call, ...]
    output: str
    _: KW_ONLY
    arrays: tuple[tuple[str, tuple[int, ...]], ...] = ()
    buffers: tuple[tuple[str, tuple[int, ...], str], ...] = ()

    def __repr__(self) -> str:
        return f"GraphNetwork({len(self.calls)} calls)"

    def forward(self, scope: Scope, *inputs: Any) -> Any:
        if len(inputs) == 1 and isinstance(inputs[0], tuple | list):
            inputs = tuple(inputs[0])
        if len(inputs) != len(self.inputs):
            raise ShapeError(
                f"{self}: expected {len(self.inputs)} inputs ({', '.join(self.inputs)}), got "
                f"{len(inputs)}. To fix it: give a tuple of them"
            )
        values = dict(zip(self.inputs, inputs, strict=True))
        for name, shape in self.arrays:
            values[name] = scope.param(name, zeros, shape)
        for name, shape, dtype in self.buffers:
            values[name] = scope.state(name, zeros, shape, dtype).value
        for call in self.calls:
            args = [values[a] if isinstance(a, str) else a for a in call.args]
            values[call.name] = scope(call.child or call.name, call.layer, *args)
        return values[self.output]


@dataclass(frozen=True)
class ChannelsFirst(Layer):
    """A layer whose features are the last axis, for arrays that have them in the second.

    Parameters
    ----------
    layer
        `BatchNorm`, for one.

    Notes
    -----
    The input is (batch, features, ...), and so is the output. Parameters and state: those of the
    layer, under "layer".

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import BatchNorm
    >>> net, x = ChannelsFirst(BatchNorm()), np.ones((2, 3, 4, 4))
    >>> net.init(0, x)[0]["layer"]["weight"].shape
    (3,)
    """

    layer: Any

    def forward(self, scope: Scope, x: Any) -> Any:
        x = namespace(x).moveaxis(x, 1, -1)
        y = scope("layer", self.layer, x)
        return namespace(y).moveaxis(y, -1, 1)
