"""A step that is repeated, as one program with the loop inside."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from tinynn.compile.calls import Writer, compiled
from tinynn.compile.passes import simplified
from tinynn.compile.plan import When
from tinynn.transforms.record import Graph, Node


class Loop:
    """A program that repeats a step over batches.

    Args:
        graph: one step. Its first outputs are the new values of its first inputs, in order; one
            more output is a number that is wanted of every step.
        kept: how many inputs live on from step to step; the others come with each batch.
        backend: where it runs.

    Attributes:
        source: the program, as Python.
        kept: the arrays that live on. `load` gives them values.
    """

    def __init__(self, graph: Graph, kept: int, backend: Any) -> None:
        self.graph = graph = simplified(graph)
        self.backend = backend
        streams = graph.inputs[kept:]
        pairs = zip(graph.inputs[:kept], graph.outputs, strict=False)
        after = {id(i): o for i, o in pairs}
        self.writer = Writer(graph, backend, streams, after, graph.outputs[kept])
        spell = self.writer.spell
        self._names = [spell(i) for i in graph.inputs[:kept]]
        self._given = [spell(i) for i in streams]
        made = [text.split(" = ")[0] for text, _ in self.writer.lines[When.BATCH]]
        self._prepared = self._given + made
        self.in_place = backend.dialect is not None
        self._result = spell(graph.outputs[kept])
        self.source = self._source()
        self._scope: dict[str, Any] = {}
        self.kept: list[Any] = []

    def _source(self) -> str:
        lines = self.writer.lines
        once = [text for text, _ in lines[When.ONCE]]
        batch = [text for text, _ in lines[When.BATCH]]
        prepared = ", ".join(self._prepared) + ","
        text = [*once, "", f"def prepare({', '.join(self._given)}):", *_indented(batch, 1)]
        text += [f"    return {prepared}", ""]
        step = [_commented(*line) for line in lines[When.STEP]]
        if self.in_place:
            if self._result != "out":
                copy = self.backend.dialect.into["copy"].text
                step.append(copy.format(self._result, out="out"))
            text += ["def run(batches, outs):", f"    for ({prepared}), out in zip(batches, outs):"]
            text += _indented(step, 2)
        else:
            kept = ", ".join(self._names) + ","
            text += ["def run(kept, batches):", "    outs = []", f"    {kept} = kept"]
            text += [f"    for {prepared} in batches:", *_indented(step, 2)]
            text += [f"        outs.append({self._result})", f"    return ({kept}), outs"]
        return "\n".join(text) + "\n"

    def load(self, values: Sequence[Any], own: bool = False) -> None:
        """Start from these values of what is kept; `own`: the arrays are the program's to change."""
        xp = self.graph.space.xp
        self.kept = list(values) if own else [xp.asarray(v, copy=True) for v in values]
        bound = self.writer.names.bound | dict(zip(self._names, self.kept, strict=True))
        library = self.backend.dialect.library if self.in_place else None
        self._scope = compiled(self.source, bound, library, self.graph.name)

    def prepare(self, *streams: Any) -> tuple[Any, ...]:
        """What the steps need of a batch: the arrays, and what follows from them alone."""
        prepared: tuple[Any, ...] = self._scope["prepare"](*streams)
        return prepared

    def run(self, batches: Sequence[Any], outs: Any) -> Any:
        """A step for each batch; what every step gave."""
        with (self.backend.dialect.context if self.in_place else nullcontext)():
            if self.in_place:
                self._scope["run"](batches, outs)
                return outs
            self.kept, outs = self._scope["run"](self.kept, batches)
            return outs


def _indented(lines: list[str], depth: int) -> list[str]:
    return [" " * 4 * depth + line for line in lines]


def _commented(text: str, node: Node | None) -> str:
    if node is None:
        return text
    return f"{text:<40}  # {tuple(node.shape)} {node.origin}"
