"""Code that nobody here wrote, differentiated as it is: array-api-extra, einops, SciPy.

What cannot work is here too, with the reason that is given; docs/derivatives.md lists it. SciPy
reads SCIPY_ARRAY_API when it is imported, so its functions are tested by another process, which
runs this file: `SCIPY_ARRAY_API=1 python -m tests.test_others_code`.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path
from typing import Any

import array_api_extra as xpx
import numpy as np
import pytest

import backends
import tinynn
from backends import Backend
from tinynn.trace import plain

ROOT = Path(__file__).resolve().parents[1]

IN_PLACE = "cannot be changed in place"  # x[...] = value
COMPILED = "does not know it"  # np.asarray(x), to hand it to C
UNKNOWN = "unknown to einops"  # it looks for the types of the libraries it knows

VECTOR = [0.3, -0.7, 1.2, 0.4, 0.9, -0.2]
POSITIVE = [0.3, 0.7, 1.2, 0.4, 0.9, 0.2, 1.7, 0.6]
MATRIX = [[0.5, 0.2, -0.3], [0.7, 1.1, 0.4]]
SQUARE = [[2.0, 0.3], [0.1, 1.5]]

# name -> (function of (library, xp, x, other), where it is differentiated); `other` is an array of
# the same namespace that is not differentiated.
Row = tuple[Callable[..., Any], Any]


def named(name: str, **settings: Any) -> Callable[..., Any]:
    return lambda lib, xp, x, other: getattr(lib, name)(x, **settings)


def as_float(xp: Any, x: Any, mask: Any) -> Any:
    return x * xp.astype(mask, x.dtype)


EXTRA: dict[str, Row] = {
    "angle": (named("angle"), VECTOR),
    "argpartition": (lambda lib, xp, x, o: xp.take(x, lib.argpartition(x, 2)), VECTOR),
    "atleast_nd": (named("atleast_nd", ndim=3), VECTOR),
    "cov": (named("cov"), MATRIX),
    "deg2rad": (named("deg2rad"), VECTOR),
    "diag_indices": (
        lambda lib, xp, x, o: x[lib.diag_indices(2, ndim=2, xp=xp, device=x.device)],
        SQUARE,
    ),
    "kron": (lambda lib, xp, x, o: lib.kron(x, xp.sin(x)), SQUARE),
    "nan_to_num": (named("nan_to_num"), VECTOR),
    "nanmean": (named("nanmean"), VECTOR),
    "nansum": (named("nansum"), VECTOR),
    "partition": (lambda lib, xp, x, o: lib.partition(x, 2), VECTOR),
    "rad2deg": (named("rad2deg"), VECTOR),
    "sinc": (named("sinc"), VECTOR),
    "tril_indices": (lambda lib, xp, x, o: x[lib.tril_indices(2, xp=xp, device=x.device)], SQUARE),
}
# Right derivatives, but not under vmap: they branch on values, or the size of the result does.
EXTRA_UNBATCHED: dict[str, Row] = {
    "isin": (lambda lib, xp, x, o: as_float(xp, x, lib.isin(x, o)), VECTOR),
    "nanmax": (named("nanmax"), VECTOR),
    "nanmin": (named("nanmin"), VECTOR),
    "nunique": (lambda lib, xp, x, o: as_float(xp, x, lib.nunique(x)), VECTOR),
    "setdiff1d": (lambda lib, xp, x, o: lib.setdiff1d(x, o), VECTOR),
    "union1d": (lambda lib, xp, x, o: lib.union1d(x, o), VECTOR),
}
EXTRA_REFUSED: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "apply_where": (
        lambda lib, xp, x, o: lib.apply_where(x > 0, (x,), lambda a: a * a, lambda a: -a),
        VECTOR,
        IN_PLACE,
    ),
    "at(x, i).set": (lambda lib, xp, x, o: lib.at(x, 0).set(1.0), VECTOR, IN_PLACE),
    "at(x, i).add": (lambda lib, xp, x, o: lib.at(x, 0).add(1.0), VECTOR, IN_PLACE),
    "create_diagonal": (named("create_diagonal"), VECTOR, IN_PLACE),
    "pad": (named("pad", pad_width=2), MATRIX, IN_PLACE),
    "lazy_apply": (lambda lib, xp, x, o: lib.lazy_apply(np.negative, x), VECTOR, "ufuncs"),
}
SIZED_BY_VALUES = ("setdiff1d", "tril_indices", "union1d")

EINOPS: dict[str, Row] = {
    "rearrange": (lambda lib, xp, x, o: lib.rearrange(x, "(a b) -> b 1 a", a=2), VECTOR),
    "reduce": (lambda lib, xp, x, o: lib.reduce(xp.sin(x), "a b -> b", "mean"), MATRIX),
    "repeat": (lambda lib, xp, x, o: lib.repeat(x, "a b -> a (2 b) c", c=3), MATRIX),
    "pack": (lambda lib, xp, x, o: lib.pack([x, xp.sin(x)], "* b")[0], MATRIX),
    "unpack": (lambda lib, xp, x, o: lib.unpack(x, [(2,), ()], "a *")[0], MATRIX),
}

SCIPY: dict[str, Row] = {
    "special.softmax": (named("softmax", axis=1), MATRIX),
    "special.xlogy": (lambda lib, xp, x, o: lib.xlogy(x, x + 1), POSITIVE),
    "stats.circmean": (named("circmean"), POSITIVE),
    "stats.circstd": (named("circstd"), POSITIVE),
    "stats.circvar": (named("circvar"), POSITIVE),
    "stats.describe": (lambda lib, xp, x, o: lib.describe(x).variance, POSITIVE),
    "stats.differential_entropy": (named("differential_entropy"), POSITIVE),
    "stats.directional_stats": (
        lambda lib, xp, x, o: lib.directional_stats(x).mean_direction, MATRIX
    ),
    "stats.gmean": (named("gmean"), POSITIVE),
    "stats.kstat": (named("kstat"), POSITIVE),
    "stats.kurtosis": (named("kurtosis"), POSITIVE),
    "stats.moment": (named("moment", order=3), POSITIVE),
    "stats.sem": (named("sem"), POSITIVE),
    "stats.skew": (named("skew"), POSITIVE),
    "integrate.trapezoid": (named("trapezoid"), POSITIVE),
    "integrate.cumulative_trapezoid": (named("cumulative_trapezoid"), POSITIVE),
    "optimize.rosen": (lambda lib, xp, x, o: lib.rosen(0.1 * x), POSITIVE),
    "fft.fft": (lambda lib, xp, x, o: xp.real(lib.fft(x)), POSITIVE),
    "signal.fftconvolve": (lambda lib, xp, x, o: lib.fftconvolve(x, xp.sin(x)), POSITIVE),
    "spatial.transform.Rotation": (
        lambda lib, xp, x, o: lib.Rotation.from_rotvec(x).as_matrix(), [0.1, 0.2, 0.3]
    ),
}  # fmt: skip
SCIPY_UNBATCHED: dict[str, Row] = {
    "stats.hmean": (named("hmean"), POSITIVE),
    "stats.pmean": (named("pmean", p=2), POSITIVE),
    "stats.tvar": (named("tvar"), POSITIVE),
}
SCIPY_REFUSED = {
    **dict.fromkeys(
        """special.logsumexp special.log_softmax stats.zscore stats.tmean stats.variation stats.iqr
        optimize.rosen_der signal.hilbert cluster.vq.whiten""".split(),
        IN_PLACE,
    ),
    **dict.fromkeys(
        """special.expit special.logit special.entr special.erf special.gammaln special.ndtr
        stats.norm.logpdf stats.entropy stats.mode stats.skewtest integrate.simpson fft.dct
        linalg.inv ndimage.gaussian_filter1d""".split(),
        COMPILED,
    ),
}
# From 1.18 on, its statistics branch on whether there is any NaN, and simpson is the standard's.
with suppress(PackageNotFoundError):
    if tuple(map(int, version("scipy").split(".")[:2])) >= (1, 18):
        BRANCHING = [name for name in SCIPY if name.startswith("stats.")]
        BRANCHING.remove("stats.directional_stats")
        SCIPY_UNBATCHED |= {name: SCIPY.pop(name) for name in BRANCHING}
        SCIPY["integrate.simpson"] = (named("simpson"), POSITIVE)
        del SCIPY_REFUSED["integrate.simpson"]
SETTINGS: dict[str, dict[str, Any]] = {"ndimage.gaussian_filter1d": {"sigma": 1.0}}


class Wrong(AssertionError):
    """A derivative that is not what differences or a loop say."""


def problem(lib: Any, f: Any, at: Any, backend: Backend) -> Callable[[Any], Any]:
    """The function as one of x alone that gives a scalar."""
    xp = tinynn.Namespace(backend.xp)
    other = xp.asarray(backend.asarray(np.asarray([0.35, -0.65, 1.25])))

    def scalar(x: Any) -> Any:
        return xp.sum(xp.sin(f(lib, xp, xp.asarray(x), other)))

    return scalar


def verify(lib: Any, row: Row, backend: Backend, batched: bool = True) -> None:
    """Gradient, Hessian times a vector, and batched gradient against differences and a loop."""
    scalar, gradient = (f := problem(lib, *row, backend)), tinynn.grad(f)
    host = np.asarray(row[1])
    direction = np.random.default_rng(0).normal(size=host.shape)
    x, d = backend.asarray(host), backend.asarray(direction)

    def along(f: Callable[[Any], Any], h: float) -> np.ndarray:
        return read(f(backend.asarray(host + h * direction)), backend)

    def slope(f: Callable[[Any], Any], h: float = 1e-4) -> np.ndarray:
        near, far = along(f, h) - along(f, -h), along(f, 2 * h) - along(f, -2 * h)
        return (8 * near - far) / (12 * h)

    found = read(gradient(x), backend)
    compare("gradient", np.sum(found * direction), slope(scalar))
    compare("hvp", read(tinynn.hvp(scalar, (x,), (d,)), backend), slope(gradient))
    if batched:
        points = [host, host + 0.01 * direction]
        rows = read(tinynn.vmap(gradient)(backend.asarray(np.stack(points))), backend)
        looped = [read(gradient(backend.asarray(point)), backend) for point in points]
        compare("batched gradient", rows, np.stack(looped))


def read(x: Any, backend: Backend) -> np.ndarray:
    return backend.to_host(plain(x))


def compare(what: str, found: Any, expected: Any) -> None:
    size = 1e-3 + np.max(np.abs(expected))
    if not np.max(np.abs(found - expected)) <= 1e-8 * size:
        raise Wrong(f"{what}: {found} is not {expected}")


def reason(lib: Any, f: Any, at: Any, backend: Backend) -> str:
    """What is said when the derivative is asked for; "" if it is given."""
    try:
        tinynn.grad(problem(lib, f, at, backend))(backend.asarray(np.asarray(at)))
    except (TypeError, RuntimeError) as error:
        return str(error)
    return ""


reads_scalars = pytest.mark.reads_scalars  # their code may look at values
# einops hands lists for shapes, which array-api-strict does not take.
takes_lists = pytest.mark.only("numpy", "torch", "jax-x64", "dpnp", "cupy")


@pytest.fixture(autouse=True)
def optional_parts(request: pytest.FixtureRequest) -> None:
    """Skip what needs a part of the standard that is switched off in the variant."""
    arguments = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    strictest = "variant" in arguments and arguments["variant"].id.endswith("strictest")
    if strictest and arguments.get("name") in SIZED_BY_VALUES:
        pytest.skip("shapes that depend on values are off in this variant")


@reads_scalars
@pytest.mark.parametrize("name", [*EXTRA, *EXTRA_UNBATCHED])
def test_array_api_extra(backend: Backend, float64: Any, name: str) -> None:
    if not hasattr(xpx, name):
        pytest.skip(f"array-api-extra {xpx.__version__} has no {name}")
    verify(xpx, (EXTRA | EXTRA_UNBATCHED)[name], backend, batched=name in EXTRA)


@pytest.mark.only("numpy", "torch", "dpnp", "cupy")  # for JAX and others it has other ways
@pytest.mark.parametrize("name", EXTRA_REFUSED)
def test_array_api_extra_is_refused(backend: Backend, float64: Any, name: str) -> None:
    f, at, expected = EXTRA_REFUSED[name]
    assert expected in reason(xpx, f, at, backend)


@takes_lists
@pytest.mark.parametrize("name", EINOPS)
def test_einops(backend: Backend, float64: Any, name: str) -> None:
    lib = pytest.importorskip("einops.array_api", reason="einops is not installed")
    verify(lib, EINOPS[name], backend)


def test_einops_main_functions_know_their_own_libraries_only() -> None:
    lib = pytest.importorskip("einops", reason="einops is not installed")
    f = lambda lib, xp, x, o: lib.rearrange(x, "a b -> b a")  # noqa: E731
    assert UNKNOWN in reason(lib, f, MATRIX, backends.get("numpy"))


@pytest.mark.parametrize("name", [*SCIPY, *SCIPY_UNBATCHED])
def test_scipy(name: str) -> None:
    assert scipy_results()[name] == ""


@pytest.mark.parametrize("name", SCIPY_REFUSED)
def test_scipy_is_refused(name: str) -> None:
    assert SCIPY_REFUSED[name] in scipy_results()[name]


@cache
def scipy_results() -> dict[str, str]:
    pytest.importorskip("scipy", reason="SciPy is not installed")
    command = [sys.executable, "-m", "tests.test_others_code"]
    settings = os.environ | {"SCIPY_ARRAY_API": "1"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    failed = dict.fromkeys([*SCIPY, *SCIPY_UNBATCHED, *SCIPY_REFUSED], done.stderr)
    results: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else failed
    return results


def scipy_function(path: str) -> tuple[Any, str]:
    """Where in SciPy "stats.norm.logpdf" is, and its name there."""
    import scipy

    where, _, name = path.rpartition(".")
    with suppress(ModuleNotFoundError):
        importlib.import_module(f"scipy.{where}")
    importlib.import_module(f"scipy.{where.partition('.')[0]}")
    return attrgetter(where)(scipy), name


def main() -> None:
    backend = backends.get("numpy")
    results = {}
    for path, row in (SCIPY | SCIPY_UNBATCHED).items():
        try:
            verify(scipy_function(path)[0], row, backend, batched=path in SCIPY)
            results[path] = ""
        except Exception as error:
            results[path] = f"{type(error).__name__}: {error}"
    for path in SCIPY_REFUSED:
        lib, name = scipy_function(path)
        at = SQUARE if path.startswith("linalg") else POSITIVE
        results[path] = reason(lib, named(name, **SETTINGS.get(path, {})), at, backend)
    print(json.dumps(results))  # noqa: T201 - the answer to the process that asked


if __name__ == "__main__":
    main()
