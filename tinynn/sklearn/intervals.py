"""What estimators of numbers and of classes need for intervals and sets."""

from typing import Any, Self

from sklearn.utils.validation import check_is_fitted, validate_data


class CalibratedMixin:
    """The method `calibrate` of an estimator."""

    model_: Any
    _numeric: bool

    def _truth(self, home: Any, y: Any) -> Any:
        """Targets of samples to calibrate by, as the loss takes them."""
        raise NotImplementedError

    def calibrate(
        self, X: Any, y: Any, method: str | None = None, *, draws: int = 0, seed: int = 0
    ) -> Self:
        """Keep how badly the fitted network answers for samples that `fit` did not see.

        From then on, and in its pickles, a regressor's `predict(X, interval=0.9)` gives intervals
        and a classifier's `predict_set(X, 0.9)` sets of classes, that hold the truth for nine new
        samples of ten. `fit` forgets it.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        method, draws, seed
            As `tinynn.Model.calibrate` has them.
        """
        check_is_fitted(self)
        _, y = validate_data(
            self, X, y, accept_sparse="csr", multi_output=True, y_numeric=self._numeric, reset=False
        )
        X, y = self._inputs(X, "calibrate"), self._truth(self.model_.backend, y)
        self.model_.calibrate(X, y, method, draws=draws, seed=seed)
        return self

    def _inputs(self, X: Any, method: str) -> Any:
        """X as the network takes it."""
        raise NotImplementedError
