"""Reading the models that `Model.save` wrote."""

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
from tinynn.training.model import Model, Preparation, non_finite, placed


def load(
    path: str | os.PathLike[str],
    backend: str | Backend | None = None,
    custom: Mapping[str, Any] | None = None,
    dtype: Any = None,
    preparation: Callable[[Mapping[str, Any]], Preparation] | None = None,
) -> Model:
    """Read a model that `Model.save` wrote, onto any backend.

    Nothing is ever imported by a name from a file.

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
            place[last] = placed(at, home, values, tensor.dtype, dtype)
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
