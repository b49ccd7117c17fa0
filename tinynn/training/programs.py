"""The compiled engine of `fit`: the recorded step, with the loop over the batches inside it."""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import zip_longest
from math import prod
from typing import Any

from tinynn import tree
from tinynn.compiler.loop import Loop
from tinynn.compiler.rewrite import difference
from tinynn.layers import split
from tinynn.training.data import Samples
from tinynn.training.progress import Bar
from tinynn.training.step import Epoch, Snapshot
from tinynn.transforms.record import Graph, RecordingError, record

# Shuffled samples are put in order in pieces of about this many bytes.
_PIECE = 64 * 2**20


class Compiled:
    """The recorded step, with the loop over the batches in the program.

    Raises RecordingError if the step cannot be recorded.
    """

    def __init__(self, epoch: Epoch, bar: Bar, params: Any, state: Any, kind: type[Loop]) -> None:
        self.epoch, self.bar, self.kind = epoch, bar, kind
        self.xp, self.samples, self.size = epoch.xp, epoch.samples, epoch.size
        self._refuse_followed((params, state, *_arrays(self.samples)))
        self.rest = rest = self.samples.size % self.size
        self.at_once = epoch.shuffle_key is None and not epoch.draws and not rest
        self.structure = tree.flatten((params, state))[1]
        self.loop = self._program(self.size, params, state)
        self.last = self._program(rest, params, state) if rest else None
        if self.last:
            self.last.share(self.loop)
        self.prepared: Any = None
        self.kinds = _kinds(params)
        self.start(params, state)

    def _refuse_followed(self, values: Any) -> None:
        """RecordingError for arrays whose derivatives the program would cut off."""
        lowering = self.epoch.backend.lowering
        if lowering and lowering.followed(tree.leaves(values)):
            raise RecordingError(
                "the library follows its arrays, for derivatives of its own; if they are not "
                "wanted, give arrays that it does not follow"
            )

    def _program(self, size: int, params: Any, state: Any) -> Loop:
        """The program for batches of this size."""
        batch = self.samples.between(0, size)
        key = self.epoch.keys(0)[0, ...] if self.epoch.draws else None
        backend = self.epoch.backend
        arguments = (params, state, batch, key)
        try:
            graph, again = [recorded(self.epoch.step, backend, *arguments) for _ in range(2)]
        except TypeError as error:  # a library refuses arrays that are not its own
            raise RecordingError(str(error)) from error
        if where := difference(graph, again, backend.to_host):
            raise RecordingError(
                f"it is not the same in each call: {where}. It draws random numbers of its own, or "
                "counts its calls; draw from the key that `train` is given, and keep what changes "
                'in parameters called "running_..."'
            )
        kept = len(tree.leaves((params, state)))
        return self.kind(graph, kept, backend, rows_of(params, state))

    def start(self, params: Any, state: Any) -> None:
        """Go on from these parameters; a state of None keeps the optimizer's own."""
        self._refuse_followed((params, state))
        if state is None:
            state = self.structure.unflatten(self.loop.values())[1]
        self._refuse_others(params)
        self.loop.load(tree.leaves((params, state)))
        if self.last:
            self.last.bind()

    def _refuse_others(self, params: Any) -> None:
        """ValueError for parameters of other shapes or dtypes than the program is made for."""
        pairs = zip_longest(self.kinds, _kinds(params), fillvalue=("none", (), None))
        for old, new in pairs:
            if old != new:
                raise ValueError(
                    f"fit: a callback has replaced the parameters: expected {old[0]} of shape "
                    f"{old[1]} and {old[2]}, got {new[0]} of shape {new[1]} and {new[2]}. Keep "
                    'shapes and dtypes, or use engine="eager"'
                )

    def run(self, first: int, count: int) -> Any:
        """The losses of `count` epochs from number `first` on: (count,)."""
        if self.at_once:
            if self.prepared is None:
                self.prepared = self.loop.batches(self.size, _arrays(self.samples), ())
            losses = self.loop.run(self.prepared, count)
            self.bar.batch(self.samples.size * count)
            return self._averaged(self.xp.reshape(losses, (count, -1)))
        return self.xp.stack([self._epoch(number) for number in range(first, first + count)])

    def look_again(self) -> None:
        """The data may be others than before."""
        self.prepared = None

    def snapshot(self, room: Snapshot | None = None) -> Snapshot:
        """How it stands now; in the memory of an earlier one, if nobody needs that any more."""
        copies = self.loop.copies(room and room.memory)
        params, state = self.structure.unflatten(self.loop.values(copies))
        return Snapshot(params, state, copies)

    # One epoch.

    def _epoch(self, number: int) -> Any:
        """The loss of one epoch."""
        order, keys = self.epoch.order(number), self.epoch.keys(number)
        losses, weights = [], []
        for start, piece in self._pieces(order):
            first, full = start // self.size, piece.size // self.size
            losses += self._steps(self.loop, piece.between(0, full * self.size), keys, first, full)
            if piece.size % self.size:
                rest = piece.between(full * self.size, piece.size)
                losses += self._steps(self.last, rest, keys, first + full, 1)
            weights.append(piece.weights)
            self.bar.batch(piece.size)
        row = self.xp.reshape(self.xp.concat(losses), (1, -1))
        shuffled = None if weights[0] is None else self.xp.concat(weights)
        return self._averaged(row, shuffled)[0, ...]

    def _steps(self, loop: Any, piece: Samples, keys: Any, first: int, count: int) -> list[Any]:
        """The losses of so many steps on these samples."""
        if not count:
            return []
        each = () if keys is None else (keys[first : first + count, ...],)
        return [loop.run(loop.batches(piece.size // count, _arrays(piece), each))]

    def _pieces(self, order: Any) -> Iterator[tuple[int, Samples]]:
        """The samples in this order, a few batches at a time: (the first one's place, samples)."""
        if order is None:
            yield 0, self.samples
            return
        row = 8 * sum(prod(a.shape[1:]) for a in self.samples if a is not None)
        step = max(1, _PIECE // (row * self.size)) * self.size
        for start in range(0, self.samples.size, step):
            stop = min(start + step, self.samples.size)
            yield start, self.samples.take(self.xp, order[start:stop])

    def _averaged(self, losses: Any, weights: Any = None) -> Any:
        """The loss of each epoch from those of its batches: (epochs, steps) -> (epochs,)."""
        xp, count = self.xp, self.samples.size
        if not self.epoch.averages:
            return xp.sum(losses, axis=1)
        if self.samples.weights is None:
            if not self.rest:
                return xp.sum(losses, axis=1) * (self.size / count)
            total = xp.sum(losses[:, :-1], axis=1) * self.size + losses[:, -1] * self.rest
            return total / count
        weights = self.samples.weights if weights is None else weights
        starts = range(0, count, self.size)
        shares = [xp.sum(weights[s : min(s + self.size, count)]) for s in starts]
        return xp.sum(losses * xp.stack(shares), axis=1) / xp.sum(weights)


def _kinds(params: Any) -> list[tuple[str, Any, Any]]:
    """The name, shape and dtype of every parameter."""
    return [(name, tuple(leaf.shape), leaf.dtype) for name, leaf in tree.paths(params)]


def recorded(step: Any, backend: Any, *arguments: Any) -> Graph:
    """A step as a graph, in the functions that the library's lowering spells out."""
    lowering = backend.lowering
    with lowering.recording() if lowering else nullcontext():
        return record(
            step, *arguments, decompositions=lowering.decompositions if lowering else None
        )[1]


def _arrays(samples: Samples) -> list[Any]:
    return [a for a in samples if a is not None]


def rows_of(params: Any, state: Any) -> list[list[int]]:
    """The places, among the leaves of (params, state), of the parameters and what is kept of each.

    Statistics are no parameters that an optimizer changes. What is kept of each is wherever the
    state has a tree like the parameters.
    """
    trainable = split(params)[0]
    names = [name for name, _ in tree.paths(params)]
    rows = [[names.index(name) for name, _ in tree.paths(trainable)]]
    structure, shapes = tree.flatten(trainable)[1], _shapes(trainable)

    def look(value: Any, start: int) -> None:
        count = len(tree.leaves(value))
        if tree.flatten(value)[1] == structure and _shapes(value) == shapes:
            rows.append(list(range(start, start + count)))
            return
        for child in (tree.children(value) or {}).values():
            look(child, start)
            start += len(tree.leaves(child))

    look(state, len(names))
    return rows


def _shapes(values: Any) -> list[Any]:
    return [getattr(leaf, "shape", None) for leaf in tree.leaves(values)]
