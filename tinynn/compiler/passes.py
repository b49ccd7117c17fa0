"""What simplifies graphs on every library: patterns of calls, and common subexpressions.

A pattern makes another value of one call, or gives the call back. It leaves what is computed as it
was, to rounding: products of constants may be put together. `tinynn.compiler.pipelines` says what
is applied where.
"""

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import inf, prod
from operator import is_
from typing import Any

from tinynn.compiler.rewrite import (
    RESHAPES,
    Builder,
    Visit,
    elementwise,
    is_call,
    is_number,
    rewritten,
    size,
)
from tinynn.rules.kinds import axes_of
from tinynn.transforms.graph import FILL, Graph, Node

_FOLDED: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
}
_STILL = ("negative", "astype", "broadcast_to", "getitem", "matrix_transpose", "permute_dims")
_FOLDABLE = {*_FOLDED, *RESHAPES, *_STILL, "ones_like", "zeros_like", "full_like"}
# Factors that are moved may change what is in between by so much, and by no more than this share of
# the powers of two up to the largest number: in float16 by 5.
_MOST, _SHARE = 2.0**20, 0.16


def common_subexpressions(graph: Graph) -> Graph:
    """Common subexpressions: compute once what is called twice with the same arguments."""
    seen: dict[Any, list[Node]] = {}

    def visit(node: Node, build: Builder) -> Any:
        alike = seen.setdefault((node.function, *map(id, node.parents)), [])
        if alike:  # to compare all that the calls are given takes longer
            call = node.call
            for other in alike:
                if other.call == call:
                    return other
        alike.append(node)
        return node

    return rewritten(graph, visit)


def without_stop_gradient(graph: Graph) -> Graph:
    """No calls of stop_gradient, where nothing follows the program for derivatives of its own."""
    called = {node.name for node in graph.nodes if node.name == "stop_gradient" or _inside(node)}

    def visit(node: Node, build: Builder) -> Any:
        if node.name == "stop_gradient":
            return node.args[0]
        graphs = _inside(node)
        after = {key: without_stop_gradient(inside) for key, inside in graphs.items()}
        same = all(after[key] is inside for key, inside in graphs.items())
        return node if same else replace(node, kwargs=node.kwargs | after)

    return rewritten(graph, visit, of=called)


def _inside(node: Node) -> dict[str, Graph]:
    """The graphs that a call runs, by its keywords."""
    return {key: value for key, value in node.kwargs.items() if isinstance(value, Graph)}


def known(value: Any) -> Any:
    """The number that a value is, or that all its elements are; None if that is not known."""
    if type(value) is Node:
        return value.kwargs["value"] if value.function is FILL else None
    return value if is_number(value) else None


def _fill(node: Node, build: Builder, value: Any) -> Node:
    kwargs = {"value": value, "shape": node.shape, "dtype": node.dtype}
    return build.add(Node(FILL, (), kwargs, node.shape, node.dtype, node.origin))


_LIKES = {"ones_like": 1, "zeros_like": 0}


def _folded(node: Node, build: Builder) -> Any:
    """Constant folding: evaluate what depends on known numbers alone."""
    if node.dtype is None:
        return node
    kind = build.space.kinds[node.dtype]
    if kind == "complex floating":
        return node
    if node.name == "full_like" or node.name in _LIKES:
        value: Any = _LIKES.get(node.name, node.kwargs.get("fill_value"))
        if not is_number(value) or not (kind or isinstance(value, int)):
            return node  # what a library makes of 2.5 or NaN among whole numbers is its own affair
        number = float if kind else bool if build.space.xp.isdtype(node.dtype, "bool") else int
        return _fill(node, build, number(value))
    numbers = [known(a) for a in node.args]
    if not kind or not numbers or None in numbers:
        return node
    if node.name in _FOLDED:
        divides_by_zero = node.name == "divide" and numbers[1] == 0
        return node if divides_by_zero else _fill(node, build, float(_FOLDED[node.name](*numbers)))
    return _fill(node, build, float(-numbers[0] if node.name == "negative" else numbers[0]))


def _algebra(node: Node, build: Builder) -> Any:
    """Leave calls out that change nothing, and make one constant of a chain of them."""
    if node.dtype is None:
        return node
    # Whole numbers wrap around, and constants that are put together may not fit their dtype.
    if "floating" not in build.space.kinds[node.dtype] and node.name != "astype":
        return node
    node = _without_fills(node)
    return _ALGEBRA[node.name](node, build)


_STRETCHED = ("fill", "broadcast_to")


def _without_fills(node: Node) -> Node:
    """The same call with numbers in place of arrays of one value, where the others fill its shape.

    An array that is stretched only to meet such a shape is taken as it is.
    """
    stretched = [a for a in node.args if type(a) is Node and a.name in _STRETCHED]
    if not stretched or not elementwise(node):
        return node
    args = list(node.args)
    for i, a in enumerate(args):
        others = [b for j, b in enumerate(args) if j != i and isinstance(b, Node)]
        reached = any(b.shape == node.shape and b.dtype == node.dtype for b in others)
        if reached and a in stretched:
            args[i] = a.kwargs["value"] if a.function is FILL else a.args[0]
    if all(map(is_, args, node.args)):
        return node
    return Node(node.function, tuple(args), node.kwargs, node.shape, node.dtype, node.origin)


