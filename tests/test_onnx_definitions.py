"""ONNX: functions without a row of their own are written as the functions that define them."""

from typing import Any

import numpy as np
import pytest

import tinynn
from tests.onnx_files import assert_same, exported, made
from tinynn.layers import Linear, Sequential
from tinynn.trace import namespace

X = np.random.default_rng(7).normal(size=(4, 5))


@tinynn.custom_elementwise(lambda g, y, x: g / (1 + abs(x)) ** 2)
def softly(x):
    return x / (1 + abs(x))


@tinynn.custom_elementwise(lambda g, y, x: g / (3 * y * y), c="cbrt")
def cube_root(x):
    return namespace(x).sign(x) * namespace(x).abs(x) ** (1 / 3)


def _in_pairs(x):
    return namespace(x).reshape(x, (-1, 2, 2))


BY_DEFINITION: dict[str, Any] = {
    "custom_elementwise": softly,
    "custom_elementwise of C": cube_root,
    "several": lambda x: cube_root(x) * namespace(x).diff(softly(x), axis=1, prepend=x[:, :1]),
    "tensordot": lambda x: namespace(x).tensordot(x, namespace(x).ones_like(x[0, ...]), axes=1),
    "repeat": lambda x: namespace(x).repeat(x, 2, axis=1),
    "cumulative_prod": lambda x: namespace(x).cumulative_prod(x, axis=1),
    "trace": lambda x: namespace(x).linalg.trace(_in_pairs(x)),
    "matrix_power": lambda x: namespace(x).linalg.matrix_power(_in_pairs(x), 3),
    "in a loop": lambda x: tinynn.scan(lambda c, _: (cube_root(c) + c, None), x, length=3)[0],
}


@pytest.mark.parametrize("name", BY_DEFINITION)
def test_functions_without_a_row_are_what_they_are_made_of(name, tmp_path):
    model = made(Sequential(Linear(4), BY_DEFINITION[name]), X)
    assert_same(exported(model, tmp_path, X), model, X)
