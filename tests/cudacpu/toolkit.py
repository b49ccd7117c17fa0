"""Builds the emulated CUDA toolkit, once for every state of these sources and of CuPy."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent

# What CuPy's wheel links to: file name, its own sources here, and "not supported" as that library
# says it. Of the functions that CuPy wants and no source has, every one is a stub that says so.
LIBRARIES = {
    "libcublas.so.12": (["cublas.cpp"], 15),
    "libcusolver.so.11": (["cusolver.cpp"], 9),
    "libcufft.so.11": (["cufft.cpp"], 16),
    "libcusparse.so.12": ([], 10),
    "libcurand.so.10": ([], 999),
    "libcublasLt.so.12": ([], 15),  # this and the next are only looked for
    "libnvJitLink.so.12": ([], 5),
    "libnvrtc.so.12": (["nvrtc.cpp"], 11),
}
DRIVER = "libcuda.so.1"
DRIVER_SOURCES = ["runtime.cpp", "memory.cpp", "driver.cpp", "hook.cpp", "sort.cpp"]


def compiler() -> str:
    return os.environ.get("CUDACPU_CXX") or "g++"


def wheel_modules() -> list[Path]:
    """CuPy's extension modules that link to NVIDIA's libraries."""
    found = []
    for package, pattern in (("cupy_backends", "cuda/libs/*.so"), ("cupy", "cuda/*.so")):
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            sys.exit(f"cudacpu: {sys.executable} has no {package}; pip install cupy-cuda12x")
        found += sorted(Path(spec.submodule_search_locations[0]).glob(pattern))
    return found


def state(*paths: Path) -> str:
    """A name for the contents of files and folders and for the compiler."""
    digest = hashlib.sha256(subprocess.check_output([compiler(), "-dumpfullversion"]))
    for given in paths:
        for path in [given] if given.is_file() else sorted(given.rglob("*")):
            if path.is_file():
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CUDACPU_CACHE") or Path(home) / "cudacpu").absolute()


def build() -> Path:
    """The toolkit's folder, with include/ and lib64/ in it as in NVIDIA's."""
    modules = wheel_modules()
    wheel = hashlib.sha256("".join(f"{m.name} {m.stat().st_size} " for m in modules).encode())
    name = state(HERE / "src", HERE / "include", HERE / "toolkit.py")
    root = cache() / f"{name}-{wheel.hexdigest()[:8]}"
    if root.exists():
        return root

    print(f"cudacpu: building {root}", file=sys.stderr)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        draft = Path(folder) / "toolkit"
        shutil.copytree(HERE / "include", draft / "include")
        (draft / "lib64").mkdir()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [pool.submit(link, draft, DRIVER, DRIVER_SOURCES, [], 801)]
            for name, (sources, status) in LIBRARIES.items():
                jobs.append(pool.submit(link, draft, name, sources, wanted(name, modules), status))
        for job in jobs:
            job.result()
        for name in [DRIVER, *LIBRARIES]:  # those who look for the name without a number
            (draft / "lib64" / name[: name.index(".so") + 3]).symlink_to(name)
        (draft / "lib64" / "libcudart.so.12").symlink_to(DRIVER)
        try:
            draft.rename(root)
        except OSError:  # another process was first
            if not root.exists():
                raise
    return root


def wanted(library: str, modules: list[Path]) -> list[str]:
    """The functions of a library that CuPy's modules link to."""
    names: set[str] = set()
    for module in modules:
        listing = subprocess.check_output(["nm", "-D", "--undefined-only", module], text=True)
        names.update(re.findall(rf"(\w+)@{re.escape(library)}\b", listing))
    return sorted(names)


def link(draft: Path, name: str, sources: list[str], functions: list[str], status: int) -> None:
    work = draft.parent
    flags = [compiler(), "-O2", "-std=c++17", "-fPIC", "-shared", f"-I{HERE / 'include'}"]
    stubs = work / f"{name}.stubs.cpp"
    # Weak, so that a function that a source has is that source's.
    stubs.write_text(
        "".join(
            f'extern "C" __attribute__((weak)) int {function}() {{ return {status}; }}\n'
            for function in functions
        )
    )
    versions = work / f"{name}.map"
    versions.write_text(f"{name} {{ global: *; }};\n")
    version = [] if name == DRIVER else [f"-Wl,--version-script={versions}"]
    subprocess.run(
        [
            *flags,
            *(str(HERE / "src" / source) for source in sources),
            str(stubs),
            *version,
            f"-Wl,-soname,{name}",
            "-o",
            str(draft / "lib64" / name),
            "-ldl",
        ],
        check=True,
    )


def environment(root: Path) -> dict[str, str]:
    """What a process needs to find the emulated device."""
    values = dict(os.environ)
    values.pop("CUDA_HOME", None)
    libraries = str(root / "lib64")
    for variable, value in (
        ("LD_LIBRARY_PATH", libraries),
        ("LD_PRELOAD", f"{libraries}/{DRIVER}"),
    ):
        before = values.get(variable)
        values[variable] = f"{value}:{before}" if before else value
    values["CUDA_PATH"] = str(root)
    values["CUDACPU_INCLUDE"] = str(root / "include")
    kernels = state(HERE / "include", HERE / "src" / "nvrtc.cpp")  # what makes them what they are
    values["CUPY_CACHE_DIR"] = str(cache() / f"kernels-{kernels}")
    values["CUPY_ACCELERATORS"] = ""  # CUB's and cuTENSOR's kernels are binaries for GPUs
    return values
