"""fit: the training loop.

`prepare` checks and brings together what is to be trained on what, an engine carries out the steps,
and `fit` is the loop around it. Everything happens where X is. What crosses to the host is one
boolean or two while X and y are checked, and one small array of numbers an epoch.
"""

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from backends import Backend
from tinynn.metrics import MetricLike
from tinynn.parallel import Communicator
from tinynn.parallel import communicator as find_communicator
from tinynn.training import engines
from tinynn.training.callbacks import Callback, checked
from tinynn.training.checkpoints import checkpointer_of, dtype_of, source_of
from tinynn.training.loop import carry_out
from tinynn.training.model import Model
from tinynn.training.problem import Problem, check_whole, prepare
from tinynn.training.ranks import Ranks
from tinynn.training.state import Run, TrainingState


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
        class where all targets are in memory; the last ones without `shuffle`), or a tuple
        (X, y) or (X, y, sample_weight), or a dataset, or batches.
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
        Of parameters and data; None is the floating dtype of X, else the default: of lists, and of
        a frame unless all its columns are float32. Beside `resume` these take that of the run.
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
        source = source_of(resume, checkpoint)
        dtype = dtype_of(source, X) if dtype is None else dtype
        problem = prepare(
            net, X, y, loss=loss, optimizer=optimizer, batch_size=batch_size,
            validation=validation, seed=seed, metrics=metrics, sample_weight=sample_weight,
            shuffle=shuffle, params=params, state=state, backend=backend, dtype=dtype,
            compute_dtype=compute_dtype, communicator=together,
        )  # fmt: skip
    run = _run(problem, epochs, TrainingState(problem.start))
    carry_out(run, problem, engine, called, progress, checkpointer, source)
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
    carry_out(run, problem, engine, checked(callbacks), progress)
    return run


def _run(problem: Problem, epochs: int, state: TrainingState) -> Run:
    optimizer = problem.step.optimizer
    rank = 0 if problem.communicator is None else problem.communicator.rank
    return Run(epochs, state, problem.measures, problem.directions, optimizer=optimizer, rank=rank)
