"""The engine of optimizers that search: they evaluate the loss as often as they want to, and decide
on the host. What they evaluate is a recorded program.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from backends.user_code import warn
from tinynn import tree
from tinynn.data import Samples
from tinynn.optim.flat import Flat
from tinynn.optim.lbfgs import turned, turned_to
from tinynn.trace import namespace
from tinynn.training.batches import Batches, Epoch
from tinynn.training.engines.eager import Eager
from tinynn.training.identity import key_of
from tinynn.training.progress import Bar
from tinynn.training.state import LazyCarry
from tinynn.training.step import Carry, TrainingStep, is_same_tree
from tinynn.transforms.record import RecordingError

Array = Any
_NAMES = {None: "eager", 0: "calls"}  # by the step from which on there is a program


class Searching(Eager):
    """The step as it is written, but for the loss and its gradient.

    after: the step from which on they are recorded, which a short search does not earn back; or
        None.

    The last evaluation is kept: a step begins where the search of the one before has ended.
    """

    def __init__(
        self, step: TrainingStep, batches: Batches, carry: Carry, bar: Bar, after: int | None
    ) -> None:
        super().__init__(step, batches, carry, bar)
        self.name = _NAMES.get(after, "auto")
        self.known: tuple[Any, Any] | None = None
        self.program = _Recorded(self._gradients, after)

    def run(self, epoch: Epoch, first: int, count: int) -> Any:
        """The losses of `count` steps of an epoch from step `first` on: (count,)."""
        losses, keys = [], self.batches.keys(epoch, first, count)
        for step in range(count):
            self.known = None  # of another batch
            self.program.at(epoch.number * (self.batches.steps or 0) + first + step)
            batch = self.batches.samples(epoch, first + step, 1)
            key = None if keys is None else keys[step, ...]
            self.carry, loss = self.step.advanced(self.carry, batch, key, self.gradients)
            losses.append(loss)
            self.bar.batch(batch.size)
        return self.batches.backend.xp.stack(losses)

    def gradients(self, carry: Carry, batch: Samples, key: Any) -> tuple[Any, Any, Any]:
        """(loss, new state, gradients by the parameters): known from before, or computed."""
        at = (carry.params, carry.state)
        if self.known is not None and is_same_tree(self.known[0], at):
            return self.known[1]
        found = self.program(*at, batch, key)
        self.known = (at, found)
        return found

    def _gradients(self, params: Any, state: Any, batch: Samples, key: Any) -> tuple[Any, Any, Any]:
        carry = Carry(params, state, self.carry.optimizer_state)
        return self.step.gradients(carry, batch, key)


class VectorSearch(Eager):
    """A search over the vector of all parameters, on the same samples in every step.

    For an optimizer with `advance` and `knows`, such as L-BFGS, and a network without a state.
    """

    fuses_epochs = tells_epochs = True

    def __init__(
        self, step: TrainingStep, batches: Batches, carry: Carry, bar: Bar, after: int | None
    ) -> None:
        super().__init__(step, batches, carry, bar)
        self.name = _NAMES.get(after, "auto")
        self.flat = Flat.of(carry.params)
        backend, start = batches.backend, carry[:2]
        structure = tree.flatten(batches.dataset.between(0, 1))[1]
        self.along = _Recorded(
            partial(_along, step, self.flat, carry.state, structure),
            after,
            lambda point, direction, length, *batch: key_of(step, backend, start, point, batch),
        )
        self.turn = _Recorded(turned, after, partial(key_of, turned, backend))
        self.batch: Samples | None = None
        self.load(carry)

    def load(self, carry: Carry) -> None:
        """Continue from this carry."""
        self.carry, self.state = carry, carry.optimizer_state
        self.point = self.flat.vector(carry.params)
        self.is_known = self.step.optimizer.knows(self.state, self.point)

    def invalidate_data(self) -> None:
        """Forget what was computed from the data."""
        self.batch, self.is_known = None, False

    def run(self, epoch: Epoch, first: int, count: int) -> Any:
        """The losses of a step at a time: (count,)."""
        return self.run_epochs(count)

    def run_epochs(self, count: int) -> Any:
        """The losses of steps, up to so many, until the search has converged: (steps,)."""
        losses: list[Any] = []

        def note(loss: Any, carry: Any) -> bool:
            losses.append(loss)
            return False

        self.tell_epochs(count, note)
        return self.batches.backend.xp.stack(losses)

    def tell_epochs(self, count: int, tell: Callable[[Any, Any], bool]) -> None:
        """Carry out steps, up to so many, until the search has converged or somebody ends it.

        tell: is given the loss of each, 0-d, and a `LazyCarry`, and says whether it is to be the
        last one.
        """
        if self.batch is None:
            self.batch = self.batches.dataset.between(0, self.batches.dataset.size)
            self.leaves = tree.leaves(self.batch)
        size, advance = self.batch.size, self.step.optimizer.advance
        for step in range(first := int(self.state["step"]), first + count):
            counted = 0
            self.along.at(step)
            self.turn.at(step)
            if not self.is_known:
                _, *found, _ = self._evaluate(self.point, 0.0 * self.point, 0.0)
                self.state = turned_to(self.state, self.point, *found)
                self.is_known, counted = True, 1
            loss = self.state["value"]
            self.state = advance(self.state, self._evaluate, counted, self.turn)
            self.bar.batch(size)
            if tell(loss, self.lazy_carry()) or bool(self.state["converged"]):
                break
        self.point = self.state["point"]

    def snapshot(self, reuse: Any = None, *, last: bool = False) -> tuple[Carry, Any]:
        """(the current carry, memory that a later snapshot may reuse)."""
        return self.lazy_carry()(), None

    def lazy_carry(self) -> LazyCarry:
        """The current carry, which is put together once somebody looks."""
        if (carry := self.carry).optimizer_state is self.state:
            return LazyCarry(lambda: carry, self.state)
        return LazyCarry(partial(self._carry, self.state), self.state)

    def _carry(self, state: Any) -> Carry:
        return Carry(self.flat.tree(state["point"]), self.carry.state, state)

    def _evaluate(self, point: Array, direction: Array, step: float) -> tuple[Array, ...]:
        found: tuple[Array, ...] = self.along(point, direction, step, *self.leaves)
        return found


def _along(
    step: TrainingStep,
    flat: Flat,
    state: Any,
    structure: tree.Structure,
    point: Array,
    direction: Array,
    length: float,
    *batch: Array,
) -> tuple[Array, ...]:
    """(the point so far along a direction, its value, gradient, slope), of the vector's dtype."""
    there = point + length * direction
    carry, samples = Carry(flat.tree(there), state, None), structure.unflatten(list(batch))
    value, _, gradients = step.gradients(carry, samples, None)
    if value.dtype != point.dtype:
        value = namespace(value).astype(value, point.dtype)
    gradient = flat.vector(gradients)
    return there, value, gradient, direction @ gradient


