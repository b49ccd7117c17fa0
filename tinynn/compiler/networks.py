"""Loops of many networks: the function of one, carried out for each on memory of its own.

On the CPU the networks are spread over the threads, on a CUDA device over thread blocks. Nothing of
a network depends on another, nor on how many threads there are.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from backends.lowering import Taken
from tinynn.compiler.codegen.language import Function
from tinynn.compiler.loops import Loops
from tinynn.transforms.graph import Graph


class NetworkLoops(Loops):
    """`Loops` of so many networks; what lives on has an axis of them in front.

    Indices that come with the batches are not checked: they are to be in range.
    """

    def __init__(
        self,
        graph: Graph,
        kept: int,
        backend: Any,
        rows: Sequence[list[int]],
        networks: int,
    ) -> None:
        self.networks = networks
        super().__init__(graph, kept, backend, rows)

    def finished(self, function: Function) -> Function:
        return replace(function, networks=True)

    def _zeros(self, count: int | None, dtype: Any) -> Any:
        shape = (self.networks, count)
        return self.graph.space.xp.zeros(shape, dtype=dtype, device=self.backend.device)

    def load(self, values: Sequence[Any]) -> None:
        """Start from copies of these: (networks, ...) each."""
        xp, lead = self.graph.space.xp, (self.networks,)
        stored = self.storage.stored(xp, values, lead)
        self.kept[:] = [xp.asarray(xp.reshape(a, (*lead, -1)), copy=True) for a in stored]

    def shaped(self) -> list[Any]:
        reshape, lead = self.graph.space.xp.reshape, (self.networks,)
        pairs = zip(self.kept, self.inputs, strict=True)
        return [reshape(a, (*lead, *i.shape)) for a, i in pairs]

    def values(self, copies: Sequence[Any] | None = None) -> list[Any]:
        copies = self.copies() if copies is None else copies
        return self.storage.values(self.graph.space.xp, copies, (self.networks,))

    def run_each(
        self, networks: Sequence[int], steps: int, data: Sequence[tuple[Any, bool]], times: int = 1
    ) -> Any:
        """So many steps of these networks, `times` over: what is wanted of each, (networks, steps).

        Parameters
        ----------
        data
            For each stream its array, or what is to be taken of one, and whether it has an axis of
            all networks in front; if not, they share it.
        """
        for stream, (given, own) in zip(self.streams, data, strict=True):
            _check(given, own, self.networks, (steps, *stream.shape))
        with self.backend.scope():
            outs = self._empty((self.networks, steps * times), self.wanted.dtype)
            given = [(outs, True), *((array, True) for array in self.kept), *data]
            given += [(array, False) for array in self.constants()]
            given += [(array, True) for array in self.memory]
            apart = [
                0 if isinstance(a, Taken) or not own else prod(a.shape[1:]) for a, own in given
            ]
            arrays = [array for array, _ in given]
            self.forget_bounds()
            self.kernel.each(networks, apart, steps, times, *arrays)  # type: ignore[attr-defined]
            self.check_bounds()
        return outs


def _check(given: Any, own: bool, networks: int, shape: tuple[int, ...]) -> None:
    """ValueError unless there is as much as the loops go through, which would run past its end."""
    lead = (networks,) if own else ()
    if isinstance(given, Taken):
        got = (*given.rows.shape, *given.array.shape[1:])
    else:
        got = tuple(given.shape)
    if got[: len(lead)] != lead or prod(got) != prod((*lead, *shape)):
        raise ValueError(f"expected data of shape {(*lead, *shape)}, got {got}")
