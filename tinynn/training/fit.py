"""fit: the training loop.

One training step is a pure function of arrays; an epoch is a loop over steps; `fit` is a loop over
epochs with its checks in front. Everything happens where X is. What crosses to the host is one
boolean or two while X and y are checked, and one small array of numbers an epoch.
"""

import inspect
import reprlib
import warnings
from collections.abc import Callable, Iterable
from math import isfinite
from numbers import Real
from operator import is_
from time import perf_counter
from typing import Any

import backends
from backends import Backend, MixedArrays, random
from tinynn import losses, tree
from tinynn.config import label
from tinynn.layers import ShapeError, split
from tinynn.optim import Adam
from tinynn.training import engines
from tinynn.training import progress as bars
from tinynn.training.callbacks import Callback, Run
from tinynn.training.data import Intake, Samples, align, columns_of
from tinynn.training.memory import OutOfMemoryError, memory_suffices
from tinynn.training.metrics import Metric, get, name_of
from tinynn.training.model import Model, check_targets, forward, measure, numbers
from tinynn.training.step import DROPOUT, HOLD_OUT, SHUFFLE, Epoch, TrainingStep

_MOMENT = 0.1  # seconds that epochs done at once may take
_ROWS_AT_ONCE = 8192  # of a forward pass that only measures


def fit(
    net: Any,
    X: Any,
    y: Any,
    *,
    loss: Any = None,
    optimizer: Any = None,
    epochs: int = 20,
    batch_size: int | None = 32,
    validation: Any = None,
    seed: int = 0,
    callbacks: Iterable[Callback] = (),
    metrics: Iterable[str | Metric] = (),
    weights: Any = None,
    shuffle: bool = True,
    progress: bool | None = None,
    params: Any = None,
    backend: str | Backend | None = None,
    engine: str = "auto",
) -> Model:
    """Train a network on X and y.

    Parameters
    ----------
    net : a layer, most often a `Sequential`
    X : (samples, features, ...), an array of any backend, nested lists, or a pandas or polars
        frame. Everything follows X: its library, device and floating dtype. Integers, lists and
        frames become the device's default float.
    y : (samples,) integer labels or numbers, or (samples, outputs); a kind as X, or a column
    loss : a loss, its name, or any function of (prediction, target) that gives a mean; None
        takes cross-entropy for integer or boolean y (binary for a single output), else the
        squared error
    optimizer : None is `Adam()`
    batch_size : samples a step; the last batch of an epoch may be smaller. None for all at once
    validation : the fraction of the samples to hold out (drawn by the seed; the last ones without
        `shuffle`), or a pair (X, y)
    seed : the same seed gives the same start, batches and dropout on every backend
    callbacks : called after each epoch with the `Run`; see `tinynn.training.callbacks`
    metrics : functions of (prediction, target) or their names. Measured after each epoch: on the
        held-out samples ("validation_accuracy") if there are any, else on all ("accuracy")
    weights : (samples,), how much each sample counts in the loss
    progress : a bar on the error stream or in the notebook; None shows it where somebody looks on
    params : parameters to start from, instead of new ones
    backend : where to bring host data; not needed for arrays, which are somewhere already

    engine : how the steps are carried out: "eager" as they are written; "calls" as a program that
        is recorded once, with the loop over the batches inside; "loops" as that program compiled to
        machine code, for small networks on the CPU (pip install tinynn-xp[numba]); "jit" as one
        that the library compiles itself, where it can; "auto" takes what is fastest from start to
        end: "loops" for long runs alone, where Numba is installed and no callback may end them
        early. All give the same numbers, to rounding, from a loss and layers that depend on their
        arguments alone: what they compute from other arrays is computed once. A step that cannot be
        recorded runs eagerly, and a warning says why

    Ctrl-C ends training with the model as it was after the last whole epoch, and a warning; in
    the first epoch it is passed on. A loss that is no longer finite ends it likewise.

    Raises
    ------
    ValueError : before training, for settings or data that do not fit; the message says which
    MixedArrays, BackendUnavailable, ShapeError : likewise

    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> x = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> model = fit(Linear(1), x, 2 * x[:, 0] + 1, epochs=400, batch_size=None)
    >>> len(model.history["loss"])
    400

    """
    optimizer = Adam() if optimizer is None else optimizer
    _check_settings(net, optimizer, epochs, batch_size, validation, seed)
    if engine not in engines.ENGINES:
        known = ", ".join(map(repr, engines.ENGINES))
        raise ValueError(f"fit: engine: expected one of {known}, got {engine!r}")
    called = _callbacks(callbacks)
    measured = tuple(map(get, _several(metrics)))
    intake = Intake.of("fit", X, backend)
    home = intake.home
    with home.scope(), memory_suffices(home, batch_size):
        key = random.key(seed, home)
        columns = tuple(map(str, columns_of(X)))
        samples = intake.samples(X, y, weights)
        train, held = _held_out(intake, samples, validation, key, shuffle, columns)
        size = train.size if batch_size is None else min(batch_size, train.size)
        params = _started(net, params, train.between(0, size), int(seed), home)
        outputs = _tried(net, params, train, size)
        loss = loss_for(loss, home, train, outputs)
        train = _suited(home, train, outputs, loss)
        held = None if held is None else _suited(home, held, outputs, loss)
        shuffle_key = random.fold_in(key, SHUFFLE) if shuffle and size < train.size else None
        step = TrainingStep(net, loss, optimizer)
        epoch = Epoch(home, step, train, size, shuffle_key, random.fold_in(key, DROPOUT))
        run = Run(epochs, params, _names(measured, held))

        def measures(params: Any) -> list[Any]:
            """What an epoch is measured by beside its loss, as 0-d arrays."""
            samples, also = (train, None) if held is None else (held, loss)
            prediction = forward(net, params, samples.x, _ROWS_AT_ONCE)
            return measure(also, measured, prediction, samples)

        with bars.shown(progress, epochs, train.size) as bar:
            _tell(called, "start", run)
            state = optimizer.init(split(run.params)[0])
            by = engines.chosen(engine, epoch, bar, run.params, state, epochs, not called)
            _train(run, by, home, measures if len(run.measures) > 1 else None, called, bar)
    return Model(net, run.params, run.history, loss, measured, columns)


