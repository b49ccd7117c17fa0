"""Tables read in parts: what is found of their columns is what is found of the whole."""

import io
import math
import re
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import polars
import pytest

import tinynn
from tests.command_line import QUICK, run
from tinynn.cli import parts as readers
from tinynn.cli import reading
from tinynn.tabular import Table, TableError, TablePreparation, fit_table, fitting
from tinynn.tabular import parts as large
from tinynn.tabular.inference import Options
from tinynn.tabular.statistics import Median, Moments
from tinynn.tabular.streaming import fit_parts, survey, target_of
from tinynn.tabular.targets import Classes

RNG = np.random.default_rng(0)
ROWS = 503


class Slices:
    """The rows of a frame as a table in parts."""

    source = "slices"

    def __init__(self, frame: Any, rows: int = 50) -> None:
        self.frame, self.rows, self.names = frame, rows, frame.columns

    def __len__(self) -> int:
        return math.ceil(len(self.frame) / self.rows)

    def read(self, part: int, columns: Any = None) -> Table:
        found = self.frame.slice(part * self.rows, self.rows)
        table = Table.of(found if columns is None else found.select(columns), source="slices")
        return table.at("row", part * self.rows)


def frame() -> Any:
    months, days = RNG.integers(1, 13, ROWS), RNG.integers(1, 29, ROWS)
    number = [None if v > 1.5 else v for v in RNG.normal(size=ROWS)]
    return polars.DataFrame(
        {
            "number": number,
            "integer": RNG.integers(0, 1000, ROWS),
            "text": RNG.choice(["red", "blue", "True"], ROWS),
            "boolean": RNG.choice(["True", "False"], ROWS),
            "typed": RNG.choice([True, False], ROWS),
            "percent": [f"{v:.1f} %" for v in RNG.uniform(size=ROWS)],
            "comma": [f"{v:.3f}".replace(".", ",") for v in RNG.normal(size=ROWS)],
            "code": [f"{v:05}" for v in RNG.integers(0, 12, ROWS) * 1000],
            "date": [f"{d:02}.{m:02}.2024" for d, m in zip(days, months, strict=True)],
            "day": polars.Series(RNG.integers(18000, 20000, ROWS)).cast(polars.Date),
            "same": ["x"] * ROWS,
            "free": [f"text {v}" for v in range(ROWS)],
            "sparse": [None if i % 7 else f"{i}" for i in range(ROWS)],
            "label": RNG.choice(["yes", "no"], ROWS),
            "few": RNG.integers(0, 4, ROWS),
        }
    )


def fitted(table: Any, target: str, **options: Any) -> TablePreparation:
    given, told = Options(**options), list[str]()
    found = survey(table, target, given)
    answer = target_of(found, table, target, None, given, told.append)
    activation = "identity" if answer.kind == "quantity" else "softmax"
    return fit_parts(table, found, answer, None, given, activation, told.append)


