"""Inputs, targets and weights of the rows of a table in memory that are trained on."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tinynn.data import host
from tinynn.tabular.columns import Scale
from tinynn.tabular.inference import Options, constant
from tinynn.tabular.preparation import TablePreparation
from tinynn.tabular.table import Table
from tinynn.tabular.targets import Classes, Quantity


def inputs_of(
    table: Table,
    answer: Classes | Quantity,
    training: Any,
    held: Any,
    options: Options,
    activation: str,
    note: Callable[[str], object],
) -> tuple[TablePreparation, Any, Any]:
    """The preparation that the rows of training have, and X and y of these and of those held."""
    xp = host().xp
    if isinstance(answer, Quantity):
        answer = _rescaled(table, answer, training)
    preparation = TablePreparation.fit(
        table, answer, rows=training, activation=activation, note=note, **vars(options)
    )
    rows = xp.concat([training, held])  # one array, of which the two parts are views
    X, y = preparation.transform(table, rows=rows, note=ignored), answer.encode(table)[rows]
    return preparation, X, y if isinstance(answer, Classes) else xp.astype(y, xp.float32)


def _rescaled(table: Table, answer: Quantity, rows: Any) -> Quantity:
    """The target standardised as the rows of training have it."""
    scale = Scale.fit(answer.values(table)[rows], f"{table.source}: column {answer.name!r}")
    if scale is None:  # of a fold; else the smallest and the largest are among these rows
        raise constant(table, answer.name)
    return replace(answer, scale=scale)


def ignored(message: str) -> None:
    """Tell nobody."""


def weights_of(answer: Classes | Quantity, y: Any, given: Any) -> Any:
    """The weight of each row, float32 (rows,), that gives classes theirs; None for all alike."""
    if given is None:
        return None
    classes = answer.width if isinstance(answer, Classes) else None
    counts = None if classes is None else host().xp.bincount(y, minlength=classes)
    return class_weights(answer, counts, given)[y]


def class_weights(answer: Classes | Quantity, counts: Any, given: Any) -> Any:
    """The weight of each class, float32 (classes,), of which so many rows are there."""
    if not isinstance(answer, Classes):
        raise ValueError(
            "fit_table: class_weight: expected a target of classes, got the number "
            f"{answer.name!r}. To fix it: leave class_weight out."
        )
    xp = host().xp
    if given == "balanced":
        there = counts > 0  # of parts the rows that are held out may have a class alone
        by_class = counts.sum() / (there.sum() * xp.where(there, counts, 1))
    elif isinstance(given, Mapping) and set(given) == set(labels := answer.values.tolist()):
        by_class = host().asarray([float(given[label]) for label in labels])
    else:
        raise ValueError(
            "fit_table: class_weight: expected 'balanced' or a dict with a weight for each of "
            f"{', '.join(map(repr, answer.values.tolist()))}, got {given!r}"
        )
    return xp.astype(by_class, xp.float32)
