"""The same seed gives the same bits: twice, in another process, and with two threads."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import Backend, BackendUnavailable
from tests.resumed import Stop, assert_same
from tinynn import tree
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.training import files, fit, loop

pytestmark = pytest.mark.reads_scalars  # the checks look at values

NET = Sequential(Linear(8), BatchNorm(), relu, Dropout(0.25), Linear(3))
WIDE = Sequential(Linear(256), relu, Linear(256), relu, Linear(3))


def trained(backend: Any, engine: str, net: Any = NET, rows: int = 40) -> list[np.ndarray]:
    """Parameters and losses after two epochs."""
    rng = np.random.default_rng(3)
    x = backend.asarray(rng.normal(size=(rows, 64)).astype("float32"))
    y = backend.asarray(np.arange(rows) % 3)
    model = fit(net, x, y, epochs=2, batch_size=rows // 2, engine=engine, seed=1, progress=False)
    leaves = [backend.to_host(array) for array in tree.leaves([model.params, model.state])]
    return [*leaves, np.asarray(model.history["loss"])]


def bits(arrays: list[np.ndarray]) -> list[str]:
    return [array.tobytes().hex() for array in arrays]


@pytest.mark.only("numpy", "array_api_strict", "torch", "jax", "dpnp", "cupy")
def test_the_same_seed_gives_the_same_bits(backend: Backend) -> None:
    """By each engine, the compiler of XLA included, which makes the same program again."""
    for engine in ["eager", "calls"] if backend.repeat is None else ["calls", "jit"]:
        assert bits(trained(backend, engine)) == bits(trained(backend, engine)), engine


def test_rows_that_are_added_to_the_same_place(backend: Backend) -> None:
    """On a processor they are added in their order; see docs/resume.md for CUDA."""
    x = backend.asarray(np.zeros((5, 2), "float32"))
    rows = np.random.default_rng(0).integers(0, 5, 400)
    updates = backend.asarray(np.random.default_rng(1).normal(size=(400, 2)).astype("float32"))
    sums = [backend.to_host(backend.scatter_add(x, backend.asarray(rows), updates)).tobytes()
            for _ in range(3)]  # fmt: skip
    assert len(set(sums)) == 1


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batches_that_begin_anywhere_in_memory(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Where a batch begins decides how some libraries add; how many are carried out does not."""
    net, rng = Sequential(Linear(5), relu, Linear(3)), np.random.default_rng(3)
    x, weights = rng.normal(size=(50, 4)), np.linspace(0.1, 1.0, 50)
    data = [backend.asarray(each, dtype) for each in (x, weights)]
    arguments: dict[str, Any] = {
        "epochs": 3, "batch_size": 7, "engine": "calls", "sample_weight": data[1],
    }  # fmt: skip
    y, path = backend.asarray(np.arange(50) % 3), tmp_path / "file"
    whole = fit(net, data[0], y, **arguments)
    monkeypatch.setattr(
        loop.Pace, "steps", property(lambda self: 3, lambda self, steps: None), raising=False
    )
    assert_same(fit(net, data[0], y, **arguments), whole)
    write = files.write

    def write_and_stop(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        raise Stop

    monkeypatch.setattr(files, "write", write_and_stop)
    arguments |= {"checkpoint": path, "every": timedelta(microseconds=1), "resume": True}
    for _ in range(10):
        with suppress(Stop):
            assert_same(fit(net, data[0], y, **arguments), whole)
            return
    pytest.fail("it never ended")


SCRIPT = """
import json, backends
from tests.test_determinism import NET, WIDE, bits, trained
numpy = backends.get("numpy")
print(json.dumps({
    "small": {engine: bits(trained(numpy, engine)) for engine in ENGINES},
    "wide": bits(trained(numpy, "calls", WIDE, 600)),
}))
"""


@pytest.mark.only("numpy")
def test_processes_of_one_and_two_threads(backend: Backend) -> None:
    try:
        engines = ["eager", "calls"] + ["loops"] * (backend.native() is not None)
    except BackendUnavailable:
        engines = ["eager", "calls"]
    shown = [in_process(threads, engines) for threads in (1, 2, 2)]
    here = {engine: bits(trained(backend, engine)) for engine in engines}
    assert all(each["small"] == here for each in shown), "too small for BLAS to share out"
    one, two, again = (each["wide"] for each in shown)
    assert two == again, "as many threads, the same bits"
    for a, b in zip(one[:-1], two[:-1], strict=True):  # without the losses, of another dtype
        left, right = (np.frombuffer(bytes.fromhex(text), "float32") for text in (a, b))
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)


def in_process(threads: int, engines: list[str]) -> Any:
    """What a process of so many threads prints."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("ENGINES", repr(engines))],
        env={**os.environ, **dict.fromkeys(names, str(threads))},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return json.loads(done.stdout)
