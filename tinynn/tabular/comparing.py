"""Scores of answers for tables, of one network and of many beside each other."""

from collections.abc import Iterator, Sequence
from statistics import fmean, pstdev
from typing import Any

from tinynn.data import host
from tinynn.tabular.preparation import TablePreparation
from tinynn.tabular.statistics import Moments
from tinynn.tabular.targets import Classes
from tinynn.training import ModelStack


class Score:
    """The score of answers against targets, which may come in parts.

    Parameters
    ----------
    preparation
        What the answers are of.
    """

    def __init__(self, preparation: TablePreparation) -> None:
        self.preparation, self.count, self.right = preparation, 0, 0
        self.truth, self.squares, self.errors = Moments(), 0.0, 0.0

    def add(self, answers: Any, y: Any) -> None:
        """Look at answers, (rows,), as `decode` gave them, and at targets as `targets` does."""
        self.count += int(answers.shape[0])
        truth = self.preparation.target.decode(y)
        if isinstance(self.preparation.target, Classes):
            self.right += int((answers == truth).sum())
            return
        self.truth.add(truth)
        self.squares += float(((answers - truth) ** 2).sum())
        self.errors += float(host().xp.abs(answers - truth).sum())

    def __str__(self) -> str:
        count = self.count
        if isinstance(self.preparation.target, Classes):
            return f"accuracy {self.right / count:.1%} ({self.right} of {count} rows)"
        spread = self.truth.squares
        r2 = f"{1 - self.squares / spread:.3f}" if spread else "undefined"
        return f"R2 {r2}, mean absolute error {self.errors / count:.4g} ({count} rows)"


def score(preparation: TablePreparation, answers: Any, y: Any) -> str:
    """The score of answers against targets as `targets` gives them, in words.

    Parameters
    ----------
    answers : (rows,) what `decode` gave
    y : (rows,) indices of classes, or standardised numbers

    """
    found = Score(preparation)
    found.add(answers, y)
    return str(found)


def compared(stack: ModelStack, preparation: TablePreparation, X: Any, y: Any) -> Iterator[str]:
    """The lines of a table of how well networks answer for rows that they were not trained on.

    Parameters
    ----------
    stack : as `fit_many` made it, with folds or a validation
    X : (rows, inputs) on the stack's backend: those of the folds, or those that are held out
    y : (rows,) host array, as `TablePreparation.targets` gives them

    """
    home, folds = stack.backend, stack.folds
    each = stack.predict(X) if folds is None else stack.out_of_fold(X)
    if folds is None and isinstance(preparation.target, Classes):
        each = stack.predict_proba(X)
    answers = home.to_host(each)  # (networks, rows, ...)
    marks = [_mark(preparation, one, y) for one in answers]
    count = len(stack) // stack.width
    named = "accuracy" if isinstance(preparation.target, Classes) else "R2"
    seeds = stack.seeds[:: stack.width]
    yield (
        f"{count} network{'s' * (count > 1)}, seeds {seeds[0]} to {seeds[-1]}"
        if count > 1
        else f"1 network, seed {seeds[0]}"
    ) + (f", each trained {stack.width} times without a fold" if folds is not None else "")
    yield f"{named:<14}{'rows':>6}{'mean':>9}{'sd':>9}{'worst':>9}{'best':>9}"
    if folds is not None:
        numbers = home.to_host(folds)
        for fold in range(stack.width):
            rows = numbers == fold
            part = [_mark(preparation, one[rows, ...], y[rows]) for one in answers]
            yield _line(f"fold {fold + 1}", int(rows.sum()), part)
    yield _line("held out" if folds is None else "all folds", y.shape[0], marks)
    if count > 1:
        together = _mark(preparation, answers.mean(axis=0), y)
        yield f"{'together':<14}{y.shape[0]:>6}{together:>9.3f}"


def _line(name: str, rows: int, marks: Sequence[float]) -> str:
    spread = (fmean(marks), pstdev(marks), min(marks), max(marks))
    return f"{name:<14}{rows:>6}" + "".join(f"{number:>9.3f}" for number in spread)


def _mark(preparation: TablePreparation, answers: Any, y: Any) -> float:
    """The accuracy of probabilities, (rows, classes) or of class 1, or the R2 of outputs."""
    xp = host().xp
    if isinstance(preparation.target, Classes):
        wide = answers.ndim > 1 and answers.shape[-1] > 1
        codes = answers.argmax(axis=-1) if wide else answers.reshape(-1) > 0.5
        return float(xp.mean(xp.astype(codes == y, xp.float64)))
    error = answers.reshape(-1) - y
    spread = float(((y - y.mean()) ** 2).sum())
    return 1.0 - float((error**2).sum()) / spread if spread else float("nan")
