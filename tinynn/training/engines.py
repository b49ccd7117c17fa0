"""Engines: the ways in which `fit` carries out epochs. Each gives the same numbers, to rounding.

"eager" runs the step as it is written. "calls" records it once and runs the emitted program, with
the loop over the batches inside. "loops" runs it as one function of explicit loops, compiled to
machine code: the fastest where the network is small. "jit" hands that program to the library's own
compiler. "auto" takes what is fastest from start to end.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from tinynn import tree
from tinynn.compile.loop import Loop
from tinynn.layers import split
from tinynn.training.data import Samples
from tinynn.training.progress import Bar
from tinynn.training.step import Epoch, TrainingStep
from tinynn.transforms.record import RecordingError, record

ENGINES = ("auto", "eager", "calls", "loops", "jit")

# Recording and emitting cost about as much as this many steps of a small network without them.
_WORTH_IT = 200
# Shuffled samples are put in order in pieces of about this many bytes.
_PIECE = 64 * 2**20


class Eager:
    """The step as it is written, batch by batch."""

    at_once = False  # epochs come one at a time

    def __init__(self, epoch: Epoch, bar: Bar) -> None:
        self.epoch, self.bar = epoch, bar
        self.state: Any = None
        self.held: Any = None

    def start(self, params: Any, state: Any) -> None:
        """Go on from these parameters; a state of None keeps the optimizer's own."""
        self.held = params
        self.state = self.state if state is None else state

    def params(self) -> Any:
        """The parameters now, which nobody will change."""
        return self.held

    def run(self, first: int, count: int) -> Any:
        """The losses of `count` epochs from number `first` on: (count,)."""
        totals = []
        for number in range(first, first + count):
            self.held, self.state, total = self.epoch(self.held, self.state, number, self.bar)
            totals.append(total)
        return self.epoch.xp.stack(totals)

    def snapshot(self) -> Any:
        """What `restore` needs to go back to this moment."""
        return self.held, self.state

    def restore(self, moment: Any) -> None:
        """Go back to that moment."""
        self.held, self.state = moment


@dataclass
class _Program:
    """The program for batches of one size."""

    loop: Loop
    size: int


class Compiled:
    """The recorded step, with the loop over the batches in the program.

    Raises RecordingError if the step cannot be recorded.
    """

    def __init__(self, epoch: Epoch, bar: Bar, params: Any, state: Any) -> None:
        self.epoch, self.bar = epoch, bar
        self.xp, self.samples, self.size = epoch.xp, epoch.samples, epoch.size
        whole, rest = divmod(self.samples.size, self.size)
        self.whole, self.rest = whole, rest
        self.at_once = epoch.shuffle_key is None and not epoch.draws and not rest
        self.structure = tree.flatten((params, state))[1]
        self.programs = [
            self._program(size, params, state) for size in (self.size, rest)[: 1 + bool(rest)]
        ]
        if rest:
            self.programs[1].loop.share(self.programs[0].loop)
        self.prepared: Any = None
        self.start(params, state)

    @property
    def loop(self) -> Loop:
        """The program for full batches."""
        return self.programs[0].loop

    def _program(self, size: int, params: Any, state: Any) -> _Program:
        batch = self.samples.between(0, size)
        key = self.epoch.keys(0)[0, ...] if self.epoch.draws else None
        backend = self.epoch.backend
        spelled = backend.dialect.spelled if backend.dialect else None
        _, graph, _ = record(self.epoch.step, params, state, batch, key, spelled=spelled)
        kept = len(tree.leaves((params, state)))
        return _Program(self._emitted(graph, kept, backend, _rows(params, state)), size)

    def _emitted(self, *program: Any) -> Loop:
        return Loop(*program)

    def start(self, params: Any, state: Any) -> None:
        """Go on from these parameters; a state of None keeps the optimizer's own."""
        if state is None:
            state = self.structure.unflatten(self.loop.values())[1]
        for program in self.programs[:1]:
            program.loop.load(tree.leaves((params, state)))
        for program in self.programs[1:]:
            program.loop.bind()

    def params(self) -> Any:
        """The parameters now, which nobody will change."""
        return self.structure.unflatten(self.loop.values())[0]

    def run(self, first: int, count: int) -> Any:
        """The losses of `count` epochs from number `first` on: (count,)."""
        if self.at_once:
            if self.prepared is None:
                self.prepared = self._prepared(self.programs[0], self.samples, 0, None)
            losses = self.loop.run(self.prepared, count)
            self.bar.batch(self.samples.size * count)
            return self._averaged(self.xp.reshape(losses, (count, -1)))
        return self.xp.stack([self._epoch(number) for number in range(first, first + count)])

    def snapshot(self) -> Any:
        """What `restore` needs to go back to this moment."""
        return self.loop.values()

    def restore(self, moment: Any) -> None:
        """Go back to that moment."""
        self.start(*self.structure.unflatten(moment))

    # One epoch.

    def _epoch(self, number: int) -> Any:
        order, keys = self.epoch.order(number), self.epoch.keys(number)
        losses, weights = [], []
        for start, piece in self._pieces(order):
            full = piece.size - piece.size % self.size
            groups = ((0, full), (full, piece.size))
            for program, (at, stop) in zip(self.programs, groups, strict=False):
                if at < stop:
                    part, first = piece.between(at, stop), (start + at) // self.size
                    ready = self._prepared(program, part, first, keys)
                    losses.append(program.loop.run(ready, 1))
            weights.append(piece.weights)
            self.bar.batch(piece.size)
        row = self.xp.reshape(self.xp.concat(losses), (1, -1))
        shuffled = None if weights[0] is None else self.xp.concat(weights)
        return self._averaged(row, shuffled)[0, ...]

    def _prepared(self, program: _Program, samples: Samples, first: int, keys: Any) -> Any:
        """The samples as the program takes them; all their batches are of its size."""
        return program.loop.prepared(list(self._batches(samples, first, keys)))

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

    def _batches(self, samples: Samples, first: int, keys: Any) -> Iterator[tuple[Any, ...]]:
        """The arrays of each batch, as the program takes them."""
        for index, start in enumerate(range(0, samples.size, self.size)):
            batch = samples.between(start, min(start + self.size, samples.size))
            key = () if keys is None else (keys[first + index, ...],)
            yield (*[a for a in batch if a is not None], *key)

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


