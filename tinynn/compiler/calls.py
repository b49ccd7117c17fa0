"""The emitter `calls`: a straight-line function in the library's own calls.

Where the library can write into arrays that are there, buffers are allocated once and reused, what
the parameters and the data look like in other shapes is taken once, and parameters change in place:
what a careful person would have written by hand. Elsewhere it is the standard's calls, in order.
"""

import linecache
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import Any
from weakref import finalize

from tinynn.compiler import words
from tinynn.compiler.plan import Plan, When, is_view
from tinynn.compiler.rewrite import RESHAPES, elementwise, is_number, size
from tinynn.transforms.graph import (
    COPIED,
    FILL,
    ITEM,
    OF_NUMBERS,
    PACK,
    PART,
    Constant,
    Graph,
    Input,
    Node,
)

_serial = count()
_NAMED = {When.ONCE: "c", When.SERIES: "s", When.BATCH: "d", When.STEP: "v"}


@dataclass(eq=False)
class Memory:
    """An array that is there before the step."""

    name: str
    kept: bool = False  # never given to another value
    anew: bool = False  # another one in each step


@dataclass(eq=False)
class Spelling:
    """How a value is written in the program.

    Attributes:
        name: its variable, or its number.
        storage: the memory it always is in; None where it is a new object in each step.
        whole: it is that memory as it was allocated, not a view of it.
        contiguous: a change of shape is another view of it.
    """

    name: str
    storage: Memory | None = None
    whole: bool = False
    contiguous: bool = True


