"""From a name or from arrays to a Backend; what is installed and usable, and if not, why."""

import importlib
import re
import sys
from dataclasses import dataclass
from functools import cache
from typing import Self

from backends import cuda_driver
from backends.base import Array, Backend, BackendUnavailable, MixedArrays

_BUILT_IN = {
    "numpy": "backends.numpy:NumPy",
    "cupy": "backends.cupy:CuPy",
    "torch": "backends.torch:Torch",
    "jax": "backends.jax:JAX",
    "dpnp": "backends.dpnp:DPNP",
    "array_api_strict": "backends.array_api_strict:Strict",
}
# What pip calls a library where that is not its import name.
_PACKAGES = {"array_api_strict": "array-api-strict"}
# Where the command that installs or repairs a library depends on the machine, and what may be
# wrong before it is imported.
_COMMANDS = {"cupy": cuda_driver.install_cupy}
_CONFLICTS = {"cupy": cuda_driver.cupy_conflict}
_GROUP = "tinynn.backends"


@dataclass(frozen=True)
class Status:
    """The report of `available` on one library; `reason` and `fix` are empty if it is usable."""

    name: str
    version: str
    devices: tuple[str, ...]
    usable: bool
    reason: str
    fix: str
    default_float: str


def names() -> tuple[str, ...]:
    """The names of the known libraries, installed or not: six, and those of entry points.

    >>> import backends
    >>> backends.names()[:3]
    ('numpy', 'cupy', 'torch')
    """
    return tuple(_registered())


def get(name: str | Backend) -> Backend:
    """The backend of that name: "numpy", "cupy:0", "torch:cuda:1", "array_api_strict:device1".

    Without a device it is the library's default one. A Backend passes through.
    BackendUnavailable says what is missing and the command that fixes it.

    Parameters
    ----------
    name
        A library, with a device or without; a Backend passes through.

    Examples
    --------
    >>> import backends
    >>> backends.get("numpy")
    numpy:cpu
    """
    if isinstance(name, Backend):
        return name
    library, colon, device = name.partition(":")
    kind = _load(library)
    return kind(kind.find_device(device) if colon else kind.default_device())


def of(*arrays: Array) -> Backend:
    r"""The backend of these arrays: their library and device.

    Arrays of a library that is not registered get the defaults, if they have
    `__array_namespace__`. MixedArrays if libraries or devices differ, TypeError for what is no
    array or of a type that does not keep to the standard, as masked arrays.

    Parameters
    ----------
    \*arrays
        One or more.

    Examples
    --------
    >>> import backends, numpy as np
    >>> backends.of(np.zeros(3), np.ones(2))
    numpy:cpu
    """
    if not arrays:
        raise TypeError("backends.of: expected at least one array, got none")
    first = _KINDS[type(arrays[0])].of_array(arrays[0])
    for array in arrays[1:]:
        if _KINDS[type(array)].of_array(array) != first:
            return _reconciled(arrays)
    return first


def _reconciled(arrays: tuple[Array, ...]) -> Backend:
    """An array that names no device (one that JAX is tracing) is wherever the others are."""
    found = {of(array): None for array in arrays if hasattr(array, "device")}
    libraries = {of(array).xp for array in arrays}
    if len(found) == len(libraries) == 1:
        return next(iter(found))
    raise MixedArrays(
        "expected arrays of one library on one device, got arrays of "
        f"{' and '.join(dict.fromkeys(repr(of(array)) for array in arrays))}; nothing moves "
        "silently: read one back with to_host and place it with asarray of the other's backend"
    )


def is_array(x: object) -> bool:
    """True for an array of some library; imports none.

    `of` takes such a value, or says why it does not.

    Parameters
    ----------
    x
        Anything.

    Examples
    --------
    >>> import backends, numpy as np
    >>> backends.is_array(np.zeros(3)), backends.is_array([0.0])
    (True, False)
    """
    return type(x) in _KINDS or _library(type(x)) is not None


