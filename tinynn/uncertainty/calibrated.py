"""The base class of what gives intervals and sets: of models, stacks of them, and posteriors."""

from typing import Any, TypeAlias

from tinynn.config import label
from tinynn.uncertainty.conformal import Calibration, Interval
from tinynn.uncertainty.predictions import Prediction, stacked

Array: TypeAlias = Any


class Calibrated:
    """Intervals and sets by the scores that `_calibrate` keeps, whoever predicts."""

    loss: Any
    calibration: Calibration | None

    def _calibrate(self, each: list[Prediction], y: Array, method: str | None, **rest: Any) -> None:
        """Keep the scores of rows whose targets are y.

        each: the prediction, or those of the networks of several folds, whose `rest` has `folds`:
        the number of the network that did not see each row.
        """
        methods = each[0].methods
        method = methods[0] if method is None else method
        if method not in methods:
            raise ValueError(
                f"calibrate: method: expected {' or '.join(map(repr, methods))} under "
                f"{label(self.loss)}, got {method!r}. To fix it: leave it out"
            )
        scores = [prediction.scores(method, y) for prediction in each]
        # A frozen stack, too, is calibrated after it was made.
        vars(self)["calibration"] = Calibration.of(method, scores, **rest)

    def _interval_of(self, each: list[Prediction], level: float) -> Interval:
        """The intervals of rows for which this is predicted."""
        known = self._of_numbers(level)
        all_ = each[0] if known.folds is None else stacked(each)
        return known.interval(all_.estimate, level, *all_.beside(known.kind))

    def _sets_of(self, each: list[Prediction], level: float) -> Array:
        """The sets of rows for which this is predicted: (rows, classes) booleans."""
        known = self._of_classes(level)
        return known.sets((each[0] if known.folds is None else stacked(each)).probabilities, level)

    def _of_numbers(self, level: float) -> Calibration:
        known = self._calibrated(f"predict(X, interval={level!r})")
        if known.kind in ("least_ambiguous", "adaptive"):
            raise TypeError(
                "predict: interval: expected a model of numbers, got one of classes. To fix it: "
                f"take predict_set(X, {level!r})"
            )
        return known

    def _of_classes(self, level: float) -> Calibration:
        known = self._calibrated("predict_set(X, level)")
        if known.kind not in ("least_ambiguous", "adaptive"):
            raise TypeError(
                "predict_set: expected a model of classes, got one of numbers. To fix it: take "
                f"predict(X, interval={level!r})"
            )
        return known

    def _calibrated(self, what: str) -> Calibration:
        """The calibration; ValueError where there is none."""
        if self.calibration is None:
            raise ValueError(
                f"{what}: expected a {self._noun} that is calibrated, got one without calibration "
                "rows. To fix it: keep some rows apart from training, a few hundred if there are, "
                f"and call {self._noun}.calibrate(X, y) with them"
            )
        return self.calibration

    _noun = "model"
