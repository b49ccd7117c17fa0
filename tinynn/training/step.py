"""A training step, and an epoch of them: pure functions of arrays, all on the device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from backends import random
from tinynn.layers import merge, split
from tinynn.trace.scopes import scopes
from tinynn.training.data import Samples
from tinynn.training.model import cost
from tinynn.training.progress import Bar
from tinynn.transforms import value_and_grad

# What the seed's key is folded with: numbers that no layer's place in a network reaches.
SHUFFLE, DROPOUT, HOLD_OUT = 2**30, 2**30 + 1, 2**30 + 2


class Snapshot(NamedTuple):
    """Parameters and optimizer state as they were, for an engine to start from again.

    Attributes:
        memory: the arrays they lie in, if a later snapshot could take their place.
    """

    params: Any
    state: Any
    memory: Any = None


@dataclass(frozen=True)
class TrainingStep:
    """One step of training: a pure function of arrays, small enough to be recorded as a whole."""

    net: Any
    loss: Any
    optimizer: Any

    def __call__(self, params: Any, state: Any, batch: Samples, key: Any) -> tuple[Any, Any, Any]:
        """(params, optimizer state, loss) one step on."""
        trainable, statistics = split(params)

        def objective(trainable: Any) -> tuple[Any, Any]:
            prediction, after = self.net.train(merge(trainable, statistics), batch.x, key)
            with scopes.at("loss"):
                return cost(self.loss, prediction, batch), split(after)[1]

        (value, updated), gradients = value_and_grad(objective, has_aux=True)(trainable)
        with scopes.at("update"):
            trainable, state = self.optimizer.update(gradients, state, trainable)
        return merge(trainable, updated), state, value


@dataclass(frozen=True)
class Epoch:
    """One pass over the samples, a batch at a time, all on the device."""

    backend: Any
    step: TrainingStep
    samples: Samples
    size: int
    shuffle_key: Any  # None keeps the samples in their order
    dropout_key: Any

    def __call__(self, params: Any, state: Any, number: int, bar: Bar) -> tuple[Any, Any, Any]:
        """(params, optimizer state, loss of the epoch) after epoch `number`, counted from 0."""
        count, weights = self.samples.size, self.samples.weights
        total: Any = 0.0
        for batch, key in self.batches(number):
            params, state, value = self.step(params, state, batch, key)
            # A mean counts as much as the samples it is of; a sum counts once.
            share: Any = batch.size if weights is None else self.xp.sum(batch.weights)
            total = total + (value * share if self.averages else value)
            bar.batch(batch.size)
        if self.averages:
            total = total / (count if weights is None else self.xp.sum(weights))
        return params, state, total

    def batches(self, number: int) -> Iterator[tuple[Samples, Any]]:
        """The samples of each step of this epoch, and its key; None if nobody draws."""
        order, keys = self.order(number), self.keys(number)
        for index, start in enumerate(range(0, self.samples.size, self.size)):
            stop = min(start + self.size, self.samples.size)
            if order is None:
                batch = self.samples.between(start, stop)
            else:
                batch = self.samples.take(self.xp, order[start:stop])
            yield batch, None if keys is None else keys[index, ...]

    @property
    def xp(self) -> Any:
        """The namespace of the samples."""
        return self.backend.xp

    @property
    def averages(self) -> bool:
        """Whether the loss of a batch is a mean over it."""
        return getattr(self.step.loss, "reduction", "mean") == "mean"

    @property
    def draws(self) -> bool:
        """Whether steps draw random numbers."""
        return getattr(self.step.net, "uses_key", True)

    def order(self, number: int) -> Any:
        """The samples' places in this epoch, shuffled; None where they stay as they are."""
        if self.shuffle_key is None:
            return None
        return random.permutation(random.fold_in(self.shuffle_key, number), self.samples.size)

    def keys(self, number: int) -> Any:
        """A key for each step of this epoch, drawn at once: (steps, 2); None if nobody draws."""
        if not self.draws:
            return None
        steps = -(-self.samples.size // self.size)
        return random.bits(random.fold_in(self.dropout_key, number), (steps, 2))
