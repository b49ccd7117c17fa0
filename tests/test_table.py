"""Reading tables, and the encoding of their columns."""

import json
import math
import os
import random
import sys
from datetime import date

import numpy as np
import pytest

from tinynn.cli.encoding import Category, Encoding, Number, has_classes, hold_out, prepare
from tinynn.cli.table import TRUTH_TABLES, Table, TableError, read


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def table(**columns):
    rows = len(next(iter(columns.values())))
    return Table("table", columns, range(rows))


# --- reading


def test_csv(tmp_path):
    got = read(
        write(tmp_path / "a.csv", 'x, colour ,"a ""b"""\n1,red, 2\n 3.5 ,"dark\nblue",4\n5,x,6')
    )
    assert list(got.columns) == ["x", "colour", 'a "b"']
    assert got.numbers("x") == [1.0, 3.5, 5.0]
    assert got.texts("colour") == ["red", "dark\nblue", "x"]
    # The second row takes two lines, so the third starts on line 5.
    assert [got.where(row) for row in range(3)] == ["line 2", "line 3", "line 5"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_dialects(tmp_path, delimiter, newline, mark):
    text = newline.join(delimiter.join(row) for row in (("x", "größe"), ("1", "2"), ("3", "4")))
    got = read(write(tmp_path / "a.csv", mark + text.encode() + newline.encode()))
    assert {name: got.numbers(name) for name in got.columns} == {"x": [1, 3], "größe": [2, 4]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", ["line 1", "names of the columns"]),
        ("\n\n", ["line 1", "names of the columns"]),
        ("x,y\n", ["rows of data", "none"]),
        ("x,y\n1,2\n3\n", ["line 3", "expected 2 cells", "got 1"]),
        ("x,y\n1,2\n3,4,5\n", ["line 3", "expected 2 cells", "got 3"]),
        ("x,y\n1,2\n\n3,4\n", ["line 3", "empty line"]),
        ("x,y,x\n1,2,3\n", ["'x'", "twice", "columns 1 and 3"]),
        (",x,y\n0,1,2\n", ["column 1", "no name"]),
        ('x,y\n1,2\n"3,4\n', ["line 3", "quote"]),
        ('x,y\n1,2\n"3"4,4\n', ["line 3", "quote"]),
        (b"x,y\n1,2\n3,\xff\n", ["UTF-8", "0xff", "line 3"]),
        ("x,y\n1,2\n".encode("utf-16"), ["UTF-8", "line 1"]),
    ],
)
def test_csv_errors(tmp_path, data, words):
    path = write(tmp_path / "bad.csv", data)
    with pytest.raises(TableError) as caught:
        read(path)
    for word in [path, *words]:
        assert word in str(caught.value)


def test_blank_lines_at_the_end_are_no_rows(tmp_path):
    assert len(read(write(tmp_path / "a.csv", "x,y\n1,2\n\n\n"))) == 1


