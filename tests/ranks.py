"""A network, data, and a training of both, for tests of several ranks."""

from typing import Any

import numpy as np

import tinynn
from backends import Backend
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import SGD

NET = Sequential(
    Linear(6, bias=False), BatchNorm(synchronized=True, epsilon=0.1), relu, Dropout(0.25), Linear(3)
)
ROWS = 43  # in batches of 10 that leave 3


def samples(backend: Backend) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 4)).astype("float32")
    return backend.asarray(x), backend.asarray((x[:, 0] > x[:, 1]) + 1 * (x[:, 2] > 0))


def fitted(data: tuple[Any, Any], together_: Any = None, **arguments: Any) -> Any:
    given = {"net": NET, "epochs": 2, "batch_size": 10, "seed": 1, "progress": False}
    given |= {"loss": SoftmaxCrossEntropy(), "optimizer": SGD(0.1), **arguments}
    return tinynn.fit(given.pop("net"), *data, communicator=together_, **given)
