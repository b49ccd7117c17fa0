"""Drawn networks, data and settings: `fit_many` gives what a loop of `fit` gives, by every engine.

More of them, or others: `TINYNN_PROGRAMS=3000`, or `TINYNN_PROGRAMS=1234:1235` (seeds from, to).
"""

import random
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.engines import compiled_by
from tests.seeds import seeds, share, shown
from tinynn import fit, fit_many, functional, tree
from tinynn.layers import BatchNorm, Dropout, LayerNorm, Linear, Sequential
from tinynn.losses import AbsoluteError, BinaryCrossEntropy, Huber, SoftmaxCrossEntropy
from tinynn.optim import (
    L2,
    SGD,
    Adam,
    AdamW,
    Chain,
    ClipByGlobalNorm,
    CosineDecay,
    ExponentialDecay,
    NAdam,
    RMSprop,
)

SEEDS, IN_LOOPS = 8, 2
ACTIVATIONS = "tanh sigmoid softplus gelu silu elu relu mish softsign".split()
TOLERANCE = 1e-8

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.reads_scalars]


@dataclass
class Drawn:
    """The arguments of `fit_many`, and those of `fit` for each network; a seed draws the same."""

    seed: int

    def __post_init__(self) -> None:
        self.draw, self.numbers = random.Random(self.seed), np.random.default_rng(self.seed)
        self.count = self.draw.randint(2, 3)
        self.rows, self.features = self.draw.randint(4, 11), self.draw.randint(1, 3)
        first = self.draw.randrange(100)
        self.seeds = [first + place for place in range(self.count)]
        if self.draw.random() < 0.3:
            self.seeds = [first] * self.count

    def of(self, network: int | None) -> dict[str, Any]:
        """The arguments of one network, or of all; what is drawn is drawn anew, and the same."""
        self.draw.seed(self.seed)
        self.numbers = np.random.default_rng(self.seed)
        self._network = network
        loss, width, y = self._loss()
        net = self._net(width)
        # Of a batch that one sample is left for, statistics are refused.
        normed = any(isinstance(layer, BatchNorm) for layer in net.layers)
        given = {
            "net": net,
            "X": self.numbers.normal(size=(self.rows, self.features)),
            "y": y,
            "loss": loss,
            "optimizer": self._optimizer(),
            "seed": self.seeds if network is None else self.seeds[network],
            "epochs": self.draw.randint(1, 3),
            "batch_size": None if normed else self.draw.choice((None, 2, 3, 4)),
            "shuffle": self.draw.random() < 0.7,
            "validation": self.draw.choice((None, 0.3)),
        }
        if self.draw.random() < 0.4:
            given["sample_weight"] = self.numbers.uniform(0.2, 2.0, self.rows)
        return given

    def __str__(self) -> str:
        given = self.of(None) | {"X": (self.rows, self.features)}
        shown = {name: value for name, value in given.items() if name not in ("y", "sample_weight")}
        weighed = ", weighed" if "sample_weight" in given else ""
        return f"seed {self.seed}: {self.count} networks of {shown}{weighed}"

    def _varied(self, low: float, high: float) -> Any:
        """A number, or one for each network."""
        drawn = [self.draw.uniform(low, high) for _ in range(self.count)]
        if self.draw.random() < 0.5:
            return drawn[0]
        return drawn if self._network is None else drawn[self._network]

    def _loss(self) -> tuple[Any, int, Any]:
        """A loss, the outputs that it takes and a target."""
        width = self.draw.randint(1, 2)
        y = self.numbers.normal(size=(self.rows, width))
        kind = self.draw.randrange(5)
        if kind == 0:
            return "squared_error", width, y
        if kind == 1:
            return Huber(self._varied(0.5, 2.0)), width, y
        if kind == 2:
            return AbsoluteError(), width, y
        if kind == 3:
            return BinaryCrossEntropy(), 1, self.numbers.integers(0, 2, self.rows).astype(float)
        classes = np.arange(self.rows) % 3  # each of them is there, whatever is held out
        return SoftmaxCrossEntropy(), 3, self.numbers.permutation(classes)

    def _net(self, width: int) -> Any:
        layers: list[Any] = []
        for _ in range(self.draw.randint(0, 2)):
            layers.append(Linear(self.draw.randint(1, 4), bias=self.draw.random() < 0.8))
            kind = self.draw.randrange(5)
            if kind == 0:
                layers.append(BatchNorm(momentum=self._varied(0.5, 0.95)))
            if kind == 1:
                layers.append(LayerNorm())
            layers.append(getattr(functional, self.draw.choice(ACTIVATIONS)))
            if self.draw.random() < 0.4:
                layers.append(Dropout(self._varied(0.1, 0.6)))
        return Sequential(*layers, Linear(width))

    def _optimizer(self) -> Any:
        rate: Any = self._varied(0.005, 0.1)
        kind = self.draw.randrange(4)
        if kind == 0:
            rate = CosineDecay(rate, steps=self.draw.randint(2, 9))
        elif kind == 1:
            rate = ExponentialDecay(rate, rate=self._varied(0.5, 0.9), steps=2)
        optimizers = (
            lambda: SGD(rate),
            lambda: SGD(rate, momentum=self._varied(0.1, 0.9), nesterov=True),
            lambda: Adam(rate, beta1=self._varied(0.5, 0.9)),
            lambda: AdamW(rate, weight_decay=self._varied(0.0, 0.5)),
            lambda: NAdam(rate),
            lambda: RMSprop(rate),
            lambda: Chain(ClipByGlobalNorm(self._varied(0.1, 2.0)), L2(0.1), SGD(rate)),
        )
        return self.draw.choice(optimizers)()


def assert_many_agree(drawn: Drawn, backend: Backend, engine: str) -> None:
    """Each network is what `fit` makes of it alone, on NumPy and as it is written."""
    given = drawn.of(None)
    for name in ("X", "y", "sample_weight"):
        if name in given:
            given[name] = backend.asarray(given[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one that is trained in another way would say so
        stack = fit_many(**given, engine=engine)
    assert len(stack) == drawn.count
    for network, model in enumerate(stack):
        alone = fit(**drawn.of(network), engine="eager")
        assert list(model.history) == list(alone.history)
        for name, values in alone.history.items():
            np.testing.assert_allclose(model.history[name], values, TOLERANCE, TOLERANCE)
        kept = [list(tree.paths((each.params, each.state))) for each in (model, alone)]
        for (path, ours), (other, theirs) in zip(*kept, strict=True):
            assert path == other
            ours = backend.to_host(ours)
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_allclose(ours, theirs, TOLERANCE, TOLERANCE, err_msg=path)


def test_many_networks_train_as_each_alone(backend: Backend) -> None:
    for seed in seeds(share(SEEDS, backend), of=1):
        drawn = Drawn(seed)
        with shown(drawn):
            assert_many_agree(drawn, backend, compiled_by(backend))


@pytest.mark.only("numpy")
def test_many_networks_train_one_by_one(backend: Backend) -> None:
    for seed in seeds(SEEDS // 2, of=1):
        drawn = Drawn(seed)
        with shown(drawn):
            assert_many_agree(drawn, backend, "eager")


@pytest.mark.only("numpy", "cupy")
@pytest.mark.usefixtures("compiler_of_loops")
def test_many_networks_train_in_loops(backend: Backend) -> None:
    for seed in seeds(share(IN_LOOPS, backend), of=1):
        drawn = Drawn(seed)
        with shown(drawn):
            assert_many_agree(drawn, backend, "loops")
