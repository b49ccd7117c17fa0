"""`explain`: the training step of a network for people, as text, as a picture and as a page."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from tinynn import tree
from tinynn.compiler.engines import kind_of
from tinynn.config import label
from tinynn.data import columns_of
from tinynn.explanation.description import Description, describe, fill_in
from tinynn.explanation.lines import Context, Line
from tinynn.explanation.page import page
from tinynn.explanation.picture import svg
from tinynn.explanation.plot import plot
from tinynn.explanation.text import text
from tinynn.optim import SGD
from tinynn.trace.scopes import node_of
from tinynn.training import files
from tinynn.training.batches import Epoch
from tinynn.training.engines.compiled import recorded, slots_of
from tinynn.training.model import Model
from tinynn.training.problem import Problem, prepare
from tinynn.transforms.graph import Graph
from tinynn.transforms.record import recorded as graph_of

DETAILS = ("lines", "all", "calls", "program")
_HEIGHT = 640  # of the page in a notebook


@dataclass(frozen=True, repr=False, eq=False)
class Explanation:
    """A training step, explained. In a notebook it is a page to play with.

    Attributes
    ----------
    description : the lines, of which text, picture and page are made
    graph : the step as a graph of calls; each call is in exactly one line
    detail : how much `str` shows: see `explain`

    """

    description: Description
    graph: Graph
    detail: str
    _problem: Problem
    _arguments: tuple[Any, ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines, with name, code, formula, shape, dtype, layer and value."""
        return self.description.lines

    def text(self, detail: str | None = None) -> str:
        """The lines as text; `detail` as in `explain`."""
        detail = _checked(detail or self.detail)
        return self.program if detail == "program" else text(self.description, detail)

    @cached_property
    def program(self) -> str:
        """The program that `fit(engine="calls")` runs, as the compiler emits it."""
        home, carry = self._problem.backend, self._problem.start
        with home.scope():
            graph = recorded(self._problem.step, home, *self._arguments)
            loop = kind_of("calls", home)(graph, len(tree.leaves(carry)), home, slots_of(carry))
            return "\n".join(text for text, _ in loop.lines) + "\n"

    @cached_property
    def svg(self) -> str:
        """The picture: forward, backward and update in colours of their own."""
        return svg(self.description)

    @cached_property
    def html(self) -> str:
        """The page: one file that needs no server and no network."""
        return page(self.description)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the text (.txt), the picture (.svg, .png, .pdf) or the page (.html) to a file.

        matplotlib draws PNG and PDF.

        Raises
        ------
        ValueError : the path has another ending
        ImportError : matplotlib is needed and not installed
        OSError : the folder is missing, full or may not be written

        """
        ending = Path(path).suffix.lower()
        makers: dict[str, Callable[[], bytes]] = {
            ".txt": lambda: self.text().encode(),
            ".svg": lambda: self.svg.encode(),
            ".png": lambda: plot(self.description, "png"),
            ".pdf": lambda: plot(self.description, "pdf"),
            ".html": lambda: self.html.encode(),
        }
        if ending not in makers:
            raise ValueError(
                f"save: expected a path that ends in {', '.join(makers)}, got {str(path)!r}. "
                "To fix it: give it one of these endings"
            )
        files.write(path, makers[ending]())

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        # A frame of its own, so that neither the notebook's styles nor the page's leak.
        return (
            f'<iframe srcdoc="{escape(self.html)}" title="The training step" '
            f'style="width:100%;height:{_HEIGHT}px;border:0"></iframe>'
        )


def explain(
    net: Any,
    X: Any,
    y: Any,
    *,
    loss: Any = None,
    optimizer: Any = None,
    params: Any = None,
    seed: int = 0,
    values: bool = False,
    columns: Sequence[str] = (),
    detail: str = "lines",
) -> Explanation:
    """Explain the training step of a network on this batch: as text, as a picture, as a page.

    It is recorded as `fit` does it. Calls that belong together are folded into one line: functions
    such as softmax, the pullback of a call, random numbers, the update of a parameter.

    Parameters
    ----------
    net : a layer, most often a `Sequential`, or a trained model
    X, y : one batch, as for `fit`; everything follows X
    loss : as for `fit`
    optimizer : as for `fit`, but None is `SGD(1.0)`
    params : None makes new ones, of the seed
    seed : of the parameters and the random numbers, as for `fit`
    values : carry the step out once, and show what each line gave
    columns : the names to read from a data frame, in that order
    detail : {"lines", "all", "calls", "program"}
        How much `str` shows: lines that are folded; views and set-up as well; every call in a line
        of its own; or the program as the compiler emits it.

    Raises
    ------
    ValueError, TypeError : as `fit`, and for another `detail`
    RecordingError : the step branches on a value, so that it is not the same in each call

    Examples
    --------
    >>> from tinynn.layers import Linear
    >>> print(explain(Linear(1, bias=False), [[1.0, 2.0], [3.0, 4.0]], [[1.5], [0.5]]))
    # Linear(1, bias=False) on x (2, 2) and y (2, 1)
    # the network
    prediction = x @ weight              # (2, 1)   y = x W
    # loss, SquaredError()
    loss = squared_error(prediction, y)  # ()       L = mean((p - t)²)
    # loss, SquaredError(), backward
    prediction_grad = squared_error_backward(prediction, y)  # (2, 1)   ∂L/∂p = 2 (p - t) / n
    # the network, backward
    weight_grad = x.T @ prediction_grad  # (2, 1)   ∂L/∂W = xᵀ ∂L/∂y
    # update, SGD(learning_rate=1.0)
    #     w = w - η g
    weight = weight - 1.0 * weight_grad  # (2, 1)
    # 5 lines for 17 calls, 13 are folded into 4 of them, 3 of views and set-up are left out

    """
    _checked(detail)
    start = {"params": params}
    if isinstance(net, Model):
        X, y = net.prepared(X, y)
        loss, columns = loss or net.loss, columns or net.columns
        start = {"params": net.params, "state": net.state}
        net = net.net
    problem = prepare(
        net, _named(X, columns), y, loss=loss, optimizer=optimizer or SGD(1.0), batch_size=None,
        seed=seed, shuffle=False, **start,
    )  # fmt: skip
    home, batches = problem.backend, problem.batches
    with home.scope():
        samples = batches.dataset.between(0, batches.size)
        keys = batches.keys(Epoch(0, None), 0, 1)  # of the first step
        key = None if keys is None else keys[0, ...]
        arguments = (problem.start, samples, key)
        gradients: dict[str, Any] = {}

        def see(found: Any) -> Any:
            gradients.update((path, node_of(leaf)) for path, leaf in tree.paths(found))
            return found

        step = replace(problem.step, reduce_gradients=see)
        graph = graph_of(step, arguments, supposed=False)  # shapes that follow from values, too
        known = {path: node for path, node in gradients.items() if node is not None}
        context = Context(problem.step.loss, problem.step.optimizer, known)
        description = describe(graph, context, _title(problem, samples))
        if values:
            leaves = [leaf for leaf in tree.leaves(arguments) if hasattr(leaf, "dtype")]
            fill_in(description, graph, leaves, home.to_host)
        return Explanation(description, graph, detail, problem, arguments)


def _checked(detail: str) -> str:
    if detail not in DETAILS:
        raise ValueError(
            f"explain: detail: expected one of {', '.join(map(repr, DETAILS))}, got {detail!r}. "
            "To fix it: give one of these"
        )
    return detail


def _title(problem: Problem, samples: Any) -> str:
    """The network, and the shapes of a batch."""
    parts = [
        f"{name.removeprefix('.') or 'x'} {tuple(leaf.shape)}"
        for name, leaf in tree.paths({"x": samples.x, "y": samples.y})
    ]
    return f"{label(problem.step.net)} on {' and '.join(parts)}"


def _named(X: Any, columns: Sequence[str]) -> Any:
    """The columns of a frame that the model reads, in its order; anything else as it is."""
    named = {str(name): name for name in columns_of(X)}
    return X[[named[name] for name in columns]] if columns and named else X