def test_not_a_table(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    odd = write(tmp_path / "a.xlsx", "x")
    for source, word in [
        (str(tmp_path / "none.csv"), "no file of that name"),
        (str(tmp_path / "folder.csv"), "a folder"),
        (odd, ".xlsx"),
        (write(tmp_path / "a", "x"), "no ending"),
        ("xor2", "nand"),
    ]:
        with pytest.raises(TableError, match=word.replace(".", r"\.")):
            read(source)


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(
        path,
        image=np.arange(12.0).reshape(3, 2, 2),
        label=np.asarray(["a", "b", "a"]),
        good=np.asarray([True, False, True]),
    )
    got = read(str(path))
    assert list(got.columns) == [
        *(f"image_{i}_{j}" for i in (0, 1) for j in (0, 1)),
        "label",
        "good",
    ]
    assert got.numbers("image_1_0") == [2.0, 6.0, 10.0]
    assert got.texts("label") == ["a", "b", "a"]
    assert got.texts("good") == ["true", "false", "true"]
    assert got.where(2) == "row 2"


def test_npz_errors(tmp_path):
    path = tmp_path / "bad.npz"

    def error():
        with pytest.raises(TableError) as caught:
            read(str(path))
        assert str(path) in str(caught.value)
        return str(caught.value)

    np.savez(path, x=np.zeros(3), y=np.zeros(2))
    assert "one length: 'x' has 3, 'y' has 2" in error()
    np.savez(path, x=np.float64(3))
    assert "single value 'x'" in error()
    np.savez(path, x=np.zeros(3, dtype=complex))
    assert "column 'x', row 0" in error()
    np.savez(path, x=np.asarray([None, {}], dtype=object))
    assert "plain arrays" in error()
    np.savez(path, x=np.zeros((2, 2)), x_0=np.zeros(2))
    assert "'x_0' is there twice" in error()
    np.savez(path)
    assert "none" in error()
    np.savez(path, x=np.zeros(1000))
    whole = path.read_bytes()
    for data in (b"", b"hello", whole[:100], whole[:-5]):
        path.write_bytes(data)
        assert "npz" in error()


@pytest.fixture
def parquet(tmp_path):
    polars = pytest.importorskip("polars")
    path = tmp_path / "a.parquet"
    columns = {"x": [1, 2], "y": [0.5, None], "z": ["a", "b"], "on": [date(2024, 1, 2)] * 2}
    polars.DataFrame(columns).write_parquet(path)
    return path


def test_parquet(parquet):
    got = read(str(parquet))
    assert got.numbers("x") == [1.0, 2.0]
    assert got.texts("z") == ["a", "b"]
    assert got.texts("on") == ["2024-01-02"] * 2
    with pytest.raises(TableError, match="column 'y', row 1: expected a number, got an empty cell"):
        got.numbers("y")


def test_parquet_through_pandas(parquet, monkeypatch):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1, 2], "z": ["a", None], "y": [0.5, None]})
    monkeypatch.setitem(sys.modules, "polars", None)
    monkeypatch.setattr(pandas, "read_parquet", lambda path: frame)
    got = read(str(parquet))
    assert got.numbers("x") == [1.0, 2.0]
    for name, kind in (("y", got.numbers), ("z", got.texts)):
        with pytest.raises(TableError, match=f"column '{name}', row 1: expected"):
            kind(name)


def test_damaged_parquet(parquet):
    parquet.write_bytes(parquet.read_bytes()[:-9])
    with pytest.raises(TableError, match="expected a Parquet file"):
        read(str(parquet))


def test_parquet_without_a_reader(parquet, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(TableError, match=r'pip install "tinynn-xp\[frames\]"'):
        read(str(parquet))


def test_truth_tables():
    assert len(TRUTH_TABLES) == 7
    got = read("xor")
    assert {name: list(cells) for name, cells in got.columns.items()} == {
        "a": [0, 0, 1, 1],
        "b": [0, 1, 0, 1],
        "out": [0, 1, 1, 0],
    }
    # The first part of "Tiny NN" learns the first input.
    assert TRUTH_TABLES["first"] == got.columns["a"]


# --- cells


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("abc", "a number, got 'abc'"),
        ("", "a number, got an empty cell"),
        (None, "a number, got an empty cell"),
        ("1_000", "a number, got '1_000'"),
        ("1,5", "a number, got '1,5'"),
        ("nan", "a finite number, got 'nan'"),
        ("1e999", "a finite number, got '1e999'"),
        (math.nan, "a finite number, got nan"),
        (-math.inf, "a finite number, got -inf"),
        (10**400, "a finite number"),
    ],
)
def test_cells_that_are_no_numbers(cell, words):
    with pytest.raises(TableError, match=r"table: column 'x', row 1: expected " + words):
        table(x=[1, cell, 3]).numbers("x")


@pytest.mark.parametrize("cell", ["", None, math.nan])
def test_cells_that_are_no_texts(cell):
    with pytest.raises(TableError, match=r"table: column 'x', row 1: expected a text"):
        table(x=["a", cell]).texts("x")


