"""The operations of the loop language: what machines do with single numbers, and C's functions.

A row is an `Operation`, which each target writes in its own way and the interpreter carries out.
The list is complete: a function of the elements is one of these by its name, or the function of C
that its row in `tinynn.rules` names, or it is composed of them as that row defines it.

>>> from tinynn.compiler.codegen.language import Variable
>>> x = Variable("x", "float32")
>>> operation("square", [x], "float32") == operation("multiply", [x, x], "float32")
True
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tinynn.compiler.codegen.language import (
    BYTES,
    Apply,
    Cast,
    Constant,
    Expression,
    Select,
    is_float,
    is_integer,
)
from tinynn.rules.kinds import C_FUNCTIONS, RULES, Elementwise, Rule, rule_of
from tinynn.trace.operators import Operators


@dataclass(frozen=True)
class Operation:
    """A scalar operation.

    Attributes
    ----------
    evaluate
        What it gives, of Python's numbers. An error of the domain is NaN, an overflow infinity.
    python
        Its text in Python, for readers: {0}, {1} are the arguments, {t} is their dtype.
    cuda
        Its text in CUDA C.
    llvm
        Its instruction in LLVM's language for floats, for integers, and for those without a sign
        (bools too) where it is another: {t} is the type. One that begins with @ is a function,
        whose name may have the dtype, {d}, or LLVM's name of a float's, {f}, in it.
    special
        Results where `evaluate` raises an error that does not tell, by the arguments.
    wraps
        Whether integers beyond the dtype's range wrap around; C has to be told.
    call
        Whether its text is a call in every target; what is none is put in parentheses where it is
        an argument.
    helper
        A function of CUDA C that its text calls.
    whole
        What it is of integers and bools, where that is something else.
    """

    evaluate: Callable[..., Any]
    python: str
    cuda: str
    llvm: tuple[str, ...]
    special: Mapping[tuple[Any, ...], float] = field(default_factory=dict)
    wraps: bool = False
    call: bool = False
    helper: str = ""
    whole: Callable[..., Expression] | None = None

    def in_llvm(self, dtype: str) -> str:
        """Its form in LLVM's language for arguments of a dtype."""
        kind = 0 if is_float(dtype) else 2 if dtype == "bool" or dtype.startswith("u") else 1
        form = self.llvm[min(kind, len(self.llvm) - 1)]
        if form.startswith("@"):
            return form.format(d=dtype, f="f64" if dtype == "float64" else "f32")
        return form

    def __call__(self, *args: Any) -> Any:
        """The result, of Python's numbers."""
        if args in self.special:
            return self.special[args]
        try:
            return self.evaluate(*args)
        except ValueError:
            return math.nan
        except OverflowError:
            return math.inf


class Reduction(NamedTuple):
    """A reduction: the operation that takes one more number in, and the number it starts from.

    `start` is a number, or -1 or 1 times infinity for the dtype's least or greatest number.
    """

    operation: str
    start: float | bool


# Parts of rows.


def _call(
    name: str, evaluate: Callable[..., Any], count: int = 1, whole: Callable[..., Any] | None = None
) -> Operation:
    """An instruction that is written as a call, by this name in C."""
    text = f"{name}({_places(count)})"
    return Operation(evaluate, text, text, (f"@llvm.{name}.{{f}}",), call=True, whole=whole)


def _of_c(name: str, count: int) -> Operation:
    """A function of C's library: a compiler may bring one of its own, named by dtype."""
    given = _places(count)
    python, cuda, llvm = f"{name}_{{t}}({given})", f"{name}({given})", (f"@{name}_{{d}}",)
    evaluate = _EVALUATED.get(name) or getattr(math, name)
    return Operation(evaluate, python, cuda, llvm, _POLES.get(name, {}), call=True)


def _places(count: int) -> str:
    return ", ".join(f"{{{i}}}" for i in range(count))


