"""fit: the training loop.

`prepare` checks and brings together what is to be trained on what, an engine carries out the steps,
and `fit` is the loop around it. Everything happens where X is. What crosses to the host is one
boolean or two while X and y are checked, and one small array of numbers an epoch.
"""

import os
import signal
import warnings
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from math import isfinite
from typing import Any

from backends import Backend
from tinynn import tree
from tinynn.data import DataError
from tinynn.metrics import MetricLike
from tinynn.parallel import Communicator
from tinynn.parallel import communicator as find_communicator
from tinynn.training import engines
from tinynn.training import progress as bars
from tinynn.training.callbacks import Callback, checked, keep_data, restore_states, states, tell
from tinynn.training.checkpoints import (
    Checkpointer,
    check_left,
    checkpointer_of,
    restore,
    source_of,
)
from tinynn.training.evaluation import evaluate, numbers
from tinynn.training.memory import OutOfMemoryError, memory_suffices
from tinynn.training.model import Model
from tinynn.training.pace import Pace
from tinynn.training.problem import Problem, check_whole, prepare
from tinynn.training.ranks import Ranks, compared
from tinynn.training.signals import TERMINATED, Signals
from tinynn.training.state import Run, TrainingState
from tinynn.training.step import is_same_tree


def fit(
    net: Any,
    X: Any,
    y: Any = None,
    *,
    loss: Any = None,
    optimizer: Any = None,
    epochs: int = 20,
    batch_size: int | str | None = "auto",
    validation: Any = None,
    seed: int = 0,
    callbacks: Iterable[Callback] = (),
    metrics: Iterable[str | MetricLike] = (),
    sample_weight: Any = None,
    shuffle: bool | None = None,
    progress: bool | None = None,
    params: Any = None,
    state: Any = None,
    backend: str | Backend | None = None,
    dtype: Any = None,
    compute_dtype: Any = None,
    engine: str = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | timedelta = 1,
    keep: int = 1,
    keep_best: bool | str = False,
    resume: str | os.PathLike[str] | bool = False,
    communicator: str | Communicator | None = None,
) -> Model:
    """Train a network on X and y.

    Parameters
    ----------
    net
        A layer, most often a `Sequential`.
    X
        (samples, ...), an array of any backend, nested lists, a data frame of numbers
        (pandas, polars, pyarrow and others, through narwhals) or a sparse matrix of
        SciPy's; or a tuple or dict of these, for a network of several inputs; or sequences
        that differ in length, `tinynn.data.Ragged`. Everything
        follows X: its library, device and floating dtype. Integers stay integers. Or a
        dataset of your own, which gives y too: see `tinynn.data.Dataset`; its first samples
        are checked, and `loss` has to be given. Or batches, as (X, y) or (X, y,
        sample_weight): an iterable of them, such as a list or a data loader, or a function
        that returns one, such as a generator function, of no argument or of the number of
        the epoch. All batches are of one size, but the last may be smaller; `loss` has to
        be given.
    y
        (samples,) integer labels or numbers, or (samples, outputs); a kind as X, or a
        column. None beside a dataset.
    loss
        A loss, its name, or any function of (prediction, target) that gives a mean; None
        takes the one that y can only mean, by the rules of `tinynn.losses.for_targets`.
    optimizer
        An optimizer or its name; None is `Adam()`. "auto" is Levenberg-Marquardt, L-BFGS or
        Adam, by parameters, rows and loss: `Model.optimizer` says which.
    epochs
        How many there are to be in all, those of a run that is resumed included.
    batch_size
        Samples a step; the last batch of an epoch may be smaller. None for all at once;
        "auto" is 32, or the size of the batches given as X.
    validation
        The fraction of the samples to hold out (drawn by the seed, the same share of each
        class; the last ones without `shuffle`), or a tuple (X, y) or (X, y, sample_weight),
        or a dataset, or batches.
    seed
        The same seed gives the same start, batches and dropout on every backend.
    callbacks
        Called after each epoch with the `Run`; see `tinynn.training.callbacks`.
    metrics
        Functions of (prediction, target) or their names. Measured after each epoch: on the
        held-out samples ("validation_accuracy") if there are any, else on all ("accuracy").
    sample_weight
        (samples,), how much each sample counts in the loss.
    shuffle
        Whether each epoch has an order of its own; None is True, but for batches given as
        X.
    progress
        A bar on the error stream or in the notebook; None shows it when the output is
        interactive.
    params, state
        What to start from, instead of new ones; the optimizer starts anew (`resume` goes on
        with a run).
    backend
        Where to bring host data; not needed for arrays, which are somewhere already.
    dtype
        Of parameters and data; None is the floating dtype of X, else the default.
    compute_dtype
        Of what layers compute in training, such as "bfloat16" where the library has it, or
        "float32" beside parameters of float64. Parameters, state, statistics of norms, loss
        and optimizer keep `dtype`, in which the model measures and predicts; None computes
        in it too.
    engine
        How the steps are carried out: "eager" as they are written; "calls" as a program
        that is recorded once, with the loop over the batches inside; "loops" as that
        program in explicit loops, for small networks: machine code on the CPU (pip install
        tinynn-xp[loops]), one launch for many steps on CUDA; "jit" as one that the library
        compiles itself, where it can; "auto" takes what is fastest from start to end:
        "loops" for long runs alone, where llvmlite is installed and no callback may end them
        early. All give the same numbers, to rounding, from a loss and layers that depend on
        their arguments alone: what they compute from other arrays is computed once. A step
        that cannot be recorded runs eagerly, and a warning says why.
    checkpoint
        A file that the state of the run is written to, whole or not at all.
    every
        Epochs from one checkpoint to the next, or a timedelta.
    keep
        How many checkpoints are kept: the newest at `checkpoint`, the ones before beside it with
        ".1", ".2", and so on, behind its name.
    keep_best
        Whether the checkpoint of the best epoch is kept as well, with ".best" behind the name: by
        the name of a measure, or by "validation_loss" for True. It is written whenever an epoch is
        better than all before, whatever `every` says.
    resume
        A checkpoint to go on from, with the other arguments as they were; True takes that of
        `checkpoint` if the file is there. With an engine that is named, k epochs and then k more
        give the bits of 2k at once; but with "jit", whose compiler makes another program of another
        number of steps, they may differ by rounding where steps are carried out together.
    communicator
        Of the processes that train together, each on its rows of every batch: "mpi" for those that
        mpiexec started, "gloo" or "nccl" for torchrun's, "auto" for either, or one of
        `tinynn.parallel`. `batch_size` counts the rows of all. None: this process is alone.

    Raises
    ------
    ValueError
        Before training, for arguments or data that do not fit; the message says which.
    ParallelError
        Processes are not alike, or another one failed.
    MixedArrays, BackendUnavailable, ShapeError
        Likewise.

    Notes
    -----
    Ctrl-C ends training with the model as it was after the last whole epoch, and a warning; in
    the first epoch it is passed on. A loss that is no longer finite ends it likewise. With a
    checkpoint, Ctrl-C and SIGTERM let the steps that are being carried out end, a second at most,
    and the state is written as it is then; after SIGTERM the process exits with status 143. A
    second signal acts at once.

    A checkpoint that cannot be written, on a full disk for one, is warned of, and training goes on.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> x = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> model = fit(Linear(1), x, 2 * x[:, 0] + 1, epochs=400, batch_size=None)
    >>> len(model.history["loss"])
    400
    """
    together = find_communicator(communicator)
    with Ranks(together).together("the arguments"):
        check_whole(epochs=epochs)
        if engine not in engines.ENGINES:
            known = ", ".join(map(repr, engines.ENGINES))
            raise ValueError(f"fit: engine: expected one of {known}, got {engine!r}")
        called = checked(callbacks)
        checkpointer = checkpointer_of(checkpoint, every, keep, keep_best)
        problem = prepare(
            net, X, y, loss=loss, optimizer=optimizer, batch_size=batch_size,
            validation=validation, seed=seed, metrics=metrics, sample_weight=sample_weight,
            shuffle=shuffle, params=params, state=state, backend=backend, dtype=dtype,
            compute_dtype=compute_dtype, communicator=together,
        )  # fmt: skip
        source = source_of(resume, checkpoint)
    run = _run(problem, epochs, TrainingState(problem.start))
    _carry_out(run, problem, engine, called, progress, checkpointer, source)
    carry = run.state.carry
    return Model(
        net, carry.params, carry.state, history=run.history, loss=problem.step.loss,
        metrics=problem.metrics, columns=problem.columns, optimizer=problem.step.optimizer,
    )  # fmt: skip


