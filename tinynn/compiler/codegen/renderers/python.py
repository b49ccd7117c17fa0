"""The renderer of Python: a function of numbers and flat arrays, for readers.

Python's arithmetic and `range`, the functions of `math`, the names of the dtypes as casts of
numbers, the elementary functions named by their dtype, such as exp_float32(x), and, for sums of
floats whose order does not matter, plus(x, y) and plus_product(x, y, z) = x + y * z.
"""

import builtins
import keyword
import math
from collections.abc import Iterable, Iterator

from tinynn.compiler.codegen.language import (
    BYTES,
    INDEX,
    Accumulate,
    Apply,
    Assign,
    Cast,
    Comment,
    Constant,
    Expression,
    Function,
    Gemm,
    If,
    Load,
    Loop,
    Matrix,
    Select,
    Statement,
    Store,
    Variable,
    is_float,
    is_integer,
    names,
)
from tinynn.compiler.codegen.operations import OPERATIONS, taken_in
from tinynn.compiler.codegen.renderers.parts import index_text
from tinynn.compiler.identifiers import Names, of_number

#: Names that mean something in a kernel's source.
RESERVED = {*dir(math), *dir(builtins), *keyword.kwlist, *BYTES, "bool_", "plus", "plus_product"}
RESERVED |= {f"{name}_{dtype}" for name in ("product", *OPERATIONS) for dtype in BYTES} | {"rint"}


def render(function: Function) -> str:
    """The source of a function of one thread."""
    return "\n".join(_Renderer(function).lines()) + "\n"


def spelled(dtype: str) -> str:
    """The name of a dtype, which casts a number to it."""
    return {"bool": "bool_", INDEX: "int64"}.get(dtype, dtype)


class _Renderer:
    def __init__(self, function: Function) -> None:
        self.function = function
        self._names = Names()
        self._names.taken |= names(function)
        self._numbers: dict[str, str] = {}  # variables that hold numbers, by the numbers' text

    def lines(self) -> Iterator[str]:
        function = self.function
        body = list(self._block(function.body, 1))
        given = [v.name for v in function.numbers] + [b.name for b in function.arguments]
        yield f"def {function.name}({', '.join(given)}):"
        # What has a name need not be compiled twice.
        yield from (f"    {name} = {text}" for text, name in self._numbers.items())
        yield from body

    # Statements.

    def _block(self, statements: Iterable[Statement], depth: int) -> Iterator[str]:
        for each in statements:
            if isinstance(each, Loop):
                yield "    " * depth + f"for {each.variable.name} in range({_bounds(each)}):"
                if each.going is not None:
                    yield "    " * (depth + 1) + f"if not {each.going.name}:"
                    yield "    " * (depth + 2) + "break"
                yield from self._block(each.body, depth + 1)
            elif isinstance(each, If):
                for head, branch in (
                    (f"if {self._text(each.condition)}:", each.then),
                    ("else:", each.otherwise),
                ):
                    if branch is each.otherwise and not branch:
                        continue
                    yield "    " * depth + head
                    yield from self._block(branch, depth + 1)
                    if all(isinstance(inside, Comment) for inside in branch):
                        yield "    " * (depth + 1) + "pass"
            else:
                yield "    " * depth + self._line(each)

    def _line(self, statement: Statement) -> str:
        match statement:
            case Comment(text):
                return f"# {text}"
            case Assign(variable, value):
                return f"{variable.name} = {self._text(value)}"
            case Store(place, value):
                return f"{_element(place)} = {self._text(value)}"
            case Accumulate(place, reduction, value):
                return f"{_element(place)} = {self._accumulated(place, reduction, value)}"
            case Gemm():
                return _gemm(statement)
        raise TypeError(f"{type(statement).__name__} is for functions of several threads")

    def _accumulated(self, place: Variable | Load, reduction: str, value: Expression) -> str:
        if reduction != "sum" or not is_float(place.dtype):
            return self._text(taken_in(reduction, place, value))
        held = self._text(place)
        if isinstance(value, Apply) and value.operation == "multiply":
            return f"plus_product({', '.join([held, *map(self._text, value.args)])})"
        return f"plus({held}, {self._text(value)})"

    # Expressions.

    def _text(self, value: Expression) -> str:
        match value:
            case Variable(name):
                return name
            case Constant(number, dtype):
                return self._number(number, dtype)
            case Load():  # in memory a boolean is a byte
                return _element(value) + (" != 0" if value.dtype == "bool" else "")
            case Cast(inside, "bool"):
                return f"{self._inner(inside)} != 0"
            case Cast(inside, dtype):
                return f"{spelled(dtype)}({self._text(inside)})"
            case Select(condition, yes, no):
                return f"{self._inner(yes)} if {self._text(condition)} else {self._inner(no)}"
            case Apply(operation, args, dtype):
                row = OPERATIONS[operation]
                texts = map(self._text if row.call else self._inner, args)
                whole = row.python.format(*texts, t=spelled(args[0].dtype))
                # Python's arithmetic gives 64 bits, of which the result keeps its own.
                return f"{spelled(dtype)}({whole})" if is_integer(dtype) else whole

    def _inner(self, value: Expression) -> str:
        """The text of an argument."""
        text = self._text(value)
        return text if _is_atom(value) else f"({text})"

    def _number(self, value: bool | int | float, dtype: str) -> str:
        if dtype in ("bool", INDEX):
            return repr(value)
        text = f"{spelled(dtype)}({value!r})"
        if text not in self._numbers:
            self._numbers[text] = self._names.new(of_number(value))
        return self._numbers[text]


def _is_atom(value: Expression) -> bool:
    """True if the text of an expression is one name, element or call."""
    if isinstance(value, Apply):
        return OPERATIONS[value.operation].call or is_integer(value.dtype)
    if isinstance(value, Cast | Load):
        return value.dtype != "bool"
    return not isinstance(value, Select)


def _element(place: Variable | Load) -> str:
    """The text of what is assigned to."""
    if isinstance(place, Variable):
        return place.name
    return f"{place.buffer.name}[{index_text(place.index)}]"


def _bounds(loop: Loop) -> str:
    stop = loop.stop.name if isinstance(loop.stop, Variable) else str(loop.stop)
    if loop.step != 1:
        return f"{loop.start}, {stop}, {loop.step}"
    return f"{loop.start}, {stop}" if loop.start else stop


def _gemm(gemm: Gemm) -> str:
    def factor(matrix: Matrix) -> list[str]:
        return [matrix.buffer.name, index_text(matrix.start), str(int(matrix.transposed))]

    out, sizes = gemm.out, map(str, (gemm.rows, gemm.columns, gemm.length))
    given = [*sizes]
    for matrix in (gemm.left, gemm.right):
        given += [*factor(matrix), str(matrix.step)]
    given += [out.buffer.name, index_text(out.start), str(out.step)]
    return f"product_{out.buffer.dtype}({', '.join(given)})"
