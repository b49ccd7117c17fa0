"""What is advised where CUDA cannot be used: each cause told apart, with a command for the driver.

The driver, the installed distributions and the libraries are faked; where there is a device, the
tests of CuPy ask the real ones.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backends
from backends import cuda_driver

ROOT = Path(__file__).parents[1]


class Driver:
    """A driver that runs that CUDA, with so many devices, or one that answers with an error."""

    def __init__(self, version: int, devices: int = 1, error: int = 0) -> None:
        self.version, self.devices, self.error = version, devices, error

    def cuDriverGetVersion(self, pointer: Any) -> int:
        pointer._obj.value = self.version
        return 0

    def cuInit(self, flags: int) -> int:
        return self.error

    def cuDeviceGetCount(self, pointer: Any) -> int:
        pointer._obj.value = self.devices
        return 0


NONE, ELEVEN, TWELVE_4, TWELVE_8, THIRTEEN = 0, 11040, 12040, 12080, 13000


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with that driver and those wheels of CuPy."""
    monkeypatch.setattr(sys, "platform", "linux")

    def make(version: int, *wheels: str, devices: int = 1, error: int = 0) -> None:
        def driver() -> Driver:
            if version == NONE:
                raise OSError("libcuda.so.1: cannot open shared object file")
            return Driver(version, devices, error)

        monkeypatch.setattr(cuda_driver, "_driver", driver)
        monkeypatch.setattr(cuda_driver, "cupy_wheels", lambda: list(wheels))

    return make


def test_the_version_is_the_drivers_own(machine: Callable[..., None]) -> None:
    for number, version in ((NONE, None), (ELEVEN, (11, 4)), (TWELVE_8, (12, 8)), (13020, (13, 2))):
        machine(number)
        assert cuda_driver.driver_version() == version


def test_a_library_of_the_name_that_knows_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "_driver", lambda: Driver(0))  # a stub of the toolkit's
    assert cuda_driver.driver_version() is None


@pytest.mark.parametrize(
    ("settings", "reason", "fix"),
    [
        ({"version": NONE}, "no driver: ", "install NVIDIA's driver"),
        ({"version": ELEVEN}, "driver too old: it is for CUDA 11.4", "install a newer driver"),
        ({"version": THIRTEEN, "devices": 0}, "no device: ", "CUDA_VISIBLE_DEVICES"),
        ({"version": THIRTEEN, "error": 100, "devices": 0}, "no device: ", "nvidia-smi"),
        ({"version": THIRTEEN, "error": 803}, "CUDA does not start: ", "nvidia-smi"),
    ],
)
def test_what_no_library_can_help(
    machine: Callable[..., None], settings: dict[str, int], reason: str, fix: str
) -> None:
    machine(**settings)
    told = cuda_driver.problem()
    assert told is not None
    assert told[0].startswith(reason)
    assert fix in told[1]
    failed = RuntimeError("cudaErrorInsufficientDriver")
    assert cuda_driver.why_cupy_fails(failed, 13000) == told
    assert cuda_driver.why_torch_has_no_cuda("2.13.0", "13.0") == told
    assert cuda_driver.why_jax_has_no_cuda([13]) == told


def test_nothing_is_wrong_where_the_driver_has_a_device(machine: Callable[..., None]) -> None:
    machine(THIRTEEN)
    assert cuda_driver.problem() is None


