"""NVIDIA's own compiler takes the kernels of loops. To run them it would need a device."""

import ctypes
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import pytest

from tinynn.compiler.codegen.language import (
    BYTES,
    INDEX,
    Assign,
    Buffer,
    Combine,
    Function,
    Index,
    Load,
    Parallel,
    Statement,
    Store,
    Variable,
    is_float,
)
from tinynn.compiler.codegen.operations import OPERATIONS, REDUCTIONS, operation
from tinynn.compiler.codegen.renderers import RENDERERS
from tinynn.rules import RULES

ARCHITECTURE = b"--gpu-architecture=sm_75"


@cache
def nvrtc() -> ctypes.CDLL:
    """The library of the wheel nvidia-cuda-nvrtc-cu12."""
    try:
        spec = find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("NVIDIA's compiler is not installed: pip install nvidia-cuda-nvrtc-cu12")
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    for builtins in folder.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # it looks for them by name
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so.*"))))


def compiled(source: str) -> int:
    """The size of the machine code; AssertionError, with what is wrong, if there is none."""
    program, size, options = ctypes.c_void_p(), ctypes.c_size_t(), (ctypes.c_char_p * 1)()
    library, place = nvrtc(), ctypes.byref
    options[0] = ARCHITECTURE
    library.nvrtcCreateProgram(place(program), source.encode(), b"kernel.cu", 0, None, None)
    status = library.nvrtcCompileProgram(program, 1, options)
    library.nvrtcGetProgramLogSize(program, place(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    library.nvrtcGetCUBINSize(program, place(size))
    library.nvrtcDestroyProgram(place(program))
    return size.value


#: Functions whose rows say what they are made of, with the number of their arguments.
COMPOSED = {
    name: len(signature(row.scalar).parameters) - 1
    for name, row in RULES.items()
    if row.scalar is not None and isinstance(name, str) and name != "clip"
}
FLOATS_ALONE = ("divide", "reciprocal", "logaddexp", "signbit")


def is_defined(name: str, dtype: str) -> bool:
    """True if the standard has the function for numbers of the dtype."""
    if is_float(dtype):
        return not name.startswith("bitwise")
    row = OPERATIONS.get(name)
    of_floats = row is not None and row.call and row.whole is None
    return not of_floats and name not in FLOATS_ALONE


def operations(dtype: str) -> Iterator[Statement]:
    """Every operation of numbers of a dtype, its result stored."""
    counts = {name: 1 + ("{1}" in row.cuda) for name, row in OPERATIONS.items()} | COMPOSED
    for place, (name, count) in enumerate(counts.items()):
        if not is_defined(name, dtype):
            continue
        given = "bool" if name.startswith("logical") else dtype
        args = [Load(Buffer(f"{given}_{i}", given), Index.of(place)) for i in range(count)]
        value = operation(name, args, given)
        variable = Variable(f"v{place}", value.dtype)
        yield Assign(variable, value)
        out = Load(Buffer(f"out_{value.dtype}", value.dtype), Index.of(place))
        yield Parallel((), (Store(out, variable),))
    for name in REDUCTIONS:
        given = "bool" if name in ("any", "all") else dtype
        total = Variable(f"total_{name}", given)
        yield Assign(total, Load(Buffer(f"{given}_0", given), Index()))
        yield Combine(total, name)
        yield Parallel((), (Store(Load(Buffer(f"out_{given}", given), Index()), total),))


@pytest.mark.parametrize("dtype", [dtype for dtype in BYTES if dtype != "bool"])
def test_every_operation(dtype: str) -> None:
    given = [Buffer(f"{each}_{i}", each) for each in (dtype, "bool") for i in range(3)]
    outs = [Buffer(f"out_{each}", each) for each in (dtype, "bool")]
    numbers = (Variable("steps", INDEX), Variable("times", INDEX))
    body = tuple(operations(dtype))
    kernel = Function("run", numbers, (*given, *outs), (), body, threads=32)
    assert compiled(RENDERERS["cuda"](kernel)) > 0


def test_a_training_step() -> None:
    """That of XOR, which tests/test_loop_language.py compares with this file."""
    assert compiled(Path(__file__).with_name("xor_kernel.txt").read_text()) > 0


def test_what_is_no_kernel() -> None:
    with pytest.raises(AssertionError, match='identifier "missing" is undefined'):
        compiled('extern "C" __global__ void run(float* x) { x[0] = missing; }')
