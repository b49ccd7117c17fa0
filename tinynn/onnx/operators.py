"""The table from functions of the Array API standard to ONNX operators: a row a function.

The operators: <https://onnx.ai/onnx/operators/>, of opset 21.
"""

from collections.abc import Callable
from math import log
from typing import Any

from tinynn.onnx.builder import GraphBuilder, UnsupportedFunctionError
from tinynn.transforms.graph import Dim, Node

#: What a row holds: a function of (builder, node) that gives the name of the node's value.
Row = Callable[[GraphBuilder, Node], str]


def unary(operator: str) -> Row:
    """One operator of one array."""
    return lambda g, n: g.node(operator, [g.value(n.args[0])])


def arithmetic(operator: str) -> Row:
    """An operator of two arrays or numbers, in the dtype of the result."""
    return lambda g, n: g.node(operator, [g.value(a, like=n) for a in n.args])


def comparison(operator: str) -> Row:
    """An operator of two arrays or numbers, in the widest dtype among the arrays."""
    return lambda g, n: g.node(operator, g.alike(n.args))


def negated(operator: str) -> Row:
    """An operator of two arrays, and the opposite of its answer."""
    return lambda g, n: g.node("Not", [g.node(operator, g.alike(n.args))])


def reduction(operator: str) -> Row:
    """An operator that takes its axes as an input."""

    def row(g: GraphBuilder, n: Node) -> str:
        return reduced(g, n, operator, g.value(n.args[0], like=n))

    return row


def reduced(g: GraphBuilder, n: Node, operator: str, x: str) -> str:
    """A reduction of a value along the axes of a node."""
    axes = _axes(n)
    inputs = [x, g.integers(axes)] if axes else [x]
    return g.node(operator, inputs, keepdims=int(n.kwargs.get("keepdims", False)))


def _axes(n: Node) -> list[int]:
    """The axes that are asked for; none where all are."""
    axis = n.kwargs.get("axis")
    return [] if axis is None else [axis] if isinstance(axis, int) else list(axis)


def variance(g: GraphBuilder, n: Node) -> str:
    if n.kwargs.get("correction"):
        raise UnsupportedFunctionError("var with a correction", n)
    x, axes = g.value(n.args[0]), _axes(n)
    mean = g.node("ReduceMean", [x, g.integers(axes)] if axes else [x], keepdims=1)
    centered = g.node("Sub", [x, mean])
    return reduced(g, n, "ReduceMean", g.node("Mul", [centered, centered]))


def standard_deviation(g: GraphBuilder, n: Node) -> str:
    return g.node("Sqrt", [variance(g, n)])


def expm1(g: GraphBuilder, n: Node) -> str:
    """exp(x) - 1 as 2 exp(x / 2) sinh(x / 2), which is exact near 0."""
    half = g.node("Mul", [g.value(n.args[0]), g.number(0.5, n)])
    product = g.node("Mul", [g.node("Exp", [half]), g.node("Sinh", [half])])
    return g.node("Mul", [product, g.number(2.0, n)])


def log1p(g: GraphBuilder, n: Node) -> str:
    return g.node("Log", [g.node("Add", [g.value(n.args[0]), g.number(1.0, n)])])


def logarithm(base: float) -> Row:
    """The logarithm to another base."""

    def row(g: GraphBuilder, n: Node) -> str:
        natural = g.node("Log", [g.value(n.args[0])])
        return g.node("Mul", [natural, g.number(1 / log(base), n)])

    return row


def floor_divide(g: GraphBuilder, n: Node) -> str:
    if not g.dtype_of(n).startswith("float"):
        raise UnsupportedFunctionError(f"{n.name} of integers", n)
    return g.node("Floor", [g.node("Div", [g.value(a, like=n) for a in n.args])])


def remainder(g: GraphBuilder, n: Node) -> str:
    """a - floor(a / b) b, which has the sign of b."""
    a, b = (g.value(each, like=n) for each in n.args)
    return g.node("Sub", [a, g.node("Mul", [floor_divide(g, n), b])])


