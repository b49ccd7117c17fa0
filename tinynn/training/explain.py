"""What a training step does, as the program that does it, with its numbers, and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backends import random
from tinynn import tree
from tinynn.compiler.engines import kind_of
from tinynn.compiler.picture import svg
from tinynn.compiler.pipelines import simplified
from tinynn.data import columns_of
from tinynn.optim import SGD
from tinynn.training.engines.compiled import recorded, slots_of
from tinynn.training.model import Model
from tinynn.training.problem import prepare
from tinynn.transforms.graph import Graph
from tinynn.transforms.record import record

_ROWS = 8  # of an array that is shown


@dataclass(frozen=True, repr=False)
class Explanation:
    """A training step, explained.

    Attributes
    ----------
    source : the program, as Python: every line with the shape of what it computes, under the layer
        that it comes from
    graph : the same step as a graph of calls
    values : with `values=True`, the number or array that each line of a first step gave

    """

    source: str
    graph: Graph
    values: tuple[tuple[str, Any], ...] = ()

    def __repr__(self) -> str:
        return self.source

    @property
    def svg(self) -> str:
        """The graph as a picture: forward, backward and update in colours of their own."""
        return svg(self.graph)

    def _repr_svg_(self) -> str:
        return self.svg


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
) -> Explanation:
    """Show the training step of a network on this batch as the program that `fit` runs.

    Parameters
    ----------
    net
        A layer, most often a `Sequential`, or a trained model.
    X, y
        One batch, as for `fit`; everything follows X.
    loss
        As for `fit`.
    optimizer
        None is `SGD(1.0)`.
    params
        None makes new ones, of the seed.
    values
        Run the step once, and put what each line gave under it.
    columns
        The names to read from a data frame, in that order.

    Examples
    --------
    >>> from tinynn.layers import Linear
    >>> step = explain(Linear(1, bias=False), [[1.0, 2.0], [3.0, 4.0]], [[1.5], [0.5]])
    >>> print(step.source.partition("in zip")[2])
    (batches, outs):
            x.dot(weight, t0)                                 # (2, 1)
            # loss
            subtract(t0, y, t0)                               # (2, 1)
            t0_1.dot(t0_1, out)                               # ()
            # backward
            x_T.dot(t0, t1)                                   # (2, 1)
            # update
            subtract(weight, t1, weight)                      # (2, 1)
    <BLANKLINE>
    """
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
    home, batches, carry, step = problem.backend, problem.batches, problem.start, problem.step
    with home.scope():
        samples = batches.dataset.between(0, batches.size)
        key = random.key(seed, home) if batches.draws else None
        graph = recorded(step, home, carry, samples, key)
        kept = tree.leaves(carry)
        loop = kind_of("calls", home)(graph, len(kept), home, slots_of(carry))
        found: list[tuple[str, Any] | None] = [None] * len(loop.lines)
        if values:
            loop.load(kept)
            each = () if key is None else (key,)
            found = _carried_out(loop, [*tree.leaves(samples), *each])
        # The picture shows the layers' own functions, not what they are decomposed into.
        whole = simplified(record(step, carry, samples, key))
        return Explanation(_with(loop.lines, found), whole, tuple(filter(None, found)))


def _named(X: Any, columns: Sequence[str]) -> Any:
    """The columns of a frame that the model reads, in its order; anything else as it is."""
    named = {str(name): name for name in columns_of(X)}
    return X[[named[name] for name in columns]] if columns and named else X


def _carried_out(loop: Any, batch: list[Any]) -> list[tuple[str, Any] | None]:
    """For each line of the program what it gives in a first step, on the host, if it is a value."""
    home, values = loop.backend, {}

    def keep(node: Any, value: Any) -> None:
        if hasattr(value, "dtype"):
            values[id(node)] = home.to_host(value).copy()

    loop.graph.run([*loop.kept, *batch], keep)
    return [
        (text.partition("  # ")[0].strip(), values[id(node)]) if id(node) in values else None
        for text, node in loop.lines
    ]


def _with(lines: list[Any], found: list[tuple[str, Any] | None]) -> str:
    """The source with the values under their lines."""
    out = []
    for (text, _), pair in zip(lines, found, strict=True):
        out.append(text)
        if pair:
            indent = " " * (len(text) - len(text.lstrip()))
            value = pair[1]
            rows = str(value.round(4) if value.dtype.kind == "f" else value).splitlines()
            rows = rows if len(rows) <= _ROWS else [*rows[: _ROWS - 1], "..."]
            out += [f"{indent}#     {row}" for row in rows]
    return "\n".join(out) + "\n"
