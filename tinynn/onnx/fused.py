"""Calls of a graph that ONNX has one operator for: fewer nodes, which runtimes carry out faster."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import prod, sqrt
from typing import Any, NamedTuple

from tinynn.functional.errors import ShapeError
from tinynn.functional.windows import per_axis, resolved
from tinynn.onnx import convolution
from tinynn.onnx.emitter import DTYPES, Emitter
from tinynn.onnx.recurrent import recurrent
from tinynn.trace.scopes import Composite
from tinynn.transforms.graph import Constant, Graph, Input, Node


class Fused(NamedTuple):
    """Operators in place of a call and of calls that only it needs."""

    args: tuple[Any, ...]
    write: Callable[[Emitter], str]


def _one(operator: str, args: tuple[Any, ...], attributes: dict[str, Any]) -> Fused:
    """One operator of these arguments."""
    return Fused(args, lambda out: out.emit(operator, list(map(out.value, args)), **attributes))


def _is(value: Any, *names: str) -> bool:
    call = isinstance(value, Node) and not isinstance(value, Input | Constant)
    return call and value.name in names


def _gemm(node: Node) -> Fused | None:
    """x @ weight + bias, of matrices and a vector."""
    if not _is(node, "add") or not _is(node.args[0], "matmul"):
        return None
    (product, bias), dtype = node.args, node.dtype
    x, weight = product.args
    if not isinstance(bias, Node) or any(a.dtype != dtype for a in (x, weight, bias)):
        return None
    if (len(x.shape), len(weight.shape), len(bias.shape)) != (2, 2, 1):
        return None
    return _one("Gemm", (x, weight, bias), {}) if bias.shape[0] == weight.shape[1] else None


def _softmax(node: Node) -> Fused | None:
    """exp(x - max(x)) / sum(exp(x - max(x)))."""
    if not _is(node, "divide") or not _is(node.args[1], "sum") or not _is(node.args[0], "exp"):
        return None
    powers, total = node.args
    shifted = powers.args[0]
    if total.args[0] is not powers or not _is(shifted, "subtract"):
        return None
    x, most = shifted.args
    if not _is(most, "max") or total.kwargs != most.kwargs or not _along_one_axis(most):
        return None
    of = most.args[0]
    of = of.args[0] if _is(of, "stop_gradient") else of
    return _one("Softmax", (x,), {"axis": most.kwargs["axis"]}) if of is x else None


def _log_softmax(node: Node) -> Fused | None:
    """z - logsumexp(z), where z = x - max(x)."""
    if not _is(node, "subtract") or not _is(node.args[1], "logsumexp"):
        return None
    shifted, total = node.args
    if total.args[0] is not shifted or not _along_one_axis(total):
        return None
    x, axis = _before_shift(shifted), total.kwargs["axis"]
    return _one("LogSoftmax", (shifted if x is None else x,), {"axis": axis})


def _before_shift(node: Node) -> Node | None:
    """The x of x - max(x)."""
    if not _is(node, "subtract") or not _is(node.args[1], "max"):
        return None
    x, most = node.args
    of = most.args[0]
    of = of.args[0] if _is(of, "stop_gradient") else of
    return x if of is x else None


def _softplus(node: Node) -> Fused | None:
    """logaddexp(x, 0)."""
    if not _is(node, "logaddexp") or not _is(node.args[1], "zeros_like"):
        return None
    x, zeros = node.args
    return _one("Softplus", (x,), {}) if zeros.args[0] is x else None


def _gelu(node: Node) -> Fused | None:
    """0.5 * x * (1 + erf(x * sqrt(0.5)))."""
    if not _is(node, "multiply") or not all(map(_is, node.args, ("multiply", "add"))):
        return None
    (half, x), (one, part) = node.args[0].args, node.args[1].args
    if (half, one) != (0.5, 1.0) or not _is(part, "erf") or not _is(part.args[0], "multiply"):
        return None
    inner, factor = part.args[0].args
    return _one("Gelu", (x,), {}) if inner is x and factor == sqrt(0.5) else None


def _leaky_relu(node: Node) -> Fused | None:
    """x where positive, slope * x elsewhere."""
    x = _kept_where_positive(node)
    if x is None or not _is(node.args[2], "multiply"):
        return None
    slope, low = node.args[2].args
    given = low is x and type(slope) is float
    return _one("LeakyRelu", (x,), {"alpha": slope}) if given else None


def _elu(node: Node) -> Fused | None:
    """x where positive, alpha * expm1(x) elsewhere, whose expm1 sees no positive x."""
    x = _kept_where_positive(node)
    if x is None or not _is(node.args[2], "multiply"):
        return None
    alpha, power = node.args[2].args
    if type(alpha) is not float or not _is(power, "expm1") or not _is(power.args[0], "where"):
        return None
    positive, zeros, low = power.args[0].args
    same = positive is node.args[0] and _is(zeros, "zeros_like") and low is x
    return _one("Elu", (x,), {"alpha": alpha}) if same else None


def _kept_where_positive(node: Node) -> Node | None:
    """The x of where(x > 0, x, ...)."""
    if not _is(node, "where") or not _is(node.args[0], "greater"):
        return None
    (x, zero), kept = node.args[0].args, node.args[1]
    plain = isinstance(x, Node) and not isinstance(zero, Node) and zero == 0
    return x if plain and kept is x else None


def _scaled(node: Node) -> tuple[Node, Node, Node, Node] | None:
    """a, b, weight and bias of a / b * weight + bias, the last two being vectors."""
    if not _is(node, "add") or not _is(node.args[0], "multiply"):
        return None
    (product, bias), (ratio, weight) = node.args, node.args[0].args
    vectors = all(isinstance(a, Constant) and len(a.shape) == 1 for a in (weight, bias))
    if not vectors or product.shape != ratio.shape or not _is(ratio, "divide"):
        return None
    a, b = ratio.args
    return (a, b, weight, bias) if _is(a, "subtract") and isinstance(b, Node) else None


def _layer_norm(node: Node) -> Fused | None:
    """Mean 0 and variance 1 over the last axis, scaled and shifted."""
    parts = _scaled(node)
    if parts is None or not _is(parts[1], "sqrt") or not _is(parts[1].args[0], "add"):
        return None
    centred, deviation, weight, bias = parts
    (x, mean), (variance, epsilon) = centred.args, deviation.args[0].args
    if not _is(mean, "mean") or not _is(variance, "mean") or mean.args[0] is not x:
        return None
    square = variance.args[0]
    squared = _is(square, "multiply") and all(a is centred for a in square.args)
    last = {"axis": -1, "keepdims": True}
    if not squared or mean.kwargs != last or variance.kwargs != last or type(epsilon) is not float:
        return None
    return _one("LayerNormalization", (x, weight, bias), {"axis": -1, "epsilon": epsilon})


def _normalized(node: Node) -> Fused | None:
    """Mean 0 and variance 1 over other axes than the last alone: a norm of groups."""
    found = _norm_over(node)
    if found is None:
        return None
    x, axes, epsilon = found
    return Fused((x,), partial(_instance_norm, x, axes, epsilon, ()))


def _scaled_instances(node: Node) -> Fused | None:
    """The same over all axes but the channels', which are last, scaled and shifted."""
    parts = _scaled(node)
    found = _norm_over(node.args[0].args[0]) if parts else None
    if parts is None or found is None or found[1] != set(range(1, len(node.shape) - 1)):
        return None
    (x, axes, epsilon), vectors = found, parts[2:]
    return Fused((x, *vectors), partial(_instance_norm, x, axes, epsilon, vectors))


