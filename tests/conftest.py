"""Every test that takes `backend`, `xp` or `device` runs on every variant that was asked for."""

import gc
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.checks")

import backends  # noqa: E402 - the module above has to be registered before it is imported
from tests.cases import without_combinations  # noqa: E402
from tests.cudacpu import counters  # noqa: E402
from tests.transfers import Transfers, watch  # noqa: E402
from tests.variants import COMPILING, Variant, compile_quickly, requested  # noqa: E402

# Fixtures here hold no state between examples; and one seed, so that a red run can be repeated.
settings.register_profile(
    "tinynn",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile("compiling", settings.get_profile("tinynn"), max_examples=8)
settings.load_profile("tinynn")

VARIANTS = pytest.StashKey[list[Variant]]()
TRANSFERS = pytest.StashKey[Transfers]()
MARKERS = (
    "only(*names): run on these libraries or variants alone; elsewhere the test is deselected",
    "reads_scalars: tinynn may read single numbers (float, int, bool of a 0-d array) in this test",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="library, variant or library:device to test; repeat it or give a comma list "
        "(default: numpy,array_api_strict)",
    )
    parser.addoption(
        "--all-cases",
        action="store_true",
        help="all combinations of parameters on the libraries that compile, too",
    )


def pytest_configure(config: pytest.Config) -> None:
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    names = [name for given in config.getoption("--backend") for name in given.split(",")]
    config.stash[VARIANTS] = requested(names)
    for variant in config.stash[VARIANTS]:
        try:
            backends.get(variant.spec)
        except (backends.BackendUnavailable, ValueError) as error:
            # Asked for and missing is a mistake to be told of, never a reason to skip.
            raise pytest.UsageError(f"--backend {variant.id}: {error}") from error
    if any(variant.library == "jax" for variant in config.stash[VARIANTS]):
        compile_quickly()
    if all(variant.library in COMPILING for variant in config.stash[VARIANTS]):
        settings.load_profile("compiling")


def pytest_report_header(config: pytest.Config) -> str:
    variants = config.stash[VARIANTS]
    line = "backends: " + ", ".join(variant.id for variant in variants)
    if any(variant.library == "cupy" for variant in variants):
        line += " on " + ("the emulated CUDA device" if counters.emulated() else "a CUDA device")
    if not tests_numpy(variants):
        line += "; tests that take no backend are left to a run with numpy"
    return line


def tests_numpy(variants: list[Variant]) -> bool:
    return any(variant.library == "numpy" for variant in variants)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "float_dtype" in metafunc.fixturenames:
        metafunc.parametrize("float_dtype", ["float32", "float64"], indirect=True)
    if "variant" in metafunc.fixturenames:
        chosen: list[Any] = metafunc.config.stash[VARIANTS]
        module = metafunc.module.__name__
        chosen = [row for row in chosen if not row.modules or module in row.modules]
        only = metafunc.definition.get_closest_marker("only")
        if only:
            chosen = [row for row in chosen if {row.id, row.library} & set(only.args)]
        # A test with no variant left is given one that the next hook deselects and counts.
        chosen = chosen or [pytest.param(None, id="none")]
        metafunc.parametrize("variant", chosen, ids=lambda row: row and row.id, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test without a backend runs once: where NumPy is asked for, or what `only` names.

    So a comparison with a library runs in the session that installs it.
    """
    asked = {name for row in config.stash[VARIANTS] for name in (row.id, row.library)}

    def belongs(item: pytest.Item) -> bool:
        if "variant" not in getattr(item, "fixturenames", ()):
            only = item.get_closest_marker("only")
            return bool(asked & set(only.args if only else ("numpy",)))
        return item.callspec.params["variant"] is not None  # type: ignore[attr-defined]

    here = list(filter(belongs, items))
    kept = here if config.getoption("--all-cases") else list(without_combinations(here))
    if len(kept) < len(items):
        known = set(map(id, kept))
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in known])
        items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare the garbage collector ten thousand tests, which live as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # what libraries record and compile is large, and lives long


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how far the emulated CUDA device was found to answer as NumPy does."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    rows = [row for report in reports for name, row in report.user_properties if name == "fidelity"]
    if rows:
        calls, faults, known = (sum(column) for column in zip(*rows, strict=True))
        terminalreporter.write_line(
            f"fidelity of the emulated CUDA device: {calls - faults} of {calls} calls agree with "
            f"NumPy; {known} known differences of CuPy itself"
        )


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[Any]:
    """Fail a test in which data crossed to the host, even if something caught the error."""
    result = yield
    if TRANSFERS in pyfuncitem.stash:
        pyfuncitem.stash[TRANSFERS].check()
    return result


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> Iterator[Variant]:
    """The row of tests/variants.py that this test runs on, with its setting in force."""
    with request.param.setting():
        yield request.param


@pytest.fixture
def backend(variant: Variant) -> backends.Backend:
    """The Backend under test: a library and a device."""
    return backends.get(variant.spec)


@pytest.fixture
def xp(backend: backends.Backend) -> Any:
    """The backend's namespace."""
    return backend.xp


@pytest.fixture
def device(backend: backends.Backend) -> Any:
    """The library's own device object."""
    return backend.device


@pytest.fixture
def float64(backend: backends.Backend) -> Any:
    """float64; a test that takes it is skipped, with the reason, where the device has none."""
    dtypes = backend.dtypes()
    if "float64" not in dtypes:
        pytest.skip(f"{backend!r} has no float64")
    return dtypes["float64"]


@pytest.fixture
def float_dtype(request: pytest.FixtureRequest, backend: backends.Backend) -> Any:
    """float32 and float64 in turn; float64 is skipped, with the reason, where it is missing."""
    dtypes = backend.dtypes()
    if request.param not in dtypes:
        pytest.skip(f"{backend!r} has no {request.param}")
    return dtypes[request.param]


@pytest.fixture
def compiler_of_loops(backend: backends.Backend) -> Any:
    """What compiles explicit loops; a test that takes it is skipped where that is missing."""
    try:
        native = backend.native()
    except backends.BackendUnavailable as error:
        pytest.skip(str(error))
    if native is None:
        pytest.skip(f"{backend!r} has no compiler of loops")
    return native


@pytest.fixture(autouse=True)
def transfers(request: pytest.FixtureRequest) -> Iterator[Transfers | None]:
    """Watch what leaves the backend under test for the host; see tests/transfers.py."""
    if "variant" not in request.fixturenames:
        yield None
        return
    backend: backends.Backend = request.getfixturevalue("backend")
    scalars = request.node.get_closest_marker("reads_scalars") is not None
    with watch(backend, scalars=scalars) as seen:
        request.node.stash[TRANSFERS] = seen
        yield seen


@pytest.fixture
def usual_ctrl_c() -> Iterator[None]:
    """Python's own handler, whatever the parent of this process, or pytest-xdist, has set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
