"""Steps as they are written, and recorded once there have been many."""

from collections.abc import Callable
from typing import Any

from tinynn.training.batches import Epoch
from tinynn.training.engines.eager import Eager
from tinynn.training.step import Carry


class Late:
    """An eager engine that gives way to a compiled one after so many steps of the whole run.

    For steps of which nobody knows how many there will be. A run that is resumed changes at the
    same step. From then on it is as that engine is, which may carry out epochs together.

    make: a carry -> the engine to go on with.
    """

    name = "auto"

    def __init__(self, first: Eager, make: Callable[[Carry], Any], after: int) -> None:
        self.engine: Any = first
        self.make: Callable[[Carry], Any] | None = make
        self.after = after

    def run(self, epoch: Epoch, first: int, count: int) -> Any:
        """The losses of `count` steps of an epoch from step `first` on: (count,)."""
        steps = self.engine.batches.steps
        if self.make is not None and epoch.number * steps + first >= self.after:
            self.engine, self.make = self.make(self.engine.snapshot()[0]), None
        return self.engine.run(epoch, first, count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)
