"""The text of programs: statements as Python, the last thing that is done with them."""

from collections.abc import Callable, Iterable
from operator import index
from typing import Any, NamedTuple

from tinynn.compiler.statements import (
    Assign,
    Attribute,
    Blank,
    Call,
    Cut,
    Def,
    For,
    List,
    Overwrite,
    Return,
    Section,
    Statement,
    Subscript,
    Tuple,
    Variable,
    Write,
)
from tinynn.trace.core import HOLE
from tinynn.transforms.graph import Node


class Line(NamedTuple):
    """A line of a program, and the value of the graph that it computes, if it computes one."""

    text: str
    node: Node | None = None


def source_of(lines: Iterable[Line]) -> str:
    """The text of a program."""
    return "\n".join(line.text for line in lines) + "\n"


def rendered(statements: Iterable[Statement], indent: str = "") -> list[Line]:
    """The lines of these statements.

    >>> x, y = Variable("x"), Variable("y")
    >>> double = Def("double", [x], [Assign(y, Call("add", x, x)), Return(y)])
    >>> print(source_of(rendered([double])), end="")
    def double(x):
        y = add(x, x)
        return y
    """
    lines: list[Line] = []
    for each in statements:
        match each:
            case Write(call, _, node):
                lines.append(Line(indent + text(call), node))
            case Assign(target, value, node):
                lines.append(Line(f"{indent}{text(target)} = {text(value)}", node))
            case Return(value):
                lines.append(Line(f"{indent}return {text(value)}"))
            case Cut(target):
                lines.append(Line(f"{indent}{target.name} = {_pieces(each)}"))
            case For(target, iterable, body, node):
                lines.append(Line(f"{indent}for {text(target)} in {text(iterable)}:", node))
                lines += _block(body, indent)
            case Def(name, parameters, body):
                given = ", ".join([p.name for p in parameters])
                lines.append(Line(f"{indent}def {name}({given}):"))
                lines += _block(body, indent)
            case Section(body):
                lines += _annotated(rendered(body), indent)
            case Blank():
                lines.append(Line(""))
    return lines


def _block(body: Iterable[Statement], indent: str) -> list[Line]:
    indent += "    "
    return rendered(body, indent) or [Line(f"{indent}pass")]


def _annotated(lines: Iterable[Line], indent: str) -> list[Line]:
    """Lines with the shapes of their results, under the layers that they come from."""
    out: list[Line] = []
    last, place = None, ""
    for line in lines:
        node = line.node
        if node is None:
            out.append(Line(indent + line.text))
            continue
        origin = node.origin
        if not last or origin.frames is not last.frames or origin.backward != last.backward:
            last = origin
            here = ", ".join(
                [part for part in (origin.place, "backward" * origin.backward) if part]
            )
            if here != place and here:
                out.append(Line(f"{indent}# {here}"))
            place = here
        out.append(Line(f"{indent}{line.text:<48}  # {tuple(node.shape)}", node))
    return out


def text(value: Any) -> str:
    """The text of an expression or a literal."""
    write = _TEXTS.get(type(value))
    if write is not None:
        return write(value)
    if isinstance(value, Variable):
        return value.name
    # A tuple may be of a library's own kind.
    return f"({_listed(value)})" if isinstance(value, tuple) else _literal(value)


def _literal(value: Any) -> str:
    """The text of a literal; numbers of a library's own kind are Python's in a program."""
    if isinstance(value, float):
        return repr(float(value))
    whole = hasattr(value, "__index__") and not isinstance(value, bool)
    return repr(index(value) if whole else value)


def _call(call: Call) -> str:
    given = [text(arg) for arg in call.args]
    if call.kwargs:
        given += [f"{name}={text(arg)}" for name, arg in call.kwargs.items()]
    function = call.function if isinstance(call.function, str) else text(call.function)
    return f"{function}({', '.join(given)})"


def _listed(items: Iterable[Any]) -> str:
    """The inside of a tuple."""
    texts = [text(item) for item in items]
    return ", ".join(texts) + ("," if len(texts) == 1 else "")


def _index(key: Any, arrays: Iterable[Any]) -> str:
    """An index, with the arrays in it."""
    supply = iter(arrays)

    def part_of(part: Any) -> str:
        if part is HOLE:
            return text(next(supply))
        if part is Ellipsis:
            return "..."
        if isinstance(part, slice):
            ends = ["" if end is None else str(end) for end in (part.start, part.stop)]
            return ":".join(ends) + (f":{part.step}" if part.step is not None else "")
        return _literal(part)

    if key == ():
        return "()"
    parts = key if isinstance(key, tuple) else (key,)
    return ", ".join(map(part_of, parts)) + (
        "," if isinstance(key, tuple) and len(key) == 1 else ""
    )


def _pieces(cut: Cut) -> str:
    whole, length = cut.vectors[0].shape[0], cut.length  # type: ignore[index]
    first, here = f"[:{length}][: {whole} - i]", f"[i : i + {length}]"
    pieces = [v.name + (first if v in cut.reused else here) for v in cut.vectors]
    return f"[({', '.join(pieces)}) for i in range(0, {whole}, {length})]"


_TEXTS: dict[type, Callable[[Any], str]] = {
    Variable: lambda variable: variable.name,
    Call: _call,
    Attribute: lambda attribute: f"{text(attribute.owner)}.{attribute.name}",
    Subscript: lambda part: f"{text(part.owner)}[{_index(part.key, part.arrays)}]",
    Overwrite: lambda each: f"{text(each.target)}[...] = {text(each.value)}",
    Tuple: lambda row: _listed(row.items) if row.bare else f"({_listed(row.items)})",
    List: lambda row: f"[{', '.join(map(text, row.items))}]",
}
