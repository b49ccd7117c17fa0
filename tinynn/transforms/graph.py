"""Graphs: recorded programs as nodes, and the interpreter that runs them.

A node is one call of a function of the Array API standard (or of a function of the user's own).
`tinynn.transforms.record` makes graphs, `tinynn.compiler` rewrites them.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from tinynn.rules.batching import BATCHING
from tinynn.rules.kinds import RULES
from tinynn.trace import Effect, Function, Traced, backend_of, namespace
from tinynn.trace.scopes import NOWHERE, Origin

#: Python's own arithmetic, for numbers that stay Python numbers.
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


class Dim(int):
    """A length that follows the batch: factor * batch + offset.

    As an integer it is the length for the batch that was recorded, so that shapes stay shapes. It
    equals no plain integer: a batch of 4 is not the 4 features that happen to stand beside it.

    >>> rows = Dim(4, factor=2)
    >>> rows, int(rows), rows.at(10), 3 * rows + 1, rows == 8
    (2*batch, 8, 20, 6*batch + 1, False)
    """

    factor: int
    offset: int
    batch: int

    def __new__(cls, batch: int, factor: int = 1, offset: int = 0) -> "Dim":
        self = super().__new__(cls, factor * batch + offset)
        self.factor, self.offset, self.batch = factor, offset, int(batch)
        return self

    def at(self, batch: int) -> int:
        """The length for a batch of that size."""
        return self.factor * batch + self.offset

    def __mul__(self, other: Any) -> Any:
        if type(other) is int and other:
            return Dim(self.batch, self.factor * other, self.offset * other)
        return int(self) * int(other) if isinstance(other, int) else int(self) * other

    def __add__(self, other: Any) -> Any:
        if type(other) is int:
            return Dim(self.batch, self.factor, self.offset + other)
        return int(self) + int(other) if isinstance(other, int) else int(self) + other

    __rmul__, __radd__ = __mul__, __add__

    def __eq__(self, other: object) -> bool:
        mine = (self.factor, self.offset)
        return isinstance(other, Dim) and mine == (other.factor, other.offset)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.factor, self.offset))

    def __repr__(self) -> str:
        text = "batch" if self.factor == 1 else f"{self.factor}*batch"
        sign = "-" if self.offset < 0 else "+"
        return f"{text} {sign} {abs(self.offset)}" if self.offset else text

    __str__ = __repr__


def mapped(value: Any, of_leaf: Callable[[Any], Any]) -> Any:
    """An argument or keyword with `of_leaf` of everything in its tuples, lists, slices, dicts."""
    if isinstance(value, tuple | list):
        return type(value)([mapped(item, of_leaf) for item in value])
    if isinstance(value, slice):
        return slice(*[mapped(end, of_leaf) for end in (value.start, value.stop, value.step)])
    if isinstance(value, dict):
        return {key: mapped(item, of_leaf) for key, item in value.items()}
    return of_leaf(value)


@dataclass(eq=False, slots=True)
class Node:
    """A value of a recorded program: what one call gave. It is not changed once it is made.

    Attributes:
        function: what was called.
        args: Nodes, Python scalars or None, by position.
        kwargs: everything else, by keyword.
        shape, dtype: of the result; () and None if it is not an array (but a number or a tuple).
        origin: the layer and the line of the user's code that made the call.
        name: the function's, without the extension it belongs to. A function of the user's own has
            its module in front: it is not the standard's of that name.
        effect: of the call, besides its result.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: Any = None
    dtype: Any = None
    origin: Origin = NOWHERE
    name: str = field(default="", init=False, repr=False)
    effect: Effect = field(default=Effect.NONE, init=False, repr=False)
    #: The patterns that leave it as it is, whatever graph it is in: `compiler.rewrite.simplest`.
    simple_by: Any = field(default=None, init=False, repr=False)
    _parents: "list[Node] | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        function = self.function
        if function is not None:
            self.name = function.title or title_of(function)
            self.effect = function.effect

    @property
    def call(self) -> tuple[Any, ...]:
        """What the calls of equal results have in common: function, arguments, keywords."""
        args = [id(a) if isinstance(a, Node) else (type(a), repr(a)) for a in self.args]
        return (self.function, *args, repr(sorted(self.kwargs.items())) if self.kwargs else "")

    @property
    def parents(self) -> "list[Node]":
        """The arguments that are values of the program."""
        if self._parents is None:
            self._parents = [a for a in self.args if isinstance(a, Node)]
        return self._parents


