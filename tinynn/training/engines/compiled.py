"""The compiled engine: the recorded step, with the loop over the batches inside the program."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from itertools import zip_longest
from math import prod
from typing import Any

from tinynn import tree
from tinynn.compiler.pipelines import decompositions
from tinynn.compiler.reuse import Programs, programs_by, programs_of
from tinynn.compiler.rewrite import difference
from tinynn.compiler.train_loop import TrainLoop
from tinynn.data import Samples
from tinynn.training.batches import Batches, Epoch
from tinynn.training.identity import is_ours, key_of
from tinynn.training.progress import Bar
from tinynn.training.state import LazyCarry
from tinynn.training.step import RECORDED_NEEDS, Carry, TrainingStep
from tinynn.transforms.graph import Graph
from tinynn.transforms.record import RecordingError, check_shapes
from tinynn.transforms.record import recorded as graph_of

# Shuffled samples are put in order in pieces of about this many bytes.
_PIECE = 64 * 2**20
# What is computed from all data is kept from epoch to epoch where they are no more bytes than this.
_KEPT = 8 * _PIECE
# What follows from a batch alone is computed for all batches at once after so many: to make the
# program for that takes as long as to do without it until then.
_TOGETHER = 400


class Compiled:
    """The recorded step, with the loop over the batches in the program.

    Raises RecordingError if the step cannot be recorded.
    """

    def __init__(
        self,
        step: TrainingStep,
        batches: Batches,
        carry: Carry,
        bar: Bar,
        kind: type[TrainLoop],
        name: str,
    ) -> None:
        self.batches, self.bar, self.kind = batches, bar, kind
        self.step = replace(step, shard=batches.shard())
        self.name = name
        self.backend, self.xp, self.size = batches.backend, batches.backend.xp, batches.size
        self._refuse_followed((carry, batches.dataset.between(0, 1)))
        # Data that are read batch by batch are never held as a whole.
        self.in_memory = getattr(batches.dataset, "in_memory", False)
        alike = batches.alike and not (batches.shuffle or batches.draws or batches.rest)
        few = self.in_memory and self._row * batches.dataset.size <= _KEPT
        self.fuses_epochs = alike and (few or batches.steps == 1)
        # What looks at each of them may do so between their steps.
        self.tells_epochs = self.fuses_epochs and batches.steps == batches.processes == 1
        self.structure = tree.flatten(carry)[1]
        first, *others = batches.examples()
        self.loop = self._program(first, carry)
        self.loops = {(_shapes(first), False): self.loop}
        for batch in others:
            self._add_program(batch, carry, batches.sharded)
        self.prepared: Any = None
        self.kinds = _kinds(carry)
        self.load(carry)

    def _refuse_followed(self, values: Any) -> None:
        """RecordingError for arrays whose derivatives the program would cut off."""
        lowering = self.backend.lowering
        if lowering and lowering.followed(tree.leaves(values)):
            raise RecordingError(
                "the library follows its arrays, for derivatives of its own; if they are not "
                "wanted, give arrays that it does not follow"
            )

    def _program(
        self, batch: Samples, carry: Carry, *, again: bool = True, last: bool = False
    ) -> TrainLoop:
        """The program for batches like this; `again`: record it twice, to see it is the same."""
        step = replace(self.step, shard=self.batches.last_shard()) if last else self.step
        check_needs(step.optimizer)
        key = self.batches.keys(Epoch(0, None), 0, 1)[0, ...] if self.batches.draws else None
        programs = checked(step, self.backend, carry, batch, key, again=again)
        return programs.program(self.kind, len(tree.leaves(carry)), self.backend, slots_of(carry))

    def _add_program(self, batch: Samples, carry: Carry, last: bool) -> TrainLoop:
        """A program for batches of another shape, which shares what lives on with the first."""
        other = self._program(batch, carry, again=False, last=last)
        other.share(self.loop)
        self.loops[_shapes(batch), last] = other
        return other

    def _loop_of(self, batch: Samples, last: bool) -> TrainLoop:
        """The program for batches like this; the last one of a stream shows its size late."""
        loop = self.loops.get((_shapes(batch), last))
        if loop is None:
            loop = self._add_program(batch, self.snapshot()[0], last)
            loop.bind()
        return loop

    def load(self, carry: Carry) -> None:
        """Continue from this carry."""
        self._refuse_followed(carry)
        for old, new in zip_longest(self.kinds, _kinds(carry), fillvalue=("none", (), None)):
            if old != new:
                raise ValueError(
                    f"fit: a callback has replaced the parameters: expected {old[0]} of shape "
                    f"{old[1]} and {old[2]}, got {new[0]} of shape {new[1]} and {new[2]}. Keep "
                    'shapes and dtypes, or use engine="eager"'
                )
        self.loop.load(tree.leaves(carry))
        for loop in self.loops.values():
            if loop is not self.loop:
                loop.bind()

    def run(self, epoch: Epoch, first: int, count: int) -> Any:
        """The losses of `count` steps of an epoch from step `first` on: (count,)."""
        losses = []
        for place, steps in self._pieces(first, count):
            piece = self.batches.samples(epoch, place, steps)
            full, rest = self.batches.divided(piece.size, place, steps)
            if full:
                whole = piece.between(0, full * self.size)
                losses += self._steps(whole, epoch, place, full)
            if rest:
                few = piece.between(full * self.size, piece.size)
                losses += self._steps(few, epoch, place + full, 1)
            self.bar.batch(piece.size * self.batches.processes)
        return losses[0] if len(losses) == 1 else self.xp.concat(losses)

    def run_epochs(self, count: int) -> Any:
        """The losses of whole epochs that are all alike, one after another: (count * steps,)."""
        dataset = self.batches.dataset
        if self.prepared is None:
            whole = dataset.between(0, dataset.size)
            self.prepared = self.loop.batches(self.size, tree.leaves(whole), ())
        losses = self.loop.run(self.prepared, count)
        self.bar.batch(dataset.size * count * self.batches.processes)
        return losses

    def tell_epochs(self, count: int, tell: Callable[[Any, Any], bool]) -> None:
        """Carry out epochs of a step, up to so many, until it has converged or somebody ends it.

        tell: is given the loss of each, 0-d, and a `LazyCarry`, and says whether it is to be the
        last one.
        """
        places = self.structure.unflatten(list(range(len(self.kinds)))).optimizer_state
        flag = places.get("converged") if isinstance(places, dict) else None
        for _ in range(count):
            loss = self.run_epochs(1)[0]
            ends = tell(loss, LazyCarry(lambda: self.snapshot()[0]))
            if ends or (flag is not None and bool(self.backend.to_host(self.loop.value(flag)))):
                break

    def invalidate_data(self) -> None:
        """Forget what was computed from the data."""
        self.prepared = None

    def snapshot(self, reuse: Any = None, *, last: bool = False) -> tuple[Carry, Any]:
        """(the current carry, memory that a later snapshot may reuse).

        last: nothing is run before another carry is loaded, so that this one need not be a copy.
        """
        copies = self.loop.handed_over() if last else self.loop.copies(reuse)
        return self.structure.unflatten(self.loop.values(copies)), copies

    def _steps(self, piece: Samples, epoch: Epoch, first: int, count: int) -> list[Any]:
        """The losses of so many steps on these samples."""
        size = piece.size // count
        last = count == 1 and self.batches.is_last(first)
        loop = self._loop_of(piece if count == 1 else piece.between(0, size), last)
        keys = self.batches.keys(epoch, first, count)
        each = () if keys is None else (keys,)
        # By the number of the epoch, so that a run that is resumed does what it would have done.
        # A batch of another shape has no others to be prepared with.
        many = epoch.number * (self.batches.steps or _TOGETHER) >= _TOGETHER
        together = many and loop is self.loop and self.batches.alike
        return [loop.run(loop.batches(size, tree.leaves(piece), each, together=together))]

    @cached_property
    def _row(self) -> int:
        """The bytes of a sample, about."""
        return 8 * sum(prod(a.shape[1:]) for a in tree.leaves(self.batches.dataset.between(0, 1)))

    def _pieces(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """(first step, number of steps) of parts whose samples are put in order together."""
        if not self.batches.alike:
            yield from ((place, 1) for place in range(first, first + count))
            return
        most = max(1, _PIECE // (self._row * self.size))
        for place in range(first, first + count, most):
            yield place, min(most, first + count - place)


def _kinds(carry: Carry) -> list[tuple[str, Any, Any]]:
    """The name, shape and dtype of every array of a carry."""
    return [(name, tuple(leaf.shape), leaf.dtype) for name, leaf in tree.paths(carry)]


def _shapes(batch: Samples) -> tuple[tuple[int, ...], ...]:
    """The shapes of the arrays of a batch, which decide its program."""
    return tuple(tuple(leaf.shape) for leaf in tree.leaves(batch))


def recorded(step: Any, backend: Any, *arguments: Any) -> Graph:
    """A step as a graph, in the functions that the library's lowering decomposes others into."""
    lowering = backend.lowering
    with lowering.recording() if lowering else nullcontext():
        # Where the library has views of one element in any shape, or need not compute at all.
        spares = lowering is not None or backend.example is not None
        graph = graph_of(step, arguments, decompositions(lowering), supposed=False, sparing=spares)
    return check_shapes("the training step", graph)


