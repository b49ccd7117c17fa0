"""Tables from files and standard input, and what is said of files that are none."""

import io
import os
import random
import sys
from pathlib import Path

import click
import numpy as np
import polars
import pytest
from click.testing import CliRunner

from tinynn.cli import parts, reading
from tinynn.cli.app import app
from tinynn.cli.reading import MOST_COLUMNS, TRUTH_TABLES, read
from tinynn.tabular import TableError


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def cells(table):
    return table.frame.to_dict(as_series=False)


def test_csv(tmp_path):
    table = read(write(tmp_path / "a.csv", 'x, colour ,"a ""b"""\n1,red,2\n3.5,"dark\nblue",4\n'))
    assert table.names == ["x", "colour", 'a "b"']
    assert cells(table)["colour"] == ["red", "dark\nblue"]
    assert table.where(1) == "row 1"  # a cell runs over two lines
    table = read(write(tmp_path / "b.csv", "x,y\n1,2\n3,4"))
    assert table.where(1) == "line 3"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom"])
def test_csv_dialects(tmp_path, delimiter, newline, encoding):
    text = newline.join(delimiter.join(row) for row in (("x", "größe"), ("1", "2"), ("3", ""), ""))
    data = text.encode(encoding.removesuffix("-bom"))
    data = b"\xfe\xff" + data if encoding.endswith("bom") else data
    table = read(write(tmp_path / "a.csv", data))
    assert cells(table) == {"x": ["1", "3"], "größe": ["2", None]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", ["line 1", "names of the columns"]),
        ("\n\n", ["line 1", "names of the columns"]),
        ("x,y\n", ["rows of data", "none"]),
        ("x,y\n1,2\n3\n", ["line 3", "expected 2 cells", "got 1"]),
        ("x,y\n1,2\n3\n4,\n", ["line 3", "expected 2 cells", "got 1"]),
        ('x,y\n1,"2"\n3\n4,\n', ["line 3", "expected 2 cells", "got 1"]),
        ("x,y\n1,2\n3,4,5\n", ["line 3", "expected 2 cells", "got 3"]),
        ("x,y\n1,2\n\n3,4\n", ["line 3", "empty line"]),
        ("x,y,x\n1,2,3\n", ["'x'", "twice", "columns 1 and 3"]),
        ('x,y\n1,2\n"3,4\n', ["line 3", "quote"]),
        ('x,y\n1,2\n"3"4,4\n', ["line 3", "quote"]),
        ('x,y\n1,2\n3,4"5\n6,7\n', ["line 3", "a quote inside of a cell"]),
        (b"x,y\n1,2\n3,\xff\n", ["UTF-8", "0xff", "line 3"]),
        ("x,y\n1,2\n".encode("utf-16-le"), ["UTF-8", "line 1", "NUL"]),
        (b"x,y\n1,2\n3,\x004\n", ["line 3", "NUL"]),
        (b"\xff\xfex\x00,", ["UTF-16"]),
    ],
)
def test_csv_errors(tmp_path, data, words):
    path = write(tmp_path / "bad.csv", data)
    with pytest.raises(TableError) as caught:
        read(path)
    for word in [path, *words, "To fix it: "]:
        assert word in str(caught.value)


def test_cells_may_be_empty_at_the_end_of_a_row(tmp_path):
    for text in ("x,y\n1,\n,\n3,4\n\n\n", 'x,y\n1,\n,""\n3,4\n'):
        table = read(write(tmp_path / "a.csv", text))
        assert cells(table)["x"][::2] == ["1", "3"]
        assert cells(table)["y"][2] == "4"
        assert len(table) == 3


def test_a_header_of_ten_million_columns_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(polars, "read_csv", lambda *_, **__: pytest.fail("parsed"))
    path = write(tmp_path / "wide.csv", b"," * 10_000_000 + b"\n")
    with pytest.raises(TableError, match=f"at most {MOST_COLUMNS:,} columns, got 10,000,001"):
        read(path)


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


