"""A hundred steps of training with options that Hypothesis draws: the numbers of torch.nn."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
import tinynn
from tinynn import tree
from tinynn.functional import relu
from tinynn.layers import (
    GRU,
    LSTM,
    RNN,
    BatchNorm,
    Conv1d,
    Conv2d,
    GroupNorm,
    LayerNorm,
    Linear,
    RMSNorm,
    Sequential,
)
from tinynn.trace import namespace

STEPS, RATE = 100, 0.05
KINDS = ("linear", "conv1d", "conv2d", "batch", "layer", "group", "rms", "rnn", "gru", "lstm")


def pair(kind: str, data: st.DataObject, nn: Any) -> tuple[Any, Any, tuple[int, ...]]:
    """A layer, torch.nn's, and the shape of an input, channels last."""
    batch, width = data.draw(st.integers(2, 4)), 2 * data.draw(st.integers(1, 3))
    out, bias = data.draw(st.sampled_from([2, 4])), data.draw(st.booleans())
    shape = (batch, data.draw(st.integers(3, 6)), width)
    if kind == "linear":
        return Linear(out, bias=bias), nn.Linear(width, out, bias=bias), shape
    if kind in ("conv1d", "conv2d"):
        axes = int(kind[4])
        options: dict[str, Any] = {
            "kernel_size": data.draw(st.integers(1, 3)),
            "stride": data.draw(st.integers(1, 2)),
            "dilation": data.draw(st.integers(1, 2)),
            "groups": data.draw(st.sampled_from([1, 2])),
            "padding": data.draw(st.integers(1, 2)),
            "bias": bias,
        }
        ours, theirs = ((Conv1d, nn.Conv1d), (Conv2d, nn.Conv2d))[axes - 1]
        return ours(out, **options), theirs(width, out, **options), (batch, *(5,) * axes, width)
    epsilon = data.draw(st.sampled_from([1e-5, 1e-2]))
    if kind == "batch":
        theirs = nn.BatchNorm1d(width, eps=epsilon, momentum=0.1)
        return BatchNorm(epsilon=epsilon, momentum=0.9), theirs, shape
    if kind == "layer":
        return LayerNorm(epsilon=epsilon), nn.LayerNorm(width, eps=epsilon), shape
    if kind == "group":
        return GroupNorm(2, epsilon=epsilon), nn.GroupNorm(2, width, eps=epsilon), shape
    if kind == "rms":
        return RMSNorm(epsilon=epsilon), nn.RMSNorm(width, eps=epsilon), shape
    recurrent = {"rnn": RNN, "gru": GRU, "lstm": LSTM}[kind]
    theirs = getattr(nn, kind.upper())(width, out, bias=bias, batch_first=True)
    return recurrent(out, bias=bias, return_sequences=True), theirs, shape


def weight_of(name: str, params: Any, like: Any) -> Any:
    """Our weight as torch.nn has it."""
    name = name.removesuffix("_l0").replace("weight_ih", "weight").replace("bias_ih", "bias")
    name = name.replace("weight_hh", "recurrent_weight").replace("bias_hh", "recurrent_bias")
    if name not in params:  # we have one bias where PyTorch adds two
        return np.zeros(tuple(like.shape))
    return np.moveaxis(params[name], (-1, -2), (0, 1)) if params[name].ndim > 1 else params[name]


