"""fit_many: the training loop of many networks at once.

`fit` is what each of them has to equal; what is checked before training, its `prepare` checks.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from backends import Backend
from tinynn.config import Each
from tinynn.metrics import MetricLike
from tinynn.training import progress as bars
from tinynn.training.batches import StreamedBatches
from tinynn.training.callbacks import EarlyStopping
from tinynn.training.checkpoints import source_of
from tinynn.training.many.checkpoints import checkpoint_of, restore
from tinynn.training.many.folds import check_folds, in_folds
from tinynn.training.many.networks import Networks, check_given
from tinynn.training.many.stack import ModelStack
from tinynn.training.many.stopping import Stopping, SuccessiveHalving, check_stopping
from tinynn.training.many.training import Training, checked_callbacks
from tinynn.training.memory import memory_suffices
from tinynn.training.problem import Problem, check_whole, optimizer_of, prepare
from tinynn.training.varied import numbers_of, of_network, with_numbers


def fit_many(
    net: Any,
    X: Any,
    y: Any = None,
    *,
    networks: int | None = None,
    seed: int | Sequence[int] = 0,
    loss: Any = None,
    optimizer: Any = None,
    epochs: int = 20,
    batch_size: int | str | None = "auto",
    validation: Any = None,
    folds: int | None = None,
    groups: Any = None,
    early_stopping: EarlyStopping | None = None,
    halving: SuccessiveHalving | None = None,
    callbacks: Any = (),
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
    every: int = 1,
    resume: str | os.PathLike[str] | bool = False,
) -> ModelStack:
    """Train many networks on the same X and y at once, with one call of `fit` for all.

    What is given as a list varies over the networks: the seed, and any number of the optimizer,
    the loss or a layer, such as `Adam(learning_rate=[0.1, 0.01])`. Network k is the one that `fit`
    makes of the k-th entries alone: it starts from its own seed, sees its own order of the samples
    and draws its own dropout.

    Parameters
    ----------
    net, X, y, loss, optimizer, epochs, batch_size, metrics, sample_weight, shuffle, progress
        As `fit` takes them; X and y are arrays, frames or lists, and no batches.
    networks
        How many; needed where nothing is a list.
    seed
        A seed for each network, or one number s: s, s + 1 and so on where `networks` is given, the
        same for all networks where it is not.
    validation
        As `fit` takes it. A fraction is held out by the seed, so that each network has its own.
    folds
        Cross-validation: every candidate, as the arguments above make them, becomes so many
        networks, each of which is trained without one part of the samples and measured on that
        part. The parts are the same for all candidates, drawn by the first seed with the same share
        of each class, or one stretch of X after another with shuffle=False. The networks of a
        candidate stand beside each other in the stack, whose `scores` has a row for each.
    groups
        (samples,) numbers or names: samples of one group are in one fold, as scikit-learn's
        `GroupKFold` has it. The largest group comes first, each goes into the fold that has the
        fewest samples.
    early_stopping
        Ends each network by itself, as `fit` does with the callback, and gives it the parameters of
        its best epoch.
    halving
        Drops the worst candidates on the way: see `SuccessiveHalving`.
    callbacks
        Called after each epoch with the run of all networks, a `StackRun`; as `fit` has them, with
        `start` and `finish`.
    params, state
        What to start from, instead of new ones: those of all networks, such as `stack.params`,
        each array with an axis of the networks in front. The optimizer starts anew.
    backend, dtype, compute_dtype
        As `fit` takes them.
    engine
        "loops": the compiled training loop of a single network, carried out for each; on the CPU
        networks are spread over threads (pip install tinynn-xp[loops]), as many as
        OMP_NUM_THREADS says, on CUDA a thread block each, in one launch. "calls": the library's
        functions, each acting on all networks, of the step under `vmap`; "jit": the same by the
        library's own compiler, where it has one. "eager": one network after another, as `fit` with
        engine="eager". "auto" takes loops where they can be compiled and pay for it, else jit, else
        calls. What cannot be compiled is trained one by one, and a warning says why.
    checkpoint, every, resume
        A file that the state of all networks is written to, whole or not at all; the epochs from
        one checkpoint to the next; and a checkpoint to go on from, with the other arguments as they
        were, True for that of `checkpoint` if it is there. With an engine that is named, k epochs
        and then k more give the bits of 2k at once.

    Returns
    -------
    ModelStack
        The networks, in order.

    Raises
    ------
    ValueError
        Before training, for lists of two lengths, or a list where one value is needed; for more
        folds than samples or groups, or folds beside a validation=; and as `fit`.
    TypeError
        For an `early_stopping`, a `halving` or a callback of another kind; and as `fit`.
    MixedArrays, BackendUnavailable, ShapeError
        As `fit`.

    Notes
    -----
    A network whose loss is no longer finite stays as it was after the last epoch in which it was;
    the others go on, and one warning names it. Ctrl-C ends training with all networks as they were
    after a whole epoch, and a warning.

    With "loops" a network has the same bits whichever others are trained beside it, however many
    threads there are, and as `fit` with engine="loops" where only the seeds vary.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> from tinynn.optim import SGD
    >>> x = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> y = 2 * x[:, 0] + 1
    >>> stack = fit_many(Linear(1), x, y, optimizer=SGD([0.001, 0.1]), epochs=100)
    >>> len(stack), stack.predict(x).shape
    (2, (2, 4, 1))
    >>> bool(stack[1].history["loss"][-1] < stack[0].history["loss"][-1])
    True
    """
    _check_shared(
        networks=networks, epochs=epochs, batch_size=batch_size, shuffle=shuffle, folds=folds
    )
    check_whole(epochs=epochs)
    called = checked_callbacks(callbacks)
    written = checkpoint_of(checkpoint, every)
    source = source_of(resume, checkpoint)
    given = (params, state) if params is not None or state is not None else None
    if given is not None and source is not None and resume is not True:  # which may begin a run
        raise ValueError(
            "fit_many: resume: expected no params= or state= beside it, which the checkpoint has "
            f"already, got both and {os.fspath(source)!r}. To fix it: leave them out, or start "
            "from them without resume="
        )
    if isinstance(optimizer, str) and optimizer == "auto":  # it is chosen for network 0
        mine = of_network(numbers_of(net=net, loss=loss), 0)
        optimizer = prepare(
            with_numbers(net, "net", mine), X, y, loss=with_numbers(loss, "loss", mine),
            optimizer="auto", batch_size=batch_size, backend=backend, dtype=dtype,
        ).step.optimizer  # fmt: skip
    optimizer = optimizer_of(optimizer)
    varied = numbers_of(net=net, loss=loss, optimizer=optimizer)
    seeds = _seeds(seed, networks, varied)
    check_folds(folds, validation, groups)
    check_stopping(early_stopping, halving)
    mine = of_network(varied, 0)
    parts = {"net": net, "loss": loss, "optimizer": optimizer}
    one = {name: with_numbers(part, name, mine) for name, part in parts.items()}

    def problem(seed: int) -> Problem:
        made = prepare(
            one["net"], X, y, loss=one["loss"], optimizer=one["optimizer"], batch_size=batch_size,
            validation=validation, seed=seed, metrics=metrics, sample_weight=sample_weight,
            shuffle=shuffle, backend=backend, dtype=dtype, compute_dtype=compute_dtype,
        )  # fmt: skip
        # Network 0 may do without what others draw.
        draws = made.batches.draws or any(path.startswith("net.") for path in varied)
        return replace(made, batches=replace(made.batches, draws=draws))

    first = problem(seeds[0])
    if isinstance(first.batches, StreamedBatches) or not _is_in_memory(first):
        raise TypeError(
            "fit_many: X: expected arrays, got what is read batch by batch. To fix it: give "
            "arrays, or train each network with fit"
        )
    # What is held out depends on the seed.
    own = isinstance(validation, Real) and shuffle is not False and len(set(seeds)) > 1
    problems = [first, *map(problem, seeds[1:])] if own else [first]
    numbers_of_folds = None
    if folds is not None:
        each, numbers_of_folds = in_folds(first, folds, shuffle is False, groups)
        problems = each * len(seeds)
        seeds = [seed for seed in seeds for _ in each]
        varied = {
            path: Each(n for n in each for _ in range(folds)) for path, each in varied.items()
        }
    all_ = Networks(problems, seeds, varied, given and check_given(first, *given, len(seeds)))
    stopping = Stopping(early_stopping, halving, problems[0], len(seeds), folds or 1, epochs)
    size = all_.first.batches.dataset.size
    with first.backend.scope(), bars.shown(progress, epochs, size) as bar:
        with memory_suffices(first.backend, first.batches.size):
            from tinynn.training.many.engines import select  # and with it the compiler

            with first.backend.quiet():  # the programs are run once
                selected = select(all_, engine, epochs)
            training = Training(
                all_, selected, epochs, bar, stopping, numbers_of_folds, called, written
            )
            if source is not None:
                restore(source, training)
            training.train()
        return training.stack()


def _check_shared(**arguments: Any) -> None:
    """ValueError for a list where an argument has to be one for all networks."""
    for name, value in arguments.items():
        if isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0:
            raise ValueError(
                f"fit_many: {name}: expected one for all networks, got {len(value)} in a list. "
                "To fix it: give one; what can vary are seed=, and numbers of the optimizer, the "
                "loss and the layers, such as Adam(learning_rate=[0.1, 0.01])"
            )


def _seeds(seed: Any, networks: Any, varied: dict[str, Any]) -> list[int]:
    """The seed of each network; ValueError unless all arguments are of one number of networks."""
    if networks is not None and (
        not hasattr(networks, "__index__") or isinstance(networks, bool) or networks < 1
    ):
        raise ValueError(
            f"fit_many: networks: expected a whole number of 1 or more, got {networks!r}. To fix "
            "it: give networks=8, or leave it out where a list says how many there are"
        )
    single = hasattr(seed, "__index__") and not getattr(seed, "ndim", 0)
    several = isinstance(seed, Iterable) and not isinstance(seed, str)
    if not single and (not several or getattr(seed, "ndim", 1) != 1):
        raise ValueError(
            f"fit_many: seed: expected a whole number, or a list of them, got {seed!r}. To fix it: "
            "give seed=0, or seed=[0, 1, 2]"
        )
    listed = [] if single else list(seed)
    sizes = {path: len(each) for path, each in varied.items()}
    sizes |= {} if single else {"seed": len(listed)}
    sizes |= {} if networks is None else {"networks": int(networks)}
    if not sizes:
        raise ValueError(
            "fit_many: networks: expected how many there are to be, got no list that says it. To "
            "fix it: give networks=8, or a list, such as seed=[0, 1, 2] or "
            "optimizer=Adam(learning_rate=[0.1, 0.01])"
        )
    if len(set(sizes.values())) != 1 or min(sizes.values()) < 1:
        said = ", ".join(f"{size} in {name}" for name, size in sizes.items())
        raise ValueError(
            f"fit_many: expected one number of networks, 1 or more, got {said}. To fix it: give "
            "lists of one length"
        )
    count = next(iter(sizes.values()))
    if single:
        listed = [int(seed) + k if networks is not None else int(seed) for k in range(count)]
    for each in listed:
        check_whole(seed=each)
    return [int(each) for each in listed]


def _is_in_memory(problem: Problem) -> bool:
    dataset: Any = problem.batches.dataset
    return bool(getattr(getattr(dataset, "dataset", dataset), "in_memory", False))
