"""Products of rows of images as machine code: blocks of the result that stay in registers.

BLAS packs both matrices anew in each product, and for rows of images, which are many products of
few rows each, its kernels for one processor often take no more than half of what another can do.
This is the inner loop alone (Goto and van de Geijn 2008, doi:10.1145/1356052.1356053): up to eight
rows by two vectors of the result in registers, for as long as the sum goes on. LLVM compiles it for
this very processor.
"""

import ctypes
from collections.abc import Callable
from functools import cache, partial
from itertools import chain
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from backends import threads
from backends.llvm import folder, key, read_code, this_machine, write_code

_VECTORS = 2
#: So many multiplications are worth a thread.
_SHARED = 1 << 22
_INT, _BOOL = ir.IntType(64), ir.IntType(1)
_KINDS = {"float32": (ir.FloatType(), 4), "float64": (ir.DoubleType(), 8)}


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """The products of stacks of matrices, (n, rows, sums) by (n, sums, columns), into `out`.

    Parameters
    ----------
    a
        (n, rows, sums) of float32 or float64 in any order, or (rows, sums) for all.
    b
        (n, sums, columns) of its dtype; the elements of a row lie one after the other.
    out
        (n, rows, columns), likewise, or (rows, columns), to which all products are added.

    Examples
    --------
    >>> a, b, out = np.ones((2, 1, 3)), np.ones((2, 3, 4)), np.zeros((1, 4))
    >>> product(a, b, out)
    >>> out.tolist()
    [[6.0, 6.0, 6.0, 6.0]]
    """
    parts = [_call(*part) for part in _parts(a, b, out)]  # what compiles is no thread's
    if len(parts) == 1:
        parts[0]()
    else:
        threads.shared(lambda i: parts[i](), len(parts))


