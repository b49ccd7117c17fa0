"""Machine code for loops, and the folder it is kept in."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="loops are compiled by LLVM, which is not installed")

from backends import llvm
from tests import kernels
from tests.endurance import anonymous_memory
from tinynn.compiler.codegen.language import Cast, Constant, Expression

DTYPES = ("float64", "float64")


def multiplied(factor: float) -> str:
    def value(x: Expression) -> Expression:
        return kernels.called("multiply", x, Constant(factor, "float64"))

    return kernels.source(DTYPES, value)


def compiled(factor: float) -> Any:
    run = llvm.build(multiplied(factor), DTYPES)
    outs, x = np.zeros(2), np.asarray([1.0, 2.0])
    run(2, 2, outs, x)
    return outs.tolist()


def test_machine_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYNN_CACHE", str(tmp_path / "new"))
    assert compiled(2) == [2, 4]
    assert compiled(3) == [3, 6]  # another source, other code
    files = sorted((tmp_path / "new").iterdir())
    assert [file.suffix for file in files] == [".o", ".o"]

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("compiled again")

    compiler = llvm._compiled
    monkeypatch.setattr(llvm, "_compiled", refuse)
    assert compiled(2) == [2, 4]
    monkeypatch.setattr(llvm.llvmlite, "__version__", "another")
    llvm._here.cache_clear()  # as in another process
    with pytest.raises(AssertionError, match="compiled again"):
        compiled(2)
    monkeypatch.undo()
    llvm._here.cache_clear()
    monkeypatch.setenv("TINYNN_CACHE", str(tmp_path / "new"))
    assert compiler is llvm._compiled
    for file in files:  # damaged: the file is not run, but written anew
        file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    assert compiled(2) == [2, 4]
    assert compiled(3) == [3, 6]


def test_the_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:064x}.o" for number in range(8)]
    for age, name in enumerate(names):
        llvm.write_code(tmp_path / name, b"x" * 968)  # a kB each
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    others = ["notes.o", f"{9:064x}.new.tmp"]  # not ours, or being written just now
    for name in (*others, f"{9:064x}.old.tmp"):
        (tmp_path / name).write_bytes(b"x" * 5000)
    os.utime(tmp_path / others[0], (0, 0))
    os.utime(tmp_path / f"{9:064x}.old.tmp", (0, 0))
    monkeypatch.setattr(llvm, "_known", lambda code: True)
    assert llvm.read_code(tmp_path / names[7])  # the oldest one is used
    llvm.discard_oldest(tmp_path, 8000)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*names, *others])
    llvm.discard_oldest(tmp_path, 7999)
    kept = [*names[:4], names[7]]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*kept, *others])


def test_writing_looks_after_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(llvm, "discard_oldest", looked.append)
    for number in range(2 * llvm._WRITTEN):
        llvm.write_code(tmp_path / f"{number:064x}.o", b"code")
    assert looked == [tmp_path, tmp_path]


def test_no_place_to_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYNN_CACHE", str(tmp_path / "file"))
    assert compiled(5) == [5, 10]


def test_arrays_of_another_kind_are_refused() -> None:
    run = llvm.build(multiplied(2), DTYPES)
    with pytest.raises(TypeError, match="contiguous array of float64"):
        run(2, 1, np.zeros(2), np.zeros(2, "float32"))
    with pytest.raises(TypeError, match="contiguous array of float64"):
        run(2, 1, np.zeros(2), np.zeros(4)[::2])


@pytest.mark.parametrize("given", ["float32", "float64"])
@pytest.mark.parametrize("wanted", ["uint8", "uint16", "uint32", "uint64"])
def test_negative_floats_wrap_around_as_integers_without_a_sign(given: str, wanted: str) -> None:
    x = np.asarray([-2.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 200.75, -100.0], given)
    out = np.empty(x.shape, wanted)
    kernels.built((wanted, given), lambda each: Cast(each, wanted))(len(x), 1, out, x)
    np.testing.assert_array_equal(out, x.astype("int64").astype(wanted))
    high = np.asarray([2.0**63 + 2.0**40], given)  # beyond all integers with a sign
    if wanted == "uint64":
        kernels.built((wanted, given), lambda each: Cast(each, wanted))(1, 1, out, high)
        assert out[0] == int(high[0])


def test_a_file_of_nothing_is_no_code(tmp_path: Path) -> None:
    (tmp_path / "x.o").write_bytes(hashlib.sha256(b"").digest())
    assert llvm.read_code(tmp_path / "x.o") is None


def test_the_functions_of_kernels_are_a_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    source = multiplied(2)
    before = llvm.key(source, DTYPES)
    assert llvm.key(source, DTYPES) == before
    read = Path.read_text
    for changed in ("llvm", "llvm_functions", "llvm_arithmetic", "llvm_exponential"):

        def other(path: Path, *args: Any, at: str = changed, **kwargs: Any) -> str:
            return read(path, *args, **kwargs) + "#" * (path.stem == at)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", other)
            llvm._here.cache_clear()
            assert llvm.key(source, DTYPES) != before, changed
    llvm._here.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory is in use")
def test_compiling_keeps_no_memory() -> None:
    def grown(programs: range) -> float:
        before = anonymous_memory()
        for number in programs:
            llvm._compiled(multiplied(1.5 + number))
        return anonymous_memory() - before

    grown(range(8))  # what LLVM works in
    assert grown(range(8, 20)) < 0.4  # megabytes; a pipeline of passes takes 0.07
