"""Machine code of explicit loops on the CPU: LLVM's compiler, and a cache on disk.

A kernel is one function of pointers in LLVM's own language. Its machine code is kept in a file
whose name is a hash of all that it depends on, so it is never that of another source, version or
processor; an object file takes the few milliseconds of linking it. TINYNN_CACHE names the folder;
one that cannot be written to means compiling anew in each process. Of its files the ones that were
not used for longest go, beyond a number of bytes.
"""

import ctypes
import hashlib
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes.util import find_library
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from llvmlite.binding import newpassmanagers

from backends import openblas, threads
from backends.llvm_arithmetic import VECTORS
from backends.lowering import KernelError, Taken

_PACKED = "tinynn_packed"

#: Bytes of machine code that the folder keeps.
CAPACITY = 2**28
# Files are written between two looks at the folder, which takes milliseconds; one in the making is
# nobody's after so many seconds. The folder may hold what is not ours.
_WRITTEN, _ABANDONED, _OURS = 64, 3600.0, re.compile(r"[0-9a-f]{64}\.(o|\w+\.tmp)")
_writes = count()


def build(source: str, dtypes: Sequence[str]) -> Callable[..., None]:
    """The function `run` of a kernel's source, as machine code; see `LoopCompiler`."""
    file = folder() / f"{key(source, dtypes)}.o"
    code = read_code(file)
    try:
        if code is None:
            code = _compiled(source)
            write_code(file, code)
        return _Kernel(code, dtypes)
    except RuntimeError as error:  # what LLVM says, line by line
        first = " ".join(str(error).split("\n")[:2])
        raise KernelError(
            f"LLVM, by llvmlite {llvmlite.__version__}, refuses the kernel: {first}"
        ) from error


def bind(kernel: "_Kernel", steps: int, times: int, arrays: Sequence[Any]) -> Callable[[], Any]:
    """A function that carries the kernel out on these arrays; see `LoopCompiler`."""
    return kernel.bound(steps, times, arrays)


# What is kept.


def folder() -> Path:
    """The folder in which machine code is kept."""
    if named := os.environ.get("TINYNN_CACHE"):
        return Path(named)
    home = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path(os.path.expanduser("~")) / ".cache") / "tinynn"


def key(source: str, dtypes: Sequence[str]) -> str:
    """The hash of all that the machine code depends on."""
    blas = [(each, openblas.product(each).name) for each in openblas.products()]  # type: ignore[union-attr]
    return _hash([repr((tuple(dtypes), blas)), _here(), source])


@cache
def _here() -> str:
    """The hash of all else that machine code depends on: what writes it, and the processor."""
    files = sorted(Path(__file__).parent.glob("llvm*.py"))
    parts = (
        sys.version,
        sys.platform,
        platform.machine(),
        llvmlite.__version__,
        np.__version__,
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
    )
    texts = [each.read_text(encoding="utf-8") for each in files]  # as when the first was built
    return _hash([repr(parts), *texts])


def _hash(texts: Sequence[str]) -> str:
    """The hash of several texts, and of where each of them ends."""
    found = hashlib.sha256(repr([len(each) for each in texts]).encode())
    for each in texts:
        found.update(each.encode())
    return found.hexdigest()


def read_code(file: Path) -> bytes | None:
    """The machine code in a file; None if there is none, or it is damaged."""
    with suppress(OSError):
        digest, code = (data := file.read_bytes())[:32], data[32:]
        if code and hashlib.sha256(code).digest() == digest and _known(code):
            with suppress(OSError):
                os.utime(file)  # whose time tells when it was last used
            return code
    return None


