"""Warnings and recordings point at the user's own line, whatever lies between."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinynn
from backends.user_code import user_frame
from tinynn import fit, fit_many
from tinynn.functional import relu
from tinynn.layers import Linear, Sequential

X = np.linspace(-1, 1, 60).reshape(20, 3)


def of_many_shapes() -> None:
    program = tinynn.compile(lambda x: x + 1)
    for rows in range(1, 40):
        program(np.ones(rows))


def diverging(engine: str) -> None:
    net = Sequential(Linear(4), relu, Linear(2))
    fit(net, X * 1e200, X[:, :2], epochs=3, optimizer="sgd", engine=engine, progress=False)


def all_diverging() -> None:
    net = Sequential(Linear(4), relu, Linear(2))
    fit_many(net, X * 1e200, X[:, :2], epochs=3, optimizer="sgd", seed=[0, 1])


def without_compiling() -> None:
    net = Sequential(lambda x: np.tanh(x), Linear(2))
    fit(net, X, X[:, :2], epochs=1, engine="calls", progress=False)


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    "run",
    [
        of_many_shapes,
        pytest.param(lambda: diverging("calls"), id="fit, calls"),
        pytest.param(lambda: diverging("eager"), id="fit, eager"),
        all_diverging,
        without_compiling,
    ],
)
def test_a_warning_names_the_line_that_calls_this_library(run: Callable[[], Any]) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run()
    assert seen
    assert {warning.filename for warning in seen} == {__file__}


def test_the_frame_of_the_user_is_the_innermost_that_is_not_ours() -> None:
    frame, depth = user_frame()
    assert frame is inspect.currentframe()
    assert depth == 0
