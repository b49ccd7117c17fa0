"""Kernels of one operation, in the loop language, for the tests of machine code."""

from collections.abc import Callable, Sequence
from typing import Any

from backends import llvm
from tinynn.compiler.codegen.language import (
    INDEX,
    Buffer,
    Expression,
    Function,
    Index,
    Load,
    Loop,
    Statement,
    Store,
    Variable,
)
from tinynn.compiler.codegen.operations import operation
from tinynn.compiler.codegen.renderers import RENDERERS

_I, _TURN = Variable("i", INDEX), Variable("turn", INDEX)
_STEPS, _TIMES = Variable("steps", INDEX), Variable("times", INDEX)


def called(name: str, *args: Expression, dtype: str = "") -> Expression:
    """An operation of the table."""
    return operation(name, args, dtype or args[0].dtype)


def source(dtypes: Sequence[str], value: Callable[..., Expression]) -> str:
    """A kernel in LLVM's language: `times` over, out[i] = value(x[i], y[i], ...), i < steps.

    dtypes: of the result, then of the arguments; the first argument of `run` is the result.
    """
    out, *given = (Buffer(f"x{i}", dtype) for i, dtype in enumerate(dtypes))
    body = element(out, given, value)
    loops = (Loop(_TURN, 0, _TIMES, 1, (Loop(_I, 0, _STEPS, 1, (body,)),)),)
    return RENDERERS["llvm"](Function("run", (_STEPS, _TIMES), (out, *given), (), loops))


def element(out: Buffer, given: Sequence[Buffer], value: Callable[..., Expression]) -> Statement:
    """out[i] = value(x[i], ...)."""
    at = Index.of(_I)
    return Store(Load(out, at), value(*[Load(each, at) for each in given]))


def of_many(dtype: str, names: dict[str, int]) -> str:
    """One kernel of all these functions, each with two arguments to take from and a result."""
    given: list[Buffer] = []
    loops: list[Statement] = []
    for name, count in names.items():
        x, y, out = (Buffer(f"{part}_{name}", dtype) for part in ("x", "y", "out"))
        given += [x, y, out]
        body = element(out, [x, y][:count], lambda *args, name=name: called(name, *args))
        loops.append(Loop(_I, 0, _STEPS, 1, (body,)))
    arguments = (Buffer("outs", dtype), *given)
    return RENDERERS["llvm"](Function("run", (_STEPS, _TIMES), arguments, (), tuple(loops)))


def built(dtypes: Sequence[str], value: Callable[..., Expression]) -> Any:
    """The kernel of `source`, as machine code."""
    return llvm.build(source(dtypes, value), dtypes)
