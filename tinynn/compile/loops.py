"""The emitter `loops`: a step that is repeated, as one function of explicit loops.

Made for small networks, where calling the library costs more than its work. The loop over the
batches is in the function, so that a whole training run can be one call.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from tinynn.compile.kernel import Kernel
from tinynn.compile.loop import Loop
from tinynn.compile.passes import simplified
from tinynn.compile.scalars import CannotEmit
from tinynn.transforms.record import Graph


class Loops(Loop):
    """A `Loop` that calls nothing: the arguments and the attributes are the same.

    Raises CannotEmit if a function of the step has no form for single numbers, or this backend's
    loops cannot be compiled; BackendUnavailable if what compiles them is not installed.
    """

    def __init__(self, graph: Graph, kept: int, backend: Any, rows: Sequence[list[int]]) -> None:
        native = backend.native()
        if native is None:
            raise CannotEmit(f"{backend} has no compiler of loops")
        self.backend, self.dialect = backend, backend.dialect
        self._rows = list(rows)
        self._layout = None
        graph, kept = self._side_by_side(simplified(graph), kept)
        self._kernel = Kernel(graph, kept, backend)
        self.graph = self._kernel.graph
        self._kept_inputs = self.graph.inputs[:kept]
        self._streams = self.graph.inputs[kept:]
        self.source = self._written(kept)
        self._function = native.build(self.source, self._dtypes(kept))
        self._memory = [self._zeros(*each) for each in self._kernel.scratch.values()]
        self.kept: list[Any] = []

    def _written(self, kept: int) -> str:
        """The program."""
        kernel, wanted = self._kernel, self.graph.outputs[kept]
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
        for name, node in zip(kernel.names[kept:], self._streams, strict=True):
            body.append(f"{kernel.starts[name]} = first * {prod(node.shape)}")
        loss = f"outs[turn * steps + first] = {kernel.one(wanted)}"
        lines += [" " * 12 + line for line in (*body, *kernel.lines, loss)]
        lines += [f"    all_{n}[0] = {n}" for n in scalars]
        return "\n".join(lines) + "\n"

    def _dtypes(self, kept: int) -> list[str]:
        """The dtypes of the program's arrays, in order."""
        kernel = self._kernel
        given = [self.graph.outputs[kept], *self.graph.inputs, *kernel.constants.values()]
        dtypes = [each.dtype for each in given] + [dtype for _, dtype in kernel.scratch.values()]
        return [self.backend.dtype_name(dtype) for dtype in dtypes]

    def _zeros(self, count: int, dtype: Any) -> Any:
        return self.graph.space.xp.zeros(count, dtype=dtype, device=self.backend.device)

    # Running.

    def load(self, values: Sequence[Any]) -> None:
        super().load(values)
        self.kept[:] = [self._flat(value) for value in self.kept]

    def bind(self) -> None:
        """Nothing is to be done: the arrays are given in each call."""

    def values(self) -> list[Any]:
        flat = self.kept
        pairs = zip(flat, self._kept_inputs, strict=True)
        self.kept = [self.graph.space.xp.reshape(a, i.shape) for a, i in pairs]
        try:
            return super().values()
        finally:
            self.kept = flat

    def prepared(self, batches: Sequence[tuple[Any, ...]]) -> Any:
        """The batches, one after the other in memory."""
        columns = zip(*batches, strict=True)
        return self.gathered([self.graph.space.xp.concat(c, axis=0) for c in columns], len(batches))

    def gathered(self, arrays: Sequence[Any], steps: int) -> Any:
        """What `run` takes, from arrays that hold all batches already."""
        for stream, array in zip(self._streams, arrays, strict=True):
            if prod(array.shape) != steps * prod(stream.shape):  # loops would run past its end
                got = tuple(array.shape)
                raise ValueError(f"expected {steps} batches of shape {stream.shape}, got {got}")
        return steps, [self._flat(a) for a in arrays]

    def run(self, batches: Any, times: int = 1) -> Any:
        steps, data = batches
        wanted = self.graph.outputs[len(self._kept_inputs)]
        outs = self._zeros(steps * times, wanted.dtype)
        constants = [self._flat(c.value) for c in self._kernel.constants.values()]
        self._function(steps, times, outs, *self.kept, *data, *constants, *self._memory)
        return outs

    def _flat(self, array: Any) -> Any:
        return self.graph.space.xp.reshape(array, (-1,))


__all__ = ["CannotEmit", "Loops"]
