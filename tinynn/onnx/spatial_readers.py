"""The rows of convolutions, pools and resizing: layers with channels first."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tinynn import layers
from tinynn.onnx import operators
from tinynn.onnx.builder import Builder
from tinynn.onnx.emitter import DTYPES
from tinynn.onnx.source import Step

Pairs = list[tuple[int, int]]


def _setting(numbers: Sequence[int]) -> Any:
    """One number where all axes have the same."""
    return int(numbers[0]) if len(set(numbers)) == 1 else tuple(int(n) for n in numbers)


def _padding(pairs: Pairs) -> Any:
    """ "valid", one number, or pairs."""
    ends = {end for pair in pairs for end in pair}
    if ends == {0}:
        return "valid"
    return ends.pop() if len(ends) == 1 else tuple(pairs)


def _layer(kind: str, axes: int, step: Step) -> Any:
    if not 1 <= axes <= 3:
        raise step.fail(f"one to three spatial axes, not {axes}")
    return getattr(layers, f"{kind}{axes}d")


def _lengths(step: Step) -> list[int]:
    """The lengths of the spatial axes, which some settings follow from."""
    lengths = step.shape()[2:]
    if None in lengths:
        raise step.fail("an input of known height and width, which its settings follow from")
    return [int(n or 0) for n in lengths]


class _Window:
    """The settings of a window or kernel that is moved over spatial axes."""

    def __init__(self, step: Step, kernel: Sequence[int]) -> None:
        self.step, self.kernel, self.axes = step, list(kernel), len(kernel)
        given = step.attributes.get
        self.stride = list(given("strides") or [1] * self.axes)
        self.dilation = list(given("dilations") or [1] * self.axes)
        self.reach = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilation, strict=True)]
        self.auto = step.text("auto_pad", "NOTSET")

    @property
    def pairs(self) -> Pairs:
        """Padding before and after each axis."""
        if self.auto == "VALID":
            return [(0, 0)] * self.axes
        if self.auto != "NOTSET":
            return self._same()
        pads = list(self.step.attributes.get("pads") or [0] * 2 * self.axes)
        return list(zip(pads[: self.axes], pads[self.axes :], strict=True))

    def _same(self) -> Pairs:
        pairs = []
        for n, s, r in zip(_lengths(self.step), self.stride, self.reach, strict=True):
            missing = max((-(-n // s) - 1) * s + r - n, 0)
            less, more = missing // 2, missing - missing // 2
            pairs.append((less, more) if self.auto == "SAME_UPPER" else (more, less))
        return pairs

    def padding(self) -> Any:
        """As our layers have it."""
        upper = self.auto == "SAME_UPPER"
        return "same" if upper else _padding(self.pairs)

    def rounded_up(self) -> Pairs:
        """Padding with that of the last window, where a length is rounded up."""
        if not self.step.attributes.get("ceil_mode"):
            return self.pairs
        pairs = []
        for n, s, r, (low, high) in zip(
            _lengths(self.step), self.stride, self.reach, self.pairs, strict=True
        ):
            count = -(-(n + low + high - r) // s) + 1
            count -= (count - 1) * s >= n + low  # the last window starts within the input
            pairs.append((low, max(high, (count - 1) * s + r - n - low)))
        return pairs


def _conv(build: Builder, step: Step) -> None:
    weight, bias = step.known(1, "weights"), step.given(2)
    window, groups = _Window(step, weight.shape[2:]), step.attributes.get("group", 1)
    _check_channels(step, weight.shape[1] * groups)
    layer = _layer("Conv", window.axes, step)(
        weight.shape[0], kernel_size=_setting(window.kernel), stride=_setting(window.stride),
        dilation=_setting(window.dilation), groups=groups,
        padding=window.padding(), bias=bias is not None, channels="first",
    )  # fmt: skip
    params = {"weight": weight.transpose(*range(2, weight.ndim), 1, 0)}
    _with_bias(build, step, layer, params, bias)


def _check_channels(step: Step, channels: int) -> None:
    if step.shape()[1] not in (None, channels):
        raise step.fail(f"an input of {channels} channels, as its weights are for")


def _with_bias(build: Builder, step: Step, layer: Any, params: Any, bias: Any) -> None:
    if bias is None and step.input(2):
        raise step.fail("a bias that is constant")
    params |= {} if bias is None else {"bias": bias}
    build.call(step, layer, [step.input(0)], params, arrays=step.inputs[1:])


def _conv_transpose(build: Builder, step: Step) -> None:
    weight, bias = step.known(1, "weights"), step.given(2)
    groups, (inputs, share, *kernel) = step.attributes.get("group", 1), weight.shape
    window = _Window(step, kernel)
    _check_channels(step, inputs)
    more = list(step.attributes.get("output_padding") or [0] * window.axes)
    wanted = step.attributes.get("output_shape")
    if wanted is None and window.auto in ("NOTSET", "VALID"):
        pairs = window.pairs
    else:
        pairs = _cut(step, window, more, wanted)
    layer = _layer("ConvTranspose", window.axes, step)(
        share * groups, kernel_size=_setting(kernel), stride=_setting(window.stride),
        dilation=_setting(window.dilation), groups=groups, padding=_padding(pairs),
        output_padding=_setting(more), bias=bias is not None, channels="first",
    )  # fmt: skip
    axes = range(3, weight.ndim + 1)
    w = weight.reshape(groups, inputs // groups, share, *kernel).transpose(*axes, 1, 0, 2)
    w = w.reshape(*kernel, inputs // groups, groups * share)
    _with_bias(build, step, layer, {"weight": w}, bias)


def _cut(step: Step, window: _Window, more: list[int], wanted: Any) -> Pairs:
    """The cuts along each axis that give the result the lengths that are asked for."""
    pairs, lengths = [], _lengths(step)
    for axis, (n, s, r) in enumerate(zip(lengths, window.stride, window.reach, strict=True)):
        length = n * s if wanted is None else list(wanted)[-window.axes :][axis]
        total = s * (n - 1) + more[axis] + r - length
        if total < 0:
            more[axis], total = more[axis] - total, 0
        less, rest = total // 2, total - total // 2
        pairs.append((less, rest) if window.auto == "SAME_UPPER" else (rest, less))
    return pairs


def _max_pool(build: Builder, step: Step) -> None:
    if len(step.outputs) > 1 and step.outputs[1] in step.source.uses:
        raise step.fail("no use of its indices")
    if step.source.kind(step.input(0)) in (DTYPES["int8"], DTYPES["uint8"]):
        raise step.fail("an input of floats")
    window = _Window(step, step.attributes["kernel_shape"])
    if window.auto.startswith("SAME") and set(window.dilation) != {1}:
        raise step.fail("pads that are numbers, with dilations")  # runtimes have other ones
    padding = _padding(window.rounded_up())
    layer = _layer("MaxPool", window.axes, step)(
        _setting(window.kernel), stride=_setting(window.stride), padding=padding,
        dilation=_setting(window.dilation), channels="first",
    )  # fmt: skip
    build.call(step, layer)


def _average_pool(build: Builder, step: Step) -> None:
    window, pairs = _Window(step, step.attributes["kernel_shape"]), None
    if set(window.dilation) != {1}:
        raise step.fail("dilations of 1")
    padding: Any = window.rounded_up()
    if step.attributes.get("count_include_pad") and any(map(any, padding)):
        pairs = window.pairs
        if padding != pairs:
            raise step.fail("a length that is not rounded up where padding is counted")
        padding = [(0, 0)] * window.axes
    layer = _layer("AvgPool", window.axes, step)(
        _setting(window.kernel), stride=_setting(window.stride), padding=_padding(padding),
        channels="first",
    )  # fmt: skip
    if pairs is not None:
        layer = layers.Sequential(layers.Pad(_padding(pairs), channels="first"), layer)
    build.call(step, layer)


def _global(kind: str) -> Any:
    def row(build: Builder, step: Step) -> None:
        build.call(step, getattr(layers, kind)(1, channels="first"))

    return row


def _pad(build: Builder, step: Step) -> None:
    mode, value = step.text("mode", "constant"), step.scalar("value", 0.0, 2)
    pads, axes = step.integers("pads", 1), step.integers("axes", 3)
    if pads is None or mode not in ("constant", "edge", "reflect", "wrap"):
        raise step.fail("constant pads, and a mode of constant, edge, reflect or wrap")
    rank, half = step.rank(), len(pads) // 2
    pairs = [(0, 0)] * rank
    for axis, low, high in zip(axes or range(rank), pads[:half], pads[half:], strict=True):
        pairs[axis] = low, high
    spatial = rank in (3, 4, 5) and not any(pairs[0] + pairs[1])
    if mode == "constant" and spatial:
        padding = _padding(pairs[2:])
        layer: Any = layers.Pad(0 if padding == "valid" else padding, value=value, channels="first")
    else:
        settings = {"pads": tuple(pairs), "value": value, "mode": mode}
        layer = partial(operators.pad_axes, **settings)
    build.call(step, layer, [step.input(0)])


def _resize(build: Builder, step: Step) -> None:
    scales = _scales(step)
    mode = step.text("mode", "nearest")
    step.input(1)  # the region, which only tf_crop_and_resize has a use for
    whole = all(n >= 1 and float(n).is_integer() for n in scales)
    if not whole or step.rank() not in (3, 4, 5) or set(scales[:2]) != {1.0}:
        raise step.fail("whole factors of the spatial axes")
    if mode in ("linear", "bilinear") and _is_half_pixel(step):
        method = "linear"
    elif mode == "nearest" and _repeats(step):
        method = "nearest"
    else:
        raise step.fail("the mode nearest, or linear between the centres of pixels")
    factors = [int(n) for n in scales[2:]]
    layer = layers.Upsample(_setting(factors), method=method, channels="first")
    build.call(step, layer, [step.input(0)])


def _is_half_pixel(step: Step) -> bool:
    where = step.text("coordinate_transformation_mode", "half_pixel")
    return (
        step.operator == "Resize"
        and step.source.opset > 10
        and where in ("half_pixel", "pytorch_half_pixel")
    )


def _repeats(step: Step) -> bool:
    """True if the nearest element is the one whose copy it is, for whole factors."""
    where = step.text("coordinate_transformation_mode", "half_pixel")
    nearest = step.text("nearest_mode", "round_prefer_floor")
    if step.operator == "Upsample" or step.source.opset < 11:
        return True
    if where == "asymmetric":
        return nearest == "floor"
    return where in ("half_pixel", "pytorch_half_pixel") and nearest.startswith("round")


def _scales(step: Step) -> list[float]:
    """How many times as long each axis becomes."""
    old = step.operator == "Upsample" or step.source.opset < 11
    if "scales" in step.attributes:
        return [float(n) for n in step.attributes["scales"]]
    place = 1 if old else 2
    scales = step.given(place)
    if scales is None or not scales.size:
        for name in ("axes", "keep_aspect_ratio_policy"):  # the shape of the result says as much
            step.attributes.get(name)
        step.input(3)
        after, before = step.source.shape(step.outputs[0]), step.shape()
        if after is None or None in after or None in before:
            raise step.fail("factors that are constant")
        scales = [a / b for a, b in zip(after, before, strict=True) if a and b]
    else:
        axes = step.attributes.get("axes")
        scales = [float(n) for n in scales]
        if axes:
            pairs = dict(zip([a % step.rank() for a in axes], scales, strict=True))
            scales = [pairs.get(axis, 1.0) for axis in range(step.rank())]
    if len(scales) != step.rank():
        raise step.fail("a factor for each axis")
    return scales


READERS: dict[str, Callable[[Builder, Step], None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global("AdaptiveAvgPool"),
    "GlobalMaxPool": _global("AdaptiveMaxPool"),
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
}