def _infix(
    symbol: str, evaluate: Callable[..., Any], *instructions: str, wraps: bool = False
) -> Operation:
    """An operator between two numbers, with LLVM's instructions."""
    text = f"{{0}} {symbol} {{1}}"
    llvm = tuple(f"{each} {{t}} {{0}}, {{1}}" for each in instructions)
    return Operation(evaluate, text, text, llvm, wraps=wraps)


def _apply(name: str, *args: Expression) -> Expression:
    """An operation that gives a number of its arguments' dtype."""
    return operation(name, args, args[0].dtype)


def _test(name: str, *args: Expression) -> Expression:
    """An operation that gives a bool."""
    return operation(name, args, "bool")


def _number(value: float, like: Expression) -> Constant:
    return Constant(float(value) if is_float(like.dtype) else int(value), like.dtype)


def _itself(x: Expression) -> Expression:
    return x


def _abs_of_integer(x: Expression) -> Expression:
    return Select(_test("less", x, _number(0, x)), _apply("negative", x), x)


def _inverted(x: Expression) -> Expression:
    return _test("logical_not", x) if x.dtype == "bool" else Apply("bitwise_invert", (x,), x.dtype)


# What Python's numbers raise errors for.


def _divide(x: float, y: float) -> float:
    if y:
        return x / y
    return math.nan if not x or x != x else math.copysign(math.inf, x) * math.copysign(1, y)


def _floor_divide(x: Any, y: Any) -> Any:
    if isinstance(x, int):
        return x // y if y else 0
    return x // y if y else _divide(x, y)


def _remainder(x: Any, y: Any) -> Any:
    return x % y if y else (0 if isinstance(x, int) else math.nan)


def _power(x: Any, y: Any) -> Any:
    if isinstance(x, int):
        return x**y if y >= 0 else 0
    odd = y % 2 == 1
    if x == 0 and y < 0:
        return math.copysign(math.inf, x) if odd else math.inf
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0 and odd else math.inf


def _sinh(x: float) -> float:
    return math.sinh(x) if abs(x) < 710 else math.copysign(math.inf, x) if x == x else x


def _fdim(x: float, y: float) -> float:
    return max(x - y, 0.0) if x == x and y == y else math.nan


#: Functions of C that `math` lacks, calls otherwise, or that overflow with a sign.
_EVALUATED: dict[str, Callable[..., float]] = {
    "fdim": _fdim,
    "sinh": _sinh,
    "tgamma": math.gamma,
}
_POLES = {
    **{name: {(0.0,): -math.inf} for name in ("log", "log2", "log10")},
    "log1p": {(-1.0,): -math.inf},
    "atanh": {(1.0,): math.inf, (-1.0,): -math.inf},
}


def _whole(round: Callable[[float], int]) -> Callable[[float], float]:
    return lambda x: math.copysign(float(round(x)), x) if math.isfinite(x) else x


# Templates for integers, and functions for floats, which come before them. Quotients of floats are
# rounded down as the library's own calls on CUDA do it, which is simpler than Python's way.
_FLOOR_DIVIDE = """\
template <class T> __device__ T floor_divide(T x, T y) {
  if (y == 0) return 0;
  if (y < 0 && y == T(-1)) return T(0ULL - (unsigned long long)x);
  const T quotient = x / y;
  return quotient * y != x && (x < 0) != (y < 0) ? quotient - 1 : quotient;
}
__device__ float floor_divide(float x, float y) { return floorf(x / y); }
__device__ double floor_divide(double x, double y) { return floor(x / y); }"""
_FLOOR_MOD = """\
template <class T> __device__ T floor_mod(T x, T y) {
  if (y == 0 || (y < 0 && y == T(-1))) return 0;
  const T rest = x % y;
  return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}
__device__ float floor_mod(float x, float y) { return x - floorf(x / y) * y; }
__device__ double floor_mod(double x, double y) { return x - floor(x / y) * y; }"""
_POWER = """\
template <class T> __device__ T power(T x, T y) {
  if (y < 0) return 0;
  unsigned long long result = 1, factor = x;
  for (; y != 0; y /= 2, factor *= factor) if (y % 2 != 0) result *= factor;
  return (T)result;
}
__device__ float power(float x, float y) { return powf(x, y); }
__device__ double power(double x, double y) { return pow(x, y); }"""

