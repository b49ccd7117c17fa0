"""The names and memory that all parts of a kernel share, and what the target can do."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tinynn.compiler import identifiers
from tinynn.compiler.codegen.language import Buffer, Parallel, Statement, Variable, nested
from tinynn.compiler.codegen.renderers import RESERVED
from tinynn.compiler.codegen.scalars import Scalars
from tinynn.transforms.graph import Node

# Names of the kernel, and of the loop variables.
_OURS = {*"run steps times outs turn first i j k j0 at".split()}
_OURS |= {f"{letter}{n}" for letter in "im" for n in range(10)}


class Workspace:
    """The workspace of one kernel.

    Parameters
    ----------
    backend
        Where it runs.
    space
        The namespace of the graph.
    products
        From how many multiplications on BLAS multiplies matrices, by dtype.
    threads
        How many threads may share the kernel, a power of two.

    Attributes
    ----------
    scalars
        Makes expressions of calls.
    scratch
        Memory of its own, full of zeros before the first step.
    gathers
        Indices of `take` and `scatter_add`, and the length of the axis of each.
    checked
        The values that such indices may be, since they are looked at before every run, by the id of
        the value that the kernel reads.
    notes
        Memory of one bool each, true once a loop has exceeded its bound, and the call of the loop.
    """

    def __init__(
        self, backend: Any, space: Any, products: Mapping[str, int], threads: int = 1
    ) -> None:
        self.scalars = Scalars(backend, space)
        self.products, self.threads, self.parallel = products, threads, threads > 1
        self.scratch: list[Buffer] = []
        self.gathers: list[tuple[Node, int]] = []
        self.checked: dict[int, Node] = {}
        self.notes: dict[Buffer, Node] = {}
        self._names = identifiers.Names()
        self._names.taken |= _OURS | RESERVED

    def new(self, wanted: str) -> str:
        """A new name, which means nothing in any target."""
        return self._names.new(re.sub(r"[^A-Za-z0-9_]", "_", wanted))

    def variable(self, wanted: str, dtype: str) -> Variable:
        """A new variable."""
        return Variable(self.new(wanted), dtype)

    def allocated(self, wanted: str, count: int, dtype: str) -> Buffer:
        """New memory, full of zeros before the first step."""
        self.scratch.append(Buffer(self.new(wanted), dtype, count))
        return self.scratch[-1]

    def note(self, node: Node) -> Buffer:
        """New memory for whether a loop has exceeded its bound."""
        noted = self.allocated("exceeded", 1, "bool")
        self.notes[noted] = node
        return noted

    def each(
        self, axes: Iterable[tuple[Variable, int]], body: Iterable[Statement]
    ) -> list[Statement]:
        """A body for each point of an index space, by all threads."""
        axes, body = tuple(axes), tuple(body)
        return [Parallel(axes, body)] if self.parallel else list(nested(axes, body))
