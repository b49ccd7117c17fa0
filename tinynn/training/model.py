"""Model: a network with its parameters, as `fit` returns it and `load` reads it."""

import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from math import prod
from typing import Any, Protocol

import backends
from backends import Backend
from tinynn import config, layers, losses, tree
from tinynn.data import DataAdapter, Samples, host
from tinynn.metrics import KNOWN, MetricLike, name_of
from tinynn.trace import Traced
from tinynn.training import files
from tinynn.training.answers import Answers
from tinynn.training.evaluation import check_targets, evaluate, forward, matched, numbers
from tinynn.training.history import History
from tinynn.training.summary import Summary, summarize

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
    _answers: Answers = field(default_factory=Answers, init=False)

    def __repr__(self) -> str:
        arrays = tree.leaves(self.params)
        shown = [
            config.label(self.net),
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
        """What the network takes and is to give, on the model's backend, for raw X and y.

        X and y themselves if there is no preparation; a y of None stays None.
        """
        if self.preparation is None:
            return X, y
        targets = None if y is None else self.backend.asarray(self.preparation.targets(y))
        return self.backend.asarray(self.preparation.transform(X)), targets

    def _prepared_outputs(self, X: Any, batch_size: int | None) -> Any:
        outputs = self.outputs(self.prepared(X)[0], batch_size or ROWS_AT_ONCE)
        return self.backend.to_host(outputs)

    def outputs(self, X: Any, batch_size: int | None = None) -> Any:
        """The network's output for X: (samples, ...), on the model's backend.

        Parameters
        ----------
        X
            (samples, features, ...); an array of the model's backend, lists, or a data frame. It is
            cast to the dtype of the parameters.
        batch_size
            How many samples to pass at once; None for all.

        Raises
        ------
        MixedArrays
            X is on another backend; `model.to(backend)` moves the model.
        ValueError
            X is empty, or holds text or NaN.
        ShapeError
            The width of X does not fit the network.
        """
        kind = (type(X), getattr(X, "shape", None), getattr(X, "dtype", None))
        weights = (self.params, self.state)
        if batch_size is None:
            y = self._answers.answer(X, kind, self.net, weights)
            if y is not None:
                return y
        adapter = self.adapter("predict", X)
        with adapter.target.scope():
            x = self.inputs(adapter, X)
            y = forward(self.net, *weights, x, adapter.target.xp, batch_size)
            if x is X and batch_size is None and adapter.target.lowering is not None:
                self._answers.remember(y, X, kind, self.net, weights)
            return y

    def evaluate(
        self, X: Any, y: Any = None, *, sample_weight: Any = None, batch_size: int | None = None
    ) -> dict[str, float]:
        """The loss and the metrics on these samples, as Python numbers.

        Raises as `predict`, and ValueError where y does not fit X or the loss.
        """
        X, y = self.prepared(X, y)
        adapter = self.adapter("evaluate", X)
        backend = adapter.target
        with backend.scope():
            dataset = adapter.dataset(X, y, sample_weight, columns=self.columns)
            first = dataset.between(0, 1)
            prediction = forward(self.net, self.params, self.state, first.x, backend.xp)
            whole = Samples(first.x, dataset.targets, dataset.sample_weight)
            check_targets(self.loss, prediction, matched(whole, prediction, backend.xp))
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
        """What `evaluate` measures, by name."""
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
            return _placed(f"to: parameter {name!r}", target, data, data.dtype.name, dtype)

        parts = []
        for part in (self.params, self.state):
            leaves = [moved(name, array) for name, array in tree.paths(part)]
            parts.append(tree.flatten(part)[1].unflatten(leaves))
        return replace(self, params=parts[0], state=parts[1])

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
        _check_nesting(self.params)
        _check_nesting(self.state)
        backend = self.backend
        description = {
            "network": layers.to_config(self.net),
            "loss": losses.to_config(self.loss),
            "metrics": config.to_config(list(self.metrics), KNOWN),
            "history": self.history,
            "columns": list(self.columns),
            "state": [name for name, _ in tree.paths(self.state)],
            "extra": self.extra,
            "preparation": self.preparation and self.preparation.to_config(),
        }
        named = [*tree.paths(self.params), *tree.paths(self.state)]
        with backend.scope():
            check_finite(backend, named, "save")
            blob = files.pack([(n, backend.to_host(array)) for n, array in named], description)
        files.write(path, blob)

    def to_onnx(
        self,
        path: str | os.PathLike[str],
        X: Any = None,
        *,
        dtype: Any = "float32",
        preparation: bool = True,
    ) -> None:
        """Write the network to an ONNX file, whole or not at all, for other programs to run.

        The file takes what the network takes, batches of any size, as "input", and gives what
        `outputs` gives, as "output"; where the loss knows probabilities, these as "probabilities".
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
        files.write(path, exported(self, X, dtype, preparation))

    def adapter(self, where: str, X: Any) -> DataAdapter:
        """The way in for X: to the parameters' backend, or X's own if there are none."""
        if not tree.leaves(self.params):
            return DataAdapter.following(where, X, None)
        backend = self.backend
        floats = (a.dtype for a in tree.leaves(self.params))
        dtype = next((d for d in floats if backend.xp.isdtype(d, "real floating")), None)
        hint = "Bring X there, or the model to X: model.to(backend)."
        return DataAdapter(where, backend, dtype=dtype, hint=hint)

    def inputs(self, adapter: DataAdapter, X: Any) -> Any:
        if isinstance(X, Traced) or not adapter.target.is_concrete(X):
            return X  # inside a transformation its values cannot be looked at
        x = adapter.inputs(X, columns=self.columns)
        if hasattr(x, "tocsr"):
            return adapter.target.asarray(x.toarray(), dtype=adapter.dtype)
        adapter.check_finite({"X": x}, self.columns)
        return x


def load(
    path: str | os.PathLike[str],
    backend: str | Backend | None = None,
    custom: Mapping[str, Any] | None = None,
    dtype: Any = None,
    preparation: Callable[[Mapping[str, Any]], Preparation] | None = None,
) -> Model:
    """Read a model that `Model.save` wrote, onto any backend (None: the host's library).

    `dtype` is that of the floating-point parameters, if not the file's. `custom` gives the layers,
    functions, losses and metrics that are the user's own, by name. Nothing is ever imported by a
    name from a file. `preparation` makes the model's preparation of what the file says of it;
    `tinynn.load` gives that of `tinynn.tabular`.

    Raises
    ------
    ModelFileError
        The file is cut short, was edited, is no model file, or holds NaN.
    ValueError
        Something of the user's own is missing from `custom`.
    BackendUnavailable
        No such library or device here.
    TypeError
        The file holds a dtype that the device lacks, float64 for one.
    OSError
        There is no such file, or it may not be read.
    """
    home = host() if backend is None else backends.get(backend)
    tensors, description = files.read(path, kind="model")
    own = dict(custom or {})
    _check_description(path, description)
    try:
        net = layers.from_config(description["network"], own)
        loss = losses.from_config(description["loss"], own)
        metrics = config.from_config(description["metrics"], {**KNOWN, **own})
        history, columns = History(description["history"]), tuple(description["columns"])
        extra, of_state = dict(description["extra"]), set(description["state"])
        prepared = _preparation(description["preparation"], preparation)
    except (TypeError, RecursionError) as error:
        raise files.damaged(path, "a model", error) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    params: dict[str, Any] = {}
    state: dict[str, Any] = {}
    with home.scope():
        for name, tensor in tensors.items():
            *folders, last = name.split(".")
            place = state if name in of_state else params
            for folder in folders:
                place = place.setdefault(folder, {})
                if not isinstance(place, dict):
                    raise files.damaged(path, "a model", f"{name!r} lies within an array")
            values, at = files.values_of(tensor, home), f"{path}: parameter {name!r}"
            place[last] = _placed(at, home, values, tensor.dtype, dtype)
        if bad := non_finite(home, [*tree.paths(params), *tree.paths(state)]):
            raise files.damaged(path, "a model", f"parameter {bad!r} holds NaN or infinity")
    return Model(
        net, params, state, history=history, loss=loss, metrics=metrics, columns=columns,
        extra=extra, preparation=prepared,
    )  # fmt: skip


def _preparation(config: Any, build: Callable[[Any], Preparation] | None) -> Preparation | None:
    """The preparation that a file describes, if it has one."""
    if config is None:
        return None
    if build is None:
        raise ValueError("the model carries a preparation. To fix it: read it with tinynn.load.")
    return build(config)


def _check_description(path: str | os.PathLike[str], description: dict[str, Any]) -> None:
    """ModelFileError unless each part of a file's description is of the kind that `save` writes."""

    def is_config(value: Any) -> bool:
        return isinstance(value, dict) and isinstance(
            value.get("class", value.get("function")), str
        )

    def is_list_of(value: Any, holds: Callable[[Any], bool]) -> bool:
        return isinstance(value, list) and all(map(holds, value))

    def is_text(value: Any) -> bool:
        return isinstance(value, str)

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float)

    sound: dict[str, Callable[[Any], bool]] = {
        "network": is_config,
        "loss": lambda value: value is None or is_config(value),
        "metrics": lambda value: is_list_of(value, is_config),
        "history": lambda value: (
            isinstance(value, dict) and all(is_list_of(v, is_number) for v in value.values())
        ),
        "columns": lambda value: is_list_of(value, is_text),
        "state": lambda value: is_list_of(value, is_text),
        "extra": lambda value: isinstance(value, dict),
        "preparation": lambda value: value is None or isinstance(value, dict),
    }
    for name, holds in sound.items():
        if name not in description or not holds(description[name]):
            got = reprlib.repr(description[name]) if name in description else "nothing"
            raise files.damaged(path, "a model", f"its {name!r} is {got}")


def _placed(at: str, home: Backend, values: Any, dtype: str, wanted: Any) -> Any:
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
