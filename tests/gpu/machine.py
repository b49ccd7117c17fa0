"""`python -m tests.gpu.machine DEVICE...`: this machine as JSON, and why each device is missing."""

import ctypes
import json
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "numpy", "cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "array-api-compat", "array-api-extra",
)  # fmt: skip
EMULATED = "Emulated"  # how the name of an emulated device begins


def name_by_driver() -> str:
    """What the driver calls the first device; "" where it does not say."""
    from backends import cuda_driver

    with suppress(OSError, AttributeError):
        driver, device, name = (
            cuda_driver._driver(),
            ctypes.c_int(0),
            ctypes.create_string_buffer(256),
        )
        if not (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(device), 0)
            or driver.cuDeviceGetName(name, 256, device)
        ):
            return name.value.decode()
    return ""


def name_by_cupy() -> str:
    """What CuPy calls it: an emulated driver may know no more."""
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception:  # not installed, or any of what may be wrong with it
        return ""


def packaged() -> str:
    """The version of the driver's package, "580.65.06", which nvidia-smi tells; "" without."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return told.stdout.strip().splitlines()[0]
    return ""


def describe(devices: list[str]) -> dict[str, Any]:
    """All that the results say of the machine."""
    import backends
    from backends import cuda_driver

    versions, missing = {}, {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    for device in devices:
        try:
            backends.get(device)
        except backends.BackendUnavailable as error:
            missing[device] = str(error)
    cuda, name = cuda_driver.driver_version(), name_by_driver() or name_by_cupy()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": name or "no CUDA device",
        "emulated": name.startswith(EMULATED),
        "cuda": cuda_driver.dotted(cuda) if cuda else "",
        "driver": packaged(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "missing": missing,
    }


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1:])))