class Writer:
    """Writes the statements of one graph.

    Args:
        graph: the program of one step.
        backend: where it runs.
        streams: inputs that are given anew for every batch.
        kept: inputs that live on from step to step: the node that is their value afterwards, by id.
        collected: the names of arrays that values of every step are written to, by the value's id.
        counters: the nodes that are a counter's value after a step, by id.
        lowering: how the library writes; None: in the standard's own calls.
        reserved: names that no value gets.
    """

    def __init__(
        self,
        graph: Graph,
        backend: Any,
        streams: list[Input],
        kept: dict[int, Node],
        collected: Mapping[int, str] | None = None,
        counters: Container[int] = (),
        lowering: Any = None,
        reserved: Iterable[str] = (),
    ) -> None:
        self.graph, self.backend, self.kept = graph, backend, kept
        self.lowering = lowering
        self.loop = bool(kept)
        fresh = lambda node: self._into(node) is not None  # noqa: E731
        self.plan = Plan(graph, streams, counters, fresh, self.loop)
        self.names = words.Names(self.lowering.library if self.lowering else None)
        self.lines: dict[When, list[tuple[str, Node | None]]] = {when: [] for when in When}
        self.values: dict[int, Spelling] = {}
        self.free: dict[Any, list[Memory]] = {}
        self.collected = collected or {}
        self.names.taken.update(self.collected.values(), reserved)
        self.targets: dict[int, Memory] = {}
        self.places: dict[tuple[int, int], Memory] = {}  # in vectors, by the vector and the start
        self.written: set[int] = set()
        self.counters = counters
        for each in graph.inputs:
            self._input(each)
        for node in graph.nodes:
            if node.function is PACK and self.lowering:
                self._lay_out(node)
        for place, node in enumerate(graph.nodes):
            self._node(place, node)
            self._release(place, node)
        self._finish()

    # Inputs, constants and numbers.

    def _input(self, node: Input) -> None:
        name = self.names.new(words.of_input(node.label))
        stays = bool(self.lowering) and id(node) in self.kept
        storage = Memory(name, kept=True) if stays else None
        self.values[id(node)] = Spelling(name, storage, whole=True)
        if storage and self.kept[id(node)] is not node:
            self.targets[id(self.kept[id(node)])] = storage

    def spell(self, value: Any) -> str:
        """The text of an argument."""
        if not isinstance(value, Node):
            return words.literal(value) or self.names.bind("number", value)
        if isinstance(value, Constant) and id(value) not in self.values:
            name = self.names.new("constant")
            self.names.bound[name] = value.value
            # It may lie in any order, so that to reshape it can be to copy it.
            storage = Memory(name, kept=True)
            self.values[id(value)] = Spelling(name, storage, whole=True, contiguous=False)
        return self.values[id(value)].name

    def _number(self, value: float, dtype: Any, shape: tuple[int, ...] = ()) -> str:
        """A number as an array, made once: it saves the library a conversion in every call."""
        array = self.graph.space.xp.full(shape, value, dtype=dtype, device=self.backend.device)
        name = words.of_number(value) + ("s" if shape else "")
        return self.names.bind(name, array, ("number", repr(value), str(dtype), tuple(shape)))

    def _lay_out(self, node: Node) -> None:
        """A vector for values that lie side by side, each written to its place as it is made."""
        storage = self._allocated(node, self.names.new("gradients"))
        storage.kept = True
        self.values[id(node)] = Spelling(storage.name, storage, whole=True)
        start = 0
        for value, label in zip(node.parents, node.kwargs["labels"], strict=True):
            name = self.names.new(f"{words.of_input(label)}_grad")
            text = f"{name} = {_part_of(storage.name, start, value.shape)}"
            self._write(When.ONCE, text)
            place = self.places[id(node), start] = Memory(name, kept=True)
            self.targets.setdefault(id(value), place)  # it may be in two vectors
            start += size(value)

    # Calls.

    def _node(self, place: int, node: Node) -> None:
        when = self.plan.when[id(node)]
        if node.function is PACK:
            return self._fill_up(node)
        if when is When.SERIES and id(node) in self.counters:
            self.values[id(node)] = Spelling(self.names.new("count"))
            return None
        if when is not When.STEP:
            return self._new(node, when)
        if is_view(node) and self._hoisted(node):
            return None
        text = self._into(node)
        if text is None or (not self.loop and id(node) in self.plan.outputs):
            return self._new(node, when)
        storage = self._storage(place, node)
        if storage is None:
            return self._new(node, when)
        self.values[id(node)] = Spelling(storage.name, storage, whole=True)
        return self._write(when, self._filled_in(text, node, storage.name), node)

    def _fill_up(self, node: Node) -> None:
        """Copy into the vector what could not be written there directly."""
        storage, start = self.values[id(node)].storage, 0
        for value in node.parents:
            if self.values[id(value)].storage is not self.places[id(node), start]:
                out = _part_of(storage.name, start, value.shape) if storage else ""
                copy = self.lowering.into["copy"].text
                self._write(When.STEP, copy.format(self.spell(value), out=out), node)
            start += size(value)

    def _write(self, when: When, text: str, node: Node | None = None) -> None:
        self.lines[when].append((text, node))

    def _new(self, node: Node, when: When) -> None:
        """`name = call(...)`: a new array."""
        text = self._call(node)
        if when is When.BATCH and node.name == "matrix_transpose":
            name = self.names.new(f"{self.spell(node.args[0])}_T")
        else:
            name = self.names.numbered(_NAMED[when])
        storage = Memory(name, kept=True) if when is When.ONCE else None
        self.values[id(node)] = Spelling(name, storage, whole=True, contiguous=False)
        self._write(when, f"{name} = {text}", node)

    def _call(self, node: Node) -> str:
        if node.function is FILL:
            return self._number(node.kwargs["value"], node.dtype, node.shape)
        args = [self.spell(a) for a in node.args]
        if node.function is PART:
            return _part_of(args[0], node.kwargs["start"], node.shape)
        if node.function is ITEM:
            return f"{args[0]}[{node.kwargs['index']}]"
        if node.name == "getitem":
            return f"{args[0]}[{words.index(node.kwargs['key'], args[1:])}]"
        if node.dtype is None and node.name in OF_NUMBERS:
            return f"{self.names.function(node.name, OF_NUMBERS[node.name])}({', '.join(args)})"
        word = _form(self.lowering.calls.get(node.name), node) if self.lowering else None
        if word is not None:
            return word.format(*args, **{k: words.literal(v) for k, v in node.kwargs.items()})
        for key, value in node.kwargs.items():
            args.append(f"{key}={words.literal(value) or self.names.bind(key, value)}")
        name = node.name.rpartition(".")[2]  # of a user's own function, without its module
        return f"{self.names.function(name, node.function.raw)}({', '.join(args)})"

    def _hoisted(self, node: Node) -> bool:
        """A view of memory that stays is taken once, before the first step."""
        if node.name == "getitem" and node.shape == ():
            return False  # a library may give a number, which does not change with its array
        self.spell(node.args[0])
        parent = self.values[id(node.args[0])]
        if (
            parent.storage is None
            or parent.storage.anew
            or (node.name == "reshape" and not parent.contiguous)
        ):
            return False
        wanted = f"{parent.name}_T" if "transpose" in node.name else parent.name
        if node.function is PART:
            wanted = words.of_input(node.kwargs["label"])
        name, text = self.names.new(wanted), self._call(node)
        contiguous = parent.contiguous and (node.name in RESHAPES or node.function is PART)
        self.values[id(node)] = Spelling(name, parent.storage, False, contiguous)
        self._write(When.ONCE, f"{name} = {text}", node)
        return True

    def _into(self, node: Node) -> Any:
        """How the library writes this call's result into an array, if it can."""
        name = "copy" if node.function is COPIED else node.name
        into = self.lowering.into.get(name) if self.lowering else None
        if into is None or node.function is ITEM or node.dtype is None:
            return None
        text = _form(into.text, node)
        return text and (text, into)

    def _filled_in(self, form: tuple[str, Any], node: Node, out: str) -> str:
        text, into = form
        floating = self.graph.space.kinds
        arrays = [a for a in node.args if isinstance(a, Node) and a.dtype is not None]
        dtype = arrays[-1].dtype if arrays else node.dtype  # the first may be a condition
        values = []
        for a in node.args:
            fits = (
                is_number(a) and (isinstance(a, int) or floating[dtype]) and not into.keep_scalars
            )
            if fits and into.broadcast_scalars:
                values.append(self._number(a, dtype, node.shape))
            else:
                values.append(self._number(a, dtype) if fits else self.spell(a))
        kwargs = {"axis": None, "keepdims": False} | node.kwargs
        given = {key: words.literal(value) for key, value in kwargs.items()}
        for axis, word in enumerate(("rows", "columns")):
            if f"{{{word}}}" in text:  # a vector of ones to sum with
                given[word] = self._number(1, dtype, (arrays[0].shape[axis],))
        if "{column}" in text:
            given["column"] = self._number(1, dtype, (arrays[0].shape[1], 1))
        text = into.inplace if into.inplace and values[0] == out else text
        return text.format(*values, out=out, **given)

    # Memory.

    def _storage(self, place: int, node: Node) -> Memory | None:
        """The memory for a result: its parameter's, an argument's, one that is free, a new one."""
        form = self._into(node)
        target = self.targets.get(id(node))
        if target and self._may_overwrite(place, node, target):
            self.written.add(id(node))
            return target
        if id(node) in self.collected:
            return Memory(self.collected[id(node)], kept=True, anew=True)
        over = form[1].may_alias and elementwise(node)
        for a in node.parents if over else ():
            memory = self._given_up(place, node, a)
            if memory is not None:
                return memory
        pool = self.free.get((node.shape, node.dtype))
        if pool:
            return pool.pop()
        return self._allocated(node, self.names.numbered("t"))

    def _given_up(self, place: int, node: Node, a: Node) -> Memory | None:
        """The memory of an argument that is not needed after this call, if the result fits it."""
        spelling = self.values.get(id(a))
        memory = spelling.storage if spelling and spelling.whole else None
        if memory is None or memory.kept or (a.shape, a.dtype) != (node.shape, node.dtype):
            return None
        return memory if self.plan.dies_at(a, place) and self._alone(node, memory) else None

    def _allocated(self, node: Node, name: str) -> Memory:
        device = self.backend.device
        self.names.bound[name] = self.lowering.empty(node.shape, dtype=node.dtype, device=device)
        return Memory(name)

    def _alone(self, node: Node, storage: Memory) -> bool:
        """Whether the call sees this memory only as it is, in no other shape or order."""
        views = [self.values[id(a)] for a in node.parents if id(a) in self.values]
        return all(each.whole for each in views if each.storage is storage)

    def _may_overwrite(self, place: int, node: Node, storage: Memory) -> bool:
        """Whether a kept input can be overwritten here: its old value is not read later."""
        inputs = self.graph.inputs
        old = next((i for i in inputs if self.values[id(i)].storage is storage), None)
        if old is None:  # a place in a vector, which is not read before it is full
            return True
        return (
            elementwise(node)
            and self.plan.dies_at(old, place)
            and self._alone(node, storage)
            and (old.shape, old.dtype) == (node.shape, node.dtype)
        )

    def _release(self, place: int, node: Node) -> None:
        """Free the memory whose value is not read any more."""
        done = set()
        for a in [*node.parents, node]:
            spelling = self.values.get(id(a))
            storage = spelling.storage if spelling else None
            mine = self.values.get(id(node))
            if storage is None or storage.kept or storage in done:
                continue
            if mine and mine.storage is storage and not self.plan.dies_at(node, place):
                continue
            if self.plan.dies_at(a, place):
                done.add(storage)
                self.free.setdefault(self._size(storage), []).append(storage)

    def _size(self, storage: Memory) -> Any:
        array = self.names.bound[storage.name]
        return tuple(array.shape), array.dtype

    # The end of a step.

    def _finish(self) -> None:
        """New values go where they are kept; those that are views of the old ones are copied."""
        if not self.loop:
            return
        late = [n for n in self.graph.inputs if id(n) in self.kept and not self._done(n)]
        if not self.lowering:
            if late:
                left = ", ".join(self.values[id(n)].name for n in late)
                right = ", ".join(self.spell(self.kept[id(n)]) for n in late)
                self._write(When.STEP, f"{left} = {right}")
            return
        copy = self.lowering.into["copy"].text
        moves = [(self.values[id(n)].name, self.spell(self.kept[id(n)])) for n in late]
        if len(moves) > 1 and any(self._reads_kept(self.kept[id(n)]) for n in late):
            xp = self.graph.space.xp
            for i, (_, source) in enumerate(moves):
                name = self.names.new("kept")
                self._write(
                    When.STEP,
                    f"{name} = {self.names.bind('asarray', xp.asarray)}({source}, copy=True)",
                )
                moves[i] = (moves[i][0], name)
        for out, source in moves:
            self._write(When.STEP, copy.format(source, out=out))

    def _done(self, node: Input) -> bool:
        new, mine = self.kept[id(node)], self.values[id(node)].storage
        written = id(new) in self.written and self.targets[id(new)] is mine
        return new is node or written or id(new) in self.counters

    def _reads_kept(self, node: Any) -> bool:
        spelling = self.values.get(id(node))
        return bool(spelling and spelling.storage and spelling.storage.kept)