def _train(
    run: Run,
    engine: Any,
    home: Backend,
    measures: Callable[[Any], list[Any]] | None,
    callbacks: tuple[Callback, ...],
    bar: bars.Bar,
) -> None:
    """The loop over epochs; parameters and history always are of the same epoch."""
    pace = _Pace(1 if measures or callbacks or not engine.at_once else run.epochs)
    after, room = engine.snapshot(), None
    while run.epoch < run.epochs and not run.stopped:
        before = after
        try:
            count = pace.next(run.epochs - run.epoch)
            with memory_suffices(home, engine.epoch.size):
                totals = engine.run(run.epoch, count)
                after = engine.snapshot(room)
            if measures is None:
                table = [home.to_host(totals).tolist()]
            else:
                row = numbers(home, [totals[0, ...], *measures(after.params)])
                table = [[number] for number in row]
            bad = next((i for i, loss in enumerate(table[0]) if not isfinite(loss)), count)
            if bad < count - 1:  # go there again, and no further
                engine.start(before.params, before.state)
                engine.run(run.epoch, bad + 1)
                after, table, count = engine.snapshot(), [table[0][: bad + 1]], bad + 1
            numbered = list(range(run.epoch + 1, run.epoch + count + 1))
            run.epoch, run.params = run.epoch + count, after.params
            run.history.extend(dict(zip(("epoch", *run.measures), [numbered, *table], strict=True)))
            bar.epoch(run.history.last)
            leaves = tree.leaves(run.params)
            for callback in callbacks:
                callback(run)
            if not _same(run.params, after.params, leaves):  # a callback has put others there
                engine.start(run.params, None)
                after = engine.snapshot()
            room = None if callbacks else before  # a callback may keep what it is shown
            if callbacks:
                engine.look_again()
        except (KeyboardInterrupt, OutOfMemoryError) as error:
            if run.epoch == 0:
                raise
            what = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{error}"
            _warn(run, f"{what}: the model is as it was after this epoch")
            run.stop()
        if not isfinite(run.history.last["loss"]):
            engine.start(before.params, before.state)
            if count > 1:
                engine.run(run.epoch - count, count - 1)
            where = engines.failure(engine, run.epoch - 1)
            hint = where or "Lower the learning rate, clip the gradients, or scale X"
            _warn(run, f"the loss is no longer finite: training diverged and was stopped. {hint}")
            run.stop()
    _tell(callbacks, "finish", run)


