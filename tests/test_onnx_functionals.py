"""ONNX: functions that are no activations, and layers with what inference has to forget."""

from typing import Any

import numpy as np
import pytest

from tests.onnx_files import assert_same, exported, made
from tinynn import functional
from tinynn.functional import activations, piecewise
from tinynn.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Linear,
    MultiHeadAttention,
    Sequential,
    Stacked,
)
from tinynn.trace import namespace
from tinynn.training import Model

onnx = pytest.importorskip("onnx")

DRAW = np.random.default_rng(5)
ROWS, IMAGE, STEPS, HEADS = (4, 6), (4, 6, 6, 2), (4, 6, 4), (4, 2, 5, 4)


def array(*shape: int) -> Any:
    return DRAW.normal(size=shape).astype(np.float32)


def last_of(x: Any) -> Any:
    """The place of the largest number of the first row."""
    return namespace(x).argmax(x[0, :])


KERNEL, BIAS, MATRIX, TABLE = array(3, 3, 2, 4), array(4), array(6, 3), array(7, 3)
MASK = np.asarray([[True, False], [True, True]])
FUNCTIONS: dict[str, dict[str, tuple[Any, tuple[int, ...]]]] = {
    "adaptive_avg_pool": {"": (lambda x: functional.adaptive_avg_pool(x, (4, 1)), IMAGE)},
    "adaptive_max_pool": {"": (lambda x: functional.adaptive_max_pool(x, 4), IMAGE)},
    "avg_pool": {"": (lambda x: functional.avg_pool(x, 3, stride=2, padding=1), IMAGE)},
    "max_pool": {"": (lambda x: functional.max_pool(x, 2, dilation=2), IMAGE)},
    "conv": {
        "": (lambda x: functional.conv(x, KERNEL, BIAS, stride=(2, 1), padding="same"), IMAGE),
        "first": (lambda x: functional.conv(x, KERNEL, channels="first"), (4, 2, 6, 6)),
    },
    "conv_transpose": {"": (lambda x: functional.conv_transpose(x, KERNEL, BIAS, stride=2), IMAGE)},
    "dropout": {"in inference": (lambda x: x, ROWS)},  # which does not call it
    "dynamic_slice": {
        "": (lambda x: functional.dynamic_slice(x, last_of(x), 2, axis=1), ROWS),
    },
    "dynamic_update_slice": {
        "": (lambda x: functional.dynamic_update_slice(x, x[:, :2], last_of(x), axis=1), ROWS),
    },
    "linear": {"": (lambda x: functional.linear(x, MATRIX), ROWS)},
    "pad": {"": (lambda x: functional.pad(x, ((1, 0), (0, 2)), 0.5), IMAGE)},
    "rotary": {
        "": (functional.rotary, HEADS),
        "positions": (lambda x: functional.rotary(x, np.asarray([3, 9])), HEADS),
    },
    "sinusoidal": {
        "": (lambda x: x + functional.sinusoidal(np.arange(6), 4, dtype=x.dtype), STEPS),
    },
    "upsample": {
        "": (lambda x: functional.upsample(x, (2, 3)), IMAGE),
        "linear": (lambda x: functional.upsample(x, 2, method="linear"), IMAGE),
    },
    "attention": {
        "": (lambda x: functional.attention(x, 2.0 * x, x - 1.0), HEADS),
        "causal": (lambda x: functional.attention(x, x, x, causal=True, scale=0.5), HEADS),
        "mask": (lambda x: functional.attention(x, x, x, mask=MASK[None, None, ...]), HEADS),
    },
}  # fmt: skip
#: Of whole numbers, in tests/test_onnx.py and tests/test_transformer.py.
OF_INTEGERS = {"embedding", "one_hot"}
CASES = [(name, case) for name, cases in FUNCTIONS.items() for case in cases]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_functions(name, case, tmp_path):
    function, shape = FUNCTIONS[name][case]
    net = Sequential(Linear(shape[-1]), function)
    x = array(*shape)
    model = made(net, x)
    assert_same(exported(model, tmp_path, x), model, x)


def test_no_functional_is_left_out():
    one_array = {*activations.__all__, *piecewise.__all__}  # tests/test_onnx.py
    assert one_array | FUNCTIONS.keys() | OF_INTEGERS == set(functional.__all__)


def test_embedding(tmp_path):
    ids = DRAW.integers(0, 7, size=(4, 3))
    model = Model(lambda ids: functional.embedding(ids, TABLE), {})
    assert_same(exported(model, tmp_path, ids), model, ids)


LAYERS: dict[str, tuple[Any, bool]] = {
    "stacked": (Stacked(GRU(3), layers=2, dropout=0.5), False),
    "stacked, with lengths": (Stacked(LSTM(3, return_sequences=True), layers=2), True),
    "stacked, both ways": (Stacked(Bidirectional(GRU(3)), layers=3, dropout=0.1), False),
    "attention with dropout": (MultiHeadAttention(2, dropout=0.5), False),
    "shared keys, rotary": (
        MultiHeadAttention(2, key_heads=1, rotary=True, causal=True, dropout=0.2), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, tmp_path):
    layer, padded = LAYERS[name]
    x: Any = array(*STEPS)
    x = (x, np.asarray([6, 1, 3, 5])) if padded else x
    model = made(layer, x)
    assert_same(exported(model, tmp_path, x), model, x, rows=(1, 4))


def test_layers_inside_a_network_are_operators(tmp_path):
    x = array(*STEPS)
    net = Sequential(Linear(4), Stacked(GRU(3, return_sequences=True), layers=2), Linear(2))
    model = made(net, x)
    assert_same(exported(model, tmp_path, x), model, x)
    found = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert found.count("GRU") == 2
