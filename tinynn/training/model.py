"""Model: a network with its parameters, as `fit` returns it and `load` reads it."""

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from math import prod
from typing import Any, Protocol

import backends
from backends import Backend
from tinynn import config, layers, losses, tree
from tinynn.data import BlockDataset, DataAdapter, Samples, host
from tinynn.data.streams import Stream, dataset_of, source_of
from tinynn.layers import run
from tinynn.metrics import KNOWN, MetricLike, name_of
from tinynn.training import files
from tinynn.training.doubt import Doubt
from tinynn.training.evaluation import check_targets, evaluate, matched, numbers
from tinynn.training.history import History, single
from tinynn.training.inference import Inference
from tinynn.training.predictor import Predictor, outputs
from tinynn.training.summary import Summary, summarize
from tinynn.uncertainty import Calibration


class Preparation(Protocol):
    """The interface of what makes inputs of raw data, and answers of a network's outputs.

    `tinynn.tabular.TablePreparation` is one. Arrays are the host's.
    """

    def transform(self, data: Any) -> Any:
        """The network's inputs: (rows, ...)."""

    def targets(self, column: Any) -> Any:
        """The network's targets: (rows,)."""

    def decode(self, prediction: Any) -> Any:
        """Labels or units of the network's outputs: (rows,)."""

    def probabilities(self, prediction: Any) -> Any:
        """Probabilities of the network's outputs: (rows, classes)."""

    def to_config(self) -> dict[str, Any]:
        """A description that JSON can hold, for the model's file."""