def available() -> list[Status]:
    """Every known library and whether it can be used. Imports each that is installed.

    >>> import backends
    >>> backends.available()[0].name
    'numpy'
    """
    return [_status(name) for name in names()]


def _status(name: str) -> Status:
    try:
        kind = _load(name)
        version = _version(name)
        devices = tuple(kind.devices())
        backend = kind(kind.default_device())
        default = backend.dtype_name(backend.default_float)
        return Status(name, version, devices, True, "", "", default)
    except BackendUnavailable as error:
        return Status(name, _version(name), (), False, error.reason, error.fix, "")


@cache
def _registered() -> dict[str, str]:
    """name -> where its class is, "module:class"."""
    from importlib.metadata import entry_points  # 15 ms, and seldom needed

    return _BUILT_IN | {
        point.name: point.value
        for point in entry_points(group=_GROUP)
        if point.name not in _BUILT_IN
    }


@cache
def _load(name: str) -> type[Backend]:
    """The class for that library, the library imported and new enough."""
    place = _BUILT_IN.get(name) or _registered().get(name)
    if place is None:
        known = ", ".join(names())
        raise BackendUnavailable(name, "no library of that name is known", f"use one of {known}")
    if name in _CONFLICTS and (conflict := _CONFLICTS[name]()):
        raise BackendUnavailable(name, *conflict)
    module, _, kind_name = place.partition(":")
    try:
        kind: type[Backend] = getattr(importlib.import_module(module), kind_name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        if missing == name:
            raise BackendUnavailable(name, "not installed", _command(name)) from error
        needed = f"pip install {missing.replace('_', '-')}"
        raise BackendUnavailable(name, f"it needs {missing}, not installed", needed) from error
    except Exception as error:  # a broken library can raise anything
        reason = f"installed, but importing it fails: {type(error).__name__}: {error}"
        raise BackendUnavailable(name, reason, _command(name, "--force-reinstall ")) from error
    version = _version(name)
    if _release(version) < _release(kind.minimum):
        reason = f"wrong version: {version} is installed, {kind.minimum} or newer is needed"
        raise BackendUnavailable(name, reason, _command(name, "--upgrade "))
    return kind


def _command(name: str, option: str = "") -> str:
    """The command that installs a library; with an option, in place of what is there."""
    if name in _COMMANDS:
        return _COMMANDS[name]()
    return f"pip install {option}{_PACKAGES.get(name, name)}"


def _version(name: str) -> str:
    return str(getattr(sys.modules.get(name), "__version__", ""))


def _release(version: str) -> tuple[int, ...]:
    """ "2.13.0+cpu" -> (2, 13, 0)."""
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


class _Unregistered(Backend):
    """The defaults, for arrays of any library that has `__array_namespace__`."""

    @classmethod
    def of_array(cls, array: Array) -> Self:
        return cls(array.device, array.__array_namespace__())


class _Kinds(dict[type, type[Backend]]):
    """Type of array -> Backend subclass, found once."""

    def __missing__(self, kind: type) -> type[Backend]:
        library = _library(kind)
        if library is None:
            raise TypeError(
                f"expected an array, got {kind.__name__}; "
                "place host data with asarray of a backend, backends.get(...)"
            )
        backend = _load(library) if library else _Unregistered
        if reason := backend.rejection(kind):
            raise TypeError(f"expected a plain array, got {kind.__name__}: {reason}")
        self[kind] = backend
        return backend


_KINDS = _Kinds()


def _library(kind: type) -> str | None:
    """The registered library that arrays of that type are of, "" for another, None for no array."""
    if stands_for := getattr(kind, "_stands_for_arrays_of", ""):  # a type of backends' own
        return str(stands_for)
    standard = hasattr(kind, "__array_namespace__")
    if standard or hasattr(kind, "__dlpack__"):  # CuPy's and PyTorch's have only this one
        for base in kind.__mro__:
            root = base.__module__.partition(".")[0]
            if root in _BUILT_IN or root in _registered():
                return root
    return "" if standard else None


def _find(x: object) -> Backend | None:
    return of(x) if is_array(x) else None


Backend.find = staticmethod(_find)