def _norm_over(node: Node) -> tuple[Node, set[int], float] | None:
    """The x, the axes and the epsilon of (x - mean) / sqrt(variance + epsilon)."""
    if not _is(node, "divide") or not _is(node.args[1], "sqrt") or len(node.shape) < 3:
        return None
    centred, inside = node.args[0], node.args[1].args[0]
    if not _is(centred, "subtract") or not _is(inside, "add"):
        return None
    (x, mean), (variance, epsilon) = centred.args, inside.args
    if not _is(mean, "mean") or not _is(variance, "mean") or mean.args[0] is not x:
        return None
    square, over = variance.args[0], mean.kwargs.get("axis")
    squared = _is(square, "multiply") and all(a is centred for a in square.args)
    if not squared or mean.kwargs != variance.kwargs or not mean.kwargs.get("keepdims"):
        return None
    rank = len(node.shape)
    axes = {axis % rank for axis in (over if isinstance(over, tuple) else (over or 0,))}
    known = all(type(n) is int for n in node.shape[1:]) and type(epsilon) is float
    return (x, axes, epsilon) if known and 0 not in axes and axes != {rank - 1} else None


def _instance_norm(
    x: Node, axes: set[int], epsilon: float, vectors: tuple[Any, ...], out: Emitter
) -> str:
    """The axes of a group last, those behind its first ones in front, as images come from Conv."""
    kept = [axis for axis in range(1, len(x.shape)) if axis not in axes]
    order = [0, *kept, *sorted(axes, key=lambda axis: (bool(kept) and axis < kept[-1], axis))]
    shape = [x.shape[axis] for axis in order]
    groups, together = prod(shape[1 : len(kept) + 1]), prod(shape[len(kept) + 1 :])
    flat = out.transpose(out.value(x), order)
    if len(kept) != 1:
        flat = out.emit("Reshape", [flat, out.integers([-1, groups, together])])
    given = list(map(out.value, vectors)) or [
        out.tensor(DTYPES["float32"], (groups,), [value] * groups) for value in (1.0, 0.0)
    ]
    made = out.emit("InstanceNormalization", [flat, *given], epsilon=epsilon)
    if len(kept) != 1:
        made = out.emit("Reshape", [made, out.shape(shape, one_is_left=True)])
    return out.transpose(made, sorted(range(len(order)), key=order.__getitem__))