def hypot(g: GraphBuilder, n: Node) -> str:
    a, b = (g.value(each, like=n) for each in n.args)
    return g.node("Sqrt", [g.node("Add", [g.node("Mul", [a, a]), g.node("Mul", [b, b])])])


def trunc(g: GraphBuilder, n: Node) -> str:
    x = g.value(n.args[0])
    return g.node("Mul", [g.node("Sign", [x]), g.node("Floor", [g.node("Abs", [x])])])


def truth(operator: str) -> Row:
    """Whether all or any are true: the least or the largest of 0 and 1."""

    def row(g: GraphBuilder, n: Node) -> str:
        whole = g.cast(g.cast(g.value(n.args[0]), "bool"), "int32")
        return g.cast(reduced(g, n, operator, whole), "bool")

    return row


def triangle(upper: bool) -> Row:
    """The part of each matrix above or below a diagonal."""

    def row(g: GraphBuilder, n: Node) -> str:
        k = g.scalar_integer(n.kwargs.get("k", 0))
        return g.node("Trilu", [g.value(n.args[0]), k], upper=int(upper))

    return row


def square(g: GraphBuilder, n: Node) -> str:
    return g.node("Pow", [g.value(n.args[0]), g.number(2.0, n)])


def multiply(g: GraphBuilder, n: Node) -> str:
    """A square as a power, as onnxruntime looks for it where it makes one operator of a norm."""
    first, second = n.args
    return square(g, n) if first is second else arithmetic("Mul")(g, n)


def logaddexp(g: GraphBuilder, n: Node) -> str:
    """max(a, b) + log(1 + exp(-|a - b|))."""
    a, b = (g.value(a, like=n) for a in n.args)
    small = g.node("Exp", [g.node("Neg", [g.node("Abs", [g.node("Sub", [a, b])])])])
    rest = g.node("Log", [g.node("Add", [small, g.number(1.0, n)])])
    return g.node("Add", [g.node("Max", [a, b]), rest])


def clip(g: GraphBuilder, n: Node) -> str:
    x = g.value(n.args[0])
    bounds = [*n.args[1:], *[None] * (3 - len(n.args))]
    low, high = (
        n.kwargs.get(name, bound) for name, bound in zip(("min", "max"), bounds, strict=True)
    )
    for operator, bound in (("Max", low), ("Min", high)):
        if bound is not None:
            x = g.node(operator, [x, g.value(bound, like=n)])
    return x


def where(g: GraphBuilder, n: Node) -> str:
    condition, *rest = n.args
    return g.node("Where", [g.value(condition), *(g.value(a, like=n) for a in rest)])


def reshape(g: GraphBuilder, n: Node) -> str:
    return g.node("Reshape", [g.value(n.args[0]), g.lengths(n)])


def broadcast_to(g: GraphBuilder, n: Node) -> str:
    """Expand broadcasts both ways, so an axis that follows the batch may be asked for as 1."""
    source = n.args[0].shape
    shape = [1 if isinstance(length, Dim) else length for length in n.shape]
    missing = any(isinstance(d, Dim) for d in n.shape) and not any(
        isinstance(d, Dim) for d in source
    )
    if missing:
        raise UnsupportedFunctionError("broadcast_to along the batch", n)
    return g.node("Expand", [g.value(n.args[0]), g.integers(shape)])


def permute_dims(g: GraphBuilder, n: Node) -> str:
    return g.node("Transpose", [g.value(n.args[0])], perm=list(n.kwargs["axes"]))


def matrix_transpose(g: GraphBuilder, n: Node) -> str:
    last = len(n.shape) - 1
    return g.node("Transpose", [g.value(n.args[0])], perm=[*range(last - 1), last, last - 1])


def expand_dims(g: GraphBuilder, n: Node) -> str:
    return g.node("Unsqueeze", [g.value(n.args[0]), g.integers(_axes(n) or [0])])


