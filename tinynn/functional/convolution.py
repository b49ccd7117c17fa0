"""Convolutions, transposed ones, and padding, in one to three spatial dimensions."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from backends import scoped
from tinynn.functional.errors import InputError, ShapeError
from tinynn.functional.windows import (
    Padding,
    channels_first,
    channels_last,
    per_axis,
    resolved,
)
from tinynn.rules.convolution import conv as _conv
from tinynn.trace import namespace
from tinynn.trace.scopes import composite

__all__ = ["conv", "conv_transpose"]

Array: TypeAlias = Any


def _checked(
    name: str, x: Array, weight: Array, bias: Array | None, groups: int, last: bool
) -> int:
    """The number of spatial axes."""
    namespace(*[each for each in (x, weight, bias) if each is not None])  # TypeError for no array
    spatial = weight.ndim - 2
    if not 1 <= spatial <= 3:
        raise ShapeError(
            f"{name}: expected a weight of shape (*kernel, inputs // groups, outputs) with one to "
            f"three axes of the kernel, got {tuple(weight.shape)}. To fix it: give it 3 to 5 axes"
        )
    if x.ndim != weight.ndim:
        order = "(batch, *spatial, channels)" if last else "(batch, channels, *spatial)"
        raise ShapeError(
            f"{name}: expected input of shape {order} with {spatial} spatial axes, got "
            f"{tuple(x.shape)}. To fix it: reshape it to {weight.ndim} axes"
        )
    if 0 in (x.shape[1:-1] if last else x.shape[2:]):
        raise ShapeError(
            f"{name}: expected spatial axes of one element or more, got input of shape "
            f"{tuple(x.shape)}. To fix it: leave out what is empty"
        )
    inputs, outputs = x.shape[-1 if last else 1], weight.shape[-1]
    if not inputs or not outputs:
        raise ShapeError(
            f"{name}: expected one channel or more of the input and of the output, got {inputs} "
            f"and {outputs}. To fix it: leave out what has none"
        )
    if 0 in weight.shape[:-2]:
        raise ShapeError(
            f"{name}: expected a kernel of one element or more along each axis, got a weight of "
            f"shape {tuple(weight.shape)}. To fix it: leave out what is empty"
        )
    if isinstance(groups, bool) or groups < 1 or inputs % groups or outputs % groups:
        raise ShapeError(
            f"{name}: expected groups that divide the {inputs} channels of the input and the "
            f"{outputs} of the output, got {groups}. To fix it: choose a common divisor"
        )
    if weight.shape[-2] * groups != inputs:
        raise ShapeError(
            f"{name}: expected input of {weight.shape[-2] * groups} channels for a weight of shape "
            f"{tuple(weight.shape)} in {groups} groups, got {inputs} (channels "
            f"{'last' if last else 'first'}). To fix it: make the weight for this input"
        )
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ShapeError(
            f"{name}: expected a bias of shape ({outputs},), got {tuple(bias.shape)}. To fix it: "
            "give one number an output channel"
        )
    return spatial


def _like(xp: Any, x: Array, weight: Array) -> tuple[Array, Array]:
    """Input and weight in one dtype, as libraries' own convolutions want them."""
    if x.dtype != weight.dtype:
        dtype = xp.result_type(x.dtype, weight.dtype)
        x, weight = xp.astype(x, dtype), xp.astype(weight, dtype)
    return x, weight


