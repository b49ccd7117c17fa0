"""The table from functions of the standard to ONNX operators: a row each.

A row is called as `row(emitter, node)`, writes operators, and returns the name of the result. What
has no row cannot be exported, and the error says which layer calls it.
"""

from collections.abc import Callable
from math import log, prod
from typing import Any

from tinynn.onnx import control, convolution, moves
from tinynn.onnx.emitter import DTYPES, INT64, Emitter, OnnxError
from tinynn.onnx.moves import Row, axes_of
from tinynn.transforms.graph import Dim, Node


def _unary(operator: str) -> Row:
    """One operator of one array, in the result's dtype."""
    return lambda out, node: out.emit(operator, [out.value(node.args[0], node.dtype)])


def _asked(operator: str) -> Row:
    """One operator of one array, whose result is booleans."""
    return lambda out, node: out.emit(operator, [out.value(node.args[0])])


def _binary(operator: str, **attributes: Any) -> Row:
    """One operator of two arrays, both in the result's dtype."""
    return lambda out, node: out.emit(
        operator, [out.value(a, node.dtype) for a in node.args], **attributes
    )


def _compared(operator: str, denied: bool = False) -> Row:
    """One operator of two arrays, both in the dtype that is common to them."""

    def row(out: Emitter, node: Node) -> str:
        dtypes = [a.dtype for a in node.args if isinstance(a, Node)]
        common = out.backend.xp.result_type(*dtypes)
        found = out.emit(operator, [out.value(a, common) for a in node.args])
        return out.emit("Not", [found]) if denied else found

    return row


def _bitwise(operator: str, of_booleans: str) -> Row:
    """One operator of integers, and another where the bits are booleans."""

    def row(out: Emitter, node: Node) -> Any:
        booleans = out.backend.xp.isdtype(node.dtype, "bool")
        return _binary(of_booleans if booleans else operator)(out, node)

    return row


def _of(formula: Callable[..., str]) -> Row:
    """A formula of several operators: `formula(call, number, *arrays)` in the result's dtype."""

    def row(out: Emitter, node: Node) -> str:
        def call(operator: str, *inputs: str) -> str:
            return out.emit(operator, inputs)

        def number(value: float) -> str:
            return out.number(value, out.dtype(node.dtype))

        return formula(call, number, *[out.value(a, node.dtype) for a in node.args])

    return row


def _expm1(call: Any, number: Any, x: str) -> str:
    half = call("Mul", x, number(0.5))  # 2 exp(x/2) sinh(x/2) keeps the digits of a small x
    return call("Mul", call("Mul", call("Exp", half), call("Sinh", half)), number(2.0))


def _log1p(call: Any, number: Any, x: str) -> str:
    # log(1 + x) loses the digits of a small x, which 2 atanh(x / (2 + x)) keeps
    low = call("Mul", call("Atanh", call("Div", x, call("Add", x, number(2.0)))), number(2.0))
    small = call("Less", call("Abs", x), number(0.5))
    return call("Where", small, low, call("Log", call("Add", x, number(1.0))))


def _logaddexp(call: Any, number: Any, a: str, b: str) -> str:
    rest = call("Softplus", call("Neg", call("Abs", call("Sub", a, b))))
    return call("Add", call("Max", a, b), rest)


def _floor_divide(call: Any, number: Any, a: str, b: str) -> str:
    return call("Floor", call("Div", a, b))


def _remainder(call: Any, number: Any, a: str, b: str) -> str:
    return call("Sub", a, call("Mul", call("Floor", call("Div", a, b)), b))


def _floats(row: Row) -> Row:
    """A row that holds for floating-point numbers alone."""

    def checked(out: Emitter, node: Node) -> Any:
        if not out.backend.xp.isdtype(node.dtype, "real floating"):
            raise OnnxError(f"expected floating-point numbers, got {node.dtype}")
        return row(out, node)

    return checked


# --- reductions


def _keepdims(node: Node) -> int:
    return int(bool(node.kwargs.get("keepdims", False)))


def _reduced(operator: str) -> Row:
    def row(out: Emitter, node: Node) -> str:
        x, axes = out.value(node.args[0], node.dtype), axes_of(node)
        if not axes:  # which ONNX takes for all axes
            return x
        return out.emit(operator, [x, out.integers(axes)], keepdims=_keepdims(node))

    return row


def _truth(operator: str) -> Row:
    def row(out: Emitter, node: Node) -> str:
        as_bool = out.emit("Cast", [out.value(node.args[0])], to=DTYPES["bool"])
        count = out.emit("Cast", [as_bool], to=DTYPES["int32"])
        axes = out.integers(axes_of(node))
        found = out.emit(operator, [count, axes], keepdims=_keepdims(node))
        return out.emit("Cast", [found], to=out.dtype(node.dtype))

    return row


