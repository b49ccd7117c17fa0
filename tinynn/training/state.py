"""TrainingState, all that a run continues from, and `Run`, which callbacks are given."""

from dataclasses import dataclass, field
from typing import Any

from tinynn.training.history import History
from tinynn.training.step import Carry


@dataclass
class TrainingState:
    """The state of a training run, which engines advance and checkpoints keep.

    Attributes
    ----------
    carry
        Parameters, the network's state and the optimizer's.
    epoch
        How many epochs are done.
    step
        How many steps of the epoch after them are done.
    losses
        Of those steps: arrays (steps,) on the device.
    history
        What the epochs have shown.
    callbacks
        The states of the callbacks in a checkpoint, by name: see `tinynn.training.callbacks`.
    engine
        The name of the engine that has advanced it; "" before the first.
    """

    carry: Carry
    epoch: int = 0
    step: int = 0
    losses: list[Any] = field(default_factory=list)
    history: History = field(default_factory=History)
    callbacks: dict[str, Any] = field(default_factory=dict)
    engine: str = ""


@dataclass
class Run:
    """A training run, as its callbacks see it.

    Arrays of the state are never changed in place, so a callback may keep them, and it may put
    others in their place. `measures` names what the history holds.
    """

    epochs: int
    state: TrainingState = field(repr=False)
    measures: tuple[str, ...] = ("loss",)
    directions: dict[str, bool | None] = field(default_factory=dict, repr=False)
    stopped: bool = False

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return self.state.epoch

    @property
    def history(self) -> History:
        """What the epochs have shown."""
        return self.state.history

    @property
    def params(self) -> Any:
        """The parameters after the last epoch; others may be put in their place."""
        return self.state.carry.params

    @params.setter
    def params(self, params: Any) -> None:
        self.state.carry = self.state.carry._replace(params=params)

    def stop(self) -> None:
        """Ask for training to end after this epoch."""
        self.stopped = True
