"""Decision boundaries while a network learns: in a file, a notebook or a terminal."""

import os
import shutil
import sys
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from tinynn.config import Configured, require, require_count
from tinynn.inspection.pictures import heatmap, marked
from tinynn.inspection.pixels import can_write, to_png, to_terminal
from tinynn.inspection.surfaces import Surface, decision_boundary, plane_of
from tinynn.layers import run as run_network
from tinynn.trace import namespace


@dataclass
class DecisionBoundary(Configured):
    """A callback that draws a network's answers over two inputs while it learns.

    In a notebook the picture below the cell follows the training; in a terminal it is made of
    coloured blocks, drawn over itself (below each other while a progress bar is there: give
    progress=False); a file is replaced each time, and a page or an editor that shows it follows.

    Of two outputs the picture is of how much the second is larger, of more of the number of the
    largest.

    Parameters
    ----------
    net
        The network that is trained; or a function of the run that gives what has `outputs`.
    X : (rows, features)
        The rows, which are drawn as points.
    labels
        (rows,) numbers, 0 or 1 or so, that the points are coloured by; None draws them alike.
    to
        None for the notebook or the terminal; the path of a file, SVG or PNG as its name says; or
        a stream of text, such as `sys.stderr`.
    columns
        The numbers of the two inputs that vary, as `decision_boundary` has them.
    every
        Epochs between two pictures.
    resolution
        Places of each axis; no more than a terminal is wide, and has lines for.

    Raises
    ------
    ValueError
        Before training: X has not two columns, and `columns` does not say which; labels that are no
        numbers, or not one for each row; or a file of another kind.
    FileNotFoundError
        Before training: the folder of the file is missing.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> net, x, labels = Linear(1), np.asarray([[0.0, 0.0], [1.0, 1.0]]), np.asarray([0, 1])
    >>> shown = io.StringIO()
    >>> draw = DecisionBoundary(net, x, labels, to=shown, resolution=8)
    >>> model = tinynn.fit(net, x, labels, epochs=3, callbacks=draw)
    >>> len(shown.getvalue().splitlines())  # three titles, and three times four lines
    15
    """

    net: Any
    X: Any
    labels: Any = None
    _: KW_ONLY
    to: Any = None
    columns: tuple[int, int] | None = None
    every: int = 1
    resolution: int = 40
    _lines: int = field(default=0, init=False, repr=False)  # of the picture that is there
    _handle: Any = field(default=None, init=False, repr=False)  # of the notebook's

    def __post_init__(self) -> None:
        require_count(self, "every")
        require_count(self, "resolution")
        require(self, "net", callable, "a network, or a function of the run")
        is_file = isinstance(self.to, str | os.PathLike)
        if self.to is not None and not is_file and not hasattr(self.to, "write"):
            raise TypeError(
                f"DecisionBoundary: to: expected a path, a stream of text or None, got {self.to!r}"
            )
        if is_file and Path(self.to).suffix.lower() not in (".svg", ".png"):
            raise ValueError(
                f"DecisionBoundary: to: expected a file that ends in .svg or .png, got {self.to!s}"
            )

    def start(self, run: Any) -> None:
        """Check what can be checked before training."""
        plane_of(self.X, self.columns, 2)
        marked(**self._points())
        self._lines, self._handle = 0, None
        if isinstance(self.to, str | os.PathLike):
            folder = Path(self.to).absolute().parent
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"DecisionBoundary: to: expected a folder that exists, got {folder}. To fix "
                    "it: make it first"
                )

    def __call__(self, run: Any) -> None:
        """Draw the picture of this epoch, if it is one's turn."""
        if run.rank or (run.epoch % self.every and run.epoch != run.epochs):
            return  # of several processes the first draws
        title = f"epoch {run.epoch}"
        if isinstance(self.to, str | os.PathLike):
            self._to_file(Path(self.to), run, title)
        elif self.to is None and "ipykernel" in sys.modules:
            self._to_notebook(run, title)
        else:
            self._to_stream(sys.stdout if self.to is None else self.to, run, title)

    def surface(self, run: Any, resolution: int | None = None) -> Surface:
        """What is drawn: the answers of this epoch.

        Parameters
        ----------
        run
            The training run.
        resolution
            Places of each axis; None is the callback's.
        """

        def outputs(rows: Any) -> Any:
            if not hasattr(self.net, "forward"):
                return self.net(run).outputs(rows)
            carry = run.state.carry
            return run_network(self.net, carry.params, carry.state, rows).output

        def answer(rows: Any) -> Any:
            found = outputs(rows)
            xp, width = namespace(found), found.shape[-1]
            if width == 2:
                return found[:, 1:] - found[:, :1]
            if width == 1:
                return found
            return xp.astype(xp.expand_dims(xp.argmax(found, axis=-1), axis=1), found.dtype)

        return decision_boundary(
            None, self.X, columns=self.columns, resolution=resolution or self.resolution,
            answer=answer,
        )  # fmt: skip

    def _points(self) -> dict[str, Any]:
        first, second = self.columns or (0, 1)
        rows = namespace(self.X).stack([self.X[:, first], self.X[:, second]], axis=1)
        return {"points": rows, "labels": self.labels}

    def _to_file(self, path: Path, run: Any, title: str) -> None:
        if path.suffix.lower() == ".png":
            content = to_png(self.surface(run), **self._points())
        else:
            content = heatmap(self.surface(run), title=title, **self._points()).encode()
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        beside.write_bytes(content)
        os.replace(beside, path)  # whoever reads it meanwhile sees the old picture, whole

    def _to_notebook(self, run: Any, title: str) -> None:
        from IPython.display import SVG, display  # there, as its kernel runs

        picture = SVG(heatmap(self.surface(run), title=title, **self._points()))
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)

    def _to_stream(self, stream: Any, run: Any, title: str) -> None:
        terminal = bool(getattr(stream, "isatty", lambda: False)())
        plain = not terminal or bool(os.environ.get("NO_COLOR"))
        plain = plain or os.environ.get("TERM") == "dumb" or not can_write(stream)
        # What rich's bar lets through is text: it moves no cursor.
        moves = terminal and not plain and not hasattr(stream, "rich_proxied_file")
        most = self.resolution
        if terminal:  # a line holds two places above each other; a title and an end stand beside
            wide, high = shutil.get_terminal_size()
            most, title = max(1, min(most, wide, 2 * (high - 2))), title[:wide]
        surface = self.surface(run, most)
        text = to_terminal(surface, title=title, plain=plain, **self._points())
        up = f"\x1b[{self._lines}F\x1b[J" if moves and self._lines else ""
        stream.write(f"{up}{text}\n")
        stream.flush()
        self._lines = text.count("\n") + 1
