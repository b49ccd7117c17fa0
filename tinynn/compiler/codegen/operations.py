"""The table of scalar operations: one row an operation, with its form for every target.

A row is an `Operation`, which each target writes in its own way and the interpreter carries out, or
a function that composes other rows. To add one, add its row: every renderer and the interpreter
know it then, and any elementwise function of that name is written as loops.

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
from tinynn.rules.kinds import C_FUNCTIONS


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
        whose name may have the dtype, {d}, or LLVM's name of a float's, {f}, in it. Of nothing, the
        function of C that is called as the row is.
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
    llvm: tuple[str, ...] = ()
    special: Mapping[tuple[Any, ...], float] = field(default_factory=dict)
    wraps: bool = False
    call: bool = False
    helper: str = ""
    whole: Callable[..., Expression] | None = None

    def in_llvm(self, name: str, dtype: str) -> str:
        """Its form in LLVM's language for arguments of a dtype; `name` is that of the row."""
        if not self.llvm:
            if not is_float(dtype):
                raise TypeError(f"{name} has no form for {dtype}")
            return f"@{name}" if dtype == "float64" else f"@{name}f"
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


#: A row that is composed of other rows: from the arguments to an expression of them.
Composed = Callable[..., Expression]


class Reduction(NamedTuple):
    """A reduction: the operation that takes one more number in, and the number it starts from.

    `start` is a number, or -1 or 1 times infinity for the dtype's least or greatest number.
    """

    operation: str
    start: float | bool


# Parts of rows.

# Functions that a compiler of loops brings of its own, named by dtype: exp_float32(x).
_OWN = """acos acosh asin asinh atan atan2 atanh cos cosh erf exp expm1 hypot log log10 log1p log2
sin sinh tan tanh""".split()


def _call(
    name: str,
    evaluate: Callable[..., Any] | None = None,
    special: Mapping[tuple[Any, ...], float] | None = None,
    count: int = 1,
    whole: Callable[..., Expression] | None = None,
) -> Operation:
    """A function that C has by this name, and Python's `math` too unless something is given."""
    given = f"({', '.join(f'{{{i}}}' for i in range(count))})"
    evaluate = evaluate or getattr(math, name)
    python = f"{name}_{{t}}{given}" if name in _OWN else f"{name}{given}"
    llvm = f"@{name}_{{d}}" if name in _OWN else f"@llvm.{name}.{{f}}"
    return Operation(
        evaluate, python, f"{name}{given}", (llvm,), special or {}, call=True, whole=whole
    )


def _of_c(name: str, count: int) -> Operation:
    """A function that every target takes from C's library."""
    text = f"{name}({', '.join(f'{{{i}}}' for i in range(count))})"
    ours: dict[str, Callable[..., float]] = {"fdim": _fdim, "tgamma": math.gamma}
    return Operation(ours.get(name) or getattr(math, name), text, text, call=True)


def _fdim(x: float, y: float) -> float:
    return max(x - y, 0.0) if x == x and y == y else math.nan


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


def _is_nan(x: Expression) -> Expression:
    return _test("not_equal", x, x)


def _number(value: float, like: Expression) -> Constant:
    return Constant(float(value) if is_float(like.dtype) else int(value), like.dtype)


def _first_where(test: str) -> Composed:
    """The first number where the test holds or it is NaN, else the second."""

    def compose(x: Expression, y: Expression) -> Expression:
        return Select(_test("logical_or", _test(test, x, y), _is_nan(x)), x, y)

    return compose


def _itself(x: Expression) -> Expression:
    return x


def _sign(x: Expression) -> Expression:
    zero = _number(0, x)
    above, below = (Cast(_test(test, x, zero), x.dtype) for test in ("greater", "less"))
    return Select(_test("equal", x, x), _apply("subtract", above, below), x)


def _abs_of_integer(x: Expression) -> Expression:
    return Select(_test("less", x, _number(0, x)), _apply("negative", x), x)


