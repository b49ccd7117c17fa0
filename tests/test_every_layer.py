"""Every layer trains the same on every library and by every engine, and docs/layers.md says how.

Here on those libraries that compile no call for each shape; on the others, by machine code, and
beside JAX's own derivatives, where TINYNN_DRAWN is set: nox -s drawn_layers. With options that
Hypothesis draws tests/test_drawn_layers.py compares them with PyTorch's.
"""

import os
import re
import warnings
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend, random
from tests import torch_layers, torch_sequences
from tests.checks import assert_close
from tests.engines import InterpretedSerially, compiled_by
from tests.every_layer import LAYERS
from tests.gradients import placed
from tinynn import layers, tree
from tinynn.compiler import pipelines
from tinynn.compiler.rewrite import CannotEmit
from tinynn.initializers import ones
from tinynn.layers import Layer, Scope, run
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.transforms.record import record

in_float64 = pytest.mark.usefixtures("float64")
pytestmark = pytest.mark.reads_scalars

PAGE = Path(__file__).resolve().parents[1] / "docs" / "layers.md"
Y = np.random.default_rng(7).normal(size=(4, 1))


@dataclass(frozen=True)
class Net(Layer):
    """A number of what a layer makes of its inputs, each element of which has a factor."""

    inner: Layer

    def forward(self, scope: Scope, *inputs: Any) -> Any:
        given = [
            x * scope.param(f"factor{i}", ones, tuple(x.shape[1:])) if is_floating(x) else x
            for i, x in enumerate(inputs)
        ]
        total = 0.0
        for y in tree.leaves(scope("inner", self.inner, *given)):
            xp = namespace(y)
            total = total + xp.mean(xp.sin(xp.reshape(y, (y.shape[0], -1))), axis=1, keepdims=True)
        return total


def is_floating(x: Any) -> bool:
    return bool(namespace(x).isdtype(x.dtype, "real floating"))


def trained(name: str, backend: Backend, engine: str) -> tinynn.Model:
    """The network after two epochs of two steps."""
    layer, inputs = LAYERS[name]
    x = placed(inputs if len(inputs) > 1 else inputs[0], backend, "float64")
    return tinynn.fit(
        Net(layer), x, placed(Y, backend, "float64"), loss="mse", optimizer=SGD(0.05), epochs=2,
        batch_size=2, seed=1, dtype="float64", engine=engine, progress=False,
    )  # fmt: skip


@cache
def expected(name: str) -> dict[str, np.ndarray]:
    model = trained(name, tinynn.data.host(), "eager")
    return dict(tree.paths((model.params, model.state)))


def assert_trained(name: str, backend: Backend, engine: str) -> None:
    model = trained(name, backend, engine)
    found = dict(tree.paths((model.params, model.state)))
    assert found.keys() == expected(name).keys()
    for path, leaf in found.items():
        assert_close(leaf, expected(name)[path], backend, rtol=1e-9, atol=1e-11)


everywhere = "TINYNN_DRAWN" in os.environ
every_layer = pytest.mark.parametrize("name", LAYERS)


@pytest.mark.only(*(("jax-x64", "dpnp", "cupy") * everywhere), "numpy", "torch", "array_api_strict")
@every_layer
@in_float64
def test_training_is_that_of_numpy(name: str, backend: Backend) -> None:
    assert_trained(name, backend, compiled_by(backend))


@cache
def has_loops(name: str) -> bool:
    """Whether a training step of the layer can be written as loops."""
    layer, inputs = LAYERS[name]
    host, net = tinynn.data.host(), Net(layer)
    params, state = net.init(0, *inputs)
    leaves, structure = tree.flatten(params)
    given = (*leaves, random.key(0, host), *inputs)

    def step(*given: Any) -> Any:
        def loss(params: Any) -> Any:
            key, *x = given[len(leaves) :]
            y = run(net, params, state, *x, key=key, training=True).output
            return namespace(y).mean(y * y)

        now = structure.unflatten(list(given[: len(leaves)]))
        value, slopes = tinynn.value_and_grad(loss)(now)
        return *tree.leaves(tree.map(lambda p, g: p - 0.1 * g, now, slopes)), value

    rules = pipelines.decompositions(host.lowering)
    graph = record(step, *given, decompositions=rules)
    try:
        InterpretedSerially(graph, len(leaves), host, [list(range(len(leaves)))])
    except CannotEmit:
        return False
    return True


