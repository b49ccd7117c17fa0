"""Ids and lengths out of range are found before a program runs, by every engine and `predict`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tinynn import fit
from tinynn.functional.errors import InputError
from tinynn.layers import GRU, Embedding, EmbeddingBag, Layer, Linear, Scope, Sequential
from tinynn.losses import SquaredError
from tinynn.training import Model
from tinynn.training.ranges import Ranges

pytestmark = pytest.mark.reads_scalars  # ids and lengths are looked at

DRAW = np.random.default_rng(0)
ROWS = 8
IDS, Y = DRAW.integers(0, 5, size=(ROWS, 3)), DRAW.normal(size=(ROWS, 1)).astype("float32")
STEPS = DRAW.normal(size=(ROWS, 3, 2)).astype("float32")
LENGTHS = DRAW.integers(1, 4, size=(ROWS,))


def with_last(numbers: np.ndarray, last: int) -> np.ndarray:
    """The numbers, the last of which is another: it is in the last batch."""
    changed = numbers.copy()
    changed.reshape(-1)[-1] = last
    return changed


TOKENS, STATES = Sequential(EmbeddingBag(5, 2), Linear(1)), Sequential(GRU(2), Linear(1))
CASES: dict[str, tuple[Layer, Any, Any, str]] = {
    "ids": (TOKENS, IDS, with_last(IDS, 7), r"layer 0, .*ids from 0 to 4, got ids from \d to 7"),
    "negative ids": (TOKENS, IDS, with_last(IDS, -1), "layer 0, .*got ids from -1 to"),
    "lengths": (STATES, (STEPS, LENGTHS), (STEPS, with_last(LENGTHS, 4)), "layer 0, .*from 0 to 3"),
    "ids with lengths": (
        TOKENS, (IDS, LENGTHS * 0 + 3), (with_last(IDS, 7), LENGTHS * 0 + 3), "ids from 0 to 4"
    ),
}  # fmt: skip


def placed(backend: Backend, value: Any) -> Any:
    """The arrays on the backend."""
    return (
        tuple(map(backend.asarray, value)) if isinstance(value, tuple) else backend.asarray(value)
    )


def trained(net: Layer, backend: Backend, X: Any, **settings: Any) -> Model:
    """The network, trained for an epoch in two batches."""
    y = backend.asarray(Y)
    settings = {"shuffle": False, "loss": SquaredError(), "optimizer": "sgd"} | settings
    return fit(net, placed(backend, X), y, epochs=1, batch_size=ROWS // 2, **settings)


@pytest.mark.only("numpy", "array_api_strict", "torch")  # the check is one for all libraries
@pytest.mark.parametrize("case", CASES)
def test_fit_looks_at_all_batches_before_it_begins(case: str, backend: Backend) -> None:
    """Once engines other than the eager one trained with NaN, or with lengths cut to the end."""
    net, good, bad, message = CASES[case]
    with pytest.raises(InputError, match=message):
        trained(net, backend, bad)
    with pytest.raises(InputError, match=message):
        trained(net, backend, good, validation=(placed(backend, bad), backend.asarray(Y)))


@pytest.mark.only("numpy")
@pytest.mark.parametrize("engine", ["eager", "calls", "loops"])
def test_engines_look_alike(engine: str, backend: Backend) -> None:
    for net, _, bad, message in CASES.values():
        with pytest.raises(InputError, match=message):
            trained(net, backend, bad, engine=engine)


@pytest.mark.only("numpy", "array_api_strict", "torch")  # the check is one for all libraries
@pytest.mark.parametrize("case", CASES)
def test_predict_looks_at_the_inputs(case: str, backend: Backend) -> None:
    """Once the answer was NaN for such ids, and that of other lengths for such lengths."""
    net, good, bad, message = CASES[case]
    params, state = net.init(0, placed(backend, good))
    model = Model(net, params, state)
    assert model.predict(placed(backend, good)).shape == (ROWS, 1)
    for batch_size in (None, 4):
        with pytest.raises(InputError, match=message):
            model.predict(placed(backend, bad), batch_size=batch_size)


def test_predict_looks_before_anything_is_compiled(backend: Backend) -> None:
    good, weight = backend.asarray(IDS), backend.asarray(np.ones((5, 2), "float32"))
    model = Model(Embedding(5, 2), {"weight": weight}, {})
    with pytest.raises(InputError, match="ids from 0 to 4, got ids from -1"):
        model.predict(good - 1)
    lengths = backend.asarray(LENGTHS * 0 + 3)
    model = Model(EmbeddingBag(5, 2), {"weight": weight}, {})
    with pytest.raises(InputError, match="ids from 0 to 4, got ids from -1"):
        model.predict((good - 1, lengths))


@pytest.mark.only("numpy")
def test_batches_that_are_read_are_looked_at(backend: Backend) -> None:
    def batches(X: Any) -> Callable[[], Iterator[Any]]:
        return lambda: ((X[i : i + 4], Y[i : i + 4]) for i in (0, 4))

    for bad, engine in ((with_last(IDS, 7), "calls"), (with_last(IDS, -1), "eager")):
        with pytest.raises(InputError, match=r"^layer 0, .*ids from 0 to 4, got ids from"):
            fit(TOKENS, batches(bad), epochs=1, loss=SquaredError(), engine=engine)


@dataclass(frozen=True)
class Shifted(Layer):
    """Ids that are made of the input."""

    def forward(self, scope: Scope, ids: Any) -> Any:
        return scope("shifted", Embedding(5, 2), ids - 1)


@pytest.mark.only("numpy", "torch")
def test_ids_that_are_computed(backend: Backend) -> None:
    net = Sequential(Shifted())
    good = backend.asarray(IDS + 1)
    ranges = Ranges(net, *net.init(0, good), backend)
    ranges.check((good,))
    with pytest.raises(InputError, match=r"^layer 0.shifted, Embedding.*got ids from -1 to"):
        ranges.check((backend.asarray(IDS),))
    floats = backend.asarray(STEPS)
    assert Ranges(Linear(2), *Linear(2).init(0, floats), backend).check_of((floats,)) is None
