"""Recording: running a function once and keeping its calls as a graph.

A `Record` carries every call out, on real arrays, and writes it down: the function runs once, as
it always would, and the graph is what it did. Transformations inside the function (`grad`, `vmap`)
run above the recording, so their calls are recorded as well.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from inspect import Parameter, signature
from math import prod
from pathlib import Path
from types import FunctionType
from typing import Any

from backends.user_code import user_frame
from tinynn import tree
from tinynn.trace import (
    Effect,
    Function,
    Namespace,
    Traced,
    backend_of,
    example,
    namespace,
    plain,
    regrouped,
)
from tinynn.trace.scopes import Origin, scopes
from tinynn.transforms.base import Transformation, applied, name_of
from tinynn.transforms.batch import batch_size, leaves_with_axes
from tinynn.transforms.graph import ITEM, Constant, Graph, Input, Node, carry_out, is_known
from tinynn.transforms.symbolic import RecordingError, symbolic

_SIGNED = ("__signature__", "__wrapped__")
_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

# How many more rows than it was given a function is recorded with. Three points tell what grows in
# proportion to the batch from its square, and from its half rounded down.
MORE_ROWS = (0, 1, 3)

# Of arrays of so many elements and more a recording may keep one element, in the shape of all.
_LARGE = 1 << 12

# What libraries refuse to do with a singular matrix, as one of invented numbers may be.
_OF_REGULAR = frozenset({"linalg.cholesky", "linalg.inv", "linalg.solve"})


_SHAPED_BY_VALUES = frozenset(
    ["nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"]
)


class Record(Transformation):
    """Carries out every call on its arrays and writes it down.

    Args:
        name: what the user asked for, as errors say it.
        space: the namespace of the function's arguments.
        decompositions: functions to be decomposed, by name.
        sparing: of large results one element is kept, in the shape of all: a recording then takes
            no more memory than its largest call.
    """

    hides = True

    def __init__(
        self,
        name: str,
        space: Namespace,
        decompositions: Mapping[str, Callable[..., Any]],
        sparing: bool = False,
    ) -> None:
        super().__init__(name)
        self.space, self.decompositions, self.sparing = space, decompositions, sparing
        self.nodes: list[Node] = []
        self.decomposed: set[str] = set()
        self.outside: dict[int, Constant] = {}
        self.quiet, self.until_end = False, ExitStack()

    def process(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.open:
            self.require_open(function)
        if function.name in self.decompositions and is_known(function):
            self.decomposed.add(function.name)
            return self.decompositions[function.name](self.space, *args, **kwargs)
        if function.definition is not None:
            return function.definition(*args, **kwargs)
        # Of an array that another transformation follows, only an example is computed with.
        values = [
            a if type(a) is not Traced else a.value if a.trace is self else example(a) for a in args
        ]
        if self.sparing and function.effect is not Effect.NONE:
            raise _ValuesAreNeeded
        result = self.carried_out(function, values, kwargs)
        node = self.written(function, tuple([self.node(a) for a in args]), kwargs, result)
        return self.wrapped(result, node, function.space or self.space)

    def carried_out(self, function: Function, values: list[Any], kwargs: dict[str, Any]) -> Any:
        """The result of a call on values of this recording."""
        if scopes.supposed and function.name in _OF_REGULAR and is_known(function):
            self.invented(values)
            values[0] = _regular(values[0])
        traced = Traced in map(type, values)
        if function.space is not None and not traced:  # a library's own, which calls nothing else
            return self.result(function, values, kwargs)
        # This call is being recorded already; inside it no effect may hide.
        inside = _Inside(function) if function.effect is Effect.NONE else None
        around = scopes.recording, scopes.supposed
        scopes.recording, scopes.supposed = inside, True
        try:
            if function.example is None or traced:
                return self.result(function, values, kwargs)
            self.invented(values)
            return function.example(*values, **kwargs)
        finally:
            scopes.recording, scopes.supposed = around

    def result(self, function: Function, values: list[Any], kwargs: dict[str, Any]) -> Any:
        """The result of a call, or zeros like it where the library need not compute to tell."""
        arrays = [a for a in values if hasattr(a, "dtype")]
        if self.sparing and arrays and Traced not in map(type, values):
            make = backend_of(*arrays).example
            if make is not None:
                found = make(lambda *args: carry_out(function, args, kwargs), *values)
                if found is not None:
                    self.invented(arrays)
                    scopes.supposed = True
                    return found
        return carry_out(function, values, kwargs)

    def invented(self, values: list[Any]) -> None:
        """Do not warn from now on: numbers are not what they will be."""
        if not self.quiet:
            self.quiet = True
            self.until_end.enter_context(backend_of(*values).quiet())

    def node(self, value: Any) -> Any:
        """The node of a value in the graph."""
        if type(value) is Traced and value.trace is self:
            return value.slot
        if not hasattr(value, "dtype"):
            return value
        # Filed under the array itself, which the constant keeps alive: no other takes its id.
        array = plain(value)
        constant = self.outside.get(id(array))
        if constant is None:
            constant = Constant(None, (), {}, tuple(array.shape), array.dtype, value=array)
            self.outside[id(array)] = constant
        if value is not array:
            constant.wrappers.append(value)
        return constant

    def written(self, function: Any, args: Any, kwargs: Any, result: Any) -> Node:
        """The call, as the newest node."""
        shape, dtype = tuple(getattr(result, "shape", ())), getattr(result, "dtype", None)
        node = Node(function, args, kwargs, shape, dtype, self.origin())
        self.nodes.append(node)
        return node

    def wrapped(self, result: Any, node: Node, space: Any) -> Any:
        """The result, as the function that is recorded sees it."""
        if hasattr(result, "dtype"):
            value = self.spared(result) if self.sparing else result
            return Traced(value, self, node, space)
        if isinstance(result, tuple | list):
            items = []
            for index, value in enumerate(result):
                part = self.written(ITEM, (node,), {"index": index}, value)
                items.append(self.wrapped(value, part, space))
            return regrouped(result, items)
        if result is None:  # a call for its effect alone
            return None
        return Traced(result, self, node, space)

    def spared(self, result: Any) -> Any:
        """The first element of a large array of floats in the shape of all, in its memory alone."""
        if type(result) is Traced or prod(result.shape) < _LARGE:
            return result
        xp = self.space.xp
        if not xp.isdtype(result.dtype, "real floating"):
            return result
        self.invented([result])
        scopes.supposed = True
        one = xp.asarray(result[(slice(1),) * result.ndim], copy=True)
        return xp.broadcast_to(one, result.shape)

    def origin(self) -> Origin:
        """The origin of the call under way."""
        return scopes.pulled or Origin(False, _line(), scopes.frames)

    def shape(self, array: Traced) -> tuple[int, ...]:
        return getattr(array.value, "shape", ())

    def read(self, array: Traced, kind: type) -> Any:
        raise RecordingError(
            f"{kind.__name__}(x) inside {self.name} at {self.origin()}: the value is different in "
            "each call, so what the function does with it cannot be recorded; write "
            "xp.where(condition, a, b) instead of if, keep x as an array, or do not compile it"
        )


class _ValuesAreNeeded(Exception):
    """A call has an effect, with the values that it is given."""


class _Inside:
    """Used in place of the recording while the body of a function without an effect runs."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def process(self, inner: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = self.function.name
        raise RecordingError(
            f"{inner.name} {inner.effect} inside {name}, which is recorded as one call without an "
            f"effect. To fix it: give {name} that effect, or call {inner.name} outside of it"
        )


