"""Namespace: the standard over another namespace, for differentiable arrays."""

from collections.abc import Callable
from typing import Any

import backends
from tinynn.trace.core import BASE, Function, Traced, bottom, plain
from tinynn.trace.standard import CREATION, INSPECTION, OPERATORS, PLAIN, SIGNATURES

EXTENSIONS = ("fft", "linalg")
KNOWN = frozenset(SIGNATURES) | CREATION | INSPECTION | PLAIN

_SCALARS = (bool, int, float, complex, type(None))
_built: dict[Any, "Namespace"] = {}


class Namespace:
    """The Array API standard over the namespace `xp`, spoken by differentiable arrays.

    Functions given arrays of a transformation are handled by it; functions that make arrays
    (`asarray`, `zeros`, ...) make arrays that no transformation follows. There is one Namespace
    over each `xp`, whatever the depth of the transformations: the depth is in the arrays.

    Args:
        xp: a namespace of the standard, for instance what `backends.get("numpy").xp` gives.

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
            space._inexact = {}
        return space

    xp: Any
    __name__: str
    _inexact: dict[Any, bool]

    def __getattr__(self, name: str) -> Any:
        # Reached once a name: what is made is kept as an attribute.
        if name in EXTENSIONS:
            getattr(self.xp, name)  # an AttributeError where the library lacks it
            return Extension(self, name)
        if name not in KNOWN:
            raise AttributeError(
                f"{self.__name__} has no {name!r}: it speaks the Array API standard, and that "
                "function is not in it; write it with functions of the standard"
            )
        value = self._make(name)
        setattr(self, name, value)
        return value

    def _make(self, name: str) -> Any:
        raw = _member(self.xp, name)
        if name in SIGNATURES:
            arrays, settings = SIGNATURES[name]
            if arrays == ("*arrays",):
                return Function(name, raw, self)
            return Function(name, _by_position(raw, arrays, settings), self, arrays, settings)
        if name in CREATION:
            return _creator(self, name, raw)
        if name in INSPECTION:
            return lambda *args, **settings: raw(*map(bottom, args), **settings)
        return raw

    def is_inexact(self, dtype: Any) -> bool:
        """Whether numbers of this type can change a little: reals and complex numbers can."""
        known = self._inexact.get(dtype)
        if known is None:
            known = self.xp.isdtype(dtype, ("real floating", "complex floating"))
            self._inexact[dtype] = known
        return known

    def device_of(self, array: Any) -> Any:
        """The device of a plain array."""
        return backends.of(array).device

    def __dir__(self) -> list[str]:
        return [*EXTENSIONS, *[name for name in _names(self.xp) if "." not in name]]

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
    return sorted(name for name in KNOWN if _member(xp, name, None) is not None)


def _member(xp: Any, name: str, *default: Any) -> Any:
    extension, _, member = name.rpartition(".")
    return getattr(getattr(xp, extension, None) if extension else xp, member, *default)


def _by_position(
    raw: Callable[..., Any], arrays: tuple[str, ...], settings: tuple[str, ...]
) -> Callable[..., Any]:
    """`raw` taking arrays by position and settings by keyword.

    Libraries name those settings each in its own way (`reps`, `repetitions`); by position all
    agree.
    """
    if arrays[0][0] == "[":
        return lambda *members, **rest: raw(members, **rest)
    if not settings:
        return raw

    def call(x: Any, **given: Any) -> Any:
        return raw(x, *[given.pop(name) for name in settings if name in given], **given)

    return call


def _creator(space: Namespace, name: str, raw: Callable[..., Any]) -> Callable[..., Any]:
    def create(*args: Any, **settings: Any) -> Any:
        if name == "asarray" and type(args[0]) is Traced:
            return _as_itself(space, args[0], **settings)
        return Traced(raw(*map(plain, args), **settings), BASE, None, space)

    return create


def _as_itself(
    space: Namespace, x: Traced, dtype: Any = None, device: Any = None, copy: bool | None = None
) -> Any:
    if device is not None:
        x = x.to_device(device)
    if dtype is not None and dtype != x.dtype:
        x = space.astype(x, dtype)
    return space.positive(x) if copy else x


def namespace(*arrays: Any) -> Any:
    """The namespace whose functions take all these arrays; Python scalars and None are passed over.

    Differentiable arrays among them: the `Namespace` over their library. Plain arrays only: their
    library's own.

    Raises:
        TypeError: something is not an array.
        ValueError: the arrays are of two libraries or on two devices.
    """
    for a in arrays:
        if type(a) is Traced:
            return a.space
    if len(arrays) == 1:
        return backends.of(arrays[0]).xp
    return backends.of(*[a for a in arrays if type(a) not in _SCALARS]).xp


def backend_of(*arrays: Any) -> backends.Backend:
    """The backend, library and device, on which these arrays live, under any transformation."""
    return backends.of(*[bottom(a) for a in arrays if type(a) not in _SCALARS])


def _operator(name: str, swapped: bool) -> Callable[..., Any]:
    if swapped:
        return lambda self, other: getattr(self.space, name)(other, self)
    return lambda self, other: getattr(self.space, name)(self, other)


def _give_operators() -> None:
    for method, (name, swaps) in OPERATORS.items():
        if swaps is None:
            unary = lambda self, name=name: getattr(self.space, name)(self)  # noqa: E731
            setattr(Traced, f"__{method}__", unary)
            continue
        setattr(Traced, f"__{method}__", _operator(name, swapped=False))
        if swaps:
            setattr(Traced, f"__r{method}__", _operator(name, swapped=True))


_give_operators()
