"""fit_table: from a raw table to a model that answers for raw tables."""

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import backends
from backends import Backend
from tinynn import losses
from tinynn.data import Blocks, host
from tinynn.functional import log_softmax, relu
from tinynn.layers import Dropout, Linear, Sequential
from tinynn.optim import Adam
from tinynn.tabular.calibrating import calibrate, calibrate_across
from tinynn.tabular.comparing import Score, answers_of, compared, score
from tinynn.tabular.folds import Across, across_folds
from tinynn.tabular.holdout import hold_out
from tinynn.tabular.inference import Options, fit_target
from tinynn.tabular.inputs import class_weights, ignored, inputs_of, weights_of
from tinynn.tabular.parts import Parts, TableBlocks, is_parts
from tinynn.tabular.preparation import TablePreparation, described, inform
from tinynn.tabular.streaming import fit_parts, strata_of, survey, target_of
from tinynn.tabular.table import Table, TableError
from tinynn.tabular.targets import Classes, Quantity
from tinynn.training import EarlyStopping, Model, fit, fit_many
from tinynn.training.problem import several

# The losses, each with what makes probabilities of a network's outputs; "identity" for numbers.
LOSSES = {
    "cross_entropy": "softmax",
    "binary_cross_entropy": "sigmoid",
    "nll": "exp",
    "focal": "softmax",
    "binary_focal": "sigmoid",
    "squared_error": "identity",
    "absolute_error": "identity",
    "huber": "identity",
    "smooth_l1": "identity",
    "log_cosh": "identity",
}
# Epochs, unless they are asked for: small tables need more of them for as many steps.
LEAST_EPOCHS, LEAST_STEPS = 30, 1500
_DIVERGED = 10.0  # times the loss of answering the same for every row


class TrainingDiverged(ValueError):
    """Training ended with a loss far above that of one constant prediction for every row."""


