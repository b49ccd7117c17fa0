"""Watches an array library for data that crosses to the host unasked.

While a test runs, every way in which an array gives its values to Python or NumPy is
instrumented. What is allowed:

- `Backend.to_host(array)`, the one explicit way; it is noted in `transfers.log`;
- what the library does inside itself (printing, checking its own arguments);
- single numbers (`float(x)`, `bool(x)`, ...) read by a line of a test or an example. Read by
  tinynn, backends or a dependency they need `@pytest.mark.reads_scalars`;
- anything within `with transfers.allowed():`.

Anything else raises HostRead, and fails the test even if the error was caught. NumPy's own arrays
are on the host already; there is nothing to watch there but `to_host`.

CuPy's compiled code reads without a frame of Python's and past its methods. On the emulated device
(tests/cudacpu) every copy to the host is seen, so there CuPy may read nothing for tinynn either: a
mask as an index, or a function that looks at a value before it goes on, is caught after the test.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from math import prod
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import backends
from tests.cudacpu import counters

BULK = ("__array__", "__buffer__", "__dlpack__", "numpy", "tolist", "cpu", "get", "asnumpy")
SCALAR = ("__float__", "__int__", "__bool__", "__index__", "__complex__", "item")
# Functions that read an array given to them: NumPy's (JAX hands NumPy its memory through the
# buffer protocol, past every method) and the libraries' own ways out.
NUMPY_READERS = ("array", "asarray", "asanyarray", "ascontiguousarray", "from_dlpack")
LIBRARY_READERS = ("asnumpy", "device_get")
# CuPy's methods that call those above without a frame: to show and pickle an array, as they have
# to, and to find out how many elements a mask has, of which the emulated device can tell.
CUPY_SHOWN = ("__repr__", "__str__", "__format__", "__reduce__")
CUPY_INDEXED = ("__getitem__", "__setitem__")
NUMBER = 16  # bytes of the largest single number

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = (str(ROOT / "tinynn"), str(ROOT / "backends"), "site-packages")


class HostRead(AssertionError):
    """Values of an array went to the host without `to_host`."""


@dataclass(frozen=True)
class Read:
    """One reading of an array: by what means, of which shape, by which line of code."""

    means: str
    shape: tuple[int, ...]
    scalar: bool
    reader: FrameType = field(repr=False)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def by_product(self) -> bool:
        """Whether the reading line is tinynn's, backends' or a dependency's, not a test's."""
        return any(part in self.reader.f_code.co_filename for part in PRODUCT)

    def __str__(self) -> str:
        where = f"{self.reader.f_code.co_filename}:{self.reader.f_lineno}"
        return f"{self.means} read an array of shape {self.shape} in {where}"


class Transfers:
    """What was read while one test ran."""

    def __init__(self, library: str, scalars: bool) -> None:
        self.library = library
        self.scalars = scalars
        self.log: list[Read] = []
        self.violations: list[HostRead] = []
        self._permitted = 0
        self._inside = 0
        self._library = {library, f"{library}lib", f"{library}x", f"{library}_backends"}

    @property
    def by_product(self) -> list[Read]:
        """The readings, `to_host` included, that no line of a test asked for."""
        return [read for read in self.log if read.by_product]

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let anything be read."""
        self._permitted += 1
        try:
            yield
        finally:
            self._permitted -= 1

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The library itself is at work: its own methods may be called, not every copy made."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @contextmanager
    def caught(self) -> Iterator[list[HostRead]]:
        """Gather the violations made in here; they do not fail the test."""
        start = len(self.violations)
        found: list[HostRead] = []
        try:
            yield found
        finally:
            found += self.violations[start:]
            del self.violations[start:]

    def check(self) -> None:
        if self.violations:
            raise self.violations[0]

    @contextmanager
    def noted(self, means: str, array: Any, scalar: bool, caller: FrameType) -> Iterator[None]:
        """Log one reading, then let it be; raise if it was not asked for."""
        if package(caller) in self._library or (self._inside and not self._permitted):
            with self.inside():
                yield
            return
        self.note(means, array, scalar, caller)
        with self.allowed():
            yield

    def note(self, means: str, array: Any, scalar: bool, caller: FrameType) -> None:
        """Log one reading; raise if it was not asked for."""
        if self._permitted:
            return
        error = self._judged(Read(means, tuple(array.shape), scalar, outside(caller, {"numpy"})))
        if error:
            raise error

    def copied(self, size: int) -> bool:
        """Log a copy of so many bytes to the host that no method tells of; never refuse it."""
        if not self._permitted and not counts_elements(sys._getframe(1)):
            caller = outside(sys._getframe(1), {*self._library, *CARRIERS})
            self._judged(Read("a copy within the library", (size,), size <= NUMBER, caller))
        return True

    def _judged(self, read: Read) -> HostRead | None:
        self.log.append(read)
        if read.scalar and (self.scalars or not read.by_product):
            return None
        error = HostRead(f"{read}; backend.to_host(array) is the way to ask for it")
        self.violations.append(error)
        return error


