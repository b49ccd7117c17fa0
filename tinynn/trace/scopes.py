"""Provenance: which layer makes the current call, for recordings and their errors."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Composite:
    """A call, while recording, of a function that is made of several calls: `softmax` for one.

    name: the function's qualified name. Each call has an object of its own.
    args, kwargs: what it was given, without arrays.
    """

    __slots__ = ("args", "kwargs", "name")

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name = name
        self.args = tuple(a for a in args if not _is_array(a))
        self.kwargs = {key: a for key, a in kwargs.items() if not _is_array(a)}

    def __repr__(self) -> str:
        return self.name


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and not isinstance(value, type)  # a dtype may be a type


class Pullback(NamedTuple):
    """The recorded call whose pullback makes a call, and the cotangent that it was given."""

    of: Any
    cotangent: Any


class Origin(NamedTuple):
    """The origin of a call.

    Attributes:
        backward: a pullback makes the call, on behalf of one that was made there.
        line: the line of the user's own code, "file.py:12"; "" where there is none.
        frames: all that the call was made inside of, outermost first: (name, layer), (None, part)
            and `Composite`. Each call of a layer or function has an object of its own.
        pullback: of a recorded call that was made by a pullback, which one.
    """

    backward: bool = False
    line: str = ""
    frames: tuple[Any, ...] = ()
    pullback: Pullback | None = None

    @property
    def place(self) -> str:
        """The layer, "layer 0, Linear(4)", or the part of the step: "loss", "update"."""
        stack = [frame for frame in self.frames if type(frame) is not Composite]
        if not stack:
            return ""
        index, last = stack[-1]
        name = last if isinstance(last, str) else getattr(last, "__name__", None) or repr(last)
        path = ".".join(str(index) for index, _ in stack if index is not None)
        return name if index is None else f"layer {path}, {name}"

    def __str__(self) -> str:
        parts = (self.place, "backward" if self.backward else "", self.line)
        return ", ".join(part for part in parts if part)


NOWHERE = Origin()


class Scopes(threading.local):
    """The active layers, each inside the one before, and the active pullback, if there is one.

    `frames` are (index, layer), (None, "update") or a Composite, the same tuple until one is
    entered or left. `recording` is the innermost recording that is open, if one is. `supposed` says
    that it computes with examples, so that what a value shows is no error of the program.

    Text is made only when it is asked for.
    """

    def __init__(self) -> None:
        self.frames: tuple[Any, ...] = ()
        self.pulled: Origin | None = None
        self.recording: Any = None
        self.supposed = False

    def at(self, part: str) -> "_Inside":
        """A context in which calls belong to that part of the training step."""
        return _Inside((None, part))

    def inside(self, frame: Any) -> "_Inside":
        """A context in which calls are made inside of this frame."""
        return _Inside(frame)


class _Inside:
    """See `Scopes.inside`; a generator would take several times as long."""

    __slots__ = ("around", "frame")

    def __init__(self, frame: Any) -> None:
        self.frame = frame

    def __enter__(self) -> None:
        self.around = scopes.frames
        scopes.frames = (*self.around, self.frame)

    def __exit__(self, *error: Any) -> None:
        scopes.frames = self.around


def node_of(array: Any) -> Any:
    """The node that a recording keeps for an array, under any transformations; else None."""
    while hasattr(array, "slot"):
        if isinstance(getattr(array.slot, "origin", None), Origin):
            return array.slot
        array = array.value
    return None


def pullback_origin(y: Any, cotangent: Any) -> Origin | None:
    """The origin of the pullback of a recorded result: that of the result.

    y: an array, or a tuple of them.
    """
    found = map(node_of, y if isinstance(y, tuple | list) else [y])
    node = next((each for each in found if each is not None), None)
    if node is None:
        return None
    origin: Origin = node.origin
    return origin._replace(backward=True, pullback=Pullback(node, node_of(cotangent)))


def composite(function: F) -> F:
    """A decorator: recordings know the calls that the function is made of as one (a Composite)."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if scopes.recording is None:
            return function(*args, **kwargs)
        with scopes.inside(Composite(function.__qualname__, args, kwargs)):
            return function(*args, **kwargs)

    return called  # type: ignore[return-value]


scopes = Scopes()
