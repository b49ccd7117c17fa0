"""The layers of tests/networks.py: every library and engine gives one answer, and PyTorch's."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tests.gradients import placed
from tests.networks import INPUTS, ROWS, X, loss_of, networks
from tests.variants import Variant
from tinynn import tree
from tinynn.optim import SGD

DRAW = np.random.default_rng(12)
TARGETS: dict[str, Any] = {
    "tied": X,
    "autoencoder": X,
    "siamese": DRAW.random(size=(ROWS, 1)),
    "heads": {"kind": DRAW.integers(0, 3, size=ROWS), "size": DRAW.normal(size=(ROWS, 1))},
}
Y = DRAW.normal(size=(ROWS, 2))
RATE, STEPS = 0.1, 4

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.reads_scalars]


def start(net: Any, x: Any) -> Any:
    inputs = x if isinstance(x, tuple) else (x,)
    return net.init(5, *inputs, dtype="float64")


def trained(name: str, net: Any, backend: backends.Backend, **settings: Any) -> tinynn.Model:
    """The network after a few steps of one batch each."""
    x = placed(INPUTS.get(name, X), backend, "float64")
    y = placed(TARGETS.get(name, Y), backend, "float64")
    params, state = start(net, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a step that is not compiled would say so
        return tinynn.fit(
            net, x, y, loss=loss_of(name), optimizer=SGD(RATE), batch_size=None, epochs=STEPS,
            params=params, state=state, shuffle=False, dtype="float64", **settings,
        )  # fmt: skip


def assert_alike(ours: Any, expected: dict[str, np.ndarray], backend: backends.Backend) -> None:
    found = dict(tree.paths(ours))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert_close(found[path], value, backend, rtol=1e-9, atol=1e-11)


def hosts(arrays: dict[str, Any], backend: backends.Backend) -> dict[str, np.ndarray]:
    return {path: backend.to_host(leaf) for path, leaf in arrays.items()}


ENGINES = {
    **dict.fromkeys(("numpy", "cupy", "cupy:1"), ("calls", "loops")),
    "numpy-readonly": (),
    "jax-x64": ("jit",),
}
NO_LOOPS = ("mixture",)  # `stack` is not written as loops


@pytest.mark.parametrize("name", networks())
def test_every_engine(name: str, variant: Variant, backend: backends.Backend) -> None:
    net = networks(rate=0.3)[name]
    eager = trained(name, net, backend, engine="eager")
    assert len(set(eager.history["loss"])) == STEPS
    numpy = trained(name, net, backends.get("numpy"), engine="eager")
    for ours, theirs in ((eager.params, numpy.params), (eager.state, numpy.state)):
        assert_alike(ours, dict(tree.paths(theirs)), backend)
    for engine in ENGINES.get(variant.id, ("calls",)):
        if engine == "loops" and name in NO_LOOPS:
            continue
        compiled = trained(name, net, backend, engine=engine)
        for ours, theirs in ((compiled.params, eager.params), (compiled.state, eager.state)):
            assert_alike(ours, hosts(dict(tree.paths(theirs)), backend), backend)
        np.testing.assert_allclose(compiled.history["loss"], eager.history["loss"], rtol=1e-9)


# The same in PyTorch: functions of (p, s, x), which set the state s in place and give the output
# and what is added to the loss.

Reference = Callable[[dict[str, Any], dict[str, Any], Any], tuple[Any, Any]]


def lin(p: dict[str, Any], name: str, x: Any) -> Any:
    y = x @ p[f"{name}.weight"]
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def residual(p: Any, s: Any, x: Any) -> Any:
    from torch.nn.functional import batch_norm, relu

    at = "0.inner.1"
    h = batch_norm(
        lin(p, "0.inner.0", x), s[f"{at}.mean"], s[f"{at}.var"], p[f"{at}.weight"],
        p[f"{at}.bias"], training=True, momentum=0.1,
    )  # fmt: skip
    return lin(p, "1", x + lin(p, "0.inner.4", relu(h))), 0.0


def two_inputs(p: Any, s: Any, x: Any) -> Any:
    return lin(p, "out", (lin(p, "image", x["image"]) + lin(p, "text", x["text"])).tanh()), 0.0


def tied(p: Any, s: Any, x: Any) -> Any:
    code = (x @ p["weight"] + p["bias"]).sigmoid()
    return code @ p["weight"].T + p["bias_out"], 0.0


def siamese(p: Any, s: Any, x: Any) -> Any:
    a, b = (lin(p, "tower.0", half).tanh() for half in x)
    return ((a - b) ** 2).sum(-1, keepdim=True), 0.0


def autoencoder(p: Any, s: Any, x: Any) -> Any:
    code = lin(p, "encoder", x).tanh()
    return lin(p, "decoder", code), 0.1 * (code**2).mean()


def mixture(p: Any, s: Any, x: Any) -> Any:
    gates = lin(p, "gate", x).softmax(-1)
    y = sum(gates[:, i : i + 1] * lin(p, f"expert{i}", x) for i in range(3))
    return y, 1.5 * (gates.mean(0) ** 2).sum()


def encoder(p: Any, s: Any, x: Any) -> Any:
    import torch
    from torch.nn.functional import gelu, layer_norm, multi_head_attention_forward

    def norm(name: str, x: Any) -> Any:
        return layer_norm(x, (4,), p[f"0.{name}.weight"], p[f"0.{name}.bias"])

    names = [f"0.attention.{part}" for part in ("query", "key", "value")]
    h = norm("norm1", x).transpose(0, 1)
    mixed, _ = multi_head_attention_forward(
        h, h, h, 4, 2, torch.cat([p[f"{n}.weight"].T for n in names]),
        torch.cat([p[f"{n}.bias"] for n in names]), None, None, False, 0.0,
        p["0.attention.out.weight"].T, p["0.attention.out.bias"],
    )  # fmt: skip
    x = x + mixed.transpose(0, 1)
    x = x + lin(p, "0.narrow", gelu(lin(p, "0.wide", norm("norm2", x))))
    return lin(p, "2", x.mean(1)), 0.0


def fourier(p: Any, s: Any, x: Any) -> Any:
    import torch

    angles = 2 * torch.pi * (x @ s["0.frequencies"])
    return lin(p, "1", torch.cat([angles.sin(), angles.cos()], -1)), 0.0


def warm_up(p: Any, s: Any, x: Any) -> Any:
    s["1.count"] += 1
    return lin(p, "2", lin(p, "0", x) * min(int(s["1.count"]) / 3, 1.0)), 0.0


def spectral(p: Any, s: Any, x: Any) -> Any:
    import torch
    from torch.nn.functional import normalize

    for i in (0, 2):
        weight, u = p[f"{i}.weight"], s[f"{i}.u"]
        with torch.no_grad():
            v = normalize(weight @ u, dim=0)
            u.copy_(normalize(weight.T @ v, dim=0))
        x = x @ weight / torch.dot(v, torch.mv(weight, u.clone()))
        x = x.tanh() if i == 0 else x
    return x, 0.0


def gated(p: Any, s: Any, x: Any) -> Any:
    from torch.nn.functional import glu

    return lin(p, "1", glu(lin(p, "0.both", x), -1)), 0.0


def highway(p: Any, s: Any, x: Any) -> Any:
    import torch

    return lin(p, "1", torch.lerp(x, lin(p, "0.change", x).relu(),
                                  lin(p, "0.gate", x).sigmoid())), 0.0  # fmt: skip


def heads(p: Any, s: Any, x: Any) -> Any:
    hidden = lin(p, "body.0", x).tanh()
    return {name: lin(p, name, hidden) for name in ("kind", "size")}, 0.0


def embedding(p: Any, s: Any, x: Any) -> Any:
    from torch.nn.functional import embedding as look_up

    return lin(p, "2", (look_up(x, p["0.table"]) + p["0.places"]).mean(1)), 0.0


def standard(p: Any, s: Any, x: Any) -> Any:
    weight = p["0.weight"]
    variance = weight.var(0, unbiased=False)
    weight = (weight - weight.mean(0)) / (variance + 1e-4).sqrt() * p["0.gain"]
    return lin(p, "2", (x @ weight).tanh()), 0.0


REFERENCES: dict[str, Reference] = {
    "residual": residual, "two inputs": two_inputs, "tied": tied, "siamese": siamese,
    "autoencoder": autoencoder, "mixture": mixture, "encoder": encoder, "fourier": fourier,
    "warm up": warm_up, "spectral": spectral, "gated": gated, "highway": highway, "heads": heads,
    "embedding": embedding, "standard": standard,
}  # fmt: skip


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", networks())
def test_training_is_that_of_pytorch(name: str, backend: backends.Backend) -> None:
    import torch
    from torch.nn.functional import cross_entropy, mse_loss

    net = networks()[name]
    x = placed(INPUTS.get(name, X), backend, "float64")
    y = placed(TARGETS.get(name, Y), backend, "float64")
    params, state = (dict(tree.paths(part)) for part in start(net, x))
    params = {path: leaf.clone().requires_grad_() for path, leaf in params.items()}
    state = {path: leaf.clone() for path, leaf in state.items()}
    descent, losses = torch.optim.SGD(params.values(), lr=RATE), []
    for _ in range(STEPS):
        output, added = REFERENCES[name](params, state, x)
        if name == "heads":
            loss = cross_entropy(output["kind"], y["kind"]) + mse_loss(output["size"], y["size"])
        else:
            loss = mse_loss(output, y) + added
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(float(loss.detach()))
    model = trained(name, net, backend, engine="eager")
    np.testing.assert_allclose(model.history["loss"], losses, rtol=1e-10)
    assert len(set(losses)) == STEPS
    assert_alike(model.params, hosts(params, backend), backend)
    assert_alike(model.state, hosts(state, backend), backend)