def _line() -> str:
    """The innermost line of code that is not ours."""
    frame, _ = user_frame()
    return f"{_file_name(frame.f_code.co_filename)}:{frame.f_lineno}" if frame else ""


@cache
def _file_name(path: str) -> str:
    return Path(path).name


def _parameters(f: Callable[..., Any]) -> list[str]:
    """The names of what a function takes by position; none if it does not say."""
    call = f if isinstance(f, FunctionType) else getattr(f, "__func__", type(f).__call__)
    says = any(hasattr(each, name) for each in (f, call) for name in _SIGNED)
    if isinstance(call, FunctionType) and not says:  # the plain case, in a tenth of the time
        code = call.__code__
        return list(code.co_varnames[call is not f : code.co_argcount])
    try:
        return [p.name for p in signature(f).parameters.values() if p.kind in _BY_POSITION]
    except ValueError:  # a function of C
        return []


def _labelled(f: Callable[..., Any], args: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Every leaf of the arguments with its name: "params.0.weight"."""
    names = _parameters(f)
    names += [f"x{place}" for place in range(len(names), len(args))]
    return [
        (f"{name}.{path}" if path else name, leaf)
        for name, argument in zip(names, args, strict=False)
        for path, leaf in tree.paths(argument)
    ]


def record(
    f: Callable[..., Any],
    *args: Any,
    batch_axes: Any = None,
    decompositions: Mapping[str, Callable[..., Any]] | None = None,
) -> Graph:
    """Record `f(*args)` as a graph of calls of the Array API standard.

    `f` is run on these arguments, effects and all, and each call is written down.

    Parameters
    ----------
    f
        A function of trees that returns a tree. It always does the same operations.
    *args
        Trees; arrays and floats in them are the inputs of the graph, everything else (integers,
        strings, booleans) is taken as it is.
    batch_axes
        Along which axis the batch lies in each argument, so that the graph holds for batches of any
        size; None: in no axis. One for all arguments, or a tuple with one (or a tree of them) for
        each, as `in_axes` of `vmap`. `f` is then run three times, for three sizes. What follows the
        batch in shapes, keywords and integers is a `Dim` of the graph.
    decompositions
        Functions to be decomposed while recording, by name, each with its `definition(xp, *arrays,
        **kwargs)`.

    Raises
    ------
    RecordingError
        `f` reads a value, to branch on it or to make a Python number of it; the shape of a result
        follows from values, as that of `x[x > 0]` does; or, with `batch_axes`, it does not do the
        same for every size of the batch.
    TypeError
        There is no array among the arguments.
    ValueError
        The sizes of the batch differ, or an axis is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((4, 3))
    >>> graph = record(lambda x: x.__array_namespace__().reshape(x, (-1,)) * 2, x, batch_axes=0)
    >>> print(graph)
    <lambda>(x: (batch, 3))
      v0 = reshape(x, shape=(-1,))                    # (3*batch,)
      v1 = multiply(v0, 2)                            # (3*batch,)
      return v1
    >>> graph.run([np.ones((1, 3))])
    [array([2., 2., 2.])]
    """
    if batch_axes is None:
        graph = recorded(f, args, decompositions, supposed=False)
        return check_shapes(name_of("recording", f), graph)
    name = name_of("recording", f)
    axes = batch_axes if isinstance(batch_axes, tuple) else (batch_axes,) * len(args)
    if len(axes) != len(args):
        raise ValueError(
            f"{name}: batch_axes: expected an axis (or a tree of them) for each of {len(args)} "
            f"arguments, got {len(axes)}"
        )
    rows = [
        row
        for place, (argument, axis) in enumerate(zip(args, axes, strict=True))
        for row in leaves_with_axes(name, f"argument {place}", argument, axis)
    ]
    size = batch_size(name, rows)
    if size == 0:
        raise ValueError(f"{name}: batch_axes: expected a batch of one row or more, got none")
    structure, graphs = tree.flatten(args)[1], []
    for more in MORE_ROWS:
        leaves = [_lengthened(leaf, axis, more) for _, leaf, axis in rows]
        graphs.append(recorded(f, structure.unflatten(leaves), decompositions, more > 0))
    check_shapes(name, graphs[0])
    return symbolic(graphs, [size + more for more in MORE_ROWS])


def check_shapes(where: str, graph: Graph) -> Graph:
    """The graph; RecordingError if the shape of a result in it follows from values.

    A program has one shape for each, and whoever has read it has made a number of it.
    """
    for node in graph.nodes:
        if node.name in _SHAPED_BY_VALUES or _picks_by_values(node, graph):
            raise RecordingError(
                f"{where}: the shape of what {node.name} at {node.origin} gives follows from "
                "values, which are different in each call, so it cannot be recorded. To fix it: "
                "keep the shape, with xp.where(mask, x, 0.0) for one, or do not compile it"
            )
    return graph


def _picks_by_values(node: Node, graph: Graph) -> bool:
    """True for an index with a mask, or repeats, that the graph computes or is given."""
    if node.name not in ("getitem", "repeat"):
        return False
    computed = [a for a in node.args[1:] if isinstance(a, Node) and not isinstance(a, Constant)]
    isdtype = graph.space.xp.isdtype
    return any(node.name == "repeat" or isdtype(a.dtype, "bool") for a in computed)


def _regular(matrix: Any) -> Any:
    """An identity in place of a matrix, or of a stack of them."""
    if type(matrix) is Traced:
        return matrix
    xp = namespace(matrix)
    eye = xp.eye(matrix.shape[-1], dtype=matrix.dtype, device=backend_of(matrix).device)
    return eye + xp.zeros_like(matrix)


def _lengthened(leaf: Any, axis: int | None, more: int) -> Any:
    """An array with so many rows more: the first ones again."""
    if axis is None or not more:
        return leaf
    xp, size = namespace(leaf), leaf.shape[axis]
    part = [slice(None)] * leaf.ndim
    rows = [leaf]
    while more:
        part[axis] = slice(0, min(more, size))
        rows.append(leaf[tuple(part)])
        more -= min(more, size)
    return xp.concat(rows, axis=axis)


def recorded(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    decompositions: Mapping[str, Callable[..., Any]] | None = None,
    supposed: bool = True,
    sparing: bool = False,
) -> Graph:
    """The graph for arguments of these shapes, which are examples unless `supposed` is false.

    sparing: results that are large are not kept, unless a call has an effect, or needs values, as
    an index does that is computed from floats.
    """
    if sparing:
        try:
            return _recorded(f, args, decompositions, supposed, True)
        except RecordingError:
            raise
        except Exception:  # if values were no reason, it is raised again
            pass
    return _recorded(f, args, decompositions, supposed, False)


def _recorded(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    decompositions: Mapping[str, Callable[..., Any]] | None,
    supposed: bool,
    sparing: bool,
) -> Graph:
    name = name_of("recording", f)
    leaves = [leaf for leaf in tree.leaves(args) if hasattr(leaf, "dtype")]
    if not leaves:
        raise TypeError(
            f"{name}: expected an array among its arguments, whose library says which functions "
            f"there are, got {args or 'none'}. To fix it: give an example of each "
            "argument, as in record(f, x)"
        )
    space = Namespace(namespace(*leaves[:1]))
    trace = Record(name, space, decompositions or {}, sparing)
    inputs: list[Input] = []

    def given(label: str, leaf: Any) -> Any:
        if not hasattr(leaf, "dtype") and type(leaf) is not float:
            return leaf
        value = plain(leaf)
        shape, dtype = tuple(getattr(value, "shape", ())), getattr(value, "dtype", None)
        inputs.append(Input(None, (), {}, shape, dtype, label=label))
        return Traced(value, trace, inputs[-1], space)

    structure = tree.flatten(args)[1]
    watched = structure.unflatten([given(*pair) for pair in _labelled(f, args)])
    around = scopes.recording, scopes.supposed
    scopes.recording, scopes.supposed = trace, supposed or scopes.supposed
    try:
        with trace.until_end:
            result = applied(f, *watched)
    finally:
        trace.open = False
        scopes.recording, scopes.supposed = around
    outs, out_structure = tree.flatten(result)
    return Graph(
        getattr(f, "__name__", "program"),
        inputs,
        trace.nodes,
        [trace.node(leaf) for leaf in outs],
        space,
        out_structure,
        decompositions=frozenset(trace.decomposed),
    )


__all__ = ["Record", "RecordingError", "record"]