def is_itself(value: Any, node: Node) -> bool:
    """Whether this value could stand for the node."""
    return isinstance(value, Node) and value.shape == node.shape and value.dtype == node.dtype


def scaled(value: Any) -> tuple[Any, float] | None:
    """(x, c) if the value is x * c, c a known number."""
    if not is_call(value) or value.name not in ("multiply", "divide", "negative"):
        return None
    if value.name == "negative":
        return value.args[0], -1
    a, b = value.args
    if value.name == "divide":
        return (a, 1 / b) if is_number(b) and b and is_itself(a, value) else None
    if is_number(a):
        a, b = b, a
    return (a, b) if is_number(b) and is_itself(a, value) else None


def _movable(node: Node, build: Builder, *factors: float) -> bool:
    """Whether factors may meet, or come later: not those that keep others from overflowing."""
    together = prod(max(abs(f), 1 / abs(f)) if f else inf for f in factors)
    return together <= _most(build.space.xp, node.dtype)


@cache
def _most(xp: Any, dtype: Any) -> float:
    """By which factors that are moved may change what is in between."""
    return min(_MOST, float(xp.finfo(dtype).max) ** _SHARE)


def _times(node: Node, build: Builder, x: Any, c: float) -> Any:
    if c == 1:
        return x
    if c == -1:
        return build.call(node, "negative", x)
    return build.call(node, "multiply", x, c)


def _multiply(node: Node, build: Builder) -> Any:
    x, c = node.args
    if is_number(x):
        x, c = c, x
    if is_number(c) and is_itself(x, node):
        inner = scaled(x)
        if c in (1, -1):
            return _times(node, build, x, c)
        if inner and _movable(node, build, inner[1], c):
            return _times(node, build, inner[0], inner[1] * c)
        return node
    left, right = scaled(node.args[0]), scaled(node.args[1])
    # A constant moves outwards, to where it may meet another.
    for mine, other in ((left, node.args[1]), (right, node.args[0])):
        # Twice, since the other value may have such a factor too.
        if not mine or not isinstance(other, Node) or mine[1] == -1:
            continue
        if _movable(node, build, mine[1], mine[1]):
            product = build.call(node, "multiply", mine[0], other)
            return build.call(node, "multiply", product, mine[1])
    return node


def _divide(node: Node, build: Builder) -> Any:
    x, c = node.args
    if not (is_number(c) and c and is_itself(x, node)):
        return node
    if c == 1:
        return x
    inner = scaled(x)
    if inner and _movable(node, build, inner[1], c):
        return _times(node, build, inner[0], inner[1] / c)
    return node


def _add(node: Node, build: Builder) -> Any:
    a, b = node.args
    # A product of complex numbers with an infinite part has parts that are NaN.
    if a is b and isinstance(a, Node) and build.space.kinds[node.dtype] == "real floating":
        return build.call(node, "multiply", a, 2)
    for x, other in ((a, b), (b, a)):
        if known(other) == 0 and is_itself(x, node):
            return x
    for x, other in ((a, b), (b, a)):
        opposite = _opposite(other, build)
        if opposite is not None and isinstance(x, Node):
            return build.call(node, "subtract", x, opposite)
    return node


def _subtract(node: Node, build: Builder) -> Any:
    a, b = node.args
    if known(b) == 0 and is_itself(a, node):
        return a
    opposite = _opposite(b, build)
    if opposite is not None and isinstance(a, Node):
        return build.call(node, "add", a, opposite)
    return node


def _opposite(value: Any, build: Builder) -> Any:
    """The value whose negative this is; None if it is none."""
    inner = scaled(value)
    if inner and inner[1] == -1:
        return inner[0]
    if inner and value.name == "divide" and value.args[1] < 0:
        return build.call(value, "divide", inner[0], -value.args[1])
    return None


def _minimum(node: Node, build: Builder) -> Any:
    """The peak within logsumexp(x - max(x)) is 0; where it is NaN, so is what it is taken from."""
    bounded, largest = node.args[0], float(build.space.xp.finfo(node.dtype).max)
    if known(node.args[1]) != largest or not is_call(bounded) or bounded.name != "maximum":
        return node
    peak, least = bounded.args
    if known(least) != -largest or not is_call(peak) or peak.name != "max":
        return node
    shifted = peak.args[0]
    if not is_call(shifted) or shifted.name != "subtract" or not is_call(shifted.args[1]):
        return node
    x, most = shifted.args
    shifts = most.name == "max" and most.args[0] is x and most.kwargs == peak.kwargs
    return _fill(node, build, 0.0) if shifts else node


def _negative(node: Node, build: Builder) -> Any:
    x = node.args[0]
    inner = scaled(x)
    if inner and x.name == "divide":
        return build.call(node, "divide", inner[0], -x.args[1])
    return _times(node, build, inner[0], -inner[1]) if inner else node