def _same(params: Any, before: Any, leaves: list[Any]) -> bool:
    """Whether these are the parameters there were before, with the same arrays in them."""
    now = tree.leaves(params)
    return params is before and len(now) == len(leaves) and all(map(is_, now, leaves))


class _Pace:
    """How many epochs to do at once: so many that the bar moves and Ctrl-C is heard in time."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 1
        self.since: float | None = None

    def next(self, left: int) -> int:
        """The number of epochs to do now."""
        now = perf_counter()
        if self.since is not None and now - self.since < _MOMENT:
            self.count *= 2
        self.since = now
        return min(self.count, self.most, left)


def _several(value: Any) -> tuple[Any, ...]:
    """A tuple, also of what came alone; of None, an empty one."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) or callable(value) else tuple(value)


def _callbacks(given: Any) -> tuple[Callback, ...]:
    """The callbacks, each of which can be called."""
    callbacks = _several(given)
    for callback in callbacks:
        if not callable(callback) or isinstance(callback, type):
            raise TypeError(
                "fit: callbacks: expected functions of the run, or callbacks such as "
                f"EarlyStopping(), got {callback!r}"
            )
    return callbacks


def _check_settings(
    net: Any, optimizer: Any, epochs: Any, batch_size: Any, validation: Any, seed: Any
) -> None:
    """Refuse settings that cannot be meant, before anything is done."""
    for name, value, method, example in (
        ("net", net, "train", "a layer, such as Sequential(Linear(32), relu, Linear(10))"),
        ("optimizer", optimizer, "update", "an optimizer, such as Adam()"),
    ):
        if not hasattr(value, method) or isinstance(value, type):
            raise TypeError(f"fit: {name}: expected {example}, got {value!r}")
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("seed", seed)):
        whole = hasattr(value, "__index__") and not isinstance(value, bool)
        if name == "seed":
            fits, expected = whole, "a whole number"
        elif name == "epochs":
            fits, expected = whole and value > 0, "a whole number of 1 or more"
        else:
            fits = value is None or (whole and value > 0)
            expected = "a whole number of 1 or more, or None for all samples at once"
        if not fits:
            raise ValueError(f"fit: {name}: expected {expected}, got {value!r}")
    pair = isinstance(validation, tuple | list) and len(validation) == 2
    fraction = isinstance(validation, Real) and 0 < float(validation) < 1
    if validation is not None and not pair and not fraction:
        raise ValueError(
            "fit: validation: expected a fraction between 0 and 1, a pair (X, y) or None, "
            f"got {reprlib.repr(validation)}"
        )


def _held_out(
    intake: Intake,
    samples: Samples,
    validation: Any,
    key: Any,
    shuffle: bool,
    columns: tuple[str, ...],
) -> tuple[Samples, Samples | None]:
    """(the samples to train on, those to measure on or None)."""
    if validation is None:
        return samples, None
    if not isinstance(validation, Real):
        x, y = validation
        held = intake.samples(x, y, prefix="validation ", columns=columns)
        if held.x.shape[1:] != samples.x.shape[1:]:
            raise ValueError(
                f"fit: validation X: expected rows of shape {tuple(samples.x.shape[1:])} as in X, "
                f"got {tuple(held.x.shape[1:])}. Give it the same columns."
            )
        return samples, held
    count = samples.size
    if count == 1:
        raise ValueError(
            f"fit: X: expected two samples or more to hold out {validation:g} of them, got one. "
            "Give more samples, or validation=None."
        )
    kept = count - min(max(round(count * float(validation)), 1), count - 1)
    if not shuffle:
        return samples.between(0, kept), samples.between(kept, count)
    order = random.permutation(random.fold_in(key, HOLD_OUT), count)
    xp = intake.home.xp
    return samples.take(xp, order[:kept]), samples.take(xp, order[kept:])


