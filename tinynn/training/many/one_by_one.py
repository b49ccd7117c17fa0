"""The engine that trains one network after another, by the step as it is written."""

from collections.abc import Sequence
from typing import Any

from backends.user_code import warn
from tinynn import tree
from tinynn.training.many.networks import Networks
from tinynn.training.state import has_converged
from tinynn.training.step import Carry


class OneByOne:
    """The step as it is written, of one network after another.

    Parameters
    ----------
    networks
        What is trained.
    said
        What is warned of once a step was carried out: before, it may be an error that is raised.
    """

    name = "eager"

    def __init__(self, networks: Networks, said: str = "") -> None:
        self.networks, self.backend, self.said = networks, networks.backend, said
        first, dtype = networks.first.batches.dataset.between(0, 1), networks.dtype
        if networks.given is None:
            self.carries = [
                step.init(seed, first, dtype)
                for step, seed in zip(networks.steps, networks.seeds, strict=True)
            ]
        else:
            starts = networks.start()
            each = [tree.map(lambda a, k=k: a[k, ...], starts) for k in range(len(networks))]
            self.carries = [
                Carry(params, state, step.optimizer.init(params))
                for step, (params, state) in zip(networks.steps, each, strict=True)
            ]

    def load(self, carry: list[Carry]) -> None:
        """Continue from this carry."""
        self.carries = list(carry)

    def network(self, carry: list[Carry], k: int) -> Carry:
        """The carry of network k."""
        return carry[k]

    def parts(self, carry: list[Carry]) -> tuple[Any, Any]:
        """The parameters and states of all networks: (networks, ...) each."""
        xp = self.backend.xp
        parts = [(each.params, each.state) for each in carry]
        return tree.map(lambda *arrays: xp.stack(arrays), *parts)

    def converged(self, carry: list[Carry]) -> list[bool] | None:
        """Whether each optimizer says that nothing more is to be gained; None if it never does."""
        states = [each.optimizer_state for each in carry]
        if not isinstance(states[0], dict) or "converged" not in states[0]:
            return None
        return [has_converged(each, self.backend) for each in states]

    def merged(self, carry: list[Carry], other: list[Carry], chosen: Sequence[int]) -> list[Carry]:
        """The carry with that of the `other` for the networks of these numbers."""
        return [other[k] if k in chosen else mine for k, mine in enumerate(carry)]

    def carry(self) -> list[Carry]:
        """The carry of each network."""
        return list(self.carries)

    def run(self, epoch: int, count: int, alive: Sequence[int]) -> Any:
        """Carry out so many epochs: the losses of their steps, (networks, epochs, steps)."""
        xp = self.backend.xp
        losses = {k: self._network(k, epoch, count) for k in alive}
        blank = next(iter(losses.values()))
        return xp.stack([losses.get(k, blank) for k in range(len(self.networks))])

    def _network(self, k: int, first: int, count: int) -> Any:
        xp, batches, step = self.backend.xp, self.networks.batches[k], self.networks.steps[k]
        rows = []
        for number in range(first, first + count):
            epoch, losses = batches.epoch(number), []
            keys = batches.keys(epoch, 0, self.networks.per_epoch)
            for place in range(self.networks.per_epoch):
                key = None if keys is None else keys[place, ...]
                batch = batches.samples(epoch, place, 1)
                self.carries[k], loss = step(self.carries[k], batch, key)
                if self.said:
                    warn(f"fit_many: {self.said}")
                    self.said = ""
                losses.append(loss)
            rows.append(xp.stack(losses))
        return xp.stack(rows)