#: The table.
OPERATIONS: dict[str, Operation] = {
    "add": _infix("+", operator.add, "fadd", "add", wraps=True),
    "subtract": _infix("-", operator.sub, "fsub", "sub", wraps=True),
    "multiply": _infix("*", operator.mul, "fmul", "mul", wraps=True),
    "negative": Operation(
        operator.neg, "-{0}", "-{0}", ("fneg {t} {0}", "sub {t} 0, {0}"), wraps=True
    ),
    "divide": _infix("/", _divide, "fdiv"),
    "floor_divide": Operation(
        _floor_divide,
        "{0} // {1}",
        "floor_divide({0}, {1})",
        ("@floor_divide_{d}",),
        helper=_FLOOR_DIVIDE,
    ),
    "remainder": Operation(
        _remainder, "{0} % {1}", "floor_mod({0}, {1})", ("@remainder_{d}",), helper=_FLOOR_MOD
    ),
    "pow": Operation(
        _power, "pow_{t}({0}, {1})", "power({0}, {1})", ("@pow_{d}",), call=True, helper=_POWER
    ),
    "abs": Operation(
        abs, "abs({0})", "fabs({0})", ("@llvm.fabs.{f}",), call=True, whole=_abs_of_integer
    ),
    "bitwise_and": _infix("&", operator.and_, "and"),
    "bitwise_or": _infix("|", operator.or_, "or"),
    "bitwise_xor": _infix("^", operator.xor, "xor"),
    "bitwise_invert": Operation(
        operator.invert, "~{0}", "~{0}", ("xor {t} {0}, -1",), whole=_inverted
    ),
    "bitwise_left_shift": Operation(
        operator.lshift, "{0} << {1}", "{0} << {1}", ("@left_shift_{d}",), wraps=True
    ),
    "bitwise_right_shift": Operation(
        operator.rshift, "{0} >> {1}", "{0} >> {1}", ("@right_shift_{d}",)
    ),
    "equal": _infix("==", operator.eq, "fcmp oeq", "icmp eq"),
    "not_equal": _infix("!=", operator.ne, "fcmp une", "icmp ne"),
    "less": _infix("<", operator.lt, "fcmp olt", "icmp slt", "icmp ult"),
    "less_equal": _infix("<=", operator.le, "fcmp ole", "icmp sle", "icmp ule"),
    "greater": _infix(">", operator.gt, "fcmp ogt", "icmp sgt", "icmp ugt"),
    "greater_equal": _infix(">=", operator.ge, "fcmp oge", "icmp sge", "icmp uge"),
    "logical_and": _infix("&", lambda x, y: x and y, "and"),
    "logical_or": _infix("|", lambda x, y: x or y, "or"),
    "logical_xor": _infix("!=", operator.ne, "fcmp une", "icmp ne"),
    "logical_not": Operation(operator.not_, "{0} == False", "!{0}", ("xor {t} {0}, true",)),
    "sqrt": _call("sqrt", math.sqrt),
    "copysign": _call("copysign", math.copysign, 2),
    "floor": _call("floor", _whole(math.floor), whole=_itself),
    "ceil": _call("ceil", _whole(math.ceil), whole=_itself),
    "trunc": _call("trunc", _whole(math.trunc), whole=_itself),
    "round": _call("rint", _whole(round), whole=_itself),
    **{name: _of_c(name, count) for name, count in C_FUNCTIONS.items()},
}

REDUCTIONS = {
    "sum": Reduction("add", 0),
    "prod": Reduction("multiply", 1),
    "max": Reduction("maximum", -math.inf),
    "min": Reduction("minimum", math.inf),
    "any": Reduction("logical_or", False),
    "all": Reduction("logical_and", True),
}