@dataclass(eq=False, repr=False)  # of arrays neither == nor the repr says much
class Model(Doubt):
    """A trained network.

    Attributes
    ----------
    net
        The layers.
    params
        Nested dicts of arrays, all on one backend.
    state
        Likewise, what layers keep beside them, such as running statistics.
    history
        What training showed, epoch by epoch.
    loss, metrics
        What `evaluate` measures.
    columns
        Names of the features, if they came as a data frame.
    extra
        Anything that JSON can hold; saved with the model for whoever put it there.
    preparation
        What makes the network's inputs of raw data, as `tinynn.tabular` fits it, and is saved with
        the model; None where X is what the network takes.
    optimizer
        What it was trained with; None where that is not known, as after `load`.
    calibration
        The scores of the rows that `calibrate` was given, saved with the model; None before.

    Examples
    --------
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
    state: Any = field(default_factory=dict)
    _: KW_ONLY
    history: History = field(default_factory=History)
    loss: Any = None
    metrics: Sequence[MetricLike] = ()
    columns: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    preparation: Preparation | None = None
    optimizer: Any = None
    calibration: Calibration | None = None
    _inference: Inference | None = field(default=None, init=False)
    _scored: tuple[Any, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.calibration is not None:
            self._remember()

    def __repr__(self) -> str:
        arrays = tree.leaves(self.params)
        shown = [
            config.label(self.net),
            f"{sum(prod(a.shape) for a in arrays):,} parameters",
        ]
        shown += [repr(backends.of(arrays[0]))] if arrays else []
        shown += [f"{name} {number:.4g}" for name, number in single(self.history.last).items()]
        return f"<Model {', '.join(shown)}>"

    @property
    def backend(self) -> Backend:
        """The backend of the parameters; the host's library for a network that has none."""
        arrays = tree.leaves(self.params)
        return backends.of(*arrays) if arrays else host()

    def predict(
        self, X: Any, batch_size: int | None = None, *, interval: float | None = None
    ) -> Any:
        """The predictions for X: (samples, ...), on the model's backend.

        They are `outputs`, or what the loss says these stand for: the expected counts under
        `Poisson`, the means under `GaussianNLL`. If there is a preparation, they are labels or
        units for raw data, on the host. With interval=0.9 they come with the bounds of intervals
        that hold nine targets of ten, in an `Interval`, once the model is calibrated: `calibrate`.
        """
        if interval is not None:
            return self._interval(X, interval, batch_size)
        if self.preparation is None:
            found, loss = self.outputs(X, batch_size), self.loss
            if loss is None or not isinstance(loss, losses.Loss):
                return found
            return loss.estimate(found)
        return self.preparation.decode(self._prepared_outputs(X, batch_size))

    def predict_proba(self, X: Any, batch_size: int | None = None) -> Any:
        """The probability of each class: (samples, classes), or as the loss says.

        If there is a preparation, a host array for raw data.

        Raises
        ------
        TypeError
            The loss is one of numbers, or a function that says nothing of probabilities.
        ValueError, MixedArrays
            As `predict`.
        """
        if self.preparation is None:
            if not isinstance(self.loss, losses.Loss):
                raise TypeError(
                    "predict_proba: expected a model whose loss knows probabilities, such as "
                    f"SoftmaxCrossEntropy(), got {config.label(self.loss)}. To fix it: compute "
                    "them from predict"
                )
            return self.loss.probabilities(self.outputs(X, batch_size))
        return self.preparation.probabilities(self._prepared_outputs(X, batch_size))

    def prepared(self, X: Any, y: Any = None) -> tuple[Any, Any]:
        """The network's inputs and targets, on the model's backend, for raw X and y.

        X and y themselves if there is no preparation; a y of None stays None.
        """
        if self.preparation is None:
            return X, y
        targets = None if y is None else self.backend.asarray(self.preparation.targets(y))
        return self.backend.asarray(self.preparation.transform(X)), targets

    def _prepared_outputs(self, X: Any, batch_size: int | None) -> Any:
        return self.backend.to_host(self.outputs(self.prepared(X)[0], batch_size))

    def outputs(self, X: Any, batch_size: int | None = None) -> Any:
        """The network's output for X: (samples, ...), on the model's backend.

        A batch passes in parts, so that the widest value of a pass takes about two megabytes; where
        the output of a row depends on others of its batch, it passes whole. The output of a row
        alone and in a batch, or in batches of two sizes, is equal to rounding: the products of a
        library may differ with the size. The same X gives the same bits.

        Parameters
        ----------
        X
            (samples, features, ...); an array of the model's backend, lists, a data frame, a sparse
            matrix, or a tree of such. It is cast to the dtype of the parameters.
        batch_size
            How many samples to pass at once, at most; None for as many as are best.

        Raises
        ------
        MixedArrays
            X is on another backend; `model.to(backend)` moves the model.
        ValueError
            X is empty, or holds text or NaN; or a batch_size would split a batch whose rows meet in
            the network.
        ShapeError
            The width of X does not fit the network.
        """
        now = self._inference
        if now is None or not now.is_of(self.net, self.params, self.state):
            now = self._inference = self._renewed(now)
        found = now.ready(X) if batch_size is None else None
        return outputs(self, now, X, batch_size) if found is None else found

    def compile(self, X: Any) -> Predictor:
        """Compile the network for rows like X: a function of X that gives what `outputs` gives.

        For a server that answers for one row, or for a few, at a time. With
        `pip install tinynn-xp[loops]` it is machine code on NumPy, as long as products are small,
        which takes a part of a second to compile once. The program for as many rows
        as X has is made now, those for other sizes when they are needed. It is of the parameters as
        they are: of those that the model is given later it knows nothing (of what is changed in
        their memory it does), so compile again after training on.

        The network is recorded, as `tinynn.compile` does it: layers and functions of your own have
        to do the same in every call.

        Parameters
        ----------
        X : rows like those to come, as `outputs` takes them

        Raises
        ------
        RecordingError : the network reads the value of an array, to branch on it for example, or
            has shapes that follow from values
        ValueError, MixedArrays, ShapeError : as `outputs`

        >>> import numpy as np
        >>> from tinynn.layers import Linear
        >>> model = Model(Linear(1), {"weight": np.ones((2, 1)), "bias": np.zeros(1)})
        >>> answer = model.compile([[0.0, 0.0]])
        >>> answer(np.asarray([[1.0, 2.0]]))
        array([[3.]])

        """
        return Predictor(self, X)

    def _renewed(self, known: Inference | None) -> Inference:
        """The programs of the network with the parameters that it has now."""
        own = known.own if known is not None and known.net is self.net else None
        now = Inference(self.net, self.params, self.state, self.backend, own=own)
        if known is not None:
            now.take_over(known)
        return now

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_inference": None}  # a copy has parameters of its own

    def evaluate(
        self, X: Any, y: Any = None, *, sample_weight: Any = None, batch_size: int | None = None
    ) -> dict[str, Any]:
        """The loss and the metrics on these samples, as Python numbers, or lists of them.

        X may be a dataset or batches, as `fit` takes them; then y is in them.

        Raises as `predict`, and ValueError where y does not fit X or the loss.
        """
        X, y = self.prepared(X, y)
        source = source_of("evaluate: X", X) if y is None else X
        adapter = self.adapter("evaluate", X)
        backend = adapter.target
        with backend.scope():
            dataset = dataset_of(adapter, source, y, sample_weight, columns=self.columns)
            first = dataset.between(0, 1)
            prediction = run(self.net, self.params, self.state, *first.inputs).output
            whole = Samples(first.x, dataset.targets, dataset.sample_weight)
            fitting = matched(whole, prediction, backend.xp)
            check_targets(self.loss, prediction, fitting)
            if isinstance(dataset, Stream | BlockDataset):
                dataset = dataset.with_targets(fitting.y)
                dataset.check = partial(check_targets, self.loss, prediction)
            measured = evaluate(
                self.net, self.params, self.state, dataset, self.loss, self.metrics, backend,
                batch_size,
            )  # fmt: skip
            return dict(zip(self.measures, numbers(backend, measured), strict=True))

    def summary(self) -> Summary:
        """The layers with their output shapes, parameters and bytes, as text and in notebooks."""
        return summarize(self.net, self.params, self.state)

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what `evaluate` measures."""
        return (*(("loss",) if self.loss is not None else ()), *map(name_of, self.metrics))

    def to(self, backend: str | Backend, dtype: Any = None) -> "Model":
        """The same model on another backend. The parameters pass through the host once.

        dtype : of the floating-point parameters there; None keeps theirs.

        Raises
        ------
        BackendUnavailable
            No such library or device here.
        TypeError
            A parameter has a dtype that the device lacks, float64 for one.
        """
        source, target = self.backend, backends.get(backend)

        def moved(name: str, array: Any) -> Any:
            data = source.to_host(array)
            return placed(f"to: parameter {name!r}", target, data, data.dtype.name, dtype)

        parts = []
        for part in (self.params, self.state):
            leaves = [moved(name, array) for name, array in tree.paths(part)]
            parts.append(tree.flatten(part)[1].unflatten(leaves))
        known = self.calibration
        if known is not None:
            known = replace(known, scores=moved("calibration", known.scores))
        return replace(self, params=parts[0], state=parts[1], calibration=known)

    def _with(self, net: Any, params: Any, state: Any) -> "Model":
        return replace(self, net=net, params=params, state=state, calibration=None)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, whole or not at all: see `tinynn.training.files`.

        Everything is checked before anything is written; a good file that is there stays as it
        was until a good new one takes its place.

        Raises
        ------
        ValueError
            A parameter is NaN or infinite, or a layer cannot be described (a lambda).
        TypeError
            `extra` holds what JSON cannot, or a parameter has a dtype the file cannot hold.
        OSError
            The folder is missing, full or may not be written.
        """
        check_nesting(self.params)
        check_nesting(self.state)
        backend = self.backend
        description = {
            **described(self.net, self.loss, self.metrics, self.columns),
            "history": self.history,
            "state": [name for name, _ in tree.paths(self.state)],
            "extra": self.extra,
            "preparation": self.preparation and self.preparation.to_config(),
            "calibration": self.calibration and self.calibration.to_config(),
        }
        named = [*tree.paths(self.params), *tree.paths(self.state)]
        with backend.scope():
            check_finite(backend, named, "save")
            if self.calibration is not None:
                named.append((CALIBRATION, self.calibration.scores))
            blob = files.pack([(n, backend.to_host(array)) for n, array in named], description)
        files.write(path, blob)

    def to_onnx(
        self,
        path: str | os.PathLike[str],
        X: Any = None,
        *,
        dtype: Any = "float32",
        preparation: bool = True,
        quantize: bool = False,
    ) -> None:
        """Write the network to an ONNX file, whole or not at all, for other programs to run.

        The file takes what the network takes, batches of any size, as "input", and gives what
        `outputs` gives, as "output"; where the loss knows probabilities, these as "probabilities",
        and where `predict` gives other numbers than `outputs`, these as "estimate".
        The model's description, its columns and its preparation are in the file's metadata.

        A model that carries a preparation takes the columns of the table instead, each (batch,),
        by their names, and gives a "label" or a "prediction" in the target's unit besides.

        Parameters
        ----------
        path
            Of the file, which is replaced in one step.
        X
            Rows like those that the model is to predict; None where one array of rows is enough,
            whose width the preparation, the columns or the first parameter say.
        dtype
            Of the floating-point numbers in the file; None keeps the model's own, for which not
            every runtime has every operator.
        preparation
            False leaves the preparation out: the file takes what the network takes.
        quantize
            True writes the weights of products as whole numbers of 8 bits, and where the rows X
            are given rounds what goes into products likewise, by the range of these rows: see
            docs/compression.md.

        Raises
        ------
        OnnxError, RecordingError
            A layer calls a function that ONNX has no operator for, or cannot be recorded.
        ValueError, ShapeError
            A parameter is NaN or infinite; or X is needed, and missing.
        ImportError
            The package onnx is not installed.
        OSError
            The folder is missing, full or may not be written.
        """
        from tinynn.training.export import exported  # few models are

        files.check_target(path)
        with self.backend.scope():
            named = [*tree.paths(self.params), *tree.paths(self.state)]
            check_finite(self.backend, named, "to_onnx")
        files.write(path, exported(self, X, dtype, preparation, quantize))

    def adapter(self, where: str, X: Any) -> DataAdapter:
        """The way in for X: to the parameters' backend, or X's own if there are none."""
        if not tree.leaves(self.params):
            return DataAdapter.following(where, X, None)
        backend = self.backend
        floats = (a.dtype for a in tree.leaves(self.params))
        dtype = next((d for d in floats if backend.xp.isdtype(d, "real floating")), None)
        hint = "Bring X there, or the model to X: model.to(backend)."
        return DataAdapter(where, backend, dtype=dtype, hint=hint)


