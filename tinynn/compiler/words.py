"""The text of emitted programs: names, numbers, indices, lines."""

import keyword
import re
from collections.abc import Iterable
from typing import Any

from tinynn.trace.core import HOLE
from tinynn.transforms.graph import Node

_NUMBERS = {0: "zero", 1: "one", 2: "two", 0.5: "half", -1: "minus_one"}
_PLAIN = (bool, int, float, str, type(None))

#: A line of a program, and the value that it computes, if it computes one.
Line = tuple[str, Node | None]


class Names:
    """Names for the values of one program, no two of them alike."""

    def __init__(self, library: Any = None) -> None:
        self.taken: set[str] = set(dir(library)) if library else set()
        self.bound: dict[str, Any] = {}  # what a program is given by these names
        self._library, self._known = library, dict[Any, str]()
        self._counts: dict[str, int] = {}
        self._after: dict[str, int] = {}  # the first number that a name may still have

    def new(self, wanted: str) -> str:
        """This name, or this name with a number."""
        name = re.sub(r"\W", "_", wanted).strip("_") or "v"
        if name[0].isdigit() or keyword.iskeyword(name):
            name = f"v{name}"
        candidate, count = name, self._after.get(name, 1)
        while candidate in self.taken:
            candidate, count = f"{name}_{count}", count + 1
        self._after[name] = count
        self.taken.add(candidate)
        return candidate

    def numbered(self, letter: str) -> str:
        """This letter with the next number."""
        number = self._counts[letter] = self._counts.get(letter, -1) + 1
        return self.new(f"{letter}{number}")

    def bind(self, wanted: str, value: Any, key: Any = None) -> str:
        """The name of something from outside; what has the same `key` is bound once."""
        key = (wanted, id(value)) if key is None else key
        if key not in self._known:
            self._known[key] = self.new(wanted)
            self.bound[self._known[key]] = value
        return self._known[key]

    def function(self, name: str, raw: Any) -> str:
        """The name of a function: the library's own, if that is the one."""
        theirs = getattr(self._library, name, None)
        if theirs is raw:
            return name
        return self.bind(name if theirs is None else f"xp_{name}", raw)


# What a training step's arguments are made of, which a name need not repeat.
_CONTAINERS = ("carry", "params", "state", "optimizer_state", "batch")


def of_input(label: str) -> str:
    """ "carry.params.0.weight" as "weight_0", "batch.x" as "x"."""
    parts = label.split(".")
    while parts[0] in _CONTAINERS and parts[1:]:
        parts = parts[1:]
    numbers = [part for part in parts if part.isdigit()]
    words = [part for part in parts if not part.isdigit()]
    return "_".join(words + numbers)


def of_number(value: float) -> str:
    """0.5 as "half", 0.9 as "c_0_9"."""
    return _NUMBERS.get(value, f"c_{value!r}".replace("-", "minus_").replace(".", "_"))


def literal(value: Any) -> str | None:
    """The Python text of a kwarg; None for what has none."""
    if isinstance(value, _PLAIN) and repr(value) not in ("inf", "nan", "-inf"):
        return repr(value)
    if isinstance(value, tuple):
        parts = [literal(part) for part in value]
        if None in parts:
            return None
        return f"({', '.join(map(str, parts))}{',' if len(parts) == 1 else ''})"
    return None


def index(key: Any, arrays: list[str]) -> str:
    """The text of an index, with the names of its arrays."""
    supply = iter(arrays)

    def text(part: Any) -> str:
        if part is HOLE:
            return next(supply)
        if part is Ellipsis:
            return "..."
        if isinstance(part, slice):
            ends = ["" if end is None else str(end) for end in (part.start, part.stop)]
            return ":".join(ends) + (f":{part.step}" if part.step is not None else "")
        return repr(part)

    if key == ():
        return "()"
    parts = key if isinstance(key, tuple) else (key,)
    return ", ".join(map(text, parts)) + ("," if isinstance(key, tuple) and len(key) == 1 else "")


def listed(names: list[str]) -> str:
    """The inside of a tuple."""
    return ", ".join(names) + ("," if len(names) == 1 else "")


def bare(texts: Iterable[str]) -> list[Line]:
    """Lines that compute no value of the graph."""
    return [(text, None) for text in texts]


def source_of(lines: Iterable[Line]) -> str:
    """The text of a program."""
    return "\n".join(text for text, _ in lines) + "\n"


def indented(lines: Iterable[Line], depth: int) -> list[Line]:
    """The lines, so many blocks deep."""
    return [(" " * 4 * depth + text, node) for text, node in lines]


def commented(lines: Iterable[Line]) -> list[Line]:
    """Statements with the shapes of their results, under the layers that they come from."""
    out: list[Line] = []
    place = ""
    for text, node in lines:
        if node is None:
            out.append((text, None))
            continue
        here = ", ".join(part for part in (node.origin.place, _way(node)) if part)
        if here != place and here:
            out.append((f"# {here}", None))
        place = here
        out.append((f"{text:<48}  # {tuple(node.shape)}", node))
    return out


def _way(node: Node) -> str:
    return "backward" if node.origin.backward else ""
