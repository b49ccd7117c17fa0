"""The statement language: programs in a library's calls, as objects.

`tinynn.compiler.calls` writes them, passes such as `tiling` change them, and a renderer makes text
of them last, which nobody reads back. A statement that computes a value of a graph names it in
`node`: renderers and tracebacks say the layer and the shape from there. Calls and attributes are
those of `backends.expressions`, in which lowerings say how a library writes.

>>> from backends.expressions import Call
>>> x, y = Variable("x", (3,)), Variable("y", (3,))
>>> Assign(y, Call("exp", x)).value
exp(x)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backends.expressions import Arg, Attribute, Call, Expression, Kwarg, Overwrite, filled
from tinynn.transforms.graph import Node

# Expressions.


@dataclass(eq=False, repr=False)
class Variable(Expression):
    """A name of the program.

    Attributes
    ----------
    name : str
        The name.
    shape : tuple of int, optional
        The array's that it holds; None where it holds something else.
    """

    name: str
    shape: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return self.name


@dataclass(eq=False)
class Subscript(Expression):
    """`owner[key]`: the entry or the view of an array at a key.

    Attributes
    ----------
    owner : Expression
        The array.
    key : Any
        An index as the standard has it, with a `HOLE` for each array in it.
    arrays : sequence
        Those arrays, in order.
    """

    owner: Expression
    key: Any
    arrays: Sequence[Any] = ()


@dataclass(eq=False)
class Tuple(Expression):
    """A tuple; `bare` is one without parentheses, on either side of an assignment."""

    items: Sequence[Any]
    bare: bool = False


@dataclass(eq=False)
class List(Expression):
    """A list."""

    items: Sequence[Any]


# Statements.


@dataclass(eq=False, slots=True)
class Assign:
    """`target = value`: a new array, a view, another name."""

    target: Variable | Tuple
    value: Any
    node: Node | None = None


@dataclass(eq=False, slots=True)
class Write:
    """A call that writes its result into an array that is there, `out`."""

    call: Expression
    out: Expression
    node: Node | None = None


@dataclass(eq=False, slots=True)
class Cut:
    """Vectors cut into pieces, which a loop over `target` goes through.

    Attributes
    ----------
    target : Variable
        What the list of pieces is called: of tuples, or of arrays where there is one vector.
    vectors : sequence of Variable
        The vectors, all of one length.
    reused : set of Variable
        Those of which every piece is the first one: nothing in it is read after its turn.
    length : int
        That of a piece; the last one may be shorter.
    """

    target: Variable
    vectors: Sequence[Variable]
    reused: set[Variable]
    length: int
    node: Node | None = None


@dataclass(eq=False, slots=True)
class For:
    """A loop over what an expression gives."""

    target: Variable | Tuple
    iterable: Expression
    body: "Sequence[Statement]"
    node: Node | None = None


@dataclass(eq=False, slots=True)
class Def:
    """The definition of a function."""

    name: str
    parameters: Sequence[Variable]
    body: "Sequence[Statement]"
    node: Node | None = None


@dataclass(eq=False, slots=True)
class Return:
    """The result of a function."""

    value: Any
    node: Node | None = None


@dataclass(eq=False, slots=True)
class Section:
    """The statements of a step, shown under the layers that they come from, with their shapes."""

    body: "Sequence[Statement]"
    node: Node | None = None


@dataclass(eq=False, slots=True)
class Blank:
    """An empty line."""

    node: Node | None = None


Statement = Assign | Write | Cut | For | Def | Return | Section | Blank

__all__ = [
    "Assign",
    "Attribute",
    "Blank",
    "Call",
    "Cut",
    "Def",
    "Expression",
    "For",
    "List",
    "Overwrite",
    "Return",
    "Section",
    "Statement",
    "Subscript",
    "Tuple",
    "Variable",
    "Write",
    "filled",
]


def argument(leaf: Any, args: Sequence[Any], node: Node) -> Any:
    """The operand in a template's place for an argument or a keyword of a call."""
    if isinstance(leaf, Arg):
        return args[leaf.place]
    if isinstance(leaf, Kwarg):
        return node.kwargs.get(leaf.name, leaf.default)
    return leaf
