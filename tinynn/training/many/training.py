"""The loop over the epochs of many networks, and what callbacks see of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from backends.user_code import warn
from tinynn import tree
from tinynn.data import host
from tinynn.training import progress as bars
from tinynn.training.callbacks import (
    CSVLog,
    EarlyStopping,
    LearningRate,
    TensorBoard,
    checked,
    tell,
)
from tinynn.training.evaluation import evaluate, numbers
from tinynn.training.many.networks import Networks
from tinynn.training.many.stack import ModelStack
from tinynn.training.many.stopping import Stopping
from tinynn.training.pace import Pace
from tinynn.training.signals import Signals
from tinynn.training.state import is_lost
from tinynn.training.varied import with_numbers


@dataclass
class StackRun:
    """The training of many networks, as the callbacks of `fit_many` see it.

    Attributes
    ----------
    epochs
        How many there are to be in all.
    training
        The loop over the epochs, which carries them out.
    rank
        0: many networks are trained by one process.
    """

    epochs: int
    training: Any = field(repr=False)
    rank: int = 0

    @property
    def epoch(self) -> int:
        """The number of epochs that are done."""
        return int(self.training.epoch)

    @property
    def alive(self) -> tuple[int, ...]:
        """The numbers of the networks that go on."""
        return tuple(self.training.alive)

    @property
    def history(self) -> dict[str, Any]:
        """The measures so far, by name: (networks, epochs) arrays of the host."""
        return dict(self.training.history())

    def stack(self) -> ModelStack:
        """All networks as they are now, in arrays of their own."""
        found: ModelStack = self.training.stack()
        xp = self.training.backend.xp
        parts = tree.map(lambda a: xp.asarray(a, copy=True), (found.params, found.state))
        return replace(found, params=parts[0], state=parts[1])

    def stop(self, networks: Iterable[int] | None = None) -> None:
        """Ask for the training of some networks, or of all, to end after this epoch.

        Parameters
        ----------
        networks
            Their numbers; None for all. Those that have ended stay as they are.

        Raises
        ------
        TypeError
            One number, and no collection of them.
        ValueError
            What is no number of a network.
        """
        known = range(len(self.training.networks))
        if networks is not None and not isinstance(networks, Iterable):
            raise TypeError(
                "StackRun.stop: networks: expected the numbers of networks in a list, got "
                f"{networks!r}. To fix it: run.stop([{networks!r}])"
            )
        asked = list(known if networks is None else networks)
        if wrong := [k for k in asked if isinstance(k, bool) or k not in known]:
            raise ValueError(
                f"StackRun.stop: networks: expected numbers from 0 to {known[-1]}, one for each "
                f"of {len(known)} networks, got {wrong[0]!r}. To fix it: take them from run.alive"
            )
        self.training.asked |= {int(k) for k in asked}


def checked_callbacks(given: Any) -> list[Any]:
    """The callbacks as a list; TypeError for those of a single network's run."""
    callbacks = checked(given)
    for each in callbacks:
        if isinstance(each, EarlyStopping | LearningRate | CSVLog | TensorBoard):
            raise TypeError(
                "fit_many: callbacks: expected functions of the run of all networks, a StackRun, "
                f"got {each!r}, which is for the run of one. To fix it: give early_stopping= for "
                "EarlyStopping, a schedule such as CosineDecay for LearningRate, or write a "
                "function that reads run.history"
            )
    return callbacks


