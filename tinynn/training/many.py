"""fit_many: many networks trained on the same data in one program, and the stack they end in."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from backends import random
from tinynn import tree
from tinynn.compiler import RecordingError, compile
from tinynn.config import label
from tinynn.training.batches import StreamedBatches
from tinynn.training.history import History
from tinynn.training.model import Model
from tinynn.training.problem import Problem, check_whole, prepare
from tinynn.transforms import vmap


@dataclass(frozen=True, eq=False, repr=False)
class ModelStack:
    """Networks of one architecture that were trained on the same data.

    Attributes
    ----------
    models
        Each network as a `Model`.
    """

    models: tuple[Model, ...]

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __getitem__(self, index: int) -> Model:
        return self.models[index]

    def __repr__(self) -> str:
        return f"<ModelStack of {len(self)}, {label(self.models[0].net)}>"

    def predict(self, X: Any) -> Any:
        """The outputs of every network: (networks, samples, ...)."""
        return self.models[0].backend.xp.stack([model.predict(X) for model in self.models])

    def ensemble(self, X: Any) -> Any:
        """The mean of the networks' outputs: (samples, ...)."""
        return self.models[0].backend.xp.mean(self.predict(X), axis=0)


def fit_many(
    net: Any,
    X: Any,
    y: Any,
    *,
    networks: int | None = None,
    seed: int | Sequence[int] = 0,
    optimizer: Any = None,
    epochs: int = 20,
    hyperparameters: dict[str, Sequence[float]] | None = None,
    **shared: Any,
) -> ModelStack:
    """Train many networks on the same X and y, each operation acting on all of them at once.

    Network k starts from its own seed, sees its own order of the samples and draws its own dropout,
    as `fit(..., seed=seed[k])` does, and gives the same numbers to rounding. The step of all
    networks is one program: the step of one under `vmap`, compiled.

    Parameters
    ----------
    net, X, y, optimizer, epochs
        As `fit` takes them; X and y are arrays.
    networks
        How many; needed where neither the seeds nor the hyperparameters are a sequence.
    seed
        One for each network; of a number s, the networks' are s, s + 1, and so on.
    hyperparameters
        Numbers of the optimizer by name, one for each network, such as
        {"learning_rate": [0.1, 0.01]}.
    **shared
        loss, batch_size, sample_weight, shuffle, backend, dtype and compute_dtype, as `fit` takes
        them. Validation, metrics, callbacks and checkpoints are of `fit` alone.

    Raises
    ------
    TypeError, ValueError
        Before training, for arguments that do not fit; the message says which. TypeError in the
        first step, for a number that the optimizer branches on, such as the momentum of `SGD`.

    Notes
    -----
    A network whose loss is no longer finite goes on beside the others, and a warning names it.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> x = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> stack = fit_many(Linear(1), x, 2 * x[:, 0] + 1, networks=3, epochs=5)
    >>> len(stack), stack.predict(x).shape
    (3, (3, 4, 1))
    """
    known = {"loss", "batch_size", "sample_weight", "shuffle", "backend", "dtype", "compute_dtype"}
    if unknown := sorted(shared.keys() - known):
        raise TypeError(
            f"fit_many: expected arguments among {', '.join(sorted(known))}, got {unknown[0]}. "
            "To fix it: leave it out, or train each network with fit"
        )
    check_whole(epochs=epochs)
    varied = {name: list(values) for name, values in (hyperparameters or {}).items()}
    seeds = _seeds(networks, seed, varied)
    problem = prepare(net, X, y, optimizer=optimizer, seed=seeds[0], **shared)
    _check(problem, varied, len(seeds))
    with problem.backend.scope():
        return _Many(problem, seeds, varied).train(epochs)


def _seeds(networks: int | None, seed: Any, varied: dict[str, list[float]]) -> list[int]:
    """The seed of each network; ValueError unless all arguments are of one number of networks."""
    sizes = {f"hyperparameters {name}": len(values) for name, values in varied.items()}
    single = hasattr(seed, "__index__") and not getattr(seed, "ndim", 0)
    listed = [] if single else list(seed)
    sizes |= {} if single else {"seed": len(listed)}
    sizes |= {} if networks is None else {"networks": networks}
    if len(set(sizes.values())) != 1 or min(sizes.values()) < 1:
        said = ", ".join(f"{size} in {name}" for name, size in sizes.items()) or "none"
        raise ValueError(
            f"fit_many: expected one number of networks, 1 or more, got {said}. To fix it: give "
            "networks=, or sequences of one length"
        )
    seeds = [seed + k for k in range(next(iter(sizes.values())))] if single else listed
    for each in seeds:
        check_whole(seed=each)
    return [int(each) for each in seeds]


