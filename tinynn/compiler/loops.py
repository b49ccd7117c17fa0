"""The emitter `loops`: a step that is repeated, as one function of explicit loops.

Made for small networks, where calling the library costs more than its work. The loop over the
batches is in the function, so that a whole training run can be one call.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from tinynn.compiler.flat import packed
from tinynn.compiler.kernel import Kernel
from tinynn.compiler.loop import Loop
from tinynn.compiler.picked import check_picked
from tinynn.compiler.pipelines import applied, portable
from tinynn.compiler.plan import is_view
from tinynn.compiler.rewrite import CannotEmit, size
from tinynn.compiler.words import Line, bare, source_of
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
    """Whether so many steps of a program take longer in calls than compiling loops does.

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


class Loops(Loop):
    """A `Loop` that calls nothing: the arguments and the attributes are the same.

    Raises CannotEmit if a function of the step has no form for single numbers, or this backend's
    loops cannot be compiled; BackendUnavailable if what compiles them is not installed.
    """

    def __init__(self, graph: Graph, kept: int, backend: Any, rows: Sequence[list[int]]) -> None:
        native = backend.native()
        if native is None:
            raise CannotEmit(f"{backend} has no compiler of loops")
        self.backend = backend
        graph = applied(graph, portable())
        graph, self.storage = packed(graph, rows, kept)
        self.count = kept = self.storage.count
        self._kernel = Kernel(graph, kept, backend, native.products)
        self.graph = graph = self._kernel.graph
        self.inputs, self.streams = graph.inputs[:kept], graph.inputs[kept:]
        self.wanted = graph.outputs[kept]
        self.lines = self.written()
        self.source = source_of(self.lines)
        self._flat = native.flat
        self._function = native.build(self.source, self._dtypes())
        self._memory = [self._zeros(*each) for each in self._kernel.scratch.values()]
        self.kept: list[Any] = []

    def written(self) -> list[Line]:
        kernel, kept, wanted = self._kernel, self.count, self.wanted
        scalars = [n for n, i in zip(kernel.names, kernel.kept, strict=False) if not i.shape]
        single = [n for n, c in kernel.constants.items() if prod(c.shape) == 1]
        given = [f"all_{n}" if n in scalars else n for n in kernel.names[:kept]]
        given += kernel.names[kept:]
        given += [f"all_{n}" if n in single else n for n in kernel.constants]
        arguments = ["steps", "times", "outs", *given, *kernel.scratch]
        lines = [f"def run({', '.join(arguments)}):"]
        lines += [f"    {n} = all_{n}[0]" for n in (*scalars, *single)]
        lines += [f"    {name} = {text}" for text, name in kernel.speech.numbers.items()]
        lines += ["    for turn in range(times):", "        for first in range(steps):"]
        body = []
        for name, node in zip(kernel.names[kept:], self.streams, strict=True):
            body.append(f"{kernel.starts[name]} = first * {prod(node.shape)}")
        loss = f"outs[turn * steps + first] = {kernel.one(wanted)}"
        lines += [" " * 12 + line for line in (*body, *kernel.lines, loss)]
        lines += [f"    all_{n}[0] = {n}" for n in scalars]
        return bare(lines)

    def _dtypes(self) -> list[str]:
        """The dtypes of the program's arrays, in order."""
        kernel = self._kernel
        given = [self.wanted, *self.graph.inputs, *kernel.constants.values()]
        dtypes = [each.dtype for each in given] + [dtype for _, dtype in kernel.scratch.values()]
        return [self.backend.dtype_name(dtype) for dtype in dtypes]

    def _zeros(self, count: int, dtype: Any) -> Any:
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
        """What `run` takes, from arrays that hold so many steps' data, one after the other."""
        for stream, array in zip(self.streams, arrays, strict=True):
            if prod(array.shape) != steps * prod(stream.shape):  # loops would run past its end
                got = tuple(array.shape)
                raise ValueError(f"expected {steps} batches of shape {stream.shape}, got {got}")
        return steps, [self._flat(a) for a in arrays]

    def run(self, batches: Any, times: int = 1) -> Any:
        steps, data = batches
        outs = self._zeros(steps * times, self.wanted.dtype)
        outside = self._kernel.constants.values()
        constants = [self._flat(c.value) for c in outside]
        given = zip(map(id, [*self.streams, *outside]), [*data, *constants], strict=True)
        check_picked(self._kernel.picked, dict(given))
        self._function(steps, times, outs, *self.kept, *data, *constants, *self._memory)
        return outs


__all__ = ["CannotEmit", "Loops"]
