"""The row of the convolution: Conv, or ConvTranspose where the input has gaps."""

from typing import Any

from tinynn.onnx.emitter import Emitter, OnnxError
from tinynn.transforms.graph import Constant, Node


def conv(out: Emitter, node: Node, bias: Node | None = None) -> str:
    """`tinynn.rules.convolution.conv`: channels last there, first in ONNX; perhaps with a bias."""
    settings, weight = node.kwargs, node.args[1]
    axes = len(settings["stride"])
    x = out.transpose(out.value(node.args[0], node.dtype), _first(axes))
    added = [] if bias is None else [out.value(bias, node.dtype)]
    kernel = [int(n) for n in weight.shape[:-2]]
    shared = {"group": settings["groups"], "dilations": list(settings["dilation"])}
    if max(settings["input_dilation"]) == 1:
        w = out.turned(weight, node.dtype, [axes + 1, axes, *range(axes)])
        ends = zip(*settings["padding"], strict=True)
        if any(min(pair) < 0 for pair in settings["padding"]):
            raise OnnxError("expected padding of zero or more, got negative padding, which cuts")
        pads = [n for side in ends for n in side]
        y = out.emit("Conv", [x, w, *added], strides=list(settings["stride"]), pads=pads, **shared)
    else:
        w = _turned_round(out, weight, node.dtype, settings["groups"])
        y = _transposed(out, settings, [x, w, *added], kernel, shared)
    return out.transpose(y, [0, *range(2, axes + 2), 1])


def _first(axes: int) -> list[int]:
    return [0, axes + 1, *range(1, axes + 1)]


def _turned_round(out: Emitter, weight: Any, dtype: Any, groups: int) -> str:
    """The kernel of ConvTranspose: turned round, and the inputs of all groups in front."""
    *kernel, inputs, outputs = [int(n) for n in weight.shape]
    axes = len(kernel)
    order = [axes + 1, axes, axes + 2, *range(axes)]
    shapes = [*kernel, inputs, groups, outputs // groups], [groups * inputs, -1, *kernel]
    if isinstance(weight, Constant) and weight.dtype == dtype:
        back = (slice(None, None, -1),) * axes
        return out.stored(
            weight, ("turned round", groups),
            lambda host: host[back].reshape(shapes[0]).transpose(order).reshape(shapes[1]),
        )  # fmt: skip
    ends = [out.integers([n] * axes) for n in (-1, -(2**31))]
    steps = [out.integers(range(axes)), out.integers([-1] * axes)]
    w = out.emit("Slice", [out.value(weight, dtype), *ends, *steps])
    w = out.transpose(out.emit("Reshape", [w, out.integers(shapes[0])]), order)
    return out.emit("Reshape", [w, out.integers(shapes[1])])


def _transposed(
    out: Emitter, settings: Any, given: list[str], kernel: list[int], shared: dict[str, Any]
) -> str:
    """ConvTranspose counts what is cut, not what is added."""
    reach = [(k - 1) * d for k, d in zip(kernel, settings["dilation"], strict=True)]
    low = [r - a for r, (a, _) in zip(reach, settings["padding"], strict=True)]
    high = [r - b for r, (_, b) in zip(reach, settings["padding"], strict=True)]
    more = [max(-n, 0) for n in high]
    steps = settings["input_dilation"]
    if max(settings["stride"]) > 1 or min(low) < 0 or any(
        m >= max(s, d) for m, s, d in zip(more, steps, settings["dilation"], strict=True)
    ):  # fmt: skip
        raise OnnxError("expected a convolution that ONNX's ConvTranspose can be, got another one")
    return out.emit(
        "ConvTranspose", given, strides=list(steps), pads=low + [max(n, 0) for n in high],
        output_padding=more, **shared,
    )  # fmt: skip
