"""Model: a network with its parameters, as `fit` returns it and `load` reads it."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import backends
from backends import Backend
from tinynn import layers, losses, settings, tree
from tinynn.training import files
from tinynn.training.answers import Answers
from tinynn.training.data import Intake, Samples, align, host
from tinynn.training.history import History
from tinynn.training.metrics import KNOWN, Metric, name_of

ROWS_AT_ONCE = 8192  # of raw data that pass through the network


class Preparation(Protocol):
    """What makes a network's inputs of raw data, and answers of its outputs.

    `tinynn.tabular.TablePreparation` is one. Arrays are the host's.
    """

    def transform(self, data: Any) -> Any:
        """The network's inputs: (rows, ...)."""

    def targets(self, column: Any) -> Any:
        """What the network is to give: (rows,)."""

    def decode(self, prediction: Any) -> Any:
        """Labels or units of the network's outputs: (rows,)."""

    def probabilities(self, prediction: Any) -> Any:
        """Probabilities of the network's outputs: (rows, classes)."""

    def to_config(self) -> dict[str, Any]:
        """What JSON can hold, for the model's file."""


@dataclass(eq=False, repr=False)  # of arrays neither == nor the repr says much
class Model:
    """A trained network.

    Attributes
    ----------
    net : the layers' settings
    params : nested dicts of arrays, all on one backend
    history : what training showed, epoch by epoch
    loss, metrics : what `evaluate` measures
    columns : names of the features, if they came as a data frame
    extra : anything that JSON can hold; saved with the model for whoever put it there
    preparation : what makes the network's inputs of raw data, as `tinynn.tabular` fits it, and is
        saved with the model; None where X is what the network takes

    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> model = Model(Linear(1), {"weight": np.ones((2, 1)), "bias": np.zeros(1)})
    >>> model.predict([[1.0, 2.0]])
    array([[3.]])
    >>> model
    <Model Linear(1), 3 parameters, numpy:cpu>

    """

    net: Any
    params: Any
    history: History = field(default_factory=History)
    loss: Any = None
    metrics: Sequence[Metric] = ()
    columns: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    preparation: Preparation | None = None
    _answers: Answers = field(default_factory=Answers, init=False)

    def __repr__(self) -> str:
        arrays = tree.leaves(self.params)
        shown = [
            settings.label(self.net),
            f"{sum(prod(a.shape) for a in arrays):,} parameters",
        ]
        shown += [repr(backends.of(arrays[0]))] if arrays else []
        shown += [f"{name} {number:.4g}" for name, number in self.history.last.items()]
        return f"<Model {', '.join(shown)}>"

    @property
    def backend(self) -> Backend:
        """Where the parameters are; the host's library for a network that has none."""
        arrays = tree.leaves(self.params)
        return backends.of(*arrays) if arrays else host()

    def predict(self, X: Any, batch_size: int | None = None) -> Any:
        """`outputs` for X; if there is a preparation, labels or units for raw data, on the host."""
        if self.preparation is None:
            return self.outputs(X, batch_size)
        return self.preparation.decode(self._prepared_outputs(X, batch_size))

    def predict_proba(self, X: Any, batch_size: int | None = None) -> Any:
        """The probability of each class for raw data: a host array, (rows, classes).

        Raises
        ------
        ValueError : the model has no preparation, so nothing knows its classes; or as `predict`

        """
        if self.preparation is None:
            raise ValueError(
                "predict_proba: expected a model with a preparation, as tinynn.tabular.fit_table "
                "makes it, got one without. To fix it: take the softmax of predict's logits."
            )
        return self.preparation.probabilities(self._prepared_outputs(X, batch_size))

    def _prepared(self, X: Any) -> Any:
        """What the network takes, on the model's backend; X itself if there is no preparation."""
        if self.preparation is None:
            return X
        return self.backend.asarray(self.preparation.transform(X))

    def _prepared_outputs(self, X: Any, batch_size: int | None) -> Any:
        outputs = self.outputs(self._prepared(X), batch_size or ROWS_AT_ONCE)
        return self.backend.to_host(outputs)

    def outputs(self, X: Any, batch_size: int | None = None) -> Any:
        """The network's output for X: (samples, ...), on the model's backend.

        Parameters
        ----------
        X : (samples, features, ...); an array of the model's backend, lists, or a data frame. It
            is cast to the dtype of the parameters.
        batch_size : how many samples to pass at once; None for all

        Raises
        ------
        MixedArrays : X is on another backend; `model.to(backend)` moves the model
        ValueError : X is empty, or holds text or NaN
        ShapeError : the width of X does not fit the network

        """
        kind = (type(X), getattr(X, "shape", None), getattr(X, "dtype", None))
        if batch_size is None:
            y = self._answers.answer(X, kind, self.net, self.params)
            if y is not None:
                return y
        intake = self._intake("predict", X)
        with intake.home.scope():
            x = self._features(intake, X)
            y = forward(self.net, self.params, x, batch_size)
            if x is X and batch_size is None and intake.home.dialect is not None:
                self._answers.remember(y, X, kind, self.net, self.params)
            return y

    def evaluate(
        self, X: Any, y: Any, *, weights: Any = None, batch_size: int | None = None
    ) -> dict[str, float]:
        """The loss and the metrics on these samples, as Python numbers.

        Raises as `predict`, and ValueError where y does not fit X or the loss.
        """
        X = self._prepared(X)
        if self.preparation is not None:
            y = self.backend.asarray(self.preparation.targets(y))
        intake = self._intake("evaluate", X)
        with intake.home.scope():
            x = self._features(intake, X)
            samples = Samples(x, intake.targets(y, x), intake.weights(weights, x))
            intake.check_finite({"y": samples.y})
            prediction = forward(self.net, self.params, x, batch_size)
            samples = align(intake.home, samples, prediction)
            check_targets(self.loss, prediction, samples.y)
            measured = measure(self.loss, self.metrics, prediction, samples)
            return dict(zip(self.measures, numbers(intake.home, measured), strict=True))

    @property
    def measures(self) -> tuple[str, ...]:
        """What `evaluate` measures, by name."""
        return (*(("loss",) if self.loss is not None else ()), *map(name_of, self.metrics))

    def explain(self, X: Any, y: Any, **settings: Any) -> Any:
        """A training step of this network on a batch, as a program: `tinynn.explain`."""
        from tinynn.training.explain import explain  # it stands above models

        settings = {"loss": self.loss, "columns": self.columns, **settings}
        if self.preparation is not None:
            X, y = self._prepared(X), self.backend.asarray(self.preparation.targets(y))
        return explain(self.net, X, y, params=self.params, **settings)

    def to(self, backend: str | Backend) -> "Model":
        """The same model on another backend. The parameters pass through the host once.

        Raises
        ------
        BackendUnavailable : no such library or device here
        TypeError : a parameter has a dtype that the device lacks, float64 for one

        """
        source, target = self.backend, backends.get(backend)
        moved = [
            _placed(f"to: parameter {name!r}", target, host_array, host_array.dtype.name)
            for name, array in tree.paths(self.params)
            for host_array in [source.to_host(array)]
        ]
        return replace(self, params=tree.flatten(self.params)[1].unflatten(moved))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, whole or not at all: see `tinynn.training.files`.

        Everything is checked before anything is written; a good file that is there stays as it
        was until a good new one takes its place.

        Raises
        ------
        ValueError : a parameter is NaN or infinite, or a layer cannot be described (a lambda)
        TypeError : `extra` holds what JSON cannot, or a parameter has a dtype the file cannot hold
        OSError : the folder is missing, full or may not be written

        """
        _check_nesting(self.params)
        backend = self.backend
        description = {
            "network": layers.describe(self.net),
            "loss": losses.describe(self.loss),
            "metrics": settings.describe(list(self.metrics), KNOWN),
            "history": self.history,
            "columns": list(self.columns),
            "extra": self.extra,
            "preparation": self.preparation and self.preparation.to_config(),
        }
        named = tree.paths(self.params)
        with backend.scope():
            _check_finite(backend, named)
            blob = files.pack([(n, backend.to_host(array)) for n, array in named], description)
        files.write(path, blob)

    def _intake(self, where: str, X: Any) -> Intake:
        """The way in for X: to the parameters' backend, or X's own if there are none."""
        if not tree.leaves(self.params):
            return Intake.of(where, X, None)
        return Intake(
            where, self.backend, hint="Bring X there, or the model to X: model.to(backend)."
        )

    def _features(self, intake: Intake, X: Any) -> Any:
        xp = intake.home.xp
        floats = (a.dtype for a in tree.leaves(self.params) if xp.isdtype(a.dtype, "real floating"))
        x = intake.features(X, dtype=next(floats, None), columns=self.columns)
        intake.check_finite({"X": x}, self.columns)
        return x


def load(
    path: str | os.PathLike[str],
    backend: str | Backend | None = None,
    custom: Mapping[str, Any] | None = None,
    preparation: Callable[[Mapping[str, Any]], Preparation] | None = None,
) -> Model:
    """Read a model that `Model.save` wrote, onto any backend (None: the host's own library).

    `custom` gives the layers, functions, losses and metrics that are the user's own, by name.
    Nothing is ever imported by a name from a file. `preparation` makes the model's preparation of
    what the file says of it; `tinynn.load` gives that of `tinynn.tabular`.

    Raises
    ------
    ModelFileError : the file is cut short, was edited, or is no model file
    ValueError : something of the user's own is missing from `custom`
    BackendUnavailable : no such library or device here
    TypeError : the file holds a dtype that the device lacks, float64 for one
    OSError : there is no such file, or it may not be read

    """
    home = host() if backend is None else backends.get(backend)
    tensors, description = files.read(path)
    own = dict(custom or {})
    try:
        net = layers.build(description["network"], own)
        loss = losses.build(description["loss"], own)
        metrics = settings.build(description["metrics"], {**KNOWN, **own})
        prepared = _preparation(description.get("preparation"), preparation)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    params: dict[str, Any] = {}
    with home.scope():
        for name, tensor in tensors.items():
            *folders, last = name.split(".")
            place = params
            for folder in folders:
                place = place.setdefault(folder, {})
            values: Any = tensor.values
            if values is None:  # no elements: nothing for a buffer to hold
                values = home.to_host(home.xp.zeros(tensor.shape, device=home.device))
            place[last] = _placed(f"{path}: parameter {name!r}", home, values, tensor.dtype)
    return Model(
        net,
        params,
        History(description["history"]),
        loss,
        metrics,
        tuple(description["columns"]),
        description["extra"],
        prepared,
    )


def _preparation(config: Any, build: Callable[[Any], Preparation] | None) -> Preparation | None:
    """The preparation that a file describes, if it has one."""
    if config is None:
        return None
    if build is None:
        raise ValueError("the model carries a preparation. To fix it: read it with tinynn.load.")
    return build(config)


def forward(net: Any, params: Any, x: Any, batch_size: int | None = None) -> Any:
    """The network's output for x, in pieces of at most `batch_size` samples."""
    count = x.shape[0]
    if batch_size is None or batch_size >= count:
        return net(params, x)
    if batch_size < 1:
        raise ValueError(f"predict: expected batch_size of 1 or more, or None, got {batch_size}")
    pieces = [
        net(params, x[start : min(start + batch_size, count), ...])
        for start in range(0, count, batch_size)
    ]
    return backends.of(x).xp.concat(pieces, axis=0)


def cost(loss: Any, prediction: Any, samples: Samples) -> Any:
    """The loss of a prediction: a 0-d array. A plain function is not asked to weigh samples."""
    if samples.weights is None:
        return loss(prediction, samples.y)
    return loss(prediction, samples.y, samples.weights)


def measure(loss: Any, metrics: Sequence[Metric], prediction: Any, samples: Samples) -> list[Any]:
    """The loss, if there is one, and the metrics: 0-d arrays on the device."""
    losses_ = [] if loss is None else [cost(loss, prediction, samples)]
    return [*losses_, *(metric(prediction, samples.y) for metric in metrics)]


def numbers(home: Backend, scalars: Sequence[Any]) -> list[float]:
    """0-d arrays as Python numbers, all in one reading."""
    if not scalars:
        return []
    xp = home.xp
    row: list[float] = home.to_host(
        xp.stack([xp.astype(scalar, scalars[0].dtype, copy=False) for scalar in scalars])
    ).tolist()
    return row


def check_targets(loss: Any, prediction: Any, y: Any) -> None:
    """Have the loss refuse targets that do not fit, if it knows how to."""
    check = getattr(loss, "check", None)
    if check is not None:
        check(prediction, y)


def _placed(at: str, home: Backend, values: Any, dtype: str) -> Any:
    """Host values on a device, in the dtype of that name; an error where it does not exist."""
    if dtype not in home.dtypes():
        raise TypeError(
            f"{at}: expected a dtype that {home!r} has, got {dtype}. "
            f"Take a backend that has {dtype}, or train the model in another dtype."
        )
    return home.asarray(values, dtype)


def _check_finite(backend: Backend, named: list[tuple[str, Any]]) -> None:
    """Refuse parameters that hold NaN or infinities; one array of booleans is read."""
    xp = backend.xp
    floats = [(name, a) for name, a in named if xp.isdtype(a.dtype, "real floating")]
    if not floats:
        return
    flags = backend.to_host(xp.stack([xp.all(xp.isfinite(a)) for _, a in floats])).tolist()
    for (name, _), sound in zip(floats, flags, strict=True):
        if not sound:
            raise ValueError(
                f"save: parameter {name!r}: expected finite numbers, got NaN or infinity: training "
                "diverged. Lower the learning rate or clip the gradients, and train again."
            )


def _check_nesting(params: Any, path: str = "") -> None:
    """Names in a file are paths: only nested dicts whose keys hold no dots come back the same."""
    if not isinstance(params, dict):
        raise TypeError(
            f"save: parameters at {path or 'the top'!r}: expected nested dicts of arrays, "
            f"got {type(params).__name__}"
        )
    for key, value in params.items():
        if not isinstance(key, str) or "." in key or not key:
            raise TypeError(
                f"save: parameters at {path or 'the top'!r}: expected names without dots, "
                f"got {key!r}"
            )
        if not backends.is_array(value):
            _check_nesting(value, f"{path}.{key}" if path else key)