def test_a_system_that_has_no_cuda(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(NONE)
    monkeypatch.setattr(sys, "platform", "darwin")
    told = cuda_driver.problem()
    assert told is not None
    assert "macOS has no CUDA" in told[0]


@pytest.mark.parametrize(
    ("version", "extra"),
    [(TWELVE_4, "cupy12"), (TWELVE_8, "cupy12"), (THIRTEEN, "cupy13"), (14000, "cupy13")],
)
def test_cupys_extra_follows_the_driver(
    machine: Callable[..., None], version: int, extra: str
) -> None:
    machine(version)
    assert cuda_driver.install_cupy() == f'pip install "tinynn-xp[{extra}]"'


def test_cupy_without_a_driver_wants_that_first(machine: Callable[..., None]) -> None:
    machine(NONE)
    told = cuda_driver.install_cupy()
    assert told.startswith("install NVIDIA's driver")
    assert told.endswith('then pip install "tinynn-xp[cupy13]"')


def test_cupys_other_wheels_are_taken_out_first(machine: Callable[..., None]) -> None:
    machine(THIRTEEN, "cupy-cuda11x")
    out = "pip uninstall -y cupy-cuda11x && "
    assert cuda_driver.install_cupy() == f'{out}pip install "tinynn-xp[cupy13]"'
    machine(NONE, "cupy-cuda11x", "cupy-cuda12x")
    told = cuda_driver.cupy_conflict()
    assert told is not None
    assert told[1].startswith("install NVIDIA's driver")
    assert ", then pip uninstall -y cupy-cuda11x cupy-cuda12x && pip install" in told[1]


def test_a_wheel_for_a_newer_cuda_than_the_drivers(machine: Callable[..., None]) -> None:
    machine(TWELVE_4, "cupy-cuda13x")
    error = RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
    assert cuda_driver.why_cupy_fails(error, 13020) == (
        "driver too old: it is for CUDA 12.4, CuPy for CUDA 13.2",
        'pip uninstall -y cupy-cuda13x && pip install "tinynn-xp[cupy12]"',
    )


def test_a_driver_that_cupy_does_not_start_on(machine: Callable[..., None]) -> None:
    machine(THIRTEEN, "cupy-cuda13x")
    reason, fix = cuda_driver.why_cupy_fails(RuntimeError("cudaErrorUnknown: odd"), 13000)
    assert "does not start: cudaErrorUnknown: odd" in reason
    assert "nvidia-smi" in fix
    reason, fix = cuda_driver.why_cupy_fails(RuntimeError("cudaErrorInsufficientDriver"), 13020)
    assert reason.startswith("driver too old")
    assert "newer driver" in fix


def test_cupy_without_its_toolkit(machine: Callable[..., None]) -> None:
    error = RuntimeError('x.cu(1): cannot open source file "vector_types.h"\n\n')
    machine(THIRTEEN, "cupy-cuda13x")
    reason, fix = cuda_driver.why_cupy_compiles_nothing(error)
    assert reason.startswith("no toolkit: ")
    assert "vector_types.h" in reason
    assert fix == 'pip install "cupy-cuda13x[ctk]"'
    machine(THIRTEEN, "cupy")  # conda's
    assert "CUDA_PATH" in cuda_driver.why_cupy_compiles_nothing(error)[1]


@pytest.mark.parametrize(
    ("version", "index"), [(TWELVE_4, "cu126"), (TWELVE_8, "cu128"), (THIRTEEN, "cu130")]
)
def test_pytorchs_index_follows_the_driver(
    machine: Callable[..., None], version: int, index: str
) -> None:
    machine(version)
    reason, fix = cuda_driver.why_torch_has_no_cuda("2.13.0+cpu", None)
    assert reason == "wrong version: PyTorch 2.13.0+cpu is built without CUDA"
    again = f"pip install torch --index-url https://download.pytorch.org/whl/{index}"
    assert fix == f"pip uninstall -y torch && {again}"


def test_pytorch_for_another_cuda(machine: Callable[..., None]) -> None:
    machine(TWELVE_4)
    reason, fix = cuda_driver.why_torch_has_no_cuda("2.11.0+cu130", "13.0")
    assert reason == "driver too old: it is for CUDA 12.4, PyTorch for CUDA 13.0"
    assert fix.endswith("/cu126")
    assert cuda_driver.why_torch_has_no_cuda("2.11.0+cu126", "12.6")[0].startswith("no device: ")


@pytest.mark.parametrize(("version", "extra"), [(TWELVE_4, "cuda12"), (THIRTEEN, "cuda13")])
def test_jaxs_extra_follows_the_driver(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, version: int, extra: str
) -> None:
    machine(version)
    reason, fix = cuda_driver.why_jax_has_no_cuda([])
    assert reason == "wrong version: JAX is installed without its plugin for CUDA"
    assert fix == f'pip install "jax[{extra}]"'


def test_jax_for_another_cuda(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(TWELVE_8)
    assert cuda_driver.why_jax_has_no_cuda([13]) == (
        "driver too old: it is for CUDA 12.8, JAX's plugin for CUDA 13",
        'pip uninstall -y jax-cuda13-plugin jax-cuda13-pjrt && pip install "jax[cuda12]"',
    )
    assert cuda_driver.why_jax_has_no_cuda([12, 13])[0].startswith("no device: ")
    monkeypatch.setattr(sys, "platform", "win32")
    assert "WSL2" in cuda_driver.why_jax_has_no_cuda([])[1]


# From the outside: what `backends` says, in a Python of its own.


def told(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run code with those folders ahead of the rest, then this repository."""
    search = os.pathsep.join(map(str, (*paths, ROOT)))
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": search},
        cwd=paths[0],
        check=False,
    )


def distribution(folder: Path, name: str) -> None:
    information = folder / f"{name.replace('-', '_')}-14.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 14.0\n")


ASK = """
import sys
import backends
from backends import cuda_driver
class Driver:
    def cuDriverGetVersion(self, p): p._obj.value = 12040; return 0
    def cuDeviceGetCount(self, p): p._obj.value = 1; return 0
    def cuInit(self, flags): return 0
cuda_driver._driver, sys.platform = Driver, "linux"
status = next(status for status in backends.available() if status.name == "cupy")
print(status.reason, status.fix, sep="|")
"""


def test_two_wheels_of_cupy_are_found_before_either_is_imported(tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise SystemExit('imported')")
    for name in ("cupy-cuda11x", "CuPy-CUDA13x", "cupy-xarray"):
        distribution(tmp_path, name)
    code = "import sys; from importlib import metadata; here = metadata.distributions\n"
    code += f"metadata.distributions = lambda: here(path=[{str(tmp_path)!r}])\n"  # not one's own
    done = told(code + ASK, tmp_path)
    assert done.stdout.strip() == (
        "two wheels of one library: cupy-cuda11x and cupy-cuda13x write over each other's files|"
        'pip uninstall -y cupy-cuda11x cupy-cuda13x && pip install "tinynn-xp[cupy12]"'
    ), done.stderr


def test_a_cupy_that_is_too_old(tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("__version__ = '13.6'")
    distribution(tmp_path, "cupy-cuda11x")
    code = "from importlib import metadata; here = metadata.distributions\n"
    code += f"metadata.distributions = lambda: here(path=[{str(tmp_path)!r}])\n"
    code += "import sys, types; module = types.ModuleType('backends.cupy')\n"
    code += "import cupy; sys.modules['backends.cupy'] = module\n"
    code += "module.CuPy = types.SimpleNamespace(minimum='14.0')\n"
    done = told(code + ASK, tmp_path)
    assert done.stdout.strip() == (
        "wrong version: 13.6 is installed, 14.0 or newer is needed|"
        'pip uninstall -y cupy-cuda11x && pip install "tinynn-xp[cupy12]"'
    ), done.stderr


def test_cupy_that_is_not_installed(tmp_path: Path) -> None:
    code = "import sys; sys.modules['cupy'] = None\n"
    code += "from importlib import metadata; metadata.distributions = lambda: []\n"
    done = told(code + ASK, tmp_path)
    expected = 'not installed|pip install "tinynn-xp[cupy12]"'
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.only("cupy")
def test_cupy_where_no_device_is_visible(backend: backends.Backend, tmp_path: Path) -> None:
    code = "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''\nimport backends\n"
    code += "print(next(s for s in backends.available() if s.name == 'cupy').reason)"
    done = told(code, tmp_path)
    assert done.stdout.strip() == "no device: CUDA finds no GPU", done.stderr


@pytest.mark.only("cupy")
def test_cupy_whose_compiler_is_missing(
    backend: backends.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    from backends.cupy import _compile_one

    def zeros(*shape: int) -> Any:
        raise RuntimeError("CuPy failed to load libnvrtc.so.12: OSError: libnvrtc.so.12")

    _compile_one.cache_clear()
    monkeypatch.setattr(cupy, "zeros", zeros)
    with pytest.raises(backends.BackendUnavailable, match=r"no toolkit: .*libnvrtc.*\[ctk\]"):
        backends.get("cupy")
    monkeypatch.undo()
    assert backends.get("cupy").name == "cupy"


# Another package of our names.


def test_another_package_called_backends(tmp_path: Path) -> None:
    (tmp_path / "backends").mkdir()
    found = tmp_path / "backends" / "__init__.py"
    found.write_text("__version__ = '9'\n")
    done = told("import tinynn", tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: tinynn: expected the package backends of the distribution")
    assert f"found {found}" in last
    assert "To fix it: run python -m pip uninstall backends" in last


def test_a_bare_folder_called_backends_does_not_hide_ours(tmp_path: Path) -> None:
    (tmp_path / "backends").mkdir()
    done = told("import tinynn; print(tinynn.__version__)", tmp_path)
    assert done.returncode == 0, done.stderr


def test_backends_needs_no_tinynn(tmp_path: Path) -> None:
    (tmp_path / "tinynn.py").write_text("raise SystemExit('another tinynn')")
    done = told("import backends; print(backends.get('numpy'))", tmp_path)
    assert done.stdout.strip() == "numpy:cpu", done.stderr
