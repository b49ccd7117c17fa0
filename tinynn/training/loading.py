"""Reading the models that `Model.save` wrote, and the stacks of them that `ModelStack.save` did."""

import os
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import backends
from backends import Backend
from tinynn import config, layers, losses, tree
from tinynn.data import host
from tinynn.metrics import KNOWN
from tinynn.training import files
from tinynn.training.history import History
from tinynn.training.many.stack import FOLDS, HISTORY, ModelStack
from tinynn.training.model import CALIBRATION, Model, Preparation, non_finite, placed
from tinynn.uncertainty import Calibration
from tinynn.uncertainty.conformal import KINDS


def load(
    path: str | os.PathLike[str],
    backend: str | Backend | None = None,
    custom: Mapping[str, Any] | None = None,
    dtype: Any = None,
    preparation: Callable[[Mapping[str, Any]], Preparation] | None = None,
) -> Any:
    """Read a model, or a stack, that `Model.save` or `ModelStack.save` wrote, onto any backend.

    Of a checkpoint that `fit` wrote it is the model that the run had then. Nothing is ever imported
    by a name from a file.

    Parameters
    ----------
    path
        The file.
    backend
        Where the model is to be; None is the host's own library.
    custom
        Name -> the layers, functions, losses and metrics that are the user's own.
    dtype
        Of the floating-point parameters; None is the file's.
    preparation
        Makes the model's preparation of what the file says of it; `tinynn.load` gives that of
        `tinynn.tabular`.

    Raises
    ------
    ModelFileError : the file is cut short, was edited, is no model file, or holds NaN
    ValueError : something of the user's own is missing from `custom`
    BackendUnavailable : no such library or device here
    TypeError : the file holds a dtype that the device lacks, float64 for one
    OSError : there is no such file, or it may not be read

    """
    home = host() if backend is None else backends.get(backend)
    tensors, description = files.read(path, kind=("model", "stack", "checkpoint"))
    if description["kind"] == "checkpoint":
        tensors, description = _as_model(path, tensors, description)
    own = dict(custom or {})
    many = description["kind"] == "stack"
    _check_description(path, description, _STACK if many else _MODEL)
    try:
        net = layers.from_config(description["network"], {**_imported(), **own})
        loss = losses.from_config(description["loss"], own)
        metrics = config.from_config(description["metrics"], {**KNOWN, **own})
        of_state = set(description["state"])
        rest: dict[str, Any] = {"columns": tuple(description["columns"])}
        if not many:
            rest |= {
                "history": History(description["history"]),
                "extra": dict(description["extra"]),
                "preparation": _preparation(description["preparation"], preparation),
            }
    except (TypeError, RecursionError) as error:
        raise files.damaged(path, "a model", error) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if many:
        rest |= {name: tuple(description[name]) for name in ("epochs", "seeds")}
        rest["kept"] = tuple(description.get("kept", rest["epochs"]))
        if (folds := tensors.pop(FOLDS, None)) is not None:
            rest["folds"] = home.asarray(files.values_of(folds, home), dtype=folds.dtype)
        shown = {name: tensors.pop(f"{HISTORY}{name}", None) for name in description["history"]}
        rest["history"] = {name: _shown(path, name, tensor) for name, tensor in shown.items()}
    if (scores := tensors.pop(CALIBRATION, None)) is not None:
        values = files.values_of(scores, home)
        scores = placed(f"{path}: calibration", home, values, scores.dtype, dtype)
        known = description.get("calibration")
        rest["calibration"] = _calibration(path, known, scores, rest.get("folds"))
    params, state = _trees(path, tensors, of_state, home, dtype)
    kind: Any = ModelStack if many else Model
    return kind(net, params, state, loss=loss, metrics=metrics, **rest)