def _form(text: Any, node: Node) -> Any:
    """The statement that a lowering has for this call; None if it has none."""
    return text(node.args, node.kwargs) if callable(text) else text


def _part_of(name: str, start: int, shape: tuple[int, ...]) -> str:
    text = f"{name}[{start}:{start + prod(shape)}]"
    return text if len(shape) == 1 else f"{text}.reshape({tuple(shape)})"


class Program:
    """Emitted source, compiled once, that can be run with other arrays bound to its names."""

    def __init__(self, name: str, source: str, library: Any = None) -> None:
        self.source, self._library = source, library
        self.file = f"<tinynn {name} {next(_serial)}>"
        self._code = compile(source, self.file, "exec")
        # Where tracebacks and debuggers look for it.
        linecache.cache[self.file] = (len(source), None, source.splitlines(True), self.file)
        finalize(self, linecache.cache.pop, self.file, None)

    @property
    def names(self) -> set[str]:
        """Every name in it, attributes too."""
        return _names(self._code)

    def __call__(self, bound: dict[str, Any]) -> dict[str, Any]:
        """What the source defines; names that are not bound are taken from the library."""
        scope = dict(bound)
        for name in self.names:
            if name not in scope and hasattr(self._library, name):
                scope[name] = getattr(self._library, name)
        exec(self._code, scope)  # the source is what this module wrote
        return scope


def _names(code: Any) -> set[str]:
    inner = [c for c in code.co_consts if hasattr(c, "co_names")]
    return set(code.co_names).union(*map(_names, inner))
