"""PyTorch's own pools and upsampling, of arrays whose channels are last."""

from collections.abc import Callable
from typing import Any

import torch

from backends.pooling import AnyWindows, Array, Ints, Parts, Pooling

_DTYPES = {torch.float32, torch.float64}
_LINEAR = "upsample_{kind}linear{}d"


class TorchPooling(Pooling):
    """PyTorch's pools: the places of the largest elements are as it has them, channels first."""

    def takes_pool(self, x: Array, windows: AnyWindows) -> bool:
        """True for up to three axes, and padding that PyTorch has: alike at both ends, short."""
        if x.dtype not in _DTYPES or len(windows[0]) > 3:
            return False
        if isinstance(windows, Parts):
            return True
        pairs = zip(windows.padding, windows.window, strict=True)
        return all(low == high and 0 <= 2 * low <= length for (low, high), length in pairs)

    def max_pool(self, x: Array, windows: AnyWindows) -> Array:
        if isinstance(windows, Parts):
            return self.max_pool_with_indices(x, windows)[0]
        return _last(_own("max_pool{}d", x)(_first(x), *_settings(windows)), x)

    def max_pool_pullback(self, g: Array, x: Array, windows: AnyWindows) -> Array:
        return self.max_pool_from_indices(g, x, self.max_pool_with_indices(x, windows)[1], windows)

    def max_pool_pushforward(self, t: Array, x: Array, windows: AnyWindows) -> Array:
        places = self.max_pool_with_indices(x, windows)[1]
        chosen = _first(t).flatten(2).gather(2, places.flatten(2))
        return _last(chosen.reshape(places.shape), x)

    def max_pool_with_indices(self, x: Array, windows: AnyWindows) -> tuple[Array, Array]:
        parts = isinstance(windows, Parts)
        own = _own("adaptive_max_pool{}d" if parts else "max_pool{}d_with_indices", x)
        y, places = own(_first(x), *_settings(windows))
        return _last(y, x), places

    def max_pool_from_indices(
        self, g: Array, x: Array, places: Array, windows: AnyWindows
    ) -> Array:
        if isinstance(windows, Parts):
            back = _own("adaptive_max_pool{}d_backward", x)
            return _last(back(_first(g), _first(x), places), x)
        back = _own("max_pool{}d_with_indices_backward", x)
        return _last(back(_first(g), _first(x), *_settings(windows), False, places), x)

    def avg_pool(self, x: Array, windows: AnyWindows) -> Array:
        own = _own("_adaptive_avg_pool{}d" if isinstance(windows, Parts) else "avg_pool{}d", x)
        return _last(own(_first(x), *_averaged(windows)), x)

    def avg_pool_pullback(self, g: Array, lengths: Ints, windows: AnyWindows) -> Array:
        x = g.new_empty((g.shape[0], *lengths, g.shape[-1]))  # for its shape and order of memory
        if isinstance(windows, Parts):
            return _last(_own("_adaptive_avg_pool{}d_backward", x)(_first(g), _first(x)), x)
        back = _own("avg_pool{}d_backward", x)
        return _last(back(_first(g), _first(x), *_averaged(windows)), x)

    def takes_upsample(self, x: Array) -> bool:
        return x.dtype in _DTYPES and x.ndim <= 5

    def upsample_linear(self, x: Array, scale: Ints) -> Array:
        x1, none = _first(x), (None,) * max(len(scale), 2)
        lengths = _scaled(x1, scale, lambda n, times: n * times)
        return _last(_own(_LINEAR, x)(x1, lengths, False, *none), x)

    def upsample_linear_pullback(self, g: Array, scale: Ints) -> Array:
        g1, none = _first(g), (None,) * max(len(scale), 2)
        shape = [*g1.shape[:2], *_scaled(g1, scale, lambda n, times: n // times)]
        return _last(_own(f"{_LINEAR}_backward", g)(g1, list(g1.shape[2:]), shape, False, *none), g)


def _own(name: str, x: Array) -> Any:
    """PyTorch's function of that name for the spatial axes of `_first(x)`."""
    axes = max(x.ndim - 2, 2)
    return getattr(torch.ops.aten, name.format(axes, kind={2: "bi", 3: "tri"}[axes]))


def _scaled(x: Array, scale: Ints, by: Callable[[int, int], int]) -> list[int]:
    """The spatial lengths of `_first(x)`, longer or shorter by `scale`."""
    times = [*[1] * (2 - len(scale)), *scale]
    return [by(n, each) for n, each in zip(x.shape[2:], times, strict=True)]


def _first(x: Array) -> Array:
    """The array with two spatial axes or three, its channels before them."""
    return (x.unsqueeze(1) if x.ndim == 3 else x).movedim(-1, 1)


def _last(y: Array, x: Array) -> Array:
    """The array with its channels last, and as many axes as `x`."""
    y = y.movedim(1, -1)
    return y.squeeze(1) if x.ndim == 3 else y


def _settings(windows: AnyWindows) -> list[Any]:
    """Sizes; or window, stride, padding and dilation: as PyTorch has them."""
    front = 2 - len(windows[0])
    if isinstance(windows, Parts):
        return [[*[1] * front, *windows.size]]
    lows = [low for low, _ in windows.padding]
    return [
        [*[1] * front, *windows.window],
        [*[1] * front, *windows.stride],
        [*[0] * front, *lows],
        [*[1] * front, *windows.dilation],
    ]


def _averaged(windows: AnyWindows) -> list[Any]:
    """The same of a mean, which has no dilation and does not count what padding adds."""
    settings = _settings(windows)
    return settings if isinstance(windows, Parts) else [*settings[:3], False, False, None]
