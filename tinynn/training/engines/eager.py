"""The eager engine: the step as it is written, batch by batch."""

from dataclasses import replace
from typing import Any

from tinynn import tree
from tinynn.training.batches import Batches, Epoch
from tinynn.training.progress import Bar
from tinynn.training.step import Carry, TrainingStep


class Eager:
    """The step as it is written, batch by batch."""

    name, fuses_epochs, tells_epochs = "eager", False, False

    def __init__(self, step: TrainingStep, batches: Batches, carry: Carry, bar: Bar) -> None:
        self.batches, self.bar, self.carry = batches, bar, carry
        self.step = replace(step, shard=batches.shard())

    def load(self, carry: Carry) -> None:
        """Continue from this carry."""
        self.carry = carry

    def run(self, epoch: Epoch, first: int, count: int) -> Any:
        """The losses of `count` steps of an epoch from step `first` on: (count,)."""
        backend, losses, keys = self.batches.backend, [], self.batches.keys(epoch, first, count)
        for step in range(count):
            batch = self.batches.samples(epoch, first + step, 1)
            if backend.sharded:
                batch = tree.map(backend.shard_rows, batch)
            key = None if keys is None else keys[step, ...]
            by = self.step
            if self.batches.is_last(first + step):
                by = replace(by, shard=self.batches.last_shard())
            self.carry, loss = by(self.carry, batch, key)
            losses.append(loss)
            self.bar.batch(batch.size * self.batches.processes)
        return backend.xp.stack(losses)

    def invalidate_data(self) -> None:
        """Forget what was computed from the data; here nothing is cached."""

    def snapshot(self, reuse: Any = None, *, last: bool = False) -> tuple[Carry, Any]:
        """(the current carry, memory that a later snapshot may reuse)."""
        return self.carry, None