def title_of(function: Function) -> str:
    """The name by which nodes know a function: made once, and kept with it."""
    title = function.name.rpartition(".")[2]
    if not is_known(function):
        title = f"{getattr(function.body, '__module__', None) or 'user'}.{title}"
    function.title = title
    return title


@dataclass(eq=False, slots=True)
class Input(Node):
    """A value that is given anew in each call; `label` says which: "params.0.weight"."""

    label: str = ""


@dataclass(eq=False, slots=True)
class Constant(Node):
    """An array from outside the function, kept by reference: later changes to it are seen.

    `wrappers` are the arrays of a Namespace that the function knows it by: one that is assigned to
    gets another value, and the program is then out of date.
    """

    value: Any = None
    wrappers: list[Traced] = field(default_factory=list)

    @property
    def current(self) -> bool:
        """True if the function, called now, would take the same array."""
        return all(wrapper.value is self.value for wrapper in self.wrappers)


def _item(x: Any, *, index: int) -> Any:
    return x[index]


def _fill(*, value: Any, shape: Any, dtype: Any, like: Any) -> Any:
    device = backend_of(like).device
    return namespace(like).full(tuple(map(int, shape)), value, dtype=dtype, device=device)


def _part(x: Any, *, start: int, shape: tuple[int, ...], label: str) -> Any:
    return namespace(x).reshape(x[start : start + prod(shape)], shape)


def _pack(*arrays: Any, name: str, labels: list[str]) -> Any:
    xp = namespace(*arrays)
    return xp.concat([xp.reshape(a, (prod(a.shape),)) for a in arrays])


def _copied(x: Any) -> Any:
    return namespace(x).asarray(x, copy=True)


def _sum_where(mask: Any, x: Any) -> Any:
    xp = namespace(mask, x)
    return xp.sum(xp.where(mask, x, xp.zeros_like(x)))


#: One of several results: `item(x, index=)`.
ITEM = Function("item", _item)
#: An array of one value, which is known: `fill(value=, shape=, dtype=)`.
FILL = Function("fill", _fill)
#: The array of a shape that lies in a vector from `start` on, and a vector of arrays, which
#: programs call `name`, and its parts `labels`.
PART, PACK = Function("part", _part), Function("pack", _pack)
#: A contiguous copy of the elements of a view.
COPIED = Function("copied", _copied)
#: The sum of the elements that a mask picks: `sum_where(mask, x)`.
SUM_WHERE = Function("sum_where", _sum_where)
#: The functions that the standard lacks and only recordings and passes write.
OURS = frozenset({ITEM, FILL, PART, PACK, COPIED, SUM_WHERE})


def is_known(function: Function) -> bool:
    """True if tables may list the function by name: the standard's, tinynn's own, or one of C."""
    standard = function.space is not None or function.listed or function in OURS
    return standard or function in RULES or function in BATCHING


