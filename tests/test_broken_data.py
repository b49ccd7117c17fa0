"""Files of data that are broken, or break while they are trained on: named by their place."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinynn.data import CSV, HDF5, DataError, NpyFolder, Parquet, Zarr
from tinynn.layers import Linear
from tinynn.training import fit

X = np.random.default_rng(0).normal(size=(400, 3)).astype("float32")


def train(data: Any, *callbacks: Any) -> Any:
    given: dict[str, Any] = {"batch_size": 16, "epochs": 3, "progress": False, "engine": "eager"}
    return fit(Linear(1), data, loss="squared_error", callbacks=callbacks, **given)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,2,3,4", "got 4 cells"),
        ("1,2", "got 2 cells"),
        ("c,d,e", "got 'c', column 'a'"),
        ("1,,2", "got '', column 'b'"),
        ("", "got '', column 'a'"),
        ("1,\0,2", ".*, column 'b'"),
        ('1,"2,2', "got a quote that is open"),
    ],
)
def test_other_columns_in_the_middle_of_csv(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [f"{i},{-i},{i / 2}" for i in range(60)]
    path.write_text("\n".join(["a,b,y", *lines[:40], line, *lines[40:]]) + "\n")
    with pytest.raises(DataError, match=rf"t\.csv: line 42: expected 3 numbers, {said}"):
        train(CSV(path, y="y"))


def npy(folder: Path) -> Any:
    for part in range(4):
        np.save(folder / f"x-{part}.npy", X[:100])
        np.save(folder / f"y-{part}.npy", X[:100, 0])
    return NpyFolder(folder)


def parquet(folder: Path) -> Any:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"a": X[:, 0], "y": X[:, 1]})
    pytest.importorskip("pyarrow.parquet").write_table(table, folder / "t.parquet",
                                                       row_group_size=50)  # fmt: skip
    return Parquet(folder / "t.parquet", y="y")


def hdf5(folder: Path) -> Any:
    with pytest.importorskip("h5py").File(folder / "a.h5", "w") as file:
        file.create_dataset("x", data=np.tile(X, (50, 1)), chunks=(500, 3))
        file.create_dataset("y", data=np.tile(X[:, 0], 50), chunks=(500,))
    return HDF5(folder / "a.h5")


def zarr(folder: Path) -> Any:
    group = pytest.importorskip("zarr").open_group(str(folder / "z"), mode="w")
    for name, rows in (("x", X), ("y", X[:, 0])):
        chunks = (50, *rows.shape[1:])
        group.create_array(name, shape=rows.shape, chunks=chunks, dtype="f4")[:] = rows
    return Zarr(folder / "z")


PLACES: dict[Callable[[Path], Any], str] = {
    npy: "x-2.npy", parquet: "t.parquet", hdf5: "a.h5", zarr: "z/x/c/3/0",
}  # fmt: skip


@pytest.mark.parametrize("made", PLACES, ids=lambda made: made.__name__)
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_file_that_breaks_in_the_run(made: Any, how: str, tmp_path: Path) -> None:
    """The epochs that are done are not lost, and the warning says where it was."""
    data, path = made(tmp_path), tmp_path / PLACES[made]

    def strike(run: Any) -> None:
        if run.epoch == 1:
            path.unlink() if how == "gone" else os.truncate(path, path.stat().st_size // 2)

    with pytest.warns(RuntimeWarning, match=rf"epoch 1: .*{path.name}.* the model is as it was"):
        model = train(data, strike)
    assert model.history["epoch"] == [1]


@pytest.mark.parametrize("made", [npy, parquet, hdf5], ids=lambda made: made.__name__)
def test_a_file_that_was_cut_short_before(made: Any, tmp_path: Path) -> None:
    made(tmp_path)
    path = tmp_path / PLACES[made]
    os.truncate(path, path.stat().st_size - 9)
    kind: Any = {npy: NpyFolder, parquet: Parquet, hdf5: HDF5}[made]
    with pytest.raises(DataError, match=rf"{path.name}: expected an? .* file.* cannot be read"):
        kind(tmp_path if made is npy else path, **({"y": "y"} if made is parquet else {}))


def test_a_chunk_of_zarr_that_is_damaged(tmp_path: Path) -> None:
    zarr(tmp_path)
    (tmp_path / PLACES[zarr]).write_bytes(b"abc")
    with pytest.raises(DataError, match=r"z, from row 150: expected rows of data, got what cannot"):
        train(Zarr(tmp_path / "z"))


def test_an_npy_file_that_is_cut_between_the_look_at_it_and_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a map of it would end the process."""
    data, path = npy(tmp_path), tmp_path / "x-2.npy"
    check = data.files.check

    def late(looked_at: Path) -> None:
        check(looked_at)
        if looked_at.name == "y-2.npy":
            os.truncate(path, path.stat().st_size // 2)

    monkeypatch.setattr(data.files, "check", late)
    with pytest.raises(DataError, match=r"x-2\.npy: expected"):
        train(data)
