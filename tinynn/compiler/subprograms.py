"""Calls that run a graph, as programs of their own: `scan`, `cond`, `while_loop`.

A scan is a loop over calls into buffers, with its carry in memory that stays. Libraries without a
lowering run such a call as `Backend.scan` and `Backend.cond` do.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Any

from tinynn.compiler.buffers import Buffer, Value
from tinynn.compiler.calls import CallEmitter
from tinynn.compiler.liveness import Stage, root
from tinynn.compiler.pipelines import applied, decompositions, for_library
from tinynn.compiler.program import Program
from tinynn.compiler.renderer import rendered, source_of
from tinynn.compiler.rewrite import is_call
from tinynn.compiler.statements import (
    Assign,
    Call,
    Def,
    Expression,
    For,
    List,
    Return,
    Section,
    Statement,
    Subscript,
    Tuple,
    Variable,
)
from tinynn.transforms.graph import COPIED, ITEM, Graph, Input, Node
from tinynn.transforms.record import recorded


class ProgramEmitter(CallEmitter):
    """An emitter whose programs call programs of their own where a call runs graphs.

    Attributes
    ----------
    nested
        Those programs, by the id of the call.
    """

    nested: Mapping[int, Any] = {}

    def _call(self, node: Node) -> Expression:
        graphs = [value for value in node.kwargs.values() if isinstance(value, Graph)]
        if not graphs or self.lowering is None:
            return super()._call(node)
        name = self.names.new(f"{node.name.rpartition('.')[2]}_0")
        operands = list(map(self.operand, node.args))
        program: Any
        if node.name == "scan":
            values = [self.values[id(a)] for a in node.args]
            staying = {i for i, v in enumerate(values) if v.buffer and not v.buffer.anew}
            program = Scan(name, self.backend, node, staying, self._given_away(node))
        else:
            program = Branches(name, self.backend, node)
        self.nested = {**self.nested, id(node): program}
        self.names.bound[name] = program
        return Call(name, *operands)

    def _given_away(self, scan: Node) -> set[int]:
        """The numbers of the results that somebody may have when the scan is carried out again."""
        items = [node for node in self.graph.nodes if scan in node.args and node.function is ITEM]
        once = self.liveness.when[id(scan)] is not Stage.STEP
        outputs = self.liveness.outputs
        return {n.kwargs["index"] for n in items if once or id(n) in outputs}

    def _new(self, node: Node, when: Stage) -> None:
        program = self.nested.get(id(node.args[0])) if node.function is ITEM else None
        memory = program.staying.get(node.kwargs["index"]) if isinstance(program, Scan) else None
        if memory is None:
            return super()._new(node, when)
        buffer = Buffer(self.names.numbered("r"), node.shape, node.dtype, kept=True)
        self.names.bound[buffer.name] = memory
        self.values[id(node)] = Value(buffer, buffer)
        return None

    def sources(self) -> str:
        """The sources of the programs that it calls."""
        return "".join(f"{program.source}\n" for program in self.nested.values())


class _StepEmitter(ProgramEmitter):
    """An emitter of a scan's step, to which views of the entries are given like the entries.

    Attributes
    ----------
    views
        Those views: the variable, that of the entry, and the function from all entries to all
        views.
    """

    views: tuple[tuple[Any, Any, Callable[[Any], Any]], ...] = ()

    def _add(self, when: Stage, statement: Statement) -> None:
        if when is Stage.ONCE and isinstance(statement, Assign):
            seen = statement.value
            if isinstance(seen, Subscript) and self._is_entry(seen.owner):
                self.views += ((statement.target, seen.owner, _slices(seen.key)),)
                return
        super()._add(when, statement)

    def _is_entry(self, variable: Any) -> bool:
        """True for what another array is in each step."""
        streams = [i for i in self.graph.inputs if id(i) not in self.kept]
        entries = [self.values[id(i)].variable for i in streams]
        entries += [*self.collected.values(), *[view[0] for view in self.views]]
        return any(variable is entry for entry in entries)

    def _hoisted(self, node: Node) -> bool:
        whole = self.operand(node.args[0])
        sliced = node.name == "getitem" and node.shape != ()
        if not self._is_entry(whole) or not (sliced or node.name == "matrix_transpose"):
            return super()._hoisted(node)
        view = Variable(self.names.new(f"{whole.name}_1"), node.shape)
        turned = self.graph.space.xp.matrix_transpose
        self.views += ((view, whole, _slices(node.kwargs["key"]) if sliced else turned),)
        self.values[id(node)] = Value(view, self.values[id(node.args[0])].buffer, False)
        return True

    def _is_joined_here(self, whole: Node) -> bool:
        return id(whole) in self.collected or super()._is_joined_here(whole)


class Scan:
    """A scan for arrays of one set of shapes: `scan(*consts, *carry, *xs)`.

    What is carried is in memory that stays; where all its values are results, it is written to its
    place among them in each step.

    Parameters
    ----------
    name
        The name of the loop in its source.
    backend
        Where it runs.
    node
        The call.
    fixed
        The places of arguments that are the same arrays in every call.
    given
        The numbers of results that are given away. The others stay in memory of the scan, and are
        there until it is called again.

    Attributes
    ----------
    source
        The loop, as Python.
    staying
        The memory of results that stays, by their numbers.
    """

    def __init__(
        self, name: str, backend: Any, node: Node, fixed: Container[int], given: Container[int]
    ) -> None:
        carries, start = node.kwargs["carries"], node.kwargs["consts"] + node.kwargs["carries"]
        self._backend, self._lowering = backend, backend.lowering
        self._length, self._reverse = node.kwargs["length"], node.kwargs["reverse"]
        graph = _prepared(node.kwargs["body"], backend)
        self._given, self._carries = given, carries
        self._seen: dict[int, Any] = {}
        carry, xs = graph.inputs[start - carries : start], graph.inputs[start:]
        rolled = _rolled(carry, graph.outputs)
        graph, ys = _ys_copied(graph, carries, rolled)
        stay = [value for value in graph.inputs[:start] if id(value) not in rolled]
        after = dict(zip(map(id, carry), graph.outputs, strict=False))
        kept = {id(value): after.get(id(value), value) for value in stay}
        names = {id(y): f"y{i}" for i, y in enumerate(ys)}
        names |= {id(new): f"next{i}" for i, new in enumerate(rolled.values())}
        emitter = _StepEmitter(
            graph, backend, [], kept, names, lowering=self._lowering, reserved=[name]
        )
        collected = [emitter.collected[id(value)] for value in (*rolled.values(), *ys)]
        before = [each for each in carry if id(each) in rolled]
        columns = [*map(emitter.operand, (*xs, *before)), *collected]
        self._views: list[tuple[int, Any]] = [(number, None) for number in range(len(columns))]
        for view, whole, look in emitter.views:
            self._views.append((columns.index(whole), look))
            columns.append(view)
        body: list[Statement] = [Section(emitter.statements[Stage.STEP])]
        rows = [Variable(f"all_{column.name}") for column in columns]
        loop = For(Tuple(columns, bare=True), Call("zip", *rows), body)
        if not rows:
            steps = Variable(emitter.names.bind("steps", range(self._length)))
            loop = For(Variable("_"), steps, body)
        own = source_of(rendered([*emitter.statements[Stage.ONCE], Def(name, rows, [loop])]))
        self.source = emitter.sources() + own
        self._allocate(graph.inputs[:start], graph.outputs, rolled, ys)
        self._fixed = {number for number in range(len(xs)) if start + number in fixed}
        self._fixed.update(range(len(xs), len(xs) + 2 * len(rolled)))
        behind = len(xs) + 2 * len(rolled)
        self._fixed.update(behind + i for i, y in enumerate(self._own) if y is not None)
        firsts = dict(zip(map(id, graph.inputs), self._firsts, strict=False))
        bound = {emitter.operand(value).name: firsts[id(value)] for value in stay}
        program = Program(name, own, self._lowering.library)
        self._run = program(emitter.names.bound | bound)[name]

    def _allocate(self, stay: list[Any], outputs: list[Any], rolled: Any, ys: list[Any]) -> None:
        """The memory of what is carried, and of results that stay."""
        carries, count = self._carries, len(stay) - self._carries
        self._firsts, results, wholes = [], [], []
        for place, value in enumerate(stay):
            if id(value) in rolled:
                whole = self._empty((self._length + 1, *value.shape), value.dtype)
                ends = [whole[0, ...], whole[-1, ...]][:: -1 if self._reverse else 1]
                halves = [whole[:-1, ...], whole[1:, ...]][:: -1 if self._reverse else 1]
                wholes.append((value, rolled[id(value)], halves))
            else:
                ends = [self._empty(value.shape, value.dtype)] * 2
            self._firsts.append(ends[0])
            results += [ends[1]] if place >= count else []
        self._halves = [halves[0] for *_, halves in wholes] + [halves[1] for *_, halves in wholes]
        seen = {
            id(v): half for *pair, halves in wholes for v, half in zip(pair, halves, strict=True)
        }
        self._kinds = [((self._length, *y.shape), y.dtype) for y in ys]
        numbers = {id(y): i for i, y in enumerate(ys)}
        self._own: list[Any] = [None] * len(ys)
        for place, value in enumerate(outputs[carries:], carries):
            if id(value) in seen:
                results.append(seen[id(value)])
            elif place not in self._given:
                self._own[numbers[id(value)]] = self._empty(*self._kinds[numbers[id(value)]])
                results.append(self._own[numbers[id(value)]])
            else:
                results.append(numbers[id(value)])
        self._results = results
        self.staying = {i: r for i, r in enumerate(results) if i not in self._given}

    def _empty(self, shape: Any, dtype: Any) -> Any:
        return self._lowering.empty(tuple(shape), dtype=dtype, device=self._backend.device)

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        for memory, value in zip(self._firsts, args, strict=False):
            memory[...] = value
        own = [
            self._empty(*kind) if y is None else y
            for y, kind in zip(self._own, self._kinds, strict=True)
        ]
        arrays = [*args[len(self._firsts) :], *self._halves, *own]
        self._run(*[self._entries(number, arrays) for number in range(len(self._views))])
        results = []
        for number, result in enumerate(self._results):
            if type(result) is int:
                results.append(own[result])
            else:
                results.append(self._copied(result) if number in self._given else result)
        return tuple(results)

    def _entries(self, number: int, arrays: list[Any]) -> Any:
        """The entries of a column, or a view of each; those of memory that stays are made once."""
        source = self._source(number)
        seen, entries = self._seen.get(number, (None, None))
        if seen is not arrays[source]:
            entries = self._lowering.entries(self._view(number, arrays))
            entries = entries[::-1] if self._reverse else entries
            if source in self._fixed:
                self._seen[number] = arrays[source], entries
        return entries

    def _source(self, number: int) -> int:
        whole, look = self._views[number]
        return number if look is None else self._source(whole)

    def _view(self, number: int, arrays: list[Any]) -> Any:
        whole, look = self._views[number]
        return arrays[number] if look is None else look(self._view(whole, arrays))

    def _copied(self, memory: Any) -> Any:
        copy = self._empty(memory.shape, memory.dtype)
        copy[...] = memory
        return copy


class Branches:
    """A call that runs some of its graphs: `cond`, `while_loop`.

    Attributes
    ----------
    source
        The graphs' programs, as Python.
    """

    def __init__(self, name: str, backend: Any, node: Node) -> None:
        self._raw, self._kwargs, self.source = node.function.raw, dict(node.kwargs), ""
        for key, value in node.kwargs.items():
            if isinstance(value, Graph):
                self._kwargs[key], source = _function(f"{name}_{key}", value, backend)
                self.source += source

    def __call__(self, *args: Any) -> Any:
        return self._raw(*args, **self._kwargs)


def _prepared(graph: Graph, backend: Any) -> Graph:
    """The graph after the passes for calls into buffers."""
    lowering, xp = backend.lowering, graph.space.xp
    ones = [
        xp.ones(tuple(value.shape), dtype=value.dtype, device=backend.device)
        for value in graph.inputs
    ]

    def body(*values: Any) -> list[Any]:
        return graph.run(values)

    with backend.quiet(), lowering.recording():
        again = recorded(body, tuple(ones), decompositions(lowering))
    labels = [value.label for value in graph.inputs]
    for value, label in zip(again.inputs, labels, strict=True):
        value.label = label
    return applied(replace(again, name=graph.name), for_library(lowering))


def _slices(key: Any) -> Callable[[Any], Any]:
    """The view of an array that has this view of each of its entries."""
    keys = key if isinstance(key, tuple) else (key,)
    return lambda array: array[(slice(None), *keys)]


def _rolled(carry: list[Input], outputs: list[Any]) -> dict[int, Node]:
    """The new values of what is carried and is a result as well, before or after each step."""
    news, ys = outputs[: len(carry)], outputs[len(carry) :]
    found = {}
    for value, new in zip(carry, news, strict=True):
        among = any(y is value or y is new for y in ys)
        own = is_call(new) and root(new) is new and sum(other is new for other in news) == 1
        if among and own:
            found[id(value)] = new
    return found


def _ys_copied(graph: Graph, carries: int, rolled: Mapping[int, Node]) -> tuple[Graph, list[Any]]:
    """The graph with a copy wherever a y is no result of the step: its memory may be another's.

    And the ys that are not among the values of what is `rolled`.
    """
    outputs, copies = list(graph.outputs), []
    known = {*rolled, *map(id, rolled.values())}
    for place, value in enumerate(outputs[carries:], carries):
        if id(value) in known:
            continue
        twin = any(value is other for other in outputs[:place])
        if not is_call(root(value)) or twin:
            copies.append(Node(COPIED, (value,), {}, value.shape, value.dtype))
            outputs[place] = copies[-1]
    # Of a value that is carried before the step writes over it; of a result once it is there.
    nodes = [copy for copy in copies if not is_call(copy.args[0])]
    for node in graph.nodes:
        nodes.append(node)
        nodes += [copy for copy in copies if copy.args[0] is node]
    ys = [y for y in outputs[carries:] if id(y) not in known]
    return replace(graph, nodes=nodes, outputs=outputs), ys


def _function(name: str, graph: Graph, backend: Any) -> tuple[Callable[..., list[Any]], str]:
    """The graph as a function of arrays that gives new ones, and its source."""
    graph = _prepared(graph, backend)
    emitter = ProgramEmitter(graph, backend, [], {}, lowering=backend.lowering, reserved=[name])
    given = [emitter.operand(value) for value in graph.inputs]
    result = Return(List([emitter.operand(value) for value in graph.outputs]))
    step: list[Statement] = [Section(emitter.statements[Stage.STEP]), result]
    own = source_of(rendered([*emitter.statements[Stage.ONCE], Def(name, given, step)]))
    program = Program(name, own, backend.lowering.library)
    return program(emitter.names.bound)[name], emitter.sources() + own
