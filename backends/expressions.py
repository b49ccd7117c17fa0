"""Calls of a library as data: what a lowering says of them, and what programs consist of.

An expression is a call, an attribute, or a leaf. A template is an expression whose leaves are
places: `X`, `Y` and `Z` for the first arguments of the call that is lowered, `Arg` for any, `OUT`
for the array that takes its result, `Kwarg` for a keyword, `Ones` for a vector to sum with.
`filled` puts other expressions in their place. Whatever is no Expression is a literal: a number, a
text, a tuple.

>>> template = X.method("dot", Y, OUT)
>>> template
X.dot(Y, OUT)
>>> filled(template, {X: Kwarg("a"), Y: Kwarg("b"), OUT: OUT}.__getitem__)
a.dot(b, OUT)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Expression:
    """A part of a program that has a value. Those without parts of their own are leaves."""

    def method(self, name: str, *args: Any, **kwargs: Any) -> "Call":
        """The call of a method of this expression's value."""
        return Call(Attribute(self, name), *args, **kwargs)


class Call(Expression):
    """A call of a function.

    Attributes
    ----------
    function : str or Attribute
        The function's name in the program, dots allowed; or a method.
    args : tuple
        The arguments by position, in order: expressions and literals.
    kwargs : dict
        Those by keyword.
    """

    __match_args__ = ("function", "args", "kwargs")
    __slots__ = ("args", "function", "kwargs")

    def __init__(self, function: "str | Attribute", *args: Any, **kwargs: Any) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs

    def __repr__(self) -> str:
        given = [*map(repr, self.args), *[f"{name}={v!r}" for name, v in self.kwargs.items()]]
        function = self.function if isinstance(self.function, str) else repr(self.function)
        return f"{function}({', '.join(given)})"


@dataclass(frozen=True)
class Attribute(Expression):
    """An attribute of a value: `X.mT` is Attribute(X, "mT")."""

    owner: Expression
    name: str

    def __repr__(self) -> str:
        return f"{self.owner!r}.{self.name}"


@dataclass(frozen=True)
class Overwrite(Expression):
    """`target[...] = value`: the elements of an array, without a function of the library."""

    target: Expression
    value: Any


@dataclass(frozen=True)
class Arg(Expression):
    """The argument of the lowered call at a place."""

    place: int

    def __repr__(self) -> str:
        return "XYZ"[self.place] if self.place < 3 else f"ARG{self.place}"


@dataclass(frozen=True)
class Kwarg(Expression):
    """A keyword of the lowered call, or `default` where it is not given."""

    name: str
    default: Any = None

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Ones(Expression):
    """A vector of ones as long as an axis of the first array, of its dtype.

    Attributes
    ----------
    axis : int
        The axis.
    column : bool
        Its shape is (n, 1) in place of (n,).
    """

    axis: int
    column: bool = False


@dataclass(frozen=True)
class Out(Expression):
    """The array that takes the result."""

    def __repr__(self) -> str:
        return "OUT"


X, Y, Z, OUT = Arg(0), Arg(1), Arg(2), Out()


def filled(expression: Any, leaf: Callable[[Any], Any]) -> Any:
    """The expression with `leaf` of each of its leaves in their place, from left to right.

    Literals stay as they are.
    """
    kind = type(expression)
    if kind is Call:
        function = expression.function
        made = Call(function if type(function) is str else filled(function, leaf))
        made.args = tuple([filled(arg, leaf) for arg in expression.args])
        if expression.kwargs:
            made.kwargs = {name: filled(each, leaf) for name, each in expression.kwargs.items()}
        return made
    if kind is Attribute:
        return Attribute(filled(expression.owner, leaf), expression.name)
    if kind is Overwrite:
        return Overwrite(filled(expression.target, leaf), filled(expression.value, leaf))
    return leaf(expression) if isinstance(expression, Expression) else expression
