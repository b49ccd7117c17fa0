"""The loop over the epochs of a run, which an engine carries out chunk by chunk."""

import signal
from contextlib import closing
from dataclasses import replace
from math import isfinite
from typing import Any

from backends.user_code import warn
from tinynn import tree
from tinynn.config import label
from tinynn.data import DataError, host
from tinynn.training import engines
from tinynn.training import progress as bars
from tinynn.training.batches import ReadBatches
from tinynn.training.callbacks import Callback, keep_data, only_look, restore_states, states, tell
from tinynn.training.checkpoints import Checkpointer, check_left, restore
from tinynn.training.evaluation import evaluate, on_host
from tinynn.training.memory import OutOfMemoryError, memory_suffices
from tinynn.training.pace import Pace
from tinynn.training.problem import Problem
from tinynn.training.ranks import Ranks, compared
from tinynn.training.signals import TERMINATED, Signals
from tinynn.training.state import Run, TrainingState, can_converge, has_converged, is_lost


def carry_out(
    run: Run,
    problem: Problem,
    engine: str,
    called: list[Callback],
    progress: bool | None,
    checkpointer: Checkpointer | None = None,
    source: Any = None,
) -> None:
    """All epochs of a run, with everything that stands around them."""
    samples, ranks = problem.batches.dataset.size, Ranks(problem.communicator)
    with problem.backend.scope():
        with ranks.together("what the run goes on from"):
            if source is not None:
                run.state = restore(source, problem)
                check_left(run, source)
            if checkpointer:
                checkpointer.start(run, source)
            problem.check_passes(run.epochs - run.epoch)
            tell(called, "start", run)
            restore_states(called, run)
        ranks.check_same(compared(ranks, run, problem, called, checkpointer))
        with bars.shown(progress if ranks.writes else False, run.epochs, samples) as bar:
            with ranks.together("the engine"):
                by = engines.select(
                    problem,
                    run.state.engine or engine if engine == "auto" else engine,
                    carry=run.state.carry,
                    epochs=run.epochs - run.epoch,
                    never_stops_early=not (called or checkpointer),
                    bar=bar,
                )
            ranks.check_same({"engine": by.name})  # another one rounds otherwise
            run.state.engine = by.name
            caught = Signals(checkpointer is not None or ranks.several)
            with ranks.training(), caught as signals, closing(problem.batches):
                _Loop(run, problem, by, called, bar, checkpointer, signals, ranks).train()
        tell(called, "finish", run)


