"""Every layer, with options that Hypothesis draws, gives the numbers of torch.nn in float64.

Outputs in training and inference, derivatives of first and second order by parameters and inputs,
and a hundred steps of training. `TINYNN_DRAWN=200` draws so many of each kind, others in each run.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinynn
from tests import torch_layers, torch_sequences
from tests.torch_layers import Pair
from tinynn import layers, tree
from tinynn.trace import namespace

STEPS, RATE = 100, 0.05
KINDS = torch_layers.KINDS | torch_sequences.KINDS
DRAWN = int(os.environ.get("TINYNN_DRAWN", "0"))


def weighed(y: Any, keep: Any, xp: Any) -> Any:
    """One number of all outputs that count."""
    total = 0.0
    for each, counts in zip(tree.leaves(y), tree.leaves(keep), strict=True):
        chosen = each if counts is True else xp.where(counts, each, 0.0)
        total = total + xp.mean(xp.sin(chosen) * chosen + 0.1 * chosen)
    return total


class Ours:
    """The layer of a pair: its loss at a point, (parameters, inputs that are floats)."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.state = pair, pair.state()
        flat, self.rebuild = tree.flatten(pair.inputs)
        self.places = [i for i, a in enumerate(flat) if a.dtype == np.float64]
        self.flat = flat
        self.point = pair.weights(), [flat[i] for i in self.places]

    def outputs(self, point: Any, state: Any, training: bool = True) -> tuple[Any, Any]:
        params, floats = point
        flat = list(self.flat)
        for i, a in zip(self.places, floats, strict=True):
            flat[i] = a
        inputs = self.rebuild.unflatten(flat)
        return self.pair.layer.apply(params, state, *inputs, training=training)

    def loss(self, point: Any) -> Any:
        y = self.outputs(point, self.state)[0]
        return weighed(y, self.pair.keep, namespace(*tree.leaves(y)))

    def step(self, params: Any, state: Any) -> tuple[Any, Any]:
        y, state = self.outputs((params, self.point[1]), state)
        return weighed(y, self.pair.keep, namespace(*tree.leaves(y))), state