def train(
    problem: Problem,
    epochs: int,
    *,
    state: TrainingState | None = None,
    engine: str = "auto",
    callbacks: Iterable[Callback] = (),
    progress: bool | None = None,
) -> Run:
    """Carry out the epochs of a problem, as `fit` does, and return the `Run`.

    Parameters
    ----------
    problem
        As `prepare` gives it.
    epochs
        How many there are to be in all, those that `state` has behind it included.
    state
        Where to go on from, such as the state of an earlier run, on these data or on others; None
        begins at `problem.start`. It is advanced in place.
    engine, callbacks, progress
        As `fit` has them.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> from tinynn.training import prepare
    >>> x = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> problem = prepare(Linear(1), x, 2 * x[:, 0] + 1)
    >>> run = train(problem, 2)
    >>> train(problem, 5, state=run.state).history["epoch"]
    [1, 2, 3, 4, 5]
    """
    start = TrainingState(problem.start) if state is None else state
    run = _run(problem, epochs, start)
    _carry_out(run, problem, engine, checked(callbacks), progress)
    return run


def _run(problem: Problem, epochs: int, state: TrainingState) -> Run:
    optimizer = problem.step.optimizer
    rank = 0 if problem.communicator is None else problem.communicator.rank
    return Run(epochs, state, problem.measures, problem.directions, optimizer=optimizer, rank=rank)