def _parts(a: Any, b: Any, out: Any) -> list[tuple[Any, Any, Any]]:
    """The arguments of products that threads carry out: some of the stack, or of the rows."""
    n, sums, columns = b.shape
    rows, (at_a_time, _) = out.shape[-2], _registers()
    count = min(threads.available(), n * rows * sums * columns // _SHARED)
    if count < 2:
        return [(a, b, out)]
    step = -(-n // count) if out.ndim == 3 else at_a_time * -(-rows // (count * at_a_time))
    if out.ndim == 3:
        places = [slice(i, i + step) for i in range(0, n, step)]
        return [(a if a.ndim == 2 else a[i], b[i], out[i]) for i in places]
    return [
        (a[..., i : i + step, :], b, out[i : i + step]) for i in range(0, rows, step)
    ]  # fmt: skip


def _call(a: Any, b: Any, out: Any) -> Callable[[], None]:
    """The call of one product."""
    n, sums, columns = b.shape
    rows, item = out.shape[-2], b.itemsize
    ah, ao, ak, bh, bk, bj, yh, yo, yj = [
        stride // item
        for each in (a, b, out)
        for stride in ((0, *each.strides) if each.ndim == 2 else each.strides)
    ]
    if bj != 1 or yj != 1:
        raise ValueError("a row of the second matrices and of the result has to be one run")
    places = [each.ctypes.data for each in (a, b, out)]
    numbers = (ah, ao, ak, bh, bk, yh, yo, n, rows, sums, columns, int(out.ndim == 2))
    at_a_time, bytes_ = _registers()
    return partial(_compiled(b.dtype.name, rows % at_a_time, at_a_time, bytes_), *places, *numbers)


@cache
def _registers() -> tuple[int, int]:
    """The rows of a block, so that registers hold it, and the bytes of a register."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 8, 64
    return (6, 32) if features.get("avx2") else (6, 16)


@cache
def _compiled(dtype: str, rest: int, at_a_time: int, bytes_: int) -> Callable[..., None]:
    """The function for results whose number of rows leaves this rest."""
    source = str(_Kernel(dtype, at_a_time, bytes_).module(rest))
    file = folder() / f"{key(source, [dtype])}.o"
    code = read_code(file)
    if code is None:
        code = _object(source)
        write_code(file, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), this_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.split(b"\n", 2)[2]))
    engine.finalize_object()
    kinds = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 12
    call: Any = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address("run"))
    call.engine = engine  # for as long as the function lives
    return call


def _object(source: str) -> bytes:
    """Machine code, as `backends.llvm` keeps it."""
    machine, module = this_machine(), llvm.parse_assembly(source)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return b"run\n\n" + machine.emit_object(module)


class _Kernel:
    """The functions of a module of LLVM for one dtype."""

    def __init__(self, dtype: str, at_a_time: int, bytes_: int) -> None:
        self.rows = at_a_time
        self.kind, item = _KINDS[dtype]
        self.lanes = bytes_ // item
        self.vector = ir.VectorType(self.kind, self.lanes)
        self.pointer = self.kind.as_pointer()
        self.whole = ir.Module("products")
        suffix = f"v{self.lanes}f{8 * item}"
        mask, place = ir.VectorType(_BOOL, self.lanes), self.vector.as_pointer()
        declared = {
            f"llvm.fmuladd.{suffix}": (self.vector, [self.vector] * 3),
            f"llvm.masked.load.{suffix}.p0": (
                self.vector, [place, ir.IntType(32), mask, self.vector],
            ),
            f"llvm.masked.store.{suffix}.p0": (
                ir.VoidType(), [self.vector, place, ir.IntType(32), mask],
            ),
        }  # fmt: skip
        self.multiply_add, self.load, self.store = [
            ir.Function(self.whole, ir.FunctionType(*kind), name) for name, kind in declared.items()
        ]
        self.item = item

    def module(self, rest: int) -> ir.Module:
        """All blocks of all products: `rows` at a time, then the rest."""
        kinds = [self.pointer] * 3 + [_INT] * 12
        run = ir.Function(self.whole, ir.FunctionType(ir.VoidType(), kinds), "run")
        a, b, y, ah, ao, ak, bh, bk, yh, yo, n, rows, sums, columns, add = run.args
        build = ir.IRBuilder(run.append_basic_block())
        width = ir.Constant(_INT, self.lanes * _VECTORS)
        several = ir.Constant(_INT, self.rows)
        blocks = {
            (size, cut): self._block(size, cut)
            for size in {self.rows, rest} - {0}
            for cut in (False, True)
        }
        with _loop(build, n, ir.Constant(_INT, 1)) as h:
            here = [build.gep(p, [build.mul(h, s)]) for p, s in ((a, ah), (b, bh), (y, yh))]
            with _loop(build, columns, width) as j:
                left = build.sub(columns, j)
                right, out = build.gep(here[1], [j]), build.gep(here[2], [j])

                def call(size: int, first: Any) -> None:
                    given = [
                        build.gep(here[0], [build.mul(first, ao)]), right,
                        build.gep(out, [build.mul(first, yo)]), ao, ak, bk, yo, sums, left, add,
                    ]  # fmt: skip
                    with build.if_else(build.icmp_signed("<", left, width)) as (few, many):
                        with few:
                            build.call(blocks[size, True], given)
                        with many:
                            build.call(blocks[size, False], given)

                full = build.sub(rows, ir.Constant(_INT, rest))
                with _loop(build, full, several) as i:
                    call(self.rows, i)
                if rest:
                    call(rest, full)
        build.ret_void()
        return self.whole

    def _block(self, size: int, cut: bool) -> ir.Function:
        """So many rows of the result by two vectors, the last of them not whole where `cut`."""
        kinds = [self.pointer] * 3 + [_INT] * 7
        block = ir.Function(
            self.whole, ir.FunctionType(ir.VoidType(), kinds), f"block_{size}_{int(cut)}"
        )
        block.linkage = "internal"
        a, b, y, ao, ak, bk, yo, sums, left, add = block.args
        build = ir.IRBuilder(block.append_basic_block())
        masks = [self._mask(build, left, v) for v in range(_VECTORS)] if cut else []
        places = [
            [
                build.gep(y, [build.add(build.mul(yo, ir.Constant(_INT, i)), self._lanes(v))])
                for v in range(_VECTORS)
            ]
            for i in range(size)
        ]
        start, loop = build.block, block.append_basic_block()
        more, end = block.append_basic_block(), block.append_basic_block()
        build.branch(loop)
        build.position_at_end(loop)
        k = build.phi(_INT)
        k.add_incoming(ir.Constant(_INT, 0), start)
        before = [[build.phi(self.vector) for _ in range(_VECTORS)] for _ in range(size)]
        line = build.gep(b, [build.mul(k, bk)])
        right = [
            self._read(build, build.gep(line, [self._lanes(v)]), masks, v) for v in range(_VECTORS)
        ]
        column = build.gep(a, [build.mul(k, ak)])
        after = []
        for i, row in enumerate(before):
            number = build.load(build.gep(column, [build.mul(ao, ir.Constant(_INT, i))]))
            many = self._repeated(build, number, self.vector)
            pairs = zip(right, row, strict=True)
            after.append([build.call(self.multiply_add, [many, x, total]) for x, total in pairs])
        following = build.add(k, ir.Constant(_INT, 1))
        k.add_incoming(following, loop)
        zero = ir.Constant(self.vector, None)
        for phi, value in zip(chain(*before), chain(*after), strict=True):
            phi.add_incoming(zero, start)
            phi.add_incoming(value, loop)
        done = block.append_basic_block()
        build.cbranch(build.icmp_signed("<", following, sums), loop, done)
        build.position_at_end(done)
        build.cbranch(build.icmp_signed("!=", add, ir.Constant(_INT, 0)), more, end)
        vectors = [*range(_VECTORS)] * size
        results = list(zip(chain(*after), chain(*places), vectors, strict=True))
        build.position_at_end(more)
        for value, place, v in results:
            old = self._read(build, place, masks, v)
            self._write(build, build.fadd(old, value), place, masks, v)
        build.ret_void()
        build.position_at_end(end)
        for value, place, v in results:
            self._write(build, value, place, masks, v)
        build.ret_void()
        return block

    def _lanes(self, vectors: int) -> Any:
        return ir.Constant(_INT, self.lanes * vectors)

    def _mask(self, build: Any, left: Any, v: int) -> Any:
        """The lanes of vector `v` that are within the columns that are left."""
        kind = ir.VectorType(_INT, self.lanes)
        numbers = ir.Constant(kind, [self.lanes * v + lane for lane in range(self.lanes)])
        return build.icmp_signed("<", numbers, self._repeated(build, left, kind))

    def _repeated(self, build: Any, number: Any, kind: Any) -> Any:
        """A vector of one number."""
        nothing = ir.Constant(kind, ir.Undefined)
        first = build.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None)
        return build.shuffle_vector(first, nothing, zeros)

    def _read(self, build: Any, place: Any, masks: list[Any], v: int) -> Any:
        place = build.bitcast(place, self.vector.as_pointer())
        if not masks:
            return build.load(place, align=self.item)
        align, zero = ir.Constant(ir.IntType(32), self.item), ir.Constant(self.vector, None)
        return build.call(self.load, [place, align, masks[v], zero])

    def _write(self, build: Any, value: Any, place: Any, masks: list[Any], v: int) -> None:
        place = build.bitcast(place, self.vector.as_pointer())
        if not masks:
            build.store(value, place, align=self.item)
            return
        align = ir.Constant(ir.IntType(32), self.item)
        build.call(self.store, [value, place, align, masks[v]])


class _loop:
    """`for i in range(0, stop, step)` around what is built inside."""

    def __init__(self, build: Any, stop: Any, step: Any) -> None:
        self.build, self.stop, self.step = build, stop, step

    def __enter__(self) -> Any:
        build = self.build
        before = build.block
        self.head = build.append_basic_block()
        body, self.end = build.append_basic_block(), build.append_basic_block()
        build.branch(self.head)
        build.position_at_end(self.head)
        self.i = build.phi(_INT)
        self.i.add_incoming(ir.Constant(_INT, 0), before)
        build.cbranch(build.icmp_signed("<", self.i, self.stop), body, self.end)
        build.position_at_end(body)
        return self.i

    def __exit__(self, *_: object) -> None:
        build = self.build
        self.i.add_incoming(build.add(self.i, self.step), build.block)
        build.branch(self.head)
        build.position_at_end(self.end)
