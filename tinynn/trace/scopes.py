"""Provenance: which layer makes the current call, for recordings and their errors."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Origin(NamedTuple):
    """The origin of a call.

    Attributes:
        place: the layer, "layer 0, Linear(4)", or the part of the step: "loss", "update".
        backward: a pullback makes the call, on behalf of one that was made there.
        line: the line of the user's own code, "file.py:12"; "" where there is none.
    """

    place: str = ""
    backward: bool = False
    line: str = ""

    def __str__(self) -> str:
        parts = (self.place, "backward" if self.backward else "", self.line)
        return ", ".join(part for part in parts if part)


NOWHERE = Origin()


class Scopes(threading.local):
    """The active layers, each inside the one before, and the active pullback, if there is one.

    `recording` is the innermost recording that is open, if one is.

    Entering costs one append; text is made only when it is asked for.
    """

    def __init__(self) -> None:
        self.stack: list[tuple[Any, Any]] = []  # (index, layer), or (None, "update")
        self.pulled: Origin | None = None
        self.recording: Any = None

    @contextmanager
    def at(self, part: str) -> Iterator[None]:
        """A context in which calls belong to that part of the training step."""
        self.stack.append((None, part))
        try:
            yield
        finally:
            self.stack.pop()

    def now(self) -> str:
        """The innermost place, with the path to it."""
        if not self.stack:
            return ""
        index, last = self.stack[-1]
        name = last if isinstance(last, str) else getattr(last, "__name__", None) or repr(last)
        path = ".".join(str(index) for index, _ in self.stack if index is not None)
        return name if index is None else f"layer {path}, {name}"


def origin_of(array: Any) -> Origin | None:
    """The origin of a recorded array, under any transformations."""
    while hasattr(array, "slot"):
        if isinstance(getattr(array.slot, "origin", None), Origin):
            origin: Origin = array.slot.origin
            return origin
        array = array.value
    return None


scopes = Scopes()