@pytest.mark.parametrize("memory", [1024, 0])
@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv.gz", b"\x1f\x8b\x08\0", ["gzip", "zcat"]),
        ("a.csv", b"\x1f\x8b\x08\0", ["gzip", "zcat"]),
        ("a.feather", b"FEA1\0\0", ["version 1", "version 2"]),
        ("a.arrow", b"\xff\xff\xff\xff\0", ["stream", "Arrow IPC file"]),
        ("a.jsonl", b"\n\n", ["expected rows"]),
    ],
)
def test_files_that_people_have_and_that_are_not_read(
    tmp_path, monkeypatch, name, data, words, memory
):
    path = write(tmp_path / name, data)
    with pytest.raises(TableError) as caught:
        parts.opened(path, memory)
    assert all(word in str(caught.value) for word in words), caught.value
    if name != "a.jsonl":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(TableError, match=r"standard input: .*" + words[0]):
            parts.opened("-", memory)


@pytest.mark.parametrize("memory", [1024, 0])
def test_json_lines_behind_a_byte_order_mark(tmp_path, monkeypatch, memory):
    data = b'\xef\xbb\xbf{"x": 1}\n{"x": 2}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    for source in (write(tmp_path / "a.jsonl", data), "-"):
        with click.Context(click.Command("predict")):
            found = [part.column("x").to_list() for part in parts.each(source, memory)]
        assert found == [[1, 2]]


def test_names_met_twice_are_named_where_parts_are_read(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    table = arrow.table([[1, 2], [3, 4]], names=["a", "a"])
    parquet.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, tmp_path / "a.arrow")
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(TableError, match=r"name 'a' is there twice"):
            parts.opened(str(tmp_path / name), 0)


def test_truth_tables():
    assert len(TRUTH_TABLES) == 7
    assert cells(read("xor")) == {"a": [0, 0, 1, 1], "b": [0, 1, 0, 1], "out": [0, 1, 1, 0]}
    # The first part of "Tiny NN" learns the first input.
    assert list(TRUTH_TABLES["first"]) == cells(read("first"))["a"]


FRAME = polars.DataFrame(
    {"x": [1.5, None, 3.0], "kind": ["a", "b", None], "on": ["2024-01-02", None, "2024-02-29"]},
).with_columns(polars.col("on").str.to_date())
WRITERS = {
    "csv": FRAME.write_csv,
    "parquet": FRAME.write_parquet,
    "arrow": FRAME.write_ipc,
    "feather": FRAME.write_ipc,
    "jsonl": FRAME.write_ndjson,
    "ndjson": FRAME.write_ndjson,
}


@pytest.mark.parametrize("ending", WRITERS)
def test_files_and_standard_input(tmp_path, monkeypatch, ending):
    path = tmp_path / f"a.{ending}"
    WRITERS[ending](path)
    found = cells(read(str(path)))
    assert [value and float(value) for value in found["x"]] == [1.5, None, 3.0]
    assert found["kind"] == ["a", "b", None]
    assert [value and str(value) for value in found["on"]] == ["2024-01-02", None, "2024-02-29"]
    stdin = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert cells(read("-")) == found


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(
        path,
        image=np.arange(12.0).reshape(3, 2, 2),
        label=np.asarray(["a", "b", "a"]),
        good=np.asarray([True, False, True]),
    )
    table = read(str(path))
    assert table.names == [*(f"image_{i}_{j}" for i in (0, 1) for j in (0, 1)), "label", "good"]
    assert cells(table)["image_1_0"] == [2.0, 6.0, 10.0]
    assert cells(table)["label"] == ["a", "b", "a"]


