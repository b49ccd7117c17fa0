"""`prepare`: all that `fit` is given, checked and brought together before any training."""

import inspect
import reprlib
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Real
from typing import Any

from backends import Backend, random
from tinynn import losses, tree
from tinynn.config import label
from tinynn.data import (
    BlockDataset,
    Blocks,
    DataAdapter,
    Dataset,
    Samples,
    Source,
    columns_of,
    held_out,
    is_dataset,
)
from tinynn.data.fingerprint import fingerprint
from tinynn.data.streams import (
    Passes,
    Stream,
    dataset_of,
    is_indexed,
    is_stream,
    once_message,
    source_of,
)
from tinynn.layers import Sequential
from tinynn.metrics import MetricLike, direction, get, name_of
from tinynn.metrics import prepare as prepare_metric
from tinynn.parallel import Communicator
from tinynn.parallel import communicator as find_communicator
from tinynn.training.automatic import choose_optimizer
from tinynn.training.batches import HOLD_OUT, Batches, batches_of
from tinynn.training.evaluation import check_samples, check_targets, matched
from tinynn.training.memory import memory_suffices
from tinynn.training.objective import FEW, is_by_row
from tinynn.training.ranges import Ranges
from tinynn.training.sharded import check_shared, check_shares
from tinynn.training.start import first_output, initial
from tinynn.training.step import Carry, TrainingStep
from tinynn.training.varied import check_single

_BATCH = 32  # samples a step where nobody says


