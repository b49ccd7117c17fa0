"""Calls that run a graph, as programs of their own: `scan`, `cond`, `while_loop`.

A scan is a loop over calls into buffers, with its carry in memory that stays. Libraries without a
lowering run such a call as `Backend.scan` and `Backend.cond` do.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tinynn.compiler.calls import CallEmitter
from tinynn.compiler.liveness import Stage, root
from tinynn.compiler.pipelines import applied, decompositions, into_buffers
from tinynn.compiler.program import Program
from tinynn.compiler.renderer import rendered, source_of
from tinynn.compiler.rewrite import is_call
from tinynn.compiler.statements import (
    Call,
    Def,
    Expression,
    For,
    List,
    Return,
    Section,
    Statement,
    Tuple,
    Variable,
)
from tinynn.transforms.graph import COPIED, Graph, Node
from tinynn.transforms.record import recorded


class ProgramEmitter(CallEmitter):
    """An emitter whose programs call programs of their own where a call runs graphs.

    Attributes
    ----------
    nested
        Those programs.
    """

    nested: tuple[Any, ...] = ()

    def _call(self, node: Node) -> Expression:
        graphs = [value for value in node.kwargs.values() if isinstance(value, Graph)]
        if not graphs or self.lowering is None:
            return super()._call(node)
        kind = Scan if node.name == "scan" else Branches
        name = self.names.new(f"{node.name.rpartition('.')[2]}_0")
        program = kind(name, self.backend, node)
        self.nested += (program,)
        self.names.bound[name] = program
        return Call(name, *map(self.operand, node.args))

    def sources(self) -> str:
        """The sources of the programs that it calls."""
        return "".join(f"{program.source}\n" for program in self.nested)


class Scan:
    """A scan for arrays of one set of shapes: `scan(*consts, *carry, *xs)`.

    Attributes
    ----------
    source
        The loop, as Python.
    """

    def __init__(self, name: str, backend: Any, node: Node) -> None:
        consts, carries = node.kwargs["consts"], node.kwargs["carries"]
        length, reverse = node.kwargs["length"], node.kwargs["reverse"]
        self._backend, self._lowering = backend, backend.lowering
        self._length, self._reverse = length, reverse
        graph = _ys_copied(_prepared(node.kwargs["body"], backend), consts + carries, carries)
        self._stay, streams = graph.inputs[: consts + carries], graph.inputs[consts + carries :]
        self._carry, self._ys = slice(consts, consts + carries), graph.outputs[carries:]
        after = dict(zip(map(id, self._stay[consts:]), graph.outputs, strict=False))
        kept = {id(value): after.get(id(value), value) for value in self._stay}
        ys = {id(y): f"y{i}" for i, y in enumerate(self._ys)}
        emitter = ProgramEmitter(
            graph, backend, [], kept, ys, lowering=self._lowering, reserved=[name]
        )
        collected = [emitter.collected[id(y)] for y in self._ys]
        columns = [*map(emitter.operand, streams), *collected]
        body: list[Statement] = [Section(emitter.statements[Stage.STEP])]
        for y, out in zip(self._ys, collected, strict=True):
            if emitter.operand(y) is not out:
                body.append(emitter.copied(emitter.operand(y), out))
        rows = [Variable(f"all_{column.name}") for column in columns]
        loop = For(Tuple(columns, bare=True), Call("zip", *rows), body)
        if not rows:
            steps = Variable(emitter.names.bind("steps", range(length)))
            loop = For(Variable("_"), steps, body)
        own = source_of(rendered([*emitter.statements[Stage.ONCE], Def(name, rows, [loop])]))
        self.source = emitter.sources() + own
        self._memory = [self._empty(value.shape, value.dtype) for value in self._stay]
        names = [emitter.operand(value).name for value in self._stay]
        program = Program(name, own, self._lowering.library)
        bound = emitter.names.bound | dict(zip(names, self._memory, strict=True))
        self._run = program(bound)[name]

    def _empty(self, shape: Any, dtype: Any) -> Any:
        return self._lowering.empty(tuple(shape), dtype=dtype, device=self._backend.device)

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        stay, xs = args[: len(self._stay)], args[len(self._stay) :]
        for memory, value in zip(self._memory, stay, strict=True):
            memory[...] = value
        ys = [self._empty((self._length, *y.shape), y.dtype) for y in self._ys]
        columns = [self._lowering.entries(array) for array in (*xs, *ys)]
        if self._reverse:
            columns = [column[::-1] for column in columns]
        self._run(*columns)
        return (*map(self._copied, self._memory[self._carry]), *ys)

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
    return applied(replace(again, name=graph.name), into_buffers(lowering))


def _ys_copied(graph: Graph, stay: int, carries: int) -> Graph:
    """The graph with a copy wherever a y is no result of the step: its memory may be another's."""
    outputs, copies = list(graph.outputs), []
    for place, value in enumerate(outputs[carries:], carries):
        twin = any(value is other for other in outputs[:place])
        if not is_call(root(value)) or twin:
            copies.append(Node(COPIED, (value,), {}, value.shape, value.dtype))
            outputs[place] = copies[-1]
    # Of a value that is carried before the step writes over it; of a result once it is there.
    nodes = [copy for copy in copies if not is_call(copy.args[0])]
    for node in graph.nodes:
        nodes.append(node)
        nodes += [copy for copy in copies if copy.args[0] is node]
    return replace(graph, nodes=nodes, outputs=outputs)


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
