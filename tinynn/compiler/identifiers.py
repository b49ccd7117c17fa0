"""Identifiers of emitted programs, and what is bound to them."""

import keyword
import re
from functools import cache, lru_cache
from typing import Any

_NUMBERS = {0: "zero", 1: "one", 2: "two", 0.5: "half", -1: "minus_one"}


class Names:
    """Names for the values of one program, no two of them alike."""

    def __init__(self, library: Any = None) -> None:
        self.taken: set[str] = set()
        self._theirs = _names_in(library) if library else frozenset[str]()
        self.bound: dict[str, Any] = {}  # what a program is given by these names
        self._library, self._known = library, dict[Any, str]()
        self._counts: dict[str, int] = {}
        self._after: dict[str, int] = {}  # the first number that a name may still have

    def new(self, wanted: str) -> str:
        """This name, or this name with a number."""
        name = _identifier(wanted)
        candidate, count = name, self._after.get(name, 1)
        while candidate in self.taken or candidate in self._theirs:
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


@cache
def _names_in(library: Any) -> frozenset[str]:
    return frozenset(dir(library))


@lru_cache(1024)
def _identifier(wanted: str) -> str:
    """A name that Python takes, for one that is wanted."""
    name = re.sub(r"\W", "_", wanted).strip("_") or "v"
    return f"v{name}" if name[0].isdigit() or keyword.iskeyword(name) else name


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
