"""Builds the emulated CUDA toolkit, once for every state of its sources, the compiler and CuPy."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from tests.cudacpu import compiler
from tests.cudacpu.elf import undefined

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


def cache() -> Path:
    """The folder of everything that is built; deleting it is safe."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CUDACPU_CACHE") or Path(home) / "cudacpu").absolute()


def digest(*parts: str | Path) -> str:
    """A name for texts and for the contents of files and folders."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            total.update(part.encode())
            continue
        for path in [part] if part.is_file() else sorted(part.rglob("*")):
            if path.is_file():
                total.update(path.read_bytes())
    return total.hexdigest()[:16]


def wheel_modules() -> list[Path]:
    """CuPy's extension modules that link to NVIDIA's libraries."""
    found = []
    for package, pattern in (("cupy_backends", "cuda/libs/*.so"), ("cupy", "cuda/*.so")):
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            sys.exit(
                f"cudacpu: {sys.executable} has no package {package}. "
                "To fix it: python -m pip install cupy-cuda12x"
            )
        found += sorted(Path(spec.submodule_search_locations[0]).glob(pattern))
    return found


def build(compile_with: compiler.Compiler) -> Path:
    """The toolkit's folder, with include/ and lib64/ in it as in NVIDIA's."""
    modules = wheel_modules()
    wheel = " ".join(f"{module.name} {module.stat().st_size}" for module in modules)
    sources = (HERE / "src", HERE / "include", HERE / "toolkit.py", HERE / "compiler.py")
    root = cache() / f"toolkit-{digest(*sources, compile_with.version, wheel)}"
    if root.exists():
        return root
    sys.stderr.write(f"cudacpu: building {root}\n")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        draft = Path(folder) / "toolkit"
        shutil.copytree(HERE / "include", draft / "include")
        shutil.copy(HERE / "src" / "launch.h", draft / "include")
        (draft / "lib64").mkdir()
        command = compile_with.library()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [pool.submit(link, command, draft, DRIVER, DRIVER_SOURCES, [], 801)]
            for name, (files, status) in LIBRARIES.items():
                functions = wanted(name, modules)
                jobs.append(pool.submit(link, command, draft, name, files, functions, status))
        for job in jobs:
            job.result()
        for name in [DRIVER, *LIBRARIES]:  # those who look for the name without a number
            (draft / "lib64" / name[: name.index(".so") + 3]).symlink_to(name)
        (draft / "lib64" / "libcudart.so.12").symlink_to(DRIVER)
        (draft / "kernel-command").write_text("\n".join(compile_with.kernel()))
        try:
            draft.rename(root)
        except OSError:  # another process was first
            if not root.exists():
                raise
    return root


def wanted(library: str, modules: list[Path]) -> list[str]:
    """The functions of a library that CuPy's modules link to."""
    pairs = set().union(*(undefined(module) for module in modules))
    return sorted(name for name, version in pairs if version == library)


def link(
    command: list[str],
    draft: Path,
    name: str,
    sources: list[str],
    functions: list[str],
    status: int,
) -> None:
    """Make one library of its sources, and of stubs for the functions that they lack."""
    stubs = draft.parent / f"{name}.stubs.cpp"
    # Weak, so that a function that a source has is that source's.
    stubs.write_text(
        "".join(
            f'extern "C" __attribute__((weak)) int {function}() {{ return {status}; }}\n'
            for function in functions
        )
    )
    versions = draft.parent / f"{name}.map"
    versions.write_text(f"{name} {{ global: *; }};\n")
    version = [] if name == DRIVER else [f"-Wl,--version-script={versions}"]
    files = [*(str(HERE / "src" / source) for source in sources), str(stubs)]
    output = ["-o", str(draft / "lib64" / name), "-ldl"]
    subprocess.run(
        [*command, f"-I{draft / 'include'}", *files, *version, f"-Wl,-soname,{name}", *output],
        check=True,
        env=os.environ | zig_caches(),
    )


def zig_caches() -> dict[str, str]:
    """Where Zig keeps its C++ library, which it compiles on its first use in a minute."""
    folder = str(cache() / "zig")
    return {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}


def environment() -> dict[str, str]:
    """What a process needs to find the emulated device; builds the toolkit where needed."""
    compile_with = compiler.find()
    root = build(compile_with)
    values = os.environ | zig_caches()
    values.pop("CUDA_HOME", None)
    libraries = str(root / "lib64")
    for variable, value in (
        ("LD_LIBRARY_PATH", libraries),
        ("LD_PRELOAD", f"{libraries}/{DRIVER}"),
    ):
        before = values.get(variable)
        values[variable] = f"{value}:{before}" if before else value
    values["CUDA_PATH"] = str(root)
    # By all that makes kernels what they are.
    command = "\n".join(compile_with.kernel())
    kernels = digest(HERE / "include", HERE / "src" / "nvrtc.cpp", compile_with.version, command)
    values.setdefault("CUPY_CACHE_DIR", str(cache() / f"kernels-{kernels}"))
    values["CUPY_ACCELERATORS"] = ""  # CUB's and cuTENSOR's kernels are binaries for GPUs
    return values