class _Loop:
    """The loop over epochs; parameters and history always are of the same epoch."""

    def __init__(
        self,
        run: Run,
        problem: Problem,
        engine: Any,
        callbacks: list[Callback],
        bar: bars.Bar,
        checkpointer: Checkpointer | None,
        signals: Signals,
        ranks: Ranks,
    ) -> None:
        self.run, self.problem, self.engine, self.bar = run, problem, engine, bar
        self.callbacks, self.checkpointer = callbacks, checkpointer
        self.signals, self.ranks = signals, ranks
        self._agreed: signal.Signals | None = None  # the signal that all processes know of
        self.pace = Pace(problem.batches.steps, alone=not ranks.several)
        # Epochs are carried out together where nothing looks at each of them, or an engine tells
        # those that only look.
        self.tells = bool(callbacks) and only_look(callbacks) and engine.tells_epochs
        told = not callbacks or self.tells
        self.quiet = told and len(run.measures) == 1 and checkpointer is None
        self.fused = False
        self.memory: tuple[Any, Any] = (None, None)  # of the last snapshot but one, and the last

    def train(self) -> None:
        """Epoch after epoch, until all are done or something ends them."""
        (run := self.run).stop_if_converged(self.problem.backend)  # one that is gone on with may be
        whole = True
        while run.epoch < run.epochs and not run.stopped and not self.received:
            before, done, whole = run.state.current(), run.epoch, run.state.step == 0
            if self.quiet and self.engine.fuses_epochs and not self.fused:  # a late one does later
                self.fused = True
                self.pace = Pace(self.problem.batches.steps, alone=not self.ranks.several)
            try:
                with memory_suffices(self.problem.backend, self.problem.batches.size):
                    count = self._epochs() if self.fused and whole else self._epoch()
                if count == 0:  # a signal came, and the state is written as it is
                    break
                self._after_epoch()
                self._judge(before, count, whole)
            except (KeyboardInterrupt, OutOfMemoryError, DataError) as error:
                # There may be no whole epoch to go back to, or others that wait for this process.
                if run.epoch == 0 or not whole or self.ranks.several:
                    raise
                if run.epoch == done:  # it was being measured, with its own parameters
                    run.state.carry = before()
                run.state.step, run.state.losses = 0, []
                what = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{error}"
                _warn(run, f"{what}: the model is as it was after this epoch")
                run.stop()
                break
        if self.checkpointer and run.state.step == 0:  # also if it ends between two checkpoints
            self._checkpoint(run.state)
        self.ranks.barrier()  # the checkpoint is there before any of them goes on
        if self.received:
            self.ranks.leaving()
            self._interrupted(self.received, whole)

    def _judge(self, before: Any, count: int, whole: bool) -> None:
        """End the run where the loss or the optimizer says so.

        before: the carry before the last `count` epochs.
        """
        run = self.run
        if not isfinite(run.history.last["loss"]):
            self._diverged(before, count, whole)
        elif is_lost(run.state.optimizer_state, self.problem.backend):
            _warn(run, "the gradient is not finite: training was stopped, with the parameters as "
                  "they were. Take a loss that has a derivative there, or other parameters to "
                  "start from")  # fmt: skip
            run.stop()
        else:
            run.stop_if_converged(self.problem.backend)

    def _interrupted(self, received: signal.Signals, whole: bool) -> None:
        """End the run, whose state is written, as the signal asks for."""
        run = self.run
        if received == signal.SIGTERM:
            raise SystemExit(TERMINATED)
        if run.epoch == 0 or (run.state.step and not whole):
            raise KeyboardInterrupt  # there is no whole epoch to go back to
        if run.stopped:  # it ends here anyhow, or a second signal has ended it
            return
        run.state.step, run.state.losses = 0, []
        _warn(run, "interrupted: the model is as it was after this epoch")
        run.stop()

    def _epochs(self) -> int:
        """Carry out several epochs that are all alike; their losses go to the history."""
        run, batches = self.run, self.problem.batches
        before, start = run.state.carry, run.epoch
        assert batches.steps is not None  # epochs of streams are not fused
        count = max(1, min(self.pace.steps // batches.steps, run.epochs - start))
        if self.tells:
            try:
                with self.pace, self.problem.backend.quiet():
                    self.engine.tell_epochs(count, self._tell)
            except BaseException:  # it may be in the middle of a step
                self._return_to_told(before, start)
                raise
            self._advance()
            return run.epoch - start
        with self.pace, self.problem.backend.quiet():
            losses = self._losses(self.engine.run_epochs(count))
        self._meet()
        count = len(losses)  # fewer where the optimizer has converged
        bad = count
        if not isfinite(sum(losses)):  # which says so of each, in a tenth of the time
            bad = next((i for i, loss in enumerate(losses) if not isfinite(loss)), count)
        if bad < count - 1:  # go there again, and no further
            self.engine.load(before)
            losses, count = self._losses(self.engine.run_epochs(bad + 1)), bad + 1
        kept = before.optimizer_state
        over = isfinite(losses[-1]) and not can_converge(kept)
        with self.signals.unbroken():
            self._advance(over, start + count == run.epochs)
            ends = self._epochs_until_converged(kept, count)
            if ends < count:
                if tree.leaves(before.state):  # which layers have gone on to change
                    self.engine.load(before)
                    self.engine.run_epochs(ends)
                    self._advance()
                losses, count = losses[:ends], ends
            run.state.epoch += count
            run.history.extend({"epoch": range(start + 1, start + count + 1), "loss": losses})
        return count

    def _tell(self, loss: Any, carry: Any) -> bool:
        """Note an epoch of several that are carried out together; True if it is the last one."""
        run, number = self.run, float(self.problem.backend.to_host(loss))
        run.state.epoch, run.state.carry = run.state.epoch + 1, carry
        run.history.add({"epoch": run.epoch, "loss": number})
        changed = run.state.watched()
        for callback in self.callbacks:
            callback(run)
            if changed():
                raise ValueError(
                    "fit: expected a callback that only looks, as its only_looks = True says, got "
                    f"{label(callback)}, which changes the state. To fix it: leave only_looks out"
                )
        return run.stopped or not isfinite(number)

    def _return_to_told(self, before: Any, start: int) -> None:
        """Make the carry that of the last epoch in the history, by going there again.

        before, start: the carry and the number of the epoch from which on epochs were told.
        """
        state = self.run.state
        with self.signals.unbroken():
            rows = min(map(len, state.history.values()), default=0)
            for column in state.history.values():
                del column[rows:]
            state.epoch, state.carry = state.history.last.get("epoch", start), before
            if state.epoch > start:
                self.engine.load(before)
                self.engine.run_epochs(state.epoch - start)
                self._advance()

    def _epochs_until_converged(self, old: Any, count: int) -> int:
        """How many of these epochs there would have been one by one; the others changed nothing.

        old: the optimizer's state before them.
        """
        new = self.run.state.optimizer_state
        backend, steps = self.problem.backend, self.problem.batches.steps
        if not has_converged(new, backend) or "step" not in new:
            return count
        taken = int(backend.to_host(new["step"])) - int(backend.to_host(old["step"]))
        return min(count, max(1, -(-taken // steps)))  # type: ignore[operator]

    def _losses(self, losses: Any) -> list[float]:
        """Losses of the steps of several epochs, one after another, as one number an epoch."""
        batches, found = self.problem.batches, self.problem.backend.to_host(losses)
        found = found.reshape((-1, batches.steps))  # type: ignore[arg-type]
        of_epochs: list[float] = batches.loss_of_epoch(found, batches.epoch(0)).tolist()
        return of_epochs

    def _epoch(self) -> int:
        """Carry out one epoch, or the rest of it, chunk by chunk; 0 if a signal ends it before."""
        state, batches, backend = self.run.state, self.problem.batches, self.problem.backend
        epoch = batches.epoch(state.epoch)
        while True:
            with self.pace, backend.quiet():
                count = batches.available(epoch, state.step, self.pace.steps)
                self._agree_on_rows(count)
                if count:
                    state.losses.append(self.engine.run(epoch, state.step, count))
            if not count:
                break
            state.step += count
            self._meet()
            due = self.checkpointer and self.checkpointer.is_due(self.run)
            stops = self.received and self.checkpointer
            if (due or stops) and batches.available(epoch, state.step, 1):
                self._checkpoint(replace(state, carry=self.engine.snapshot()[0]))
                if stops:
                    return 0
        alone = len(self.run.measures) == 1
        if not alone:  # the others are measured with the carry as it stands
            self._advance()
        with backend.quiet():
            rows = on_host(backend, [*state.losses, *([] if alone else self._measured())])
        losses = host().xp.concat(rows[: len(state.losses)])
        rows = [batches.loss_of_epoch(losses, epoch), *rows[len(state.losses) :]]
        measured = [row.tolist() for row in rows]
        over = alone and isfinite(measured[0])
        with self.signals.unbroken():
            if alone:
                self._advance(over, state.epoch + 1 == self.run.epochs)
            state.epoch, state.step, state.losses = state.epoch + 1, 0, []
            state.history.add(
                dict(zip(("epoch", *self.run.measures), [state.epoch, *measured], strict=True))
            )
        return 1

    @property
    def received(self) -> signal.Signals | None:
        """The signal that ends the run, once all processes know of it."""
        return self._agreed if self.ranks.several else self.signals.received

    def _agree_on_rows(self, count: int) -> None:
        """ParallelError unless what is read has as many rows for the next steps in all processes.

        What a stream has is known no sooner, and one that ends before another is waited for.
        """
        state, batches = self.run.state, self.problem.batches
        if self.ranks.several and isinstance(batches, ReadBatches):
            what = f"rows of the batches from number {state.step + 1} of epoch {state.epoch + 1} on"
            self.ranks.check_same({what: batches.waiting(count)})

    def _meet(self) -> None:
        """Agree with the other processes on the pace, and on a signal that one has got."""
        if self.ranks.several:
            row = [self.pace.took, float(self.signals.received or 0)]
            took, number = map(max, zip(*self.ranks.gathered(row), strict=True))
            self.pace.adapt(took)
            self._agreed = signal.Signals(int(number)) if number else None

    def _measured(self) -> list[Any]:
        """The measures of an epoch besides its training loss, as 0-d arrays."""
        problem = self.problem
        held, step, carry = problem.validation, problem.step, self.run.state.carry
        dataset = problem.batches.dataset if held is None else held
        loss = None if held is None else step.loss
        return evaluate(
            step.net, carry.params, carry.state, dataset, loss, problem.metrics, problem.backend,
            communicator=problem.communicator,
        )  # fmt: skip

    def _advance(self, over: bool = False, last: bool = False) -> None:
        """Take the carry as it stands, in the memory of an earlier snapshot, if that is free.

        That is the last one's with `over`, for an epoch to whose start nobody goes back: beside a
        large network memory is short. Else it is that of the one before. After the last epoch of
        all, which no callback may have follow by others, it is taken from the engine, not copied.

        An engine that can put it together later does so once somebody looks.
        """
        if (lazy_carry := getattr(self.engine, "lazy_carry", None)) is not None:
            self.run.state.carry = lazy_carry()
            return
        older, newer = self.memory
        if over:
            older, newer = newer, None
        last = over and last and not self.callbacks
        self.run.state.carry, memory = self.engine.snapshot(older, last=last)
        # A callback may keep what it is shown.
        self.memory = (None, None) if self.callbacks else (newer, memory)

    def _after_epoch(self) -> None:
        """Show the epoch to the bar and the callbacks, and write a checkpoint if it is time."""
        run = self.run
        self.bar.epoch(run.history.last)
        if self.callbacks and not (self.tells and self.fused):
            changed = run.state.watched()
            with self.ranks.together("callbacks"):
                for callback in self.callbacks:
                    callback(run)
            run.stopped = any(map(any, self.ranks.gathered([float(run.stopped)])))
            if changed():
                self.engine.load(run.state.carry)
                run.state.carry = self.engine.snapshot()[0]
            if not keep_data(self.callbacks):
                self.engine.invalidate_data()
        if self.checkpointer:
            self._checkpoint(run.state, self.checkpointer.is_due(run))

    def _checkpoint(self, state: TrainingState, newest: bool = True) -> None:
        assert self.checkpointer is not None
        if not self.ranks.writes:
            return
        kept = states(self.callbacks)
        self.checkpointer.write(replace(state, callbacks=kept), self.problem, newest=newest)

    def _diverged(self, before: Any, count: int, whole: bool) -> None:
        """Warn what made the loss non-finite, and stop."""
        where = ""
        if whole and not self.ranks.several:  # one alone may find it first, and leave the others
            self.engine.load(before())
            if count > 1:
                self.engine.run_epochs(count - 1)
            where = engines.diagnose_nonfinite(self.engine, self.run.epoch - 1)
        hint = where or "Lower the learning rate, clip the gradients, or scale X"
        _warn(self.run, f"the loss is no longer finite: training diverged and was stopped. {hint}")
        self.run.stop()


def _warn(run: Run, what: str) -> None:
    warn(f"fit: epoch {run.epoch}: {what}.")
