"""The convolution: bilinear, and both its transposes are convolutions again.

Every length of the derivations: `reach` is what a kernel with its gaps covers, `spread` what an
input with its gaps takes, and the cotangent has the stride's gaps.
"""

from typing import Any

import backends
from tinynn.rules.batching import BATCHING
from tinynn.rules.kinds import Bilinear
from tinynn.rules.special import differentiable


def _spread(lengths: Any, gaps: Any) -> list[int]:
    return [(n - 1) * d + 1 for n, d in zip(lengths, gaps, strict=True)]


def _lengths(g: Any, x: Any, weight: Any, settings: Any) -> Any:
    reach = _spread(weight.shape[:-2], settings["dilation"])
    spread = _spread(x.shape[1:-1], settings["input_dilation"])
    moved = _spread(g.shape[1:-1], settings["stride"])
    return zip(reach, spread, moved, settings["padding"], strict=True)


def _by_input(xp: Any, g: Any, x: Any, weight: Any, **settings: Any) -> Any:
    """The kernel turned round, stride and input dilation exchanged."""
    groups, spatial = settings["groups"], tuple(range(weight.ndim - 2))
    *kernel, inputs, outputs = weight.shape
    w = xp.reshape(xp.flip(weight, axis=spatial), (*kernel, inputs, groups, outputs // groups))
    last = len(spatial)
    w = xp.permute_dims(w, (*spatial, last + 2, last + 1, last))
    w = xp.reshape(w, (*kernel, outputs // groups, groups * inputs))
    padding = tuple(
        (r - 1 - low, n - m + low) for r, n, m, (low, _) in _lengths(g, x, weight, settings)
    )
    return conv(
        g, w, stride=settings["input_dilation"], padding=padding,
        input_dilation=settings["stride"], dilation=settings["dilation"], groups=groups,
    )  # fmt: skip


def _by_weight(xp: Any, g: Any, x: Any, weight: Any, **settings: Any) -> Any:
    """Batch and channels exchanged; the cotangent is the kernel, stride and dilation exchanged."""
    groups, inputs = settings["groups"], weight.shape[-2]
    spatial = tuple(range(1, weight.ndim - 1))
    last = weight.ndim - 1
    if groups == 1:
        turned = xp.permute_dims(x, (last, *spatial, 0))
    else:
        turned = xp.reshape(x, (*x.shape[:-1], groups, inputs))
        turned = xp.permute_dims(turned, (last + 1, *spatial, last, 0))
        turned = xp.reshape(turned, (inputs, *x.shape[1:-1], groups * x.shape[0]))
    padding = tuple(
        (low, m - n + r - low - 1) for r, n, m, (low, _) in _lengths(g, x, weight, settings)
    )
    y = conv(
        turned, xp.permute_dims(g, (*spatial, 0, last)), stride=settings["dilation"],
        padding=padding, input_dilation=settings["input_dilation"], dilation=settings["stride"],
        groups=groups,
    )  # fmt: skip
    return xp.permute_dims(y, (*spatial, 0, last))


@differentiable(Bilinear(_by_input, _by_weight))
def conv(x: Any, weight: Any, **settings: Any) -> Any:
    """The convolution of `backends.Backend.conv`, with all its settings."""
    backend = backends.of(x)
    with backend.scope():
        return backend.conv(x, weight, **settings)


def batch_conv(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """conv: a batched input is a longer batch, a batched weight more outputs, both more groups."""
    x, w = args
    if not batched[1]:
        y = f(xp.reshape(x, (size * x.shape[1], *x.shape[2:])), w, **kwargs)
        return xp.reshape(y, (size, x.shape[1], *y.shape[1:]))
    groups = kwargs["groups"]
    if batched[0]:
        x = xp.moveaxis(x, 0, -2)
        x = xp.reshape(x, (*x.shape[:-2], size * x.shape[-1]))
        w = xp.moveaxis(w, 0, -2)
        w = xp.reshape(w, (*w.shape[:-2], size * w.shape[-1]))
        y = f(x, w, **{**kwargs, "groups": size * groups})
        return xp.moveaxis(xp.reshape(y, (*y.shape[:-1], size, y.shape[-1] // size)), -2, 0)
    w = xp.reshape(w, (*w.shape[:-1], groups, w.shape[-1] // groups))
    w = xp.moveaxis(w, 0, -2)
    outputs = w.shape[-1]
    y = f(x, xp.reshape(w, (*w.shape[:-3], groups * size * outputs)), **kwargs)
    y = xp.moveaxis(xp.reshape(y, (*y.shape[:-1], groups, size, outputs)), -2, 0)
    return xp.reshape(y, (*y.shape[:-2], groups * outputs))


BATCHING[conv] = batch_conv
