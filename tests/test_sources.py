"""Folders of npy files, Parquet, Zarr, HDF5 and CSV as data, and what can be wrong with them."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinynn.data import CSV, HDF5, Blocks, DataError, NpyFolder, Parquet, Zarr
from tinynn.layers import Linear
from tinynn.training import fit

ROWS, PART = 50, 20
RNG = np.random.default_rng(2)
X = RNG.normal(size=(ROWS, 3)).astype("float32")
Y = (X @ np.asarray([1.0, -2.0, 0.5], "float32")).astype("float32")
WEIGHTS = np.linspace(0.5, 1.5, ROWS).astype("float32")
NAMES = ["a", "b", "c"]


def npy(folder: Path, x: Any = X) -> NpyFolder:
    for number, start in enumerate(range(0, ROWS, PART)):
        for name, array in {"x": x, "y": Y, "w": WEIGHTS}.items():
            np.save(folder / f"{name}-{number}.npy", array[start : start + PART])
    return NpyFolder(folder, x="x-*.npy", y="y-*.npy", sample_weight="w-*.npy")


def arrow(x: Any = X) -> Any:
    pa = pytest.importorskip("pyarrow")
    columns = {name: x[:, i] for i, name in enumerate(NAMES)}
    return pa.table(columns | {"y": Y, "w": WEIGHTS})


def parquet(folder: Path, x: Any = X) -> Parquet:
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(arrow(x), folder / "t.parquet", row_group_size=PART)
    return Parquet(folder / "t.parquet", y="y", sample_weight="w")


def zarr_(folder: Path, x: Any = X) -> Zarr:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(folder / "t.zarr"), mode="w")
    for name, array in {"x": x, "y": Y, "w": WEIGHTS}.items():
        chunks = (PART, *array.shape[1:])
        made = group.create_array(name, shape=array.shape, chunks=chunks, dtype=array.dtype)
        made[:] = array
    return Zarr(folder / "t.zarr", sample_weight="w")


def hdf5(folder: Path, x: Any = X) -> HDF5:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "t.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(PART, 3))
        file["y"], file["w"] = Y, WEIGHTS
    return HDF5(folder / "t.h5", sample_weight="w")


def csv(folder: Path, x: Any = X) -> CSV:
    lines = [",".join([*NAMES, "y", "w"])]
    rows = np.concatenate([x, Y[:, None], WEIGHTS[:, None]], axis=1)
    lines += [",".join(map(repr, map(float, row))) for row in rows]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return CSV(folder / "t.csv", y="y", sample_weight="w")


KINDS: dict[str, Callable[..., Blocks]] = {
    "npy": npy, "parquet": parquet, "zarr": zarr_, "hdf5": hdf5, "csv": csv,
}  # fmt: skip


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def together(source: Blocks) -> list[Any]:
    blocks = [source.read_block(i) for i in range(len(source.sizes))]
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


def test_a_source_gives_the_rows_that_were_written(kind: str, tmp_path: Path) -> None:
    source = KINDS[kind](tmp_path)
    assert sum(source.sizes) == ROWS
    for got, written in zip(together(source), (X, Y, WEIGHTS), strict=True):
        assert got.dtype == np.float32
        assert np.array_equal(got, written), "to the bit"
    assert all(str(tmp_path) in source.place(block) for block in range(len(source.sizes)))


def test_it_trains_as_the_same_rows_in_memory(kind: str, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"loss": "squared_error", "epochs": 3, "shuffle": False}
    model = fit(Linear(1), KINDS[kind](tmp_path), validation=0.2, **shared)
    memory = fit(Linear(1), X, Y, sample_weight=WEIGHTS, validation=0.2, **shared)
    assert model.history["loss"] == memory.history["loss"]
    assert model.history["validation_loss"] == pytest.approx(memory.history["validation_loss"])


def test_a_file_that_changes_while_it_is_trained_on_is_refused(kind: str, tmp_path: Path) -> None:
    source = KINDS[kind](tmp_path)

    def change(run: Any) -> None:
        if run.epoch == 2:
            for path in tmp_path.rglob("*"):
                if path.is_file():
                    os.utime(path, ns=(1, 1))

    with pytest.warns(RuntimeWarning, match="changed since.*as it was after this epoch"):
        model = fit(Linear(1), source, loss="squared_error", epochs=9, callbacks=[change])
    assert model.history["epoch"] == [1, 2]


def test_missing_numbers_are_told_by_their_place(kind: str, tmp_path: Path) -> None:
    x = X.copy()
    x[37, 1] = np.nan
    source = KINDS[kind](tmp_path, x)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))) as raised:
        fit(Linear(1), source, loss="squared_error", epochs=1)
    assert "x, column 1: expected finite numbers, got 1 of" in str(raised.value)


def test_it_is_another_one_with_other_rows(kind: str, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    path = tmp_path / "run"
    shared: dict[str, Any] = {"loss": "squared_error", "checkpoint": path}
    fit(Linear(1), KINDS[kind](folders[0]), epochs=1, **shared)
    fit(Linear(1), KINDS[kind](folders[1]), epochs=2, resume=True, **shared)  # a copy will do
    with pytest.raises(ValueError, match="data: expected those that the run was begun with"):
        fit(Linear(1), KINDS[kind](folders[2], X + 1), epochs=3, resume=True, **shared)


def refused(message: str, make: Callable[[], object], kind: type[Exception] = DataError) -> None:
    with pytest.raises(kind, match=message) as raised:
        make()
    assert "To fix it:" in str(raised.value)


# Each format's own.


def test_folders_of_npy_files(tmp_path: Path) -> None:
    refused("expected a folder, got none", lambda: NpyFolder(tmp_path / "none"))
    refused(r"expected files named x\*.npy, got none among 0", lambda: NpyFolder(tmp_path))
    npy(tmp_path)
    make = lambda: NpyFolder(tmp_path, x="x-*.npy", y="y-*.npy")  # noqa: E731
    np.save(tmp_path / "x-1.npy", X[:PART, :2])
    refused(r"x-1.npy: expected rows of shape \(3,\) and float32", make)
    np.save(tmp_path / "x-1.npy", X[:PART])
    np.save(tmp_path / "y-1.npy", Y[:3])
    refused("y-1.npy: expected 20 rows, as the files that go with it have, got 3", make)
    np.save(tmp_path / "y-1.npy", np.asarray(["text"] * PART))
    refused("y-1.npy: expected rows of numbers, got <U4", make)
    np.save(tmp_path / "y-1.npy", np.float32(1.0))
    refused(r"y-1.npy: expected rows of numbers, got float32 of shape \(\)", make)
    np.save(tmp_path / "x-1.npy", X[:0])
    np.save(tmp_path / "y-1.npy", Y[:0])
    assert make().sizes == [PART, ROWS - 2 * PART]
    (tmp_path / "y-1.npy").write_bytes(b"no array")
    refused("y-1.npy: expected an npy file of numbers", make)
    (tmp_path / "y-1.npy").unlink()
    refused("expected as many files of each pattern, got 3 of x-0.npy, 2 of y-0.npy", make)


def test_parquet_files_of_one_schema(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow()
    for number in range(3):
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=PART)
    source = Parquet(tmp_path, x=["c", "a"], y=["y", "w"])
    assert sum(source.sizes) == 3 * ROWS
    x, y = together(source)
    assert np.array_equal(x[:ROWS], X[:, [2, 0]])
    assert y.shape == (3 * ROWS, 2)
    make = lambda: Parquet(tmp_path, y="y")  # noqa: E731
    other = table.set_column(1, "b", pa.array(np.arange(ROWS)))
    pq.write_table(other, tmp_path / "1.parquet")
    refused("1.parquet: column 'b': expected float, as in the first file, got int64", make)
    pq.write_table(table.drop_columns("b"), tmp_path / "1.parquet")
    refused("1.parquet: expected a column 'b', got a, c, y, w", make)
    (tmp_path / "1.parquet").write_bytes(b"PAR1 cut short")
    refused("1.parquet: expected a Parquet file", make)
    refused("none.parquet: expected a file", lambda: Parquet(tmp_path / "none.parquet", y="y"))
    nulls = table.set_column(0, "a", pa.array([None, *range(ROWS - 1)], "float32"))
    pq.write_table(nulls, tmp_path / "1.parquet", row_group_size=PART)
    with pytest.raises(DataError, match=r"1.parquet, row group 0: column 'a': .* got 1 of 20 rows"):
        make().read_block(3)


def test_parquet_columns_that_hold_no_numbers(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path, y = tmp_path / "t.parquet", [0, 1, 1]
    for column, named in (
        (pa.array(["u", "v", "v"]).dictionary_encode(), "dictionary"),
        (pa.array([1, 2, 3], "timestamp[s]"), "timestamp"),
        (pa.array([1, 2, 3], pa.decimal128(4, 1)), "decimal128"),
        (pa.array([[1.0], [2.0], [3.0]]), "list"),
    ):
        pq.write_table(pa.table({"a": column, "b": y, "y": y}), path)
        refused(f"column 'a': expected numbers, got {named}", lambda: Parquet(path, y="y"))
    refused("x: expected columns, got none", lambda: Parquet(path, x=[], y="y"))
    codes = pa.array([5, 7, 7]).dictionary_encode()
    pq.write_table(pa.table({"a": codes, "b": [True, False, True], "y": y}), path)
    assert Parquet(path, y="y").read_block(0)[0].tolist() == [[5, 1], [7, 0], [7, 1]]


def test_lists_in_parquet_are_rows_of_one_array(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 3)
    pq.write_table(pa.table({"x": lists, "y": Y}), tmp_path / "t.parquet", row_group_size=PART)
    assert np.array_equal(together(Parquet(tmp_path / "t.parquet", x="x", y="y"))[0], X)
    ragged = pa.array([[1.0], [1.0, 2.0]])
    pq.write_table(pa.table({"x": ragged, "y": Y[:2]}), tmp_path / "t.parquet")
    source = Parquet(tmp_path / "t.parquet", x="x", y="y")
    refused("column 'x': expected lists of one length, got lengths from 1 to 2",
            lambda: source.read_block(0))  # fmt: skip


def test_a_zarr_group_that_lost_a_chunk(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    source = zarr_(tmp_path)
    chunk = tmp_path / "t.zarr" / "x" / "c" / "1" / "0"
    kept = chunk.read_bytes()
    chunk.unlink()
    refused("x, chunk c/1/0: expected the file", lambda: source.read_block(1))
    refused("x, chunk c/1/0: expected the file", lambda: Zarr(tmp_path / "t.zarr"))
    whole = Zarr(tmp_path / "t.zarr", empty_chunks=True)
    assert not whole.read_block(1)[0].any(), "as Zarr reads it"
    chunk.write_bytes(kept[:-7])
    with pytest.raises(DataError, match="from row 20: expected rows of data, got what cannot be"):
        fit(Linear(1), Zarr(tmp_path / "t.zarr"), loss="squared_error", epochs=1)
    refused("expected an array 'z', got w, x, y", lambda: Zarr(tmp_path / "t.zarr", x="z"))
    refused("expected a folder with a Zarr group", lambda: Zarr(tmp_path / "none"))
    group = zarr.open_group(str(tmp_path / "t.zarr"), mode="a")
    group.create_array("few", shape=(3,), dtype="f4")
    refused("few: expected as many rows", lambda: Zarr(tmp_path / "t.zarr", y="few"))


def test_an_hdf5_file_without_that_dataset(tmp_path: Path) -> None:
    hdf5(tmp_path)
    refused("t.h5: expected an array 'z', got w, x, y", lambda: HDF5(tmp_path / "t.h5", x="z"))
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "t.h5", "a") as file:
        file["text"], file["none"] = ["a"] * ROWS, h5py.Empty("f")
    refused("text: expected numbers, got object", lambda: HDF5(tmp_path / "t.h5", y="text"))
    refused("expected an array 'none'", lambda: HDF5(tmp_path / "t.h5", y="none"))
    (tmp_path / "bad.h5").write_bytes(b"none")
    refused("bad.h5: expected an HDF5 file", lambda: HDF5(tmp_path / "bad.h5"))
    refused("none.h5: expected a file, got No such file", lambda: HDF5(tmp_path / "none.h5"))


def test_csv_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinynn.data.sources import csv as module

    monkeypatch.setattr(module, "BLOCK", 200)  # several parts, cut at ends of lines
    source = csv(tmp_path)
    assert len(source.sizes) > 5
    assert all(np.array_equal(a, b) for a, b in zip(together(source), (X, Y, WEIGHTS), strict=True))
    path = tmp_path / "t.csv"
    refused("t.csv: line 1: expected a column 'z', got a, b, c", lambda: CSV(path, y="z"))
    lines = path.read_text().splitlines()
    lines[30] = "1,2,three,4,5"
    path.write_text("\n".join(lines))
    refused("t.csv: line 31: expected 5 numbers, got 'three', column 'c'",
            lambda: together(CSV(path, y="y")))  # fmt: skip
    lines[30] = "1,2,3,4"
    path.write_text("\n".join(lines))
    refused("t.csv: line 31: expected 5 numbers, got 4 cells",
            lambda: together(CSV(path, y="y")))  # fmt: skip
    path.write_text("a;b;y\n" + "1.5;2;0\n" * 40 + "1;2;1")
    source = CSV(path, y="y", delimiter=";")
    assert together(source)[1].dtype == np.int64
    assert sum(source.sizes) == 41


def test_csv_files_of_other_hands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinynn.data.sources import csv as module

    path = tmp_path / "t.csv"
    make = lambda text, **options: (  # noqa: E731
        path.write_bytes(text.encode() if isinstance(text, str) else text),
        together(CSV(path, y="y", **options)),
    )[1]
    for text in ("a,y\r\n1,2\r\n3,4\r\n", "\ufeffa,y\n1,2\n3,4", "a,y\n1,2\n3,4\n\n\n"):
        x, y = make(text)
        assert (x.tolist(), y.tolist()) == ([[1.0], [3.0]], [2, 4])
    refused("line 3: expected 2 numbers, got ''", lambda: make("a,y\n1,2\n\n3,4\n"))
    refused("line 1: expected names .* that differ, got 'a'", lambda: make("a,a,y\n1,2,3\n"))
    refused("line 1: expected text in UTF-8, got byte 0x8b", lambda: make(b"\x1f\x8b\x08"))
    for far in ("inf", "1e300"):  # which no whole number of 64 bits is
        refused('expected numbers from .* say y_dtype="float64"', partial(make, f"a,y\n1,{far}\n"))
    assert make("a,y\n1,1e300\n", y_dtype="float64")[1].tolist() == [1e300]
    refused("expected whole numbers from -128 to 127", lambda: make("a,y\n200,1\n", dtype="int8"))
    refused("expected the name of a dtype", lambda: make("a,y\n2,1\n", dtype="int"), ValueError)
    monkeypatch.setattr(module, "BLOCK", 4)
    text = "a,y\n1,2\n3,4\n5,6.5\n"
    refused('expected whole numbers.* say y_dtype="float32"', lambda: make(text))
    assert make(text, y_dtype="float32")[1].tolist() == [2.0, 4.0, 6.5]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(r'pip install "tinynn-xp\[hdf5\]"', lambda: HDF5("t.h5"), ImportError)


BOUNDED = """
import re, sys, threading, time
from pathlib import Path
from tinynn import fit
from tinynn.data import NpyFolder, Parquet
from tinynn.layers import Linear

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

