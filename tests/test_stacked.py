"""Stacked recurrent layers and carries that are given: against PyTorch, and on every backend."""

from itertools import product
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests.checks import assert_close
from tests.gradients import placed
from tinynn import layers, tree
from tinynn.layers import GRU, LSTM, RNN, Bidirectional, Linear, ShapeError, Stacked
from tinynn.trace import namespace

KINDS = (RNN, GRU, LSTM)
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(4, 6, 3))
LENGTHS = np.asarray([6, 2, 1, 5])
EXACT: dict[str, float] = {"rtol": 1e-10, "atol": 1e-12}


def drawn(like: Any) -> Any:
    """A tree of arrays of the same shapes, of which none is 0."""
    draw = np.random.default_rng(1)
    return tree.map(lambda a: 0.5 * draw.normal(size=a.shape), like)


def of_torch(torch: Any, one: Any, params: Any, count: int, both: bool) -> Any:
    """PyTorch's layers with these parameters."""
    theirs = getattr(torch.nn, type(one).__name__)(
        3, one.features, count, batch_first=True, bidirectional=both, dtype=torch.float64
    )
    names = {"weight_ih": "weight", "weight_hh": "recurrent_weight"}
    names |= {"bias_ih": "bias", "bias_hh": "recurrent_bias"}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            kind, _, number = name.removesuffix("_reverse").rpartition("_l")
            part = params[number]
            if both:
                part = part["opposite" if name.endswith("_reverse") else "layer"]
            array = part.get(names[kind])
            parameter.copy_(torch.zeros(()) if array is None else torch.tensor(array.T.copy()))
    return theirs


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("kind", "both", "padded"), list(product(KINDS, (False, True), (False, True)))
)
def test_outputs_carries_and_gradients_are_those_of_pytorch(
    kind: Any, both: bool, padded: bool
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    one = kind(5, return_sequences=True)
    layer = Stacked(Bidirectional(one) if both else one, layers=2)
    params, start = drawn(layer.init(0, X)[0]), drawn(layer.carry(X))
    inputs = (X, LENGTHS, start) if padded else (X, start)
    y, carry = layer(params, *inputs)

    theirs = of_torch(torch, one, params, 2, both)
    part = "layer", "opposite"
    parts = [start[n][p] for n in "01" for p in part] if both else [start[n] for n in "01"]
    begun = [
        torch.tensor(np.stack([p[name] for p in parts]), requires_grad=True) for name in parts[0]
    ]
    x: Any = torch.tensor(X, requires_grad=True)
    rnn = torch.nn.utils.rnn
    given = rnn.pack_padded_sequence(x, LENGTHS, True, False) if padded else x
    ys, last = theirs(given, tuple(begun) if kind is LSTM else begun[0])
    ys = rnn.pad_packed_sequence(ys, True)[0] if padded else ys
    valid = np.arange(6) < (LENGTHS[:, None] if padded else 6)
    np.testing.assert_allclose(y * valid[..., None], ys.detach().numpy(), **EXACT)
    ended = [carry[n][p] for n in "01" for p in part] if both else [carry[n] for n in "01"]
    for name, array in zip(parts[0], last if kind is LSTM else [last], strict=True):
        np.testing.assert_allclose([p[name] for p in ended], array.detach().numpy(), **EXACT)

    def loss(params: Any, x: Any, start: Any) -> Any:
        y, _ = layer(params, x, *inputs[1:-1], start)
        xp = namespace(y)
        return xp.sum(xp.sin(y) * y * valid[..., None])

    gradient, of_x, of_start = tinynn.grad(loss, argnums=(0, 1, 2))(params, X, start)
    (torch.sin(ys) * ys).sum().backward()
    np.testing.assert_allclose(of_x, x.grad.numpy(), **EXACT)
    slopes = [of_start[n][p] for n in "01" for p in part] if both else [of_start[n] for n in "01"]
    for name, array in zip(parts[0], begun, strict=True):
        np.testing.assert_allclose([p[name] for p in slopes], array.grad.numpy(), **EXACT)
    for number in "01":
        found = gradient[number]["layer"] if both else gradient[number]
        for name, kept in (("weight_ih_l", "weight"), ("weight_hh_l", "recurrent_weight")):
            expected = getattr(theirs, name + number).grad.numpy()
            np.testing.assert_allclose(found[kept].T, expected, **EXACT)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_sequence_in_pieces_is_the_whole(kind: Any, backend: Backend) -> None:
    """One program for every piece, and the carry after the last one."""
    if backend.name in ("jax", "dpnp") and kind is not LSTM:
        pytest.skip("the layer with the larger carry is enough where programs take seconds")
    layer = Stacked(kind(4, return_sequences=True), layers=2)
    params, host = drawn(layer.init(0, X)[0]), drawn(layer.carry(X))
    expected, ended = layer(params, X, host)
    params, x, carry = placed((params, X, host), backend, backend.default_float)
    step = tinynn.compile(lambda params, x, carry: layer(params, x, carry))
    for start in (0, 3):
        y, carry = step(params, x[:, start : start + 3, :], carry)
        part = expected[:, start : start + 3]
        assert_close(y, part, backend, rtol=1e-5, atol=1e-6)
    for found, want in zip(tree.leaves(carry), tree.leaves(ended), strict=True):
        assert_close(found, want, backend, rtol=1e-5, atol=1e-6)
    zeros = layer.carry(x)
    assert backend == tinynn.trace.backend_of(tree.leaves(zeros)[0])
    assert all(a.dtype == x.dtype and tuple(a.shape) == (4, 4) for a in tree.leaves(zeros))


@pytest.mark.only("torch")
def test_truncated_gradients_are_those_of_detached_states() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    one = LSTM(5, return_sequences=True)
    layer = Stacked(one, layers=2)
    params = drawn(layer.init(0, X)[0])
    theirs, carry, state = of_torch(torch, one, params, 2, False), layer.carry(X), None

    def loss(params: Any, x: Any, carry: Any) -> Any:
        y, carry = layer(params, x, carry)
        return namespace(y).sum(y**2), carry

    for start in (0, 2, 4):
        piece = X[:, start : start + 2]
        (value, carry), gradient = tinynn.value_and_grad(loss, has_aux=True)(params, piece, carry)
        theirs.zero_grad()
        ys, state = theirs(torch.tensor(piece), state)
        state = tuple(part.detach() for part in state)
        expected = (ys**2).sum()
        expected.backward()
        assert value == pytest.approx(expected.item(), rel=1e-12)
        found, want = gradient["0"]["recurrent_weight"], theirs.weight_hh_l0.grad.numpy()
        np.testing.assert_allclose(found.T, want, **EXACT)


@pytest.mark.only("numpy")
def test_dropout_stands_between_the_layers_alone() -> None:
    """Where all is dropped, the upper layer reads zeros, and its own output is whole."""
    layer = Stacked(GRU(6), layers=2, dropout=1 - 1e-9)
    params, state = drawn(layer.init(0, X)[0]), layer.init(0, X)[1]
    below = GRU(6, return_sequences=True)(params["0"], X)
    out, _ = layer.apply(params, state, X, key=3, training=True)
    np.testing.assert_array_equal(out, GRU(6)(params["1"], 0 * below))
    np.testing.assert_array_equal(layer(params, X), GRU(6)(params["1"], below))


@pytest.mark.only("numpy")
def test_settings_and_carries_are_checked() -> None:
    layer = Stacked(Bidirectional(LSTM(4)), layers=3, dropout=0.1)
    assert layers.from_config(layers.to_config(layer)) == layer
    assert layer(layer.init(0, X)[0], X).shape == (4, 8)
    gru = GRU(4)
    params = gru.init(0, X)[0]
    with pytest.raises(ShapeError, match=r"expected a carry of 'h', .* here \(4, 4\), got .*c"):
        gru(params, X, LSTM(4).carry(X))
    with pytest.raises(ShapeError, match=r"expected a carry with one for each of '0', '1', got"):
        Stacked(gru).init(0, X, gru.carry(X))
    for wrong, message in (
        (lambda: Stacked(Linear(3)), "RNN, GRU, LSTM or a Bidirectional"),
        (lambda: Stacked(gru, layers=0), "layers"),
        (lambda: Stacked(gru, dropout=1.5), "dropout"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