def check_needs(optimizer: Any) -> None:
    """RecordingError for an optimizer that needs more than a recorded step gives it."""
    if unrecorded := set(getattr(optimizer, "needs", ())) - RECORDED_NEEDS:
        raise RecordingError(
            f"the optimizer needs {', '.join(sorted(unrecorded))}, which a recorded step lacks"
        )


def checked(step: Any, backend: Any, *arguments: Any, again: bool = True) -> Programs:
    """The programs of a recorded step; RecordingError if it differs when it is recorded `again`.

    Code that was found to give the same graph before is not recorded again, nor is a step of
    nothing but tinynn's own parts, which always do the same; a program of an earlier run is taken
    without recording it at all.
    """
    key = key_of(step, backend, *arguments)
    if key is not None and (
        found := programs_by(key, partial(recorded, step, backend, *arguments))
    ):
        return found
    try:
        graph = recorded(step, backend, *arguments)
        programs = programs_of(graph, backend, key)
        if programs.sure or not again or is_ours(step):
            return programs
        twin = recorded(step, backend, *arguments)
    except TypeError as error:  # a library refuses arrays that are not its own
        raise RecordingError(str(error)) from error
    if where := difference(graph, twin, backend.to_host):
        raise RecordingError(
            f"it is not the same in each call: {where}. It draws random numbers of its own, or "
            "counts its calls; draw with scope.random, and keep what changes in scope.state"
        )
    programs.make_sure()
    return programs


def slots_of(carry: Carry) -> list[list[int]]:
    """The places, among the leaves of a carry, of the parameters and of each tree like them.

    An optimizer's state holds such trees, its moments for one; each can be one flat vector.
    """
    leaves, structure = tree.flatten(carry.params)
    count, shapes = len(leaves), [leaf.shape for leaf in leaves]
    rows: list[list[int]] = []
    place = 0

    def visit(node: Any) -> None:
        nonlocal place
        children = tree.children(node)
        inside, its_structure = tree.flatten(node)
        alike = its_structure == structure and [a.shape for a in inside] == shapes
        if children and alike:
            rows.append(list(range(place, place + count)))
            place += count
        elif children is None:
            place += 1
        else:
            for child in children.values():
                visit(child)

    visit(tuple(carry))
    return rows
