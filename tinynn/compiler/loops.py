"""The emitter `loops`: a step that is repeated, as one function of explicit loops.

Made for small networks, where calling the library costs more than its work. The loop over the
batches is in the function, so that a whole training run can be one call.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from backends.lowering import KernelError, LoopCompiler
from tinynn.compiler.codegen.emitter import LoopEmitter
from tinynn.compiler.codegen.gather import check_indices
from tinynn.compiler.codegen.language import Function
from tinynn.compiler.codegen.renderers import RENDERERS
from tinynn.compiler.flatten_params import packed
from tinynn.compiler.pipelines import applied, portable
from tinynn.compiler.renderer import Line, source_of
from tinynn.compiler.rewrite import CannotEmit
from tinynn.compiler.train_loop import TrainLoop
from tinynn.transforms.cond import exceeded
from tinynn.transforms.graph import Graph


class Loops(TrainLoop):
    """A `TrainLoop` that calls nothing: the arguments and the attributes are the same.

    Raises CannotEmit if a function of the step has no form for single numbers, or this backend's
    loops cannot be compiled; BackendUnavailable if what compiles them is not installed.
    """

    def __init__(self, graph: Graph, kept: int, backend: Any, rows: Sequence[list[int]]) -> None:
        self.backend = backend
        native = self.compiler()
        graph = applied(graph, portable())
        graph, self.storage = packed(graph, rows, kept)
        self.count = kept = self.storage.count
        self._emitter = emitter = LoopEmitter(
            graph,
            kept,
            backend,
            products=native.products,
            threads=native.threads,
            shared_bytes=native.shared_bytes,
        )
        self.graph = graph = emitter.graph
        self.inputs, self.streams = graph.inputs[:kept], graph.inputs[kept:]
        self.wanted = graph.outputs[kept]
        self.function = self.finished(emitter.function())
        self._render = RENDERERS[native.language]
        self.lines = self.written()
        self.source = source_of(self.lines)
        self._flat = backend.scoped(native.flat)
        launch = {"threads": self.function.threads, "shared_bytes": self.function.shared_bytes}
        dtypes = [each.dtype for each in self.function.arguments]
        with backend.scope():
            try:
                self.kernel = native.build(
                    self.source, dtypes, **(launch if native.threads > 1 else {})
                )
            except KernelError as error:
                raise CannotEmit(str(error)) from error
        given, notes = 1 + len(graph.inputs) + len(emitter.constants), emitter.work.notes
        scratch = self.function.arguments[given:]
        self.memory = [self._zeros(each.size, backend.dtypes()[each.dtype]) for each in scratch]
        found = zip(scratch, self.memory, strict=True)
        self._notes = [(notes[b], memory) for b, memory in found if b in notes]
        self.kept: list[Any] = []

    def finished(self, function: Function) -> Function:
        """The function that is rendered."""
        return function

    def compiler(self) -> LoopCompiler:
        """The library's compiler of loops; CannotEmit if it has none."""
        native = self.written_by(self.backend)
        if native is None:
            raise CannotEmit(f"{self.backend} has no compiler of loops")
        return native

    @classmethod
    def written_by(cls, backend: Any) -> LoopCompiler | None:
        native: LoopCompiler | None = backend.native()
        return native

    def written(self) -> list[Line]:
        return [Line(text) for text in self._render(self.function).splitlines()]

    def _zeros(self, count: int | None, dtype: Any) -> Any:
        return self.graph.space.xp.zeros(count, dtype=dtype, device=self.backend.device)

    # Running.

    def load(self, values: Sequence[Any]) -> None:
        self.kept[:] = [self._flat(v) for v in self.storage.stored(self.graph.space.xp, values)]

    def bind(self) -> None:
        """No-op: the arrays are given in each call."""

    def shaped(self) -> list[Any]:
        reshape = self.graph.space.xp.reshape
        return [reshape(a, i.shape) for a, i in zip(self.kept, self.inputs, strict=True)]

    def batches(
        self, size: int, rows: Sequence[Any], each: Sequence[Any], together: bool = False
    ) -> Any:
        return self.steps(rows[0].shape[0] // size, [*rows, *each])

    def steps(self, steps: int, arrays: Sequence[Any]) -> Any:
        """The argument of `run`, from arrays that hold so many steps' data, one after the other."""
        for stream, array in zip(self.streams, arrays, strict=True):
            if prod(array.shape) != steps * prod(stream.shape):  # loops would run past its end
                got = tuple(array.shape)
                raise ValueError(f"expected {steps} batches of shape {stream.shape}, got {got}")
        return steps, [self._flat(a) for a in arrays]

    def run(self, batches: Any, times: int = 1) -> Any:
        steps, data = batches
        with self.backend.scope():
            outs = self._room(steps * times)
            constants, outside = self.constants(), self._emitter.constants.values()
            given = zip(map(id, [*self.streams, *outside]), [*data, *constants], strict=True)
            check_indices(self._emitter.work.gathers, dict(given), self.backend.to_host)
            self.forget_bounds()
            self.kernel(steps, times, outs, *self.kept, *data, *constants, *self.memory)
            self.check_bounds()
        return outs

    def check_bounds(self) -> None:
        """LoopBoundError if a `while_loop` of the last run was not done at its bound."""
        for node, memory in self._notes:
            if self.backend.to_host(memory).any():
                error = exceeded(node.kwargs["where"], node.kwargs["bound"])
                error.add_note(f"in {node.origin}")
                raise error

    def forget_bounds(self) -> None:
        """Before a run: whatever became of the one before it, no loop has exceeded its bound."""
        for _, memory in self._notes:
            memory[...] = False

    def constants(self) -> list[Any]:
        """The arrays from outside, as the function is given them."""
        return [self._flat(each.value) for each in self._emitter.constants.values()]

    def _room(self, count: int) -> Any:
        """New memory for what is wanted of so many steps."""
        return self._empty((count,), self.wanted.dtype)


__all__ = ["CannotEmit", "Loops"]
