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

_CLASSES = ("binary", "multiclass")


class Doubt:
    """The base class of `Model` that has these methods."""

    net: Any
    params: Any
    state: Any
    loss: Any
    columns: Any
    preparation: Any
    calibration: Calibration | None
    _scored: tuple[Any, ...]  # the calibration, and the arrays that it was found with

    def calibrate(self, X: Any, y: Any, method: str | None = None) -> None:
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
            `GaussianNLL` predicts; "quantile" for the quantiles of a `Quantile` loss;
            "least_ambiguous" or "adaptive" for classes. None takes what suits the loss.

        Raises
        ------
        ValueError
            No rows, or a method that does not suit the loss.
        TypeError
            A loss whose predictions are neither numbers nor classes that exclude each other.
        """
        output, y = self._answered("calibrate", X, y)
        methods = _methods(self.loss, output)
        method = methods[0] if method is None else method
        if method not in methods:
            raise ValueError(
                f"calibrate: method: expected {' or '.join(map(repr, methods))} under "
                f"{label(self.loss)}, got {method!r}. To fix it: leave it out"
            )
        self.calibration = Calibration.of(method, _scores(method, self.loss, output, y))
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
        known = self._calibrated("predict_set(X, level)")
        if known.kind not in ("least_ambiguous", "adaptive"):
            raise TypeError(
                "predict_set: expected a model of classes, got one of numbers. To fix it: take "
                f"predict(X, interval={level!r})"
            )
        output = self._outputs(X, batch_size)
        sets = known.sets(_of_classes(self.loss, output), level)
        return sets if self.preparation is None else self.backend.to_host(sets)

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
        adapter = self.adapter("monte_carlo", self.prepared(X)[0])
        with adapter.target.scope():
            _, count, between = checked(adapter, self.prepared(X)[0], self.columns)
            outputs = uncertainty.monte_carlo(
                self.net, *self._parts(), *between(0, count), draws=draws, seed=seed
            )
            return summed_up(self.loss, outputs)

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
        known = self._of_numbers(level)
        estimate, *others = _parts_of(known.kind, self.loss, outputs)
        found = known.interval(estimate, level, *others)
        if self.preparation is None:
            return found
        decode, home = self.preparation.decode, self.backend
        return Interval(*(decode(home.to_host(each)) for each in found))

    # What they share.

    def _interval(self, X: Any, level: float, batch_size: int | None) -> Interval:
        """What `predict(X, interval=level)` gives."""
        self._of_numbers(level)
        return self.bounds(self._outputs(X, batch_size), level)

    def _of_numbers(self, level: float) -> Calibration:
        known = self._calibrated(f"predict(X, interval={level!r})")
        if known.kind in ("least_ambiguous", "adaptive"):
            raise TypeError(
                "predict: interval: expected a model of numbers, got one of classes. To fix it: "
                f"take predict_set(X, {level!r})"
            )
        return known

    def _calibrated(self, what: str) -> Calibration:
        if self.calibration is None:
            raise ValueError(
                f"{what}: expected a model that is calibrated, got one without calibration rows. "
                "To fix it: keep some rows apart from training, a few hundred if there are, and "
                "call model.calibrate(X, y) with them"
            )
        known, *arrays = self._scored or (None,)
        if known is not self.calibration:  # it was put here by hand
            self._remember()
            return self.calibration
        now = tree.leaves(self._parts())
        if len(now) != len(arrays) or any(a is not b for a, b in zip(now, arrays, strict=True)):
            raise ValueError(
                f"{what}: expected the parameters that the model was calibrated with, got others. "
                "To fix it: call model.calibrate(X, y) again"
            )
        return self.calibration

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


def summed_up(loss: Any, outputs: Any) -> Moments:
    """The moments of several outputs for the same rows, (networks, samples, ...), under a loss.

    Raises TypeError for labels that do not exclude each other.
    """
    first = outputs[0, ...]
    if isinstance(loss, losses.Loss) and loss.task(first) == "multilabel":
        raise TypeError(
            f"uncertainty: expected numbers, or classes that exclude each other, got {loss}. To "
            "fix it: take the spread of predict_proba for each label"
        )
    if _is_of_classes(loss, first):
        xp = namespace(outputs)
        return uncertainty.class_information(
            xp.stack([_of_classes(loss, outputs[k, ...]) for k in range(outputs.shape[0])])
        )
    if isinstance(loss, losses.GaussianNLL):
        parts, xp = loss.split(outputs), namespace(outputs)
        return uncertainty.moments(parts[..., 0, :], xp.exp(parts[..., 1, :]))
    return uncertainty.moments(loss.estimate(outputs) if isinstance(loss, losses.Loss) else outputs)


def _is_of_classes(loss: Any, output: Any) -> bool:
    return isinstance(loss, losses.Loss) and loss.task(output) in _CLASSES


def _methods(loss: Any, output: Any) -> tuple[str, ...]:
    """The scores that suit a loss, the usual one first."""
    task = loss.task(output) if isinstance(loss, losses.Loss) else "regression"
    if task in _CLASSES:
        return ("least_ambiguous", "adaptive")
    if isinstance(loss, losses.GaussianNLL):
        return ("scaled", "absolute")
    if isinstance(loss, losses.Quantile) and len(loss.quantiles) > 1:
        return ("quantile",)
    if task == "regression":
        return ("absolute",)
    raise TypeError(
        f"calibrate: expected a loss of numbers, of quantiles, or of classes that exclude each "
        f"other, got {label(loss)}. To fix it: score its predictions yourself, and take "
        "tinynn.uncertainty.conformal_quantile"
    )


def _parts_of(kind: str, loss: Any, output: Any) -> tuple[Any, ...]:
    """The estimate, and what else a score is made of."""
    if kind == "quantile":
        parts = loss.split(output)
        middle = min(range(len(loss.quantiles)), key=lambda place: abs(loss.quantiles[place] - 0.5))
        return parts[..., middle, :], parts[..., 0, :], parts[..., -1, :]
    if kind == "scaled":
        parts = loss.split(output)
        return parts[..., 0, :], namespace(output).exp(0.5 * parts[..., 1, :])
    return (loss.estimate(output) if isinstance(loss, losses.Loss) else output,)


def _scores(kind: str, loss: Any, output: Any, y: Any) -> Any:
    """The scores of rows whose truth is known."""
    if kind in ("least_ambiguous", "adaptive"):
        xp, p = namespace(output), _of_classes(loss, output)
        every = {
            "least_ambiguous": uncertainty.least_ambiguous_scores,
            "adaptive": uncertainty.adaptive_scores,
        }[kind](p)
        labels = xp.reshape(y, (-1, 1))
        classes = xp.arange(p.shape[-1], dtype=xp.int32, device=p.device)
        truth = xp.astype(labels, xp.int32) == classes
        return xp.sum(xp.where(truth, every, xp.zeros_like(every)), axis=-1)
    estimate, *others = _parts_of(kind, loss, output)
    y = namespace(output).reshape(namespace(y).astype(y, output.dtype), estimate.shape)
    if kind == "quantile":
        return uncertainty.quantile_scores(others[0], others[1], y)
    if kind == "scaled":
        return uncertainty.scaled_scores(estimate, others[0], y)
    return uncertainty.absolute_scores(estimate, y)


def _of_classes(loss: Any, output: Any) -> Any:
    """The probability of each class, (rows, classes): two of a single one."""
    p, xp = loss.probabilities(output), namespace(output)
    if p.ndim == 2 and p.shape[-1] > 1:
        return p
    column = xp.reshape(p, (-1, 1))
    return xp.concat([1.0 - column, column], axis=1)
