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
    """A context in which the first SIGINT or SIGTERM is noted, and the second acts at once.

    Only handlers that nobody has changed are replaced, and in the main thread alone, where Python
    delivers signals.

    Parameters
    ----------
    wanted
        False: change nothing.

    Attributes
    ----------
    received
        The signal that was noted, or None.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.received: signal.Signals | None = None
        self._wanted = wanted and threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        for number, handler in usual.items():
            if self._wanted and signal.getsignal(number) == handler:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()  # the next one acts as it would without us

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


@contextmanager
def unbroken(wanted: bool = True) -> Iterator[None]:
    """A context that ends before the first SIGINT or SIGTERM acts, for what has to be done whole.

    Parameters
    ----------
    wanted
        False: signals act as ever.
    """
    with Signals(wanted) as caught:
        yield
    if caught.received is not None:
        signal.raise_signal(caught.received)


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
