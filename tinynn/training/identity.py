"""The identity of a step: by it a program of an earlier run is found without recording the step."""

import inspect
from dataclasses import fields, is_dataclass
from functools import partial
from operator import is_
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from backends import is_array
from tinynn import tree
from tinynn.initializers import Initializer


def key_of(step: Any, backend: Any, *arguments: Any) -> Any:
    """A key that steps have in common which are recorded as the same program.

    None where only recording can tell: for code of others, and for arrays in a step, which may
    change. A method that is replaced in its class makes another key, a function that is replaced in
    its module does not: `tinynn.compiler.reuse.clear()` forgets what it was.

    Parameters
    ----------
    step
        What is recorded.
    backend
        Where it runs.
    *arguments
        Trees of what it is recorded with, of which shapes, dtypes and devices count.
    """
    if not is_ours(step):
        return None
    leaves, structure = tree.flatten(arguments)
    try:
        given = [(a.shape, a.dtype, str(getattr(a, "device", ""))) for a in leaves]
        key = backend, str(backend.device), backend.default_float, _key(step), structure, *given
        hash(key)
    except (TypeError, AttributeError):
        return None
    return key


def _key(part: Any) -> Any:
    if part is None or isinstance(part, int | float | str):
        return type(part), repr(part)  # 1 is True, and 1.0
    if isinstance(part, tuple | list):
        return type(part), *map(_key, part)
    if isinstance(part, dict):
        return tuple([(_key(name), _key(value)) for name, value in part.items()])
    if isinstance(part, FunctionType | type):
        return part
    if isinstance(part, partial):
        return partial, _key(part.func), _key(part.args), _key(part.keywords)
    if not is_dataclass(part):
        raise TypeError("an array")
    # A method may be replaced in its class, by another one of tinynn's.
    methods = [value for each in inspect.getmro(type(part)) for value in _methods(each)]
    return type(part), *methods, *map(_key, _called(part))


def _called(part: Any) -> list[Any]:
    """The settings of a dataclass that a pass may call: all but initializers."""
    return [getattr(part, f.name) for f in fields(part) if f.type != Initializer]


def is_ours(part: Any) -> bool:
    """True if it is made of tinynn's own classes and functions, of numbers and of arrays.

    Initializers may be anybody's: parameters and state are there before a pass.
    """
    if part is None or isinstance(part, int | float | str) or is_array(part):
        return True
    if isinstance(part, tuple | list | dict):
        return all(map(is_ours, part.values() if isinstance(part, dict) else part))
    if isinstance(part, partial):
        return all(map(is_ours, (part.func, part.args, part.keywords)))
    kind = part if isinstance(part, FunctionType | type) else type(part)
    if not (kind.__module__ or "").startswith("tinynn."):  # functions of C may have none
        return False
    if part is kind:
        cells = getattr(part, "__closure__", None) or ()
        return all(is_ours(cell.cell_contents) for cell in cells)
    return is_dataclass(part) and _is_as_written(type(part)) and all(map(is_ours, _called(part)))


# Of a class what it and its bases were made of, and whether that was as written.
_written: WeakKeyDictionary[type, tuple[list[Any], bool]] = WeakKeyDictionary()


def _is_as_written(kind: type) -> bool:
    """True unless a method is of another package than its class: one that was put there later."""
    bases = kind.__mro__[:-1]  # but for object
    made_of = [value for each in bases for value in vars(each).values()]
    known, answer = _written.get(kind, ([], False))
    if len(known) == len(made_of) and all(map(is_, known, made_of)):
        return answer
    answer = all(
        _package_of(method) == _package_of(each) for each in bases for method in _methods(each)
    )
    _written[kind] = made_of, answer
    return answer


def _methods(kind: type) -> list[Any]:
    """The functions that a class itself has, and what else is called in place of one."""
    own = [getattr(each, "__func__", each) for each in vars(kind).values()]
    return [each for each in own if callable(each) and not isinstance(each, type)]


def _package_of(part: Any) -> str:
    return (getattr(part, "__module__", None) or "").partition(".")[0]