def _started(net: Any, params: Any, samples: Samples, seed: int, home: Backend) -> Any:
    """New parameters, or those given, if they are where X is."""
    new = net.init(seed, samples.x)
    if params is None:
        return new
    expected, got = ([name for name, _ in tree.paths(each)] for each in (new, params))
    if set(expected) != set(got):
        raise ValueError(
            f"fit: params: expected {', '.join(expected) or 'none'}, as net.init makes them, "
            f"got {', '.join(got) or 'none'}. Give those of a network of the same layers."
        )
    arrays = tree.leaves(params)
    if arrays and backends.of(*arrays) != home:
        raise MixedArrays(
            f"fit: params: expected arrays on {home!r}, where X is, "
            f"got arrays on {backends.of(*arrays)!r}. Move them first, with Model.to."
        )
    return params


def _suited(home: Backend, samples: Samples, outputs: Any, loss: Any) -> Samples:
    """The samples as the loss takes them, once it has looked at the targets."""
    samples = align(home, samples, outputs)
    check_targets(loss, outputs, samples.y)
    return samples


def _tried(net: Any, params: Any, samples: Samples, size: int) -> Any:
    """The output for a first batch, once every size of batch has gone through the network.

    So that widths, and layers that need two samples, speak up before training.
    """
    last = samples.size % size or size
    for rows in {last, size}:
        try:
            outputs, _ = net.train(params, samples.between(0, rows).x, 0)
        except ShapeError as error:
            if rows == last != size:
                error.add_note(
                    f"fit: {samples.size} samples in batches of {size} leave a last batch of "
                    f"{last}: choose another batch_size."
                )
            raise
    return outputs


def loss_for(loss: Any, home: Backend, samples: Samples, outputs: Any) -> Any:
    """The loss asked for, or the one that suits y."""
    if isinstance(loss, str):
        return losses.get(loss)
    if loss is not None:
        return _checked(loss, samples)
    y = samples.y
    if home.xp.isdtype(y.dtype, ("integral", "bool")):
        many = y.dtype == home.xp.bool and y.ndim > 1  # classes that do not exclude each other
        single = outputs.shape[-1] == 1 or many
        return losses.get("binary_cross_entropy" if single else "cross_entropy")
    return losses.get("squared_error")


def _checked(loss: Any, samples: Samples) -> Any:
    """A loss of the user's, if it can be called as it will be."""
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(
            "fit: loss: expected a loss such as SquaredError(), its name, or a function of "
            f"(prediction, target), got {loss!r}"
        )
    if samples.weights is not None and not isinstance(loss, losses.Loss):
        try:
            inspect.signature(loss).bind(None, None, None)
        except TypeError as error:
            raise TypeError(
                "fit: weights: expected a loss that takes (prediction, target, weights), "
                f"got {label(loss)}, which does not. Let it weigh, or give no weights."
            ) from error
    return loss


def _names(metrics: tuple[Metric, ...], held: Samples | None) -> tuple[str, ...]:
    """What an epoch is measured by."""
    named = tuple(map(name_of, metrics))
    twice = [name for name in named if named.count(name) > 1 or name in ("epoch", "loss")]
    if twice:
        raise ValueError(
            f"fit: metrics: expected names of their own, got {twice[0]!r}, which is taken. Give a "
            "function another __name__, or measure one of them later with Model.evaluate"
        )
    if held is None:
        return ("loss", *named)
    return ("loss", "validation_loss", *(f"validation_{name}" for name in named))


def _tell(callbacks: Iterable[Callback], moment: str, run: Run) -> None:
    """Call `start` or `finish` of the callbacks that have it."""
    for callback in callbacks:
        getattr(callback, moment, lambda run: None)(run)


def _warn(run: Run, what: str) -> None:
    warnings.warn(f"fit: epoch {run.epoch}: {what}.", RuntimeWarning, stacklevel=3)
