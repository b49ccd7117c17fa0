"""Functions run where their arrays are, for the libraries that compute elsewhere if not told."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

from backends.base import Backend
from backends.registry import _library, _load

F = TypeVar("F", bound=Callable[..., Any])


class _Kinds(dict[type, type[Backend] | bool | None]):
    """Type -> its Backend, if that needs a scope; False for other arrays, None for all else."""

    def __missing__(self, kind: type) -> type[Backend] | bool | None:
        found: type[Backend] | bool | None = None
        library = _library(kind)
        if library is not None:
            backend = _load(library) if library else Backend
            found = backend if backend.needs_scope else False
        self[kind] = found
        return found


_KINDS = _Kinds()
_NO_SCOPE = nullcontext()


def scope_of(array: Any) -> AbstractContextManager[Any]:
    """A context in which operators on plain arrays work on the device of this array.

    An array of a transformation is in the scope of that one already.

    Parameters
    ----------
    array
        Of any library, or of a transformation.
    """
    known = _KINDS[type(array)]
    return known.of_array(array).scope() if isinstance(known, type) else _NO_SCOPE


def scoped(function: F) -> F:
    """Wrap `function` to run in the scope of the backend of its first array.

    Operators then work on that array's device. Arrays are looked for among the positional
    arguments, in dicts, lists and tuples too. It costs a look at a type, where the library finds
    the device by itself.

    Parameters
    ----------
    function
        Of arrays, and of what holds some.

    Examples
    --------
    >>> import numpy as np
    >>> scoped(lambda x: x + 1)(np.asarray([1, 2]))
    array([2, 3])
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        home = _first(args)
        if not isinstance(home, Backend):
            return function(*args, **kwargs)
        with home.scope():
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def _first(values: Iterable[Any]) -> Backend | bool | None:
    """The backend of the first array, if it needs a scope; False if it needs none."""
    for value in values:
        kind = type(value)
        if kind is dict:
            found = _first(value.values())
        elif kind is list or kind is tuple:
            found = _first(value)
        else:
            known = _KINDS[kind]
            found = known.of_array(value) if isinstance(known, type) else known
        if found is not None:
            return found
    return None