def _variance(out: Emitter, node: Node) -> str:
    x, axes, keep = out.value(node.args[0]), out.integers(axes_of(node)), _keepdims(node)
    centred = out.emit("Sub", [x, out.emit("ReduceMean", [x, axes], keepdims=1)])
    square = out.emit("Mul", [centred, centred])
    correction = node.kwargs.get("correction", 0.0)
    if not correction:
        return out.emit("ReduceMean", [square, axes], keepdims=keep)
    lengths = [node.args[0].shape[axis] for axis in axes_of(node)]
    if any(isinstance(length, Dim) for length in lengths):
        raise OnnxError("expected a variance with a correction over other axes than the batch's")
    total = out.emit("ReduceSum", [square, axes], keepdims=keep)
    return out.emit("Div", [total, out.value(float(prod(lengths) - correction), node.dtype)])


def _deviation(out: Emitter, node: Node) -> str:
    return out.emit("Sqrt", [_variance(out, node)])


def _extreme(operator: str) -> Row:
    def row(out: Emitter, node: Node) -> str:
        x, axis = out.value(node.args[0]), node.kwargs.get("axis")
        if axis is None:
            x, axis = out.emit("Reshape", [x, out.integers([-1])]), 0
            found = out.emit(operator, [x], axis=0, keepdims=0)
            found = out.emit("Reshape", [found, out.integers([1] * len(node.shape))])
        else:
            found = out.emit(operator, [x], axis=axis, keepdims=_keepdims(node))
        to = out.dtype(node.dtype)
        return found if to == INT64 else out.emit("Cast", [found], to=to)

    return row


def _cumulative_sum(out: Emitter, node: Node) -> str:
    if node.kwargs.get("include_initial"):
        raise OnnxError("expected include_initial=False")
    axis = node.kwargs.get("axis") or 0
    return out.emit("CumSum", [out.value(node.args[0], node.dtype), out.number(axis, INT64)])


def _sorted(result: int) -> Row:
    """The elements in order (result 0), or their places (1); the first of equal ones first."""

    def row(out: Emitter, node: Node) -> str:
        x, axis = out.value(node.args[0]), node.kwargs.get("axis", -1) % len(node.shape)
        length = out.emit("Shape", [x], start=axis, end=axis + 1)
        largest = int(bool(node.kwargs.get("descending", False)))
        found = out.emit_all("TopK", [x, length], 2, axis=axis, largest=largest, sorted=1)[result]
        to = out.dtype(node.dtype)
        return out.emit("Cast", [found], to=to) if result and to != INT64 else found

    return row


def _norm(out: Emitter, node: Node) -> str:
    operator = {1: "ReduceL1", 2: "ReduceL2"}.get(node.kwargs.get("ord", 2))
    if operator is None:
        raise OnnxError(f"expected ord 1 or 2, got {node.kwargs['ord']}")
    return str(_reduced(operator)(out, node))


# --- the others


def _clip(out: Emitter, node: Node) -> str:
    name = out.value(node.args[0], node.dtype)
    ends = list(node.args[1:]) + [None] * (3 - len(node.args))
    ends = [node.kwargs.get(k, e) for k, e in zip(("min", "max"), ends, strict=True)]
    for operator, end in zip(("Max", "Min"), ends, strict=True):
        name = name if end is None else out.emit(operator, [name, out.value(end, node.dtype)])
    return name


def _where(out: Emitter, node: Node) -> str:
    condition, *both = node.args
    return out.emit("Where", [out.value(condition), *[out.value(a, node.dtype) for a in both]])


def _vecdot(out: Emitter, node: Node) -> str:
    product = out.emit("Mul", [out.value(a, node.dtype) for a in node.args])
    axis = node.kwargs.get("axis", -1)
    return out.emit("ReduceSum", [product, out.integers([axis])], keepdims=0)


def _outer(out: Emitter, node: Node) -> str:
    column, row = [out.value(a, node.dtype) for a in node.args]
    return out.emit("Mul", [out.emit("Unsqueeze", [column, out.integers([1])]), row])


def _round(out: Emitter, node: Node) -> str:
    return out.emit("Round", [out.value(node.args[0], node.dtype)])


_FINITE: Row = lambda out, node: out.emit(  # noqa: E731 - a row like the others
    "Not",
    [out.emit("Or", [_asked("IsNaN")(out, node), _asked("IsInf")(out, node)])],
)

