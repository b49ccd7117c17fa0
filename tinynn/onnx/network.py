"""Networks that are no chain: calls by name, each of what earlier ones gave."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn.functional.errors import ShapeError
from tinynn.initializers import zeros
from tinynn.layers import Layer, Scope
from tinynn.trace import namespace
from tinynn.transforms.scan import scan


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
class Scan:
    """Functions that carry values through the entries of arrays, one entry after the other.

    `tinynn.from_onnx` reads ONNX's operator of that name as such.

    Parameters
    ----------
    inputs
        Names inside: for what is the same in every step, for the values that are carried, and for
        the entries of the arrays that are gone through.
    calls
        Those of one step, in order, of functions.
    outputs
        The names of their results: the values carried on, and the entries of the arrays that are
        made.
    carries
        The number of values that are carried.
    axes
        Of the arrays that are gone through, and of those that are made, the axis of the entries.
    reverse
        The same for arrays whose entries go from the last to the first.

    Examples
    --------
    >>> import numpy as np
    >>> from operator import add
    >>> call = Call("sum", add, ("total", "entry"))
    >>> names, results = ("total", "entry"), ("sum", "sum")
    >>> sums_of = Scan(names, (call,), results, carries=1, axes=((0,), (0,)),
    ...                reverse=((False,), (False,)))
    >>> total, sums = sums_of(np.zeros(()), np.asarray([1.0, 2.0, 3.0]))
    >>> print(total, sums)
    6.0 [1. 3. 6.]
    """

    inputs: tuple[str, ...]
    calls: tuple[Call, ...]
    outputs: tuple[str, ...]
    _: KW_ONLY
    carries: int
    axes: tuple[tuple[int, ...], tuple[int, ...]]
    reverse: tuple[tuple[bool, ...], tuple[bool, ...]]

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        """The last values that were carried, and the arrays that were made.

        Parameters
        ----------
        values
            What is the same in every step, the first values to carry, and the arrays to go through.
        """
        entries = len(self.axes[0])
        fixed = len(self.inputs) - self.carries - entries
        arrays = [
            _turned(namespace(x).moveaxis(x, axis, 0), back)
            for x, axis, back in zip(
                values[fixed + self.carries :], self.axes[0], self.reverse[0], strict=True
            )
        ]

        def step(carried: list[Any], given: list[Any]) -> tuple[list[Any], list[Any]]:
            """One step: the values carried on, and what is kept of it."""
            known = [*values[:fixed], *carried, *given]
            found = dict(zip(self.inputs, known, strict=True))
            for call in self.calls:
                args = [found[a] if isinstance(a, str) else a for a in call.args]
                found[call.name] = call.layer(*args)
            results = [found[name] for name in self.outputs]
            return results[: self.carries], results[self.carries :]

        last, made = scan(step, list(values[fixed : fixed + self.carries]), arrays)
        kept = [
            namespace(y).moveaxis(_turned(y, back), 0, axis)
            for y, axis, back in zip(made, self.axes[1], self.reverse[1], strict=True)
        ]
        return (*last, *kept)


def _turned(x: Any, back: bool) -> Any:
    """The entries of the first axis, from the last to the first if `back` says so."""
    return namespace(x).flip(x, axis=0) if back else x


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
