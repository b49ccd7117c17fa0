"""Every check that this machine can run: `nox`. The short round: `nox -t quick`.

Each session has an environment of its own, filled from pyproject's dependency groups. Arguments
after `--` go to pytest: `nox -s torch -- -k dropout`.
"""

import ctypes
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

PYPROJECT = nox.project.load_toml("pyproject.toml")
OTHERS = ("array_api_strict", "torch", "jax", "dpnp", "cupy")
# Small arrays gain nothing from threads, and the workers of pytest-xdist share the cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def install(session: nox.Session, *groups: str) -> None:
    """Install tinynn, editable, in one resolution with the named dependency groups."""
    session.install("-e", ".", *nox.project.dependency_groups(PYPROJECT, *groups))


def run_tests(session: nox.Session, library: str, *paths: str) -> None:
    """The suite on every variant of one library; `tests` unless paths are given."""
    parallel = ("-n", "logical", "--maxprocesses", "8")
    # dpnp compiles each kernel when it is first used, for up to a second: once for all workers.
    kernels = {"SYCL_CACHE_PERSISTENT": "1", "SYCL_CACHE_DIR": session.create_tmp()}
    arguments = session.posargs or paths
    session.run("pytest", "--backend", library, *parallel, *arguments, env=ONE_THREAD | kernels)


@nox.session(tags=["quick", "tests"])
def numpy(session: nox.Session) -> None:
    """The suite on NumPy, and what needs one backend only: command line, README, doctests."""
    install(session, "test", "numpy")
    # The files of libraries that are not installed here cannot be imported for their examples.
    absent = [f"--ignore=backends/{name}.py" for name in OTHERS]
    run_tests(session, "numpy", "--doctest-modules", *absent, "tests", "tinynn", "backends")


@nox.session(tags=["quick", "tests"])
def array_api_strict(session: nox.Session) -> None:
    """The suite on array-api-strict: other devices, no float64, strictest flags."""
    install(session, "test", "array_api_strict")
    run_tests(session, "array_api_strict")


@nox.session(tags=["tests"])
def torch(session: nox.Session) -> None:
    """The suite on PyTorch's CPU."""
    install(session, "test", "torch")
    run_tests(session, "torch")


@nox.session(tags=["tests"])
def jax(session: nox.Session) -> None:
    """The suite on JAX's CPU, with and without x64."""
    install(session, "test", "jax")
    run_tests(session, "jax")


@nox.session(tags=["tests"])
def dpnp(session: nox.Session) -> None:
    """The suite on dpnp's CPU."""
    install(session, "test", "dpnp")
    run_tests(session, "dpnp")


@nox.session(tags=["tests"])
def cupy(session: nox.Session) -> None:
    """The suite on CuPy, where there is a CUDA device."""
    if reason := no_cuda():
        session.skip(f"CuPy is not tested on this machine: {reason}")
    install(session, "test", "cupy")
    run_tests(session, "cupy")


@nox.session
def lint(session: nox.Session) -> None:
    """Lint, and the format of every file."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types of tinynn and backends."""
    install(session, "types")
    session.run("mypy")


@nox.session(reuse_venv=False)  # pip takes a rebuilt wheel of the same version for the old one
def wheel(session: nox.Session) -> None:
    """The wheel holds the two typed packages and nothing else, and works far from the tree."""
    folder = Path(session.create_tmp()).resolve()
    session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), ".")
    (built,) = folder.glob("*.whl")
    names = [name for name in zipfile.ZipFile(built).namelist() if ".dist-info/" not in name]
    roots = {name.partition("/")[0] for name in names}
    if roots != {"tinynn", "backends"} or not built.name.endswith("-py3-none-any.whl"):
        session.error(f"{built.name} holds {sorted(roots)}, not tinynn and backends alone")
    if missing := {"tinynn/py.typed", "backends/py.typed"} - set(names):
        session.error(f"{built.name} lacks {sorted(missing)}")
    if stray := [name for name in names if not name.endswith((".py", "/py.typed"))]:
        session.error(f"{built.name} holds {stray}, which is not source")
    session.install(str(built))
    session.chdir(folder)
    session.run("tinynn", "--version")
    session.run("tinynn", "backends")


@nox.session(default=False)
def minimums(session: nox.Session) -> None:
    """The suite on NumPy with the oldest dependencies that pyproject allows."""
    install(session, "test", "numpy", "array_api_strict", "minimums")
    run_tests(session, "numpy,array_api_strict", "tests")


def no_cuda() -> str:
    """Why CUDA cannot be used here; empty where it can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no CUDA driver (libcuda.so.1) is installed"
    count = ctypes.c_int(0)
    if (code := driver.cuInit(0)) or (code := driver.cuDeviceGetCount(ctypes.byref(count))):
        return f"the CUDA driver finds no device (its error {code})"
    return "" if count.value else "the CUDA driver finds no device"
