"""Calls of a graph that ONNX has one operator for: fewer nodes, which runtimes carry out faster."""

from collections.abc import Callable
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


def _along_one_axis(node: Node) -> bool:
    return type(node.kwargs.get("axis")) is int and node.kwargs.get("keepdims") is True


PATTERNS: tuple[Callable[[Node], Fused | None], ...] = (_gemm, _softmax, _log_softmax, _softplus)


def fused(graph: Graph) -> dict[int, Fused]:
    """One operator for calls of the graph, by the id of the call whose result it gives."""
    found = {}
    for node in graph.nodes:
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