class Fused(Compiled):
    """The recorded step as one compiled function of loops, which takes whole epochs at a time.

    Raises CannotEmit if the step calls what has no form in loops.
    """

    def _emitted(self, *program: Any) -> Loop:
        from tinynn.compile.loops import Loops  # seldom needed

        return Loops(*program)

    def _prepared(self, program: _Program, samples: Samples, first: int, keys: Any) -> Any:
        steps = samples.size // program.size
        key = () if keys is None else (keys[first : first + steps, ...],)
        loop: Any = program.loop
        return loop.gathered([*[a for a in samples if a is not None], *key], steps)


def _rows(params: Any, state: Any) -> list[list[int]]:
    """The places, among the leaves of (params, state), of the parameters and what is kept of each.

    Statistics are no parameters that an optimizer changes.
    """
    trainable = [name for name, _ in tree.paths(split(params)[0])]
    names = [name for name, _ in tree.paths((params, state))]
    rows = [[names.index(f"0.{name}") for name in trainable]]
    for slot, value in state.items():
        if len(tree.leaves(value)) == len(trainable) and not hasattr(value, "dtype"):
            rows.append([names.index(f"1.{slot}.{name}") for name in trainable])
    return rows


def chosen(
    engine: str, epoch: Epoch, bar: Bar, params: Any, state: Any, epochs: int
) -> "Eager | Compiled":
    """The engine of that name, ready to run; an eager one, with a warning, if it must be."""
    steps = epochs * -(-epoch.samples.size // epoch.size)
    made: Callable[[], Any] = lambda: Compiled(epoch, bar, params, state)  # noqa: E731
    if engine == "loops":
        from tinynn.compile.scalars import CannotEmit

        try:
            return Fused(epoch, bar, params, state)
        except CannotEmit as error:
            warnings.warn(
                f'fit: the training step runs with engine="calls" instead: {error}',
                RuntimeWarning,
                stacklevel=4,
            )
        except RecordingError:
            pass  # said below
    if engine != "eager" and not (engine == "auto" and steps < _WORTH_IT):
        try:
            return made()
        except RecordingError as error:
            warnings.warn(
                f"fit: the training step runs without compiling: {error}",
                RuntimeWarning,
                stacklevel=4,
            )
    eager = Eager(epoch, bar)
    eager.start(params, state)
    return eager


__all__ = ["ENGINES", "Compiled", "Eager", "TrainingStep", "chosen"]