@dataclass(frozen=True)
class Problem:
    """A network, a loss, an optimizer and data, checked and ready to be trained.

    Attributes
    ----------
    step
        The training step: network, loss and optimizer.
    batches
        The samples to train on.
    validation
        The samples to measure on, or None for those to train on.
    metrics
        What is measured beside the loss.
    backend
        Where everything is.
    start
        What the first step goes on from.
    columns
        The names of the features, if X was a frame.
    answers
        What the network answers the first row, or two, with.
    communicator
        Of the processes that train together, or None.
    """

    step: TrainingStep
    batches: Batches
    validation: Dataset | None
    metrics: tuple[MetricLike, ...]
    backend: Backend
    start: Carry
    columns: tuple[str, ...]
    answers: Any
    communicator: Communicator | None = None

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what each epoch is measured by."""
        named = tuple(map(name_of, self.metrics))
        if self.validation is None:
            return ("loss", *named)
        return ("loss", "validation_loss", *(f"validation_{name}" for name in named))

    @property
    def directions(self) -> dict[str, bool | None]:
        """True for each measure of which larger is better; None if unknown."""
        held = self.validation is not None
        named = zip(self.measures[1 + held :], self.metrics, strict=True)
        known = {name: direction(metric) for name, metric in named}
        return {"loss": False, "validation_loss": False, **known}

    @cached_property
    def fingerprint(self) -> Any:
        """A value for JSON that other data to train on hardly have; None if they do not tell."""
        return fingerprint(self.batches.dataset, self.backend)

    def check_passes(self, epochs: int) -> None:
        """ValueError for an iterator as data that so many epochs would go through twice."""
        on_train = bool(self.metrics) and self.validation is None
        passes = ((self.batches.dataset, epochs * (1 + on_train)), (self.validation, epochs))
        for dataset, count in passes:
            if count > 1 and isinstance(dataset, Stream) and dataset.passes.once:
                measured = ", whose metrics take a pass of their own" if on_train else ""
                said = f"{epochs} epoch{'s' * (epochs > 1)}{measured}"
                raise ValueError(once_message(dataset.passes.at, said))


def prepare(
    net: Any,
    X: Any,
    y: Any = None,
    *,
    loss: Any = None,
    optimizer: Any = None,
    batch_size: int | str | None = "auto",
    validation: Any = None,
    seed: int = 0,
    metrics: Any = (),
    sample_weight: Any = None,
    shuffle: bool | None = None,
    params: Any = None,
    state: Any = None,
    backend: str | Backend | None = None,
    dtype: Any = None,
    compute_dtype: Any = None,
    communicator: str | Communicator | None = None,
) -> Problem:
    """Check the arguments of `fit` that say what is trained on what, and bring them together.

    Parameters
    ----------
    net, X, y, loss, optimizer, batch_size, validation, seed, metrics, sample_weight, shuffle
        As `tinynn.fit` has them.
    params, state, backend, dtype, compute_dtype, communicator
        As `tinynn.fit` has them.
    """
    if isinstance(optimizer, str) and optimizer == "auto":
        return _with_chosen_optimizer(**locals())
    _check_net(net)
    check_whole(batch_size=batch_size, seed=seed)
    _check_validation(validation)
    optimizer, measured = optimizer_of(optimizer), _metrics(metrics)
    check_single(net=net, loss=loss, optimizer=optimizer)
    source = source_of("fit: X", X) if y is None else X
    if isinstance(source, Passes):
        _check_beside_batches(batch_size, shuffle, validation)
    innermost = getattr(optimizer, "optimizer", optimizer)  # of one that averages what it finds
    if batch_size == "auto" and getattr(innermost, "whole_batch", False):
        batch_size = None
    rows = None if batch_size is None or isinstance(source, Passes) else _rows(batch_size)
    shuffle = shuffle is not False and not isinstance(source, Passes)
    adapter = DataAdapter.following("fit", _first_inputs(source), backend)
    home = adapter.target
    with home.scope(), memory_suffices(home, rows):
        if dtype is not None:
            adapter.dtype = _dtype(dtype, home)
        computed = None if compute_dtype is None else _compute_dtype(compute_dtype, home)
        columns = tuple(map(str, columns_of(X)))
        dataset = dataset_of(adapter, source, y, sample_weight)
        key = random.key(int(seed), home)
        train, held = _split(dataset, validation, key if shuffle else None, home)
        size = train.batch_size if isinstance(train, Stream) else train.size
        size = size if rows is None else min(rows, size)
        start = initial(net, params, state, train.between(0, 1), seed, adapter)
        prediction, draws = first_output(net, start, train, size, seed, computed)
        ranges = Ranges(net, *start, home)
        whole = _targets(dataset, prediction, home)
        if not dataset.has_all_targets:
            _check_unseen(loss)
        loss = choose_loss(loss, net, prediction, whole)
        check_targets(loss, prediction, whole)
        measured = tuple(prepare_metric(m, loss, prediction, whole.y) for m in measured)
        dataset = dataset.with_targets(whole.y)
        train, held = _split(dataset, validation, key if shuffle else None, home)
        if validation is not None and held is None:
            held = _validation(adapter, validation, dataset, columns, loss, prediction)
        for each in (train, held):
            if isinstance(each, Stream | BlockDataset):
                each.check = partial(check_samples, ranges, loss, prediction)
            elif each is not None:
                ranges.check_all(each)
        held = held.kept() if isinstance(held, BlockDataset) else held
        averages = getattr(loss, "reduction", "mean") == "mean"
        shuffled = shuffle and size < train.size
        batches = batches_of(train, home, size, key, shuffled, draws, averages)
        step = TrainingStep(net, loss, optimizer, compute_dtype=computed)
        step = _by_row(step, start, batches)
        carry = Carry(*start, optimizer.init(start[0]))
        answers = tree.map(_first_two, prediction)
    together = find_communicator(communicator)
    if together is not None:
        check_shared(step, batches, together)
        with home.scope():
            check_shares(step, start, batches, together)
    return Problem(step, batches, held, measured, home, carry, columns, answers, together)


def _with_chosen_optimizer(X: Any, validation: Any, batch_size: Any, **said: Any) -> Problem:
    """The problem with the optimizer that "auto" means for it: see `choose_optimizer`."""
    # Of an iterator the first batch is read once, for both.
    X = Passes("fit: X", X) if is_stream(X) else X
    validation = Passes("fit: validation X", validation) if is_stream(validation) else validation
    said |= {"X": X, "validation": validation, "batch_size": batch_size}
    # A search over all samples is what it most often is, and then all is ready.
    whole = batch_size in ("auto", None) and not is_stream(X) and not isinstance(X, Passes)
    first = prepare(**{**said, "optimizer": "lbfgs" if whole else "adam"})
    optimizer = choose_optimizer(first, batch_size).optimizer
    if not whole or not optimizer.whole_batch:
        return prepare(**{**said, "optimizer": optimizer})
    step, start = replace(first.step, optimizer=optimizer), first.start
    with first.backend.scope():
        step = _by_row(step, start[:2], first.batches)
        carry = Carry(*start[:2], optimizer.init(start.params))
    return replace(first, step=step, start=carry)


def _first_two(leaf: Any) -> Any:
    """The rows of an array, if it has any: a loss of one's own may be of what has none."""
    return leaf[: min(2, leaf.shape[0]), ...] if getattr(leaf, "ndim", 0) else leaf


def _by_row(step: TrainingStep, start: tuple[Any, Any], batches: Batches) -> TrainingStep:
    """The step, which knows of rows that come alone where its optimizer asks for it."""
    if "objective" not in getattr(step.optimizer, "needs", ()):
        return step
    few = batches.dataset.between(0, min(batches.size, FEW))
    return replace(step, by_row=is_by_row(step, start, few, batches.key))


# Arguments that are no data.


