"""ONNX: recurrent layers, loops and branches; and how few operators networks of images need."""

from typing import Any

import numpy as np
import pytest

import tinynn
from tests.onnx_files import assert_same, exported, made
from tinynn import functional, layers
from tinynn.layers import GRU, LSTM, RNN, BatchNorm, Bidirectional, Flatten, Linear, Sequential
from tinynn.trace import namespace
from tinynn.training import Model

onnx = pytest.importorskip("onnx")
DRAW = np.random.default_rng(7)
RECURRENT: dict[str, Any] = {
    "rnn": RNN(3),
    "gru": GRU(3, return_sequences=True),
    "lstm": LSTM(3, reverse=True),
    "both ways": Bidirectional(GRU(3, return_sequences=True)),
    "two layers": Sequential(LSTM(3, return_sequences=True), RNN(2)),
}


@pytest.mark.parametrize(
    ("name", "padded"),
    [(name, padded) for name in RECURRENT for padded in (False, True) if name != "two layers"]
    + [("two layers", False)],
)
def test_recurrent_layers(name, padded, tmp_path):
    x = DRAW.normal(size=(4, 6, 2))
    given = (x, np.asarray([6, 1, 3, 5])) if padded else x
    model = made(RECURRENT[name], given)
    runs = exported(model, tmp_path, given)
    assert_same(runs, model, given)
    scans = [n for n in onnx.load(tmp_path / "model.onnx").graph.node if n.op_type == "Scan"]
    layers_of_it = 1 + (name in ("both ways", "two layers"))
    # As operators of their own, except with lengths and where the network is but the layer.
    assert len(scans) == (layers_of_it if padded or name in ("rnn", "gru", "lstm") else 0)


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
@pytest.mark.parametrize("options", [{}, {"return_sequences": True, "reverse": True}])
def test_a_recurrent_layer_is_one_operator(kind, options, tmp_path):
    for bias in (True, False):
        net = Sequential(Linear(4), kind(3, bias=bias, **options), Linear(2))
        found = operators(net, DRAW.normal(size=(4, 6, 2)), tmp_path)
        assert found.count(kind.__name__) == 1
        assert "Scan" not in found


def test_loops_and_branches_of_a_users_own(tmp_path):
    def powers(x: Any) -> Any:
        total, parts = tinynn.scan(lambda c, _: (c * 0.5, c + x), x, None, 3)
        return total, parts

    def halved(x: Any) -> Any:
        xp = namespace(x)
        small = tinynn.while_loop(lambda c: xp.max(abs(c)) > 0.1, lambda c: c * 0.5, x, bound=40)
        return tinynn.cond(xp.sum(x) > 0.0, lambda a, b: a - b, lambda a, b: a * b, small, x)

    def net(x: Any) -> Any:
        total, parts = powers(x)
        return {"total": total, "parts": namespace(x).moveaxis(parts, 0, 1), "half": halved(x)}

    x, model = DRAW.normal(size=(4, 5)).astype(np.float32), Model(net, {})
    assert_same(exported(model, tmp_path, x), model, x)


def operators(net: Any, x: Any, folder: Any) -> list[str]:
    """Those of the exported network, which runs as it predicts."""
    model = made(net, x)
    assert_same(exported(model, folder, x), model, x)
    return [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]


def test_one_operator_for_a_convolution_with_its_bias_and_for_a_pool(tmp_path):
    net = Sequential(
        layers.Conv2d(4, padding="same"), functional.relu, layers.MaxPool2d(3, stride=2, padding=1),
        layers.Conv2d(4, bias=False, stride=2, padding=((0, 1), (1, 0))), BatchNorm(),
        functional.relu, layers.AvgPool2d(2, stride=1, padding="same"),
        layers.ConvTranspose2d(2, stride=2), functional.gelu, Flatten(), Linear(3),
    )  # fmt: skip
    found = operators(net, DRAW.normal(size=(4, 9, 9, 2)), tmp_path)
    assert [name for name in found if name not in ("Slice", "Reshape")] == (
        "Transpose Conv Relu MaxPool Conv BatchNormalization Relu AveragePool ConvTranspose Gelu "
        "Transpose Gemm"
    ).split()


def test_channels_first_need_no_transpose(tmp_path):
    first: dict[str, Any] = {"channels": "first"}
    net = Sequential(
        layers.Conv1d(4, dilation=2, groups=2, **first), functional.relu,
        layers.MaxPool1d(2, dilation=2, stride=1, **first), layers.AvgPool1d(3, padding=1, **first),
        Flatten(), Linear(3),
    )  # fmt: skip
    found = operators(net, DRAW.normal(size=(4, 2, 12)), tmp_path)
    assert found == "Conv Relu MaxPool AveragePool Reshape Gemm".split()


def test_a_pool_under_a_transformation_is_what_it_was_made_of(tmp_path):
    def net(x: Any) -> Any:
        return tinynn.vmap(lambda one: functional.max_pool(one[None, ...])[0, ...])(x)

    x = DRAW.normal(size=(4, 6, 2))
    assert "MaxPool" not in operators(Sequential(Linear(2), net), x, tmp_path)
