"""Tables for tests, and the frames that hold them."""

import random
from datetime import date, timedelta

import polars
import pytest

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")

FRAMES = {
    "dict": lambda columns: columns,
    "polars": polars.DataFrame,
    "pandas": pandas.DataFrame,
    "pyarrow": pyarrow.table,
}


def holes(rows=120):
    """A table with holes, dates, text, booleans and an index; the answers follow from the rest."""
    draw = random.Random(0)
    x = [draw.uniform(-5, 5) for _ in range(rows)]
    colour = [draw.choice(["red", "green", "blue"]) for _ in range(rows)]
    return {
        "x": [None if i % 11 == 0 else round(v, 3) for i, v in enumerate(x)],
        "count": [None if i % 13 == 0 else i % 7 for i in range(rows)],
        "colour": [None if i % 17 == 0 else c for i, c in enumerate(colour)],
        "on": [date(2020, 1, 1) + timedelta(days=5 * i) for i in range(rows)],
        "member": [bool(i % 3) for i in range(rows)],
        "kind": ["low" if v < 0 else "high" for v in x],
        "size": [3 * v + (c == "red") for v, c in zip(x, colour, strict=True)],
    }