def _logaddexp(x: Expression, y: Expression) -> Expression:
    larger = Select(_test("greater", x, y), x, y)
    apart = _apply("negative", _apply("abs", _apply("subtract", x, y)))
    beyond = _apply("log1p", _apply("exp", apart))
    # Equal infinities: their difference is NaN.
    alike = _apply("add", x, _number(math.log(2), x))
    return Select(_test("equal", x, y), alike, _apply("add", larger, beyond))


def _sigmoid(x: Expression) -> Expression:
    one = _number(1, x)
    return _apply("divide", one, _apply("add", _apply("exp", _apply("negative", x)), one))


def _infinite(test: str, otherwise: bool) -> Composed:
    """A comparison of the absolute value with infinity, which integers never reach."""

    def compose(x: Expression) -> Expression:
        if not is_float(x.dtype):
            return Constant(otherwise, "bool")
        return _test(test, _apply("abs", x), Constant(math.inf, x.dtype))

    return compose


def _inverted(x: Expression) -> Expression:
    return _test("logical_not", x) if x.dtype == "bool" else Apply("bitwise_invert", (x,), x.dtype)


def _clip(x: Expression, low: Expression | None, high: Expression | None) -> Expression:
    for limit, test in ((low, "greater"), (high, "less")):
        if limit is not None:
            x = Select(_test(test, limit, x), limit, x)
    return x


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

_ZERO_IS_MINUS_INF = {(0.0,): -math.inf}
_ONE_IS_INF = {(1.0,): math.inf, (-1.0,): -math.inf}

#: The table.
OPERATIONS: dict[str, Operation | Composed] = {
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
    "square": lambda x: _apply("multiply", x, x),
    "reciprocal": lambda x: _apply("divide", _number(1, x), x),
    "positive": _itself,
    "copied": _itself,
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
    # Where either is NaN, so is the result.
    "maximum": _first_where("greater"),
    "minimum": _first_where("less"),
    "where": Select,
    "clip": _clip,
    "sign": _sign,
    "isnan": _is_nan,
    "isinf": _infinite("equal", False),
    "isfinite": _infinite("less", True),
    "floor": _call("floor", _whole(math.floor), whole=_itself),
    "ceil": _call("ceil", _whole(math.ceil), whole=_itself),
    "trunc": _call("trunc", _whole(math.trunc), whole=_itself),
    "round": _call("rint", _whole(round), whole=_itself),
    "exp": _call("exp"),
    "expm1": _call("expm1"),
    "log": _call("log", special=_ZERO_IS_MINUS_INF),
    "log2": _call("log2", special=_ZERO_IS_MINUS_INF),
    "log10": _call("log10", special=_ZERO_IS_MINUS_INF),
    "log1p": _call("log1p", special={(-1.0,): -math.inf}),
    "logaddexp": _logaddexp,
    "sigmoid": _sigmoid,
    "sqrt": _call("sqrt"),
    "sin": _call("sin"),
    "cos": _call("cos"),
    "tan": _call("tan"),
    "asin": _call("asin"),
    "acos": _call("acos"),
    "atan": _call("atan"),
    "sinh": _call("sinh", _sinh),
    "cosh": _call("cosh"),
    "tanh": _call("tanh"),
    "asinh": _call("asinh"),
    "acosh": _call("acosh"),
    "atanh": _call("atanh", special=_ONE_IS_INF),
    "erf": _call("erf"),
    "atan2": _call("atan2", count=2),
    "hypot": _call("hypot", count=2),
    "copysign": _call("copysign", count=2),
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


def operation(name: str, args: Sequence[Any], dtype: str) -> Expression:
    """An operation of numbers as an expression; KeyError if there is no such row."""
    row = OPERATIONS[name]
    if not isinstance(row, Operation):
        return row(*args)
    if row.whole is not None and not is_float(args[0].dtype):
        return row.whole(*args)
    return Apply(name, tuple(args), dtype)


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
