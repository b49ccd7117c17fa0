"""The common part of the estimators: parameters, training, predicting, pickling."""

from copy import copy
from dataclasses import replace
from functools import partial
from math import isfinite
from numbers import Integral
from typing import Any, Self

from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

import backends
from backends.user_code import warn
from tinynn import losses, optim, tree
from tinynn.data.hostdata import is_sparse
from tinynn.layers import run
from tinynn.sklearn import arrays, hooks, labels, parameters, stored
from tinynn.sklearn.intervals import CalibratedMixin
from tinynn.sklearn.networks import PenalizedStep, network, optimizer
from tinynn.sklearn.stopping import Convergence, Searched
from tinynn.training import (
    Model,
    Problem,
    Run,
    TrainingState,
    choose_optimizer,
    prepare,
    train,
)
from tinynn.training.model import check_finite
from tinynn.training.state import has_converged
from tinynn.uncertainty import Calibration

_BATCH = 200  # samples a step for batch_size="auto", as in scikit-learn


class NetworkEstimator(hooks.CallbackSupportMixin, CalibratedMixin, BaseEstimator):  # type: ignore[misc]
    """A network with scikit-learn's interface: the base of the classifier and the regressor."""

    n_outputs_: int
    _numeric = True  # whether targets are numbers

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        network: Any = None,
        output_activation: Any = None,
        loss: Any = None,
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.network = network
        self.output_activation = output_activation
        self.loss = loss
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.callbacks = callbacks
        self.engine = engine
        self.dtype = dtype

    # What a subclass says.

    def _targets(self, home: Any, y: Any, first: bool) -> tuple[Any, int]:
        """(y as the loss takes it, on `home`; how many outputs a network for it has)."""
        raise NotImplementedError

    def _weights(self, home: Any, y: Any, given: Any, dtype: Any) -> Any:
        """The weights of the samples, those of their classes included; None if all are alike."""
        count = int(y.shape[0])
        return arrays.sample_weights(type(self).__name__, home, given, count, dtype)

    def _loss(self, y: Any) -> Any:
        """The loss for targets as `_targets` gives them; None leaves it to the network's width."""
        raise NotImplementedError

    def _metric(self) -> str | None:
        """The metric of early stopping, by its name in tinynn.metrics; None for the loss."""
        raise NotImplementedError

    def _check_outputs(self, shape: tuple[int, ...]) -> None:
        """ValueError unless a network with outputs of this shape can answer for the targets."""

    # Training.

    @hooks.with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X and y.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
            How much each sample counts in the loss.

        """
        parameters.check(self)
        goes_on = bool(self.warm_start) and hasattr(self, "model_")
        with hooks.fitting(self, int(self.max_iter), X, y, sample_weight) as told:
            self._train(X, y, sample_weight, first=not goes_on, told=told)
        return self

    def _train(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        first: bool,
        partial: bool = False,
        told: Any = None,
    ) -> None:
        """Epochs on X and y, the first ones or more of a run; `partial`: a single one.

        `told` makes the callback that tells scikit-learn's of the epochs, if there are some.
        """
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=self._numeric,
            reset=first,
        )
        home = arrays.home_of(X)
        # A run goes on in the dtype that it began in.
        X = arrays.floating(home, X, self.dtype if first else _dtype_of(self.model_))
        with home.scope():
            y, outputs = self._targets(home, y, first)
            dtype = home.dtypes()[home.dtype_name(X.dtype)]
            weights = self._weights(home, y, sample_weight, dtype)
            if first:
                self._seed = _seed(self.random_state)
            problem = self._problem(home, X, y, weights, outputs, first)
            state = self._start(problem, first)
            self._carry_out(problem, state, partial, told)

    def _problem(
        self, home: Any, X: Any, y: Any, weights: Any, outputs: int, first: bool
    ) -> Problem:
        """The problem to train; of a run that goes on, from its parameters."""
        loss = self._loss(y)
        net = network(type(self).__name__, self, outputs, loss)
        size: int | None = None if self.batch_size is None else _BATCH
        if isinstance(self.batch_size, Integral):
            size = int(self.batch_size)
        if self.solver == "lbfgs":
            size = None
        self._check_outputs(_output_shape(net, X, self._seed))
        measured = self._metric() if self.early_stopping else None
        given = {} if first else {"params": self.model_.params, "state": self.model_.state}
        prepared = partial(
            prepare,
            net,
            X,
            y,
            loss=loss,
            validation=float(self.validation_fraction) if self.early_stopping else None,
            seed=self._seed,
            metrics=() if measured is None else (measured,),
            sample_weight=weights,
            shuffle=bool(self.shuffle),
            **given,
        )
        problem = prepared(optimizer="sgd", batch_size=size)  # until an epoch's steps are known
        if self.solver != "auto":
            self.__dict__.pop("solver_", None)
        elif first or not hasattr(self, "solver_"):
            self.solver_ = choose_optimizer(problem, self.batch_size).optimizer
        asked = self.solver_ if self.solver == "auto" else self.solver
        asked = optim.get(asked) if isinstance(asked, str) else asked
        if getattr(asked, "whole_batch", False):
            whole = size if isinstance(self.batch_size, Integral) else None
            problem = prepared(optimizer=asked, batch_size=whole)
        step = problem.step
        assert problem.batches.steps is not None  # arrays have a length
        chosen = optimizer(self, problem.batches.steps)
        if self.alpha:
            alpha, by_row = float(self.alpha), step.by_row
            step = PenalizedStep(step.net, step.loss, chosen, alpha=alpha, by_row=by_row)
        else:
            step = replace(step, optimizer=chosen)
        start = problem.start._replace(optimizer_state=chosen.init(problem.start.params))
        return replace(problem, step=step, start=start)

    def _start(self, problem: Problem, first: bool) -> TrainingState:
        """The state to start from; of a run that goes on, with its epochs and its optimizer."""
        state = TrainingState(problem.start)
        if first:
            self.n_iter_, self.t_ = 0, 0
            return state
        kept, new = self._optimizer_state, problem.start.optimizer_state
        # Of another optimizer nothing can be gone on from, nor of one at its end: the data may be
        # others now.
        if _kinds(kept) == _kinds(new) and not has_converged(kept, problem.backend):
            state.carry = state.carry._replace(optimizer_state=kept)
        state.epoch = self._epochs
        measures = ("epoch", *problem.measures)
        history = self.model_.history
        state.history.extend({name: list(history.get(name, ())) for name in measures})
        return state

    def _carry_out(self, problem: Problem, state: TrainingState, partial: bool, told: Any) -> None:
        """Train, and keep what came of it."""
        epochs = 1 if partial else int(self.max_iter)
        before, stopping = state.epoch, None if partial else self._stopping()
        callbacks = [*_several(self.callbacks), *([] if stopping is None else [stopping])]
        if told is not None:
            callbacks.append(told(lambda run: self._fitted(run, problem, run.epoch - before)))
        trained = train(
            problem,
            before + epochs,
            state=state,
            engine=_engine(self.engine, problem.step.optimizer),
            callbacks=callbacks,
            progress=bool(self.verbose),
        )
        self._keep(trained, problem, trained.epoch - before)
        unfinished = stopping is not None and not stopping.converged and self.n_iter_ == epochs
        if unfinished and self.tol is not None:
            warn(
                f"{type(self).__name__}: max_iter={epochs} epochs are done, and the loss has not "
                "converged yet. To fix it: raise max_iter or tol, or give tol=None to train for "
                "so many epochs whatever the loss does",
                ConvergenceWarning,
            )

    def _stopping(self) -> Any:
        """The callback that ends training; None to do all epochs."""
        if self.solver == "lbfgs":
            return Searched(int(self.max_fun))
        if self.tol is None and not self.early_stopping:
            return None
        metric = self._metric()
        score = "validation_loss" if metric is None else f"validation_{metric}"
        adaptive = self.learning_rate == "adaptive" and isinstance(self.solver, str)
        return Convergence(
            score if self.early_stopping else "loss",
            larger=bool(self.early_stopping) and metric is not None,
            tol=self.tol or 0.0,
            patience=float(self.n_iter_no_change),
            restore_best=bool(self.early_stopping),
            adaptive=float(self.learning_rate_init) if adaptive else None,
        )

    def _keep(self, run: Run, problem: Problem, epochs: int) -> None:
        """Keep what a fitted estimator has, if it is sound."""
        name = type(self).__name__
        if not isfinite(run.history.last["loss"]):
            raise ValueError(
                f"{name}: the loss is no longer finite. To fix it: scale X (StandardScaler), or "
                "lower learning_rate_init"
            )
        check_finite(problem.backend, tree.paths(run.params), name)
        self.__dict__.update(self._fitted(run, problem, epochs))

    def _fitted(self, run: Run, problem: Problem, epochs: int) -> dict[str, Any]:
        """The attributes of an estimator whose training ends here, after so many epochs."""
        carry, history = run.state.carry, run.history
        curves = {name: list(history.get(name, ())) for name in run.measures}
        losses, validation, scores = curves["loss"], None, None
        if self.early_stopping:
            validation = curves["validation_loss"]
            metric = self._metric()
            scores = None if metric is None else curves[f"validation_{metric}"]
        model = Model(
            problem.step.net, carry.params, carry.state, history=history, loss=problem.step.loss,
            metrics=problem.metrics,
        )  # fmt: skip
        return {
            "model_": model,
            "_optimizer_state": carry.optimizer_state,
            "_epochs": run.epoch,
            "n_iter_": epochs,
            "t_": self.t_ + epochs * problem.batches.dataset.size,
            "loss_curve_": losses,
            "loss_": losses[-1] if losses else None,
            "best_loss_": min(losses, default=None),
            "validation_loss_curve_": validation,
            "validation_scores_": scores,
            "best_validation_score_": max(scores) if scores else None,
        }

    def _partial(self, X: Any, y: Any, sample_weight: Any) -> Self:
        """One epoch more on X and y, or the first."""
        parameters.check(self)
        name = type(self).__name__
        if self.early_stopping or self.solver in ("lbfgs", "auto"):
            setting = "early_stopping=True" if self.early_stopping else f"solver={self.solver!r}"
            raise ValueError(
                f"{name}.partial_fit: expected an estimator that can learn from a part of the "
                f"data, got {setting}, which needs all of them. To fix it: use fit"
            )
        self._train(X, y, sample_weight, first=not hasattr(self, "model_"), partial=True)
        return self

    # Predicting.

    def _outputs(self, X: Any, method: str) -> Any:
        """The network's outputs for X, on the model's backend."""
        X = self._inputs(X, method)  # which says it where there is no model yet
        return self.model_.outputs(X)

    def _inputs(self, X: Any, method: str) -> Any:
        """X as the network takes it."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        home, model = arrays.home_of(X), self.model_
        if home != model.backend:
            name = type(self).__name__
            raise ValueError(
                f"Inputs passed to {name}.{method}() must use the same namespace and the same "
                f"device as those passed to fit(): expected X on {model.backend!r}, got it on "
                f"{home!r}. To fix it: move X, or the estimator with {name}.to({home!r})"
            )
        return arrays.floating(home, X, self.dtype)

    # What a fitted estimator has beside its attributes.

    @property
    def coefs_(self) -> list[Any]:
        """The weights of the layers that have some, in order, each (inputs, outputs)."""
        return [weight for name, weight in self._named() if name == "weight" and weight.ndim == 2]

    @property
    def intercepts_(self) -> list[Any]:
        """The biases of the layers that have some, in order."""
        return [bias for name, bias in self._named() if name == "bias"]

    def _named(self) -> list[tuple[str, Any]]:
        if "model_" not in vars(self):
            raise AttributeError(f"{type(self).__name__}: expected a fitted estimator")
        return [(path.rpartition(".")[2], leaf) for path, leaf in tree.paths(self.model_.params)]

    def to(self, backend: Any) -> Self:
        """A copy of the fitted estimator on another backend, such as "numpy" or "torch:cuda"."""
        check_is_fitted(self)
        home = backends.get(backend)
        moved = copy(self)
        moved.model_ = self.model_.to(home)
        moved._optimizer_state = tree.map(
            lambda leaf: arrays.on(home, leaf) if backends.is_array(leaf) else leaf,
            self._optimizer_state,
        )
        if (classes := vars(self).get("classes_")) is not None:
            moved.classes_ = labels.moved(home, classes)
        return moved

    def __copy__(self) -> Self:
        """The same arrays in another estimator, without the detour of a pickle."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(vars(self))
        return twin

    def __sklearn_is_fitted__(self) -> bool:
        return "model_" in vars(self)  # classes are known before training has ended

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        model = state.pop("model_", None)
        if model is not None:
            classes = state.pop("classes_", None)  # not all libraries' arrays can be pickled
            known = model.calibration
            scores = None if known is None else known.scores
            carry = (model.params, model.state, state.pop("_optimizer_state"), classes, scores)
            state["_stored"] = {
                **stored.packed(carry),
                "net": model.net,
                "loss": model.loss,
                "metrics": model.metrics,
                "history": model.history,
                "calibration": known and known.to_config(),
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        kept = state.pop("_stored", None)
        super().__setstate__(state)
        if kept is not None:
            params, layers, self._optimizer_state, classes, scores = stored.unpacked(kept)
            if classes is not None:
                self.classes_ = classes
            known = kept["calibration"]
            self.model_ = Model(
                kept["net"], params, layers, history=kept["history"], loss=kept["loss"],
                metrics=kept["metrics"], calibration=known and Calibration(scores=scores, **known),
            )  # fmt: skip

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags


def chosen_loss(given: Any) -> Any:
    """A loss by its name, or as it is."""
    return losses.get(given) if isinstance(given, str) else given


def _engine(asked: str, optimizer: Any) -> str:
    """The engine asked for; a line search decides on the host, so that nothing can be recorded."""
    searches = "value_and_grad" in getattr(optimizer, "needs", ())
    return "eager" if asked == "auto" and searches else asked


def _dtype_of(model: Model) -> str | None:
    """The name of the parameters' dtype; None for a network without parameters."""
    leaves = tree.leaves(model.params)
    return model.backend.dtype_name(leaves[0].dtype) if leaves else None


def _several(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return [callbacks] if callable(callbacks) else list(callbacks)


def _seed(random_state: Any) -> int:
    """A whole number is the seed itself; anything else draws one."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _output_shape(net: Any, X: Any, seed: int) -> tuple[int, ...]:
    """The shape of a network's output for one sample."""
    first = X[:1].toarray() if is_sparse(X) else X[:1, :]
    output = run(net, *net.init(seed, first), first).output
    return tuple(map(int, output.shape[1:]))


def _kinds(state: Any) -> list[Any]:
    """The names, shapes and dtypes of a tree of arrays."""
    return [
        (path, tuple(getattr(leaf, "shape", ())), str(getattr(leaf, "dtype", type(leaf))))
        for path, leaf in tree.paths(state)
    ]