def _batch_norm(node: Node) -> Fused | None:
    """(x - mean) / deviation * weight + bias, of a matrix and vectors that are known."""
    parts = _scaled(node)
    if parts is None or len(node.shape) < 2:
        return None
    (x, mean), deviation, weight, bias = parts[0].args, *parts[1:]
    if not isinstance(mean, Constant) or not isinstance(deviation, Constant):
        return None
    if not mean.shape == deviation.shape == weight.shape:
        return None
    variance = replace(deviation, value=deviation.value * deviation.value)
    arrays = (x, weight, bias, mean, variance)
    return Fused(arrays, partial(_channels_first, "BatchNormalization", arrays, {"epsilon": 0.0}))


def _channels_first(
    operator: str, args: tuple[Any, ...], attributes: dict[str, Any], out: Emitter
) -> str:
    """An operator that has the channels in the second axis, where here they are last."""
    x, *others = args
    rank = len(x.shape)
    turned = out.transpose(out.value(x), [0, rank - 1, *range(1, rank - 1)])
    made = out.emit(operator, [turned, *map(out.value, others)], **attributes)
    return out.transpose(made, [0, *range(2, rank), 1])


def _conv(node: Node) -> Fused | None:
    """A convolution and a bias."""
    if not _is(node, "add") or not _is(node.args[0], "conv"):
        return None
    made, bias = node.args
    if not isinstance(bias, Node) or len(bias.shape) != 1 or bias.dtype != made.dtype:
        return None
    return Fused((*made.args, bias), lambda out: convolution.conv(out, made, bias))


def _along_one_axis(node: Node) -> bool:
    return type(node.kwargs.get("axis")) is int and node.kwargs.get("keepdims") is True


PATTERNS: tuple[Callable[[Node], Fused | None], ...] = (
    _gemm,
    _conv,
    _softmax,
    _log_softmax,
    _softplus,
    _gelu,
    _leaky_relu,
    _elu,
    _layer_norm,
    _batch_norm,
    _scaled_instances,
    _normalized,
)
SINGLE = (_scaled_instances, _normalized)  #: whose operators runtimes have for float32 alone