def fit_table(
    data: Any,
    target: str,
    *,
    net: Any = None,
    hidden: tuple[int, ...] = (64, 32),
    dropout: float = 0.1,
    loss: str | None = None,
    label_smoothing: float = 0.1,
    class_weight: str | Mapping[Any, float] | None = None,
    learning_rate: float = 0.003,
    epochs: int | None = None,
    batch_size: int | None = 32,
    validation: float = 0.2,
    categories: Collection[str] = (),
    drop: Collection[str] = (),
    dates: Mapping[str, str] | None = None,
    decimal: str | None = None,
    networks: int = 1,
    folds: int | None = None,
    seed: int = 0,
    backend: str | Backend | None = None,
    progress: bool | None = None,
    callbacks: Iterable[Any] = (),
    communicator: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Callable[[str], object] | None = None,
) -> Model:
    """Train a network on a raw table, and return a model that predicts from raw tables.

    Numbers are standardised, texts and booleans become categories, dates a time with its cycles;
    cells may be missing. What never changes, an index and texts that differ from row to row are
    left out. All of it is fitted on the rows that are not held out, and is saved with the model:
    `load(path).predict(table)` answers with classes, or in the target's own unit.

    Parameters
    ----------
    data
        A data frame (pandas, polars, pyarrow or another that narwhals knows), or a dict of columns;
        or a table in parts, see `tinynn.tabular.Parts`, of which a few are in memory at a time.
    target
        The column to predict. Texts, booleans and few whole numbers are classes, others are
        numbers; rows in which it is missing are left out.
    net
        The network; None makes hidden layers with relu.
    hidden
        The widths of those layers.
    dropout
        The share of their outputs that is dropped in training; 0 for none.
    loss
        A name; None is "cross_entropy" for classes and "squared_error" for numbers.
    label_smoothing
        Of the cross-entropies.
    class_weight
        "balanced", each class counting the same in the loss, or the weight of each label.
    learning_rate
        Of Adam.
    epochs
        None is 30, or more for 1500 steps in all.
    validation
        The fraction of the rows to hold out and score; the same of each class. Of a single network
        they also are what its intervals are calibrated by, up to 10,000 of them from one end of the
        table to the other, unless an `EarlyStopping` among the callbacks has looked at them.
    categories, drop, dates, decimal
        See `TablePreparation.fit`.
    networks
        How many to train at once, from one seed after another. The one of the lowest loss on the
        rows that are held out is returned, and a table of the scores is reported.
    folds
        Cross-validation in place of `validation`: each network is trained once without each fold
        and scored on it, with all that is fitted to columns (scales, categories, what is left out)
        fitted to the rows it is trained on; then one network is trained on all rows, and returned.
        It is calibrated by what the first network answered for each row without its fold: of that
        nothing is promised, but where a fold changes a network little it holds what it says. It is
        not if its training ends early, by Ctrl-C, or there is an `EarlyStopping`.
    checkpoint, resume
        A file that the state of training is written to, up to twenty times, and whether to go
        on from it if it is there, with the other arguments as they were. Of `folds` each has a
        file of its own beside it, with ".fold1" and so on behind the name.
    backend
        Where to train; None is the host's own library.
    report
        Is called with lines on what was understood and reached; None warns of what matters.
    progress, callbacks, seed, batch_size, communicator
        See `tinynn.fit`.

    Raises
    ------
    TableError
        A table, a column or a cell that cannot be used.
    TrainingDiverged
        The model is far worse than none.

    Examples
    --------
    >>> table = {"x": [0.1, 0.9, 0.2, 0.8] * 5, "kind": ["low", "high", "low", "high"] * 5}
    >>> model = fit_table(table, "kind", hidden=(8,), epochs=200, learning_rate=0.1)
    >>> model.predict({"x": [0.0, 1.0]})
    array(['low', 'high'], dtype='<U4')
    """
    callbacks = list(several(callbacks))
    _check_choices(loss, validation, networks, folds, callbacks)
    home = host() if backend is None else backends.get(backend)
    options = Options(categories, drop, dates or {}, decimal)
    if large := is_parts(data):
        _check_single(networks, folds)
    table: Any = data if large else Table.of(data)
    rows = (_rows_of_parts if large else _rows_of_table)(
        table, target, options, loss, class_weight, validation if folds is None else 0.0, seed,
        home, report,
    )  # fmt: skip
    answer = rows.preparation.target
    net = _network(answer, rows.loss, hidden, dropout) if net is None else net
    epochs = default_epochs(rows.size, batch_size) if epochs is None else epochs
    given: dict[str, Any] = {
        "loss": _loss(rows.loss, label_smoothing),
        "optimizer": Adam(learning_rate),
        "epochs": epochs,
        "batch_size": batch_size,
        "metrics": ["accuracy" if isinstance(answer, Classes) else "r2"],
        "sample_weight": rows.weights,
        "progress": progress,
        **_written(checkpoint, resume, epochs),
    }
    best: Model | None = None
    across: Across | None = None
    if folds is not None:
        many = networks, folds, seed
        across = across_folds(
            table, rows.preparation, options, many, net, home, class_weight, given
        )
        for line in compared(rows.preparation, across.answers, across.truth, seed, across.numbers):
            (report or ignored)(line)
    elif networks > 1:
        best = _best_of(net, rows, networks, seed, report, given)
    model = best or fit(
        net, rows.inputs, rows.targets, validation=rows.held, seed=seed, callbacks=callbacks,
        backend=home, communicator=communicator, **given,
    )  # fmt: skip
    _check_sound(model, answer)
    chosen = best is not None or any(isinstance(each, EarlyStopping) for each in callbacks)
    if across is not None:
        # The networks of the folds know of no callback, and were trained to the end.
        if chosen or len(model.history["epoch"]) < epochs:
            (report or inform)(
                "not calibrated: training ended early, or an EarlyStopping was there to end it, "
                "and not that of the networks by whose answers it would be"
            )
        else:
            calibrate_across(model, answer, across)
    elif rows.held is not None and not chosen:  # these rows have chosen nothing
        calibrate(model, rows.held)
    model.preparation = rows.preparation
    if report and folds is None:
        report(f"{'training' if rows.held is None else 'held-out'} {_score(model, rows)}")
    return model


