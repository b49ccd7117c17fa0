"""The emitter `loops`: a step that is repeated, as one function of explicit loops.

Made for small networks, where calling the library costs more than its work. The loop over the
batches is in the function, so that a whole training run can be one call.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from backends.lowering import LoopCompiler
from tinynn.compiler.codegen.emitter import LoopEmitter
from tinynn.compiler.codegen.gather import check_indices
from tinynn.compiler.codegen.renderers import RENDERERS
from tinynn.compiler.flatten_params import packed
from tinynn.compiler.liveness import is_view
from tinynn.compiler.pipelines import applied, portable
from tinynn.compiler.renderer import Line, source_of
from tinynn.compiler.rewrite import CannotEmit, size
from tinynn.compiler.train_loop import TrainLoop
from tinynn.transforms.graph import Graph

# What a call costs in a library that costs nothing in loops, and what loops cost to be compiled, in
# seconds: the least and the most that was measured.
_CALL, _ELEMENT = 0.25e-6, 0.1e-9
_COMPILING, _COMPILING_CALL = 2.5, 0.06
# Elements, and multiplications of a product: beyond them the work takes longer than the calls, and
# a library that has several threads for it may be faster.
_LARGEST, _LARGEST_PRODUCT = 2**18, 2**22
# Of the functions that are slower in loops: what one number costs more than in a library.
_SLOWER = {"pow": 1.5e-9, "log2": 0.4e-9, "log10": 0.4e-9}


def worth_compiling(graph: Graph, steps: int) -> bool:
    """True if so many steps of a program take longer in calls than compiling loops does.

    It decides from the program's size, not from timing, so that the answer is the same every time.
    """
    sizes = [size(node) for node in graph.nodes if not is_view(node)]
    products = [n for n in graph.nodes if n.name == "matmul"]
    if max(sizes, default=0) > _LARGEST or any(
        size(n) * n.args[0].shape[-1] > _LARGEST_PRODUCT for n in products
    ):
        return False
    saved = len(sizes) * _CALL + sum(sizes) * _ELEMENT
    saved -= sum(size(node) * _SLOWER.get(node.name, 0.0) for node in graph.nodes)
    return steps * saved > _COMPILING + len(sizes) * _COMPILING_CALL


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
        self.function = emitter.function()
        self._render = RENDERERS[native.language]
        self.lines = self.written()
        self.source = source_of(self.lines)
        self._flat = backend.scoped(native.flat)
        launch = {"threads": self.function.threads, "shared_bytes": self.function.shared_bytes}
        dtypes = [each.dtype for each in self.function.arguments]
        with backend.scope():
            self._function = native.build(
                self.source, dtypes, **(launch if native.threads > 1 else {})
            )
        given = 1 + len(graph.inputs) + len(emitter.constants)
        scratch = self.function.arguments[given:]
        self._memory = [self._zeros(each.size, backend.dtypes()[each.dtype]) for each in scratch]
        self.kept: list[Any] = []

    def compiler(self) -> LoopCompiler:
        """The library's compiler of loops; CannotEmit if it has none."""
        native: LoopCompiler | None = self.backend.native()
        if native is None:
            raise CannotEmit(f"{self.backend} has no compiler of loops")
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

    def _shaped(self) -> list[Any]:
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
            outside = self._emitter.constants.values()
            constants = [self._flat(c.value) for c in outside]
            given = zip(map(id, [*self.streams, *outside]), [*data, *constants], strict=True)
            check_indices(self._emitter.gathers, dict(given), self.backend.to_host)
            self._function(steps, times, outs, *self.kept, *data, *constants, *self._memory)
        return outs

    def _room(self, count: int) -> Any:
        """New memory for what is wanted of so many steps."""
        return self._empty((count,), self.wanted.dtype)


__all__ = ["CannotEmit", "Loops"]