def squeeze(g: GraphBuilder, n: Node) -> str:
    return g.node("Squeeze", [g.value(n.args[0]), g.integers(_axes(n))])


def concat(g: GraphBuilder, n: Node) -> str:
    if n.kwargs.get("axis", 0) is None:
        raise UnsupportedFunctionError("concat of flattened arrays", n)
    return g.node("Concat", [g.value(a, like=n) for a in n.args], axis=n.kwargs.get("axis", 0))


def stack(g: GraphBuilder, n: Node) -> str:
    axis = n.kwargs.get("axis", 0)
    parts = [g.node("Unsqueeze", [g.value(a, like=n), g.integers([axis])]) for a in n.args]
    return g.node("Concat", parts, axis=axis)


def take(g: GraphBuilder, n: Node) -> str:
    axis = n.kwargs.get("axis")
    return g.node("Gather", [g.value(a) for a in n.args], axis=0 if axis is None else axis)


def argmax(operator: str) -> Row:
    """ArgMax or ArgMin, which take one axis."""

    def row(g: GraphBuilder, n: Node) -> str:
        axis = n.kwargs.get("axis")
        if axis is None:
            raise UnsupportedFunctionError(f"{n.name} without an axis", n)
        keepdims = int(n.kwargs.get("keepdims", False))
        return g.node(operator, [g.value(n.args[0])], axis=axis, keepdims=keepdims)

    return row


def cast(g: GraphBuilder, n: Node) -> str:
    return g.cast(g.value(n.args[0]), g.dtype_of(n))


def filled(value: float) -> Row:
    """A number in the shape of an array."""

    def row(g: GraphBuilder, n: Node) -> str:
        shape = g.node("Shape", [g.value(n.args[0])])
        return g.node("Expand", [g.number(value, n), shape])

    return row


def getitem(g: GraphBuilder, n: Node) -> str:
    """Slices and integers; then the axes that integers take away and None puts in."""
    shape = n.args[0].shape
    cuts: list[tuple[int, int, int, int]] = []  # start, stop, axis, step
    gone, added = [], []
    axis = place = 0
    for item in _whole_key(n.kwargs["key"], len(shape)):
        if item is None:
            added.append(place)
            place, axis = place + 1, axis - 1
        elif isinstance(item, slice):
            place += 1
            if item != slice(None):
                cuts.append(_cut(item, axis, shape[axis], n))
        elif isinstance(item, int) and not isinstance(item, Dim):
            gone.append(axis)
            cuts.append((item, item + 1 if item != -1 else END, axis, 1))
        else:
            raise UnsupportedFunctionError(f"an index {item!r}", n)
        axis += 1
    x = g.value(n.args[0])
    if cuts:
        x = g.node("Slice", [x, *(g.integers(column) for column in zip(*cuts, strict=True))])
    if gone:
        x = g.node("Squeeze", [x, g.integers(gone)])
    return g.node("Unsqueeze", [x, g.integers(added)]) if added else x


def _whole_key(key: Any, rank: int) -> tuple[Any, ...]:
    """An index as a tuple with an item for each axis that an ellipsis stands for."""
    key = key if isinstance(key, tuple) else (key,)
    if Ellipsis not in key:
        return key
    at, taken = key.index(Ellipsis), sum(item is not None for item in key) - 1
    return (*key[:at], *[slice(None)] * (rank - taken), *key[at + 1 :])


END = 2**63 - 1  # past the end of every axis


def _cut(item: slice, axis: int, length: int, n: Node) -> tuple[int, int, int, int]:
    """The start, stop, axis and step of a slice, which does not follow the batch."""
    step = 1 if item.step is None else int(item.step)
    if any(isinstance(end, Dim) and end != length for end in (item.start, item.stop)):
        raise UnsupportedFunctionError("a slice that follows the batch", n)
    start, stop = (
        other if end is None or isinstance(end, Dim) else int(end)
        for end, other in zip(
            (item.start, item.stop), (0, END) if step > 0 else (-1, -END), strict=True
        )
    )
    return start, stop, axis, step


