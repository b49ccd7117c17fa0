"""Every layer trains the same on every library and by every engine, and docs/layers.md says how.

Beside JAX's own derivatives all of them are where TINYNN_DRAWN is set: nox -s drawn_layers. With
options that Hypothesis draws tests/test_drawn_layers.py compares them with PyTorch's.
"""

import os
import re
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
from tests.every_layer import LAYERS, PARTS
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

everywhere = "TINYNN_DRAWN" in os.environ
PAGE = Path(__file__).resolve().parents[1] / "docs" / "layers.md"
Y = np.random.default_rng(7).normal(size=(2, 2, 1000))


@dataclass(frozen=True)
class Net(Layer):
    """What each layer makes of its inputs, side by side, so that a compiler has one program.

    A sample is the two rows that the layers see: all that `fit` does with them then has one shape,
    for which XLA compiles each call once.
    """

    names: tuple[str, ...]

    def forward(self, scope: Scope, given: Any) -> Any:
        given = tree.map(lambda x: namespace(x).reshape(x, tuple(x.shape[1:])), given)
        made = [scope(name, Alone(name), *given[name]) for name in self.names]
        xp = namespace(*made)
        return xp.reshape(xp.concat(made, axis=1), (1, 2, -1))


@dataclass(frozen=True)
class Alone(Layer):
    """A layer, whose inputs have a factor for each element; its output flat."""

    name: str

    def forward(self, scope: Scope, *inputs: Any) -> Any:
        given = [
            x * scope.param(f"factor{i}", ones, tuple(x.shape[1:])) if is_floating(x) else x
            for i, x in enumerate(inputs)
        ]
        found = tree.leaves(scope("inner", LAYERS[self.name][0], *given))
        return namespace(*found).concat([flat(y) for y in found], axis=1)


def flat(y: Any) -> Any:
    return namespace(y).reshape(y, (y.shape[0], -1))


def is_floating(x: Any) -> bool:
    return bool(namespace(x).isdtype(x.dtype, "real floating"))


def trained(names: tuple[str, ...], backend: Backend, engine: str) -> tinynn.Model:
    """The network after two epochs of two steps."""
    x = {n: tree.map(lambda a: a.reshape(2, 2, *a.shape[1:]), LAYERS[n][1]) for n in names}
    x, y = placed((x, Y[..., : width(names)]), backend, "float64")
    return tinynn.fit(
        Net(names), x, y, loss="mse", optimizer=SGD(0.005 * width(names)), epochs=2, batch_size=1,
        seed=1, dtype="float64", engine=engine, progress=False,
    )  # fmt: skip


@cache
def width(names: tuple[str, ...]) -> int:
    """How many numbers the layers make of a row."""
    made = [Alone(n).apply(*Alone(n).init(0, *LAYERS[n][1]), *LAYERS[n][1])[0] for n in names]
    return sum(y.shape[1] for y in made)


@cache
def expected(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    model = trained(names, tinynn.data.host(), "eager")
    return dict(tree.paths((model.params, model.state)))


def assert_trained(names: tuple[str, ...], backend: Backend, engine: str) -> None:
    model = trained(names, backend, engine)
    found, wanted = dict(tree.paths((model.params, model.state))), expected(names)
    assert found.keys() == wanted.keys()
    for path, leaf in found.items():
        assert_close(leaf, wanted[path], backend, rtol=1e-9, atol=1e-11)


every_layer = pytest.mark.parametrize("name", LAYERS)
every_part = pytest.mark.parametrize("part", PARTS)


# A step is recorded twice, and the calls of dpnp take milliseconds: it is eager where TINYNN_DRAWN
# is not set.
LONG = {"dpnp": ("random", "sequences", "attention")}


@every_part
@in_float64
def test_training_is_that_of_numpy(part: str, backend: Backend) -> None:
    """By calls or the library's own compiler; and eagerly, which is what NumPy does to compare."""
    assert_trained(PARTS[part], backend, "eager")
    if everywhere or part not in LONG.get(backend.name, ()):
        assert_trained(PARTS[part], backend, compiled_by(backend))


@cache
def has_loops(name: str) -> bool:
    """Whether a training step of the layer can be written as loops."""
    inputs = LAYERS[name][1]
    host, net = tinynn.data.host(), Alone(name)
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


@pytest.fixture
def quickly_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Machine code that LLVM does not optimise, in a sixth of the time, and that is not kept."""
    llvm = pytest.importorskip("llvmlite.binding", reason="LLVM compiles NumPy's loops")
    tuned, made = llvm.create_pipeline_tuning_options, llvm.Target.create_target_machine
    monkeypatch.setenv("TINYNN_CACHE", str(tmp_path))
    monkeypatch.setattr(llvm, "create_pipeline_tuning_options", lambda **_: tuned(speed_level=0))
    plain = lambda self, **given: made(self, **given | {"opt": 0})  # noqa: E731
    monkeypatch.setattr(llvm.Target, "create_target_machine", plain)


@pytest.mark.only("numpy")
@pytest.mark.usefixtures("quickly_compiled", "float64")
@every_layer
def test_loops_train_it_or_say_that_calls_do(name: str, backend: Backend) -> None:
    """One layer at a time: what LLVM takes grows faster than its program."""
    if has_loops(name):
        assert_trained((name,), backend, "loops")
        return
    with pytest.warns(RuntimeWarning, match=f'engine="calls" instead: .*{name}.inner') as seen:
        assert_trained((name,), backend, "loops")
    assert len(seen) == 1


# XLA compiles those of all for minutes; these read arrays from outside, which JAX then follows.
READING = ("Cutout", "EmbeddingBag")


@pytest.mark.only("jax-x64")
@pytest.mark.parametrize("name", LAYERS if everywhere else READING)
def test_derivatives_and_batches_are_those_of_jax(name: str, backend: Backend) -> None:
    import jax

    net, inputs = Alone(name), LAYERS[name][1]
    params, state = net.init(0, *inputs)
    draw = np.random.default_rng(8)
    way = tree.map(lambda a: draw.normal(size=a.shape), params)
    point, state, way, given = placed((params, state, way, inputs), backend, "float64")

    def f(params: Any) -> Any:
        y = run(net, params, state, *given, key=0, training=True).output
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