def write_code(file: Path, code: bytes) -> None:
    """Keep it, whole or not at all, where that can be done."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".tmp", f"{file.stem}.", file.parent)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(hashlib.sha256(code).digest() + code)
            os.replace(name, file)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        if next(_writes) % _WRITTEN == 0:
            discard_oldest(file.parent)


def discard_oldest(folder: Path, capacity: int = CAPACITY) -> None:
    """Remove files of machine code until three quarters of the capacity are left, if it is full.

    Those go first that were not used for longest. Another process that reads one has it whole, or
    compiles anew.
    """
    found, now = [], time.time()
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _OURS.fullmatch(entry.name):
                continue
            with suppress(OSError):  # another process was sooner
                facts = entry.stat(follow_symlinks=False)
                if entry.name.endswith(".o"):
                    found.append((facts.st_mtime_ns, facts.st_size, entry.path))
                elif now - facts.st_mtime > _ABANDONED:
                    os.unlink(entry.path)
    held = sum(size for _, size, _ in found)
    if held <= capacity:
        return
    for _, size, path in sorted(found):
        if held <= capacity * 3 // 4:
            break
        with suppress(OSError):
            os.unlink(path)
        held -= size


# Compiling. The code starts with two lines: the function's name, and the functions that it calls.


def _compiled(source: str) -> bytes:
    """The one function of a source, with what it needs and no more, as an object file."""
    name, module = _optimised(source)
    try:
        module.verify()
    except RuntimeError:
        # LLVM 22 joins some lines so that a value is used before it is there, and would end the
        # process over it.
        name, module = _optimised(source, joining=False)
        module.verify()
    called = [f.name for f in module.functions if f.is_declaration]
    called = [each for each in called if not each.startswith("llvm.")]
    return f"{name}\n{' '.join(called)}\n".encode() + this_machine().emit_object(module)


def _optimised(source: str, joining: bool = True) -> tuple[str, Any]:
    """The name of the one function, and its module; `joining`: of alike lines without a loop."""
    from backends import llvm_functions  # which takes its time, and only here

    module = llvm.parse_assembly(source)
    (function,) = [f for f in module.functions if not f.is_declaration]
    name, arrays = function.name, len(list(function.arguments)) - 2
    declared = {f.name: len(list(f.arguments)) for f in module.functions if f.is_declaration}
    machine = this_machine()
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    functions = llvm.parse_assembly(llvm_functions.library(declared))
    packed = llvm.parse_assembly(_packed(name, arrays))
    for each in (functions, packed):
        each.triple, each.data_layout = module.triple, module.data_layout
        module.link_in(each)
    given = (name, _PACKED)
    ours = [f for f in module.functions if not f.is_declaration and f.name not in given]
    vectors = [f for f in ours if f.name.startswith(VECTORS)]
    for function in ours:
        if function not in vectors:
            function.linkage = "internal"
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization, options.slp_vectorization = True, joining
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    passes.add_global_dead_code_eliminate_pass()
    _run(passes, module, builder)
    for function in vectors:  # which now are called, or never will be
        function.linkage = "internal"
    late = llvm.create_new_module_pass_manager()
    late.add_always_inliner_pass()
    late.add_global_dead_code_eliminate_pass()
    _run(late, module, builder)
    return name, module


def _run(passes: Any, module: Any, builder: Any) -> None:
    """Apply the passes, and free them.

    llvmlite does not: of its two base classes of a pass manager the one whose `_dispose` does
    nothing comes first. A pipeline takes 70 kB, and cannot be run twice.
    """
    passes.run(module, builder)
    dispose = getattr(newpassmanagers.NewPassManager, "_dispose", None)
    if dispose is not None:
        dispose(passes)
        passes.detach()


def _packed(name: str, arrays: int) -> str:
    """A function that calls a kernel with the arguments that lie at a place, eight bytes each."""
    kinds = ["i64", "i64", *["ptr"] * arrays]
    lines = [f"declare void @{name}({', '.join(kinds)})", f"define void @{_PACKED}(ptr %place) {{"]
    for i, kind in enumerate(kinds):
        lines += [
            f"  %p{i} = getelementptr i64, ptr %place, i64 {i}",
            f"  %a{i} = load {kind}, ptr %p{i}",
        ]
    given = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(kinds))
    return "\n".join([*lines, f"  call void @{name}({given}) noinline", "  ret void", "}", ""])


def this_machine() -> Any:
    """This machine, to the last of its instructions."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)


