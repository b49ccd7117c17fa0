"""Predictor: a network compiled for rows of one kind, and the way of X through a network."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import backends
from tinynn import tree
from tinynn.data import DataAdapter
from tinynn.data.hostdata import is_sparse
from tinynn.trace import Traced
from tinynn.training.inference import Inference

if TYPE_CHECKING:
    from tinynn.training.model import Model


class Predictor:
    """A network compiled for rows of one kind, as `Model.compile` makes it.

    Called with X it gives what `Model.outputs` gives. Several threads may call it at once, and a
    process that has one may be forked. A copy, or one that was pickled, is compiled anew.

    Attributes:
        source: the program that was made first, as Python; None where the library has its own.

    >>> import numpy as np
    >>> from tinynn import Model
    >>> from tinynn.layers import Linear
    >>> model = Model(Linear(1), {"weight": np.ones((2, 1)), "bias": np.zeros(1)})
    >>> answer = model.compile(np.asarray([[0.0, 0.0]]))
    >>> answer(np.asarray([[1.0, 2.0]]))
    array([[3.]])
    """

    def __init__(self, model: "Model", X: Any) -> None:
        inference = Inference(model.net, model.params, model.state, model.backend, pure=True)
        self._model = replace(model, params=inference.params, state=inference.state)
        self._inference, self._x = inference, X
        outputs(self._model, inference, X)
        self.source = inference.source

    def __call__(self, X: Any) -> Any:
        """The network's output for X: (samples, ...), on the model's backend; see `outputs`."""
        y = self._inference.ready(X)
        return outputs(self._model, self._inference, X) if y is None else y

    def __reduce__(self) -> Any:
        return Predictor, (self._model, self._x)

    def __repr__(self) -> str:
        return f"<compiled {self._model!r}>"


def outputs(model: "Model", inference: Inference, X: Any, batch_size: int | None = None) -> Any:
    """The output of the model's network for X, as `Model.outputs` gives it."""
    adapter = model.adapter("predict", X)
    with adapter.target.scope():
        x, count, between = checked(adapter, X, model.columns)
        inference = inference.on(adapter.target)
        y = inference.outputs(count, between, batch_size)
        if x is X and batch_size is None and backends.is_array(x):
            inference.remember(x)
        return y


def checked(
    adapter: DataAdapter, X: Any, columns: Sequence[str] = ()
) -> tuple[Any, int, Callable[[int, int], tuple[Any, ...]]]:
    """X on the adapter's backend, how many rows it has, and the inputs from one row up to another.

    The rows of a sparse matrix become an array when they are asked for.
    """
    target = adapter.target
    if isinstance(X, Traced) or not target.is_concrete(X):
        x = X  # inside a transformation its values cannot be looked at
    else:
        x = adapter.inputs(X, columns=columns)
        if is_sparse(x):
            dtype = target.dtype_name(adapter.dtype)

            def rows(start: int, stop: int) -> tuple[Any, ...]:
                return (target.from_sparse(x[start:stop], dtype),)

            return x, x.shape[0], rows
        adapter.check_finite({"X": x}, columns)
    inputs = x if type(x) is tuple else (x,)
    count = tree.leaves(inputs)[0].shape[0]

    def between(start: int, stop: int) -> tuple[Any, ...]:
        if (start, stop) == (0, count):
            return inputs
        part: tuple[Any, ...] = tree.map(lambda a: a[start:stop, ...], inputs)
        return part

    return x, count, between
