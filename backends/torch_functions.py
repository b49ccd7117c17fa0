"""The functions of compiled programs on PyTorch: its own names, and what it has in several calls.

None of them reads a value from the device.
"""

from typing import Any

import torch

__all__ = [
    "concat",
    "dynamic_slice",
    "dynamic_update_slice",
    "gated",
    "scattered",
    "sigmoid_pullback",
    "tanh_pullback",
]


def __getattr__(name: str) -> Any:
    return getattr(torch, name)


def __dir__() -> list[str]:
    return [*__all__, *dir(torch)]


def concat(*arrays: Any, axis: int = 0, out: Any = None) -> Any:
    """The arrays one after the other along an axis, new or into an array."""
    return torch.cat(arrays, axis, out=out)


def gated(g: Any, x: Any, out: Any) -> Any:
    """`g` where `x` is above zero, else zero, into an array."""
    return torch.ops.aten.threshold_backward.grad_input(g, x, 0, grad_input=out)


def scattered(indices: Any, updates: Any, axis: int, out: Any) -> Any:
    """`Backend.scatter_add` of zeros, into an array."""
    indices = torch.where(indices < 0, indices + out.shape[axis], indices)
    return out.zero_().index_add_(axis, indices, updates)


def sigmoid_pullback(g: Any, y: Any, out: Any) -> Any:
    """`g` times the slope of a sigmoid that gave `y`, into an array."""
    return torch.ops.aten.sigmoid_backward.grad_input(g, y, grad_input=out)


def tanh_pullback(g: Any, y: Any, out: Any) -> Any:
    """`g` times the slope of a tanh that gave `y`, into an array."""
    return torch.ops.aten.tanh_backward.grad_input(g, y, grad_input=out)


def dynamic_slice(x: Any, start: Any, size: int, axis: int = 0, out: Any = None) -> Any:
    """`Backend.dynamic_slice`, new or into an array."""
    return torch.index_select(x, axis, _places(x, start, size, axis), out=out)


def dynamic_update_slice(x: Any, update: Any, start: Any, axis: int = 0, out: Any = None) -> Any:
    """`Backend.dynamic_update_slice`, new or into an array, which may be `x` itself."""
    places = _places(x, start, update.shape[axis], axis)
    if out is None:
        return torch.index_copy(x, axis, places, update)
    if out is not x:
        out.copy_(x)
    return out.index_copy_(axis, places, update)


def _places(x: Any, start: Any, size: int, axis: int) -> Any:
    first = start.to(torch.int64).clamp(0, x.shape[axis] - size)
    return first.reshape(1) if size == 1 else torch.arange(size, device=x.device) + first
