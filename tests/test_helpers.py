"""The suite's own helpers do what they say, on every backend."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import backends
from tests import checks
from tests.transfers import Transfers, as_product
from tests.variants import CONTRACTS, Variant, requested

ROOT = Path(__file__).resolve().parents[1]
# Libraries whose arrays can leave for the host; NumPy's are there.
AWAY = ("array_api_strict", "torch", "jax", "dpnp", "cupy")

BULK: dict[str, Callable[[Any], Any]] = {
    "asarray": lambda x: np.asarray(x),
    "array": lambda x: np.array(x),
    "sum": np.sum,
    "concatenate": lambda x: np.concatenate([x, x]),
    "from_dlpack": np.from_dlpack,
    "tolist": lambda x: x.tolist(),
}
SCALAR: dict[str, Callable[[Any], Any]] = {"float": float, "int": int, "bool": bool}


@pytest.mark.only(*AWAY)
@pytest.mark.parametrize("name", BULK)
def test_an_array_read_whole_is_caught(
    name: str, backend: backends.Backend, transfers: Transfers
) -> None:
    x = backend.asarray([1.0, 2.0])
    if name == "tolist" and not hasattr(x, "tolist"):
        return  # no such way out
    with transfers.caught() as found:
        try:
            result = BULK[name](x)
        except Exception:  # HostRead, or the library's own refusal
            safe = True
        else:  # CuPy answers for `np.sum(x)` with an array of its own
            safe = backends.is_array(result) and backends.of(result) == backend
            assert not found
    assert safe
    if backend.name not in ("dpnp", "cupy"):  # these refuse some ways before they are asked
        assert len(found) == 1


@pytest.mark.only(*AWAY)
@pytest.mark.parametrize("name", SCALAR)
def test_a_number_read_by_the_product_is_caught(
    name: str, backend: backends.Backend, transfers: Transfers
) -> None:
    x = backend.asarray({"float": 1.0, "int": 1, "bool": True}[name])
    with transfers.caught() as found, pytest.raises(AssertionError, match="to_host"):
        as_product(SCALAR[name], x)
    assert len(found) == 1


@pytest.mark.reads_scalars
def test_a_marked_test_may_let_the_product_read_numbers(backend: backends.Backend) -> None:
    assert as_product(float, backend.asarray(1.5)) == 1.5


def test_a_test_may_read_numbers(backend: backends.Backend) -> None:
    assert float(backend.asarray(1.5)) == 1.5


def test_to_host_is_the_way_and_is_logged(backend: backends.Backend, transfers: Transfers) -> None:
    x = backend.asarray([1.0, 2.0])
    assert backend.to_host(x).tolist() == [1.0, 2.0]
    as_product(backend.to_host, x)
    assert [read.shape for read in transfers.log] == [(2,), (2,)]
    assert [read.size for read in transfers.by_product] == [2]


def test_anything_may_be_read_where_that_is_said(
    backend: backends.Backend, transfers: Transfers
) -> None:
    with transfers.allowed():
        assert as_product(bool, backend.asarray(True))


def test_printing_is_the_librarys_own_affair(backend: backends.Backend) -> None:
    assert "1." in repr(backend.asarray([1.0, 2.0]))


def test_a_caught_violation_still_fails_the_test() -> None:
    seen = Transfers("library", scalars=False)
    array = SimpleNamespace(shape=(2,))
    with pytest.raises(AssertionError):
        seen.note("float", array, False, sys._getframe())
    with pytest.raises(AssertionError, match="float read an array of shape"):
        seen.check()


@pytest.mark.only("numpy-readonly")
def test_readonly_arrays_cannot_be_written(backend: backends.Backend, xp: Any) -> None:
    made = [backend.asarray([1.0, 2.0]), xp.zeros(2), xp.add(xp.ones(2), 1.0), xp.linalg.eigh]
    made[-1] = made[-1](xp.eye(2)).eigenvectors
    for array in made:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
        assert backends.of(array) == backend
        assert backends.of(array).xp is xp
    assert np.zeros(2).flags.writeable


@pytest.mark.only("array_api_strict-strictest")
def test_strictest_has_no_data_dependent_shapes(xp: Any) -> None:
    with pytest.raises(RuntimeError, match="data_dependent_shapes"):
        xp.nonzero(xp.ones(2))


@pytest.mark.only("jax")
def test_x64_is_as_the_variant_says(variant: Variant, backend: backends.Backend) -> None:
    assert ("float64" in backend.dtypes()) == (variant.id == "jax-x64")


def test_checks_look_at_everything(backend: backends.Backend, xp: Any) -> None:
    x = backend.asarray([1.0, 2.0], dtype="float32")
    checks.assert_equal(x, [1.0, 2.0], backend, dtype="float32", shape=(2,))
    checks.assert_close(x, [1.0, 2.000001], backend, dtype=xp.float32)
    for wrong in (
        lambda: checks.assert_equal([1.0, 2.0], [1.0, 2.0], backend),
        lambda: checks.assert_equal(x, [1.0, 2.0], backend, dtype="int32"),
        lambda: checks.assert_equal(x, [[1.0, 2.0]], backend),
        lambda: checks.assert_equal(x, [1.0, 2.000001], backend),
        lambda: checks.assert_close(x, [1.0, 2.0001], backend),
        lambda: checks.assert_close(x, [1.0, float("nan")], backend),
    ):
        with pytest.raises(AssertionError):
            wrong()


@pytest.mark.only("array_api_strict-device1")
def test_checks_look_at_the_device(backend: backends.Backend) -> None:
    elsewhere = backends.get("array_api_strict").asarray([1.0])
    with pytest.raises(AssertionError):
        checks.assert_equal(elsewhere, [1.0], backend)


@pytest.mark.parametrize("module", sorted(CONTRACTS))
def test_contracts_are_tests(module: str) -> None:
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()


def test_a_library_stands_for_its_variants() -> None:
    assert [row.id for row in requested(["jax"])] == ["jax-x64", "jax-x32"]
    assert [row.id for row in requested(["numpy-readonly"])] == ["numpy-readonly"]
    assert [row.spec for row in requested(["torch:cuda"])] == ["torch:cuda"]


@pytest.mark.parametrize("name", ["nosuch", "numpy:cuda"])
def test_a_backend_that_is_missing_is_an_error(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "--backend", name, "-p"]
    run = subprocess.run([*command, "no:cacheprovider"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--backend {name}" in run.stderr
