"""Programs that are made for one run each: what a process keeps of them is bounded.

Of the memory of thousands tells `nox -s endurance`. Tests are without the fixtures of a backend,
whose log of what was read keeps the readers' programs.
"""

import gc
import linecache
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import backends
from tests.cudacpu import counters
from tests.engines import compiled_by
from tinynn.compiler import reuse
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import SGD
from tinynn.training import fit

KEPT = 3  # programs that may wait for another run, in place of 16
NET = Sequential(Linear(2), tanh, Linear(1))

each_library = pytest.mark.parametrize(
    "library",
    [
        pytest.param(name, marks=pytest.mark.only(name))
        for name in ("numpy", "array_api_strict", "torch", "jax", "dpnp", "cupy")
    ],
)


@pytest.fixture(autouse=True)
def few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    reuse.clear()
    monkeypatch.setattr(reuse, "_MOST", KEPT)


def runs(library: str, engine: str = "") -> Callable[[int], None]:
    """So many runs, each with a learning rate, which is a number of its program, of its own."""
    backend = backends.get(library)
    engine = engine or compiled_by(backend)
    x = backend.asarray(np.linspace(-1.0, 1.0, 12).reshape(6, 2))
    rates = iter(0.1 / (1 + k) for k in range(1000))

    def run(count: int) -> None:
        for _ in range(count):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a step that is not compiled would say so
                fit(NET, x, x[:, :1], loss="squared_error", optimizer=SGD(next(rates)), epochs=1,
                    batch_size=None, engine=engine)  # fmt: skip

    return run


def sources() -> int:
    """Programs whose source is kept for tracebacks."""
    gc.collect()
    return sum(name.startswith("<tinynn ") for name in linecache.cache)


def kernels(kind: type) -> int:
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


def modules() -> int:
    """Kernels of the emulated CUDA device that are loaded: shared objects, whose file is gone."""
    gc.collect()
    lines = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[4] for line in lines if "cudacpu" in line or "deleted" in line})


@each_library
def test_programs(library: str) -> None:
    before, run = sources(), runs(library)
    run(KEPT + 1)
    after = sources()
    run(2 if library == "jax" else KEPT + 2)  # XLA compiles each for seconds
    assert sources() <= after <= before + KEPT + 1
    assert len(reuse._known) == KEPT
    assert len(reuse._waiting) <= KEPT


def test_machine_code() -> None:
    pytest.importorskip("llvmlite", reason="LLVM compiles NumPy's loops")
    from backends.llvm import _Kernel

    before, run = kernels(_Kernel), runs("numpy", "loops")
    run(KEPT + 2)
    assert kernels(_Kernel) <= before + KEPT
    assert len(reuse._waiting) == KEPT


@pytest.mark.only("cupy")
def test_kernels_of_loops_on_cuda() -> None:
    if not counters.emulated():
        pytest.skip("a GPU does not tell which kernels are loaded")
    import cupy

    kept = cupy.memoize()(object)  # by someone else
    first, run = kept(), runs("cupy", "loops")
    run(KEPT + 3)
    loaded = modules()
    run(4)
    assert modules() <= loaded
    assert kept() is first