def test_the_kind_of_a_column_is_that_of_most_cells():
    assert table(x=["1", "2", "oops"]).is_numeric("x")
    assert not table(x=["1", "two", "three"]).is_numeric("x")
    assert table(x=["", "2", ""]).is_numeric("x")


def test_missing_column_lists_those_there_are():
    with pytest.raises(TableError, match="no column 'z'; it has 'x', 'y'"):
        table(x=[1], y=[2]).numbers("z")


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (["a", "b", "a", "b"], True),
        ([0, 1, 0, 1], True),
        (["0.0", "1.0", "0", "1"], True),
        ([1, 2, 3, 4], False),  # no class is met twice
        ([0.5, 1, 1, 1], False),
        ([*range(21)] * 3, False),
        ([*range(20)] * 3, True),
    ],
)
def test_which_targets_are_classes(target, classes):
    assert has_classes(table(y=target), "y") is classes


# --- the split


def test_hold_out_is_stratified_and_random():
    strata = ["a"] * 50 + ["b"] * 30 + ["c"] * 3
    held = hold_out(strata, 0.2, seed=0, kept=set())
    assert [sum(strata[row] == s for row in held) for s in "abc"] == [10, 6, 1]
    assert held == sorted(set(held)) == hold_out(strata, 0.2, seed=0, kept=set())
    assert held != hold_out(strata, 0.2, seed=1, kept=set())
    assert hold_out(strata, 0.0, seed=0, kept=set()) == []
    assert not set(hold_out(strata, 0.9, seed=0, kept={0, 50, 80})) & {0, 50, 80}


# --- the encoding


@pytest.fixture
def mixed():
    """60 rows: numbers, categories, a column that never changes; the class follows from x."""
    draw = random.Random(0)
    x = [draw.uniform(-5, 5) for _ in range(60)]
    return table(
        x=x,
        colour=[draw.choice(["red", "green"]) for _ in x],
        unit=["cm"] * 60,
        zero=[0] * 60,
        kind=["low" if value < 0 else "high" for value in x],
    )


def test_encoding_is_fitted_on_the_training_part(mixed):
    encoding, training, held = prepare(mixed, "kind", classes=True)
    assert sorted(training + held) == list(range(60))
    assert len(held) == pytest.approx(12, abs=1)
    assert encoding.target == Category("kind", ("high", "low"))
    assert encoding.constant == ("unit", "zero")
    x, colour = encoding.columns
    part = np.asarray(mixed.columns["x"])[training]
    assert x == Number("x", pytest.approx(part.mean()), pytest.approx(part.std()))
    assert colour == Category("colour", ("green", "red"))
    assert encoding.width == 3
    features = np.asarray(encoding.features(mixed.take(training)))
    assert features.shape == (len(training), 3)
    assert features[:, 0].mean() == pytest.approx(0, abs=1e-12)
    assert features[:, 0].std() == pytest.approx(1)
    assert set(map(tuple, features[:, 1:])) == {(0, 1), (1, 0)}


def test_encoding_goes_through_json(mixed):
    for target, classes in (("kind", True), ("x", False)):
        encoding, *_ = prepare(mixed, target, classes=classes)
        assert Encoding.from_json(json.loads(json.dumps(encoding.to_json()))) == encoding


def test_every_category_and_class_is_in_the_training_part():
    rare = ["usual"] * 40
    rare[7] = "rare"
    kinds = ["a"] * 39 + ["b"]
    data = table(x=[*range(40)], c=rare, y=kinds)
    for seed in range(10):
        encoding, training, _ = prepare(data, "y", classes=True, fraction=0.9, seed=seed)
        assert {7, 39} < set(training)
        assert encoding.columns[1].categories == ("rare", "usual")


def test_classes_of_whole_numbers_are_in_order_and_spelling_does_not_matter():
    data = table(x=[*range(6)], y=["10", "9", "9.0", "10", "10.0", "9"])
    encoding, *_ = prepare(data, "y", classes=True, fraction=0)
    assert encoding.target == Category("y", ("9", "10"), integers=True)
    assert encoding.target.encode(data) == [1, 0, 0, 1, 1, 0]


