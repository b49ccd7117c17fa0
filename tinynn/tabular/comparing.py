"""Scores of answers for tables, of one network and of many beside each other."""

from collections.abc import Iterator, Sequence
from statistics import fmean, pstdev
from typing import Any

from tinynn.data import host
from tinynn.tabular.preparation import TablePreparation
from tinynn.tabular.statistics import Moments
from tinynn.tabular.targets import Classes, Target
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


def answers_of(stack: ModelStack, target: Target, X: Any) -> Any:
    """What each network answers, a host array: probabilities, or numbers in the target's unit.

    Parameters
    ----------
    X : (rows, inputs) on the stack's backend

    """
    if isinstance(target, Classes):
        return stack.backend.to_host(stack.predict_proba(X))
    return target.decode(stack.backend.to_host(stack.predict(X)))


def compared(
    preparation: TablePreparation, answers: Any, y: Any, seed: int, folds: Any = None
) -> Iterator[str]:
    """The lines of a table of how well networks answer for rows that they were not trained on.

    Parameters
    ----------
    answers : (networks, rows, ...) host array, as `answers_of` gives them
    y : (rows,) host array, indices of classes, or numbers as those of `answers`
    seed : of the first network
    folds : (rows,) host array, the fold that each row is in; None where there are none

    """
    marks = [_mark(preparation, one, y) for one in answers]
    count = len(answers)
    named = "accuracy" if isinstance(preparation.target, Classes) else "R2"
    yield (
        f"{count} network{'s' * (count > 1)}, seeds {seed} to {seed + count - 1}"
        if count > 1
        else f"1 network, seed {seed}"
    ) + ("" if folds is None else f", each trained {int(folds.max()) + 1} times without a fold")
    yield f"{named:<14}{'rows':>6}{'mean':>9}{'sd':>9}{'worst':>9}{'best':>9}"
    for fold in range(0 if folds is None else int(folds.max()) + 1):
        rows = folds == fold
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
