"""NetworkRegressor."""

from typing import Any, Self

from sklearn.base import RegressorMixin
from sklearn.utils.validation import column_or_1d

from tinynn.losses import Loss
from tinynn.sklearn import arrays
from tinynn.sklearn.base import NetworkEstimator, chosen_loss
from tinynn.sklearn.outputs import is_single
from tinynn.trace import namespace
from tinynn.uncertainty import Interval


class NetworkRegressor(RegressorMixin, NetworkEstimator):  # type: ignore[misc]
    """A network that predicts numbers.

    Parameters are those of scikit-learn's `MLPRegressor`, and of `NetworkClassifier`, whose
    docstring explains them, but `class_weight`.

    Parameters
    ----------
    loss : None, str or callable, default=None
        None is "squared_error"; "absolute_error", "huber" and "poisson", or any loss of tinynn's,
        such as `Huber(2.0)`, or a function of (prediction, target). With "poisson" the network's
        output is the logarithm of what `predict` gives, with "gaussian_nll" it has variances
        besides, and with `Quantile((0.1, 0.9))` `predict` gives these quantiles.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.sklearn import NetworkRegressor
    >>> X = np.linspace(-1, 1, 100).reshape(-1, 1)
    >>> y = np.sin(3 * X[:, 0])
    >>> model = NetworkRegressor((20,), "tanh", solver="lbfgs", max_iter=500, random_state=0)
    >>> print(round(model.fit(X, y).score(X, y), 2))
    1.0

    """

    def _metric(self) -> str | None:
        return "r2"

    def _targets(self, home: Any, y: Any, first: bool) -> tuple[Any, int]:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        y = arrays.floating(home, arrays.on(home, y), self.dtype)
        outputs = int(y.shape[1]) if y.ndim == 2 else 1
        if not first and outputs != self.n_outputs_:
            raise ValueError(
                f"{type(self).__name__}: y: expected {self.n_outputs_} numbers a sample, as it was "
                f"fitted with, got {outputs}"
            )
        self.n_outputs_ = outputs
        return y, self._width()

    def _width(self) -> int:
        """The outputs of a network for targets of so many numbers."""
        loss = self._loss(None)
        return loss.outputs(self.n_outputs_) if isinstance(loss, Loss) else self.n_outputs_

    def _loss(self, y: Any) -> Any:
        return chosen_loss(self.loss or "squared_error")

    def _check_outputs(self, shape: tuple[int, ...]) -> None:
        width = self._width()
        if shape != (width,) and not (shape == () and width == 1):
            raise ValueError(
                f"{type(self).__name__}: network: expected {width} outputs a sample, as the loss "
                f"takes for y of {self.n_outputs_} numbers, got outputs of shape {shape}. To "
                "fix it: change the width of its last layer"
            )

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch on X and y, and go on from there in the next call."""
        return self._partial(X, y, sample_weight)

    def predict(self, X: Any, *, interval: float | None = None) -> Any:
        """The numbers for X: (n_samples,) or (n_samples, n_outputs); quantiles are outputs, too.

        With interval=0.9 they come with the bounds of intervals that hold nine targets of ten, in a
        `tinynn.uncertainty.Interval`, once the estimator is calibrated: `calibrate`.
        """
        X = self._inputs(X, "predict")
        if interval is not None:
            return Interval(*map(_flat, self.model_.predict(X, interval=interval)))
        return _flat(self._numbers(self.model_.outputs(X)))

    def _truth(self, home: Any, y: Any) -> Any:
        return self._targets(home, y, False)[0]

    def _numbers(self, outputs: Any) -> Any:
        """Predictions of y from the network's outputs."""
        loss = self.model_.loss
        return loss.estimate(outputs) if isinstance(loss, Loss) else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _flat(found: Any) -> Any:
    """One number a sample without an axis of its own."""
    return namespace(found).reshape(found, (-1,)) if is_single(found) else found
