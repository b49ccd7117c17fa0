"""The C++ compiler that builds the emulated toolkit and, at run time, the kernels."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

OLDEST_GCC = 12  # has _Float16 in C++


@dataclass(frozen=True)
class Compiler:
    """A command, and what it calls itself."""

    command: tuple[str, ...]
    version: str

    @property
    def is_clang(self) -> bool:
        return "clang" in self.version

    def library(self) -> list[str]:
        """The command that makes one of the toolkit's libraries."""
        return [*self.command, "-O2", "-std=c++17", "-fPIC", "-shared", "-s", *self.sanitizers()]

    def kernel(self) -> list[str]:
        """The command that makes a kernel; NVRTC's emulation adds the source and its options."""
        # As NVRTC does: integers wrap around, errors are not kept in errno, a*b+c is one operation.
        flags = (
            "-O1 -fPIC -w -fwrapv -fno-strict-aliasing -fno-math-errno -fno-trapping-math "
            "-fvisibility=hidden -fno-exceptions"
        )
        if self.is_clang:
            flags += " -Wno-c++11-narrowing -ferror-limit=10"
        else:
            flags += " -fno-gnu-unique -fpermissive -fmax-errors=10"
        if has_fma():
            flags += " -mavx2 -mfma -mf16c -ffp-contract=fast"
            if not self.is_clang:  # GCC fuses nothing below -O2 without this
                flags += " -fexpensive-optimizations"
        return [*self.command, *flags.split(), *self.sanitizers()]

    def sanitizers(self) -> list[str]:
        return ["-fno-sanitize=all"] if self.is_clang else []  # Zig switches some on


def find() -> Compiler:
    """The compiler that `CUDACPU_CXX` names, else g++, else the Zig of the wheel `ziglang`."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        sys.exit("cudacpu: the emulated CUDA device needs Linux on x86-64")
    if words := os.environ.get("CUDACPU_CXX"):
        return described(*shlex.split(words))
    if shutil.which("g++"):
        gcc = described("g++")
        major = subprocess.check_output(["g++", "-dumpversion"], text=True).partition(".")[0]
        if int(major) >= OLDEST_GCC:
            return gcc
    spec = find_spec("ziglang")
    if spec is not None and spec.submodule_search_locations:
        zig = Path(spec.submodule_search_locations[0]) / "zig"
        # Zig's own headers of the C library, in one version: there may be none on this machine.
        return described(str(zig), "c++", "-target", "x86_64-linux-gnu.2.28")
    sys.exit(
        f"cudacpu: no g++ (from {OLDEST_GCC} on) is here. To fix it: "
        f"apt install g++, or {Path(sys.executable).name} -m pip install ziglang"
    )


def described(*command: str) -> Compiler:
    return Compiler(command, subprocess.check_output([*command, "--version"], text=True))


def has_fma() -> bool:
    """Whether this CPU multiplies and adds in one operation, and converts half precision."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {"avx2", "fma", "f16c"} <= set(flags)