def flip(g: GraphBuilder, n: Node) -> str:
    axes = _axes(n) or list(range(len(n.shape)))
    ones = [1] * len(axes)
    ends = [[-each for each in ones], [-END for _ in ones], axes, [-each for each in ones]]
    return g.node("Slice", [g.value(n.args[0]), *map(g.integers, ends)])


def cumulative_sum(g: GraphBuilder, n: Node) -> str:
    axis = n.kwargs.get("axis")
    if n.kwargs.get("include_initial") or (axis is None and len(n.shape) > 1):
        raise UnsupportedFunctionError("cumulative_sum with include_initial or of all axes", n)
    return g.node("CumSum", [g.value(n.args[0]), g.integers([axis or 0])])


def vecdot(g: GraphBuilder, n: Node) -> str:
    product = g.node("Mul", [g.value(a, like=n) for a in n.args])
    return g.node("ReduceSum", [product, g.integers([n.kwargs.get("axis", -1)])], keepdims=0)


def identity(g: GraphBuilder, n: Node) -> str:
    return g.value(n.args[0])


UNARY = """
    abs:Abs acos:Acos acosh:Acosh asin:Asin asinh:Asinh atan:Atan atanh:Atanh ceil:Ceil cos:Cos
    cosh:Cosh erf:Erf exp:Exp floor:Floor isinf:IsInf isnan:IsNaN log:Log logical_not:Not
    negative:Neg reciprocal:Reciprocal relu:Relu round:Round sigmoid:Sigmoid sign:Sign sin:Sin
    sinh:Sinh sqrt:Sqrt tan:Tan tanh:Tanh
""".split()
ARITHMETIC = """
    add:Add divide:Div matmul:MatMul maximum:Max minimum:Min pow:Pow subtract:Sub
""".split()
COMPARISONS = """
    equal:Equal greater:Greater greater_equal:GreaterOrEqual less:Less less_equal:LessOrEqual
    logical_and:And logical_or:Or logical_xor:Xor
""".split()
REDUCTIONS = """
    logsumexp:ReduceLogSumExp max:ReduceMax mean:ReduceMean min:ReduceMin prod:ReduceProd
    sum:ReduceSum
""".split()


def _rows(pairs: list[str], row: Callable[[str], Row]) -> dict[str, Row]:
    return {name: row(operator) for name, _, operator in (pair.partition(":") for pair in pairs)}


#: Name of the function, as `Node.name` gives it -> what writes it.
OPERATORS: dict[str, Row] = {
    **_rows(UNARY, unary),
    **_rows(ARITHMETIC, arithmetic),
    **_rows(COMPARISONS, comparison),
    **_rows(REDUCTIONS, reduction),
    "all": truth("ReduceMin"),
    "any": truth("ReduceMax"),
    "argmax": argmax("ArgMax"),
    "argmin": argmax("ArgMin"),
    "astype": cast,
    "broadcast_to": broadcast_to,
    "clip": clip,
    "concat": concat,
    "cumulative_sum": cumulative_sum,
    "expand_dims": expand_dims,
    "expm1": expm1,
    "flip": flip,
    "floor_divide": floor_divide,
    "getitem": getitem,
    "hypot": hypot,
    "log10": logarithm(10),
    "log1p": log1p,
    "log2": logarithm(2),
    "logaddexp": logaddexp,
    "matrix_transpose": matrix_transpose,
    "multiply": multiply,
    "not_equal": negated("Equal"),
    "ones_like": filled(1.0),
    "permute_dims": permute_dims,
    "positive": identity,
    "remainder": remainder,
    "reshape": reshape,
    "square": square,
    "squeeze": squeeze,
    "stack": stack,
    "std": standard_deviation,
    "stop_gradient": identity,
    "take": take,
    "tril": triangle(upper=False),
    "triu": triangle(upper=True),
    "trunc": trunc,
    "var": variance,
    "vecdot": vecdot,
    "where": where,
    "zeros_like": filled(0.0),
}
