"""The progress bar: epochs, loss, metrics and speed, in terminals and notebooks.

What draws it is imported only when it is shown; without rich, a terminal shows a line of text.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from time import perf_counter
from typing import Any

from tinynn.training.history import single

_PAUSE = 0.1  # seconds between redraws within an epoch


class Bar:
    """Base class of progress bars, which shows nothing."""

    def batch(self, samples: int) -> None:
        """A batch of this many samples is done."""

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch is done, with these numbers."""


class _Shown(Bar):
    """Counts samples and time, and hands lines of text to `_draw`."""

    def __init__(self, epochs: int, samples: int | None) -> None:
        self.epochs, self.samples = epochs, samples
        self._done = self._epoch = 0
        self._text = ""
        self._start = self._drawn = perf_counter()

    def batch(self, samples: int) -> None:
        self._done += samples
        if perf_counter() - self._drawn > _PAUSE:
            self._redraw()

    def epoch(self, row: dict[str, float]) -> None:
        self._epoch = int(row["epoch"])
        self._text = "  ".join(
            f"{name.replace('validation_', 'val ').replace('_', ' ')} {number:.4g}"
            for name, number in single(row).items()
            if name != "epoch"
        )
        if perf_counter() - self._drawn > _PAUSE or row["epoch"] == self.epochs:
            self._redraw()

    def _redraw(self) -> None:
        self._drawn = perf_counter()
        rate = self._done / max(self._drawn - self._start, 1e-9)
        epoch = min(self._done // self.samples, self.epochs) if self.samples else self._epoch
        speed = f"{rate:,.0f} samples/s"
        if self.samples and rate >= 10 * self.samples:  # many epochs a second: say it in epochs
            speed = f"{rate / self.samples:,.0f} epochs/s"
        self._draw(self._done, f"epoch {epoch}/{self.epochs}  {self._text}  {speed}")

    def _draw(self, done: int, text: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Stop, leaving the last state visible."""
        self._redraw()


class _Terminal(_Shown):
    """A bar on the error stream, so that what a program prints stays clean."""

    def __init__(self, epochs: int, samples: int | None) -> None:
        super().__init__(epochs, samples)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        self._progress = Progress(
            BarColumn(bar_width=12, table_column=Column(min_width=12)),
            TimeRemainingColumn(compact=True),
            # Where the terminal is narrow the text goes on in a second line.
            TextColumn("{task.description}", table_column=Column(no_wrap=False)),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=epochs * samples if samples else None)
        self._progress.start()

    def _draw(self, done: int, text: str) -> None:
        self._progress.update(self._task, completed=done, description=text)

    def close(self) -> None:
        super().close()
        self._progress.stop()


class _Line(_Shown):
    """One line of text on the error stream, written over itself; no longer than the terminal."""

    def _draw(self, done: int, text: str) -> None:
        width = max(shutil.get_terminal_size().columns - 1, 20)
        sys.stderr.write("\r" + text[:width].ljust(width))
        sys.stderr.flush()

    def close(self) -> None:
        super().close()
        sys.stderr.write("\n")


class _Notebook(_Shown):
    """One line of HTML below the cell, kept up to date."""

    def __init__(self, epochs: int, samples: int | None) -> None:
        super().__init__(epochs, samples)
        from IPython.display import HTML, display

        self._html = HTML
        self._handle = display(HTML(""), display_id=True)

    def _draw(self, done: int, text: str) -> None:
        place = f'value="{done}" max="{self.epochs * self.samples}"' if self.samples else ""
        self._handle.update(self._html(f"<progress {place}></progress> {escape(text)}"))


def in_notebook() -> bool:
    """True in the kernel of a notebook."""
    return "ipykernel" in sys.modules


def _kind() -> Any:
    """The class of the bar that suits this output."""
    if in_notebook():
        return _Notebook
    try:
        import rich.progress  # noqa: F401 - the bar imports it where it is shown
    except ImportError:
        return _Line
    return _Terminal


@contextmanager
def shown(progress: bool | None, epochs: int, samples: int | None) -> Iterator[Bar]:
    """A bar for so many epochs of so many samples, where they are known.

    A `progress` of None shows it when the output is interactive.
    """
    if progress is None:
        progress = in_notebook() or sys.stderr.isatty()
    if not progress:
        yield Bar()
        return
    bar = _kind()(epochs, samples)
    try:
        yield bar
    finally:
        bar.close()
