"""A step that is repeated over batches, as one program with the loop inside.

What lives on from step to step is kept in the program: `load` gives it values, `values` reads them.
`InPlace` changes it where it lies, for libraries that can write into arrays; `Functional` goes by
the standard's own calls; `Scanned` hands the whole loop to the library's compiler.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Self

import backends
from backends.lowering import entries
from tinynn.compiler.chains import chained
from tinynn.compiler.compiled import Compiled
from tinynn.compiler.content import Content
from tinynn.compiler.flatten_params import ParamLayout, packed
from tinynn.compiler.liveness import Stage, counted
from tinynn.compiler.passes import scaled
from tinynn.compiler.pipelines import applied, between_steps, into_buffers, portable
from tinynn.compiler.program import Program
from tinynn.compiler.renderer import Line, rendered, source_of
from tinynn.compiler.rewrite import RESHAPES, CannotEmit, elementwise, is_call, size
from tinynn.compiler.statements import (
    Assign,
    Blank,
    Call,
    Def,
    For,
    Return,
    Section,
    Statement,
    Tuple,
    Variable,
)
from tinynn.compiler.subprograms import ProgramEmitter
from tinynn.compiler.tiling import tiled
from tinynn.trace import Effect
from tinynn.transforms import vmap
from tinynn.transforms.graph import Graph, Node, pruned
from tinynn.transforms.record import RecordingError

_SQUARES = 64  # elements, whose squares are summed for all steps at once
_AT_ONCE = 512  # steps whose outputs have their places ready


class TrainLoop(ABC):
    """A program that repeats a step over batches.

    Parameters
    ----------
    graph
        One step. Its first outputs are the new values of its first inputs, in order; one
        more output is a 0-d array that is wanted of every step.
    kept
        How many inputs live on from step to step; the others come with each batch.
    backend
        Where it runs.
    rows
        The places, among the inputs that live on, of the parameters, and of what an
        optimizer keeps of each of them.

    Attributes
    ----------
    graph
        The step after all passes.
    source
        The program, as Python.
    lines
        The same, line by line, each with the value of the graph that a step computes in it.
    """

    def __init__(self, graph: Graph, kept: int, backend: Any, rows: Sequence[list[int]]) -> None:
        self.backend, self.rows, self.count = backend, rows, kept
        self.storage = ParamLayout(kept)
        graph, self.scale = self.prepared_graph(graph), 1.0
        if self.scales_behind:
            graph, self.scale = _without_scale(graph, self.count)
        graph, self.square = self.without_square(graph)
        self.graph, self.inputs = graph, graph.inputs[: self.count]
        self.streams, self.wanted = graph.inputs[self.count :], graph.outputs[self.count]
        self.counts = counted(self.inputs, graph) if self.counts_ahead else {}
        after = {id(i): o for i, o in zip(self.inputs, graph.outputs, strict=False)}
        streams = self.streams if self.looks_ahead else []
        lowering = backend.lowering
        out = {id(self.wanted): "out"} if self.collects else {}
        self.emitter = ProgramEmitter(graph, backend, streams, after, out, self.counts, lowering)
        self.lines = self.written()
        self.source = source_of(self.lines)
        self.program = Program(graph.name, self.source, lowering.library if lowering else None)
        self.functions: dict[str, Any] = {}
        self.kept: list[Any] = []

    @classmethod
    def written_by(cls, backend: Any) -> Any:
        """What writes programs of this kind, on that backend."""
        return backend.lowering

    def anew(self) -> Self:
        """The same program, with the same buffers, before anything is loaded."""
        other = copy(self)
        other.kept, other.functions = [], {}
        return other

    #: Whether what follows from the number of a step alone is computed for all steps at once, and
    #: what follows from a batch alone before the steps.
    counts_ahead = looks_ahead = True
    #: Whether what is wanted of a step is written to its place among those of all steps.
    collects = True
    #: Whether the last factor of what is wanted is multiplied with for all steps at once.
    scales_behind = True

    def prepared_graph(self, graph: Graph) -> Graph:
        """The graph after the passes for this way of running it."""
        return applied(graph, portable())

    def without_square(self, graph: Graph) -> tuple[Graph, Node | None]:
        """The graph without the sum of squares that is wanted, and that sum, or None."""
        return graph, None

    @abstractmethod
    def written(self) -> list[Line]:
        """The lines of the program."""

    def load(self, values: Sequence[Any]) -> None:
        """Start from copies of these carried values."""
        self.kept[:] = self.storage.stored(self.graph.space.xp, values)
        self.bind()

    def copies(self, reuse: Sequence[Any] | None = None) -> list[Any]:
        """Copies of what lives on, as it is kept; `reuse`: earlier ones, to be overwritten."""
        if reuse is None or self.backend.lowering is None:
            return list(map(self._copied, self.shaped()))
        for old, new in zip(reuse, self.shaped(), strict=True):
            old[...] = new
        return list(reuse)

    def handed_over(self) -> list[Any]:
        """What lives on, as it is kept; nothing runs after that before `load`."""
        given, self.functions = list(self.shaped()), {}
        self.kept.clear()
        return given

    def values(self, copies: Sequence[Any] | None = None) -> list[Any]:
        """The values that live on, as they are now or were when copied, in the order of `load`."""
        copies = self.copies() if copies is None else copies
        return self.storage.values(self.graph.space.xp, copies)

    def value(self, place: int) -> Any:
        """One of the values that live on, as it is now, at this place in the order of `load`."""
        if place in self.storage.others:
            return self.shaped()[len(self.storage.rows) + self.storage.others.index(place)]
        return self.values()[place]

    def _stacked(self, size: int, rows: Sequence[Any]) -> list[Any]:
        """Arrays cut into batches: (samples, ...) to (batches, size, ...)."""
        xp, count = self.graph.space.xp, rows[0].shape[0] // size
        stacked = [xp.reshape(a, (count, size, *a.shape[1:])) for a in rows]
        return [self.backend.shard_rows(a, 1) for a in stacked] if self.backend.sharded else stacked

    def _copied(self, array: Any) -> Any:
        if self.backend.lowering is None:
            return self.graph.space.xp.asarray(array, copy=True)
        copy = self._empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def _empty(self, shape: Any, dtype: Any) -> Any:
        return self.backend.lowering.empty(shape, dtype=dtype, device=self.backend.device)

    def shaped(self) -> list[Any]:
        """The arrays that live on, in the shapes of the inputs."""
        return self.kept

    def share(self, other: "TrainLoop") -> None:
        """Share the carried arrays with another program of the same network."""
        if self.storage != other.storage:
            raise RecordingError("the steps for batches of two sizes keep different values")
        self.kept = other.kept

    def bind(self) -> None:
        """Make the program ready for the arrays that live on now."""
        names = [variable.name for variable in self._operands(self.inputs)]
        bound = dict(zip(names, self.kept, strict=True))
        self.functions = self.program(self._from_outside() | bound)

    def _from_outside(self) -> dict[str, Any]:
        """What is bound to names of the program, the arrays of the run that has it among them."""
        arrays = {name: each.value for name, each in self.emitter.constants.items()}
        return self.emitter.names.bound | arrays

    def batches(
        self, size: int, rows: Sequence[Any], each: Sequence[Any], together: bool = False
    ) -> Any:
        """The argument of `run`: arrays cut into batches of `size`, and arrays of an entry a step.

        Parameters
        ----------
        size
            Of a batch.
        rows
            Arrays with a row for each sample.
        each
            Arrays with an entry for each step.
        together
            Compute what follows from each batch alone for all of them at once, which pays from the
            second time on.
        """
        stacked = [*self._stacked(size, rows), *each]
        lowering = self.backend.lowering
        together = together and all(map(backends.is_array, stacked))  # no batches of sparse rows
        if together and (lowering is None or all(map(lowering.together, rows))):
            columns = self._prepare_all(*stacked)
            return list(zip(*map(self._entries, columns), strict=True))
        with self.program.explained(self.lines):
            return [
                self.functions["prepare"](*batch)
                for batch in zip(*map(self._entries, stacked), strict=True)
            ]

    @cached_property
    def _prepare_all(self) -> Any:
        """`prepare` for all batches at once; recording that pays from the second time on."""
        outputs = list(self.read_in_steps[Stage.BATCH])
        # Effects belong to the steps: nothing that follows from a batch alone needs one.
        nodes = [node for node in self.graph.nodes if node.effect is Effect.NONE]
        graph = pruned(replace(self.graph, inputs=self.streams, nodes=nodes, outputs=outputs))

        def prepare(*batch: Any) -> tuple[Any, ...]:
            return tuple(graph.run(batch))

        return Compiled(vmap(prepare))

    def _entries(self, array: Any) -> Sequence[Any]:
        """The entries of an array that steps read, one for each."""
        lowering = self.backend.lowering
        of = entries if lowering is None else lowering.batches or lowering.entries
        return of(array)

    @abstractmethod
    def run(self, batches: Any, times: int = 1) -> Any:
        """A step for each of the batches, over and over; the output of each: (steps,)."""

    # Parts of the program.

    def ahead(self) -> list[Statement]:
        """Statements before the steps: what runs once, and functions whose results steps take."""
        statements = self.emitter.statements
        once: list[Statement] = statements[Stage.ONCE]
        once = [*once, Blank()] if once else []
        if not self.looks_ahead:
            return once
        batch = [*statements[Stage.BATCH], Return(self.prepared())]
        once += [Def("prepare", self._operands(self.streams), batch), Blank()]
        if series := self.series():
            body = [*statements[Stage.SERIES], Return(Tuple(series))]
            once += [Def("series", self._operands(self._counters()), body), Blank()]
        return once

    def prepared(self) -> Tuple:
        """The values that a step takes of each batch."""
        nodes = self.read_in_steps[Stage.BATCH] if self.looks_ahead else self.streams
        return Tuple(self._operands(nodes))

    def series(self) -> list[Any]:
        """The values that follow from the number of a step alone, as it takes them."""
        return self._operands(self.read_in_steps[Stage.SERIES]) if self.looks_ahead else []

    def _operands(self, nodes: Sequence[Node]) -> list[Any]:
        return [self.emitter.operand(node) for node in nodes]

    @cached_property
    def read_in_steps(self) -> dict[Stage, list[Node]]:
        """The values that steps read, by the stage in which they are computed."""
        when = self.emitter.liveness.when
        read = {id(output) for output in self.graph.outputs} - self.counts.keys()
        for node in self.graph.nodes:
            if when[id(node)] is Stage.STEP:
                read.update(map(id, node.parents))
        found: dict[Stage, list[Node]] = {stage: [] for stage in Stage}
        for value in (*self.graph.inputs, *self.graph.nodes):
            if id(value) in read:
                found[when[id(value)]].append(value)
        return found

    # Counters.

    def _counters(self) -> list[Node]:
        return [n for n in self.graph.nodes if id(n) in self.counts]

    def counted(self, count: int) -> list[Any]:
        """The values that follow from the number of the step alone, for each of the steps."""
        if "series" not in self.functions:
            return [()] * count
        xp, vectors = self.graph.space.xp, []
        for node in self._counters():
            steps = xp.arange(1, count + 1, dtype=node.dtype, device=self.backend.device)
            place = self.inputs.index(node.args[0])
            vectors.append(self.kept[place] + self.counts[id(node)] * steps)
        columns = map(self._entries, self.functions["series"](*vectors))
        return list(zip(*columns, strict=True))

    def count_on(self, count: int) -> None:
        """Advance the counters by so many steps."""
        for node in self._counters():
            place = self.inputs.index(node.args[0])
            after = self.kept[place] + self.counts[id(node)] * count
            self.kept[place] = self.graph.space.xp.asarray(after)

    def wanted_of(self, outs: Any) -> Any:
        """The output of every step, from what the program gave."""
        return outs if self.scale == 1 else outs * self.scale


class InPlace(TrainLoop):
    """Parameters, optimizer state and every result in memory that is there from the start."""

    _parts: tuple[Any, Sequence[Any]] | None = None

    def prepared_graph(self, graph: Graph) -> Graph:
        lowering = self.backend.lowering
        graph, self.storage = packed(applied(graph, into_buffers(lowering)), self.rows, self.count)
        self.count = self.storage.count
        return applied(graph, between_steps(lowering, self.count))

    def without_square(self, graph: Graph) -> tuple[Graph, Node | None]:
        """Sums of few squares are computed for all steps at once, behind them."""
        wanted, lowering = graph.outputs[self.count], self.backend.lowering
        if lowering.kernel is not None or not is_call(wanted) or wanted.name != "vecdot":
            return graph, None
        value: Any = wanted.args[0]
        if wanted.args[1] is not value or not lowering.together(self._empty((1,), wanted.dtype)):
            return graph, None  # or what a step alone may round otherwise
        if is_call(value) and value.name in RESHAPES:
            value = value.args[0]
        if not elementwise(value) or value.dtype != wanted.dtype or size(value) > _SQUARES:
            return graph, None
        return _with_wanted(graph, self.count, value), wanted

    def load(self, values: Sequence[Any]) -> None:
        with self.backend.scope():
            self.kept[:] = self.storage.written(self._empty, values)
        self.bind()

    def written(self) -> list[Line]:
        lowering = self.backend.lowering
        kernels, whole = lowering.kernel is not None, self.emitter
        step = chained(whole, lowering.kernel) if kernels else tiled(whole, lowering.piece)
        body: list[Statement] = [Section(step)]
        ahead, series = self.ahead(), self.series()
        out = self.emitter.collected[id(self.wanted)]
        columns = [self.prepared(), *([Tuple(series)] if series else []), out]
        batches, counted, outs = map(Variable, ("batches", "counted", "outs"))
        rows = [batches, *([counted] if series else []), outs]
        loop = For(Tuple(columns, bare=True), Call("zip", *rows), body)
        program: list[Statement] = [*ahead, Def("run", [batches, counted, outs], [loop])]
        if self.square is not None:
            function = self.emitter.names.function("vecdot", self.square.function.raw)
            after = Return(Call(function, outs, outs), self.square)
            program += [Blank(), Def("losses", [outs], [after])]
        return rendered(program)

    def run(self, batches: Any, times: int = 1) -> Any:
        batches = batches * times
        count, counted = len(batches), self.counted(len(batches))
        explained = self.program.explained(self.lines)
        with self.backend.scope(), self.backend.lowering.context(), explained:
            if count <= _AT_ONCE:
                outs = self._some(batches, counted, *self._places(count))
            else:
                outs = self._in_parts(batches, counted)
        self.count_on(count)
        return self.wanted_of(outs)

    def _in_parts(self, batches: Sequence[Any], counted: Sequence[Any]) -> Any:
        """Many steps, with the same entries time after time, which take long to be made."""
        self._parts = self._parts or self._places(_AT_ONCE)
        outs = self._empty((len(batches),), self.wanted.dtype)
        for start in range(0, len(batches), _AT_ONCE):
            now = slice(start, start + _AT_ONCE)
            outs[now] = self._some(batches[now], counted[now], *self._parts)
        return outs

    def _places(self, count: int) -> tuple[Any, Sequence[Any]]:
        """Memory for what the program keeps of so many steps, and its entries."""
        memory = self._empty((count, *self.wanted.shape), self.wanted.dtype)
        return memory, self.backend.lowering.entries(memory)

    def _some(
        self, batches: Sequence[Any], counted: Sequence[Any], memory: Any, entries: Sequence[Any]
    ) -> Any:
        """What is wanted of these steps."""
        self.functions["run"](batches, counted, entries)
        kept = memory[: len(batches)] if len(batches) < len(entries) else memory
        if self.square is None:
            return kept
        return self.functions["losses"](self.graph.space.xp.reshape(kept, (len(batches), -1)))


class Functional(TrainLoop):
    """The standard's own calls: every step makes new arrays of what lives on."""

    collects = False

    def written(self) -> list[Line]:
        ahead, series = self.ahead(), self.series()
        names = self._operands(self.inputs)
        kept, batch, counted = map(Variable, ("kept", "batch", "counted"))
        body: list[Statement] = [Assign(Tuple(names, bare=True), kept)]
        body.append(Assign(self.prepared(), batch))
        if series:
            body.append(Assign(Tuple(series, bare=True), counted))
        body.append(Section(self.emitter.statements[Stage.STEP]))
        body.append(Return(Tuple([Tuple(names), self.emitter.operand(self.wanted)], bare=True)))
        return rendered([*ahead, Def("step", [kept, batch, counted], body)])

    def run(self, batches: Any, times: int = 1) -> Any:
        batches, outs = batches * times, []
        step, kept = self.functions["step"], tuple(self.kept)
        with self.program.explained(self.lines):
            for batch, series in zip(batches, self.counted(len(batches)), strict=True):
                kept, out = step(kept, batch, series)
                outs.append(out)
        self.kept[:] = kept
        self.count_on(len(batches))
        return self.wanted_of(self.graph.space.xp.stack(outs))