@pytest.mark.only("torch")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_hundred_steps_are_those_of_torch(kind: str, data: st.DataObject) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    layer, theirs, shape = pair(kind, data, torch.nn)
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = draw.normal(size=shape)
    params, state = layer.init(0, x)
    params = tree.map(lambda a: 0.5 * draw.normal(size=a.shape), params)
    theirs = theirs.double()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(torch.tensor(weight_of(name, params, parameter)))
    split = params.get("bias") is not None and kind in ("rnn", "lstm")  # of it two take a step

    def loss(params: Any, state: Any) -> Any:
        y, state = layer.apply(params, state, x, training=True)
        xp = namespace(y)
        return xp.mean(xp.sin(y) * y), state

    step = tinynn.compile(tinynn.value_and_grad(loss, has_aux=True))
    last = -1 if kind in ("conv1d", "conv2d", "batch", "group") else None
    for _ in range(STEPS):
        (value, state), gradient = step(params, state)
        if split:
            gradient = {**gradient, "bias": 2 * gradient["bias"]}
        params = tree.map(lambda p, g: p - RATE * g, params, gradient)
        given_x = torch.tensor(x)
        y = theirs(given_x if last is None else given_x.movedim(-1, 1))
        y = y[0] if isinstance(y, tuple) else y
        expected = (torch.sin(y) * y).mean()
        theirs.zero_grad()
        expected.backward()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter -= RATE * parameter.grad
    assert float(value) == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    for name, parameter in theirs.named_parameters():
        if split and name.startswith("bias"):
            continue
        found = weight_of(name, params, parameter)
        np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=1e-8, atol=1e-10)
    if split:
        both = (theirs.bias_ih_l0 + theirs.bias_hh_l0).detach().numpy()
        np.testing.assert_allclose(params["bias"], both, rtol=1e-8, atol=1e-10)
    if kind == "batch":
        np.testing.assert_allclose(state["mean"], theirs.running_mean.numpy(), rtol=1e-8)
        np.testing.assert_allclose(state["var"], theirs.running_var.numpy(), rtol=1e-8)


LAYERS = {
    "dense": (Sequential(Linear(5), relu, Linear(3)), (24, 6)),
    "recurrent": (Sequential(GRU(4), Linear(3)), (24, 5, 2)),
}


@pytest.mark.only("torch")
@pytest.mark.reads_scalars
@pytest.mark.usefixtures("compiler_of_loops")
@pytest.mark.parametrize("name", LAYERS)
def test_loops_train_in_the_memory_of_tensors(backend: Any, name: str) -> None:
    """Machine code has the numbers of the calls, and writes into nothing that was given."""
    (net, shape), draw = LAYERS[name], np.random.default_rng(0)
    host = draw.normal(size=shape).astype("float32")
    x, y = backend.asarray(host), backend.asarray(draw.integers(0, 3, len(host)))
    given: dict[str, Any] = {"epochs": 3, "batch_size": 8, "seed": 1, "progress": False}
    params = net.init(0, x)[0]
    before = tree.map(lambda leaf: backend.to_host(leaf).copy(), params)
    calls, loops = (
        tinynn.fit(net, x, y, params=params, engine=engine, **given)
        for engine in ("calls", "loops")
    )
    np.testing.assert_allclose(loops.history["loss"], calls.history["loss"], rtol=1e-5)
    pairs = zip(*(tree.leaves(m.params) for m in (calls, loops)), strict=True)
    for theirs, ours in pairs:
        assert backends.of(ours) == backend
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(
            backend.to_host(ours), backend.to_host(theirs), rtol=1e-3, atol=1e-5
        )
    np.testing.assert_array_equal(backend.to_host(x), host)
    for kept, leaf in zip(tree.leaves(before), tree.leaves(params), strict=True):
        np.testing.assert_array_equal(backend.to_host(leaf), kept)


@pytest.mark.only("torch")
@pytest.mark.reads_scalars
@pytest.mark.usefixtures("compiler_of_loops")
def test_many_networks_in_loops_are_each_one_alone(backend: Any) -> None:
    draw, net = np.random.default_rng(0), Sequential(Linear(5), relu, Linear(3))
    x = backend.asarray(draw.normal(size=(24, 4)).astype("float32"))
    y = backend.asarray(draw.integers(0, 3, 24))
    given: dict[str, Any] = {"epochs": 2, "batch_size": 8, "engine": "loops", "progress": False}
    stack = tinynn.fit_many(net, x, y, networks=2, **given)
    for seed in range(2):
        alone = tinynn.fit(net, x, y, seed=seed, **given)
        np.testing.assert_allclose(stack[seed].history["loss"], alone.history["loss"], rtol=1e-6)
