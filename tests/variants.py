"""The ways each array library is put under test.

A variant is a library, a device, and perhaps a setting of the library (JAX with x64, NumPy with
read-only arrays). `--backend torch` asks for every variant of the library that is here;
`--backend torch:cuda` for that one device.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, wraps
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import backends


@dataclass(frozen=True)
class Variant:
    """One row of the table below: `spec` is what `backends.get` is asked for."""

    id: str
    spec: str
    setting: Callable[[], AbstractContextManager[None]] = nullcontext
    here: Callable[[], bool] = lambda: True
    modules: frozenset[str] = frozenset()  # what it is run in, unless it is asked for by its id

    @property
    def library(self) -> str:
        return self.spec.partition(":")[0]


def frozen(value: Any) -> Any:
    """The value with every NumPy array in it made read-only; the caller's own array is left be."""
    if type(value) is np.ndarray:
        value = value.view()  # whether it is needed is not asked: of broadcast arrays NumPy warns
        value.flags.writeable = False
        return value
    if isinstance(value, list):
        return [frozen(item) for item in value]
    if isinstance(value, tuple):
        items = [frozen(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


class ReadOnlyNamespace:
    """NumPy's namespace, whose every function returns read-only arrays.

    Writing into an argument, a parameter or a result then raises, as it should: other libraries'
    arrays cannot be written, and a user's must not be. (Operators still return writable arrays.)
    """

    __name__ = "numpy_readonly"

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if isinstance(value, ModuleType):
            value = ReadOnlyNamespace(value)
        elif callable(value) and not isinstance(value, type):
            value = returning_frozen(value)
        setattr(self, name, value)
        return value


def returning_frozen(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function, updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return frozen(function(*args, **kwargs))

    return wrapper


@cache
def readonly_numpy() -> ReadOnlyNamespace:
    return ReadOnlyNamespace(backends.get("numpy").xp)


class Always:
    """An attribute that is one value for a class and all its instances, whatever they assign."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __get__(self, instance: object, owner: type) -> Any:
        return self.value

    def __set__(self, instance: object, value: Any) -> None:
        pass


@contextmanager
def readonly() -> Iterator[None]:
    """Give the NumPy backend a namespace and methods that return read-only arrays."""
    kind = type(backends.get("numpy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "xp", Always(readonly_numpy()))
        for method in ("asarray", "scatter_add", "erf", "sigmoid", "logsumexp"):
            patch.setattr(kind, method, returning_frozen(getattr(kind, method)))
        yield


@contextmanager
def strictest() -> Iterator[None]:
    """Every optional part of the standard off, but linear algebra, which `orthogonal` needs."""
    import array_api_strict

    with array_api_strict.ArrayAPIStrictFlags(
        api_version="2024.12",
        boolean_indexing=False,
        data_dependent_shapes=False,
        enabled_extensions=("linalg",),
    ):
        yield


def x64(enabled: bool) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def setting() -> Iterator[None]:
        import jax

        before = jax.config.jax_enable_x64
        jax.config.update("jax_enable_x64", enabled)
        try:
            yield
        finally:
            jax.config.update("jax_enable_x64", before)

    return setting


@cache
def compile_quickly() -> None:
    """Let JAX write all its programs in one MLIR context.

    It makes one for every function of every shape, which takes longer than to lower most of them.
    """
    from jax._src.interpreters import mlir

    if hasattr(mlir, "make_ir_context"):  # private to JAX: without it, tests only take longer
        mlir.make_ir_context = cache(mlir.make_ir_context)


def two_cuda_devices() -> bool:
    try:
        backends.get("cupy:1")
    except backends.BackendUnavailable:
        return False
    return True


# What has to work wherever the arrays are and whatever they can do. The other variants of a library
# run this alone: the rest takes as long and finds the same on each.
CONTRACTS = frozenset(
    f"tests.{name}"
    for name in """optim.test_optimizers test_awkward_points test_backend_functions test_bad_input
    test_compiler test_data test_engines test_files test_functional test_helpers test_initializers
    test_layers test_losses test_metrics test_namespace test_networks test_parity test_random
    test_rules test_scope test_training test_transforms test_views test_vmap""".split()
)

# What depends on the dtypes that JAX gives by itself. Without float64 the rest is, rule for rule,
# what it is on array_api_strict-no_float64, and XLA compiles it for minutes.
DTYPES = frozenset(
    f"tests.{name}"
    for name in """test_backend_functions test_bad_input test_data test_helpers test_initializers
    test_namespace test_random test_training test_views""".split()
)

# All libraries, but JAX without x64: for tests of the modules above that train, which XLA compiles
# for seconds, and which say nothing of dtypes.
WIDE = ("numpy", "array_api_strict", "torch", "jax-x64", "dpnp", "cupy")

# What CuPy's own part does on a device that is not its current one. That tinynn itself makes every
# array on the device of its arguments is told by array_api_strict-device1, for all of CONTRACTS.
DEVICES = frozenset(
    f"tests.{name}"
    for name in """optim.test_optimizers test_backend_functions test_compiler test_data test_engines
    test_files test_helpers test_layers test_networks test_random test_scope
    test_training""".split()
)

TABLE = (
    Variant("numpy", "numpy"),
    Variant("numpy-readonly", "numpy", readonly, modules=CONTRACTS),
    Variant("array_api_strict", "array_api_strict"),
    Variant("array_api_strict-device1", "array_api_strict:device1", modules=CONTRACTS),
    Variant("array_api_strict-no_float64", "array_api_strict:no_float64", modules=CONTRACTS),
    Variant("array_api_strict-strictest", "array_api_strict", strictest, modules=CONTRACTS),
    Variant("torch", "torch:cpu"),
    Variant("jax-x64", "jax:cpu", x64(True)),
    Variant("jax-x32", "jax:cpu", x64(False), modules=DTYPES),
    Variant("dpnp", "dpnp:cpu"),
    Variant("cupy", "cupy:0"),
    # CuPy computes on the current device, cupy:0, if it is not told otherwise.
    Variant("cupy-device1", "cupy:1", here=two_cuda_devices, modules=DEVICES),
)
DEFAULT = ("numpy", "array_api_strict")

# Libraries that compile every function anew for every shape, or take long for each call. What is
# alike on all libraries is drawn less often on them: tests/conftest.py, and tests/seeds.py.
COMPILING = frozenset(("jax", "dpnp", "cupy"))


def requested(names: list[str]) -> list[Variant]:
    """The variants that `--backend` names: a library, a row's id, or "library:device"."""
    found: dict[str, Variant] = {}
    for name in names or DEFAULT:
        exact = [replace(row, modules=frozenset()) for row in TABLE if row.id == name]
        rows = [row for row in TABLE if row.library == name != row.id and row.here()]
        for row in [*exact, *rows] or [Variant(name, name)]:
            found[row.id] = row
    return list(found.values())