def _as_model(
    path: Any, tensors: Mapping[str, files.Tensor], description: Mapping[str, Any]
) -> tuple[dict[str, files.Tensor], dict[str, Any]]:
    """The arrays and the description of a checkpoint, as the file of a model has them."""
    model = description.get("model")
    if not isinstance(model, dict):
        raise files.damaged(path, "a checkpoint", f"its 'model' is {reprlib.repr(model)}")
    if "missing" in model:
        raise ValueError(
            f"{path}: expected a network that a file can describe, got one that it cannot: "
            f"{model['missing']} To fix it: give the checkpoint to fit(resume=...)"
        )
    parts = [
        {name.removeprefix(at): tensor for name, tensor in tensors.items() if name.startswith(at)}
        for at in ("carry.params.", "carry.state.")
    ]
    rest: dict[str, Any] = {"history": description.get("history"), "extra": {}, "preparation": None}
    return parts[0] | parts[1], {**model, **rest, "kind": "model", "state": list(parts[1])}


def _calibration(path: Any, known: Any, scores: Any, folds: Any) -> Calibration:
    """The calibration of the file of a model or a stack."""
    if known in KINDS:  # as files had it before there were draws
        raise files.ModelFileError(
            f"{path}: expected a calibration with its draws and its seed, got {known!r} alone, as "
            "an earlier version of tinynn wrote it. To fix it: with that version load the model, "
            "save dataclasses.replace(model, calibration=None), and calibrate it here"
        )
    whole = isinstance(known, dict) and all(type(known.get(n)) is int for n in ("draws", "seed"))
    if not whole or known.get("kind") not in KINDS:
        raise files.damaged(path, "a model", f"its 'calibration' is {reprlib.repr(known)}")
    return Calibration(known["kind"], scores, known["draws"], known["seed"], folds)


def _shown(path: Any, name: str, tensor: files.Tensor | None) -> Any:
    """A measure of a stack's history, on the host."""
    if tensor is None:
        raise files.damaged(path, "a model", f"the history has no {name!r}")
    return host().asarray(files.values_of(tensor, host()), dtype=tensor.dtype)


def _trees(
    path: Any, tensors: Mapping[str, files.Tensor], of_state: set[str], home: Backend, dtype: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and the state that a file's arrays make."""
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
            place[last] = placed(at, home, values, tensor.dtype, dtype)
        if bad := non_finite(home, [*tree.paths(params), *tree.paths(state)]):
            raise files.damaged(path, "a model", f"parameter {bad!r} holds NaN or infinity")
    return params, state


def _imported() -> Mapping[str, Any]:
    """The classes and functions that networks out of ONNX files are made of."""
    from tinynn.onnx import KNOWN  # few models are

    return KNOWN


def _preparation(config: Any, build: Callable[[Any], Preparation] | None) -> Preparation | None:
    """The preparation that a file describes, if it has one."""
    if config is None:
        return None
    if build is None:
        raise ValueError("the model carries a preparation. To fix it: read it with tinynn.load.")
    return build(config)


def _is_config(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class", value.get("function")), str)


def _is_list_of(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(holds, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or _is_list_of(value, _is_number)


# What each part of a file's description has to be, of any file, of a model's and of a stack's.
_PARTS: dict[str, Callable[[Any], bool]] = {
    "network": _is_config,
    "loss": lambda value: value is None or _is_config(value),
    "metrics": lambda value: _is_list_of(value, _is_config),
    "columns": lambda value: _is_list_of(value, _is_text),
    "state": lambda value: _is_list_of(value, _is_text),
}
_MODEL: dict[str, Callable[[Any], bool]] = _PARTS | {
    "history": lambda value: (
        isinstance(value, dict) and all(_is_list_of(v, _is_number) for v in value.values())
    ),
    "extra": lambda value: isinstance(value, dict),
    "preparation": lambda value: value is None or isinstance(value, dict),
}
_STACK: dict[str, Callable[[Any], bool]] = _PARTS | {
    "history": lambda value: _is_list_of(value, _is_text),
    "epochs": lambda value: _is_list_of(value, _is_number),
    "seeds": lambda value: _is_list_of(value, _is_number),
}


def _check_description(
    path: str | os.PathLike[str],
    description: dict[str, Any],
    sound: Mapping[str, Callable[[Any], bool]],
) -> None:
    """ModelFileError unless each part of a file's description is of the kind that `save` writes."""
    for name, holds in sound.items():
        if name not in description or not holds(description[name]):
            got = reprlib.repr(description[name]) if name in description else "nothing"
            raise files.damaged(path, "a model", f"its {name!r} is {got}")
