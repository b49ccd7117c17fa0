"""ModelStack: the networks that `fit_many` returns."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from math import inf
from typing import Any, overload

from backends import Backend
from tinynn import config, layers, losses, tree
from tinynn.data import host
from tinynn.metrics import KNOWN, MetricLike, name_of
from tinynn.training import files
from tinynn.training.doubt import summed_up
from tinynn.training.history import History
from tinynn.training.model import CALIBRATION, Model, check_finite, check_nesting
from tinynn.training.varied import numbers_of, of_network, with_numbers
from tinynn.uncertainty import Calibration, Moments
from tinynn.uncertainty.calibrated import Calibrated
from tinynn.uncertainty.predictions import Prediction, predicted, together


@dataclass(frozen=True, eq=False, repr=False)
class ModelStack(Calibrated, Sequence[Model]):
    """Networks of one architecture: a sequence of models, which predict together.

    Attributes
    ----------
    net
        The layers; a number that varies is one for each network.
    params, state
        As of a `Model`; arrays have an axis of the networks in front.
    history
        What training showed, by name: (networks, epochs) arrays of the host, NaN for epochs that a
        network was not trained in.
    epochs
        How many each network was trained.
    loss, metrics
        What `Model.evaluate` measures.
    columns
        Names of the features, if they came as a data frame.
    seeds
        Those that the networks started from.
    kept
        The number of the epoch that each network's parameters are of: its best one after early
        stopping, else its last.
    folds : (samples,) integers
        The number of the fold that holds each sample out, or None where there are no folds. The
        networks of one candidate, a fold each, stand beside each other.
    calibration
        The scores of the rows that `calibrate` was given, saved with the stack; None before.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> x = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> stack = tinynn.fit_many(Linear(1), x, 2 * x[:, 0] + 1, networks=3, epochs=5)
    >>> stack
    <ModelStack of 3, Linear(1), numpy:cpu>
    >>> stack.predict(x).shape, stack.ensemble(x).shape, stack[0].predict(x).shape
    ((3, 4, 1), (4, 1), (4, 1))
    """

    net: Any
    params: Any
    state: Any
    _: KW_ONLY
    history: dict[str, Any] = field(default_factory=dict)
    epochs: tuple[int, ...] = ()
    loss: Any = None
    metrics: tuple[MetricLike, ...] = ()
    columns: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    folds: Any = None
    calibration: Calibration | None = None

    def __len__(self) -> int:
        return int(tree.leaves(self.params)[0].shape[0])

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    @overload
    def __getitem__(self, index: int) -> Model: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Model]: ...
    def __getitem__(self, index: int | slice) -> Model | Sequence[Model]:
        return self.models[index]

    def __repr__(self) -> str:
        return f"<ModelStack of {len(self)}, {config.label(self.net)}, {self.backend!r}>"

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """Each network as a `Model`."""
        return tuple(map(self._model, range(len(self))))

    def _model(self, k: int) -> Model:
        numbers = of_network(numbers_of(net=self.net, loss=self.loss), k)
        params, state = tree.map(lambda a: a[k, ...], (self.params, self.state))
        return Model(
            with_numbers(self.net, "net", numbers), params, state, history=self._history(k),
            loss=with_numbers(self.loss, "loss", numbers), metrics=self.metrics,
            columns=self.columns,
        )  # fmt: skip

    def _history(self, k: int) -> History:
        """The history of network k."""
        if not self.history:
            return History()
        count = self.epochs[k]
        rows = {name: values[k, :count].tolist() for name, values in self.history.items()}
        return History({"epoch": list(range(1, count + 1)), **rows})

    @property
    def backend(self) -> Backend:
        """The backend of the parameters."""
        return self.models[0].backend

    def predict(
        self, X: Any, batch_size: int | None = None, *, interval: float | None = None
    ) -> Any:
        """The outputs of every network for X: (networks, samples, ...), as `Model.predict` gives.

        With interval=0.9 it is what they say together, (samples, ...), with the bounds of intervals
        that hold nine targets of ten, in an `Interval`, once the stack is calibrated: `calibrate`.

        Raises as `Model.predict`.
        """
        if interval is not None:
            self._of_numbers(interval)
            return self._interval_of(self._together(X, batch_size), interval)
        return self._stacked([model.predict(X, batch_size) for model in self.models])

    def predict_proba(self, X: Any, batch_size: int | None = None) -> Any:
        """The probabilities of every network for X: (networks, samples, classes).

        Raises TypeError for a loss that says nothing of probabilities.
        """
        return self._stacked([model.predict_proba(X, batch_size) for model in self.models])

    def ensemble(self, X: Any, batch_size: int | None = None) -> Any:
        """The answer of all networks together for X: (samples, ...).

        The mean of their probabilities where the loss is one of classes, else of their predictions.
        Networks that were never trained, since their loss was not finite from the start, count.
        """
        xp = self.backend.xp
        return tree.map(lambda a: xp.mean(a, axis=0), self._answers(X, batch_size))

    def _answers(self, X: Any, batch_size: int | None) -> Any:
        """The probabilities of every network where the loss knows them, else its predictions."""
        knows = isinstance(self.loss, losses.Loss) and (
            type(self.loss).probabilities is not losses.Loss.probabilities
        )
        return self.predict_proba(X, batch_size) if knows else self.predict(X, batch_size)

    def uncertainty(self, X: Any, batch_size: int | None = None) -> Moments:
        """What the networks say together, and how far they doubt it: a deep ensemble.

        The mean and the variance of their predictions, with those that they predict themselves
        under `GaussianNLL`; of classes the mean probabilities and the entropies. See
        `tinynn.uncertainty.moments` and `class_information`.
        """
        outputs = self._stacked([model.outputs(X, batch_size) for model in self.models])
        return summed_up(self.loss, outputs)

    def calibrate(self, X: Any, y: Any, method: str | None = None) -> None:
        """Keep how badly the networks answer together for rows that training did not see.

        From then on, and in the stack's file, `predict(X, interval=0.9)` and `predict_set(X, 0.9)`
        are of all networks together, as `Model.calibrate` has it. The networks of folds take the
        rows that they were trained on, each for those that it did not see, and no others are
        needed: CV+, see `tinynn.uncertainty.Calibration`.

        Parameters
        ----------
        X, y
            The rows and their targets. With folds all those that `fit_many` was given, in order.
        method
            As `Model.calibrate` has it. "scaled", by the deviation of the networks' mixture, is
            there for all losses of numbers, and what is taken where networks predict their own.

        Raises
        ------
        ValueError
            No rows; or with folds, networks of several candidates, or other rows than those of the
            training; and as `Model.calibrate`.
        TypeError
            As `Model.calibrate`.
        """
        answers = [model._answered("calibrate", X, y) for model in self.models]
        if self.folds is not None:
            self._check_folds(int(answers[0][1].shape[0]))
        pairs = zip(self.models, answers, strict=True)
        each = [predicted(model.loss, output) for model, (output, _) in pairs]
        found = each if self.folds is not None else [together(each)]
        self._calibrate(found, answers[0][1], method, folds=self.folds)

    def _check_folds(self, count: int) -> None:
        """ValueError unless folds are of one candidate, and of so many rows."""
        if len(self) != self.width:
            raise ValueError(
                f"calibrate: expected the networks of one candidate, got those of "
                f"{len(self) // self.width}. To fix it: call fit_many again, with the numbers of "
                "stack.ranking()[0] alone"
            )
        if count != self.folds.shape[0]:
            raise ValueError(
                f"calibrate: X, y: expected the {self.folds.shape[0]} samples of the training, of "
                f"which each network did not see some, got {count}. To fix it: give the X and y "
                "that fit_many was given"
            )

    def predict_set(self, X: Any, level: float = 0.9, batch_size: int | None = None) -> Any:
        """The classes that may be the right one: (samples, classes) booleans.

        As `Model.predict_set`, by all networks together.
        """
        self._of_classes(level)
        return self._sets_of(self._together(X, batch_size), level)

    def _together(self, X: Any, batch_size: int | None) -> list[Prediction]:
        """The prediction of the mixture; with a calibration by folds, that of each network."""
        each = [predicted(model.loss, model.outputs(X, batch_size)) for model in self.models]
        known = self.calibration
        return [together(each)] if known is None or known.folds is None else each

    _noun = "stack"

    def _stacked(self, outputs: list[Any]) -> Any:
        xp = self.backend.xp
        return tree.map(lambda *each: xp.stack(each), *outputs)

    # Which of them are good.

    @cached_property
    def width(self) -> int:
        """The number of networks a candidate: one, or as many as there are folds."""
        return 1 if self.folds is None else int(self.backend.xp.max(self.folds)) + 1

    @property
    def scores(self) -> dict[str, Any]:
        """What was measured of the kept parameters: host arrays (candidates, folds), by name.

        NaN for networks that were never trained. With folds each network's validation measures are
        of the samples that it did not see.
        """
        xp, found = host().xp, {}
        for name in self.history:
            each = host().asarray(self._at_kept(name))
            found[name] = xp.reshape(each, (-1, self.width, *each.shape[1:]))
        return found

    def _at_kept(self, name: str) -> list[Any]:
        """A measure of each network, in the epoch that its parameters are of."""
        rows = zip(self.history[name].tolist(), self.kept or self.epochs, strict=True)
        blank = self.history[name][0, 0, ...] * float("nan")
        return [row[epoch - 1] if epoch else blank.tolist() for row, epoch in rows]

    def ranking(self, monitor: str = "validation_loss", larger: bool = False) -> list[int]:
        """The numbers of the candidates, best first, by the mean over their folds.

        monitor: a name in the history; larger: True if higher is better. Candidates without a
        number come last. Raises ValueError for what was not measured.
        """
        if monitor not in self.history:
            raise ValueError(
                f"ranking: expected monitor to be one of {', '.join(self.history) or 'none'}, got "
                f"{monitor!r}. To fix it: give fit_many folds=5, or validation=0.2 or (X, y)"
            )
        rows = [sum(row) / len(row) for row in self.scores[monitor].tolist()]
        sign = -1.0 if larger else 1.0
        cost = [sign * value if value == value else inf for value in rows]
        return sorted(range(len(cost)), key=cost.__getitem__)

    @property
    def best(self) -> Model:
        """The model of the lowest validation loss.

        Raises ValueError if there is none, since there was no validation, and with folds, whose
        networks were measured on different samples.
        """
        if self.folds is not None:
            raise ValueError(
                "best: expected networks measured on the same samples, got those of folds. To fix "
                "it: fit again, on all samples, with the numbers of stack.ranking()[0]; or let "
                "all answer together, with stack.ensemble(X)"
            )
        if "validation_loss" not in self.history:
            raise ValueError(
                "best: expected a history with a validation loss, got "
                f"{', '.join(self.history) or 'none'}. To fix it: give fit_many validation=0.2 or "
                "(X, y), or choose by another measure of stack.history"
            )
        last = self._at_kept("validation_loss")
        known = [k for k, value in enumerate(last) if value == value]
        if not known:
            raise ValueError("best: expected a network with a validation loss, got NaN in all")
        return self.models[min(known, key=last.__getitem__)]

    def out_of_fold(self, X: Any, batch_size: int | None = None) -> Any:
        """The predictions for the training samples, each by the network that did not see it.

        X : the samples that `fit_many` was given, in their order. The result is (candidates,
        samples, ...), probabilities where the loss is one of classes. Raises ValueError for a stack
        without folds, or another number of samples.
        """
        if self.folds is None:
            raise ValueError(
                "out_of_fold: expected a stack of folds, got one without. To fix it: give fit_many "
                "folds=5"
            )
        each, xp = self._answers(X, batch_size), self.backend.xp
        count = int(self.folds.shape[0])
        if each.shape[1] != count:
            raise ValueError(
                f"out_of_fold: X: expected the {count} samples of the training, got "
                f"{each.shape[1]}. To fix it: give the X that fit_many was given; for other "
                "samples take ensemble(X)"
            )
        each = xp.reshape(each, (-1, self.width, *each.shape[1:]))
        found = each[:, 0, ...]
        for fold in range(1, self.width):
            mask = xp.reshape(self.folds == fold, (1, -1, *[1] * (each.ndim - 3)))
            found = xp.where(mask, each[:, fold, ...], found)
        return found

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what `Model.evaluate` measures."""
        return (*(("loss",) if self.loss is not None else ()), *map(name_of, self.metrics))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all networks to one file, whole or not at all; `tinynn.load` reads it.

        Raises as `Model.save`.
        """
        check_nesting(self.params)
        check_nesting(self.state)
        backend = self.backend
        description = {
            "network": layers.to_config(self.net),
            "loss": losses.to_config(self.loss),
            "metrics": config.to_config(list(self.metrics), KNOWN),
            "columns": list(self.columns),
            "state": [name for name, _ in tree.paths(self.state)],
            "history": list(self.history),
            "epochs": list(self.epochs),
            "seeds": list(self.seeds),
            "kept": list(self.kept),
            "calibration": self.calibration and self.calibration.to_config(),
        }
        named = [*tree.paths(self.params), *tree.paths(self.state)]
        with backend.scope():
            check_finite(backend, named, "save")
            arrays = [(name, backend.to_host(array)) for name, array in named]
            if self.folds is not None:
                arrays.append((FOLDS, backend.to_host(self.folds)))
            if self.calibration is not None:
                arrays.append((CALIBRATION, backend.to_host(self.calibration.scores)))
        shown = [(f"{HISTORY}{name}", values) for name, values in self.history.items()]
        files.write(path, files.pack([*arrays, *shown], description, "stack"))


#: Before the names of a file's arrays that hold the history; no parameter's begins with a dot.
HISTORY = ".history."
#: The name of a file's array that holds the folds.
FOLDS = ".folds"