def test_numbers_as_categories_and_columns_left_out():
    data = table(zip=["01", "02"] * 3, x=[*range(6)], y=["a", "b"] * 3)
    encoding, *_ = prepare(data, "y", classes=True, categories=["zip"], drop=["x"])
    assert encoding.columns == (Category("zip", ("01", "02")),)


def test_numbers_come_back_in_their_own_unit():
    number = Number.fit(table(y=[10.0, 20.0, 60.0]), "y")
    assert number.decode(number.encode(table(y=[15.0, 70.0]))) == pytest.approx([15.0, 70.0])


def test_new_data_that_the_encoding_refuses(mixed):
    encoding, *_ = prepare(mixed, "kind", classes=True)
    for columns, words in [
        ({"x": [1, 2]}, "no column 'colour'"),
        ({"colour": ["red"]}, "no column 'x'"),
        ({"x": [1, 2], "colour": ["red", "blue"]}, "'colour', row 1: .*'green', 'red', got 'blue'"),
        ({"x": [1, "two"], "colour": ["red", "red"]}, "'x', row 1: expected a number, got 'two'"),
        ({"x": [1, 1e300], "colour": ["red", "red"]}, "'x', row 1: .* deviations away"),
    ]:
        with pytest.raises(TableError, match=words):
            encoding.features(table(**columns))


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"x": [1, 2]}, {}, "no column 'y'"),
        ({"x": [1], "y": ["a"]}, {}, "two rows or more"),
        ({"x": [1, 2], "y": ["a", "a"]}, {}, "target that varies, got a in every row"),
        ({"x": [1, 2], "y": [3, 3]}, {"classes": False}, "target that varies"),
        ({"y": ["a", "b"]}, {}, "none that varies"),
        ({"x": [1, 1], "y": ["a", "b"]}, {}, "none that varies"),
        ({"x": [1, 2], "y": ["a", "b"]}, {"drop": ["z"]}, "no column 'z'"),
        ({"x": [1, 2], "y": ["a", "b"]}, {"categories": ["z"]}, "no column 'z'"),
        ({"x": [1, 2], "y": ["a", "b"]}, {"drop": ["y"]}, "target 'y' cannot be left out"),
        ({"x": [1, 2, 3], "y": ["a", "b", ""]}, {}, "'y', row 2: expected a text"),
        ({"x": [1, 2], "y": ["a", "b"]}, {"classes": False}, "'y', row 0: expected a number"),
        ({"x": [1, 2], "y": [1, 1.5]}, {}, "'y', row 1: expected a whole number as a class"),
        ({"x": [1, 2, "?"], "y": ["a", "b", "a"]}, {}, "'x', row 2: expected a number, got '\\?'"),
        ({"x": [-1.7e308, 1.7e308], "y": ["a", "b"]}, {}, "'x': expected numbers whose deviation"),
    ],
)
def test_what_cannot_be_learned(columns, options, words):
    with pytest.raises(TableError, match=words):
        prepare(table(**columns), "y", **{"classes": True, **options})


def test_a_column_of_names_is_no_category():
    names = [f"person {i}" for i in range(40)]
    with pytest.raises(TableError, match=r"'name': .* 40 .*--drop 'name'"):
        prepare(table(name=names, y=["a", "b"] * 20), "y", classes=True, fraction=0)


def test_the_digits_are_what_their_readme_says():
    got = read(os.path.join(os.path.dirname(__file__), "../examples/data/digits.csv"))
    names = [f"pixel_{i}_{j}" for i in range(8) for j in range(8)]
    assert len(got) == 1797
    assert list(got.columns) == [*names, "digit"]
    pixels = {value for name in names for value in got.numbers(name)}
    assert pixels == set(range(17))
    assert set(got.numbers("digit")) == set(range(10))
