"""tinynn: neural networks on whatever array library you already have.

>>> import numpy as np
>>> import tinynn
>>> from tinynn.functional import relu
>>> from tinynn.layers import Linear, Sequential
>>> X = np.asarray([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
>>> net = Sequential(Linear(16), relu, Linear(2))
>>> model = tinynn.fit(net, X, [0, 1, 1, 0], epochs=200)
>>> np.argmax(model.predict(X), axis=1)
array([0, 1, 1, 0])
"""

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import backends

if not hasattr(backends, "_of_tinynn_xp"):  # the name is another distribution's as well
    raise ImportError(
        "tinynn: expected the package backends of the distribution tinynn-xp, found "
        f"{backends.__file__ or list(backends.__path__)}, another of the name. To fix it: run "
        "python -m pip uninstall backends and python -m pip install --force-reinstall --no-deps "
        "tinynn-xp, or take the folder that it is in off PYTHONPATH and out of the directory that "
        "Python is started in",
        name="backends",
        path=backends.__file__,
    )

from tinynn.rules.special import stop_gradient
from tinynn.trace import Namespace
from tinynn.transforms import (
    checkpoint,
    custom_elementwise,
    custom_jvp,
    custom_vjp,
    grad,
    hessian,
    hvp,
    jacobian,
    jvp,
    value_and_grad,
    vjp,
    vmap,
)

if TYPE_CHECKING:
    from tinynn.compiler import compile
    from tinynn.explanation import explain
    from tinynn.optim.second_order.minimizing import least_squares, minimize
    from tinynn.training.fit import fit
    from tinynn.training.generation import generate
    from tinynn.training.imported import from_onnx
    from tinynn.training.many import ModelStack, fit_many
    from tinynn.training.model import Model
    from tinynn.transforms.cond import cond, while_loop
    from tinynn.transforms.record import record
    from tinynn.transforms.scan import scan

# Imported on first use, since a program that takes derivatives needs none of it.
_MODULES = {
    "Model": "tinynn.training",
    "ModelStack": "tinynn.training",
    "compile": "tinynn.compiler",
    "cond": "tinynn.transforms.cond",
    "explain": "tinynn.explanation",
    "fit": "tinynn.training",
    "fit_many": "tinynn.training",
    "from_onnx": "tinynn.training.imported",
    "generate": "tinynn.training",
    "least_squares": "tinynn.optim.second_order.minimizing",
    "minimize": "tinynn.optim.second_order.minimizing",
    "record": "tinynn.transforms.record",
    "scan": "tinynn.transforms.scan",
    "while_loop": "tinynn.transforms.cond",
}
_SUBPACKAGES = frozenset(
    "cli compiler compression data explanation functional initializers inspection layers losses "
    "metrics onnx optim parallel sklearn tabular training tree uncertainty".split()
)


def __getattr__(name: str) -> Any:
    """Import a public name, or a subpackage, on first use."""
    if name in _SUBPACKAGES:
        return import_module(f"tinynn.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})


def load(
    path: str | os.PathLike[str],
    backend: str | backends.Backend | None = None,
    custom: Mapping[str, Any] | None = None,
    dtype: Any = None,
) -> Any:
    """Read a `Model` that `Model.save` wrote, table preparation included, or a `ModelStack`.

    Of a checkpoint that `fit` wrote it is the model that the run had then.

    Parameters
    ----------
    path, backend, custom, dtype
        As `tinynn.training.load` has them.
    """
    from tinynn.training import load as read

    return read(path, backend, custom, dtype, _preparation)


def _preparation(config: Mapping[str, Any]) -> Any:
    from tinynn.tabular import from_config  # most models have none, and narwhals takes its time

    return from_config(config)


__version__ = "0.1.0"
__all__ = [
    "Model",
    "ModelStack",
    "Namespace",
    "checkpoint",
    "compile",
    "cond",
    "custom_elementwise",
    "custom_jvp",
    "custom_vjp",
    "explain",
    "fit",
    "fit_many",
    "from_onnx",
    "generate",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "least_squares",
    "load",
    "minimize",
    "record",
    "scan",
    "stop_gradient",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]