def _written(checkpoint: Any, resume: bool, epochs: int) -> dict[str, Any]:
    """The arguments of `fit` that say where its state is written to, and how often."""
    if checkpoint is None and not resume:
        return {}
    return {"checkpoint": checkpoint, "resume": resume, "every": -(-epochs // 20)}


class _Rows(NamedTuple):
    """The rows of a table, as `fit` takes those to train on and those that are held out.

    Attributes
    ----------
    loss, preparation
        The name of the loss, and what is fitted to the rows of training.
    inputs, targets, weights
        The rows to train on: arrays, or blocks that give all three.
    held
        Those held out: (inputs, targets), or blocks; or None.
    size
        How many are to train on.
    truth
        The targets that the model is scored by, encoded, on the host; None of blocks.
    """

    loss: str
    preparation: TablePreparation
    inputs: Any
    targets: Any
    weights: Any
    held: Any
    size: int
    truth: Any


def _best_of(
    net: Any,
    rows: _Rows,
    networks: int,
    seed: int,
    report: Callable[[str], object] | None,
    given: Mapping[str, Any],
) -> Model:
    """The best on the rows held out of several networks, whose scores are reported."""
    stack = fit_many(
        net, rows.inputs, rows.targets, validation=rows.held, seed=seed, networks=networks, **given
    )
    if report:
        answer = rows.preparation.target
        truth = rows.truth if isinstance(answer, Classes) else answer.decode(rows.truth)
        answers = answers_of(stack, answer, rows.held[0])
        for line in compared(rows.preparation, answers, truth, seed):
            report(line)
    return stack.best


def _score(model: Model, rows: _Rows) -> str:
    """The score on the rows held out, or on those of training if there are none, in words."""
    preparation, home = rows.preparation, model.backend
    if rows.truth is None:
        return str(_score_parts(model, preparation, rows.held or rows.inputs))
    X = rows.inputs if rows.held is None else rows.held[0]
    return score(preparation, preparation.decode(home.to_host(model.outputs(X))), rows.truth)


def _check_single(networks: Any, folds: Any) -> None:
    """ValueError for many networks on a table in parts."""
    if networks != 1 or folds is not None:
        raise ValueError(
            "fit_table: networks, folds: expected one network on a table that is read in parts, "
            f"got networks={networks!r}, folds={folds!r}. To fix it: leave them out, or read the "
            "table as a whole (--memory)"
        )


def _rows_of_parts(
    parts: Parts,
    target: str,
    options: Options,
    loss: str | None,
    class_weight: Any,
    validation: float,
    seed: int,
    home: Backend,
    report: Callable[[str], object] | None,
) -> _Rows:
    """The rows of a table in parts, as blocks, whose targets are in a pass over them."""
    note = report or inform
    found = survey(parts, target, options)
    answer = target_of(found, parts, target, _says_classes(loss), options, note)
    loss = _chosen_loss(found.first, loss, answer)
    present = sum(rows.size for rows in found.rows)
    if present < found.total:
        note(_without_target(found.first, target, found.total - present, found.total))
    kept, held = found.rows, None
    strata = strata_of(parts, found.rows, answer) if validation or class_weight else []
    if validation:
        marks = hold_out(strata, validation, seed)
        held = [rows[mark] for rows, mark in zip(found.rows, marks, strict=True)]
        kept = [rows[~mark] for rows, mark in zip(found.rows, marks, strict=True)]
        strata = [part[~mark] for part, mark in zip(strata, marks, strict=True)]
    preparation = fit_parts(parts, found, answer, kept, options, LOSSES[loss], note)
    if report:
        out = 0 if held is None else sum(rows.size for rows in held)
        report(f"{parts.source}: {found.total} rows in {len(parts)} parts, {out} held out")
        for line in described(preparation):
            report(line)
    weights = None
    if class_weight is not None:
        counts: Any = None  # of numbers, whose strata are no classes
        if isinstance(answer, Classes):
            counts = sum(host().xp.bincount(part, minlength=answer.width) for part in strata)
        weights = class_weights(answer, counts, class_weight)
    training = TableBlocks(parts, preparation, kept, weights)
    apart = None if held is None else TableBlocks(parts, preparation, held)
    return _Rows(loss, preparation, training, None, None, apart, sum(training.sizes), None)


def _score_parts(model: Model, preparation: TablePreparation, blocks: Blocks) -> Score:
    """The score of a model on all rows of these blocks."""
    found, home = Score(preparation), model.backend
    for block, size in enumerate(blocks.sizes):
        if size:
            X, y, *_ = blocks.read_block(block)
            answers = home.to_host(model.outputs(home.asarray(X)))
            found.add(preparation.decode(answers), y)
    return found


def _check_choices(
    loss: str | None, validation: float, networks: Any, folds: Any, callbacks: Any
) -> None:
    """ValueError for a loss or a fraction that is none, for many networks that nothing would tell
    apart, or that callbacks cannot see."""
    if loss is not None and loss not in LOSSES:
        raise ValueError(f"fit_table: loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
    if not 0 <= validation < 1:
        raise ValueError(
            f"fit_table: validation: expected a fraction from 0 to below 1, got {validation!r}"
        )
    if isinstance(networks, bool) or not hasattr(networks, "__index__") or networks < 1:
        raise ValueError(
            f"fit_table: networks: expected a whole number of 1 or more, got {networks!r}. To fix "
            "it: leave it out for one"
        )
    many = networks != 1 or folds is not None
    if many and folds is None and not validation:
        raise ValueError(
            "fit_table: networks: expected rows to compare them on, got validation=0. To fix it: "
            "hold out a fraction, with validation=0.2, or give folds=5"
        )
    if many and folds is None and callbacks:
        raise ValueError(
            f"fit_table: callbacks: expected none beside {networks} networks, which are trained "
            "all at once. To fix it: leave them out"
        )


def _rows_of_table(
    table: Table,
    target: str,
    options: Options,
    loss: str | None,
    class_weight: Any,
    validation: float,
    seed: int,
    home: Backend,
    report: Callable[[str], object] | None,
) -> _Rows:
    """The rows of a table in memory, as arrays on the device."""
    note = report or inform
    answer = fit_target(table, target, _says_classes(loss), options, note)
    training, held = _split(table, answer, validation, seed, note)
    loss = _chosen_loss(table, loss, answer)
    preparation, X, y = inputs_of(table, answer, training, held, options, LOSSES[loss], note)
    if report:
        report(f"{table.source}: {len(table)} rows, {held.size} of them held out")
        for line in described(preparation):
            report(line)
    count = training.size
    weights = weights_of(preparation.target, y[:count], class_weight)
    weights = None if weights is None else home.asarray(weights)
    inputs, targets = home.asarray(X[:count, :]), home.asarray(y[:count])
    if not held.size:
        return _Rows(loss, preparation, inputs, targets, weights, None, count, y)
    apart = home.asarray(X[count:, :]), home.asarray(y[count:])
    return _Rows(loss, preparation, inputs, targets, weights, apart, count, y[count:])


def _says_classes(loss: str | None) -> bool | None:
    """Whether a loss is one of classes; None where it is to be chosen."""
    return None if loss is None else LOSSES[loss] != "identity"


def _chosen_loss(table: Table, loss: str | None, answer: Classes | Quantity) -> str:
    """The name of the loss; TableError for a binary one and three classes or more."""
    if loss is None:
        return "cross_entropy" if isinstance(answer, Classes) else "squared_error"
    if LOSSES[loss] == "sigmoid" and answer.width != 2:
        raise TableError(
            f"{table.source}: column {answer.name!r}: expected two classes for {loss}, got "
            f"{answer.width}. To fix it: use {loss.removeprefix('binary_')}."
        )
    return loss


def default_epochs(rows: int, batch_size: int | None) -> int:
    """Epochs that make enough steps.

    >>> default_epochs(1437, 32), default_epochs(4, 32)
    (34, 1500)
    """
    steps = math.ceil(rows / (batch_size or rows))
    return max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / steps))


def _split(
    table: Table, answer: Classes | Quantity, fraction: float, seed: int, note: Any
) -> tuple[Any, Any]:
    """The rows to train on and to hold out, in order."""
    xp = host().xp
    y = answer.encode(table)
    present = y >= 0 if isinstance(answer, Classes) else ~xp.isnan(y)
    rows = xp.nonzero(present)[0]
    if rows.size < len(table):
        note(_without_target(table, answer.name, len(table) - rows.size, len(table)))
    if isinstance(answer, Classes):
        strata = y[rows]
    else:  # the smallest and the largest number are kept, so that the target varies
        place, values = xp.arange(rows.size), answer.values(table)[rows]
        strata = 1 * (place == xp.argmin(values)) + 2 * (place == xp.argmax(values))
    (held,) = hold_out([strata], fraction, seed)
    return rows[~held], rows[held]


def _without_target(table: Table, name: str, count: int, total: int) -> str:
    return (
        f"{table.source}: column {name!r}: {count} of {total} rows have no target and are left out."
    )


def _loss(name: str, label_smoothing: float) -> Any:
    chosen: Any = losses.get(name)
    if hasattr(chosen, "label_smoothing"):
        chosen = replace(chosen, label_smoothing=label_smoothing)
    return chosen


def _network(
    answer: Classes | Quantity, loss: str, hidden: tuple[int, ...], dropout: float
) -> Sequential:
    """Hidden layers with relu and dropout, and the outputs that the loss asks for."""
    layers: list[Any] = []
    for width in hidden:
        layers += [Linear(width), relu, *([Dropout(dropout)] if dropout else [])]
    layers.append(Linear(1 if LOSSES[loss] == "sigmoid" else answer.width))
    return Sequential(*layers, *([log_softmax] if loss == "nll" else []))


def _check_sound(model: Model, answer: Classes | Quantity) -> None:
    """Refuse a model whose loss is not finite, or far above that of one answer for every row.

    In deviations of the target, or in units of information, that loss is about 1 or the logarithm
    of the number of classes, whatever the table.
    """
    last = model.history["loss"][-1] if model.history.get("loss") else math.nan
    same = math.log(answer.width) if isinstance(answer, Classes) else 1.0
    if not last <= _DIVERGED * same:
        raise TrainingDiverged(
            f"training diverged: expected a loss near {same:.3g} or below (that of one answer for "
            f"every row), got {last:.3g}. To fix it: lower the learning rate (--learning-rate)."
        )