class Theirs:
    """PyTorch's module of a pair, in the same terms."""

    def __init__(self, pair: Pair, torch: Any) -> None:
        self.pair, self.torch = pair, torch
        self.parameters = [p for p in pair.theirs.parameters() if p.requires_grad]
        self.inputs = tree.map(torch.tensor, pair.inputs)
        self.floats = [a for a in tree.leaves(self.inputs) if a.dtype == torch.float64]
        self.keep = tree.map(lambda a: a if a is True else torch.tensor(a), pair.keep)
        for a in self.floats:
            a.requires_grad_()

    def loss(self) -> Any:
        return weighed(self.pair.call(*self.inputs), self.keep, self.torch)

    def slopes(self, y: Any, graph: bool = False) -> list[Any]:
        at = [*self.parameters, *self.floats]
        found = self.torch.autograd.grad(y, at, create_graph=graph, allow_unused=True)
        zeros = self.torch.zeros_like
        return [zeros(a) if g is None else g for g, a in zip(found, at, strict=True)]

    def as_ours(self, values: list[Any]) -> Any:
        """Numbers of each parameter and input, as a point of ours."""
        count = len(self.parameters)
        kept = [p.detach().clone() for p in self.parameters]
        self.put(values[:count])
        point = self.pair.weights(), [a.detach().numpy() for a in values[count:]]
        self.put(kept)
        return point

    def put(self, values: list[Any]) -> None:
        with self.torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Passes of training that leave no trace in running statistics."""
        kept = {name: b.clone() for name, b in self.pair.theirs.named_buffers()}
        yield
        for name, buffer in self.pair.theirs.named_buffers():
            buffer.copy_(kept[name])


def close(found: Any, wanted: Any, what: str, rtol: float = 1e-8, atol: float = 1e-10) -> None:
    expected = dict(tree.paths(wanted))
    assert sorted(name for name, _ in tree.paths(found)) == sorted(expected), what
    for path, a in tree.paths(found):
        about = f"{what} {path}"
        np.testing.assert_allclose(a, expected[path], rtol, atol, err_msg=about)


@contextmanager
def doubles(torch: Any, seed: int) -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(), torch.nn.attention.sdpa_kernel(MATH(torch)):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def MATH(torch: Any) -> Any:
    return torch.nn.attention.SDPBackend.MATH


def check_derivatives(ours: Ours, theirs: Theirs, draw: Any) -> None:
    """Of first order in reverse, forward and batched; of second order, both ways."""
    torch = theirs.torch
    with theirs.unchanged():
        first = theirs.slopes(theirs.loss(), graph=True)
        along = [torch.tensor(draw.normal(size=tuple(a.shape))) for a in first]
        product = sum((a * b).sum() for a, b in zip(first, along, strict=True))
        second = theirs.slopes(product) if product.requires_grad else None
    gradient, tangent = theirs.as_ours(first), theirs.as_ours(along)
    value, found = tinynn.value_and_grad(ours.loss)(ours.point)
    close(found, gradient, "gradient")
    _, slope = tinynn.jvp(ours.loss, (ours.point,), (tangent,))
    np.testing.assert_allclose(slope, product.item(), 1e-8, 1e-10)
    moved = tree.map(lambda a, b: np.stack([a, a + 0.1 * b]), ours.point, tangent)
    values = tinynn.vmap(ours.loss)(moved)
    later = ours.loss(tree.map(lambda a: a[1], moved))
    np.testing.assert_allclose(values, [value, later], 1e-9, 1e-12)
    if second is None:
        return

    def product_of_ours(point: Any) -> Any:
        pairs = zip(tree.leaves(tinynn.grad(ours.loss)(point)), tree.leaves(tangent), strict=True)
        return sum(namespace(a).sum(a * b) for a, b in pairs)

    curved = theirs.as_ours(second)
    close(tinynn.hvp(ours.loss, (ours.point,), (tangent,)), curved, "forward over reverse")
    close(tinynn.grad(product_of_ours)(ours.point), curved, "reverse over reverse")


def check_training(ours: Ours, theirs: Theirs) -> None:
    """A hundred steps, what they leave in the state, and inference with it."""
    pair, (params, floats), state = ours.pair, ours.point, ours.state
    step = tinynn.compile(tinynn.value_and_grad(ours.step, has_aux=True))
    for _ in range(STEPS if params else 0):
        (value, state), gradient = step(params, state)
        params = tree.map(lambda p, g: p - RATE * g, params, gradient)
        expected = theirs.loss()
        # Of inputs, too: PyTorch 2.13's GroupNorm crashes where only parameters are asked for.
        slopes = theirs.slopes(expected)[: len(theirs.parameters)]
        theirs.put([p - RATE * g for p, g in zip(theirs.parameters, slopes, strict=True)])
        assert float(value) == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    close(params, pair.weights(), "after training")
    close(state, pair.state(), "state")
    pair.theirs.eval()
    y = ours.outputs((params, floats), state, training=False)[0]
    with theirs.torch.no_grad():
        expected = theirs.pair.call(*theirs.inputs)
    for a, b, keep in zip(*map(tree.leaves, (y, expected, pair.keep)), strict=True):
        np.testing.assert_allclose(np.where(keep, a, 0), np.where(keep, b, 0), 1e-8, 1e-10)


def keeps_rounding_small(ours: Ours) -> bool:
    """Whether training from weights that differ by their rounding ends at about the same ones.

    It does not where a norm meets values that are nearly alike: PyTorch's way is then one of many.
    """
    step = tinynn.compile(tinynn.value_and_grad(ours.step, has_aux=True))
    ends = []
    for factor in (1.0, 1.0 + 1e-15):
        params, state = tree.map(lambda p, f=factor: p * f, ours.point[0]), ours.state
        for _ in range(STEPS):
            (_, state), gradient = step(params, state)
            params = tree.map(lambda p, g: p - RATE * g, params, gradient)
        ends.append(tree.leaves(params))
    return all(np.allclose(a, b, 1e-11, 1e-12) for a, b in zip(*ends, strict=True))


@pytest.mark.only("torch")
@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=DRAWN or 2, deadline=None, derandomize=not DRAWN)
@given(data=st.data())
def test_a_layer_is_that_of_torch(kind: str, data: st.DataObject) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    draw = np.random.default_rng(data.draw(st.integers(0, 999)))
    with doubles(torch, data.draw(st.integers(0, 999))):
        pair = KINDS[kind](data, draw, torch.nn, kind)
        theirs = Theirs(pair, torch)
        ours = Ours(pair)
        like = pair.layer.init(0, *pair.inputs)[0]
        shapes = [(path, a.shape) for path, a in sorted(tree.paths(like))]
        assert shapes == [(path, a.shape) for path, a in sorted(tree.paths(ours.point[0]))]
        check_derivatives(ours, theirs, draw)
        try:
            check_training(ours, theirs)
        except AssertionError:
            assume(keeps_rounding_small(ours))
            raise


def test_every_layer_is_drawn() -> None:
    """But for what all of them stand in, what moves elements alone, and what draws numbers."""
    named = {n for n in layers.__all__ if isinstance(getattr(layers, n), type)}
    kinds = {n for n in named if issubclass(getattr(layers, n), layers.Layer)}
    assert kinds - set(KINDS) == {
        "Layer", "Sequential", "Concatenate", "Lambda", "Flatten", "Reshape", "Permute",
        "Temperature", "Dropout", "GaussianNoise", "RandomCrop", "RandomFlip", "RandomShift",
        "Cutout",
    }  # fmt: skip


#: Options that no draw varies, and where they are compared, or with what.
ELSEWHERE = {
    "weight_init": "PyTorch's weights are given",
    "recurrent_init": "PyTorch's weights are given",
    "bias_init": "PyTorch's weights are given",
    "start": "PyTorch's weights are given",
    "dropout": "draws numbers: tests/test_transformer.py",
    "synchronized": "is of several processes: tests/processes.py",
    "reset_after": "PyTorch has no other: the formula, in tests/test_recurrent.py",
    "balance": "PyTorch has none: the formula, in tests/test_containers.py",
    "parameter": "tests/test_norms.py",
    "name": "changes no number",
}


def note(layer: Any, seen: dict[tuple[str, str], set[str]]) -> None:
    """The values of the options of a layer and of those in it."""
    for field in fields(layer):
        value = getattr(layer, field.name)
        if field.default is not MISSING:
            seen[type(layer).__name__, field.name].add(repr(value))
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, layers.Layer):
                note(inner, seen)


@pytest.mark.only("torch")
def test_every_option_is_drawn() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)

    def draw(kind: str, data: st.DataObject) -> None:
        note(KINDS[kind](data, np.random.default_rng(0), torch.nn, kind).layer, seen)

    for kind in KINDS:
        quick = settings(max_examples=12, deadline=None, derandomize=True, database=None)
        quick(given(kind=st.just(kind), data=st.data())(draw))()
    fixed = {option for option, values in seen.items() if len(values) == 1}
    assert {(layer, option) for layer, option in fixed if option not in ELSEWHERE} == set()