#: The name of a file's array that holds the scores of a calibration; no parameter's begins so.
CALIBRATION = ".calibration"


def check_finite(backend: Backend, named: list[tuple[str, Any]], where: str) -> None:
    """Refuse parameters that hold NaN or infinities."""
    if name := non_finite(backend, named):
        raise ValueError(
            f"{where}: parameter {name!r}: expected finite numbers, got NaN or infinity: "
            "training diverged. Lower the learning rate or clip the gradients, and train again."
        )


def non_finite(backend: Backend, named: list[tuple[str, Any]]) -> str:
    """The name of the first array that holds NaN or infinities, or ""; one array is read."""
    xp = backend.xp
    floats = [(name, a) for name, a in named if xp.isdtype(a.dtype, "real floating")]
    if not floats:
        return ""
    flags = backend.to_host(xp.stack([xp.all(xp.isfinite(a)) for _, a in floats])).tolist()
    return next((name for (name, _), sound in zip(floats, flags, strict=True) if not sound), "")


def placed(at: str, home: Backend, values: Any, dtype: str, wanted: Any) -> Any:
    """Host values on a device, in the dtype of that name; an error where it does not exist."""
    floating = dtype.startswith("float")
    if wanted is not None and floating:
        return home.asarray(values, home.dtypes()[home.dtype_name(wanted)])
    if dtype not in home.dtypes():
        hint = (
            f'give dtype="{home.dtype_name(home.default_float)}"' if floating else "cast it first"
        )
        raise TypeError(
            f"{at}: expected a dtype that {home!r} has, got {dtype}. To fix it: {hint}, or "
            f"take a backend that has {dtype}."
        )
    return home.asarray(values, dtype)


def check_nesting(params: Any, path: str = "") -> None:
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
            check_nesting(value, f"{path}.{key}" if path else key)


def described(net: Any, loss: Any, metrics: Any, columns: Any) -> dict[str, Any]:
    """The description of a model, for files, without its numbers; ValueError for a lambda in it."""
    return {
        "network": layers.to_config(net),
        "loss": losses.to_config(loss),
        "metrics": config.to_config(list(metrics), KNOWN),
        "columns": list(columns),
    }
