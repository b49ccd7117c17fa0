"""The CUDA driver of this machine: its version, and what to install for it.

Imports no library: that there is none, or one for another CUDA, is what is to be told here.

References: cuDriverGetVersion, cuInit and cuDeviceGetCount in the CUDA driver API; CuPy's
installation guide; PyTorch's and JAX's tables of CUDA versions.
"""

import ctypes
import re
import sys
from typing import Any

Problem = tuple[str, str]  # the reason, and what fixes it

OLDEST = (12, 0)  # what the oldest wheels of CuPy 14 and of JAX are built for
CHECK = "nvidia-smi, which says what is wrong with the driver"
_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_INSTALL = (
    "install NVIDIA's driver, https://www.nvidia.com/drivers, then run nvidia-smi to check it"
)
_UPDATE = "install a newer driver, https://www.nvidia.com/drivers"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
# PyTorch's index for the newest CUDA that the driver runs. Within a major version an older driver
# runs newer programs; 12.8 is the first to know the processors of its time.
_TORCH = (((13, 0), "cu130"), ((12, 8), "cu128"), (OLDEST, "cu126"))


def _driver() -> Any:
    """The driver's library; OSError without one."""
    return ctypes.CDLL(_LIBRARY)


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver runs, (13, 0) for one; None without a driver.

    >>> driver_version() is None or driver_version() > (5, 0)
    True
    """
    try:
        driver = _driver()
    except OSError:
        return None
    number = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(number)) or not number.value:
        return None
    return number.value // 1000, number.value % 1000 // 10


def problem() -> Problem | None:
    """The reason why nothing can use CUDA here, and its fix; None where there is a device."""
    if sys.platform == "darwin":
        return (
            "no driver: macOS has no CUDA",
            "use another library, or a machine with an NVIDIA GPU",
        )
    version = driver_version()
    if version is None:
        return f"no driver: {_LIBRARY}, NVIDIA's CUDA driver, is not here", _INSTALL
    if version < OLDEST:
        needed = f"CUDA {dotted(OLDEST)} or newer is needed"
        return f"driver too old: it is for CUDA {dotted(version)}, {needed}", _UPDATE
    driver, count = _driver(), ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code not in (0, _NO_DEVICE):
        return f"CUDA does not start: the driver answers with error {code}", CHECK
    if not count.value:
        return "no device: CUDA finds no GPU", "nvidia-smi, and see CUDA_VISIBLE_DEVICES"
    return None


def dotted(version: tuple[int, ...]) -> str:
    """(13, 0) -> "13.0"."""
    return ".".join(map(str, version))


def _major() -> int:
    """Of the newest CUDA that wheels are built for and this driver runs."""
    version = driver_version()
    return 13 if version is None else max(12, min(13, version[0]))


# CuPy: a wheel for each CUDA, all with the same files.


def cupy_wheels() -> list[str]:
    """The distributions installed that bring CuPy, in order; two write over each other's files."""
    from importlib.metadata import distributions  # 15 ms, and seldom needed

    named = (str(found.metadata["Name"]).lower() for found in distributions())
    return sorted({name for name in named if re.fullmatch(r"cupy(-(cuda|rocm)[\dx-]+)?", name)})


def install_cupy() -> str:
    """The command that installs CuPy for this driver, in place of what is there of it.

    What the driver itself needs comes first.
    """
    command = f'pip install "tinynn-xp[cupy{_major()}]"'
    if installed := cupy_wheels():
        command = f"pip uninstall -y {' '.join(installed)} && {command}"
    found = problem()
    return f"{found[1]}, then {command}" if found else command


def cupy_conflict() -> Problem | None:
    """The conflict of two CuPy wheels, which pip does not notice; removing one breaks the other."""
    installed = cupy_wheels()
    if len(installed) < 2:
        return None
    reason = f"two wheels of one library: {' and '.join(installed)} write over each other's files"
    return reason, install_cupy()


def why_cupy_fails(error: Exception, built_for: int) -> Problem:
    """The reason why CuPy finds no device; `built_for` is what cudaRuntimeGetVersion gives."""
    if found := problem():
        return found
    version = driver_version()
    if version is None or "InsufficientDriver" not in str(error):
        return f"CUDA does not start: {error}", CHECK
    needed = built_for // 1000, built_for % 1000 // 10
    reason = f"driver too old: it is for CUDA {dotted(version)}, CuPy for CUDA {dotted(needed)}"
    if version[0] >= needed[0]:
        return reason, _UPDATE
    return reason, install_cupy()


def why_cupy_compiles_nothing(error: Exception) -> Problem:
    """The part that CuPy's first kernel is missing: NVRTC or the headers for it."""
    text = str(error).strip()
    last = text.splitlines()[-1] if text else type(error).__name__
    reason = f"no toolkit: CuPy cannot compile, without CUDA's NVRTC and headers ({last})"
    for wheel in cupy_wheels():
        if "-cuda" in wheel:
            return reason, f'pip install "{wheel}[ctk]"'
    return reason, "install the CUDA toolkit, and set CUDA_PATH to its folder"


# PyTorch: an index for each CUDA.


def why_torch_has_no_cuda(version: str, built_for: str | None) -> Problem:
    """The reason why PyTorch of that version, built for that CUDA, has no device here."""
    if found := problem():
        return found
    driver = driver_version() or OLDEST
    index = next(name for least, name in _TORCH if driver >= least)
    again = f"pip install torch --index-url https://download.pytorch.org/whl/{index}"
    command = f"pip uninstall -y torch && {again}"  # pip takes one for another CUDA as good enough
    if built_for is None:
        return f"wrong version: PyTorch {version} is built without CUDA", command
    if int(built_for.partition(".")[0]) > driver[0]:
        told = f"it is for CUDA {dotted(driver)}, PyTorch for CUDA {built_for}"
        return f"driver too old: {told}", command
    return "no device: PyTorch finds no GPU", CHECK


# JAX: a plugin for each CUDA.


def why_jax_has_no_cuda(plugins: list[int]) -> Problem:
    """The reason why JAX has no CUDA device; `plugins` are installed, by the CUDA they are for."""
    if found := problem():
        return found
    if sys.platform == "win32":
        return "no device: JAX has CUDA on Linux alone", "run it under WSL2"
    driver, command = driver_version() or OLDEST, f'pip install "jax[cuda{_major()}]"'
    if not plugins:
        return "wrong version: JAX is installed without its plugin for CUDA", command
    if min(plugins) > driver[0]:
        told = f"it is for CUDA {dotted(driver)}, JAX's plugin for CUDA {min(plugins)}"
        parts = " ".join(f"jax-cuda{n}-plugin jax-cuda{n}-pjrt" for n in plugins)
        return f"driver too old: {told}", f"pip uninstall -y {parts} && {command}"
    return "no device: JAX finds no GPU", CHECK
