"""NetworkClassifier."""

from collections.abc import Callable
from typing import Any, Self

from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if

import backends
from tinynn.losses import NAMES, BinaryCrossEntropy, Loss
from tinynn.sklearn import arrays, labels
from tinynn.sklearn.base import NetworkEstimator, chosen_loss
from tinynn.sklearn.labels import MULTILABEL, ONE, SEVERAL
from tinynn.sklearn.outputs import (
    SeveralSoftmax,
    is_single,
    log_probabilities,
    probabilities,
    split,
)
from tinynn.trace import namespace


def _is_told(loss: Any) -> bool:
    """True unless the loss is a function, which says nothing of classes."""
    return loss is None or isinstance(loss, str | Loss)


def _knows_probabilities(estimator: Any) -> bool:
    loss = estimator.loss
    kind: Any = NAMES.get(loss) if isinstance(loss, str) else type(loss)  # a name may be wrong
    without = kind is not None and getattr(kind, "probabilities", None) is Loss.probabilities
    return _is_told(loss) and not without


class NetworkClassifier(ClassifierMixin, NetworkEstimator):  # type: ignore[misc]
    """A network that tells classes apart.

    It has the parameters of scikit-learn's `MLPClassifier`, with the same meaning and defaults, and
    more.

    Parameters
    ----------
    hidden_layer_sizes : int, or list of int and layers, default=(100,)
        Widths of hidden layers, each followed by its activation; layers among them, such as
        `Dropout(0.1)` or `BatchNorm()`, stand where they are put. The output layer comes after
        them by itself.
    activation : str, function, or list of them, default="relu"
        "identity", "logistic", the name of an activation of each element of `tinynn.functional`,
        such as "tanh", "gelu" or "leaky_relu", or a function of an array; a list has one for each
        width.
    network : layer, default=None
        The whole network, in place of the two above. It ends in an output for each class, or in a
        single one for two classes.
    output_activation : str or function, default=None
        What follows the output layer, before the loss.
    loss : None, str or callable, default=None
        None is "log_loss": the cross-entropy of a softmax, or of a sigmoid for two classes and for
        labels that do not exclude each other. "nll" ends the network in log_softmax. Or a loss,
        such as `SoftmaxCrossEntropy(label_smoothing=0.1)`, or a function of (prediction, target),
        which is given outputs (n, classes) and class numbers (n,).
    class_weight : dict, list of dict, "balanced" or None, default=None
        How much each class counts in the loss, beside `sample_weight`.
    solver : str or optimizer, default="adam"
        "adam", "sgd", "lbfgs", another name of `tinynn.optim`, or an optimizer, such as
        `AdamW(CosineDecay(0.01, steps=1000))`, to which parameters of learning do not apply. "auto"
        is Levenberg-Marquardt, L-BFGS or Adam, by weights, samples and loss; `solver_` says which.
    alpha : float, default=0.0001
        Strength of the L2 penalty on weights, in the loss, divided by the samples of a batch.
    batch_size : int, "auto" or None, default="auto"
        Samples a step; "auto" is 200, or all if there are fewer; None is all.
    learning_rate : {"constant", "invscaling", "adaptive"}, default="constant"
        "invscaling" is learning_rate_init / (step + 1) ** power_t. "adaptive" is divided by five
        each time the loss has not become better for `n_iter_no_change` epochs.
    learning_rate_init : float or schedule, default=0.001
        Of the solvers that are named, but "lbfgs".
    power_t : float, default=0.5
        For "invscaling".
    max_iter : int, default=200
        How many epochs to train, or steps of "lbfgs".
    shuffle : bool, default=True
        Whether each epoch has an order of its own.
    random_state : int, RandomState or None, default=None
        A whole number is the seed of `tinynn.fit`: the same start, batches and dropout everywhere.
    tol, n_iter_no_change : default=1e-4, 10
        Training ends when the loss (with `early_stopping` the validation score) has not become
        better by `tol` in more than so many epochs; `tol=None` trains for `max_iter` epochs.
    verbose : bool, default=False
        Whether to show a progress bar.
    warm_start : bool, default=False
        Whether `fit` goes on where the last call ended, with the optimizer's state.
    momentum, nesterovs_momentum : default=0.9, True
        Of "sgd".
    early_stopping : bool, default=False
        Whether to hold out `validation_fraction` (0.1) of the samples, the same of each class, to
        stop by their score, and to keep the best epoch.
    validation_fraction : float, default=0.1
        What `early_stopping` holds out.
    beta_1, beta_2, epsilon : default=0.9, 0.999, 1e-8
        Of "adam".
    max_fun : int, default=15000
        How often "lbfgs" may evaluate the loss.
    callbacks : list of callables, default=None
        Called after each epoch with the run: see `tinynn.training.callbacks`.
    engine : str, default="auto"
        How steps are carried out: see `tinynn.fit`.
    dtype : {"float32", "float64"}, default=None
        Of the parameters; None is that of X.

    Attributes
    ----------
    classes_ : array (n_classes,), or a list of them for several outputs
    model_ : the `tinynn.Model`, to save, evaluate or move
    loss_, loss_curve_, best_loss_ : of the training data, penalties included, by epoch
    validation_scores_, validation_loss_curve_, best_validation_score_ : with `early_stopping`
    coefs_, intercepts_ : weights and biases of the layers
    n_iter_, t_ : epochs of the last call of `fit`, and samples seen
    n_features_in_, feature_names_in_, n_outputs_

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from tinynn.sklearn import NetworkClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = NetworkClassifier((16,), learning_rate_init=0.05, tol=0.01, random_state=0)
    >>> print(make_pipeline(StandardScaler(), net).fit(X, y).score(X, y) > 0.95)
    True

    """

    _numeric = False

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        network: Any = None,
        output_activation: Any = None,
        loss: Any = None,
        class_weight: Any = None,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: Any = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float | None = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        callbacks: Any = None,
        engine: str = "auto",
        dtype: str | None = None,
    ) -> None:
        given = dict(locals())  # scikit-learn reads the names of parameters off the signature
        self.class_weight = class_weight
        super().__init__(
            **{k: v for k, v in given.items() if k not in ("self", "class_weight", "__class__")}
        )

    # Training.

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one epoch on X and y, and go on from there in the next call.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
        classes : array-like of shape (n_classes,), default=None
            All classes that y will ever hold; needed in the first call, but for labels that do not
            exclude each other.

        """
        if self.class_weight == "balanced":
            raise ValueError(
                f"{type(self).__name__}.partial_fit: expected class_weight as a dict, got "
                "'balanced', which is of all data. To fix it: compute it with "
                "sklearn.utils.compute_class_weight and give it as a dict"
            )
        self._partial_classes = classes
        try:
            return self._partial(X, y, sample_weight)
        finally:
            del self._partial_classes

    def _targets(self, home: Any, y: Any, first: bool) -> tuple[Any, int]:
        y, kind = labels.read(y)
        if first:
            self._learn_classes(home, y, kind)
        elif kind != self._kind and not (kind == MULTILABEL and self._kind == SEVERAL):
            raise ValueError(
                f"{type(self).__name__}: y: expected {self._kind} labels, as it was fitted with, "
                f"got {kind}"
            )
        else:
            self._check_named(home, y)
        classes, name = self.classes_, type(self).__name__
        if self._kind == MULTILABEL:
            self._check_columns(y, labels.count(classes))
            return arrays.on(home, y), labels.count(classes)
        if self._kind == SEVERAL:
            self._check_columns(y, labels.count(classes))
            columns = [labels.encoded(name, home, y[:, i], c) for i, c in enumerate(classes)]
            return home.xp.stack(columns, axis=1), sum(labels.count(each) for each in classes)
        places = labels.encoded(name, home, y, classes)
        if not first and "_partial_classes" not in vars(self):
            self._check_all_met(home, places)
        loss = self._loss(y)  # those of yes or no have a threshold
        one = labels.count(classes) <= 2 and (loss is None or getattr(loss, "threshold", None) == 0)
        return places, 1 if one else max(2, labels.count(classes))

    def _learn_classes(self, home: Any, y: Any, kind: str) -> None:
        """`classes_`, from y or from what the first partial_fit was told."""
        partial = "_partial_classes" in vars(self)
        named = self._partial_classes if partial else None
        if partial and named is None and kind != MULTILABEL:
            raise ValueError(
                f"{type(self).__name__}.partial_fit: classes must be passed on the first call to "
                "partial_fit: expected all classes that y will ever hold, got none. To fix it: "
                "give classes=, with every label once"
            )
        self._kind = kind
        self.classes_ = labels.classes_of(home, y, kind, named)
        self.n_outputs_ = labels.count(self.classes_) if kind != ONE else 1

    def _check_named(self, home: Any, y: Any) -> None:
        """Refuse a later partial_fit that names other classes than the first."""
        named = vars(self).get("_partial_classes")
        if named is None:
            return
        given, known = labels.classes_of(home, y, self._kind, named), self.classes_
        if labels.listed(given) != labels.listed(known):
            raise ValueError(
                f"{type(self).__name__}.partial_fit: classes: expected those of the first call, "
                f"{labels.listed(known)}, or none, got {labels.listed(given)}"
            )

    def _check_columns(self, y: Any, count: int) -> None:
        if y.ndim != 2 or y.shape[1] != count:
            raise ValueError(
                f"{type(self).__name__}: y: expected {count} columns of labels, as it was fitted "
                f"with, got shape {tuple(y.shape)}"
            )

    def _check_all_met(self, home: Any, places: Any) -> None:
        """Refuse to go on with other classes: those that are missing would be unlearned."""
        met = int(home.xp.unique_values(places).shape[0])
        if met != labels.count(self.classes_):
            raise ValueError(
                f"{type(self).__name__}: warm_start can only be used where `y` has the same "
                f"classes as in the previous call to fit: expected {labels.listed(self.classes_)}, "
                f"got {met} of them. To fix it: use partial_fit, or warm_start=False"
            )

    def _weights(self, home: Any, y: Any, given: Any, dtype: Any) -> Any:
        weights = super()._weights(home, y, given, dtype)
        if self.class_weight is None:
            return weights
        name = type(self).__name__
        if self._kind == ONE:
            factors = [labels.class_weights(name, self.class_weight, self.classes_, y, home)]
        else:
            count = int(y.shape[1])
            several = isinstance(self.class_weight, list)
            asked = self.class_weight if several else [self.class_weight] * count
            if len(asked) != count or (not several and isinstance(self.class_weight, dict)):
                raise ValueError(
                    f"{name}: class_weight: expected a list of {count} dicts, one for each column "
                    f"of y, 'balanced' or None, got {self.class_weight!r}"
                )
            binary = home.asarray([0, 1])
            known = self.classes_ if self._kind == SEVERAL else [binary] * count
            factors = [
                labels.class_weights(name, each, known[i], y[:, i], home)
                for i, each in enumerate(asked)
            ]
        for factor in factors:
            factor = home.xp.astype(factor, dtype, copy=False)
            weights = factor if weights is None else weights * factor
        return weights

    def _loss(self, y: Any) -> Any:
        given = None if self.loss == "log_loss" else chosen_loss(self.loss)
        if self._kind == SEVERAL:
            if given is not None:
                raise ValueError(
                    f"{type(self).__name__}: loss: expected None for several columns of classes, "
                    f"got {self.loss!r}. To fix it: leave it out, or use "
                    "sklearn.multioutput.MultiOutputClassifier"
                )
            return SeveralSoftmax(tuple(labels.count(each) for each in self.classes_))
        if self._kind == MULTILABEL and given is None:
            return BinaryCrossEntropy()
        return given

    def _metric(self) -> str | None:
        # A function does not say what outputs mean, and of several columns there is no one score.
        told = self._kind != SEVERAL and _is_told(self.loss)
        return "accuracy" if told else None

    def _check_outputs(self, shape: tuple[int, ...]) -> None:
        count = labels.count(self.classes_)
        if self._kind == SEVERAL:
            expected: list[tuple[int, ...]] = [(sum(labels.count(each) for each in self.classes_),)]
        else:
            expected = [(count,)]
            if self._kind == ONE and count <= 2:
                expected = [(2,), (1,), ()]
        if shape not in expected:
            wanted = " or ".join(map(str, expected[:2]))
            raise ValueError(
                f"{type(self).__name__}: network: expected outputs of shape {wanted} for each "
                f"sample, as there are {count} classes, got {shape}. To fix it: change the width "
                "of its last layer"
            )

    # Predicting.

    def predict(self, X: Any) -> Any:
        """The labels for X: (n_samples,), or (n_samples, n_outputs)."""
        outputs = self._outputs(X, "predict")
        xp = self.model_.backend.xp
        if self._kind == SEVERAL:
            parts = split(outputs, self.model_.loss.widths)
            columns = [
                labels.decoded(classes, xp.argmax(part, axis=-1))
                for classes, part in zip(self.classes_, parts, strict=True)
            ]
            return backends.of(columns[0]).xp.stack(columns, axis=1)
        places = self._places(outputs)
        if self._kind == MULTILABEL:
            return xp.astype(places, self.classes_.dtype)
        return labels.decoded(self.classes_, places)

    def _places(self, outputs: Any) -> Any:
        """The place of each sample's class; for columns of 0 and 1 these themselves."""
        xp = namespace(outputs)
        if self._kind == MULTILABEL:
            return xp.astype(outputs > 0, xp.int64)
        if not is_single(outputs):
            return xp.argmax(outputs, axis=-1)
        places = xp.astype(xp.reshape(outputs, (-1,)) > 0, xp.int32)
        return places * (labels.count(self.classes_) - 1)  # of one class there is no other

    def predict_set(self, X: Any, level: float = 0.9) -> Any:
        """The classes that may be the right one: (n_samples, n_classes) booleans, as `classes_`.

        Of new samples the share `level` has its class in its set, once the estimator is calibrated:
        `calibrate`.
        """
        X = self._inputs(X, "predict_set")
        return self.model_.predict_set(X, level)[:, : labels.count(self.classes_)]

    def _truth(self, home: Any, y: Any) -> Any:
        y, kind = labels.read(y)
        if kind != ONE or self._kind != ONE:
            raise ValueError(
                f"{type(self).__name__}.calibrate: y: expected one label a sample, got {kind}. To "
                "fix it: calibrate an estimator for each column of labels"
            )
        return labels.encoded(type(self).__name__, home, y, self.classes_)

    def decision_function(self, X: Any) -> Any:
        """The network's outputs: (n_samples, n_classes), or for two classes (n_samples,)."""
        outputs = self._outputs(X, "decision_function")
        if self._kind != ONE:
            return outputs
        if is_single(outputs):
            return self.model_.backend.xp.reshape(outputs, (-1,))
        return outputs[:, 1] - outputs[:, 0] if labels.count(self.classes_) == 2 else outputs

    @available_if(_knows_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        """The probability of each class: (n_samples, n_classes); a list for several columns."""
        return self._probabilities(self._outputs(X, "predict_proba"))

    def _probabilities(self, outputs: Any) -> Any:
        return self._of_classes(outputs, probabilities, 1.0)

    @available_if(_knows_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Any:
        """The logarithms of `predict_proba`, without rounding small ones to 0 first."""
        outputs = self._outputs(X, "predict_log_proba")
        return self._of_classes(outputs, log_probabilities, 0.0)

    def _of_classes(self, outputs: Any, measure: Callable[[Any, Any], Any], certain: float) -> Any:
        """A measure of each class by the outputs; `certain` is that of a class without others."""
        xp, loss = namespace(outputs), self.model_.loss
        if self._kind == SEVERAL:
            return [measure(loss, part) for part in split(outputs, loss.widths)]
        if self._kind == MULTILABEL or not is_single(outputs):
            return measure(loss, outputs)
        z = xp.reshape(outputs, (-1, 1))
        if labels.count(self.classes_) == 1:
            return xp.full_like(z, certain)
        return xp.concat([measure(loss, -z), measure(loss, z)], axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        return tags