class Scanned(Functional):
    """The library's own compiler has the whole loop."""

    counts_ahead = looks_ahead = scales_behind = False
    # How often the batches are gone through in one call: each of these is compiled apart.
    repeats = (512, 16, 1)
    # Loops by all that they are made of, since compiling one takes a second, and the functions that
    # keep what is known by its id alive.
    _compiled: ClassVar[dict[Any, tuple[Any, dict[str, Any]]]] = {}
    _most = 16

    def prepared_graph(self, graph: Graph) -> Graph:
        for node in graph.effects:  # a compiler would carry it out once, while it compiles
            raise CannotEmit(
                f"{node.name} at {node.origin} {node.effect}, which {self.backend!r} would do only "
                "once, while it compiles the loop"
            )
        return super().prepared_graph(graph)

    def bind(self) -> None:
        """Make the function that is given, in each call, what lives on."""
        bound = self._from_outside()
        parts = [(name, Content(self.backend).of_captured(bound[name])) for name in sorted(bound)]
        key = (self.backend, self.source, *parts)
        found = self._compiled.get(key)  # which another thread may remove meanwhile
        if found is None:
            functions = self.program(bound)
            repeat = self.backend.repeat(lambda kept, batch: functions["step"](kept, batch, ()))
            while len(self._compiled) >= self._most:
                self._compiled.pop(next(iter(self._compiled), None), None)
            found = self._compiled[key] = repeat, functions
        self._repeat, self.functions = found

    def batches(
        self, size: int, rows: Sequence[Any], each: Sequence[Any], together: bool = False
    ) -> Any:
        return (*self._stacked(size, rows), *each)

    def run(self, batches: Any, times: int = 1) -> Any:
        outs = []
        for repeats in self.repeats:
            for _ in range(times // repeats):
                kept, out = self._repeat(tuple(self.kept), batches, repeats)
                self.kept[:] = kept
                outs.append(out)
            times %= repeats
        return self.backend.joined(outs)


def _without_scale(graph: Graph, kept: int) -> tuple[Graph, float]:
    """The graph without the last factor of the wanted output, which is multiplied with later."""
    scale, wanted = 1.0, graph.outputs[kept]
    while (factors := scaled(wanted)) is not None and factors[0].dtype == wanted.dtype:
        wanted, scale = factors[0], scale * factors[1]
    return _with_wanted(graph, kept, wanted), scale


def _with_wanted(graph: Graph, kept: int, wanted: Any) -> Graph:
    """The graph with another output that is wanted."""
    outputs = [*graph.outputs[:kept], wanted, *graph.outputs[kept + 1 :]]
    return pruned(replace(graph, outputs=outputs))