@composite
@scoped
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    channels: str = "last",
) -> Array:
    """The convolution of networks, a cross-correlation: the kernel is not turned round.

    Parameters
    ----------
    x
        (batch, spatial, inputs), or (batch, inputs, spatial) with `channels="first"`.
    weight
        (kernel, inputs // groups, outputs): one to three axes of the kernel.
    bias
        (outputs,), or None.
    stride, dilation
        The step of the kernel, and the step between its elements: one for all axes, or each its
        own.
    padding
        Zeros around x: "valid" for none; "same" for a result of ceil(length / stride), the odd zero
        behind, as in JAX and Keras; "causal" (one axis) for all in front; a number for both ends of
        all axes; or a pair (before, after) for each axis.
    groups
        Each group of inputs makes its own group of outputs; as many as inputs is depthwise.
    channels
        "last" or "first": the axis of the channels, in x and in the result.

    Returns
    -------
    Array
        (batch, out, outputs) with `out = (length + before + after - reach) // stride + 1` and
        `reach = (kernel - 1) * dilation + 1`.

    Raises
    ------
    ShapeError
        Where the kernel is larger than the padded input, or shapes do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[[1.0], [2.0], [4.0]]])
    >>> conv(x, np.ones((2, 1, 1))).tolist()
    [[[3.0], [6.0]]]
    >>> conv(np.ones((1, 8, 8, 3)), np.ones((3, 3, 3, 5)), stride=2, padding="same").shape
    (1, 4, 4, 5)
    """
    last = channels_last("conv", channels)
    axes = _checked("conv", x, weight, bias, groups, last)
    steps, gaps = (
        per_axis("conv", "stride", stride, axes),
        per_axis("conv", "dilation", dilation, axes),
    )
    xp = namespace(x, weight)
    x = x if last else xp.moveaxis(x, 1, -1)
    kernel = tuple(weight.shape[:-2])
    ends = resolved("conv", padding, tuple(x.shape[1:-1]), kernel, steps, gaps)
    x, weight = _like(xp, x, weight)
    y = _conv(
        x, weight, stride=steps, padding=ends, input_dilation=(1,) * axes, dilation=gaps,
        groups=groups,
    )  # fmt: skip
    return channels_first(xp, y if bias is None else xp.add(y, bias), last)


@composite
@scoped
def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    channels: str = "last",
) -> Array:
    """The transposed convolution: each element of x puts a copy of the kernel into the result.

    Parameters
    ----------
    x
        (batch, spatial, inputs), or (batch, inputs, spatial) with `channels="first"`.
    weight
        (kernel, inputs // groups, outputs).
    bias
        (outputs,), or None.
    stride, dilation
        The step between copies, and between the kernel's elements.
    padding
        What is cut from the result, as the convolution whose transpose it is pads its input:
        "valid" nothing, "same" to the length * stride, a number, or a pair for each axis.
    output_padding
        Elements more behind, to choose among the lengths that a convolution makes equal: fewer
        than the stride, or the dilation, as in PyTorch.
    groups, channels
        As in `conv`.

    Returns
    -------
    Array
        (batch, out, outputs) with `out = (length - 1) * stride + reach - before - after +
        output_padding`, as in PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[[1.0], [2.0]]])
    >>> conv_transpose(x, np.asarray([[[1.0]], [[3.0]]]), stride=2).tolist()
    [[[1.0], [3.0], [2.0], [6.0]]]
    """
    name = "conv_transpose"
    last = channels_last(name, channels)
    axes = _checked(name, x, weight, bias, groups, last)
    steps, gaps = per_axis(name, "stride", stride, axes), per_axis(name, "dilation", dilation, axes)
    more = per_axis(name, "output_padding", output_padding, axes, least=0)
    if any(m >= max(s, d) for m, s, d in zip(more, steps, gaps, strict=True)):
        raise InputError(
            f"{name}: expected output_padding below stride {stride}, or dilation, got "
            f"{output_padding}: a convolution makes no lengths equal that differ by more. To fix "
            "it: pad what comes out"
        )
    xp = namespace(x, weight)
    x = x if last else xp.moveaxis(x, 1, -1)
    kernel = tuple(weight.shape[:-2])
    if padding == "same":  # of the convolution whose input is `stride` times as long
        whole = tuple(n * s for n, s in zip(x.shape[1:-1], steps, strict=True))
        cut = resolved(name, padding, whole, kernel, steps, gaps)
        more = tuple(
            m + max(s - (k - 1) * d - 1, 0)
            for m, s, k, d in zip(more, steps, kernel, gaps, strict=True)
        )
    else:
        cut = resolved(name, padding, None, kernel, steps, gaps)
    ends = tuple(
        ((k - 1) * d - low, (k - 1) * d - high + m)
        for k, d, (low, high), m in zip(kernel, gaps, cut, more, strict=True)
    )
    for n, s, (low, high), k, d in zip(x.shape[1:-1], steps, ends, kernel, gaps, strict=True):
        if (n - 1) * s + 1 + low + high < (k - 1) * d + 1:
            raise ShapeError(
                f"{name}: expected a result of one element or more along each axis, got none for "
                f"input of shape {tuple(x.shape)} and padding {padding!r}. To fix it: cut less"
            )
    x, weight = _like(xp, x, weight)
    y = _conv(
        x, xp.flip(weight, axis=tuple(range(axes))), stride=(1,) * axes, padding=ends,
        input_dilation=steps, dilation=gaps, groups=groups,
    )  # fmt: skip
    return channels_first(xp, y if bias is None else xp.add(y, bias), last)