def fused(graph: Graph, known: Mapping[int, str]) -> dict[int, Fused]:
    """Operators for calls of the graph, by the id of the call whose result they give.

    known: the name of an array of parameters, by its id.
    """
    found: dict[int, Fused] = _pools(graph)
    found |= {key: Fused(*pair) for key, pair in recurrent(graph, known).items()}
    for node in graph.nodes:
        if not _is_float(graph, node) or id(node) in found:
            continue  # few runtimes have these operators for other numbers
        for pattern in PATTERNS:
            if pattern in SINGLE and node.dtype != graph.space.float32:
                continue
            made = pattern(node)
            if made is not None:
                found[id(node)] = made
                break
    return found


def _is_float(graph: Graph, node: Node) -> bool:
    return node.dtype is not None and graph.space.isdtype(node.dtype, "real floating")


def _pools(graph: Graph) -> dict[int, Fused]:
    """One operator for all calls that a pool is made of."""
    groups: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        for frame in node.origin.frames:
            if type(frame) is Composite and frame.name in ("max_pool", "avg_pool"):
                groups.setdefault(frame, []).append(node)
    found: dict[int, Fused] = {}
    for frame, nodes in groups.items():
        inside = {id(node) for node in nodes}
        outside = [a for node in nodes for a in node.parents if id(a) not in inside]
        given = {id(a): a for a in outside if not isinstance(a, Constant)}
        if len(given) == 1 and _is_float(graph, nodes[-1]):
            (x,) = given.values()
            made = _pool(frame, x, nodes[-1])
            found |= {} if made is None else {id(nodes[-1]): made}
    return found


def _pool(frame: Composite, x: Node, y: Node) -> Fused | None:
    """The operator of a pool; None where another transformation has changed its calls."""
    settings = dict(zip(("window",), frame.args, strict=False)) | frame.kwargs
    last, axes = settings.get("channels", "last") == "last", len(x.shape) - 2
    lengths = tuple(x.shape[1:-1] if last else x.shape[2:])
    if axes < 1 or any(type(n) is not int for n in lengths):
        return None
    name = frame.name
    window = per_axis(name, "window", settings.get("window", 2), axes)
    given = settings.get("stride")
    stride = window if given is None else per_axis(name, "stride", given, axes)
    dilation = per_axis(name, "dilation", settings.get("dilation", 1), axes)
    try:
        ends = resolved(name, settings.get("padding", "valid"), lengths, window, stride, dilation)
    except ShapeError:  # one more axis, which vmap has put there
        return None
    moved = zip(lengths, ends, window, stride, dilation, strict=True)
    out = [(n + sum(e) - (k - 1) * d - 1) // s + 1 for n, e, k, s, d in moved]
    if tuple(y.shape[1:-1] if last else y.shape[2:]) != tuple(out) or y.dtype != x.dtype:
        return None
    pads = [n for side in zip(*ends, strict=True) for n in side]
    attributes = {"kernel_shape": window, "strides": stride, "pads": pads}
    if name == "max_pool":
        attributes["dilations"] = dilation
    operator = "MaxPool" if name == "max_pool" else "AveragePool"
    return Fused((x,), partial(_channels_first, operator, (x,), attributes)) if last else _one(
        operator, (x,), attributes
    )  # fmt: skip


def needed(graph: Graph, instead: dict[int, Fused]) -> list[Node]:
    """The calls that the outputs need, in order, given what takes the place of some."""
    wanted, kept = {id(o) for o in graph.outputs if isinstance(o, Node)}, []
    for node in reversed(graph.nodes):
        if id(node) in wanted:
            kept.append(node)
            args = instead[id(node)].args if id(node) in instead else node.args
            wanted.update(id(a) for a in args if isinstance(a, Node))
    return kept[::-1]
