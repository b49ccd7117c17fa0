"""Summary: the layers of a network with their parameters and bytes."""

from dataclasses import dataclass
from html import escape
from math import prod
from typing import Any, NamedTuple

from tinynn.config import label


class Row(NamedTuple):
    """One layer: its path, what it is, and the shapes of its parameters and state."""

    path: str
    layer: str
    shapes: str
    parameters: int
    bytes: int


@dataclass(frozen=True, repr=False)
class Summary:
    """The layers of a network, one row each; `str` and notebooks show them as a table."""

    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(row.parameters for row in self.rows)

    def __repr__(self) -> str:
        head = ("path", "layer", "arrays", "parameters", "bytes")
        total = ("", "total", "", f"{self.parameters:,}", f"{sum(r.bytes for r in self.rows):,}")
        table = [head, *map(_texts, self.rows), total]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for row in table:
            cells = zip(row, widths, strict=True)
            lines.append(
                "  ".join(c.rjust(w) if i > 2 else c.ljust(w) for i, (c, w) in enumerate(cells))
            )
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def summarize(net: Any, params: Any, state: Any) -> Summary:
    """The summary of a network, from its parameters and state."""
    rows: list[Row] = []
    _add(rows, "", net, params, state)
    return Summary(tuple(rows))


def _add(rows: list[Row], path: str, layer: Any, params: Any, state: Any) -> None:
    own = {k: v for k, v in [*params.items(), *state.items()] if not isinstance(v, dict)}
    children = [k for k, v in {**params, **state}.items() if isinstance(v, dict)]
    listed = getattr(layer, "layers", ())
    named = {str(i): each for i, each in enumerate(listed)} if isinstance(listed, tuple) else {}
    if own or not (named or children):
        shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in own.items())
        mine = [a for k, a in params.items() if not isinstance(a, dict)]
        count = sum(prod(a.shape) for a in mine)
        size = sum(prod(a.shape) * _bytes(a.dtype) for a in own.values())
        rows.append(Row(path, label(layer), shapes, count, size))
    for name in named or children:
        below = f"{path}.{name}" if path else name
        child = named.get(name, getattr(layer, name, name))
        _add(rows, below, child, params.get(name, {}), state.get(name, {}))


def _bytes(dtype: Any) -> int:
    size = getattr(dtype, "itemsize", None)
    return int(size) if size is not None else 8


def _texts(row: Row) -> tuple[str, ...]:
    return (row.path, row.layer, row.shapes, f"{row.parameters:,}", f"{row.bytes:,}")