@pytest.mark.only("numpy")
@every_layer
def test_loops_train_it_or_say_that_calls_do(name: str) -> None:
    pytest.importorskip("llvmlite", reason="LLVM compiles NumPy's loops")
    written = has_loops(name)
    if written and not everywhere:  # machine code of all takes a quarter of a minute
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert_trained(name, tinynn.data.host(), "loops")
    said = [str(each.message) for each in seen]
    assert all('engine="calls" instead: ' in text and "inner" in text for text in said)
    assert len(said) == (0 if written else 1)


# XLA compiles those of all for minutes; these read arrays from outside, which JAX then follows.
READING = ("Cutout", "EmbeddingBag")


@pytest.mark.only("jax-x64")
@pytest.mark.parametrize("name", LAYERS if everywhere else READING)
def test_derivatives_and_batches_are_those_of_jax(name: str, backend: Backend) -> None:
    import jax

    layer, inputs = LAYERS[name]
    params, state = Net(layer).init(0, *inputs)
    draw = np.random.default_rng(8)
    way = tree.map(lambda a: draw.normal(size=a.shape), params)
    point, state, way, given = placed((params, state, way, inputs), backend, "float64")

    def f(params: Any) -> Any:
        y = run(Net(layer), params, state, *given, key=0, training=True).output
        return namespace(y).sum(namespace(y).sin(y))

    def both(point: Any, way: Any) -> Any:
        several = tree.map(lambda a, b: jax.numpy.stack([a, a + 0.1 * b]), point, way)
        return [
            (by.grad(f)(point), by.jvp(f, (point,), (way,)), by.vmap(f)(several),
             by.jvp(by.grad(f), (point,), (way,))[1])
            for by in (tinynn, jax)
        ]  # fmt: skip

    ours, theirs = jax.jit(both)(point, way)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_close(a, backend.to_host(b), backend, rtol=1e-9, atol=1e-11)


def test_every_layer_is_here() -> None:
    named = [getattr(layers, name) for name in layers.__all__]
    kinds = {each for each in named if isinstance(each, type) and issubclass(each, Layer)}
    assert {type(layer) for layer, _ in LAYERS.values()} == kinds - {Layer}


def test_the_table_of_the_docs_is_true() -> None:
    """Each layer has one row; it says whether loops train it, and what it has in PyTorch."""
    table = PAGE.read_text().partition("## What each is compared with")[2]
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\| `.*", table, re.MULTILINE)]
    named = [(re.findall(r"`(\w+)`", cell), theirs, loops) for cell, theirs, loops in rows]
    assert sorted(name for names, *_ in named for name in names) == sorted(LAYERS)
    for names, theirs, loops in named:
        wanted = {True: "yes", False: "by calls"}
        assert {wanted[has_loops(name)] for name in names} == {loops}, names
        drawn = {name in torch_layers.KINDS | torch_sequences.KINDS for name in names}
        assert drawn == {theirs != "none"}, names


@pytest.mark.only("torch")
def test_the_names_of_pytorch_in_the_docs_exist() -> None:
    torch = pytest.importorskip("torch", reason="its names are looked up")
    table = PAGE.read_text().partition("## What each is compared with")[2]
    for theirs in re.findall(r"^\| `.*? \| (.*?) \| ", table, re.MULTILINE):
        for name in re.findall(r"`([\w.]+)`", theirs):
            assert attrgetter(name)(torch.nn), name
