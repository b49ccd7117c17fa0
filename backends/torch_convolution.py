"""PyTorch's own convolutions, under the one function that is its own two transposes."""

from collections.abc import Sequence
from math import prod

import array_api_compat.torch as xp
import torch

from backends import convolution
from backends.convolution import Array, Settings


def conv(x: Array, weight: Array, settings: Settings) -> Array:
    """`Backend.conv`: forward, by a small result as a weight's gradient, or transposed."""
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape, settings.dilation, strict=False)]
    if not (prod(x.shape) and prod(weight.shape)):
        return convolution.conv(xp, x, weight, settings)
    if max(settings.input_dilation) > 1:
        y = _transposed(x, weight, reach, settings)
        if y is not None:
            return y
        x = convolution.dilated(xp, x, settings.input_dilation)
    stride, padding, _, dilation, groups = settings
    out = [
        (n + low + high - r) // s + 1
        for n, (low, high), r, s in zip(x.shape[1:-1], padding, reach, stride, strict=True)
    ]
    if 0 < prod(out) < prod(weight.shape[:-2]):
        return _of_weight(x, weight, out, settings)
    x, ends = _ends(x, padding)
    x = torch.movedim(x, -1, 1)
    w = torch.movedim(weight, (-1, -2), (0, 1))
    y = torch.convolution(x, w, None, stride, ends, dilation, False, [0] * len(ends), groups)
    return torch.movedim(y, 1, -1)


def _ends(x: Array, padding: Sequence[tuple[int, int]]) -> tuple[Array, list[int]]:
    """The zeros that PyTorch adds at either end itself, and the array with the others."""
    if all(low == high >= 0 for low, high in padding):
        return x, [low for low, _ in padding]
    return _padded(x, padding), [0] * len(padding)


def _padded(x: Array, padding: Sequence[tuple[int, int]]) -> Array:
    ends = [n for pair in reversed(padding) for n in pair]
    if min(ends) < 0 < max(ends):  # zeros are cut too, where more is cut than there was
        x = torch.nn.functional.pad(x, [0, 0, *(max(n, 0) for n in ends)])
        ends = [min(n, 0) for n in ends]
    return torch.nn.functional.pad(x, [0, 0, *ends])


def _transposed(x: Array, weight: Array, reach: list[int], settings: Settings) -> Array | None:
    """A convolution of an input with gaps, where PyTorch's transposed one can be asked for it."""
    stride, padding, input_dilation, dilation, groups = settings
    cut = [r - 1 - low for r, (low, _) in zip(reach, padding, strict=True)]
    more = [high - low for low, high in padding]
    limits = map(max, input_dilation, dilation)
    fits = all(0 <= m < limit for m, limit in zip(more, limits, strict=True))
    if max(stride) > 1 or min(cut) < 0 or not fits:
        return None
    axes = len(cut)
    w = torch.flip(weight, list(range(axes)))
    w = w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups)
    w = torch.movedim(w, (-2, -3, -1), (0, 1, 2))
    w = w.reshape(-1, *w.shape[2:])
    x = torch.movedim(x, -1, 1)
    y = torch.convolution(x, w, None, input_dilation, cut, dilation, True, more, groups)
    return torch.movedim(y, 1, -1)


def _of_weight(x: Array, weight: Array, out: list[int], settings: Settings) -> Array:
    """The same sums as the gradient by a weight: x had its batch and channels swapped."""
    stride, padding, _, dilation, groups = settings
    *lengths, inputs, outputs = weight.shape
    high = [
        (k - 1) * s + 1 + (n - 1) * d - size - low
        for k, s, n, d, size, (low, _) in zip(
            out, stride, lengths, dilation, x.shape[1:-1], padding, strict=True
        )
    ]
    x, ends = _ends(x, [(low, end) for (low, _), end in zip(padding, high, strict=True)])
    x = x.reshape(*x.shape[:-1], groups, inputs)
    x = torch.movedim(x, (-1, -2, 0), (0, 1, 2))
    x = x.reshape(inputs, -1, *x.shape[3:])
    g = torch.movedim(weight, (-2, -1), (0, 1))
    # oneDNN goes by the weight's layout where the input's, of one channel, says nothing.
    w = torch.movedim(x.new_empty((outputs, *out, x.shape[1] // groups)), -1, 1)
    zeros = [0] * len(out)
    _, y, _ = torch.ops.aten.convolution_backward(
        g, x, w, None, dilation, ends, stride, False, zeros, groups, (False, True, False)
    )
    return torch.movedim(y, (1, 0), (0, -1))
