"""Namespace: the standard over another namespace, for differentiable arrays."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import backends
from tinynn.trace.core import BASE, Function, Traced, bottom, plain
from tinynn.trace.standard import CREATION, FUNCTIONS, INSPECTION, PLAIN, Call, call_of

EXTENSIONS = ("fft", "linalg")
KNOWN = PLAIN.union(FUNCTIONS, CREATION, INSPECTION)

_SCALARS = (bool, int, float, complex, type(None))
_built: dict[Any, "Namespace"] = {}


class Kinds(dict[Any, str]):
    """dtype -> "real floating", "complex floating", or "" for any other dtype."""

    def __init__(self, xp: Any) -> None:
        super().__init__()
        self.xp = xp

    def __missing__(self, dtype: Any) -> str:
        kinds = ("real floating", "complex floating")
        self[dtype] = next((kind for kind in kinds if self.xp.isdtype(dtype, kind)), "")
        return self[dtype]


class Namespace:
    """The Array API standard over the namespace `xp`, for differentiable arrays.

    Functions given arrays of a transformation are handled by it; functions that make arrays
    (`asarray`, `zeros`, ...) make arrays that no transformation follows. There is one Namespace
    over each `xp`; how deep transformations are nested is in the arrays, not here.

    Parameters
    ----------
    xp
        A namespace of the standard, for instance what `backends.get("numpy").xp` gives.

    Examples
    --------
    >>> import backends
    >>> xp = Namespace(backends.get("numpy").xp)
    >>> xp.sum(xp.asarray([1.0, 2.0]) * 2).shape
    ()
    """

    def __new__(cls, xp: Any) -> "Namespace":
        if isinstance(xp, Namespace):
            return xp
        space = _built.get(xp)
        if space is None:
            space = _built[xp] = super().__new__(cls)
            space.xp = xp
            space.__name__ = f"tinynn.over.{xp.__name__}"
            space.kinds, space._extensions = Kinds(xp), {}
        return space

    xp: Any
    __name__: str
    kinds: Kinds
    _extensions: dict[str, "Extension"]

    def __getattr__(self, name: str) -> Any:
        # Reached once a name: what is made is kept as an attribute.
        if name in EXTENSIONS:
            getattr(self.xp, name)  # an AttributeError where the library lacks it
            if name not in self._extensions:
                self._extensions[name] = Extension(self, name)
            return self._extensions[name]
        if name not in KNOWN:
            raise AttributeError(
                f"{self.__name__} has no {name!r}: it holds the Array API standard, and that "
                "function is not in it; write it with functions of the standard"
            )
        value = self._make(name)
        setattr(self, name, value)
        return value

    def _make(self, name: str) -> Any:
        raw = _member(self.xp, name)
        if name in FUNCTIONS:
            call = call_of(name)
            return Function(name, _arrays_first(raw, call), self, call)
        if name == "asarray":
            return _called(CREATION[name], name, partial(_asarray, self))
        if name in CREATION:
            return _called(CREATION[name], name, partial(_create, self, raw))
        if name in INSPECTION:
            return _called(INSPECTION[name], name, partial(_inspect, raw))
        return raw

    @property
    def __array_api_version__(self) -> str:
        return self.xp.__array_api_version__

    def __array_namespace_info__(self) -> Any:
        return self.xp.__array_namespace_info__()

    def device_of(self, array: Any) -> Any:
        """The device of a plain array."""
        return backends.of(array).device

    def __dir__(self) -> list[str]:
        there = [name for name in EXTENSIONS if hasattr(self.xp, name)]
        return [*there, *[name for name in _names(self.xp) if "." not in name]]

    def __repr__(self) -> str:
        return f"<namespace {self.__name__}>"


class Extension:
    """An optional part of the standard, `linalg` or `fft`, as an attribute of a Namespace."""

    def __init__(self, space: Namespace, name: str) -> None:
        self._space = space
        self.__name__ = f"{space.__name__}.{name}"
        self._prefix = f"{name}."

    def __getattr__(self, name: str) -> Any:
        if self._prefix + name not in KNOWN:
            raise AttributeError(f"{self.__name__} has no {name!r}: it is not in the standard")
        value = self._space._make(self._prefix + name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        names = [name for name in _names(self._space.xp) if name.startswith(self._prefix)]
        return [name.removeprefix(self._prefix) for name in names]


def _names(xp: Any) -> list[str]:
    return sorted(name for name in KNOWN if _member(xp, name, KNOWN) is not KNOWN)


def _member(xp: Any, name: str, *default: Any) -> Any:
    extension, _, member = name.rpartition(".")
    return getattr(getattr(xp, extension, None) if extension else xp, member, *default)


def _arrays_first(raw: Callable[..., Any], call: Call) -> Callable[..., Any]:
    """`raw` taking its arrays by position and its kwargs by keyword."""
    if call.sequence:
        return lambda *arrays, **kwargs: raw(arrays, **kwargs)
    if call.keyed:
        count = len(call.arrays)

        def by_keyword(*args: Any, **kwargs: Any) -> Any:
            keyed = zip(call.keyed, args[count:], strict=False)
            given = {name: array for name, array in keyed if array is not None}
            return raw(*args[:count], **given, **kwargs)

        return by_keyword
    if call.nameless:  # kwargs with a name of their own in each library (`reps`, `repetitions`)
        names = call.kwargs
        return lambda x, **given: raw(x, *[given.pop(n) for n in names if n in given], **given)
    return raw


def _called(call: Callable[..., Any], name: str, body: Callable[..., Any]) -> Callable[..., Any]:
    """A function that does what `body` does and is called as the standard calls it."""

    def function(*args: Any, **kwargs: Any) -> Any:
        return body(*args, **kwargs)

    function.__name__ = name
    function.__signature__ = signature(call)  # type: ignore[attr-defined]
    return function


def _create(space: Namespace, raw: Callable[..., Any], *args: Any, **kwargs: Any) -> Traced:
    """An array that no transformation follows."""
    return Traced(raw(*map(plain, args), **kwargs), BASE, None, space)


def _inspect(raw: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return raw(*[a.dtype if type(a) is Traced else a for a in args], **kwargs)


def _asarray(
    space: Namespace,
    obj: Any,
    /,
    *,
    dtype: Any = None,
    device: Any = None,
    copy: bool | None = None,
) -> Any:
    if isinstance(obj, list | tuple) and _holds_traced(obj):
        obj = space.stack([_asarray(space, item, dtype=dtype) for item in obj])
    if type(obj) is not Traced:
        return _create(space, space.xp.asarray, obj, dtype=dtype, device=device, copy=copy)
    if device is not None:
        obj = obj.to_device(device)
    if dtype is not None and dtype != obj.dtype:
        return space.astype(obj, dtype)
    # One that a transformation follows never changes, so it is as good as its copy.
    if copy and obj.trace is BASE:
        return _create(space, space.xp.asarray, obj, copy=True)
    return obj


def _holds_traced(items: Any) -> bool:
    return any(
        type(item) is Traced or (isinstance(item, list | tuple) and _holds_traced(item))
        for item in items
    )


def namespace(*arrays: Any) -> Any:
    r"""The namespace whose functions take all these arrays.

    Differentiable arrays among them: the `Namespace` over their library. Plain arrays only: their
    library's own.

    Raises
    ------
    TypeError
        Something is not an array.
    ValueError
        The arrays are of two libraries or on two devices.

    Parameters
    ----------
    \*arrays
        One or more; numbers and None among them are passed over.
    """
    for a in arrays:
        if type(a) is Traced:
            return a.space
    if len(arrays) == 1:
        return backends.of(arrays[0]).xp
    return backends.of(*[a for a in arrays if type(a) not in _SCALARS]).xp


def backend_of(*arrays: Any) -> backends.Backend:
    r"""The backend, library and device, on which these arrays live, under any transformation.

    Parameters
    ----------
    \*arrays
        One or more; numbers and None among them are passed over.
    """
    return backends.of(*[bottom(a) for a in arrays if type(a) not in _SCALARS])
