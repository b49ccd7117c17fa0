"""Training steps for the tests of explain, and what holds for every explanation."""

import re
from typing import Any

import numpy as np

import backends
import tinynn
from tests.gradients import placed
from tests.networks import INPUTS, ROWS, X, loss_of, networks
from tinynn import functional
from tinynn.functional import relu, sigmoid
from tinynn.layers import BatchNorm, Dropout, LayerNorm, Linear, Sequential
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import (
    SGD,
    Adam,
    AdamW,
    Chain,
    ClipByGlobalNorm,
    CosineDecay,
    Groups,
    Lion,
    ReduceOnPlateau,
)

XOR = Sequential(Linear(4, bias=False), sigmoid, Linear(1, bias=False), sigmoid)
XOR_X = np.asarray([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
XOR_Y = np.asarray([[0.0], [1.0], [1.0], [0.0]])
DRAW = np.random.default_rng(12)
TARGETS: dict[str, Any] = {
    "tied": X,
    "autoencoder": X,
    "siamese": DRAW.random(size=(ROWS, 1)),
    "heads": {"kind": DRAW.integers(0, 3, size=ROWS), "size": DRAW.normal(size=(ROWS, 1))},
}
Y = DRAW.normal(size=(ROWS, 2))
CLASSES = DRAW.integers(0, 2, size=ROWS)
OPTIMIZERS = [
    SGD(0.1),
    Adam(CosineDecay(0.1, steps=10)),
    Chain(ClipByGlobalNorm(1.0), SGD(0.1, momentum=0.9)),
    AdamW(ReduceOnPlateau(0.1), weight_decay=0.1, mask="*weight"),
    Groups({"0.*": Lion(0.1), "*": None}),
]
MIXED = Sequential(Linear(3), BatchNorm(), relu, Dropout(0.5), LayerNorm(), Linear(2))
# Functions of the standard that NumPy has under the same name.
NUMPYS = """
    argsort broadcast_to clip complex128 concat cos cumulative_sum exp expand_dims fft float64 int64
    log max mean minimum ones_like real reshape sin sqrt stack std sum take take_along_axis tanh
    where zeros_like
""".split()


def explained(name: str, backend: Any = None, **options: Any) -> Any:
    home = backend or backends.get("numpy")
    x, y = (placed(a, home, "float64") for a in (INPUTS.get(name, X), TARGETS.get(name, Y)))
    return tinynn.explain(networks(rate=0.3)[name], x, y, loss=loss_of(name), **options)


def mixed(**options: Any) -> Any:
    return tinynn.explain(MIXED, X, CLASSES, loss=SoftmaxCrossEntropy(), **options)


def assert_whole(step: Any) -> None:
    """Every node of the graph is in exactly one step, after those that it takes."""
    home = {id(node): place for place, each in enumerate(step.lines) for node in each.nodes}
    counted = sum(len(each.nodes) for each in step.lines)
    assert counted == len(home) == len(step.graph.nodes)
    for place, each in enumerate(step.lines):
        assert each.result in each.nodes
        for node in each.nodes:
            assert all(home.get(id(parent), -1) <= place for parent in node.parents)
        if len(each.nodes) > 1:
            assert [part.nodes for part in each.parts] == [(node,) for node in each.nodes]


def assert_true(step: Any) -> int:
    """The code of a line gives its value, where it is an expression of known functions; how many.

    Names that are read are those of lines before, or of what is given.
    """
    known: dict[str, Any] = {each.name: each.value for each in step.description.given}
    words = {name: getattr(np, name) for name in NUMPYS} | {"fft": np.fft.fft}
    words |= {name: getattr(functional, name) for name in ("relu", "sigmoid", "softmax", "gelu")}
    words |= {"astype": lambda x, dtype: x.astype(dtype)}
    checked = 0
    for each in step.lines:
        names = set(each.takes)
        assert names <= known.keys() | {each.name} | _constants(step), each
        called = set(re.findall(r"\b([a-z_]\w*)\(", each.code))
        arrays = all(known.get(name) is not None for name in names)
        if called <= words.keys() and each.value is not None and arrays:
            found = eval(each.code, {**words, **known})
            np.testing.assert_allclose(
                np.asarray(found), each.value, rtol=2e-5, atol=1e-12, err_msg=repr(each)
            )
            checked += 1
        known[each.name] = each.value
        for node, name in zip(each.saves, each.also, strict=False):
            known.setdefault(name, node)
    return checked


def _constants(step: Any) -> set[str]:
    return {f"c{index}" for index in range(len(step.graph.constants))}
