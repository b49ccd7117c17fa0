"""Ids, lengths and places out of range, found before a program runs, which cannot stop for them.

Layers look at them where they can be read: eagerly. Of a network that will be compiled, a recording
says which numbers its layers would look at, and these alone are computed of the inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from backends import Backend
from tinynn import tree
from tinynn.data import Dataset, host
from tinynn.functional.integers import Range, noting
from tinynn.layers import run

ROWS_AT_ONCE = 8192  # that are looked at together
_KINDS = 64  # of rows to know; with more, all are forgotten


def kind_of(inputs: Any) -> Any:
    """A key for the kind of rows that inputs have."""
    leaves, structure = tree.flatten(inputs)
    return structure, *[(type(a), tuple(a.shape[1:]), a.dtype) for a in leaves]


def blank(array: Any, backend: Backend) -> Any:
    """An array of the host's like this one, of zeros, that takes no memory."""
    home = host()
    zero = home.asarray(0, dtype=backend.dtype_name(array.dtype))
    return home.xp.broadcast_to(zero, tuple(array.shape))


@dataclass
class Ranges:
    """The check of the whole numbers that a network is given, for inputs of any kind.

    Networks of floating-point inputs alone pass: nothing is recorded for them.

    Args:
        net, params, state: the network, as `run` takes it.
        backend: where the inputs are.
    """

    net: Any
    params: Any
    state: Any
    backend: Backend

    def __post_init__(self) -> None:
        self._kinds: dict[Any, Callable[[list[Any]], None] | None] = {}

    def check(self, inputs: Any) -> None:
        """InputError that names the layer, if its ids, lengths or places are out of range."""
        if find := self.check_of(inputs):
            find(tree.leaves(inputs))

    def check_all(self, dataset: Dataset) -> None:
        """The same for a dataset in memory, some thousand rows at a time."""
        if self.check_of(dataset.between(0, 1).inputs):
            for start in range(0, dataset.size, ROWS_AT_ONCE):
                stop = min(start + ROWS_AT_ONCE, dataset.size)
                self.check(dataset.between(start, stop).inputs)

    def check_of(self, inputs: Any) -> Callable[[list[Any]], None] | None:
        """The check for inputs of that kind, of the leaves of many or few; None: there is none."""
        leaves = tree.leaves(inputs)
        if not any(hasattr(a, "dtype") and self._is_whole(a) for a in leaves):
            return None
        kind = kind_of(inputs)
        try:
            return self._kinds[kind]
        except KeyError:
            if len(self._kinds) == _KINDS:
                self._kinds.clear()  # while another thread may look
        found = self._kinds[kind] = self._found(inputs)
        return found

    def _is_whole(self, array: Any) -> bool:
        return bool(self.backend.xp.isdtype(array.dtype, ("integral", "bool")))

    def _found(self, inputs: Any) -> Callable[[list[Any]], None] | None:
        first = tree.map(lambda a: a[:1, ...], inputs)
        blank_of = partial(tree.map, lambda a: blank(a, self.backend))
        given = blank_of(first), blank_of(self.params), blank_of(self.state)
        found = self._recorded(host(), *given, None)
        if found is None:
            return None
        graph, ranges = found
        places = {id(each): place for place, each in enumerate(graph.inputs)}
        known = [[places.get(id(node)) for node in nodes] for _, nodes in ranges]
        if any(None in each for each in known) and self.backend.lowering is not None:
            return self._computed(first)
        # Where every call is compiled, what would have to be computed is not looked at.
        direct = [(r, own) for (r, _), own in zip(ranges, known, strict=True) if None not in own]

        def check(leaves: list[Any]) -> None:
            for each, own in direct:
                each.check(*[leaves[place] for place in own if place is not None])

        return check if direct else None

    def _computed(self, first: Any) -> Callable[[list[Any]], None] | None:
        """The check where numbers are computed of the inputs, for batches of any size."""
        found = self._recorded(self.backend, first, self.params, self.state, 0)
        if found is None:
            return None
        graph, ranges = found

        def check(leaves: list[Any]) -> None:
            values = iter(graph.run(leaves))
            for each, nodes in ranges:
                each.check(*[next(values) for _ in nodes])

        return check

    def _recorded(
        self, home: Backend, first: Any, params: Any, state: Any, batch_axes: int | None
    ) -> tuple[Any, list[tuple[Range, list[Any]]]] | None:
        """The graph that computes what is to be looked at, and the ranges, with their nodes."""
        from tinynn.transforms.graph import pruned
        from tinynn.transforms.record import record

        ranges: list[Range] = []

        def sources(*inputs: Any) -> list[Any]:
            with noting() as noted:
                run(self.net, params, state, *inputs)
            ranges[:] = noted
            return [array for each in noted for array in each.sources]

        try:
            with home.scope(), home.quiet():
                graph = record(sources, *first, batch_axes=batch_axes)
        except Exception:  # the engine says what cannot be recorded
            return None
        outputs, kept = iter(graph.outputs), []
        for each in ranges:
            own = [next(outputs) for _ in each.sources]
            nodes = pruned(replace(graph, outputs=own)).nodes
            if not any(n.dtype is not None and _is_real(home, n.dtype) for n in nodes):
                kept.append((each, own))  # not what the network itself computes
        needed = [node for _, own in kept for node in own]
        return pruned(replace(graph, outputs=needed)), kept


def _is_real(home: Backend, dtype: Any) -> bool:
    return bool(home.xp.isdtype(dtype, "real floating"))
