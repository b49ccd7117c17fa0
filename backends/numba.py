"""Machine code of explicit loops on the CPU: Numba's compiler, and its cache on disk.

A kernel is the source of one function of pointers. Its machine code is kept in a file whose name is
a hash of all that it depends on, so it is never that of another source, version or processor.
Numba's own cache would do, but reading it takes a second, most of it for importing what compiles;
a plain object file takes the few milliseconds of linking it. TINYNN_CACHE names the folder; one
that cannot be written to means compiling anew in each process.
"""

import ctypes
import hashlib
import math
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes.util import find_library
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from backends import openblas, threads
from backends.lowering import Taken
from backends.numba_arithmetic import VECTORS

# What a kernel's source finds in its module beside the functions of `math`.
_NUMPY = "bool_ ceil float32 float64 floor int8 int16 int32 int64 rint trunc uint8 uint16 uint32"
_OURS = "plus plus_product product_float32 product_float64"


def _names(source: str) -> dict[str, Any]:
    """The globals of a kernel."""
    from backends import numba_functions

    names = {name: getattr(math, name) for name in dir(math) if not name.startswith("_")}
    names.update({name: getattr(np, name) for name in (*_NUMPY.split(), "uint64")})
    names.update({name: getattr(numba_functions, name) for name in _OURS.split()})
    # The elementary functions that the source calls, and no others.
    for name in set(re.findall(r"\b[a-z0-9]+_u?(?:float|int)\d+(?=\()", source)) - names.keys():
        names[name] = numba_functions.elementary(name)
    return names | {"__name__": __name__}


def build(source: str, dtypes: Sequence[str]) -> Callable[..., None]:
    """The function `run` of a kernel's source, as machine code; see `LoopCompiler`."""
    file = folder() / f"{key(source, dtypes)}.o"
    code = read_code(file)
    if code is None:
        code = _compiled(source, dtypes)
        if not _known(code):  # it calls functions that Numba brings
            code = _compiled(source, dtypes, linked=True)
        write_code(file, code)
    return _Kernel(code, dtypes)


# What is kept.


def folder() -> Path:
    """The folder in which machine code is kept."""
    if named := os.environ.get("TINYNN_CACHE"):
        return Path(named)
    home = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path(os.path.expanduser("~")) / ".cache") / "tinynn"


