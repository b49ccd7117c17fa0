"""The rows of a table that a model's intervals and sets are calibrated by."""

from typing import Any

from tinynn import tree
from tinynn.data import Blocks, host
from tinynn.tabular.folds import Across
from tinynn.tabular.targets import Classes, Target
from tinynn.training import Model
from tinynn.uncertainty import Calibration
from tinynn.uncertainty.predictions import Prediction, two_columns

_SCORES = 10_000  # rows to calibrate by: more would make files large, and intervals no better


def calibrate(model: Model, held: Any) -> None:
    """Calibrate by the rows that were held out; by every k-th of them where they are many.

    The first of them would not do: tables are often sorted.
    """
    if not isinstance(held, Blocks):
        step = _step(int(held[0].shape[0]))
        model.calibrate(held[0][::step, :], held[1][::step])
        return
    step, seen, parts, home = _step(sum(held.sizes)), 0, [], model.backend
    for block, size in enumerate(held.sizes):
        first = -seen % step
        if first < size:
            X, y, *_ = held.read_block(block)
            parts.append((X[first::step, :], y[first::step]))
        seen += size
    if parts:
        X, y = (host().xp.concat(each) for each in zip(*parts, strict=True))
        model.calibrate(home.asarray(X), home.asarray(y))


def calibrate_across(model: Model, target: Target, across: Across) -> None:
    """Calibrate a model of all rows by what networks like it answered for folds they had not seen.

    It is cross-validation's without the plus, of which nothing is promised; where a network
    changes little without a fold, it holds as many targets as it says.

    Source: Barber, Candes, Ramdas and Tibshirani 2021, "Predictive Inference with the Jackknife+".
    """
    step, home = _step(int(across.truth.shape[0])), model.backend
    xp, answers, truth = host().xp, across.answers[0, ::step, ...], across.truth[::step]
    if isinstance(target, Classes):
        found = Prediction(("least_ambiguous",), probabilities=two_columns(answers))
    else:  # in the unit that the network answers in
        answers, truth = (xp.reshape(a, (-1, 1)) / target.scale.deviation for a in (answers, truth))
        found = Prediction(("absolute",), answers)
    (kind,) = found.methods
    scores = home.asarray(found.scores(kind, truth), dtype=tree.leaves(model.params)[0].dtype)
    model.calibration = Calibration.of(kind, [scores])


def _step(count: int) -> int:
    return max(1, -(-count // _SCORES))
