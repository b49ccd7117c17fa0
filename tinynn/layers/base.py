"""Layer: settings without arrays. Its parameters live beside it, in nested dicts of arrays."""

from numbers import Integral
from typing import Any, TypeAlias

from backends import random
from tinynn.config import Configured
from tinynn.functional import DtypeError, ShapeError
from tinynn.trace import backend_of, namespace

Array: TypeAlias = Any
Params: TypeAlias = dict[str, Any]

STATISTIC = "running_"


class Layer(Configured):
    """What a layer does; derive from it with a frozen dataclass and write `__call__`.

    A layer with parameters writes `init` too; one that acts differently in training writes
    `train`, and sets `uses_key = False` if it draws no random numbers there.
    """

    @property
    def uses_key(self) -> bool:
        """Whether `train` draws random numbers; keys are made only for layers that do."""
        return type(self).train is not Layer.train

    def init(self, key: Array | int, x: Array) -> Params:
        """The parameters, from an example batch x: its shape, dtype and device decide theirs.

        key: (2,) of backends.random, or an int to make one from, on x's device.
        """
        return {}

    def __call__(self, params: Params, x: Array) -> Array:
        """The output, in inference."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(self, params, x)")

    def train(self, params: Params, x: Array, key: Array | int) -> tuple[Array, Params]:
        """The output in training, and the params with their statistics brought up to date."""
        return self(params, x), params


def as_key(key: Array | int, x: Array) -> Array:
    """The key itself, or one made of an int seed on the device of x."""
    return random.key(int(key), backend_of(x)) if isinstance(key, Integral) else key


def shown(shape: tuple[int, ...]) -> str:
    """(32, 64) as "(batch, 64)": the number of rows is no part of what fits."""
    return "(" + ", ".join(["batch", *map(str, shape[1:])]) + ")" if shape else "()"


def require_features(layer: Layer, x: Array) -> int:
    """The width of x: (batch, ..., features), floats. Else ShapeError or DtypeError."""
    if x.ndim < 2:
        raise ShapeError(
            f"{layer}: expected input of shape (batch, features), got {shown(x.shape)}; "
            "give one row a sample: xp.reshape(x, (-1, 1)) for samples of one number each"
        )
    if not namespace(x).isdtype(x.dtype, ("real floating", "complex floating")):
        raise DtypeError(
            f"{layer}: expected input of a floating-point dtype, got {x.dtype}; "
            "convert it: xp.astype(x, xp.float32)"
        )
    return int(x.shape[-1])


def require_fit(layer: Layer, x: Array, features: int, dtype: Any) -> None:
    """ShapeError or DtypeError unless x is (batch, ..., features) of the parameters' dtype."""
    if x.ndim < 2 or x.shape[-1] != features:
        middle = shown(x.shape)[:-1].split(", ")[1:-1] if x.ndim > 2 else []
        expected = ", ".join(["batch", *middle, str(features)])
        raise ShapeError(
            f"{layer}: expected input of shape ({expected}), got {shown(x.shape)}; "
            "give it data of the width it was made for, or make new parameters with init"
        )
    if x.dtype != dtype:
        raise DtypeError(
            f"{layer}: expected input of dtype {dtype}, as its parameters are, got {x.dtype}; "
            "convert one of them with xp.astype"
        )


def split(params: Params) -> tuple[Params, Params]:
    """(trainable, statistics): entries whose names start with "running_" are statistics.

    Dicts that would be left empty are left out; `merge` puts the two together again.

    >>> split({"0": {"weight": 1, "running_mean": 2}, "1": {"bias": 3}})
    ({'0': {'weight': 1}, '1': {'bias': 3}}, {'0': {'running_mean': 2}})
    """
    trainable: Params = {}
    statistics: Params = {}
    for name, value in params.items():
        if name.startswith(STATISTIC):
            statistics[name] = value
            continue
        inner = split(value) if isinstance(value, dict) else (value, {})
        for part, kept in zip((trainable, statistics), inner, strict=True):
            if not isinstance(kept, dict) or kept:
                part[name] = kept
    return trainable, statistics


def merge(trainable: Params, statistics: Params) -> Params:
    """The reverse of `split`.

    >>> merge({"0": {"weight": 1}, "1": {"bias": 3}}, {"0": {"running_mean": 2}})
    {'0': {'weight': 1, 'running_mean': 2}, '1': {'bias': 3}}
    """
    merged = dict(trainable)
    for name, value in statistics.items():
        merged[name] = merge(merged.get(name, {}), value) if isinstance(value, dict) else value
    return merged
