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
from click.testing import CliRunner

import tinynn
from tests.command_line import QUICK, run
from tinynn.cli import parts as readers
from tinynn.cli import reading, writing
from tinynn.cli.app import app
from tinynn.tabular import (
    Table,
    TableError,
    TablePreparation,
    calibrating,
    fit_table,
    fitting,
    inputs,
)
from tinynn.tabular import parts as large
from tinynn.tabular.columns import Scale
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
    return fit_parts(table, found, answer, found.rows, given, activation, told.append)


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
    weights = inputs.class_weights(Classes("y", ("a", "b", "c"), "text"),
                                     np.asarray([3, 0, 1]), "balanced")  # fmt: skip
    assert weights[[0, 2]] == pytest.approx([4 / 6, 2.0])
    assert np.isfinite(weights).all()


def test_numbers_have_no_weights_of_classes() -> None:
    for table in (frame(), Slices(frame())):
        with pytest.raises(ValueError, match=r"class_weight: expected a target of classes"):
            fit_table(table, "number", class_weight="balanced", report=lambda line: None)


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


@pytest.mark.parametrize("largest", [1e99, 1e101, 1e200, 9e299, 1e-100])
def test_moments_of_very_large_and_small_numbers(largest: float) -> None:
    values = largest * np.linspace(-0.5, 1.0, 40)
    values[:10] = np.linspace(1.0, 2.0, 10) * min(largest, 1.0)  # which come first
    moments = Moments()
    for part in np.array_split(values, 4):
        moments.add(part)
    scale, whole = moments.scale(0.0, "here"), Scale.fit(values, "here")
    assert scale.mean == pytest.approx(whole.mean, rel=1e-12)
    assert scale.deviation == pytest.approx(whole.deviation, rel=1e-12)
    moments.add(np.asarray([1e301]))
    with pytest.raises(TableError, match=r"here: expected numbers .* up to 1e\+300, got "):
        moments.scale(0.0, "here")


def test_the_rows_that_are_held_out_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each class gives its share; of numbers the ends are trained on."""
    table = frame().filter(polars.col("number").is_not_null()).with_row_index("row")
    rare = polars.when(polars.col("row") % 100 == 7).then(polars.lit("rare"))
    table = table.with_columns(label=rare.otherwise("label"), x=polars.col("row") * 1.0)
    seen: list[Any] = []

    def noted(net: Any, X: Any, *rest: Any, validation: Any, **others: Any) -> Any:
        if isinstance(validation, tuple):
            seen.append(validation[0])
        else:
            read = map(validation.read_block, range(len(validation.sizes)))
            seen.append(np.concatenate([x for x, *_ in read]))
        raise InterruptedError

    monkeypatch.setattr(fitting, "fit", noted)
    for target in ("label", "number"):
        given = table.select("x", target)
        for data in (given, Slices(given)):
            with pytest.raises(InterruptedError):
                fit_table(data, target, report=lambda line: None)
        whole, parts = seen[-2:]
        assert whole.shape == parts.shape
        np.testing.assert_allclose(np.sort(whole[:, 0]), np.sort(parts[:, 0]), rtol=1e-5)


def test_it_learns_from_parts_and_scores_them(monkeypatch: Any) -> None:
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
    assert number.calibration.scores.shape[0] == 180
    assert number.predict({"x": [1.0]}, interval=0.9).upper[0] < 5.0
    monkeypatch.setattr(calibrating, "_SCORES", 50)  # every fourth of those held out
    few = fit_table(Slices(table.drop("y")), "v", **shared | {"epochs": 1})
    assert few.calibration.scores.shape[0] == 45
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
    feather = pytest.importorskip("pyarrow.feather")
    arrow = table.to_arrow(compat_level=polars.CompatLevel.oldest())
    feather.write_feather(arrow, folder / "t.feather", compression="zstd", chunksize=100)
    table.write_ndjson(folder / "t.jsonl")
    return table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in every format, and a model of it."""
    pytest.importorskip("pyarrow")
    found = tmp_path_factory.mktemp("tables")
    written(found)
    run("train", found / "t.csv", "--target", "y", "--out", found / "m.tnn", *QUICK)
    return found


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_PART", 1000), ("_ROWS", 70), ("_DECODED", 1000)):
        monkeypatch.setattr(readers, name, value)


