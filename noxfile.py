"""Every check that this machine can run: `nox`. The short round: `nox -t quick`.

Each session has an environment of its own, filled from pyproject's dependency groups. Arguments
after `--` go to pytest: `nox -s torch -- -k dropout`.
"""

import ctypes
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"


def quickest() -> str:
    """uv, which fills an environment in seconds, where it reaches its index; else venv and pip.

    pip takes most of a minute, and may have been told of an index or certificates that uv is not.
    """
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    if not uv:
        return "venv"
    ask = "pip install --dry-run --no-cache --no-deps --reinstall iniconfig --python".split()
    try:
        subprocess.run([uv, *ask, sys.executable], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "venv"
    return "uv"


nox.options.default_venv_backend = quickest()

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # sources are compiled once, not by every worker

PYPROJECT = nox.project.load_toml("pyproject.toml")
PAGES = ("page.html", "page.css", "page.js", "picture.css")  # of tinynn/explanation
SUITE = "https://github.com/data-apis/array-api-tests"
SUITE_COMMIT = "55fcc60179efa2680ddd6cd926ddf17b83530e2b"
OTHERS = ("array_api_strict", "torch", "jax", "dpnp", "cupy")
SOURCES = (".py", "/py.typed")  # all that a wheel holds
BY_PIP = "venv"  # which may be set to find PyTorch's wheels for the CPU; uv reads no such setting
# Small arrays gain nothing from threads, and the workers of pytest-xdist share the cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def install(session: nox.Session, *groups: str) -> None:
    """Install tinynn, editable, in one resolution with the named dependency groups."""
    packages = ("-e", ".[cli]", *nox.project.dependency_groups(PYPROJECT, *groups))
    # As pip does by itself: else each of the workers compiles what it imports.
    session.install(*packages, env={"UV_COMPILE_BYTECODE": "1"})


# XLA compiles a function in half the time then. XLA_FLAGS in the environment is taken instead.
QUICK_XLA = " ".join(
    """--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
    --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1""".split()
)


def run_parallel(session: nox.Session, *command: str, env: dict[str, str] | None = None) -> None:
    """Run pytest, or what passes its arguments on to pytest, on all cores."""
    # dpnp, JAX and LLVM compile what they have not met before; what they keep serves every worker.
    kept = session.create_tmp()
    compiled = {
        "PYTHONUTF8": "1",  # the files that tests read are, on Windows as well
        "SYCL_CACHE_PERSISTENT": "1",
        "SYCL_CACHE_DIR": kept,
        "SYCL_PROGRAM_COMPILE_OPTIONS": "-cl-opt-disable",  # a third of the time
        "TINYNN_CACHE": kept,
        "JAX_COMPILATION_CACHE_DIR": kept,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", QUICK_XLA),
    }
    parallel = ("-n", "logical", "--maxprocesses", "8", "--dist", "worksteal")
    env = ONE_THREAD | compiled | (env or {})
    session.run(*command, *parallel, "--durations=15", env=env)


def run_tests(session: nox.Session, library: str, *paths: str) -> None:
    """The suite on every variant of one library; `tests` unless paths are given."""
    run_parallel(session, "pytest", "--backend", library, *(session.posargs or paths))


@nox.session(tags=["quick", "tests"])
def numpy(session: nox.Session) -> None:
    """The suite on NumPy, and what needs one backend only: command line, README, doctests."""
    install(session, "test", "numpy")
    # The files of libraries that are not installed here cannot be imported for their examples.
    absent = [f"--ignore-glob=backends/{name}*.py" for name in OTHERS]
    absent += ["--ignore=tests/sharding.py"]
    run_tests(session, "numpy", "--doctest-modules", *absent, "tests", "tinynn", "backends")


@nox.session(tags=["quick", "tests"])
def array_api_strict(session: nox.Session) -> None:
    """The suite on array-api-strict: other devices, no float64, strictest flags."""
    install(session, "test", "array_api_strict")
    run_tests(session, "array_api_strict")


@nox.session(tags=["tests"], venv_backend=BY_PIP)
def torch(session: nox.Session) -> None:
    """The suite on PyTorch's CPU, and `gloo`, whose environment takes minutes to be filled."""
    install(session, "test", "torch")
    try:
        run_tests(session, "torch")
    finally:
        if not session.posargs:
            in_processes(session, "gloo")


@nox.session(tags=["tests"])
def jax(session: nox.Session) -> None:
    """The suite on JAX's CPU, with and without x64, and `sharding`, in the same environment."""
    install(session, "test", "jax")
    try:
        run_tests(session, "jax")
    finally:
        if not session.posargs:
            sharding(session)


@nox.session(tags=["tests"])
def dpnp(session: nox.Session) -> None:
    """The suite on dpnp's CPU."""
    install(session, "test", "dpnp")
    run_tests(session, "dpnp")


@nox.session(tags=["tests"])
def cupy(session: nox.Session) -> None:
    """The suite on CuPy: on a CUDA device, else on an emulated one that runs CuPy's own code."""
    emulate = cupy_device(session)
    install(session, "test", "cupy" if emulate else "cupy_toolkit")
    run_parallel(session, *emulate, "pytest", "--backend", "cupy", *(session.posargs or ("tests",)))


@nox.session(default=False)
def programs(session: nox.Session) -> None:
    """Thousands of drawn programs, by every engine; `-- 5000:8000 cupy`: their seeds, a library."""
    drawn, library = (*session.posargs, *("0:3000", "numpy")[len(session.posargs) :])
    emulate = cupy_device(session) if library == "cupy" else ()
    install(session, "test", "cupy_toolkit" if library == "cupy" and not emulate else library)
    drawn_in = ("programs", "engine_programs", "drawn_programs", "drawn_many")
    files = [f"tests/test_{name}.py" for name in drawn_in]
    env = {"TINYNN_PROGRAMS": drawn}
    run_parallel(session, *emulate, "pytest", "--backend", library, *files, env=env)


@nox.session(default=False)
def drawn_layers(session: nox.Session) -> None:
    """Every layer against torch.nn, `-- 500` draws of each kind, and JAX; by every engine."""
    install(session, "test", "numpy", "torch", "jax", "dpnp")
    env = {"TINYNN_DRAWN": (session.posargs or ("60",))[0]}
    tests = "--backend=numpy,torch,jax,dpnp tests/test_drawn_layers.py tests/test_every_layer.py"
    run_parallel(session, "pytest", *tests.split(), env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Lint, the format of every file, and what the workflows allow."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("zizmor", "--offline", "--quiet", ".github")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types of tinynn and backends."""
    install(session, "types")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, without a warning; its notebooks run, every public name is there."""
    install(session, "test", "docs")
    session.run("python", "-m", "tests.notebooks", "--check", env=ONE_THREAD)
    # Anew: pages that have not changed would not repeat their warnings.
    build_site(session, "html", "--fresh-env", "--write-all")
    session.run("pytest", "--backend", "numpy", "tests/test_site.py")


@nox.session(default=False)
def linkcheck(session: nox.Session) -> None:
    """The links of the site that lead to other hosts; skipped where there is no network."""
    try:
        socket.create_connection(("data-apis.org", 443), timeout=10).close()
    except OSError as error:
        session.skip(f"links cannot be followed: there is no way to data-apis.org ({error})")
    install(session, "docs")
    build_site(session, "linkcheck")


@nox.session
def pages(session: nox.Session) -> None:
    """Pages in a browser: nothing scrolls sideways, fails or needs a network, light and dark."""
    chromium(session)
    install(session, "test", "docs", "pages")
    build_site(session, "html")
    run_tests(session, "numpy", "tests/pages")


def build_site(session: nox.Session, builder: str, *more: str) -> None:
    """Build what docs/ holds into docs/_build; a warning is an error."""
    options = ("--fail-on-warning", "--keep-going", "--quiet", "--jobs", "auto", *more)
    session.run("python", "-m", "sphinx", *options, "-b", builder, "docs", f"docs/_build/{builder}")


@nox.session
def dist(session: nox.Session) -> None:
    """Wheel and sdist hold what they should, read well on the index, and work far from the tree.

    A folder after `--` keeps both, for the release workflow.
    """
    session.install(*nox.project.dependency_groups(PYPROJECT, "dist"))
    folder = Path(*session.posargs or [session.create_tmp()]).resolve()
    for old in (*folder.glob("*.whl"), *folder.glob("*.tar.gz")):
        old.unlink()
    # The README's links are checked as well, so they need some repository to go to.
    repository = os.environ.get("TINYNN_REPOSITORY") or "https://repository.example/tinynn"
    build = ("python", "-m", "build", "--outdir", str(folder))  # the wheel from the sdist
    session.run(*build, env={"TINYNN_REPOSITORY": repository}, silent=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    session.run("cffconvert", "--validate", "--infile", "CITATION.cff")
    for fault in (*faults_of_wheel(wheel), *faults_of_sdist(session, sdist)):
        session.error(fault)
    for built in (sdist, wheel):
        use_installed(session, built)


def faults_of_wheel(wheel: Path) -> Iterator[str]:
    """What is wrong with the content of the wheel, or with the page that the index makes of it."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        page = archive.read(metadata).decode()
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    roots = {name.partition("/")[0] for name in names}
    if roots != {"tinynn", "backends"} or not wheel.name.endswith("-py3-none-any.whl"):
        yield f"{wheel.name} holds {sorted(roots)}, not tinynn and backends alone"
    if missing := {"tinynn/py.typed", "backends/py.typed"} - set(names):
        yield f"{wheel.name} lacks {sorted(missing)}"
    # What `explain` puts into the pages and pictures that it writes.
    pages = {f"tinynn/explanation/{kind}" for kind in PAGES}
    if missing := pages - set(names):
        yield f"{wheel.name} lacks {sorted(missing)}"
    if stray := [name for name in names if not name.endswith(SOURCES) and name not in pages]:
        yield f"{wheel.name} holds {stray}, which is not source"
    if dead := re.findall(r"\]\((?!https://|#)[^)]*\)|(?:src|href)=\"(?!https://|#)[^\"]*\"", page):
        yield f"on the index these links of the README lead nowhere: {dead}"
    if "\nProject-URL: Source, https://" not in page:
        yield f"{wheel.name} does not say where its repository is"


def faults_of_sdist(session: nox.Session, sdist: Path) -> Iterator[str]:
    """What the sdist holds beside the files under version control, or lacks of them."""
    try:
        listed = session.run("git", "ls-files", "-z", external=True, silent=True)
    except CommandFailed:
        session.warn("git does not say which files are the project's: the sdist is not compared")
        return
    tracked = {name for name in str(listed).split("\0") if name and Path(name).is_file()}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()} - {"PKG-INFO"}
    if stray := names - tracked:
        yield f"{sdist.name} holds {sorted(stray)}, not under version control"
    if missing := tracked - names:
        yield f"{sdist.name} lacks {sorted(missing)}"


def use_installed(session: nox.Session, built: Path) -> None:
    """Install it into an environment of its own, and use it there: as a library, then whole."""
    home = Path(session.create_tmp()).resolve() / f"from-{built.suffix[1:]}"
    session.run("python", "-m", "venv", "--clear", str(home))
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python, tinynn = str(scripts / "python"), str(scripts / "tinynn")
    with session.chdir(home):
        session.run(python, "-m", "pip", "install", "--quiet", str(built), external=True)
        # Alone it is a library: the script says what the command line takes.
        said = session.run(tinynn, "--version", external=True, success_codes=[1], silent=True)
        if not said or said.count("\n") > 1 or 'pip install "tinynn-xp[cli]"' not in said:
            session.error(f"without the extra the script says {said!r}, not how to install it")
        session.run(python, "-c", "import tinynn; tinynn.fit", external=True)
        session.run(python, "-m", "pip", "install", "--quiet", f"{built}[cli]", external=True)
        train = ("train", "xor", "--epochs", "500", "--out", "xor.safetensors")
        explain = ("explain", "xor", "--page", "xor.html", "--picture", "xor.svg")
        for command in (("--version",), ("backends",), explain, train):
            session.run(tinynn, *command, external=True)


@nox.session(default=False, venv_backend=BY_PIP)
def coverage(session: nox.Session) -> None:
    """The lines and branches that the suites of NumPy, array-api-strict and PyTorch run."""
    measured = ("numpy", "array_api_strict", "torch")
    install(session, "test", "coverage", *measured)
    session.run("coverage", "erase")
    pytest = ("pytest", "--backend", ",".join(measured), *session.posargs)
    run_parallel(session, "coverage", "run", "-m", *pytest)
    session.run("coverage", "combine", "--quiet")
    others = ",".join(f"backends/{name}*" for name in OTHERS if name not in measured)
    report = ("coverage", "report", f"--omit={others}")
    session.run(*report)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        table = session.run(*report, "--format=markdown", silent=True)
        with open(summary, "a", encoding="utf-8") as file:
            file.write(f"## Coverage\n{table}\n")


@nox.session(default=False)
def minimums(session: nox.Session) -> None:
    """The suite on NumPy with the oldest dependencies that pyproject allows."""
    install(session, "test", "numpy", "array_api_strict", "minimums")
    run_tests(session, "numpy,array_api_strict", "tests")


@nox.session(default=False, venv_backend=BY_PIP)
@nox.parametrize("library", ("numpy", *OTHERS))
def conformance(session: nox.Session, library: str) -> None:
    """No test of the Array API's public suite fails but for a fault of the library itself."""
    suite = array_api_tests(session)
    emulate = cupy_device(session) if library == "cupy" else ()
    install(session, "test", "cupy_toolkit" if library == "cupy" and not emulate else library)
    session.install("-r", str(suite / "requirements.txt"))
    arguments = session.posargs or ("--max-examples", "20")
    compare = ("python", "-m", "tests.conformance", str(suite), library)
    run_parallel(session, *emulate, *compare, *arguments)


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """A thousand kills of runs that write checkpoints: each run ends with the bits of one alone."""
    install(session, "test", "numpy")
    session.run("python", "-m", "tests.faults", *session.posargs, env=ONE_THREAD)


@nox.session(default=False)
def endurance(session: nox.Session) -> None:
    """A day in small: millions of steps, thousands of fits; memory, handles and pace as before."""
    install(session, "test", "numpy")
    session.run("python", "-m", "tests.endurance", *session.posargs, env=ONE_THREAD)


@nox.session
def mpi(session: nox.Session) -> None:
    """Training in processes that mpiexec starts: the losses of one, and no hang when one dies."""
    install(session, "test", "mpi")
    in_processes(session, "mpi")


@nox.session(default=False, venv_backend=BY_PIP)
def gloo(session: nox.Session) -> None:
    """Training in processes that torchrun starts."""
    install(session, "test", "torch")
    in_processes(session, "gloo")


# Of tests that might wait forever: where they wait is shown, and the session ends.
NO_HANG = ("-o", "faulthandler_timeout=400", "-o", "faulthandler_exit_on_timeout=true")


def in_processes(session: nox.Session, launcher: str) -> None:
    """Tests of several processes, which end themselves and those that they start in time."""
    tests = ("tests/processes.py", "tests/processes_examples.py", "tests/processes_network.py")
    pytest = ("pytest", "--backend", "numpy", *tests, *NO_HANG, "--durations=5")
    session.run(*pytest, *(session.posargs or ("-k", launcher)), env=ONE_THREAD)


@nox.session(default=False)
def sharding(session: nox.Session) -> None:
    """Training on JAX's arrays that lie over four devices of the host."""
    install(session, "test", "jax")
    tests = ("pytest", "--backend", "numpy", "tests/sharding.py", *NO_HANG, "--durations=5")
    env = ONE_THREAD | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", QUICK_XLA)}
    session.run(*tests, *session.posargs, env=env)


@nox.session(default=False)
def search_backends(session: nox.Session) -> None:
    """Searches over estimators in the processes of joblib's loky, of Dask and of Ray."""
    install(session, "test", "search_backends")
    session.run("pytest", "--backend", "numpy", "tests/search_backends.py", env=ONE_THREAD)


@nox.session(default=False, venv_backend=BY_PIP)
def peers(session: nox.Session) -> None:
    """The answers of JAXopt, optax, laplace-torch, GPyTorch, MAPIE on the same problems."""
    install(session, "test", "numpy", "torch", "jax", "peers")
    session.run(*"python -m pip uninstall --yes torchvision".split())  # made for CUDA's PyTorch
    session.run("pytest", "tests/test_peers.py", "--backend=numpy", env={"TINYNN_PEERS": "1"})


BENCHMARKS = """
    eager compiled compile_time activations elementary tables sklearn_estimators small_data
    onnx_latency latency recurrent convolutional transformer on_their_arrays memory
    larger_than_memory streamed_answers many_networks importing coverage compression
"""


@nox.session(default=False, venv_backend=BY_PIP)
def bench(session: nox.Session) -> None:
    """What gradients and training steps cost beside others: the tables of benchmarks/README.md."""
    install(session, "numpy", "torch", "jax")
    session.install("autograd", "mygrad", "skorch", "equinox", "optax")
    for name in BENCHMARKS.split():
        env = {} if name == "many_networks" else ONE_THREAD  # it uses all cores
        given = session.posargs if name == "compiled" else ()
        session.run("python", f"benchmarks/{name}.py", *given, env=env)


@nox.session(default=False)
def bench_regression(session: nox.Session) -> None:
    """No small work takes 1.15 times what it took at the last release, or at `-- COMMIT`."""
    session.install("-e", ".[cli,loops]")
    session.run("python", "benchmarks/regression.py", *session.posargs, env=ONE_THREAD)


@nox.session(default=False, venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Suites, conformance and benchmarks on CUDA, with the libraries of this interpreter."""
    session.run("python", "-m", "tests.gpu", *session.posargs)


def chromium(session: nox.Session) -> None:
    """Say which Chromium shows the pages; skip the session where none is."""
    found = session.run("python", "-m", "tests.browser", success_codes=[0, 1], silent=True)
    if not Path(said := str(found).strip()).exists():
        session.skip(said)
    session.log(f"the browser is {said}")


def array_api_tests(session: nox.Session) -> Path:
    """The public suite: the folder that ARRAY_API_TESTS names, or a clone at a known commit."""
    if folder := os.environ.get("ARRAY_API_TESTS"):
        return Path(folder).resolve()
    suite = session.cache_dir.resolve() / f"array-api-tests-{SUITE_COMMIT[:8]}"
    git = ("git", "-C", str(suite))
    try:
        if not suite.exists():
            session.run("git", "clone", "--quiet", SUITE, str(suite), external=True)
        session.run(*git, "checkout", "--quiet", SUITE_COMMIT, external=True)
        session.run(*git, "submodule", "--quiet", "update", "--init", external=True)
    except CommandFailed:
        session.skip(f"no ARRAY_API_TESTS=folder, and {SUITE} cannot be cloned")
    return suite


def cupy_device(session: nox.Session) -> tuple[str, ...]:
    """What starts a command that uses CuPy: nothing on a CUDA device, else tests/cudacpu."""
    reason = no_cuda()
    if not reason:
        session.log("CuPy runs on this machine's CUDA device")
        return ()
    session.log(f"CuPy runs on the emulated CUDA device of tests/cudacpu: {reason}")
    if not (platform.system() == "Linux" and platform.machine() == "x86_64"):
        session.skip("the emulated CUDA device needs Linux on x86-64")
    if not has_gcc():
        session.log("there is no g++ from 12 on: the compiler is Zig, from the package index")
        session.install("ziglang>=0.14")
    # What is built and compiled is kept from one run to the next, for every session.
    session.env["CUDACPU_CACHE"] = str(session.cache_dir.resolve() / "cudacpu")
    session.env["CUDACPU_DEVICES"] = "2"  # the second is there for the tests of several
    return ("python", "-m", "tests.cudacpu")


def has_gcc() -> bool:
    """Whether the g++ that tests/cudacpu would choose is here."""
    if os.environ.get("CUDACPU_CXX"):
        return True
    try:
        version = subprocess.check_output(["g++", "-dumpversion"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return int(version.partition(".")[0]) >= 12


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