def assert_alike(one: Any, other: Any) -> None:
    """The same descriptions, numbers to rounding and medians to the bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            if key == "median":
                assert one[key] == other[key]
            assert_alike(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_alike(*pair)
    else:
        assert one == (pytest.approx(other, rel=1e-12) if isinstance(one, float) else other)


TARGETS = ["label", "number", "few", "boolean", "integer"]


@pytest.mark.parametrize(
    ("target", "kept"), [*((t, large.DISTINCT) for t in TARGETS), *((t, 5) for t in TARGETS[:-1])]
)
def test_a_preparation_of_parts_is_that_of_the_whole(
    target: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "DISTINCT", kept)
    table = frame().filter(polars.col(target).is_not_null())
    if kept == 5:  # categories have to be fewer than are kept, and so have dates
        table = table.drop("code", "free", "date")
    whole = TablePreparation.fit(table, target, note=lambda message: None)
    assert_alike(fitted(Slices(table), target).to_config(), whole.to_config())


def test_gaps_and_targets_of_too_many_classes() -> None:
    codes = np.arange(ROWS) % 5
    table = polars.DataFrame(
        {
            "gaps": [None if v == 4 else "abcd"[v] for v in codes],
            "y": RNG.choice(["yes", "no"], ROWS),
            "names": [f"name {v}" for v in range(ROWS)],
        }
    )
    (column,) = fitted(Slices(table.drop("names")), "y").columns
    assert column.missing is True
    with pytest.raises(TableError, match="'names': expected classes, got 503 different ones in"):
        fitted(Slices(table), "names")


def test_a_class_that_is_held_out_alone_has_no_weight() -> None:
    weights = fitting._class_weights(Classes("y", ("a", "b", "c"), "text"),
                                     np.asarray([3, 0, 1]), "balanced")  # fmt: skip
    assert weights[[0, 2]] == pytest.approx([4 / 6, 2.0])
    assert np.isfinite(weights).all()


def test_an_open_quote_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_PART", 100)
    path = tmp_path / "t.csv"
    path.write_text('a,y\n1,"2\n' + "1,2\n" * 200_000)
    start = process_time()
    assert len(readers.CsvParts(str(path))) == 1
    assert process_time() - start < 5.0, "and not all over again with each line"


def test_one_cell_at_the_end_tells_what_a_column_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "DISTINCT", 5)
    table = polars.DataFrame(
        {
            "code": [*map(str, range(1, 100)), "01"],
            "comma": [*(f"{v}.5" for v in range(99)), "1,000.5"],
            "y": ["a", "b"] * 50,
        }
    )
    found = fitted(Slices(table, 10), "y")
    assert "code" in found.left_out, "01 is a code, so none of them is a number"
    assert [column.name for column in found.columns] == ["comma"]
    whole = TablePreparation.fit(table.drop("code"), "y", note=lambda message: None)
    assert_alike(found.columns[0].scale.mean, whole.columns[0].scale.mean)


def test_mistakes_are_told_by_their_row_in_the_whole() -> None:
    table = polars.DataFrame({"x": [*map(str, range(99)), "ten"], "y": ["a", "b"] * 50})
    with pytest.raises(TableError, match="column 'x', row 99: expected a number, got 'ten'"):
        fitted(Slices(table, 10), "y")
    with pytest.raises(TableError, match="there is no column 'z'"):
        fitted(Slices(table, 10), "z")
    numbers = polars.DataFrame({"x": [1.0] * 99 + [float("inf")], "y": ["a", "b"] * 50})
    with pytest.raises(TableError, match="row 99: expected a finite number"):
        fitted(Slices(numbers, 10), "y")

    class Other(Slices):
        def read(self, part: int, columns: Any = None) -> Table:
            if part == 3:
                return Table.of({"x": [1.5], "y": ["a"]}, source="slices").at("row", 30)
            return super().read(part, columns)

    with pytest.raises(TableError, match=r"column 'x': expected String, .* got Float64 .* row 30"):
        fitted(Other(table, 10), "y")


@pytest.mark.parametrize("kind", ["normal", "equal bits", "integers", "two", "wide", "negative"])
def test_medians_are_exact(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinynn.tabular import statistics

    monkeypatch.setattr(statistics, "_GATHERED", 3)
    values = {
        "normal": RNG.normal(size=1001),
        "equal bits": 1.7e9 + RNG.uniform(size=1000),
        "integers": RNG.integers(-3, 3, 1000).astype("float64"),
        "two": np.asarray([-1.0, 5e-324]),
        "wide": 10.0 ** RNG.uniform(-300, 300, 999),
        "negative": -np.abs(RNG.normal(size=400)),
    }[kind]
    median, passes = Median(), 0
    while median.value is None:
        for part in np.array_split(np.append(values, np.nan), 7):
            median.add(part)
        median.end(values.size)
        passes += 1
    ordered = np.sort(values)
    assert median.value == ordered[(values.size - 1) // 2] / 2 + ordered[values.size // 2] / 2
    assert passes <= 5


def test_moments_are_merged() -> None:
    values = 1e6 + RNG.normal(size=1003)
    moments = Moments()
    for part in np.array_split(values, 10):
        moments.add(part)
    assert moments.mean == pytest.approx(values.mean(), rel=1e-14)
    assert moments.deviation == pytest.approx(values.std(), rel=1e-9)
    assert (moments.least, moments.most) == (values.min(), values.max())


def test_it_learns_from_parts_and_scores_them() -> None:
    x = RNG.normal(size=900)
    table = polars.DataFrame({"x": x, "y": np.where(x > 0, "up", "down"), "v": 3 * x + 1})
    table = table.with_columns(y=polars.when(polars.col("x") < 2.5).then("y"))
    told: list[str] = []
    shared: dict[str, Any] = {"hidden": (8,), "epochs": 30, "report": told.append}
    with_gaps = Slices(table.drop("v"))
    model = fit_table(with_gaps, "y", class_weight="balanced", **shared)
    assert "rows have no target and are left out" in told[0]
    assert float(re.search(r"held-out accuracy ([\d.]+)%", told[-1])[1]) > 90
    assert model.predict({"x": [-1.0, 1.0]}).tolist() == ["down", "up"]
    number = fit_table(Slices(table.drop("y")), "v", **shared)
    assert float(re.search(r"held-out R2 ([\d.]+)", told[-1])[1]) > 0.9
    assert number.predict({"x": [1.0]})[0] == pytest.approx(4.0, abs=0.5)
    with pytest.raises(ValueError, match="expected one network on a table that is read in parts"):
        fit_table(Slices(table), "v", networks=3)


# The command line.


def written(folder: Path, rows: int = 600) -> Any:
    table = polars.DataFrame(
        {
            "x": RNG.normal(size=rows),
            "note": RNG.choice(["plain", 'say "hi"', "two\nlines"], rows),
            "n": range(rows),
        }
    )
    y = polars.when(polars.col("x") > 0).then(polars.lit("yes")).otherwise(polars.lit("no"))
    table = table.with_columns(y=y)
    table.write_csv(folder / "t.csv")
    table.write_parquet(folder / "t.parquet", row_group_size=100)
    return table


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_large_files_are_read_in_parts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(readers, "_PART", 1000)
    written(tmp_path)
    found = readers.opened(str(tmp_path / name), 0)
    assert not isinstance(found, Table)
    assert len(found) > 5
    parts = polars.concat([found.read(i).frame.to_native() for i in range(len(found))])
    assert parts.equals(reading.read(str(tmp_path / name)).frame.to_native())
    out, answers = tmp_path / "m.tnn", tmp_path / "answers.csv"
    said = run("train", tmp_path / name, "--target", "y", "--out", out, "--memory", 0, *QUICK)
    assert re.search(r"600 rows in \d+ parts, 120 held out", said)
    whole = run("predict", out, tmp_path / name, "--id", "n", "--out", answers)
    text = answers.read_text()
    assert run("predict", out, tmp_path / name, "--id", "n", "--memory", 0, "--out", answers,
               "--force") == whole  # fmt: skip
    assert answers.read_text() == text
    assert len(polars.read_csv(io.StringIO(text))) == 600
    assert "(600 rows)" in whole
    assert tinynn.load(out).preparation.target.name == "y"


def test_mistakes_in_csv_are_told_by_their_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_PART", 40)
    path = tmp_path / "t.csv"
    lines = ["a,y", *(f"{i},{'uv'[i % 2]}" for i in range(60))]
    for line, text, words in (
        (50, "1,2,3", "line 51: expected 2 cells"),
        (50, "", "line 51: expected 2 cells, as the first line has names, got an empty line"),
        (50, "ten,u", "column 'a', line 51: expected a number, got 'ten'"),
        (50, '"ten,u', "line 51: expected cells of CSV"),
    ):
        wrong = [*lines]
        wrong[line] = text
        path.write_text("\n".join(wrong) + "\n")
        said = run("train", path, "--target", "y", "--memory", 0, status=1)
        assert words in said, said
    path.write_text("a,y\n")
    assert "got none below the names" in run("train", path, "--target", "y", "--memory", 0,
                                             status=1)  # fmt: skip