NAMES = ["t.csv", "t.parquet", "t.feather", "t.jsonl"]
pytestmark = pytest.mark.filterwarnings("ignore:Polars found a filename")


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", NAMES)
def test_large_files_are_read_in_parts(name: str, folder: Path, tmp_path: Path) -> None:
    found = readers.opened(str(folder / name), 0)
    assert not isinstance(found, Table)
    assert len(found) > 5
    parts = polars.concat([found.read(i).frame.to_native() for i in range(len(found))])
    assert parts.equals(reading.read(str(folder / name)).frame.to_native())
    few = found.read(1, ["n", "y"])
    assert {"n", "y"} <= set(few.names)
    assert few.where(0) != "row 0", "a row is told by its place in the file"
    out, answers = tmp_path / "m.tnn", tmp_path / "answers.csv"
    said = run("train", folder / name, "--target", "y", "--out", out, "--memory", 0, *QUICK)
    assert re.search(r"600 rows in \d+ parts, 120 held out", said)
    whole = run("predict", out, folder / name, "--id", "n", "--out", answers)
    text = answers.read_text()
    assert run("predict", out, folder / name, "--id", "n", "--memory", 0, "--out", answers,
               "--force") == whole  # fmt: skip
    assert answers.read_text() == text
    assert len(polars.read_csv(io.StringIO(text))) == 600
    assert "(600 rows)" in whole
    assert tinynn.load(out).preparation.target.name == "y"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", NAMES)
def test_standard_input_is_read_in_parts(name: str, folder: Path, tmp_path: Path) -> None:
    data = (folder / name).read_bytes()

    def given(*arguments: Any) -> Any:
        return CliRunner().invoke(app, list(map(str, arguments)), input=data)

    model, answers = folder / "m.tnn", tmp_path / "answers.csv"
    run("predict", model, folder / name, "--out", answers)
    result = given("predict", model, "-", "--memory", 0)
    assert result.exit_code == 0
    assert answers.read_bytes() in result.stdout_bytes  # click 8.1 adds what went to stderr
    result = given("train", "-", "--target", "y", "--memory", 0, *QUICK)
    assert re.search(r"standard input: 600 rows in \d+ parts, 120 held out", result.output)


def test_answers_in_every_format(folder: Path, tmp_path: Path) -> None:
    shared = ("predict", folder / "m.tnn", folder / "t.parquet", "--id", "n", "--memory", 0)
    read: dict[str, Any] = {
        ".csv": polars.read_csv, ".parquet": polars.read_parquet, ".feather": polars.read_ipc,
        ".arrow": polars.read_ipc, ".jsonl": polars.read_ndjson, ".ndjson": polars.read_ndjson,
    }  # fmt: skip
    assert read.keys() == writing.FORMATS.keys()
    frames = {}
    for ending, reader in read.items():
        out = tmp_path / f"answers{ending}"
        out.write_bytes(b"older")
        assert "wrote" in run(*shared, "--out", out)
        frames[ending] = reader(out)
    first = frames.pop(".parquet")
    assert first.columns == ["n", "prediction", "probability"]
    assert first.schema["n"] == polars.Int64
    for ending, frame in frames.items():
        text = ending == ".csv"  # of six digits
        assert frame.drop("probability").equals(first.drop("probability")), ending
        chances = frame["probability"].to_numpy(), first["probability"].to_numpy()
        np.testing.assert_allclose(*chances, atol=1e-6 if text else 1e-7, rtol=0)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".feather", ".jsonl"])
def test_a_run_that_breaks_leaves_no_half_file(ending: str, folder: Path, tmp_path: Path) -> None:
    table = polars.read_csv(folder / "t.csv", infer_schema=False)
    broken = table.with_columns(x=polars.when(polars.col("n") == "590").then(polars.lit("?-?"))
                                .otherwise("x"))  # fmt: skip
    broken.write_csv(tmp_path / "t.csv")
    out = tmp_path / f"answers{ending}"
    out.write_bytes(b"older")
    given = ("predict", folder / "m.tnn", tmp_path / "t.csv", "--memory", 0, "--out", out)
    assert "expected a number, got '?-?'" in run(*given, status=1)
    assert out.read_bytes() == b"older"
    assert {path.name for path in tmp_path.iterdir()} == {"t.csv", out.name}


def test_json_lines_whose_types_tell_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_PART", 30)
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"a": {i}}}\n' for i in range(9)) + '{"a": 0.5, "b": null}\n'
                    '{"b": "late"}\n\n')  # fmt: skip
    found = readers.JsonParts(str(path))
    whole = reading.read(str(path)).frame.to_native()
    parts = polars.concat([found.read(i).frame.to_native() for i in range(len(found))])
    assert parts.equals(whole)
    assert parts.schema == whole.schema
    path.write_text(path.read_text() + '{"a": [1]}\n')
    with pytest.raises(TableError, match="columns of one type in all lines, got what cannot"):
        readers.JsonParts(str(path))


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