def _pow(node: Node, build: Builder) -> Any:
    x, p = node.args
    if not is_number(p) or not is_itself(x, node):
        return node
    return x if p == 1 else build.call(node, "multiply", x, x) if p == 2 else node


def _astype(node: Node, build: Builder) -> Any:
    return node.args[0] if is_itself(node.args[0], node) else node


def _sum(node: Node, build: Builder) -> Any:
    x = node.args[0]
    if x.dtype != node.dtype or not is_call(x):
        return node
    if size(x) == size(node):
        return build.call(node, "reshape", x, shape=node.shape)
    inner = scaled(x)
    if inner and _movable(node, build, inner[1]):
        total = build.call(node, "sum", inner[0], **node.kwargs)
        return _times(node, build, total, inner[1])
    if node.shape == () and x.name == "sum" and x.args[0].dtype == node.dtype:
        return build.call(node, "sum", x.args[0])
    return node


_ALGEBRA: dict[str, Callable[[Node, Builder], Any]] = {
    "add": _add,
    "astype": _astype,
    "divide": _divide,
    "minimum": _minimum,
    "multiply": _multiply,
    "negative": _negative,
    "pow": _pow,
    "subtract": _subtract,
    "sum": _sum,
}


def _reduced_shape(node: Node) -> tuple[int, ...]:
    """The shape of a reduction that does not keep the axes it reduces over."""
    shape = node.args[0].shape
    gone = axes_of(node.kwargs.get("axis"), len(shape))
    return tuple(n for axis, n in enumerate(shape) if axis not in gone)


def _merged(node: Node, build: Builder) -> Any:
    """Merge successive changes of shape, and drop those that change nothing."""
    if node.name in (*RESHAPES, "broadcast_to") and node.args[0].shape == node.shape:
        return node.args[0]
    if node.name in RESHAPES:
        x = node.args[0]
        if is_call(x) and x.name == "sum" and _reduced_shape(x) == node.shape:
            return build.call(node, "sum", x.args[0], **x.kwargs | {"keepdims": False})
        if is_call(x) and x.name in RESHAPES:
            return build.call(node, "reshape", x.args[0], shape=node.shape)
        if node.name != "reshape" or -1 in node.kwargs["shape"]:
            return build.call(node, "reshape", x, shape=node.shape)
    if node.name == "matrix_transpose":
        x = node.args[0]
        if is_call(x) and x.name == "matrix_transpose":
            return x.args[0]
        if prod(node.shape[-2:]) == max(node.shape[-2:]):
            return build.call(node, "reshape", x, shape=node.shape)
    return node


def _joined(node: Node, build: Builder) -> Any:
    """Sums of arrays that are 0 but for a part each, as gradients of slices are, as one concat."""
    if node.name != "add" or not all(is_itself(a, node) and is_call(a) for a in node.args):
        return node
    first, second = node.args
    axis = _joined_along(first)
    if axis is None or axis != _joined_along(second):
        return node
    parts = _parts_of_sum(list(first.args), list(second.args), axis, build)
    return node if parts is None else build.call(node, "concat", *parts, axis=axis)


def _joined_along(node: Node) -> int | None:
    """The axis along which a call joins arrays; None for another call."""
    axis: int | None = node.kwargs.get("axis", 0) if node.name == "concat" else None
    if axis is None or any(a.dtype != node.dtype for a in node.args):
        return None
    return axis % len(node.shape)


def _parts_of_sum(first: list[Node], second: list[Node], axis: int, build: Builder) -> Any:
    """The parts of the sum of two arrays that are given in parts; None if they do not fit."""

    def zeros(like: Node, length: int) -> Node:
        shape = (*like.shape[:axis], length, *like.shape[axis + 1 :])
        kwargs = {"value": 0.0, "shape": shape, "dtype": like.dtype}
        return build.add(Node(FILL, (), kwargs, shape, like.dtype, like.origin))

    parts: list[Node] = []
    while first and second:  # what is left of one is empty
        a, b = first.pop(0), second.pop(0)
        if known(a) != 0:
            first, second, a, b = second, first, b, a
        rest = a.shape[axis] - b.shape[axis]
        if known(a) != 0 and rest == 0:
            parts.append(build.call(a, "add", a, b))
        elif known(a) != 0 or (rest < 0 and known(b) != 0):
            return None
        elif rest < 0:
            parts.append(a)
            second.insert(0, zeros(b, -rest))
        else:
            parts.append(b)
            if rest:
                first.insert(0, zeros(a, rest))
    return parts


#: What simplifies a call on any library, by the call's name, in the order in which it is tried.
PATTERNS: dict[str, tuple[Visit, ...]] = {
    name: tuple(
        visit
        for visit, names in (
            (_folded, _FOLDABLE),  # known numbers, so that the others meet them
            (_algebra, _ALGEBRA),  # calls that change nothing go, and constants meet
            (_joined, {"add"}),  # the gradients of slices beside each other, not sums of zeros
            (_merged, {*RESHAPES, "broadcast_to", "matrix_transpose"}),  # one change of shape
        )
        if name in names
    )
    for name in sorted({*_FOLDABLE, *_ALGEBRA})
}