def _known(code: bytes) -> bool:
    """True if all that it calls is in this process; otherwise linking would end the process."""
    _, called, _ = code.split(b"\n", 2)
    return all(map(_address, called.decode().split()))


def _address(name: str) -> int | None:
    """The address of a function of C, from now on known to the linker."""
    if address := llvm.address_of_symbol(name):
        return address
    for product in map(openblas.product, openblas.products()):
        if product is not None and product.name == name:
            llvm.add_symbol(name, product.address)
            return product.address
    for library in (lambda: None, partial(find_library, "m")):  # to find it takes its time
        with suppress(AttributeError, OSError, TypeError):
            address = ctypes.cast(getattr(ctypes.CDLL(library()), name), ctypes.c_void_p).value
            llvm.add_symbol(name, address)
            return address
    return None


class _Kernel:
    """Machine code in memory: `kernel(steps, times, *arrays)`, and for many networks `each`."""

    def __init__(self, code: bytes, dtypes: Sequence[str]) -> None:
        name, called, binary = code.split(b"\n", 2)
        if not _known(code):
            raise RuntimeError(f"a kernel calls {called.decode()}, not all of which are here")
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), this_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
        self._engine.finalize_object()
        self._dtypes = [np.dtype(each) for each in dtypes]
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * len(dtypes))
        self._call = call(self._engine.get_function_address(name.decode()))
        packed = self._engine.get_function_address(_PACKED)
        self._packed = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(packed)

    def __call__(self, steps: int, times: int, *arrays: Any) -> None:
        self._check(arrays)
        self._call(steps, times, *[array.ctypes.data for array in arrays])

    def bound(self, steps: int, times: int, arrays: Sequence[Any]) -> Callable[[], Any]:
        """The kernel on these arrays, as a function of nothing."""
        self._check(arrays)
        numbers = [steps, times, *[array.ctypes.data for array in arrays]]
        held = (ctypes.c_int64 * len(numbers))(*numbers)
        go = partial(self._packed, ctypes.addressof(held))
        go.kept = self, held, tuple(arrays)  # type: ignore[attr-defined]  # code and memory
        return go

    def each(
        self, networks: Sequence[int], apart: Sequence[int], steps: int, times: int, *arrays: Any
    ) -> None:
        """The kernel for each of these networks, spread over the threads; see `LoopCompiler`."""
        self._check([a.array if isinstance(a, Taken) else a for a in arrays])
        # Of what is taken, nothing is known yet.
        starts = [0 if isinstance(a, Taken) else a.ctypes.data for a in arrays]
        sizes = [0 if isinstance(a, Taken) else a.itemsize for a in arrays]
        memory = [(s, n * a) for s, n, a in zip(starts, sizes, apart, strict=True)]
        taken = [(i, each) for i, each in enumerate(arrays) if isinstance(each, Taken)]
        rooms: list[list[np.ndarray]] = []  # for what is taken, those that no thread is using

        def one(place: int) -> None:
            network = networks[place]
            places = [start + network * step for start, step in memory]
            try:
                room_ = rooms.pop()
            except IndexError:  # all are in use
                room_ = [_room(each) for _, each in taken]
            for (i, each), array in zip(taken, room_, strict=True):
                # "clip" writes straight to where it is told; all are in range.
                each.array.take(each.rows[network], axis=0, out=array, mode="clip")
                places[i] = array.ctypes.data
            self._call(steps, times, *places)
            rooms.append(room_)

        threads.shared(one, len(networks))

    def _check(self, arrays: Sequence[Any]) -> None:
        for array, dtype in zip(arrays, self._dtypes, strict=True):
            if array.dtype != dtype or not array.flags.c_contiguous:
                raise TypeError(f"a kernel expected a contiguous array of {dtype}")


def _room(taken: Taken) -> np.ndarray:
    """Memory for what one network takes."""
    return np.empty((taken.rows.shape[1], *taken.array.shape[1:]), taken.array.dtype)