def key(source: str, dtypes: Sequence[str]) -> str:
    """The hash of all that the machine code depends on."""
    parts = (
        source,
        tuple(dtypes),
        [each.read_text() for each in sorted(Path(__file__).parent.glob("numba*.py"))],
        sys.version,
        platform.platform(),
        version("numba"),
        version("llvmlite"),
        np.__version__,
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
        [(each, openblas.product(each).name) for each in openblas.products()],  # type: ignore[union-attr]
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def read_code(file: Path) -> bytes | None:
    """The machine code in a file; None if there is none, or it is damaged."""
    with suppress(OSError):
        digest, code = (data := file.read_bytes())[:32], data[32:]
        if hashlib.sha256(code).digest() == digest and _known(code):
            return code
    return None


def write_code(file: Path, code: bytes) -> None:
    """Keep it, whole or not at all, where that can be done."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(hashlib.sha256(code).digest() + code)
            os.replace(name, file)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise


# Compiling. The code starts with two lines: the function's name, and the functions that it calls.


def _compiled(source: str, dtypes: Sequence[str], linked: bool = False) -> bytes:
    """Machine code; `linked` lets Numba put in what it calls, and takes longer."""
    from numba import types
    from numba.core import typed_passes, untyped_passes
    from numba.core.compiler import CompilerBase, Flags, compile_extra
    from numba.core.compiler_machinery import PassManager
    from numba.core.registry import cpu_target

    scope = _names(source)
    exec(compile(source, "<kernel>", "exec"), scope)  # the source is what the emitter wrote

    class Pipeline(CompilerBase):  # type: ignore[misc]  # Numba has no types
        """Only the passes that loops and numbers need: it takes half of the usual time."""

        def define_pipelines(self) -> list[Any]:
            passes = PassManager("kernel")
            for each in (
                untyped_passes.TranslateByteCode,
                untyped_passes.FixupArgs,
                untyped_passes.IRProcessing,
                untyped_passes.ReconstructSSA,
                typed_passes.NopythonTypeInference,
                typed_passes.PreLowerStripPhis,
                typed_passes.IRLegalization,
                typed_passes.NativeLowering,
                typed_passes.NoPythonBackend,
            ):
                passes.add_pass(each, "")
            passes.finalize()
            return [passes]

    flags = Flags()
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.no_compile = not linked
    flags.error_model = "numpy"
    # The arrays do not overlap, and saying so is worth a factor of five in products.
    flags.noalias = True
    pointers = [types.CPointer(getattr(types, _spelled(name))) for name in dtypes]
    signature = (types.intp, types.intp, *pointers)
    typing, target = cpu_target.typing_context, cpu_target.target_context
    typing.refresh()
    target.refresh()
    result = compile_extra(
        typing, target, scope["run"], signature, types.void, flags, {}, None, Pipeline
    )
    return _alone(result.library.get_llvm_str(), result.fndesc.llvm_func_name)


def _spelled(dtype: str) -> str:
    return "uint8" if dtype == "bool" else dtype


def _alone(text: str, name: str) -> bytes:
    """One function of a module of LLVM, with what it needs and no more, as an object file."""
    module = llvm.parse_assembly(text)
    ours = [f for f in module.functions if not f.is_declaration and f.name != name]
    vectors = [f for f in ours if f.name.startswith(VECTORS)]
    for function in ours:
        if function not in vectors:
            function.linkage = "internal"
    machine = this_machine()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, builder)
    for function in vectors:  # which now are called, or never will be
        function.linkage = "internal"
    late = llvm.create_new_module_pass_manager()
    late.add_always_inliner_pass()
    late.add_global_dead_code_eliminate_pass()
    late.run(module, builder)
    called = [f.name for f in module.functions if f.is_declaration]
    called = [each for each in called if not each.startswith("llvm.")]
    return f"{name}\n{' '.join(called)}\n".encode() + machine.emit_object(module)


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
    for library in (None, find_library("m")):
        with suppress(AttributeError, OSError, TypeError):
            address = ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value
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
        # Numba's convention: where the result and an exception would go, then the arguments.
        kinds = [ctypes.c_void_p] * 2 + [ctypes.c_ssize_t] * 2 + [ctypes.c_void_p] * len(dtypes)
        call = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)
        self._call = call(self._engine.get_function_address(name.decode()))
        self._room = ctypes.c_void_p(), ctypes.c_void_p()

    def __call__(self, steps: int, times: int, *arrays: Any) -> None:
        self._check(arrays)
        room = map(ctypes.addressof, self._room)
        self._call(*room, steps, times, *[array.ctypes.data for array in arrays])

    def each(
        self, networks: Sequence[int], apart: Sequence[int], steps: int, times: int, *arrays: Any
    ) -> None:
        """The kernel for each of these networks, spread over the threads; see `LoopCompiler`."""
        self._check([a.array if isinstance(a, Taken) else a for a in arrays])
        room = list(map(ctypes.addressof, self._room))  # which a kernel without errors leaves alone
        # Of what is taken, nothing is known yet.
        starts = [0 if isinstance(a, Taken) else a.ctypes.data for a in arrays]
        sizes = [0 if isinstance(a, Taken) else a.itemsize for a in arrays]
        memory = [(s, n * a) for s, n, a in zip(starts, sizes, apart, strict=True)]
        taken = [(i, each) for i, each in enumerate(arrays) if isinstance(each, Taken)]
        rooms: list[list[np.ndarray]] = []  # for what is taken, those that no thread is using

        def one(place: int) -> None:
            network = networks[place]
            places = [start + network * step for start, step in memory]
            room_ = rooms.pop() if rooms else [_room(each) for _, each in taken]
            for (i, each), array in zip(taken, room_, strict=True):
                # "clip" writes straight to where it is told; all are in range.
                each.array.take(each.rows[network], axis=0, out=array, mode="clip")
                places[i] = array.ctypes.data
            self._call(*room, steps, times, *places)
            rooms.append(room_)

        threads.shared(one, len(networks))

    def _check(self, arrays: Sequence[Any]) -> None:
        for array, dtype in zip(arrays, self._dtypes, strict=True):
            if array.dtype != dtype or not array.flags.c_contiguous:
                raise TypeError(f"a kernel expected a contiguous array of {dtype}")


def _room(taken: Taken) -> np.ndarray:
    """Memory for what one network takes."""
    return np.empty((taken.rows.shape[1], *taken.array.shape[1:]), taken.array.dtype)
