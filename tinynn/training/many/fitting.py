"""fit_many: the training loop of many networks at once.

`fit` is what each of them has to equal; what is checked before training, its `prepare` checks.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from numbers import Real
from typing import Any

from backends import Backend
from tinynn import tree
from tinynn.config import Each
from tinynn.data import host
from tinynn.metrics import MetricLike
from tinynn.training import progress as bars
from tinynn.training.batches import StreamedBatches
from tinynn.training.callbacks import EarlyStopping
from tinynn.training.evaluation import evaluate, numbers
from tinynn.training.many.folds import check_folds, in_folds
from tinynn.training.many.networks import Networks
from tinynn.training.many.stack import ModelStack
from tinynn.training.many.stopping import Stopping, SuccessiveHalving, check_stopping
from tinynn.training.memory import memory_suffices
from tinynn.training.pace import Pace
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
    metrics: Iterable[str | MetricLike] = (),
    sample_weight: Any = None,
    shuffle: bool | None = None,
    progress: bool | None = None,
    backend: str | Backend | None = None,
    dtype: Any = None,
    compute_dtype: Any = None,
    engine: str = "auto",
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
        For an `early_stopping` or a `halving` of another kind; and as `fit`.
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
    all_ = Networks(problems, seeds, varied)
    stopping = Stopping(early_stopping, halving, problems[0], len(seeds), folds or 1, epochs)
    size = all_.first.batches.dataset.size
    with first.backend.scope(), bars.shown(progress, epochs, size) as bar:
        with memory_suffices(first.backend, first.batches.size):
            from tinynn.training.many.engines import select  # and with it the compiler

            training = _Training(all_, select(all_, engine, epochs), epochs, bar, stopping)
            training.train()
        return training.stack(numbers_of_folds)


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


class _Training:
    """The loop over the epochs of all networks."""

    def __init__(
        self, networks: Networks, engine: Any, epochs: int, bar: bars.Bar, stopping: Stopping
    ) -> None:
        self.networks, self.engine, self.epochs, self.bar = networks, engine, epochs, bar
        self.stopping, self.ended = stopping, set[int]()
        self.single = bool(stopping.early or stopping.halving)  # told of every epoch
        self.problem, self.backend = networks.first, networks.backend
        self.measured = len(self.problem.measures) > 1
        self.alive = list(range(len(networks)))
        self.lengths = [0] * len(networks)  # the epochs of each
        self.columns: dict[str, list[Any]] = {name: [] for name in self.problem.measures}
        self.carry = engine.carry()

    def train(self) -> None:
        """Epoch after epoch, until all are done or no network is left."""
        pace, steps, epoch = Pace(self.networks.per_epoch), self.networks.per_epoch, 0
        while epoch < self.epochs and self.alive:
            count = 1 if self.measured or self.single else max(1, pace.steps // steps)
            count = min(count, self.epochs - epoch)
            whole = self.carry, self.lengths, self.alive
            try:
                with pace, self.backend.quiet():
                    losses = self._losses(epoch, count)
                table = self._measured() if self.measured else []
            except KeyboardInterrupt:
                if epoch == 0:  # there is no whole epoch to go back to
                    raise
                self.carry, self.lengths, self.alive = whole
                _warn(f"epoch {epoch}: interrupted: the networks are as they were after this epoch")
                break
            epoch += count
            row = self._keep(losses, table, epoch)
            if self.single:
                self._end(row, epoch)
        staying = self.ended.union(self.alive)
        if lost := [k for k in range(len(self.networks)) if k not in staying]:
            named = ", ".join(f"{k} (after epoch {self.lengths[k]})" for k in lost[:10])
            more = f" and {len(lost) - 10} more" if len(lost) > 10 else ""
            _warn(
                f"the loss is no longer finite in {len(lost)} of {len(self.networks)} networks, "
                f"which stay as they were: {named}{more}. Lower their learning rates, clip the "
                "gradients, or scale X"
            )

    def _end(self, row: dict[str, list[float]], epoch: int) -> None:
        """Let the networks end that are to end after this epoch."""
        merged = self.engine.merged
        gone = self.stopping.ended(row, epoch, self.alive, self.carry, merged)
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
        self.columns["loss"].append(losses)
        last = losses[:, -1].tolist()
        row = {"epoch": epoch, "loss": _mean([last[k] for k in self.alive])}
        whole = {"loss": last}
        for place, name in enumerate(self.problem.measures[1:] if table else ()):
            column = [[each[place]] for each in table]
            self.columns[name].append(column)
            whole[name] = [each[place] for each in table]
            shown = [whole[name][k] for k in self.alive]
            if not shown or not isinstance(shown[0], list):  # a bar shows single numbers
                row[name] = _mean(shown)
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

    def stack(self, folds: Any) -> ModelStack:
        """The trained networks; folds: the number of that which holds each sample out, or None."""
        problem, step, numbers = self.problem, self.problem.step, self.networks.numbers
        net, loss = (with_numbers(getattr(step, name), name, numbers) for name in ("net", "loss"))
        carry, kept = self.stopping.restored(self.carry, self.lengths, self.engine.merged)
        params, state = self.engine.parts(carry)
        history = {name: self._column(parts) for name, parts in self.columns.items()}
        return ModelStack(
            net, params, state, history=history, epochs=tuple(self.lengths), loss=loss,
            metrics=problem.metrics, columns=problem.columns, seeds=tuple(self.networks.seeds),
            kept=tuple(kept), folds=folds,
        )  # fmt: skip

    def _column(self, parts: list[Any]) -> Any:
        """A measure as (networks, epochs), on the host; NaN where a network had stopped."""
        library = host()
        xp = library.xp
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
    warnings.warn(f"fit_many: {what}.", RuntimeWarning, stacklevel=4)