def several(value: Any) -> tuple[Any, ...]:
    """The value as a tuple: of one item if it is single, and empty for None."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) or callable(value) else tuple(value)


def _check_net(net: Any) -> None:
    if isinstance(net, type) or not hasattr(net, "forward"):
        raise TypeError(
            "fit: net: expected a layer, such as Sequential(Linear(32), relu, Linear(10)), "
            f"got {net!r}"
        )
    if name := _of_a_library(net):
        raise TypeError(
            f"fit: net: expected functions of arrays of any library, which can be differentiated, "
            f"got {name}, which is of one library alone. To fix it: take tinynn.functional.{name}, "
            f"if there is one, or write def {name}(x): return namespace(x).{name}(x), with "
            "tinynn.trace.namespace"
        )


def _of_a_library(net: Any) -> str:
    """The name of a compiled function among the layers, such as a ufunc; "" if there is none."""
    for layer in getattr(net, "layers", ()):
        if name := _of_a_library(layer):
            return name
    compiled = inspect.isbuiltin(net) and net.__module__ != "builtins"  # abs goes everywhere
    return str(net.__name__) if compiled or type(net).__name__ == "ufunc" else ""


def optimizer_of(optimizer: Any) -> Any:
    """The optimizer that is meant: one, its name, or None for `Adam()`."""
    if optimizer is None or isinstance(optimizer, str):
        from tinynn import optim  # two dozen dataclasses, which take their time to be made

        return optim.get(optimizer or "adam")
    if isinstance(optimizer, type) or not hasattr(optimizer, "update"):
        raise TypeError(f"fit: optimizer: expected an optimizer, such as Adam(), got {optimizer!r}")
    return optimizer


def _rows(batch_size: int | str) -> int:
    return _BATCH if isinstance(batch_size, str) else batch_size


def _check_beside_batches(batch_size: Any, shuffle: bool | None, validation: Any) -> None:
    """Refuse arguments that cannot be met by batches which come one after another."""
    if batch_size != "auto":
        raise ValueError(
            f"fit: batch_size: expected none beside batches as X, which have sizes of their own, "
            f"got {batch_size!r}. To fix it: leave it out, and make batches of that size"
        )
    if shuffle:
        raise ValueError(
            "fit: shuffle: expected False or nothing beside batches as X, which come in an order "
            "of their own, got True. To fix it: shuffle where the batches are made; a function "
            "that takes the epoch's number can do it anew in each epoch"
        )
    if isinstance(validation, Real):
        raise ValueError(
            f"fit: validation: expected (X, y) or batches beside batches as X, of which no "
            f"fraction can be held out without reading them, got {validation}. To fix it: keep "
            "samples to validate with apart"
        )


def _first_inputs(source: Any) -> Any:
    """X as far as it tells where the data are: of batches, that of the first."""
    return source.first[0] if isinstance(source, Passes) else source


def check_whole(**numbers: Any) -> None:
    """Raise an error unless these arguments are whole numbers."""
    for name, value in numbers.items():
        whole = hasattr(value, "__index__") and not isinstance(value, bool)
        if name == "seed":
            fits, expected = whole, "a whole number"
        elif name in ("epochs", "keep"):
            fits, expected = whole and value > 0, "a whole number of 1 or more"
        else:
            fits = value is None or value == "auto" or (whole and value > 0)
            expected = "a whole number of 1 or more, or None for all samples at once"
        if not fits:
            raise ValueError(f"fit: {name}: expected {expected}, got {value!r}")


def _check_validation(validation: Any) -> None:
    pair = isinstance(validation, tuple) and len(validation) in (2, 3)
    fraction = isinstance(validation, Real) and 0 < float(validation) < 1
    alone = is_dataset(validation) or is_stream(validation) or is_indexed(validation)
    alone = alone or isinstance(validation, Blocks | Passes)
    if validation is not None and not (pair or fraction or alone):
        raise ValueError(
            "fit: validation: expected a fraction between 0 and 1, a tuple (X, y) or (X, y, "
            f"sample_weight), a dataset, batches or None, got {reprlib.repr(validation)}"
        )


def _dtype(dtype: Any, home: Backend) -> Any:
    names = [name for name in ("float32", "float64") if name in home.dtypes()]
    try:
        if (name := home.dtype_name(dtype)) in names:
            return home.dtypes()[name]
    except TypeError:
        pass
    raise ValueError(f"fit: dtype: expected {' or '.join(names)} on {home!r}, got {dtype!r}")


def _compute_dtype(dtype: Any, home: Backend) -> str:
    """The name of a dtype to compute in."""
    here = home.compute_dtypes()
    try:
        wanted = home.compute_dtype(dtype)
    except TypeError as error:
        raise ValueError(
            f"fit: compute_dtype: expected {', '.join(sorted(here))} or None on {home!r}, got "
            f"{dtype!r}. To fix it: name one of these"
        ) from error
    return next(name for name, known in here.items() if known == wanted)


def _metrics(metrics: Any) -> tuple[MetricLike, ...]:
    found = tuple(map(get, several(metrics)))
    named = tuple(map(name_of, found))
    twice = [name for name in named if named.count(name) > 1 or name in ("epoch", "loss")]
    if twice:
        raise ValueError(
            f"fit: metrics: expected names of their own, got {twice[0]!r}, which is taken. Give a "
            "function another __name__, or measure one of them later with Model.evaluate"
        )
    return found


# Data.


def _split(
    dataset: Source, validation: Any, key: Any, home: Backend
) -> tuple[Dataset, Dataset | None]:
    """(the samples to train on, those that a fraction holds out or None)."""
    if not isinstance(validation, Real):
        return dataset, None
    fraction = float(validation)
    if dataset.size == 1:
        raise ValueError(
            f"fit: X: expected two samples or more to hold out {fraction:g} of them, got one. "
            "Give more samples, or validation=None."
        )
    draw = None if key is None else random.fold_in(key, HOLD_OUT)
    if isinstance(dataset, BlockDataset):
        return dataset.split(fraction, draw)
    return held_out(dataset, fraction, draw, classes_of(dataset, home), home)


def _validation(
    adapter: DataAdapter,
    validation: Any,
    dataset: Dataset,
    columns: tuple[str, ...],
    loss: Any,
    prediction: Any,
) -> Source:
    """The samples given as validation=(X, y), (X, y, sample_weight), a dataset or batches.

    Their inputs are as those of the dataset, and their targets as the loss expects them.
    """
    if isinstance(validation, tuple):
        held = adapter.dataset(*validation, prefix="validation ", columns=columns)
    else:
        source = source_of("fit: validation X", validation)
        held = dataset_of(adapter, source, None, None, prefix="validation ")
    shapes = [
        [tuple(a.shape[1:]) for a in tree.leaves(each.between(0, 1).x)] for each in (held, dataset)
    ]
    if shapes[0] != shapes[1]:
        expected, got = (", ".join(map(str, each)) for each in reversed(shapes))
        raise ValueError(
            f"fit: validation X: expected rows of shape {expected} as in X, "
            f"got {got}. Give it the same columns."
        )
    own = _targets(held, prediction, adapter.target)
    check_targets(loss, prediction, own)
    return held.with_targets(own.y)


def classes_of(dataset: Source, home: Backend) -> Any:
    """The labels of the samples, if y is labels; else None."""
    y: Any = dataset.targets if dataset.has_all_targets else None
    single = hasattr(y, "ndim") and (y.ndim == 1 or tuple(y.shape[1:]) == (1,))
    if not single or not home.xp.isdtype(y.dtype, ("integral", "bool")):
        return None
    return home.xp.reshape(y, (-1,))


def _targets(dataset: Source, prediction: Any, home: Backend) -> Samples:
    """All targets, with the axes that predictions have, and their weights."""
    whole = Samples(prediction, dataset.targets, dataset.sample_weight)
    return matched(whole, prediction, home.xp)


# The loss.


def _check_unseen(loss: Any) -> None:
    """Refuse a loss that needs all targets, for a dataset that shows only the first ones."""
    if loss is None or getattr(loss, "class_weight", None) == "balanced":
        raise ValueError(
            f"fit: loss: expected one that needs no look at all targets, which a dataset gives "
            f"batch by batch, got {label(loss)}. To fix it: name a loss, such as "
            'loss="squared_error", with a number for each class if it is to weigh them'
        )


def choose_loss(loss: Any, net: Any, prediction: Any, samples: Samples) -> Any:
    """The loss asked for, or else the one that suits y, fitted to the data."""
    if loss is None:
        loss, _ = losses.for_targets(prediction, samples.y)
    elif isinstance(loss, str):
        loss = losses.get(loss)
    else:
        loss = _own_loss(loss, samples.sample_weight is not None)
    if conflict := losses.activation_conflict(loss, _last_function(net)):
        raise ValueError(f"fit: {conflict}")
    if isinstance(loss, losses.Loss):
        loss = loss.fit_to(prediction, samples.y, samples.sample_weight)
    return loss


def _last_function(net: Any) -> Any:
    """The function that the network ends in, as far as it is a Sequential."""
    while isinstance(net, Sequential) and net.layers:
        net = net.layers[-1]
    return net


def _own_loss(loss: Any, weighed: bool) -> Any:
    """The user's loss function, checked to be callable as training will call it."""
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(
            "fit: loss: expected a loss such as SquaredError(), its name, or a function of "
            f"(prediction, target), got {loss!r}"
        )
    if weighed and not isinstance(loss, losses.Loss):
        try:
            inspect.signature(loss).bind(None, None, None)
        except TypeError as error:
            raise TypeError(
                "fit: sample_weight: expected a loss that takes (prediction, target, "
                f"sample_weight), got {label(loss)}, which does not. Let it weigh, or give no "
                "weights."
            ) from error
    return loss
