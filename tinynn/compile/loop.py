"""A step that is repeated, as one program with the loop inside."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from math import prod
from typing import Any

from tinynn.compile.calls import Program, Writer
from tinynn.compile.flat import layout_of, packed
from tinynn.compile.passes import products, scaled, simplified
from tinynn.compile.plan import When, counted
from tinynn.compile.rewrite import pruned
from tinynn.transforms.record import Graph, Node, RecordingError


class Loop:
    """A program that repeats a step over batches.

    Args:
        graph: one step. Its first outputs are the new values of its first inputs, in order; one
            more output is a 0-d array that is wanted of every step.
        kept: how many inputs live on from step to step; the others come with each batch.
        backend: where it runs.
        rows: the places, among the inputs that live on, of the parameters, and of what an
            optimizer keeps of each of them; they may be stored side by side.

    Attributes:
        source: the program, as Python.
    """

    def __init__(self, graph: Graph, kept: int, backend: Any, rows: Sequence[list[int]]) -> None:
        self.backend, self.dialect = backend, backend.dialect
        self._rows = list(rows)
        self._layout: Any = None
        graph = simplified(graph)
        if self.dialect:
            graph, kept = self._side_by_side(products(graph), kept)
        graph, self._scale = _without_scale(graph, kept)
        self.graph, self._kept_inputs = graph, graph.inputs[:kept]
        streams, self._wanted = graph.inputs[kept:], graph.outputs[kept]
        after = {id(i): o for i, o in zip(self._kept_inputs, graph.outputs, strict=False)}
        self._counts = counted(after, self._kept_inputs, graph)
        writer = Writer(graph, backend, streams, after, self._wanted, self._counts)
        self._writer = writer
        self._names = [writer.spell(i) for i in self._kept_inputs]
        self._given = [writer.spell(i) for i in streams]
        self._series = [n for n in graph.nodes if writer.plan.when[id(n)] is When.SERIES]
        self.source = self._source()
        library = self.dialect.library if self.dialect else None
        self._program = Program(graph.name, self.source, library)
        self._scope: dict[str, Any] = {}
        self.kept: list[Any] = []

    def _side_by_side(self, graph: Graph, kept: int) -> tuple[Graph, int]:
        """The graph with one vector for all parameters, if it can be; and how many inputs stay."""
        flat = packed(graph, self._rows) if self._rows and self._rows[0] else None
        if flat is None:
            return graph, kept
        self._layout = layout_of([graph.inputs[place] for place in self._rows[0]])
        gone = {place for row in self._rows for place in row}
        self._others = [place for place in range(kept) if place not in gone]
        return flat, len(self._rows) + len(self._others)

    # Writing.

    def _source(self) -> str:
        lines = self._writer.lines
        texts = {when: [text for text, _ in lines[when]] for when in When}
        prepared = _listed([self._writer.spell(n) for n in self._read_in_steps(When.BATCH)])
        counts = [self._writer.spell(n) for n in self._series if id(n) in self._counts]
        series = _listed([self._writer.spell(n) for n in self._read_in_steps(When.SERIES)])
        text = [*texts[When.ONCE], ""]
        text += _function(f"prepare({', '.join(self._given)})", texts[When.BATCH], prepared)
        text += _function(f"series({', '.join(counts)})", texts[When.SERIES], series)
        step = _commented(lines[When.STEP])
        wanted = self._writer.spell(self._wanted)
        if self.dialect:
            if wanted != "out":
                step.append(self.dialect.into["copy"].text.format(wanted, out="out"))
            text += ["def run(batches, counted, outs):"]
            text += [f"    for ({prepared}), ({series}), out in zip(batches, counted, outs):"]
            return "\n".join([*text, *_indented(step, 2)]) + "\n"
        kept = _listed(self._names)
        text += ["def run(kept, batches, counted):", "    outs = []", f"    {kept} = kept"]
        text += [f"    for ({prepared}), ({series}) in zip(batches, counted):"]
        text += [*_indented(step, 2), f"        outs.append({wanted})", f"    return ({kept}), outs"]
        return "\n".join(text) + "\n"

    def _read_in_steps(self, when: When) -> list[Node]:
        """What the steps read of the values that are computed so often."""
        plan = self._writer.plan
        read = {id(self._wanted)}
        for node in self.graph.nodes:
            if plan.when[id(node)] is When.STEP:
                read.update(id(a) for a in node.parents)
        values = [*self.graph.inputs, *self.graph.nodes]
        return [n for n in values if id(n) in read and plan.when[id(n)] is when]

    # Running.

    def load(self, values: Sequence[Any]) -> None:
        """Start from these values of what lives on; they are copied."""
        xp = self.graph.space.xp
        kept = [xp.asarray(value, copy=True) for value in values]
        if self._layout is not None:
            flat = [
                xp.concat([xp.reshape(kept[place], (-1,)) for place in row]) for row in self._rows
            ]
            kept = flat + [kept[place] for place in self._others]
        self.kept[:] = kept
        self.bind()

    def share(self, other: "Loop") -> None:
        """Let what lives on be that of another program of the same network."""
        if self._layout != other._layout or len(self._kept_inputs) != len(other._kept_inputs):
            raise RecordingError("the steps for batches of two sizes keep different values")
        self.kept = other.kept

    def bind(self) -> None:
        """Make the program ready for the arrays that live on now."""
        bound = self._writer.names.bound | dict(zip(self._names, self.kept, strict=True))
        self._scope = self._program(bound)

    def values(self) -> list[Any]:
        """What lives on, as it is now: copies, in the order of `load`."""
        xp = self.graph.space.xp
        kept = [xp.asarray(value, copy=True) for value in self.kept]
        if self._layout is None:
            return kept
        out: dict[int, Any] = {}
        for row, vector in zip(self._rows, kept, strict=False):
            for place, start, shape in zip(row, *self._layout[1::-1], strict=True):
                out[place] = xp.reshape(vector[start : start + prod(shape)], shape)
        out.update(zip(self._others, kept[len(self._rows) :], strict=True))
        return [out[place] for place in sorted(out)]

    def prepared(self, batches: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """What the steps need of each batch: the arrays, and what follows from them alone."""
        return [self._scope["prepare"](*batch) for batch in batches]

    def run(self, batches: list[tuple[Any, ...]], times: int = 1) -> Any:
        """A step for each prepared batch, over and over; what was wanted of every step: (steps,)."""
        batches = batches * times
        count, xp = len(batches), self.graph.space.xp
        with (self.dialect.context if self.dialect else nullcontext)():
            counted = self._counted(count)
            if self.dialect:
                wanted = self._wanted
                outs = xp.empty(count, dtype=wanted.dtype, device=self.backend.device)
                self._scope["run"](batches, counted, [outs[i, ...] for i in range(count)])
            else:
                self.kept[:], each = self._scope["run"](self.kept, batches, counted)
                outs = xp.stack(each)
        self._count_on(count)
        return outs if self._scale == 1 else outs * self._scale

    def _counted(self, count: int) -> list[Any]:
        """What depends on the number of the step alone, for each of the steps."""
        xp, vectors = self.graph.space.xp, []
        for place, each in enumerate(self._kept_inputs):
            by = self._counts.get(id(self.graph.outputs[place]))
            if by is not None and id(self.graph.outputs[place]) in map(id, self._series):
                steps = xp.arange(1, count + 1, dtype=each.dtype, device=self.backend.device)
                vectors.append(self.kept[place] + by * steps)
        if not self._read_in_steps(When.SERIES):
            return [()] * count
        series = self._scope["series"](*vectors)
        return list(zip(*[[v[i, ...] for i in range(count)] for v in series], strict=True))

    def _count_on(self, count: int) -> None:
        for place in range(len(self._kept_inputs)):
            by = self._counts.get(id(self.graph.outputs[place]))
            if by is not None:
                xp = self.graph.space.xp
                self.kept[place] = xp.asarray(self.kept[place] + by * count)


def _without_scale(graph: Graph, kept: int) -> tuple[Graph, float]:
    """The graph without the last factor of the wanted output, which is multiplied with later."""
    scale, wanted = 1.0, graph.outputs[kept]
    while (factors := scaled(wanted)) is not None and factors[0].dtype == wanted.dtype:
        wanted, scale = factors[0], scale * factors[1]
    outputs = [*graph.outputs[:kept], wanted, *graph.outputs[kept + 1 :]]
    return pruned(replace(graph, outputs=outputs)), scale


def _function(head: str, lines: list[str], result: str) -> list[str]:
    return [f"def {head}:", *_indented(lines, 1), f"    return ({result})", ""]


def _listed(names: list[str]) -> str:
    """The inside of a tuple."""
    return ", ".join(names) + ("," if len(names) == 1 else "")


def _indented(lines: list[str], depth: int) -> list[str]:
    return [" " * 4 * depth + line for line in lines]


def _commented(lines: list[tuple[str, Node | None]]) -> list[str]:
    """Statements with the shapes of their results, under the layers that they come from."""
    out, place = [], ""
    for text, node in lines:
        if node is None:
            out.append(text)
            continue
        here = node.origin.place + (", backward" if node.origin.backward else "")
        if here != place:
            place = here
            out.append(f"# {place}")
        out.append(f"{text:<48}  # {tuple(node.shape)}")
    return out
