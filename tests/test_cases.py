"""Which cases run on libraries that compile: every one of each mark, not all combinations."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cases import without_combinations
from tests.variants import TABLE, WIDE

VARIANTS = {row.id: row for row in TABLE}


def items(variant: str, only: tuple[str, ...] = (), **marks: Any) -> list[Any]:
    """The items of one test with these marks, each of which has rows of arguments."""
    names = [tuple(name.split("_")) for name in marks]
    found = []
    for rows in itertools.product(*marks.values()):
        params = {"variant": VARIANTS[variant]}
        for together, row in zip(names, rows, strict=True):
            params |= dict(zip(together, row, strict=True))
        known = [SimpleNamespace(args=[", ".join(together), ()]) for together in names]
        found.append(SimpleNamespace(
            location=("test_x.py", 1, "test"), originalname="test",
            callspec=SimpleNamespace(params=params), iter_markers=lambda name, k=known: iter(k),
            get_closest_marker=lambda name: SimpleNamespace(args=only) if only else None,
        ))  # fmt: skip
    return found


def taken(found: list[Any], *names: str) -> list[tuple[Any, ...]]:
    kept = without_combinations(found)
    return [tuple(item.callspec.params[name] for name in names) for item in kept]


ENGINES, ROWS = [("eager",), ("calls",)], [(1, "one"), (2, "two"), (3, "three")]


def test_every_case_of_each_mark_runs_once_on_a_library_that_compiles() -> None:
    found = items("jax-x64", engine=ENGINES, size_name=ROWS)
    assert taken(found, "engine", "size", "name") == [
        ("eager", 1, "one"), ("eager", 3, "three"), ("calls", 2, "two"),
    ]  # fmt: skip
    assert len(taken(items("cupy", WIDE, engine=ENGINES, size_name=ROWS), "size")) == 3
    assert len(taken(items("cupy", size_name=ROWS), "size")) == 3


@pytest.mark.parametrize(
    ("library", "only", "marks"),
    [
        ("numpy", (), {"engine": ENGINES, "size_name": ROWS}),
        ("torch", (), {"engine": ENGINES, "size_name": ROWS}),
        ("jax-x64", ("jax", "dpnp"), {"engine": ENGINES, "size_name": ROWS}),
        ("cupy", ("numpy", "cupy"), {"engine": ENGINES, "size_name": ROWS}),
        ("dpnp", (), {"engine": ENGINES, "part": [(0,), (1,), (2,)]}),
    ],
)
def test_elsewhere_and_of_what_runs_nowhere_else_all_combinations_do(
    library: str, only: tuple[str, ...], marks: Any
) -> None:
    assert len(taken(items(library, only, **marks))) == 6


def test_tests_without_parameters_are_left() -> None:
    plain = SimpleNamespace(get_closest_marker=lambda name: None)
    assert list(without_combinations([plain])) == [plain]  # type: ignore[list-item]