def _check(problem: Problem, varied: dict[str, list[float]], count: int) -> None:
    optimizer = problem.step.optimizer
    if isinstance(problem.batches, StreamedBatches):
        raise TypeError("fit_many: X: expected arrays, got batches. To fix it: use fit")
    if needs := set(getattr(optimizer, "needs", ())) - {"value"}:
        raise TypeError(
            f"fit_many: optimizer: expected one of gradients alone, got {label(optimizer)}, which "
            f"needs {', '.join(sorted(needs))}. To fix it: use fit"
        )
    for name, values in varied.items():
        if not isinstance(vars(optimizer).get(name), float):
            raise ValueError(
                f"fit_many: hyperparameters: expected numbers of {label(optimizer)}, got {name!r}. "
                "To fix it: name a field of the optimizer that is a number"
            )
        for value in values:
            replace(optimizer, **{name: value})  # checks its range


class _Many:
    """The loop over epochs of all networks."""

    def __init__(self, problem: Problem, seeds: list[int], varied: dict[str, list[float]]) -> None:
        self.problem, self.backend, self.count = problem, problem.backend, len(seeds)
        xp, step = self.backend.xp, problem.step
        first = problem.batches.dataset.between(0, 1)
        dtype = tree.leaves(problem.start.params)[0].dtype
        starts = [step.init(seed, first, dtype) for seed in seeds]
        self.carry = tree.map(lambda *each: xp.stack(each), *starts)
        self.each = [replace(problem.batches, key=random.key(seed, self.backend)) for seed in seeds]
        self.numbers = {
            name: self.backend.asarray([float(v) for v in values], dtype=dtype)
            for name, values in varied.items()
        }
        axes = (0, 0 if problem.batches.shuffle else None, 0, 0)
        self.eager = vmap(self.step, axes)
        self.compiled: Any = compile(self.eager)

    def step(self, carry: Any, batch: Any, key: Any, numbers: Any) -> Any:
        """One step of one network, with its own numbers in the optimizer."""
        optimizer = copy.copy(self.problem.step.optimizer)
        for name, number in numbers.items():
            object.__setattr__(optimizer, name, number)
        return replace(self.problem.step, optimizer=optimizer)(carry, batch, key)

    def _advance(self, *arguments: Any) -> Any:
        """One step of all networks: (carry, the loss of each)."""
        if self.compiled is not None:
            try:
                return self.compiled(*arguments)
            except RecordingError as error:
                warnings.warn(
                    f"fit_many: the training step runs without compiling: {error}", RuntimeWarning,
                    stacklevel=6,
                )  # fmt: skip
                self.compiled = None
        return self.eager(*arguments)

    def train(self, epochs: int) -> ModelStack:
        """All epochs, and the models."""
        histories = [History() for _ in self.each]
        for number in range(epochs):
            losses = self._epoch(number)
            for history, loss in zip(histories, losses, strict=True):
                history.add({"epoch": number + 1, "loss": loss})
        if bad := [k for k, h in enumerate(histories) if not isfinite(h["loss"][-1])]:
            warnings.warn(
                f"fit_many: the loss is no longer finite in networks {bad}. Lower their learning "
                "rates, or scale X", RuntimeWarning, stacklevel=3,
            )  # fmt: skip
        problem = self.problem
        models = []
        for k, history in enumerate(histories):
            own = tree.map(lambda a, k=k: a[k, ...], self.carry)
            models.append(
                Model(
                    problem.step.net, own.params, own.state, history=history,
                    loss=problem.step.loss, columns=problem.columns,
                )
            )  # fmt: skip
        return ModelStack(tuple(models))

    def _epoch(self, number: int) -> list[float]:
        """One epoch of every network, and the loss of each."""
        xp, batches = self.backend.xp, self.problem.batches
        passes = [each.epoch(number) for each in self.each]
        keys: Any = None
        assert batches.steps is not None
        if batches.draws:
            pairs = zip(self.each, passes, strict=True)
            keys = xp.stack([b.keys(p, 0, batches.steps or 0) for b, p in pairs])
        orders = xp.stack([p.order for p in passes]) if batches.shuffle else None
        losses = []
        with self.backend.quiet():
            for place in range(batches.steps):
                batch = self._batch(orders, place)
                key = None if keys is None else keys[:, place, ...]
                self.carry, loss = self._advance(self.carry, batch, key, self.numbers)
                losses.append(loss)
            steps = xp.stack(losses, axis=1)
            means = [each.loss_of_epoch(steps[k, :], passes[k]) for k, each in enumerate(self.each)]
            return list(self.backend.to_host(xp.stack(means)).tolist())

    def _batch(self, orders: Any, place: int) -> Any:
        """The samples of a step: of all networks, (networks, rows, ...), or shared, (rows, ...)."""
        batches, xp = self.problem.batches, self.backend.xp
        start, stop = place * batches.size, min((place + 1) * batches.size, batches.dataset.size)
        if orders is None:
            return batches.dataset.between(start, stop)
        rows = batches.dataset.take(xp.reshape(orders[:, start:stop], (-1,)))
        shape = (self.count, stop - start)
        return tree.map(lambda a: xp.reshape(a, (*shape, *a.shape[1:])), rows)
