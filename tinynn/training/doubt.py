"""The methods of a `Model` that say how far its predictions can be trusted.

The numbers are those of `tinynn.uncertainty`; here are the rows, the loss and the preparation that
a model knows.
"""

from typing import Any

from tinynn import layers, losses, tree, uncertainty
from tinynn.config import label
from tinynn.data import Samples
from tinynn.data.streams import dataset_of
from tinynn.trace import namespace
from tinynn.training.evaluation import check_targets, matched
from tinynn.training.predictor import checked
from tinynn.uncertainty import Calibration, Interval, Laplace, Moments
from tinynn.uncertainty.calibrated import Calibrated
from tinynn.uncertainty.predictions import Prediction, of_classes, predicted, together


class Doubt(Calibrated):
    """The base class of `Model` that has these methods."""

    net: Any
    params: Any
    state: Any
    loss: Any
    columns: Any
    preparation: Any
    calibration: Calibration | None
    _scored: tuple[Any, ...]  # the calibration, and the arrays that it was found with

    def calibrate(
        self, X: Any, y: Any, method: str | None = None, *, draws: int = 0, seed: int = 0
    ) -> None:
        """Keep how badly the model answers for these rows, which training did not see.

        From then on, and in the model's file, `predict(X, interval=0.9)` gives intervals, and
        `predict_set(X, 0.9)` sets of classes, that hold the truth for nine new rows of ten: split
        conformal prediction, see `tinynn.uncertainty.conformal_quantile`.

        Parameters
        ----------
        X, y
            The rows and their targets, as `evaluate` takes them.
        method
            The score: "absolute", the distance; "scaled", that by the deviation that a model of
            `GaussianNLL`, or passes with dropout, have; "quantile" for the quantiles of a
            `Quantile` loss; "least_ambiguous" or "adaptive" for classes. None takes what suits the
            loss.
        draws, seed
            Predictions are the means of so many passes with dropout, as `monte_carlo` makes them; 0
            for none.

        Raises
        ------
        ValueError
            No rows, a method that does not suit the loss, or draws of a network without dropout.
        TypeError
            A loss whose predictions are neither numbers nor classes that exclude each other.
        """
        output, y = self._answered("calibrate", X, y)
        found = self._predicted(X, output, draws, seed)
        self._calibrate([found], y, method, draws=draws, seed=seed)
        self._remember()

    def predict_set(self, X: Any, level: float = 0.9, batch_size: int | None = None) -> Any:
        """The classes that may be the right one: (samples, classes) booleans.

        Of new rows the share `level` has its class in its set, at least. Classes are in the order
        of `predict_proba`; of a single probability they are 0 and 1.

        Raises
        ------
        ValueError
            The model is not calibrated, or with other parameters, or by too few rows for the
            level.
        TypeError
            It is a model of numbers.
        """
        known = self._of_classes(level)
        found = self._predicted(X, self._outputs(X, batch_size), known.draws, known.seed)
        return self._sets(found, level)

    def with_temperature(self, X: Any, y: Any) -> Any:
        """The same model with logits divided by one number, so that it is as sure as it may be.

        The number is the one of the lowest loss on these rows, which training did not see: see
        `tinynn.uncertainty.temperature`. It is a layer of the new model, whose answers are those of
        this one.

        Parameters
        ----------
        X, y
            The rows and their targets, as `evaluate` takes them.

        Raises
        ------
        TypeError
            A loss without logits.
        ValueError
            As `tinynn.uncertainty.temperature`.
        """
        if not isinstance(self.loss, losses.SoftmaxCrossEntropy | losses.BinaryCrossEntropy):
            raise TypeError(
                "with_temperature: expected SoftmaxCrossEntropy or BinaryCrossEntropy, got "
                f"{label(self.loss)}. To fix it: train with one of these"
            )
        output, y = self._answered("with_temperature", X, y)
        divisor = layers.Temperature(float(uncertainty.temperature(output, y, self.loss)))
        if isinstance(self.net, layers.Sequential):
            return self._with(layers.Sequential(*self.net.layers, divisor), self.params, self.state)
        params, state = ({"0": part} if tree.leaves(part) else {} for part in self._parts())
        return self._with(layers.Sequential(self.net, divisor), params, state)

    def monte_carlo(self, X: Any, draws: int = 50, seed: int = 0) -> Moments:
        """Mean and variance over passes in which the `Dropout` layers go on dropping.

        As `ModelStack.uncertainty` of an ensemble; the passes themselves are those of
        `tinynn.uncertainty.monte_carlo`.

        Parameters
        ----------
        X
            As `outputs` takes it.
        draws, seed
            How many passes, and what they are drawn by.
        """
        return summed_up(self.loss, self._passes(X, draws, seed))

    def laplace(
        self,
        X: Any,
        y: Any,
        *,
        last_layer: bool = False,
        prior_precision: float | None = None,
        noise: float | None = None,
    ) -> Laplace:
        """The Laplace approximation around this model, by the rows that it was trained on.

        It answers for what the network takes, with what the network gives: where the model has a
        preparation, for `model.prepared(X)[0]`, in standardised units.

        Parameters
        ----------
        X, y
            The training rows, as `evaluate` takes them.
        last_layer, prior_precision, noise
            As `tinynn.uncertainty.laplace` has them.
        """
        X, y = self.prepared(X, y)
        samples = self._samples("laplace", X, y)
        output = self.outputs(samples.x)
        y = matched(samples, output, self.backend.xp).y
        with self.backend.scope():
            return uncertainty.laplace(
                self.net, *self._parts(), samples.inputs, y, self.loss,
                last_layer=last_layer, prior_precision=prior_precision, noise=noise,
            )  # fmt: skip

    def bounds(self, outputs: Any, level: float = 0.9) -> Interval:
        """The intervals of `predict(X, interval=level)` from what `outputs(X)` has given already.

        Parameters
        ----------
        outputs
            Of the network: (samples, ...), on the model's backend.
        level
            The share of targets that they hold.

        Raises
        ------
        ValueError, TypeError
            As `predict`.
        """
        _check_draws("bounds", self._of_numbers(level), f"predict(X, interval={level!r})")
        return self._bounds(predicted(self.loss, outputs), level)

    def sets(self, outputs: Any, level: float = 0.9) -> Any:
        """The sets of `predict_set(X, level)` from what `outputs(X)` has given already.

        Parameters
        ----------
        outputs
            Of the network: (samples, ...), on the model's backend.
        level
            The share of rows whose class is in their set.

        Raises
        ------
        ValueError, TypeError
            As `predict_set`.
        """
        _check_draws("sets", self._of_classes(level), f"predict_set(X, {level!r})")
        return self._sets(predicted(self.loss, outputs), level)

    # What they share.

    def _sets(self, prediction: Prediction, level: float) -> Any:
        """The sets, on the host where there is a preparation."""
        sets = self._sets_of([prediction], level)
        return sets if self.preparation is None else self.backend.to_host(sets)

    def _interval(self, X: Any, level: float, batch_size: int | None) -> Interval:
        """What `predict(X, interval=level)` gives."""
        known, outputs = self._of_numbers(level), self._outputs(X, batch_size)
        return self._bounds(self._predicted(X, outputs, known.draws, known.seed), level)

    def _bounds(self, prediction: Prediction, level: float) -> Interval:
        """The interval, in the target's own unit where there is a preparation."""
        found = self._interval_of([prediction], level)
        if self.preparation is None:
            return found
        decode, home = self.preparation.decode, self.backend
        return Interval(*(decode(home.to_host(each)) for each in found))

    def _predicted(self, X: Any, outputs: Any, draws: int, seed: int) -> Prediction:
        """What is predicted for X, whose outputs these are: by so many passes with dropout."""
        if draws:
            return of_passes(self.loss, self._passes(X, draws, seed))
        return predicted(self.loss, outputs)

    def _passes(self, X: Any, draws: int, seed: int) -> Any:
        """The outputs of passes with dropout: (draws, samples, ...)."""
        X = self.prepared(X)[0]
        adapter = self.adapter("monte_carlo", X)
        with adapter.target.scope():
            _, count, between = checked(adapter, X, self.columns)
            return uncertainty.monte_carlo(
                self.net, *self._parts(), *between(0, count), draws=draws, seed=seed
            )

    def _calibrated(self, what: str) -> Calibration:
        calibration = super()._calibrated(what)
        known, *arrays = self._scored or (None,)
        if known is not calibration:  # it was put here by hand
            self._remember()
            return calibration
        now = tree.leaves(self._parts())
        if len(now) != len(arrays) or any(a is not b for a, b in zip(now, arrays, strict=True)):
            raise ValueError(
                f"{what}: expected the parameters that the model was calibrated with, got others. "
                "To fix it: call model.calibrate(X, y) again"
            )
        return calibration

    def _remember(self) -> None:
        self._scored = (self.calibration, *tree.leaves(self._parts()))

    def _parts(self) -> tuple[Any, Any]:
        return self.params, self.state

    def _samples(self, where: str, X: Any, y: Any) -> Samples:
        adapter = self.adapter(where, X)
        with adapter.target.scope():
            dataset = dataset_of(adapter, X, y, None, columns=self.columns)
            return dataset.between(0, dataset.size)

    def _answered(self, where: str, X: Any, y: Any) -> tuple[Any, Any]:
        """The outputs for these rows, and their targets with the outputs' axes."""
        if (y.shape[0] if hasattr(y, "shape") else len(y)) == 0:
            raise ValueError(
                f"{where}: X, y: expected rows that training did not see, got none. To fix it: "
                "keep some of the data apart"
            )
        X, y = self.prepared(X, y)
        samples = self._samples(where, X, y)
        output = self.outputs(samples.x)
        fitting = matched(samples, output, self.backend.xp)
        check_targets(self.loss, output, fitting)
        return output, fitting.y

    def _outputs(self, X: Any, batch_size: int | None) -> Any:
        return self.outputs(self.prepared(X)[0], batch_size)

    # Those of `Model`.

    def _with(self, net: Any, params: Any, state: Any) -> Any:
        raise NotImplementedError

    def adapter(self, where: str, X: Any) -> Any:
        """The way in for X."""
        raise NotImplementedError

    def prepared(self, X: Any, y: Any = None) -> tuple[Any, Any]:
        """The network's inputs and targets for raw X and y."""
        raise NotImplementedError

    def outputs(self, X: Any, batch_size: int | None = None) -> Any:
        """The network's output for X."""
        raise NotImplementedError

    @property
    def backend(self) -> Any:
        """The backend of the parameters."""
        raise NotImplementedError


