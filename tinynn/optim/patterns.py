"""Patterns of parameters: fnmatch on their paths, such as "0.weight"."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, TypeAlias

from tinynn import tree
from tinynn.config import label

#: One pattern or several.
Patterns: TypeAlias = str | Sequence[str]
#: Every parameter.
ALL = "*"


def as_patterns(value: Patterns) -> tuple[str, ...]:
    """One pattern or several, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


def require_patterns(owner: Any, name: str) -> None:
    """TypeError unless a field holds a pattern or several; a list becomes a tuple."""
    value = getattr(owner, name)
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, list | tuple) or not patterns or not _are_texts(patterns):
        raise TypeError(
            f"{type(owner).__name__}: expected {name} to be a pattern of paths such as "
            f"'*.weight', or a tuple of them, got {value!r}"
        )
    if isinstance(value, list):
        object.__setattr__(owner, name, tuple(value))


def _are_texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def matches(path: str, patterns: Sequence[str]) -> bool:
    """True if one of the patterns matches the path."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def require_matches(owner: Any, params: Any, patterns: Sequence[str]) -> None:
    """ValueError for a pattern that matches no path in params."""
    paths = [path for path, _ in tree.paths(params)]
    for pattern in patterns:
        if not any(matches(path, (pattern,)) for path in paths):
            raise ValueError(
                f"{label(owner)}: expected pattern {pattern!r} to match a parameter, got no "
                f"match. To fix it: change it; the parameters are {shown(paths)}"
            )


def shown(paths: Sequence[str]) -> str:
    """A few of the paths."""
    return ", ".join(map(repr, paths[:8])) + (", ..." if len(paths) > 8 else "")


@lru_cache(maxsize=128)
def first_match(
    structure: tree.Structure, count: int, rows: tuple[tuple[str, ...], ...]
) -> tuple[int, ...]:
    """For each of `count` leaves the first row of patterns that matches its path; -1 for none."""
    paths = [path for path, _ in tree.paths(structure.unflatten(range(count)))]
    return tuple(
        next((i for i, row in enumerate(rows) if matches(path, row)), -1) for path in paths
    )
