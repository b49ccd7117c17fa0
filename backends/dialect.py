"""Dialect: how a compiled program says things in one library, as a careful person would there.

A library without one runs compiled programs in the standard's own calls.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Into:
    """How a function of the standard writes its result into an array that is there.

    Attributes:
        text: the statement: {0}, {1} are the arrays, {out} the result, settings go by name.
            Or a function of the shapes of the arrays and the settings that gives it, or None.
        full: a number among the arguments becomes an array of the result's shape.
        over: whether the result may take the place of an argument.
    """

    text: str | Callable[..., str | None]
    full: bool = False
    over: bool = True


@dataclass(frozen=True)
class Dialect:
    """What a library can do beyond the standard's calls.

    Attributes:
        library: the module in which the names in the statements are found.
        empty: a new array of a shape and dtype, with whatever values.
        into: Into for functions of the standard; "copy" for copying an array into another.
        words: how a call that makes no array of its own is written: "{0}.T", settings by name.
        spelled: functions to be spelled out in others, `definition(xp, *arrays, **settings)`.
        context: a context manager in which programs run that call one of `quiet`, of which the
            library would warn although the result is right.
    """

    library: ModuleType
    empty: Callable[[Any, Any], Any]
    into: Mapping[str, Into]
    words: Mapping[str, str] = field(default_factory=dict)
    spelled: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    quiet: frozenset[str] = frozenset()