def carry_out(function: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The call of a node, given the values of its arguments."""
    if function.name in OF_NUMBERS and not any(hasattr(a, "dtype") for a in args):
        return OF_NUMBERS[function.name](*args, **kwargs)
    return function(*args, **kwargs)


#: What `Graph.run` calls for every node: `hook(node, value)`. What it returns takes the value's
#: place, unless that is None.
Hook = Callable[[Node, Any], Any]


@dataclass(eq=False, repr=False)
class Graph:
    """A recorded program. It is an argument of calls that run others: `scan`, `cond`.

    Attributes:
        name: the function's.
        inputs: what is given in each call, in order.
        nodes: the calls, in order of execution.
        outputs: Nodes, and the numbers and strings that the function returned, in order.
        space: the namespace whose functions are called.
        structure: makes the function's result, a tree, of the outputs.
        batch: the size of the batch that was recorded, where it is symbolic: the lengths that
            follow it are then a `Dim`. None where all lengths are what they are.
        decompositions: the functions that were decomposed while recording, by name.
    """

    name: str
    inputs: list[Input]
    nodes: list[Node]
    outputs: list[Any]
    space: Any = None
    structure: Any = None
    batch: int | None = None
    decompositions: frozenset[str] = frozenset()
    #: Whether there is nothing in it that the passes on any library would simplify.
    simple: bool = field(default=False, init=False)

    def at(self, batch: int) -> "Graph":
        """The graph for a batch of that size, without a `Dim`."""
        new: dict[int, Any] = {}

        def now(value: Any) -> Any:
            if isinstance(value, Node):
                return new.get(id(value), value)
            return at_batch(value, batch)

        def moved(node: Any) -> Any:
            parts = {"args": node.args, "kwargs": node.kwargs, "shape": node.shape}
            new[id(node)] = replace(node, **mapped(parts, now))
            return new[id(node)]

        inputs, nodes = list(map(moved, self.inputs)), list(map(moved, self.nodes))
        outputs = mapped(self.outputs, now)
        return replace(self, inputs=inputs, nodes=nodes, outputs=outputs, batch=None)

    def __repr__(self) -> str:
        # Calls are compared by the text of their kwargs, of which this may be one.
        return f"<graph of {self.name}, {len(self.nodes)} calls, at {id(self):#x}>"

    @property
    def constants(self) -> list[Constant]:
        """The arrays from outside that the program reads."""
        found: dict[int, Constant] = {}
        everything = [a for node in self.nodes for a in node.args] + self.outputs
        for value in everything:
            if isinstance(value, Constant):
                found.setdefault(id(value), value)
        return list(found.values())

    @property
    def effects(self) -> list[Node]:
        """The calls that have an effect, in order."""
        return [node for node in self.nodes if node.effect is not Effect.NONE]

    def users(self) -> dict[int, list[Node]]:
        """For the id of every node, the nodes that take it."""
        users: dict[int, list[Node]] = {}
        for node in self.nodes:
            for parent in node.parents:
                users.setdefault(id(parent), []).append(node)
        return users

    def run(self, values: Sequence[Any], hook: Hook | None = None) -> list[Any]:
        """The results of the program for other values of its inputs, call after call.

        Args:
            values: an array or number for each of `inputs`, in order, of the library that the
                graph was recorded on. They may be arrays of a transformation.
            hook: called as `hook(node, value)` after every node, in order. What it returns takes
                the value's place; None keeps it.

        Returns:
            The values of `outputs`, in order. `graph.structure.unflatten` makes the function's
            result of them.

        Raises:
            ValueError: the number of values or a shape is another one than was recorded.

        >>> import numpy as np
        >>> from tinynn.transforms.record import record
        >>> graph = record(lambda x: x * 2 + 1, np.asarray([1.0, 2.0]))
        >>> graph.run([np.asarray([10.0, 20.0])])
        [array([21., 41.])]
        >>> seen = []
        >>> _ = graph.run([np.asarray([10.0, 20.0])], lambda node, value: seen.append(node.name))
        >>> seen
        ['multiply', 'add']
        """
        return Interpreter(self)(values, hook, self._batch_of(values))

    def _batch_of(self, values: Sequence[Any]) -> int | None:
        """The size of the batch that these values are; ValueError if they do not fit the inputs."""
        where = f"run of the graph of {self.name}"
        if len(values) != len(self.inputs):
            labels = ", ".join(each.label for each in self.inputs)
            raise ValueError(
                f"{where}: expected {len(self.inputs)} values ({labels}), got {len(values)}"
            )
        found: tuple[int, str] | None = None
        for each, value in zip(self.inputs, values, strict=True):
            shape = tuple(getattr(value, "shape", ()))
            pairs = list(zip(each.shape, shape, strict=False))
            for axis, (want, have) in enumerate(pairs):
                if isinstance(want, Dim) and found and have != found[0]:
                    raise ValueError(
                        f"{where}: {each.label}, axis {axis}: expected a batch of {found[0]} as in "
                        f"{found[1]}, got {have}"
                    )
                if isinstance(want, Dim):
                    found = have, each.label
            same = all(isinstance(want, Dim) or want == have for want, have in pairs)
            if len(shape) != len(each.shape) or not same:
                raise ValueError(
                    f"{where}: {each.label}: expected shape {tuple(each.shape)}, got {shape}. To "
                    "fix it: record the function with arrays of this shape, or with batch_axes"
                )
        return found[0] if found else self.batch

    def __str__(self) -> str:
        names: dict[int, str] = {}
        for value in self.inputs:
            names[id(value)] = value.label
        for index, constant in enumerate(self.constants):
            names[id(constant)] = f"c{index}"
        given = ", ".join(f"{i.label}: {_shape(i)}" for i in self.inputs)
        lines = [f"{self.name}({given})"]
        for index, node in enumerate(self.nodes):
            names[id(node)] = f"v{index}"
            shown = [names[id(a)] if isinstance(a, Node) else repr(a) for a in node.args]
            shown += [f"{key}={value!r}" for key, value in node.kwargs.items()]
            effect = "" if node.effect is Effect.NONE else node.effect.value
            backward = "backward" if node.origin.backward else ""
            notes = [_shape(node), node.origin.place, backward, effect]
            note = ", ".join(filter(None, notes))
            text = f"v{index} = {node.name}({', '.join(shown)})"
            lines.append(f"  {text:<46}  # {note}")
        outs = [names[id(o)] if isinstance(o, Node) else repr(o) for o in self.outputs]
        return "\n".join([*lines, f"  return {', '.join(outs)}"])


def pruned(graph: Graph) -> Graph:
    """The graph without the nodes that no output and no node with an effect needs."""
    needed = {id(o) for o in graph.outputs if isinstance(o, Node)}
    kept = []
    for node in reversed(graph.nodes):
        if id(node) in needed or node.effect is not Effect.NONE:
            kept.append(node)
            needed.update(map(id, node.args))
    return replace(graph, nodes=kept[::-1])


def at_batch(value: Any, batch: int) -> Any:
    """An argument for a batch of that size: a `Dim` or a graph that may hold some, or as it is."""
    if isinstance(value, Dim):
        return value.at(batch)
    return value.at(batch) if isinstance(value, Graph) and value.batch is not None else value


class Interpreter:
    """Runs a graph any number of times: what can be found out beforehand is.

    Calling it gives the values of the graph's outputs, in order, from those of its inputs.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        constants = graph.constants
        values = [*graph.inputs, *constants, *graph.nodes]
        place = {id(value): i for i, value in enumerate(values)}
        self._known = [None] * len(graph.inputs) + [c.value for c in constants]
        self._room = [None] * len(graph.nodes)
        last = {id(parent): node for node in graph.nodes for parent in node.parents}
        kept = {id(output) for output in graph.outputs}
        self._calls = []
        for node in graph.nodes:
            sources = [place[id(a)] if isinstance(a, Node) else -1 for a in node.args]
            done = {place[id(a)] for a in node.parents if last[id(a)] is node and id(a) not in kept}
            self._calls.append((node, sources, place[id(node)], list(done)))
        self._outputs = [place[id(o)] if isinstance(o, Node) else -1 for o in graph.outputs]

    def __call__(
        self, values: Sequence[Any], hook: Hook | None = None, batch: int | None = None
    ) -> list[Any]:
        known = [*self._known, *self._room]
        known[: len(values)] = values
        like = next((v for v in known if hasattr(v, "dtype")), None)

        def now(value: Any) -> Any:
            return value if batch is None else at_batch(value, batch)

        for node, sources, target, done in self._calls:
            kwargs = node.kwargs if batch is None else mapped(node.kwargs, now)
            kwargs = kwargs | {"like": like} if node.function is FILL else kwargs
            args = [
                known[source] if source >= 0 else mapped(a, now)
                for a, source in zip(node.args, sources, strict=True)
            ]
            try:
                value = carry_out(node.function, args, kwargs)
            except Exception as error:
                error.add_note(f"in {node.name} of the graph of {self.graph.name}: {node.origin}")
                raise
            replaced = None if hook is None else hook(node, value)
            known[target] = value if replaced is None else replaced
            for place in done:  # free what is not needed any more
                known[place] = None
        outputs = zip(self.graph.outputs, self._outputs, strict=True)
        return [known[place] if place >= 0 else mapped(o, now) for o, place in outputs]


def _shape(node: Node) -> str:
    return str(tuple(node.shape or ()))