class _Recorded:
    """A function that becomes a program from a step on, if it can be recorded.

    after: that step, of the whole run, so that one that is resumed does the same; None: never.
    key_of: of the arguments, the key of the program, under which a later run finds it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        after: int | None,
        key_of: Callable[..., Any] = lambda *arguments: None,
    ) -> None:
        self.function, self.after, self.key_of = function, after, key_of
        self.program: Any = None
        self.quick: Callable[..., Any] | None = None
        self.is_due = False

    def at(self, step: int) -> None:
        """The calls to come are those of this step."""
        self.is_due = self.after is not None and step >= self.after

    def __call__(self, *arguments: Any) -> Any:
        if not self.is_due:
            return self.function(*arguments)
        if self.quick is not None:
            return self.quick(arguments)
        if self.program is not None:
            return self.program(*arguments)
        from tinynn.compiler import compile, reuse  # imported where it is used

        key = self.key_of(*arguments)
        program = reuse.function_by(key) or compile(self.function)
        try:
            found = program(*arguments)
            reuse.lend_function(self, key, program)
        except RecordingError as error:
            warn(f"fit: the training step runs without compiling: {error}")
            self.after, self.is_due = None, False
            return self.function(*arguments)
        self.program, self.quick = program, program.quick(arguments)
        return found


def searching(step: TrainingStep, batches: Any, carry: Carry, bar: Bar, after: int | None) -> Eager:
    """The engine for an optimizer that evaluates the loss itself."""
    in_memory = getattr(batches.dataset, "in_memory", False)
    is_fixed = in_memory and batches.steps == 1 and not batches.shuffle and not batches.draws
    advances = hasattr(step.optimizer, "advance") and not tree.leaves(carry.state)
    kind = VectorSearch if is_fixed and advances and step.reduce_gradients is None else Searching
    return kind(step, batches, carry, bar, after)
