"""Layers as texts and as JSON, and built again."""

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.sample_network import NETWORK, Scale
from tinynn import functional
from tinynn.layers import Dropout, Linear, Sequential, from_config, to_config


def test_shown_as_it_is_written() -> None:
    assert repr([Sequential(Linear(2), functional.relu), Scale(3.0)]) == (
        "[Sequential(Linear(2), relu), Scale(start=3.0)]"
    )
    assert str(NETWORK) == (
        "Sequential(Flatten(), Linear(7), silu, BatchNorm(), Dropout(rate=0.3), "
        "Sequential(Linear(4, bias=False), LayerNorm()), elu(alpha=0.5), Scale(), "
        "Linear(2, weight_init=orthogonal, bias_init=Constant(0.1)))"
    )


def test_description_round_trip() -> None:
    text = json.dumps(to_config(NETWORK))
    again = from_config(json.loads(text), custom={"Scale": Scale})
    assert json.dumps(to_config(again)) == text
    assert again.layers[:6] == NETWORK.layers[:6]
    assert (again.layers[6].func, again.layers[6].keywords) == (functional.elu, {"alpha": 0.5})
    assert again.layers[7:] == NETWORK.layers[7:]


def test_numbers_of_other_kinds_are_described() -> None:
    assert to_config(Linear(np.int64(3)))["features"] == 3
    assert json.dumps(to_config(Dropout(np.float32(0.5))))


def named_relu() -> Callable[[Any], Any]:
    def relu(x: Any) -> Any:
        return x

    return relu


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x: x, "no name to be found again by"),
        (named_relu(), "would be read back as"),
        (functools.partial(functional.elu, np.ones(1)), "cannot be written down"),
    ],
)
def test_what_cannot_be_described(layer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_config(Sequential(layer))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"class": "Convolution", "features": 3}, "no class is known as 'Convolution'; known are"),
        ({"class": "relu"}, "no class is known as 'relu'"),
        ({"class": ["Linear"]}, "no class is known as"),
        ({"function": "Linear"}, "no function is known as 'Linear'"),
        ({"function": "os.system"}, "no function is known as 'os.system'"),
        ({}, "no function is known as None"),
        ({"class": "Linear"}, "the settings written down for Linear do not fit it"),
        ({"class": "Linear", "features": 3, "colour": 1}, "do not fit it: .*colour"),
        ({"class": "Linear", "features": "many"}, "expected features to be a whole number"),
        ({"class": "Sequential"}, "the settings written down for Sequential do not fit it"),
        ({"class": "Sequential", "layers": ["relu"]}, "do not fit it: .*layer 0"),
        ({"class": "Sequential", "layers": 3}, "do not fit it"),
        ({"class": "Dropout", "rate": None}, "expected rate to be a number"),
    ],
)
def test_what_cannot_be_built(description: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_config(description)


def test_custom_functions_come_by_name() -> None:
    def square(x: Any) -> Any:
        return x * x

    net = Sequential(square, Linear(1))
    with pytest.raises(ValueError, match=r"pass your own as custom=\{'square': \.\.\.\}"):
        from_config(to_config(net))
    assert from_config(to_config(net), custom={"square": square}) == net