def _carry_out(
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
        ranks.check_same(compared(run, problem) if ranks.several else {})
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
            run.state.engine = by.name
            caught = Signals(checkpointer is not None or ranks.several)
            with ranks.training(), caught as signals, closing(problem.batches):
                _Training(run, problem, by, called, bar, checkpointer, signals, ranks).train()
        tell(called, "finish", run)


class _Training:
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
        # Epochs are carried out together where nothing looks at each of them.
        quiet = not callbacks and len(run.measures) == 1 and checkpointer is None
        self.fused = engine.fuses_epochs and quiet
        self.memory: tuple[Any, Any] = (None, None)  # of the last two snapshots

    def train(self) -> None:
        """Epoch after epoch, until all are done or something ends them."""
        (run := self.run).stop_if_converged(self.problem.backend)  # one that is gone on with may be
        whole = True
        while run.epoch < run.epochs and not run.stopped and not self.received:
            before, whole = run.state.carry, run.state.step == 0
            try:
                with memory_suffices(self.problem.backend, self.problem.batches.size):
                    count = self._epochs() if self.fused and whole else self._epoch()
                if count == 0:  # a signal came, and the state is written as it is
                    break
                self._after_epoch()
            except (KeyboardInterrupt, OutOfMemoryError, DataError) as error:
                # There may be no whole epoch to go back to, or others that wait for this process.
                if run.epoch == 0 or not whole or self.ranks.several:
                    raise
                run.state.step, run.state.losses = 0, []
                what = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{error}"
                _warn(run, f"{what}: the model is as it was after this epoch")
                run.stop()
                break
            if not isfinite(run.history.last["loss"]):
                self._diverged(before, count, whole)
            else:
                run.stop_if_converged(self.problem.backend)
        if self.checkpointer and run.state.step == 0:  # also if it ends between two checkpoints
            self._checkpoint(run.state)
        self.ranks.barrier()  # the checkpoint is there before any of them goes on
        if self.received:
            self.ranks.leaving()
            self._interrupted(self.received, whole)

    def _interrupted(self, received: signal.Signals, whole: bool) -> None:
        """End the run, whose state is written, as the signal asks for."""
        run = self.run
        if received == signal.SIGTERM:
            raise SystemExit(TERMINATED)
        if run.epoch == 0 or (run.state.step and not whole):
            raise KeyboardInterrupt  # there is no whole epoch to go back to
        run.state.step, run.state.losses = 0, []
        _warn(run, "interrupted: the model is as it was after this epoch")
        run.stop()

    def _epochs(self) -> int:
        """Carry out several epochs that are all alike; their losses go to the history."""
        run, batches = self.run, self.problem.batches
        before, start = run.state.carry, run.epoch
        assert batches.steps is not None  # epochs of streams are not fused
        count = max(1, min(self.pace.steps // batches.steps, run.epochs - start))
        with self.pace, self.problem.backend.quiet():
            losses = self._losses(self.engine.run_epochs(count))
        self._meet()
        count = len(losses)  # fewer where the optimizer has converged
        bad = next((i for i, loss in enumerate(losses) if not isfinite(loss)), count)
        if bad < count - 1:  # go there again, and no further
            self.engine.load(before)
            losses, count = self._losses(self.engine.run_epochs(bad + 1)), bad + 1
        run.state.carry = self._snapshot()
        run.state.epoch += count
        numbered = list(range(start + 1, start + count + 1))
        run.history.extend({"epoch": numbered, "loss": losses})
        return count

    def _losses(self, losses: Any) -> list[float]:
        """Losses of the steps of several epochs, (epochs, steps), as one number an epoch."""
        total = self.problem.batches.loss_of_epoch(losses, self.problem.batches.epoch(0))
        return self.problem.backend.to_host(total).tolist()

    def _epoch(self) -> int:
        """Carry out one epoch, or the rest of it, chunk by chunk; 0 if a signal ends it before."""
        state, batches, backend = self.run.state, self.problem.batches, self.problem.backend
        epoch = batches.epoch(state.epoch)
        while True:
            with self.pace, backend.quiet():
                count = batches.available(epoch, state.step, self.pace.steps)
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
        carry = self._snapshot()
        with backend.quiet():
            losses = backend.xp.concat(state.losses)
            row = [batches.loss_of_epoch(losses, epoch), *self._measured(carry)]
            measured = numbers(backend, row)
        state.carry, state.epoch, state.step, state.losses = carry, state.epoch + 1, 0, []
        state.history.add(
            dict(zip(("epoch", *self.run.measures), [state.epoch, *measured], strict=True))
        )
        return 1

    @property
    def received(self) -> signal.Signals | None:
        """The signal that ends the run, once all processes know of it."""
        return self._agreed if self.ranks.several else self.signals.received

    def _meet(self) -> None:
        """Agree with the other processes on the pace, and on a signal that one has got."""
        if self.ranks.several:
            row = [self.pace.took, float(self.signals.received or 0)]
            took, number = map(max, zip(*self.ranks.gathered(row), strict=True))
            self.pace.adapt(took)
            self._agreed = signal.Signals(int(number)) if number else None

    def _measured(self, carry: Any) -> list[Any]:
        """The measures of an epoch besides its training loss, as 0-d arrays."""
        problem = self.problem
        if len(self.run.measures) == 1:
            return []
        held, step = problem.validation, problem.step
        dataset = problem.batches.dataset if held is None else held
        loss = None if held is None else step.loss
        return evaluate(
            step.net, carry.params, carry.state, dataset, loss, problem.metrics, problem.backend,
            communicator=problem.communicator,
        )  # fmt: skip

    def _snapshot(self) -> Any:
        """The carry as it stands, in the memory of the last snapshot but one, if it is free."""
        older, newer = self.memory
        carry, memory = self.engine.snapshot(older)
        # A callback may keep what it is shown.
        self.memory = (None, None) if self.callbacks else (newer, memory)
        return carry

    def _after_epoch(self) -> None:
        """Show the epoch to the bar and the callbacks, and write a checkpoint if it is time."""
        run = self.run
        self.bar.epoch(run.history.last)
        leaves = tree.leaves(shown := run.state.carry)
        if self.callbacks:
            with self.ranks.together("callbacks"):
                for callback in self.callbacks:
                    callback(run)
            run.stopped = any(map(any, self.ranks.gathered([float(run.stopped)])))
            if run.state.carry is not shown or not is_same_tree(run.state.carry, leaves):
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
            self.engine.load(before)
            if count > 1:
                self.engine.run_epochs(count - 1)
            where = engines.diagnose_nonfinite(self.engine, self.run.epoch - 1)
        hint = where or "Lower the learning rate, clip the gradients, or scale X"
        _warn(self.run, f"the loss is no longer finite: training diverged and was stopped. {hint}")
        self.run.stop()


def _warn(run: Run, what: str) -> None:
    warnings.warn(f"fit: epoch {run.epoch}: {what}.", RuntimeWarning, stacklevel=5)
