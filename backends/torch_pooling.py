"""PyTorch's own pools, of arrays whose channels are last."""

from typing import Any

import torch

from backends.pooling import Array, Windows

_DTYPES = {torch.float32, torch.float64}


def takes(x: Array, windows: Windows) -> bool:
    """True for one or two axes, and padding that PyTorch has: alike at both ends, and short."""
    pairs = zip(windows.padding, windows.window, strict=True)
    short = all(low == high and 0 <= 2 * low <= length for (low, high), length in pairs)
    return short and len(windows.window) <= 2 and x.dtype in _DTYPES


def max_pool(x: Array, windows: Windows) -> Array:
    """`Backend.max_pool`."""
    return _last(torch.max_pool2d(_first(x), *_settings(windows)), x)


def max_pool_with_indices(x: Array, windows: Windows) -> tuple[Array, Array]:
    """`Backend.max_pool_with_indices`; the places are as PyTorch has them, channels first."""
    y, places = torch.ops.aten.max_pool2d_with_indices(_first(x), *_settings(windows))
    return _last(y, x), places


def max_pool_from_indices(g: Array, x: Array, places: Array, windows: Windows) -> Array:
    """`Backend.max_pool_from_indices`."""
    back = torch.ops.aten.max_pool2d_with_indices_backward
    return _last(back(_first(g), _first(x), *_settings(windows), False, places), x)


def _first(x: Array) -> Array:
    """The array with two spatial axes, its channels before them."""
    return (x.unsqueeze(1) if x.ndim == 3 else x).movedim(-1, 1)


def _last(y: Array, x: Array) -> Array:
    """The array with its channels last, and as many axes as `x`."""
    y = y.movedim(1, -1)
    return y.squeeze(1) if x.ndim == 3 else y


def _settings(windows: Windows) -> list[Any]:
    """Window, stride, padding and dilation as PyTorch has them."""
    window, stride, dilation, padding = windows
    front = 2 - len(window)
    lows = [low for low, _ in padding]
    return [
        [*[1] * front, *window],
        [*[1] * front, *stride],
        [*[0] * front, *lows],
        [*[1] * front, *dilation],
    ]