most, going = [0.0], [True]
def watch():
    while going:
        most[0] = max(most[0], anonymous())
        time.sleep(0.005)

kind, folder = sys.argv[1:]
def train(epochs):
    window = 2**14
    data = (Parquet(folder + "/t.parquet", x="x", y="y", window=window) if kind == "parquet"
            else NpyFolder(folder, window=window))
    fit(Linear(1), data, loss="squared_error", batch_size=1024, epochs=epochs, validation=0.02)

train(1)  # what is imported and compiled is no part of it
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
train(1)
going.clear()
thread.join()
print(most[0] - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells of RssAnon")
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_memory_is_bounded_by_windows_and_not_by_the_data(kind: str, tmp_path: Path) -> None:
    """128 MB in a few windows of 4 MB each; the sizes of the issue are in benchmarks/."""
    parts = [RNG.standard_normal((2**15, 64), "float32") for _ in range(2)] * 8
    if kind == "npy":
        for number, x in enumerate(parts):
            np.save(tmp_path / f"x-{number:02}.npy", x)
            np.save(tmp_path / f"y-{number:02}.npy", x[:, 0])
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        schema = pa.schema([("x", pa.list_(pa.float32(), 64)), ("y", pa.float32())])
        with pq.ParquetWriter(tmp_path / "t.parquet", schema, compression=None) as file:
            for x in parts:
                lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 64)
                file.write_table(pa.table([lists, x[:, 0]], schema), row_group_size=2**14)
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, kind, str(tmp_path)], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert float(done.stdout) < 64, "MB"
