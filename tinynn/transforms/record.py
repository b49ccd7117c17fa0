"""Recording: what a function does, kept as a graph of calls of the standard.

A `Record` carries every call out, on real arrays, and writes it down: the function runs once, as
it always would, and the graph is what it did. Transformations inside the function (`grad`, `vmap`)
stand above the recording, so that what they do is written down as well.
"""

import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from tinynn import tree
from tinynn.trace import Function, Namespace, Traced, namespace, plain, regrouped
from tinynn.trace.scopes import NOWHERE, Origin, scopes
from tinynn.transforms.base import Transformation, name_of

_OURS = tuple(str(Path(__file__).parents[2] / room) for room in ("tinynn", "backends"))

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

# Python's own arithmetic, for numbers that stay Python numbers.
OF_NUMBERS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "negative": operator.neg,
    "positive": operator.pos,
    "abs": abs,
}


class RecordingError(TypeError):
    """The function does what cannot be written down, such as branching on a value."""


@dataclass(eq=False)
class Node:
    """A value of a recorded program: what one call of the standard gave.

    Attributes:
        function: what was called.
        args: Nodes, Python scalars or None, by position.
        kwargs: everything else, by keyword.
        shape, dtype: of the result; None where it is no array (a tuple of them, a number).
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: Any = None
    dtype: Any = None
    origin: Origin = NOWHERE

    @property
    def name(self) -> str:
        """The function's name, without the extension it belongs to."""
        return str(self.function.name).rpartition(".")[2]

    @property
    def parents(self) -> list["Node"]:
        """The arguments that are values of the program."""
        return [a for a in self.args if isinstance(a, Node)]


@dataclass(eq=False)
class Input(Node):
    """A value that is given anew in each call; `label` says which: "params.0.weight"."""

    label: str = ""


@dataclass(eq=False)
class Constant(Node):
    """An array from outside the function, kept by reference: later changes to it are seen.

    `wrappers` are the arrays of a Namespace that the function knows it by: one that is assigned to
    gets another value, and the program is then out of date.
    """

    value: Any = None
    wrappers: list[Traced] = field(default_factory=list)

    @property
    def current(self) -> bool:
        """Whether the function, called now, would take the same array."""
        return all(wrapper.value is self.value for wrapper in self.wrappers)


def item(x: Any, *, index: int) -> Any:
    """One of several results."""
    return x[index]


ITEM = Function("item", item)


@dataclass
class Graph:
    """A recorded program: `nodes` in order of execution, calls only; `outputs` in order.

    An output is a Node, or whatever else (a number, a string) the function returned.
    `decompositions` names the functions that were decomposed while recording.
    """

    name: str
    inputs: list[Input]
    nodes: list[Node]
    outputs: list[Any]
    space: Any = None
    decompositions: frozenset[str] = frozenset()

    @property
    def constants(self) -> list[Constant]:
        """The arrays from outside that the program reads."""
        found: dict[int, Constant] = {}
        everything = [a for node in self.nodes for a in node.args] + self.outputs
        for value in everything:
            if isinstance(value, Constant):
                found.setdefault(id(value), value)
        return list(found.values())

    def users(self) -> dict[int, list[Node]]:
        """For the id of every node, the nodes that take it."""
        users: dict[int, list[Node]] = {}
        for node in self.nodes:
            for parent in node.parents:
                users.setdefault(id(parent), []).append(node)
        return users

    def __str__(self) -> str:
        names: dict[int, str] = {}
        for value in self.inputs:
            names[id(value)] = value.label
        for index, constant in enumerate(self.constants):
            names[id(constant)] = f"c{index}"
        lines = [f"{self.name}({', '.join(i.label for i in self.inputs)})"]
        for index, node in enumerate(self.nodes):
            names[id(node)] = f"v{index}"
            shown = [names[id(a)] if isinstance(a, Node) else repr(a) for a in node.args]
            shown += [f"{key}={value!r}" for key, value in node.kwargs.items()]
            lines.append(f"  v{index} = {node.name}({', '.join(shown)})  # {node.shape}")
        outs = [names[id(o)] if isinstance(o, Node) else repr(o) for o in self.outputs]
        return "\n".join([*lines, f"  return {', '.join(outs)}"])