def is_operation(function: Any) -> bool:
    """True if a function of the elements can be written in operations of single numbers."""
    row = rule_of(function)
    of_c = isinstance(row, Elementwise) and row.c
    known = function.name in OPERATIONS or function.name == "where"
    return bool(known or of_c or (row is not None and row.scalar))


def called(function: Any, args: Sequence[Any], dtype: str) -> Expression:
    """What a function of the elements gives of single numbers, None among them, in a dtype."""
    row = rule_of(function)
    of_c = isinstance(row, Elementwise) and row.c
    return _written(of_c or function.name, row, args, dtype)


def operation(name: str, args: Sequence[Any], dtype: str) -> Expression:
    """The same of an operation, or of a function of the standard; KeyError if there is none."""
    return _written(name, RULES.get(name), args, dtype)


def _written(name: str, row: Rule | None, args: Sequence[Any], dtype: str) -> Expression:
    if name == "where":
        return Select(*args)
    one = OPERATIONS.get(name)
    if one is None:
        if row is None or row.scalar is None:
            raise KeyError(name)
        given = [None if a is None else _Scalar(a) for a in args]
        result: Expression = row.scalar(_STANDARD, *given).value
        return result
    if one.whole is not None and not is_float(args[0].dtype):
        return one.whole(*args)
    return Apply(name, tuple(args), dtype)


class _Scalar(Operators):
    """A number in the place of an array: rows define functions by those of the standard."""

    __slots__ = ("value",)

    def __init__(self, value: Expression) -> None:
        self.value = value

    @property
    def dtype(self) -> str:
        return self.value.dtype

    @property
    def space(self) -> "_Standard":
        return _STANDARD


class _Standard:
    """The functions of the standard that definitions are written in, for `_Scalar`s."""

    def __getattr__(self, name: str) -> Callable[..., _Scalar]:
        def function(*args: Any) -> _Scalar:
            # Of `where` the condition has a dtype of its own.
            places = args[1:] if name == "where" else args
            like = next(a.value for a in places if isinstance(a, _Scalar))
            given = [a.value if isinstance(a, _Scalar) else _number(a, like) for a in args]
            return _Scalar(operation(name, given, "bool" if name in _TESTS else like.dtype))

        setattr(self, name, function)
        return function

    def astype(self, x: _Scalar, dtype: str) -> _Scalar:
        return _Scalar(Cast(x.value, dtype))

    def ones_like(self, x: _Scalar) -> _Scalar:
        return _Scalar(_number(1, x.value))

    def isdtype(self, dtype: str, kind: str) -> bool:
        if kind != "real floating":
            raise ValueError(f"of single numbers it is only known whether they are {kind}")
        return is_float(dtype)


_STANDARD = _Standard()
_TESTS = frozenset(
    """equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor
    logical_not isnan isinf isfinite signbit""".split()
)


def start_of(reduction: str, dtype: str) -> Constant:
    """The number that a reduction starts from, in that dtype."""
    start = REDUCTIONS[reduction].start
    if dtype == "bool":
        return Constant(bool(start), dtype)
    if is_float(dtype):
        return Constant(float(start), dtype)
    if math.isfinite(start):
        return Constant(int(start), dtype)
    low, high = limits(dtype)
    return Constant(low if start < 0 else high, dtype)


def taken_in(reduction: str, held: Expression, value: Expression) -> Expression:
    """The value of a reduction after one more number."""
    return operation(REDUCTIONS[reduction].operation, (value, held), held.dtype)


def limits(dtype: str) -> tuple[int, int]:
    """The least and the greatest integer of a dtype."""
    bits = 8 * BYTES[dtype]
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def fitted(value: Any, dtype: str) -> Any:
    """The number as a dtype holds it: integers wrap around, floats round."""
    if dtype == "bool":
        return bool(value)
    if is_integer(dtype):
        low, high = limits(dtype)
        return (int(value) - low) % (high - low + 1) + low
    return value