ROWS: dict[str, Row] = {
    **{
        name: _unary(operator or name.capitalize())
        for name, operator in {
            **dict.fromkeys("abs acos acosh asin asinh atan atanh ceil cos cosh erf exp".split()),
            **dict.fromkeys("floor log reciprocal relu sigmoid sign sin sinh sqrt tan".split()),
            "tanh": None,
            "negative": "Neg",
            "logical_not": "Not",
            "det": "Det",
        }.items()
    },
    **{
        name: _binary(operator)
        for name, operator in {
            "add": "Add",
            "subtract": "Sub",
            "multiply": "Mul",
            "divide": "Div",
            "pow": "Pow",
            "maximum": "Max",
            "first_maximum": "Max",
            "minimum": "Min",
            "matmul": "MatMul",
            "logical_and": "And",
            "logical_or": "Or",
            "logical_xor": "Xor",
        }.items()
    },
    "bitwise_invert": _bitwise("BitwiseNot", "Not"),
    "bitwise_and": _bitwise("BitwiseAnd", "And"),
    "bitwise_or": _bitwise("BitwiseOr", "Or"),
    "bitwise_xor": _bitwise("BitwiseXor", "Xor"),
    "equal": _compared("Equal"),
    "not_equal": _compared("Equal", denied=True),
    "greater": _compared("Greater"),
    "greater_equal": _compared("GreaterOrEqual"),
    "less": _compared("Less"),
    "less_equal": _compared("LessOrEqual"),
    "isnan": _asked("IsNaN"),
    "isinf": _asked("IsInf"),
    "isfinite": _FINITE,
    "astype": lambda out, node: out.value(node.args[0], node.dtype),
    "stop_gradient": lambda out, node: out.value(node.args[0]),
    "positive": lambda out, node: out.value(node.args[0]),
    "round": _floats(_round),
    "square": _of(lambda call, number, x: call("Mul", x, x)),
    "trunc": _floats(
        _of(lambda call, number, x: call("Mul", call("Sign", x), call("Floor", call("Abs", x))))
    ),
    "expm1": _of(_expm1),
    "log1p": _of(_log1p),
    "log2": _of(lambda call, number, x: call("Div", call("Log", x), number(log(2)))),
    "log10": _of(lambda call, number, x: call("Div", call("Log", x), number(log(10)))),
    "logaddexp": _of(_logaddexp),
    "hypot": _of(
        lambda call, number, a, b: call("Sqrt", call("Add", call("Mul", a, a), call("Mul", b, b)))
    ),
    "floor_divide": _floats(_of(_floor_divide)),
    "remainder": _floats(_of(_remainder)),
    "clip": _clip,
    "where": _where,
    "sum": _reduced("ReduceSum"),
    "prod": _reduced("ReduceProd"),
    "mean": _reduced("ReduceMean"),
    "max": _reduced("ReduceMax"),
    "min": _reduced("ReduceMin"),
    "logsumexp": _reduced("ReduceLogSumExp"),
    "vector_norm": _norm,
    "all": _truth("ReduceMin"),
    "any": _truth("ReduceMax"),
    "count_nonzero": _truth("ReduceSum"),
    "var": _variance,
    "std": _deviation,
    "argmax": _extreme("ArgMax"),
    "argmin": _extreme("ArgMin"),
    "cumulative_sum": _cumulative_sum,
    "sort": _sorted(0),
    "argsort": _sorted(1),
    "reshape": moves.reshaped,
    "expand_dims": moves.reshaped,
    "squeeze": moves.reshaped,
    "permute_dims": moves.transposed(lambda node, rank: node.kwargs["axes"]),
    "matrix_transpose": moves.transposed(moves.last_two),
    "moveaxis": moves.transposed(moves.moved),
    "concat": moves.concat,
    "stack": moves.stack,
    "unstack": moves.unstack,
    "item": moves.item,
    "broadcast_to": moves.broadcast,
    "zeros_like": moves.filled(0),
    "ones_like": moves.filled(1),
    "full_like": moves.filled(None),
    "fill": moves.filled(None),
    "flip": moves.flip,
    "tile": moves.tile,
    "tril": moves.triangle(0),
    "triu": moves.triangle(1),
    "take": moves.take,
    "take_along_axis": moves.take_along,
    "dynamic_slice": moves.dynamic_slice,
    "dynamic_update_slice": moves.dynamic_update_slice,
    "getitem": moves.getitem,
    "conv": convolution.conv,
    "scan": control.scan,
    "cond": control.cond,
    "while_loop": control.while_loop,
    "vecdot": _vecdot,
    "outer": _outer,
}