# Who carries out another's call and is not who asks for what it takes.
CARRIERS = (
    "array_api_compat",
    "backends.cupy_namespace",
    "backends.scopes",
    "numpy",
    "tests.cudacpu",
    "tests.transfers",
    "tinynn.trace",
    "tinynn.transforms",
)


# CuPy's functions whose results have shapes that depend on the values.
COUNTING = {"nonzero", "repeat", "unique"}


def counts_elements(frame: FrameType | None) -> bool:
    """Whether one of those functions is at work."""
    while frame is not None:
        if package(frame) == "cupy" and frame.f_code.co_name in COUNTING:
            return True
        frame = frame.f_back
    return False


def package(frame: FrameType) -> str:
    return module(frame).partition(".")[0]


def module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def outside(frame: FrameType, names: set[str]) -> FrameType:
    """The nearest frame, outwards, that is in none of these packages."""
    prefixes = tuple(f"{name}." for name in names)
    while frame.f_back is not None and f"{module(frame)}.".startswith(prefixes):
        frame = frame.f_back
    return frame


def as_product(function: Callable[..., Any], *args: Any) -> Any:
    """Call the function from a line that counts as tinynn's own."""
    code = compile("result = function(*args)", str(ROOT / "tinynn" / "made_up.py"), "exec")
    scope = {"__name__": "tinynn.made_up", "function": function, "args": args}
    exec(code, scope)
    return scope["result"]


@contextmanager
def watch(backend: backends.Backend, scalars: bool = False) -> Iterator[Transfers]:
    """Instrument the backend's library until the end of the block."""
    seen = Transfers(backend.name, scalars)
    kind = type(backend.asarray(0.0))
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(type(backend), "to_host", logged(seen, type(backend).to_host))
        if kind is not np.ndarray:
            for name in (*BULK, *SCALAR):
                if callable(original := getattr(kind, name, None)):
                    patch.setattr(kind, name, method(seen, original, name, name in SCALAR))
            for name in NUMPY_READERS:
                patch.setattr(np, name, function(seen, getattr(np, name), kind))
            library = sys.modules[backend.name]
            for name in LIBRARY_READERS:
                if hasattr(library, name):
                    patch.setattr(library, name, function(seen, getattr(library, name), kind))
            # NumPy's own functions and ufuncs, where the library does not answer for itself.
            if not hasattr(kind, "__array_function__"):
                patch.setattr(kind, "__array_function__", dispatched(seen, kind), raising=False)
            if not hasattr(kind, "__array_ufunc__"):
                patch.setattr(kind, "__array_ufunc__", None, raising=False)
        if backend.name == "cupy":
            for names, within in ((CUPY_SHOWN, seen.allowed), (CUPY_INDEXED, seen.inside)):
                for name in names:
                    patch.setattr(kind, name, own_method(getattr(kind, name), within))
            if counters.emulated():
                stack.enter_context(counters.copies_to_host(seen.copied))
        yield seen


def own_method(original: Callable[..., Any], within: Callable[[], Any]) -> Callable[..., Any]:
    """A method that calls others of the library's without a frame."""

    @wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        with within():
            return original(*args, **kwargs)

    return method


def logged(seen: Transfers, original: Callable[..., Any]) -> Callable[..., Any]:
    """`Backend.to_host`, which may read anything and says so in the log."""

    @wraps(original)
    def to_host(self: backends.Backend, array: Any) -> Any:
        caller = outside(sys._getframe(1), {"backends"})
        if not seen._permitted and hasattr(array, "shape"):
            seen.log.append(Read("to_host", tuple(array.shape), prod(array.shape) == 1, caller))
        with seen.allowed():
            return original(self, array)

    return to_host


def method(seen: Transfers, original: Callable[..., Any], name: str, scalar: bool) -> Any:
    @wraps(original)
    def reading(self: Any, *args: Any, **kwargs: Any) -> Any:
        with seen.noted(name, self, scalar, sys._getframe(1)):
            return original(self, *args, **kwargs)

    return reading


def function(seen: Transfers, original: Callable[..., Any], kind: type) -> Any:
    @wraps(original)
    def reading(*args: Any, **kwargs: Any) -> Any:
        array = next((arg for arg in args if isinstance(arg, kind)), None)
        if array is None:
            return original(*args, **kwargs)
        name = f"{original.__module__}.{original.__name__}"
        with seen.noted(name, array, False, sys._getframe(1)):
            return original(*args, **kwargs)

    return reading


def dispatched(seen: Transfers, kind: type) -> Any:
    def array_function(self: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        with seen.noted(f"numpy.{func.__name__}", self, False, sys._getframe(1)):
            return func._implementation(*args, **kwargs)

    return array_function