def _check_draws(where: str, known: Calibration, instead: str) -> None:
    """ValueError where the scores are of passes with dropout, which outputs are not."""
    if known.draws:
        raise ValueError(
            f"{where}: expected a model that is calibrated by its outputs, got one by passes with "
            f"dropout. To fix it: take {instead}"
        )


def summed_up(loss: Any, outputs: Any) -> Moments:
    """The moments of several outputs for the same rows, (networks, samples, ...), under a loss.

    Raises TypeError for labels that do not exclude each other.
    """
    first = outputs[0, ...]
    task = loss.task(first) if isinstance(loss, losses.Loss) else ""
    if task == "multilabel":
        raise TypeError(
            f"uncertainty: expected numbers, or classes that exclude each other, got {loss}. To "
            "fix it: take the spread of predict_proba for each label"
        )
    if task in ("binary", "multiclass"):
        xp = namespace(outputs)
        return uncertainty.class_information(
            xp.stack([of_classes(loss, outputs[k, ...]) for k in range(outputs.shape[0])])
        )
    if isinstance(loss, losses.GaussianNLL):
        parts, xp = loss.split(outputs), namespace(outputs)
        return uncertainty.moments(parts[..., 0, :], xp.exp(parts[..., 1, :]))
    return uncertainty.moments(loss.estimate(outputs) if isinstance(loss, losses.Loss) else outputs)


def of_passes(loss: Any, outputs: Any) -> Prediction:
    """The prediction of several passes, whose outputs are (draws, samples, ...)."""
    return together([predicted(loss, outputs[k, ...]) for k in range(outputs.shape[0])])
