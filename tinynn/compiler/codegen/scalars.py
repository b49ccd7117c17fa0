"""Calls of the standard on single numbers, as expressions."""

from typing import Any

from tinynn.compiler.codegen.language import (
    BYTES,
    Cast,
    Constant,
    Expression,
    is_float,
)
from tinynn.compiler.codegen.operations import called, is_operation
from tinynn.compiler.rewrite import CannotEmit
from tinynn.transforms.graph import COPIED, Node

# Functions of truths, whatever their arguments are.
_LOGICAL = ("logical_and", "logical_not", "logical_or", "logical_xor")

#: An argument: an expression, a Python number, or None.
Argument = Expression | bool | int | float | None


def cannot(node: Node, why: str = "") -> CannotEmit:
    """The error that names the function."""
    at = f" at {node.origin}" if str(node.origin) else ""
    shapes = ", ".join(str(getattr(a, "shape", a)) for a in node.args)
    return CannotEmit(f"{node.name}({shapes}){at} cannot be written as loops{why}")


def number(value: bool | int | float, dtype: str) -> Constant:
    """A Python number in a dtype."""
    if dtype == "bool":
        return Constant(bool(value), dtype)
    if is_float(dtype):
        return Constant(float(value), dtype)
    if value != value or int(value) != value:
        raise CannotEmit(f"{value!r} among numbers of {dtype} cannot be written as loops")
    return Constant(int(value), dtype)


def cast(value: Expression, dtype: str) -> Expression:
    """A number in another dtype."""
    return value if value.dtype == dtype else Cast(value, dtype)


class Scalars:
    """Makes expressions, in the dtypes of one backend."""

    def __init__(self, backend: Any, space: Any) -> None:
        self.backend, self.space = backend, space

    def dtype(self, dtype: Any) -> str:
        """The name of a dtype; CannotEmit for one that has no loops."""
        try:
            name = str(self.backend.dtype_name(dtype))
        except TypeError:  # one that the standard does not name, such as float16
            name = str(dtype)
        if name not in BYTES:
            raise CannotEmit(f"{name} cannot be written as loops")
        return name

    def call(self, node: Node, args: list[Argument]) -> Expression:
        """An elementwise call."""
        mine = self.dtype(node.dtype)
        if node.name == "astype" or node.function is COPIED:
            return cast(self._met(args[0], self._meeting(node)), mine)
        kwargs = {k: v for k, v in node.kwargs.items() if k not in ("dtype", "copy", "device")}
        clips = node.name == "clip"
        if not is_operation(node.function) or kwargs or (None in args and not clips):
            raise cannot(node)
        if node.name == "where":
            met = [self._met(args[0], "bool"), *[self._met(a, mine) for a in args[1:]]]
        else:
            tests = mine == "bool" and node.name not in _LOGICAL
            meeting = self._meeting(node) if tests else mine
            met = [self._met(a, meeting) if a is not None else None for a in args]
        if clips:
            met += [None] * (3 - len(met))
        return cast(called(node.function, met, mine), mine)

    def _meeting(self, node: Node) -> str:
        """The dtype in which a call's arguments meet."""
        dtypes = [a.dtype for a in node.args if isinstance(a, Node) and a.dtype is not None]
        return self.dtype(self.space.xp.result_type(*dtypes))

    def _met(self, arg: Argument, dtype: str) -> Any:
        assert arg is not None
        return number(arg, dtype) if isinstance(arg, bool | int | float) else cast(arg, dtype)