class Training:
    """The loop over the epochs of all networks."""

    def __init__(
        self,
        networks: Networks,
        engine: Any,
        epochs: int,
        bar: bars.Bar,
        stopping: Stopping,
        folds: Any = None,
        callbacks: Sequence[Any] = (),
        checkpoint: Any = None,
    ) -> None:
        self.networks, self.engine, self.epochs, self.bar = networks, engine, epochs, bar
        self.folds, self.callbacks, self.checkpoint = folds, callbacks, checkpoint
        self.stopping, self.ended, self.asked = stopping, set[int](), set[int]()
        self.epoch, self.run, self.signals = 0, StackRun(epochs, self), Signals(noted=False)
        self.problem, self.backend = networks.first, networks.backend
        self.measured = len(self.problem.measures) > 1
        self.alive = list(range(len(networks)))
        self.lengths = [0] * len(networks)  # the epochs of each
        self.columns: dict[str, list[Any]] = {name: [] for name in self.problem.measures}
        self.carry, self.pace = engine.carry(), Pace(networks.per_epoch)
        told = bool(stopping.early or stopping.halving or callbacks)  # of every epoch
        self.single = told or engine.converged(self.carry) is not None

    def train(self) -> None:
        """Epoch after epoch, until all are done or no network is left."""
        tell(self.callbacks, "start", self.run)
        self._let_go(set())  # those that a callback has stopped already
        with self.signals:
            self._advance_to_end()
        if self.checkpoint:  # also if it ends between two checkpoints
            self.checkpoint.write(self)
        self._name_the_lost()
        self._name_the_stuck()
        tell(self.callbacks, "finish", self.run)

    def _advance_to_end(self) -> None:
        while self.epoch < self.epochs and self.alive:
            begun, whole = self.epoch, (self.carry, self.lengths, self.alive)
            try:
                self._advance()
            except KeyboardInterrupt:
                if self.epoch == 0:  # there is no whole epoch to go back to
                    raise
                if self.epoch == begun:
                    self.carry, self.lengths, self.alive = whole
                said = f"epoch {self.epoch}: interrupted: the networks are as they were after this"
                _warn(f"{said} epoch")
                break

    def _advance(self) -> None:
        """Carry out the next epochs, and what follows on each of them."""
        epoch, pace, steps = self.epoch, self.pace, self.networks.per_epoch
        count = 1 if self.measured or self.single else max(1, pace.steps // steps)
        count = min(count, self.epochs - epoch)
        if self.checkpoint:
            count = min(count, self.checkpoint.left(epoch))
        with pace, self.backend.quiet():
            losses = self._losses(epoch, count)
        table = self._measured() if self.measured else []
        row = self._keep(losses, table, epoch + count)
        if self.single:
            self._end(row, self.epoch)
        if self.checkpoint and self.checkpoint.is_due(self.epoch):
            self.checkpoint.write(self)

    def _name_the_lost(self) -> None:
        """Warn of the networks that neither went on to the end nor were to end before it."""
        staying = self.ended.union(self.alive)
        if lost := [k for k in range(len(self.networks)) if k not in staying]:
            named = ", ".join(f"{k} (after epoch {self.lengths[k]})" for k in lost[:10])
            more = f" and {len(lost) - 10} more" if len(lost) > 10 else ""
            _warn(
                f"the loss is no longer finite in {len(lost)} of {len(self.networks)} networks, "
                f"which stay as they were: {named}{more}. Lower their learning rates, clip the "
                "gradients, or scale X"
            )

    def _name_the_stuck(self) -> None:
        """Warn of the networks that stay as they were, as their gradients are not finite."""
        if self.engine.converged(self.carry) is None:
            return
        kept = [self.engine.network(self.carry, k).optimizer_state for k in self.alive]
        states = [state[0] if isinstance(state, tuple) else state for state in kept]
        stuck = [is_lost(state, self.backend) for state in states]
        if named := [str(k) for k, each in zip(self.alive, stuck, strict=True) if each]:
            _warn(
                f"the gradient is not finite in {len(named)} of {len(self.networks)} networks, "
                f"which stay as they were: {', '.join(named[:10])}. Take a loss that has a "
                "derivative there, or other parameters to start from"
            )

    def _end(self, row: dict[str, list[float]], epoch: int) -> None:
        """Let the networks end that are to end after this epoch."""
        merged = self.engine.merged
        gone = self.stopping.ended(row, epoch, self.alive, self.carry, merged)
        if (converged := self.engine.converged(self.carry)) is not None:
            gone |= {k for k in self.alive if converged[k]}
        try:
            for callback in self.callbacks:
                callback(self.run)
        finally:  # what is known of their ends holds for the checkpoint, if Ctrl-C comes meanwhile
            self._let_go(gone)

    def _let_go(self, gone: set[int]) -> None:
        """End these networks, and those that a callback has asked to end."""
        gone = (gone | self.asked) & set(self.alive)
        self.ended |= gone
        self.alive = [k for k in self.alive if k not in gone]

    def _losses(self, epoch: int, count: int) -> Any:
        """Carry out some epochs: the losses of each network, (networks, epochs), on the host.

        Networks whose losses are not finite go back to where they were, and are alive no more.
        """
        before, engine = self.carry, self.engine
        losses = self.networks.losses(engine.run(epoch, count, self.alive), epoch)
        after = engine.carry()
        rows, sound = self._read(losses, after)
        ends = dict.fromkeys(self.alive, count)
        for k in [k for k in self.alive if not sound[k]]:
            bad = (e for e, loss in enumerate(rows[k, :].tolist()) if not isfinite(loss))
            ends[k] = next(bad, count - 1)  # if none, the last step of all
        for end in sorted({end for end in ends.values() if end < count}):
            chosen = [k for k, each in ends.items() if each == end]
            engine.load(before)
            if end:
                engine.run(epoch, end, chosen)
            after = engine.merged(after, engine.carry(), chosen)
        if len(self.alive) < len(self.networks):
            gone = [k for k in range(len(self.networks)) if k not in ends]
            after = engine.merged(after, before, gone)
        if min(ends.values()) < count or len(self.alive) < len(self.networks):
            engine.load(after)
        self.carry = after
        reached = {k: epoch + end for k, end in ends.items()}
        self.lengths = [reached.get(k, length) for k, length in enumerate(self.lengths)]
        self.alive = [k for k, end in ends.items() if end == count]
        return rows

    def _read(self, losses: Any, carry: Any) -> tuple[Any, list[bool]]:
        """The losses on the host, and whether those and the parameters of a network are finite."""
        xp = self.backend.xp
        arrays = [losses, *tree.leaves(self.engine.parts(carry)[0])]
        finite = [xp.all(xp.reshape(xp.isfinite(a), (a.shape[0], -1)), axis=1) for a in arrays]
        flags = xp.astype(xp.all(xp.stack(finite), axis=0), losses.dtype)
        rows = self.backend.to_host(xp.concat((losses, flags[:, None]), axis=1))
        return rows[:, :-1], [bool(flag) for flag in rows[:, -1].tolist()]

    def _keep(self, losses: Any, table: list[list[float]], epoch: int) -> dict[str, list[float]]:
        """Put what was measured to the history, and show it; the last epoch's, by name."""
        parts = {"loss": losses}
        last = losses[:, -1].tolist()
        row = {"epoch": epoch, "loss": _mean([last[k] for k in self.alive])}
        whole = {"loss": last}
        for place, name in enumerate(self.problem.measures[1:] if table else ()):
            column = [[each[place]] for each in table]
            parts[name] = column
            whole[name] = [each[place] for each in table]
            shown = [whole[name][k] for k in self.alive]
            if not shown or not isinstance(shown[0], list):  # a bar shows single numbers
                row[name] = _mean(shown)
        with self.signals.unbroken():  # parameters and history are of one epoch
            self.epoch = epoch
            for name, part in parts.items():
                self.columns[name].append(part)
        self.bar.batch(self.problem.batches.dataset.size * losses.shape[1])
        self.bar.epoch(row)
        return whole

    def _measured(self) -> list[list[float]]:
        """The measures of each network besides its training loss."""
        networks, names, scalars = self.networks, self.problem.measures[1:], []
        for k in self.alive:
            problem, step = networks.problem(k), networks.steps[k]
            held, carry = problem.validation, self.engine.network(self.carry, k)
            dataset = problem.batches.dataset if held is None else held
            scalars += evaluate(
                step.net, carry.params, carry.state, dataset, None if held is None else step.loss,
                problem.metrics, self.backend,
            )  # fmt: skip
        read, width = numbers(self.backend, scalars), len(names)
        known = {k: read[i * width : (i + 1) * width] for i, k in enumerate(self.alive)}
        missing = (
            _blank(read[:width])
            if self.alive
            else [
                _blank(self.columns[name][-1][0][0]) if self.columns[name] else float("nan")
                for name in names
            ]
        )
        return [known.get(k, missing) for k in range(len(networks))]

    def history(self) -> dict[str, Any]:
        """The measures so far, by name: (networks, epochs)."""
        return {name: self._column(parts) for name, parts in self.columns.items()}

    def stack(self) -> ModelStack:
        """The trained networks."""
        problem, step, numbers = self.problem, self.problem.step, self.networks.numbers
        net, loss = (with_numbers(getattr(step, name), name, numbers) for name in ("net", "loss"))
        carry, kept = self.stopping.restored(self.carry, self.lengths, self.engine.merged)
        params, state = self.engine.parts(carry)
        return ModelStack(
            net, params, state, history=self.history(), epochs=tuple(self.lengths), loss=loss,
            metrics=problem.metrics, columns=problem.columns, seeds=tuple(self.networks.seeds),
            kept=tuple(kept), folds=self.folds,
        )  # fmt: skip

    def _column(self, parts: list[Any]) -> Any:
        """A measure as (networks, epochs), on the host; NaN where a network had stopped."""
        library = host()
        xp = library.xp
        if not parts:
            return xp.zeros((len(self.networks), 0), dtype=xp.float64)
        whole: Any = xp.concat([library.asarray(p, dtype="float64") for p in parts], axis=1)
        for k, length in enumerate(self.lengths):
            if length < whole.shape[1]:
                whole[k, length:] = float("nan")
        return whole


def _blank(value: Any) -> Any:
    """NaN in place of each number of nested lists."""
    return list(map(_blank, value)) if isinstance(value, list) else float("nan")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _warn(what: str) -> None:
    warn(f"fit_many: {what}.")
