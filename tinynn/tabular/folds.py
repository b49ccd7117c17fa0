"""Cross-validation of networks on a table: all that is fitted, without the rows of a fold."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from backends import Backend, random
from tinynn.data import host
from tinynn.tabular.cells import writable
from tinynn.tabular.comparing import answers_of
from tinynn.tabular.inference import Options
from tinynn.tabular.inputs import ignored, inputs_of, weights_of
from tinynn.tabular.preparation import TablePreparation
from tinynn.tabular.table import Table
from tinynn.tabular.targets import Classes
from tinynn.training import fit_many
from tinynn.training.signals import interrupting


def fold_numbers(strata: Any, folds: int, seed: int) -> Any:
    """The number of the fold that each row is in: a host array of integers, (rows,).

    Folds differ in size by one row at most, and have the same share of each stratum.

    Parameters
    ----------
    strata
        (rows,) host array of integers.

    Raises
    ------
    ValueError
        More folds than rows.
    """
    home, count = host(), int(strata.shape[0])
    if count < folds:
        raise ValueError(
            f"fit_table: folds: expected {count} at most, as many as there are samples, got "
            f"{folds}. To fix it: give folds={max(2, min(5, count))}, or more samples"
        )
    order = home.to_host(random.permutation(random.key(seed, home), count))
    numbers = writable(count, home.xp.int32)
    order = order[home.xp.argsort(strata[order], stable=True)]
    numbers[order] = home.xp.arange(count) % folds
    return numbers


def checkpoint_of(path: str | os.PathLike[str], fold: int) -> str:
    """The file of a fold, counted from 0, beside the checkpoint of the whole."""
    return f"{os.fspath(path)}.fold{fold + 1}"


class Across(NamedTuple):
    """What networks answer for each row of a table, each from training without the row's fold.

    Attributes
    ----------
    answers : (networks, rows, ...)
        Probabilities of classes, or numbers in the target's unit, on the host.
    truth : (rows,)
        The numbers of the classes, or numbers as those of `answers`.
    numbers : (rows,)
        The fold that each row is in.
    """

    answers: Any
    truth: Any
    numbers: Any


def across_folds(
    table: Table,
    whole: TablePreparation,
    options: Options,
    many: tuple[int, int, int],
    net: Any,
    home: Backend,
    class_weight: Any,
    given: Mapping[str, Any],
) -> Across:
    """The answers of networks for each fold of a table, by training without it.

    Parameters
    ----------
    whole
        The preparation that all rows have, for its target and its loss.
    many
        How many networks and folds, and the first seed.
    given
        Arguments of `fit_many`.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C came, once the checkpoint of the fold, if there is one, was written.
    """
    (networks, folds, seed), xp, answer = many, host().xp, whole.target
    y = answer.encode(table)
    rows = xp.nonzero(y >= 0 if isinstance(answer, Classes) else ~xp.isnan(y))[0]
    strata = y[rows] if isinstance(answer, Classes) else xp.zeros(rows.size, dtype=xp.int32)
    numbers = fold_numbers(strata, folds, seed)
    answers: Any = None
    for fold in range(folds):
        training, held = rows[numbers != fold], rows[numbers == fold]
        preparation, X, own = inputs_of(
            table, answer, training, held, options, whole.activation, ignored
        )
        count = training.size
        weights = weights_of(answer, own[:count], class_weight)
        each = {
            **given, "metrics": (), "networks": networks, "seed": seed,
            "sample_weight": None if weights is None else home.asarray(weights),
        }  # fmt: skip
        if given.get("checkpoint") is not None:
            each["checkpoint"] = checkpoint_of(given["checkpoint"], fold)
        with interrupting():  # no score, and no interval, is of networks that were not trained
            stack = fit_many(net, home.asarray(X[:count, :]), home.asarray(own[:count]), **each)
        found = answers_of(stack, preparation.target, home.asarray(X[count:, :]))
        if answers is None:
            answers = writable((networks, rows.size, *found.shape[2:]), found.dtype)
        answers[:, numbers == fold, ...] = found
    truth = y[rows] if isinstance(answer, Classes) else answer.values(table)[rows]
    return Across(answers, truth, numbers)
