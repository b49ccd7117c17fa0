"""Calls of a graph that ONNX has one operator for: fewer nodes, which runtimes carry out faster."""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Any, NamedTuple

from tinynn.transforms.graph import Constant, Graph, Input, Node


class Fused(NamedTuple):
    """One operator in place of a call and of calls that only it needs."""

    operator: str
    args: tuple[Any, ...]
    attributes: dict[str, Any]


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
    return Fused("Gemm", (x, weight, bias), {}) if bias.shape[0] == weight.shape[1] else None


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
    return Fused("Softmax", (x,), {"axis": most.kwargs["axis"]}) if of is x else None


def _log_softmax(node: Node) -> Fused | None:
    """x - logsumexp(x)."""
    if not _is(node, "subtract") or not _is(node.args[1], "logsumexp"):
        return None
    x, total = node.args
    if total.args[0] is not x or not _along_one_axis(total):
        return None
    return Fused("LogSoftmax", (x,), {"axis": total.kwargs["axis"]})


def _softplus(node: Node) -> Fused | None:
    """logaddexp(x, 0)."""
    if not _is(node, "logaddexp") or not _is(node.args[1], "zeros_like"):
        return None
    x, zeros = node.args
    return Fused("Softplus", (x,), {}) if zeros.args[0] is x else None


def _gelu(node: Node) -> Fused | None:
    """0.5 * x * (1 + erf(x * sqrt(0.5)))."""
    if not _is(node, "multiply") or not all(map(_is, node.args, ("multiply", "add"))):
        return None
    (half, x), (one, part) = node.args[0].args, node.args[1].args
    if (half, one) != (0.5, 1.0) or not _is(part, "erf") or not _is(part.args[0], "multiply"):
        return None
    inner, factor = part.args[0].args
    return Fused("Gelu", (x,), {}) if inner is x and factor == sqrt(0.5) else None


def _leaky_relu(node: Node) -> Fused | None:
    """x where positive, slope * x elsewhere."""
    x = _kept_where_positive(node)
    if x is None or not _is(node.args[2], "multiply"):
        return None
    slope, low = node.args[2].args
    given = low is x and type(slope) is float
    return Fused("LeakyRelu", (x,), {"alpha": slope}) if given else None


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
    return Fused("Elu", (x,), {"alpha": alpha}) if same else None


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
    return Fused("LayerNormalization", (x, weight, bias), {"axis": -1, "epsilon": epsilon})


def _batch_norm(node: Node) -> Fused | None:
    """(x - mean) / deviation * weight + bias, of a matrix and vectors that are known."""
    parts = _scaled(node)
    if parts is None or len(node.shape) != 2:
        return None
    (x, mean), deviation, weight, bias = parts[0].args, *parts[1:]
    if not isinstance(mean, Constant) or not isinstance(deviation, Constant):
        return None
    if not mean.shape == deviation.shape == weight.shape:
        return None
    variance = replace(deviation, value=deviation.value * deviation.value)
    return Fused("BatchNormalization", (x, weight, bias, mean, variance), {"epsilon": 0.0})


def _along_one_axis(node: Node) -> bool:
    return type(node.kwargs.get("axis")) is int and node.kwargs.get("keepdims") is True


PATTERNS: tuple[Callable[[Node], Fused | None], ...] = (
    _gemm,
    _softmax,
    _log_softmax,
    _softplus,
    _gelu,
    _leaky_relu,
    _elu,
    _layer_norm,
    _batch_norm,
)


def fused(graph: Graph) -> dict[int, Fused]:
    """One operator for calls of the graph, by the id of the call whose result it gives."""
    found: dict[int, Fused] = {}
    for node in graph.nodes:
        if node.dtype is None or not graph.space.isdtype(node.dtype, "real floating"):
            continue  # few runtimes have these operators for other numbers
        for pattern in PATTERNS:
            made = pattern(node)
            if made is not None:
                found[id(node)] = made
                break
    return found


def needed(graph: Graph, instead: dict[int, Fused]) -> list[Node]:
    """The calls that the outputs need, in order, given what takes the place of some."""
    wanted, kept = {id(o) for o in graph.outputs if isinstance(o, Node)}, []
    for node in reversed(graph.nodes):
        if id(node) in wanted:
            kept.append(node)
            args = instead[id(node)].args if id(node) in instead else node.args
            wanted.update(id(a) for a in args if isinstance(a, Node))
    return kept[::-1]
