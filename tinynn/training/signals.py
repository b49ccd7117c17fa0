"""Signals that end a run: it stops after the current chunk, at a place to go on from."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

#: Exit status of a process that SIGTERM ended, as shells have it: 128 and the signal's number.
TERMINATED = 128 + signal.SIGTERM


@contextmanager
def unwinding() -> Iterator[None]:
    """A context that SIGTERM ends as an exception does, so that no half-written file stays.

    As `Signals`, in the main thread alone, and where nobody has another handler.
    """
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Signals:
    """A context in which SIGINT and SIGTERM wait for what has to be done whole.

    The first one may be noted, instead of acting, where nobody has another handler. All others act
    as they would without it, which a handler of the user's own does, too. In the main thread alone,
    where Python delivers signals.

    Parameters
    ----------
    noted
        Note the first one.

    Attributes
    ----------
    received
        The signal that was noted, or None.
    """

    def __init__(self, noted: bool = True) -> None:
        self.received: signal.Signals | None = None
        self._noted = noted
        self._before: dict[int, Any] = {}
        self._waiting: list[int] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                # The process ends at once of what nobody handles, unless it is noted.
                if callable(before) or (before == signal.SIG_DFL and self._notes(number, before)):
                    self._before[number] = before
                    signal.signal(number, self._came)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._noted = False  # nobody looks any more, if a handler of others still calls this one
        for number, before in self._before.items():
            if signal.getsignal(number) == self._came:  # or somebody has put another in its place
                signal.signal(number, before)

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        """A context at whose end those act that came within it."""
        self._waiting = came = list[int]()
        try:
            yield
        finally:
            self._waiting = None
            for number in came:
                signal.raise_signal(number)

    def _notes(self, number: int, before: Any) -> bool:
        return self._noted and before == _USUAL[number]

    def _came(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if self._waiting is not None:
            self._waiting.append(number)
        elif self.received is None and self._notes(number, before):
            self.received = signal.Signals(number)
        elif callable(before):
            before(number, frame)
        else:
            signal.signal(number, before)
            signal.raise_signal(number)


#: What acts on a signal where nobody has changed it.
_USUAL: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


@contextmanager
def interrupting() -> Iterator[None]:
    """A context at whose end KeyboardInterrupt is raised if Ctrl-C came, and somebody caught it.

    For one of several things that are of no use without each other. As `Signals`, in the main
    thread alone, and where nobody has another handler.
    """
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGINT) != signal.default_int_handler:
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