def test_npz_errors(tmp_path):
    path = tmp_path / "bad.npz"

    def error():
        with pytest.raises(TableError) as caught:
            read(str(path))
        assert str(path) in str(caught.value)
        return str(caught.value)

    np.savez(path, x=np.zeros(3), y=np.zeros(2))
    assert "one length, got: 'x' has 3, 'y' has 2" in error()
    np.savez(path, x=np.float64(3))
    assert "single value 'x'" in error()
    np.savez(path, x=np.zeros(3, dtype=complex))
    assert "'x' of complex128" in error()
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


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl"])
def test_damaged_files(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    WRITERS[ending](path)
    whole = path.read_bytes()
    for data in (b"", b"hello", whole[:20], whole[:-9]):
        path.write_bytes(data)
        with pytest.raises(TableError, match="To fix it: "):
            read(str(path))


# --- bad input


def broken(draw: random.Random) -> bytes:
    """A CSV file with something wrong, or odd, or nothing at all."""
    texts = [
        "1",
        "2.5",
        "",
        "red",
        '"',
        '""',
        '"a,b"',
        "1,5",
        "é",
        "NA",
        "-",
        " ",
        "1e400",
        "'",
        "\t",
    ]
    width = draw.randint(1, 4)
    names = ["x0", "y1", "", '"q"'][:width]
    if draw.random() < 0.2:
        names[0] = draw.choice(["", names[-1], '"'])
    lines = [names]
    for _ in range(draw.choice([0, 1, 3, 30])):
        size = width if draw.random() < 0.98 else draw.randint(0, 6)
        odd = draw.random() < 0.05
        lines.append([draw.choice(texts if odd else ["1", "2"]) for _ in range(size)])
    newline = draw.choice(["\n", "\n", "\r\n", "\r", "\n\n"])
    delimiter = draw.choice([",", ",", ",", ";", "\t", "|"])
    text = newline.join(map(delimiter.join, lines)) + draw.choice(["", newline])
    encoding = draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
    data = bytearray(text.encode(encoding, "replace"))
    for _ in range(draw.choice([0, 0, 0, 1, 3])):
        data.insert(draw.randint(0, len(data)), draw.choice(b'\0",\n\r\xff\xfe;'))
    if draw.random() < 0.2:
        del data[draw.randint(0, len(data)) :]
    return bytes(data)


def test_no_file_gives_a_traceback(tmp_path):
    """Files by a seed through training and prediction; each ends well or with one message."""
    draw = random.Random(0)
    runner = CliRunner()
    path, model = tmp_path / "a.csv", tmp_path / "m.safetensors"
    good = "x0,y1\n" + "".join(f"{i},{i % 2 + 1}\n" for i in range(12))
    path.write_text(good)
    train = ["train", str(path), "--epochs", "1", "--hidden", "none", "--no-progress"]
    result = runner.invoke(app, [*train, "--target", "y1", "--out", str(model)])
    assert result.exit_code == 0, result.output
    ends = {0: 0, 1: 0}
    for number in range(600):
        data = broken(draw)
        path.write_bytes(data)
        commands = [["predict", str(model), str(path)]]
        commands += [[*train, "--target", draw.choice(["x0", "y1"])]] if number % 3 == 0 else []
        for command in commands:
            result = runner.invoke(app, command)
            told = (data, command[0], result.output)
            assert result.exit_code in (0, 1), told
            assert result.exception is None or isinstance(result.exception, SystemExit), told
            assert result.exit_code == 0 or result.output.count("Error: ") == 1, told
            ends[result.exit_code] += 1
    assert min(ends.values()) > 50, "the files are neither all good nor all bad"


def test_the_digits_are_what_their_readme_says():
    table = read(os.path.join(os.path.dirname(__file__), "../examples/data/digits.csv"))
    names = [f"pixel_{i}_{j}" for i in range(8) for j in range(8)]
    assert len(table) == 1797
    assert table.names == [*names, "digit"]
    found = cells(table)
    assert {int(value) for name in names for value in found[name]} == set(range(17))
    assert set(found["digit"]) == set(map(str, range(10)))


def test_panics_of_the_reader_are_errors_of_ours(tmp_path, monkeypatch):
    class Panic(BaseException):
        pass

    def panic(*_, **__):
        raise Panic("index out of bounds")

    monkeypatch.setattr(polars, "read_parquet", panic)
    path = Path(write(tmp_path / "a.parquet", b"PAR1"))
    with pytest.raises(TableError, match="index out of bounds"):
        reading.read(str(path))