class Record(Transformation):
    """Carries out every call on its arrays and writes it down."""

    def __init__(self, name: str, decompositions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(name)
        self.decompositions = decompositions
        self.nodes: list[Node] = []
        self.spelled_out: set[str] = set()
        self.outside: dict[int, Constant] = {}

    def process(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.require_open(function)
        if function.name in self.decompositions:
            self.spelled_out.add(function.name)
            return self.decompositions[function.name](function.space_of(args), *args, **kwargs)
        values = [a.value if type(a) is Traced else a for a in args]
        call: Any = function.raw
        if not any(hasattr(v, "dtype") for v in values) and function.name in OF_NUMBERS:
            call = OF_NUMBERS[function.name]
        result = call(*values, **kwargs)
        node = self.written(function, tuple(map(self.node, args)), kwargs, result)
        return self.wrapped(result, node, function.space_of(args))

    def node(self, value: Any) -> Any:
        """What stands for a value in the graph."""
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
        if isinstance(result, tuple | list):
            items = []
            for index, value in enumerate(result):
                part = self.written(ITEM, (node,), {"index": index}, value)
                items.append(self.wrapped(value, part, space))
            return regrouped(result, items)
        return Traced(result, self, node, space)

    def origin(self) -> Origin:
        """Where the call under way comes from."""
        if scopes.pulled is not None:
            return scopes.pulled._replace(backward=True)
        return Origin(scopes.now(), False, _line())

    def shape(self, array: Traced) -> tuple[int, ...]:
        return getattr(array.value, "shape", ())

    def read(self, array: Traced, kind: type) -> Any:
        raise RecordingError(
            f"{kind.__name__}(x) inside {self.name} at {self.origin()}: the value is different in "
            "each call, so what the function does with it cannot be recorded; write "
            "xp.where(condition, a, b) instead of if, keep x as an array, or do not compile it"
        )


def _line() -> str:
    """The innermost line of code that is not ours."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else ""


def _labelled(f: Callable[..., Any], args: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Every leaf of the arguments with its name: "params.0.weight"."""
    try:
        names = [p.name for p in signature(f).parameters.values() if p.kind in _BY_POSITION]
    except ValueError:  # a function of C that does not say
        names = []
    names += [f"x{place}" for place in range(len(names), len(args))]
    return [
        (f"{name}.{path}" if path else name, leaf)
        for name, argument in zip(names, args, strict=False)
        for path, leaf in tree.paths(argument)
    ]


def record(
    f: Callable[..., Any],
    *args: Any,
    decompositions: Mapping[str, Callable[..., Any]] | None = None,
) -> tuple[Any, Graph, tree.Structure]:
    """Run `f` once and write down what it does.

    Args:
        f: a function of trees that returns a tree.
        *args: trees; arrays and floats in them are the inputs of the graph, everything else
            (integers, strings, booleans) is taken as it is.
        decompositions: functions to be decomposed while recording, by name, each with its
            `definition(xp, *arrays, **kwargs)`.

    Returns:
        `(out, graph, structure)`: what `f(*args)` gives, the graph, and the structure that makes a
        tree of its outputs.

    Raises:
        RecordingError: `f` reads a value, to branch on it or to make a Python number of it.

    >>> import numpy as np
    >>> out, graph, _ = record(lambda x: x * 2 + 1, np.asarray([1.0, 2.0]))
    >>> print(graph)
    <lambda>(x)
      v0 = multiply(x, 2)  # (2,)
      v1 = add(v0, 1)  # (2,)
      return v1
    """
    trace = Record(name_of("recording", f), decompositions or {})
    inputs: list[Input] = []
    leaves = [leaf for leaf in tree.leaves(args) if hasattr(leaf, "dtype")]
    space = Namespace(namespace(*leaves[:1]))

    def given(label: str, leaf: Any) -> Any:
        if not hasattr(leaf, "dtype") and type(leaf) is not float:
            return leaf
        value = plain(leaf)
        shape, dtype = tuple(getattr(value, "shape", ())), getattr(value, "dtype", None)
        inputs.append(Input(None, (), {}, shape, dtype, label=label))
        return Traced(value, trace, inputs[-1], space)

    structure = tree.flatten(args)[1]
    watched = structure.unflatten([given(*pair) for pair in _labelled(f, args)])
    try:
        result = f(*watched)
    finally:
        trace.open = False
    outs, out_structure = tree.flatten(result)
    graph = Graph(
        getattr(f, "__name__", "program"),
        inputs,
        trace.nodes,
        [trace.node(leaf) for leaf in outs],
        space,
        frozenset(trace.spelled_out),
    )
    out = out_structure.unflatten([trace.leave(leaf) for leaf in outs])
    return out, graph, out_structure


__all__ = ["Constant", "Graph", "Input", "Node", "Origin", "Record", "record"]
