"""A model as the bytes of an ONNX file: which rows to record it with, and what the file says."""

from collections.abc import Callable
from typing import Any

from tinynn import config, layers, losses, tree
from tinynn.functional import sigmoid, softmax
from tinynn.onnx import pack
from tinynn.onnx.quantizing import quantize
from tinynn.trace import namespace
from tinynn.training.predictor import checked


def exported(model: Any, X: Any, dtype: Any, preparation: bool, quantized: bool = False) -> bytes:
    """The bytes of the file that `Model.to_onnx` writes; arguments and errors are its own."""
    there = model if dtype is None else model.to(model.backend, dtype)
    with there.backend.scope():
        x = _example(there, X)
        prepared = model.preparation.to_config() if preparation and model.preparation else None
        heads = _heads(there, x) if prepared is None else _head(prepared)
        network, home = (there.net, there.params, there.state, x), there.backend
        said = _description(model)
        blob = pack(*network, backend=home, heads=heads, description=said, preparation=prepared)
        if not quantized:
            return blob
        alone = blob if prepared is None else pack(*network, backend=home)
        return quantize(blob, _rows(there, X), alone)


def _rows(model: Any, X: Any) -> dict[str, Any] | None:
    """All rows by the names of the network's inputs, on the host; None where there are none."""
    if X is None:
        return None
    _, count, between = checked(model.adapter("to_onnx", X), model.prepared(X)[0])
    inputs = between(0, count)
    whole = {"input": inputs[0] if len(inputs) == 1 else inputs}
    return {name: model.backend.to_host(array) for name, array in tree.paths(whole)}


def _example(model: Any, X: Any) -> Any:
    """Two rows, or one, of what the network takes."""
    if X is not None:
        _, count, between = checked(model.adapter("to_onnx", X), model.prepared(X)[0])
        inputs = between(0, min(2, count))
        return inputs[0] if len(inputs) == 1 else inputs
    first = next((a for a in tree.leaves(model.params) if a.ndim), None)
    width = getattr(model.preparation, "width", None) or len(model.columns)
    if not width:
        width = 0 if first is None else first.shape[0]
    if not width:
        raise layers.ShapeError(
            "to_onnx: expected rows that show what the network takes, got none. To fix it: give "
            "some as X, model.to_onnx(path, X)"
        )
    backend = model.backend
    dtype = backend.default_float if first is None else first.dtype
    x = backend.xp.zeros((2, width), dtype=dtype, device=backend.device)
    try:
        layers.run(model.net, model.params, model.state, x)
    except Exception as error:
        said = str(error).partition(". To fix it")[0]
        raise layers.ShapeError(
            f"to_onnx: expected rows that show what the network takes, got none, and it does not "
            f"take the shape (batch, {x.shape[1]}): {said}. To fix it: give some as X, "
            "model.to_onnx(path, X)"
        ) from error
    return x


Heads = dict[str, Callable[[Any], Any]]


def _heads(model: Any, x: Any) -> Heads:
    """The functions from the output to what the loss says that it stands for."""
    loss = model.loss
    if not isinstance(loss, losses.Loss):
        return {}
    inputs = x if type(x) is tuple else (x,)
    output = layers.run(model.net, model.params, model.state, *inputs).output
    if loss.estimate(output) is not output:
        return {"estimate": loss.estimate}
    try:
        loss.probabilities(output)
    except TypeError:  # it is one of numbers
        return {}
    return {"probabilities": loss.probabilities}


def _head(preparation: dict[str, Any]) -> Heads:
    """The function from the output to a probability for each class of the preparation."""

    def of_two(output: Any) -> Any:
        xp = namespace(output)
        return xp.concat([sigmoid(-output), sigmoid(output)], axis=1)

    known: dict[str, Callable[[Any], Any]] = {
        "softmax": softmax,
        "sigmoid": of_two,
        "exp": lambda output: namespace(output).exp(output),
    }
    head = known.get(preparation["activation"])
    return {} if head is None else {"probabilities": head}


def _description(model: Any) -> dict[str, Any]:
    """The metadata of the file: the network, the loss, the columns and what outputs mean."""
    said: dict[str, Any] = {"tinynn": config.label(model.net)}
    try:
        said["network"] = layers.to_config(model.net)
        said["loss"] = losses.to_config(model.loss)
    except ValueError:  # a lambda has no name to write down
        pass
    if model.columns:
        said["columns"] = list(model.columns)
    if model.extra:
        said["extra"] = model.extra
    if model.preparation is not None:
        said["preparation"] = preparation = model.preparation.to_config()
        target = preparation.get("target", {})
        said |= {key: target[key] for key in ("classes",) if key in target}
        said |= {"inputs": list(getattr(model.preparation, "inputs", ()))}
    return said


__all__ = ["exported"]
