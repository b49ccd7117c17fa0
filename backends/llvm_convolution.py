"""The inner loops of convolutions as machine code: blocks of the result that stay in registers.

A product of matrices wants windows of the image beside one another in memory, and the copies cost
as much as the product. These loops read each element of the kernel's windows where the image has
it, from a table of places (the indirect convolution algorithm, Dukhan 2019, arXiv:1907.02129);
some channels by some vectors of the result, which lie along the batch, stay in registers for as
long as the sum goes on (Goto and van de Geijn 2008, doi:10.1145/1356052.1356053).
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir

from backends.llvm import folder, key, read_code, this_machine, write_code

_INT, _SHORT, _BOOL = ir.IntType(64), ir.IntType(32), ir.IntType(1)
_KINDS = {"float32": (ir.FloatType(), 4), "float64": (ir.DoubleType(), 8)}
_ZERO, _ONE = ir.Constant(_INT, 0), ir.Constant(_INT, 1)
#: Numbers of a run: where it begins in the input and in the result, its positions, the columns of
#: each, where its places begin, and how many they are.
RUN = 6
#: At most so many places of the kernel are in one block of the gradient by the weight.
_PLACES = 4


class Blocks(NamedTuple):
    """A number of rows as `whole` blocks of `size` rows, then `short` ones of a row less."""

    size: int
    whole: int
    short: int


def blocks(rows: int, most: int) -> Blocks:
    """Blocks of nearly equal numbers of rows, `most` or less.

    >>> blocks(32, 6)
    Blocks(size=6, whole=2, short=4)
    """
    count = -(-rows // most)
    size = -(-rows // count)
    short = count * size - rows
    return Blocks(size, count - short, short)


@cache
def registers() -> tuple[int, int]:
    """The vectors of a result that registers hold, and the bytes of one."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 24, 64
    return (12, 32) if features.get("avx2") else (12, 16)


def lanes(dtype: str) -> int:
    """The numbers in a vector of the processor."""
    return registers()[1] // _KINDS[dtype][1]


def gather(dtype: str, rows: int) -> tuple[Callable[..., None], Blocks]:
    """The function that sums over a kernel's windows, and its blocks for so many channels."""
    count = registers()[0]
    parts = blocks(rows, count // 2)
    return _built(_Gather, dtype, parts.size, min(count // parts.size, 8), parts.short > 0), parts


def by_weight(dtype: str, rows: int) -> tuple[Callable[..., None], Blocks]:
    """The function that sums over a batch's images, and its blocks for so many channels."""
    parts = blocks(rows, registers()[0] // _PLACES)
    return _built(_ByWeight, dtype, parts.size, 1, parts.short > 0), parts


@cache
def _built(kind: Any, dtype: str, size: int, vectors: int, short: bool) -> Callable[..., None]:
    """The machine code, of this process or kept on disk."""
    kernel = kind(dtype, size, vectors)
    source = str(kernel.module(short))
    file = folder() / f"{key(source, [dtype])}.o"
    code = read_code(file)
    if code is None:
        code = _object(source)
        write_code(file, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), this_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.split(b"\n", 2)[2]))
    engine.finalize_object()
    kinds = [ctypes.c_void_p] * kind.pointers
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
    """What the functions of a module have in common: vectors, whole or cut, and loops."""

    pointers: int
    numbers: tuple[str, ...]

    def __init__(self, dtype: str, size: int, vectors: int) -> None:
        self.size, self.vectors = size, vectors
        self.kind, self.item = _KINDS[dtype]
        self.lanes = lanes(dtype)
        self.vector = ir.VectorType(self.kind, self.lanes)
        self.pointer = self.kind.as_pointer()
        self.whole = ir.Module("convolution")
        suffix = f"v{self.lanes}f{8 * self.item}"
        mask, place = ir.VectorType(_BOOL, self.lanes), self.vector.as_pointer()
        declared = {
            f"llvm.fmuladd.{suffix}": (self.vector, [self.vector] * 3),
            f"llvm.masked.load.{suffix}.p0": (self.vector, [place, _SHORT, mask, self.vector]),
            f"llvm.masked.store.{suffix}.p0": (
                ir.VoidType(), [self.vector, place, _SHORT, mask],
            ),
        }  # fmt: skip
        self._add, self._load, self._store = [
            ir.Function(self.whole, ir.FunctionType(*kind), name) for name, kind in declared.items()
        ]

    def run(self) -> tuple[Any, list[Any], dict[str, Any]]:
        """The function `run`: its builder, its pointers, and the numbers behind the last."""
        tables = [_INT.as_pointer()] * 3
        kinds = [*[self.pointer] * (self.pointers - 3), *tables]
        function = ir.Function(self.whole, ir.FunctionType(ir.VoidType(), kinds), "run")
        build = ir.IRBuilder(function.append_basic_block())
        *given, numbers = function.args
        named = {name: self.entry(build, numbers, i) for i, name in enumerate(self.numbers)}
        return build, given, named

    def block(self, name: str, pointers: Sequence[Any], numbers: int) -> tuple[Any, Any]:
        """A function for one block: its builder, and itself."""
        kinds = [*pointers, *[_INT] * numbers]
        function = ir.Function(self.whole, ir.FunctionType(ir.VoidType(), kinds), name)
        function.linkage = "internal"
        return ir.IRBuilder(function.append_basic_block()), function

    def entry(self, build: Any, table: Any, place: Any) -> Any:
        """A whole number of a table."""
        place = ir.Constant(_INT, place) if isinstance(place, int) else place
        return build.load(build.gep(table, [place]))

    def sum(self, build: Any, total: Any, *products: Any) -> Any:
        """A whole number and products of two."""
        for a, b in products:
            total = build.add(total, build.mul(a, b))
        return total

    @contextmanager
    def each_run(self, build: Any, runs: Any, places: Any, named: Any) -> Iterator[Any]:
        """Around what is done for each run: its numbers, and its places."""
        with loop(build, named["runs"]) as r:
            at = build.mul(r, ir.Constant(_INT, RUN))
            run = [self.entry(build, runs, build.add(at, ir.Constant(_INT, i))) for i in range(RUN)]
            yield run, build.gep(places, [build.mul(run[4], ir.Constant(_INT, 2))])

    def multiply_add(self, build: Any, x: Any, y: Any, total: Any) -> Any:
        return build.call(self._add, [x, y, total])

    def mask(self, build: Any, left: Any) -> Any:
        """The lanes of a vector that are within the columns that are left."""
        kind = ir.VectorType(_INT, self.lanes)
        numbers = ir.Constant(kind, [*range(self.lanes)])
        return build.icmp_signed("<", numbers, self.repeated(build, left, kind))

    def repeated(self, build: Any, number: Any, kind: Any = None) -> Any:
        """A vector of one number."""
        nothing = ir.Constant(kind or self.vector, ir.Undefined)
        first = build.insert_element(nothing, number, ir.Constant(_SHORT, 0))
        zeros = ir.Constant(ir.VectorType(_SHORT, self.lanes), None)
        return build.shuffle_vector(first, nothing, zeros)

    def read(self, build: Any, place: Any, mask: Any = None) -> Any:
        place = build.bitcast(place, self.vector.as_pointer())
        if mask is None:
            return build.load(place, align=self.item)
        align, zero = ir.Constant(_SHORT, self.item), ir.Constant(self.vector, None)
        return build.call(self._load, [place, align, mask, zero])

    def write(self, build: Any, value: Any, place: Any, mask: Any = None) -> None:
        place = build.bitcast(place, self.vector.as_pointer())
        if mask is None:
            build.store(value, place, align=self.item)
        else:
            build.call(self._store, [value, place, ir.Constant(_SHORT, self.item), mask])

    def columns(self, build: Any, columns: Any, widths: Sequence[int], each: Any) -> None:
        """`each(start, width, left)` along the columns: the widest it can, and one that is cut.

        A width is in vectors; it is None for the last columns, fewer than a vector.
        """
        start: Any = _ZERO
        for width in widths:
            step = ir.Constant(_INT, width * self.lanes)
            stop = self.until(build, start, columns, step)
            with loop(build, stop, step, start) as j:
                each(j, width, None)
            start = stop
        left = build.sub(columns, start)
        with build.if_then(build.icmp_signed(">", left, _ZERO)):
            each(start, None, left)

    def until(self, build: Any, start: Any, stop: Any, step: Any) -> Any:
        """The stop that whole steps reach."""
        return build.sub(stop, build.srem(build.sub(stop, start), step))

    def rows(self, build: Any, whole: Any, short: Any, each: Any) -> None:
        """`each(first row, size)` for all blocks of rows."""
        size = ir.Constant(_INT, self.size)
        with loop(build, whole) as i:
            each(build.mul(i, size), self.size)
        if short is not None:
            before = build.mul(whole, size)
            with loop(build, short) as i:
                each(build.add(before, build.mul(i, ir.Constant(_INT, self.size - 1))),
                     self.size - 1)  # fmt: skip


class _Gather(_Kernel):
    """y[o, columns] = least or more of bias[o] + the sum over places and channels of a x."""

    pointers = 8  # x, a, y, bias, least; runs, places, numbers
    numbers = (
        "runs", "xp", "yp", "groups", "inputs", "xc", "ac", "ao", "yo", "xg", "ag", "yg", "outputs",
        "whole", "short",
    )  # fmt: skip

    def module(self, short: bool) -> ir.Module:
        build, (x, a, y, bias, least, runs, places), n = self.run()
        sizes = [self.size, *([self.size - 1] if short else [])]
        widths = sorted({self.vectors, 1}, reverse=True)
        made = {(s, w): self._block(s, w) for s in sizes for w in (*widths, None)}
        with (
            self.each_run(build, runs, places, n) as (run, table),
            loop(build, run[2]) as p,
            loop(build, n["groups"]) as g,
        ):
            xr, yr = [
                build.gep(each, [self.sum(build, start, (p, n[step]), (g, n[group]))])
                for each, start, step, group in (
                    (x, run[0], "xp", "xg"), (y, run[1], "yp", "yg"),
                )
            ]  # fmt: skip
            ar = build.gep(a, [build.mul(g, n["ag"])])
            br = build.gep(bias, [build.mul(g, n["outputs"])])

            def each(j: Any, width: int | None, left: Any) -> None:
                def block(first: Any, size: int) -> None:
                    given = [
                        build.gep(xr, [j]), build.gep(ar, [build.mul(first, n["ao"])]),
                        build.gep(yr, [build.add(j, build.mul(first, n["yo"]))]),
                        build.gep(br, [first]), least, table, run[5],
                        *[n[name] for name in ("inputs", "xc", "ac", "ao", "yo")],
                        left or _ONE,
                    ]  # fmt: skip
                    build.call(made[size, width], given)

                self.rows(build, n["whole"], n["short"] if short else None, block)

            self.columns(build, run[3], widths, each)
        build.ret_void()
        return self.whole

    def _block(self, size: int, width: int | None) -> ir.Function:
        """So many channels by so many vectors; None is one that is cut."""
        kinds = [*[self.pointer] * 5, _INT.as_pointer()]
        build, block = self.block(f"gather_{size}_{width or 'cut'}", kinds, 7)
        x, a, y, bias, least, places, count, inputs, xc, ac, ao, yo, left = block.args
        mask = self.mask(build, left) if width is None else None
        vectors = width or 1
        zeros = [ir.Constant(self.vector, None)] * (size * vectors)
        with loop(build, count, sums=zeros) as outer:
            at = build.mul(outer.i, ir.Constant(_INT, 2))
            xp = build.gep(x, [self.entry(build, places, at)])
            ap = build.gep(a, [self.entry(build, places, build.add(at, _ONE))])
            with loop(build, inputs, sums=outer.sums) as inner:
                line = build.gep(xp, [build.mul(inner.i, xc)])
                right = [self.read(build, self._at(build, line, v), mask) for v in range(vectors)]
                column = build.gep(ap, [build.mul(inner.i, ac)])
                after = []
                for row in range(size):
                    place = build.gep(column, [build.mul(ao, ir.Constant(_INT, row))])
                    many = self.repeated(build, build.load(place))
                    sums = inner.sums[row * vectors : (row + 1) * vectors]
                    pairs = zip(right, sums, strict=True)
                    after += [self.multiply_add(build, many, b, total) for b, total in pairs]
                inner.after = after
            outer.after = inner.sums
        lowest = self.repeated(build, build.load(least))
        for row in range(size):
            shift = self.repeated(build, build.load(build.gep(bias, [ir.Constant(_INT, row)])))
            line = build.gep(y, [build.mul(yo, ir.Constant(_INT, row))])
            for v in range(vectors):
                value = build.fadd(outer.sums[row * vectors + v], shift)
                below = build.fcmp_ordered("<", value, lowest)
                value = build.select(below, lowest, value)
                self.write(build, value, self._at(build, line, v), mask)
        build.ret_void()
        return block

    def _at(self, build: Any, line: Any, v: int) -> Any:
        return build.gep(line, [ir.Constant(_INT, v * self.lanes)])


class _ByWeight(_Kernel):
    """total[place, o] += the products of x[place + columns] and y[o, columns], lane by lane."""

    pointers = 6  # x, y, total; runs, places, numbers
    numbers = ("runs", "xp", "yp", "groups", "xg", "yg", "tg", "yo", "whole", "short")

    def module(self, short: bool) -> ir.Module:
        build, (x, y, total, runs, places), n = self.run()
        sizes = [self.size, *([self.size - 1] if short else [])]
        made = {(p, s): self._block(p, s) for p in range(1, _PLACES + 1) for s in sizes}
        with self.each_run(build, runs, places, n) as (run, table), loop(build, n["groups"]) as g:
            xr = build.gep(x, [self.sum(build, run[0], (g, n["xg"]))])
            yr = build.gep(y, [self.sum(build, run[1], (g, n["yg"]))])
            tr = build.gep(total, [build.mul(g, n["tg"])])

            def rows(first: Any, size: int) -> None:
                def call(place: Any, count: int) -> None:
                    given = [
                        xr, build.gep(yr, [build.mul(first, n["yo"])]),
                        build.gep(tr, [build.mul(first, ir.Constant(_INT, self.lanes))]),
                        build.gep(table, [build.mul(place, ir.Constant(_INT, 2))]),
                        run[2], run[3], n["xp"], n["yp"], n["yo"],
                    ]  # fmt: skip
                    build.call(made[count, size], given)

                start: Any = _ZERO
                for count in range(_PLACES, 0, -1):
                    step = ir.Constant(_INT, count)
                    stop = self.until(build, start, run[5], step)
                    with loop(build, stop, step, start) as k:
                        call(k, count)
                    start = stop

            self.rows(build, n["whole"], n["short"] if short else None, rows)
        build.ret_void()
        return self.whole

    def _block(self, count: int, size: int) -> ir.Function:
        """So many places by so many channels."""
        build, block = self.block(
            f"by_weight_{count}_{size}", [*[self.pointer] * 3, _INT.as_pointer()], 5
        )
        x, y, total, places, positions, columns, xp, yp, yo = block.args
        xs = [build.gep(x, [self.entry(build, places, 2 * i)]) for i in range(count)]
        ys = [build.gep(y, [build.mul(yo, ir.Constant(_INT, i))]) for i in range(size)]
        step = ir.Constant(_INT, self.lanes)
        stop = self.until(build, _ZERO, columns, step)
        left = build.sub(columns, stop)
        some = build.select(build.icmp_signed(">", left, _ZERO), _ONE, _ZERO)
        mask = self.mask(build, left)

        def add(p: Any, j: Any, sums: Any, mask: Any = None) -> list[Any]:
            here, there = self.sum(build, j, (p, xp)), self.sum(build, j, (p, yp))
            of = [self.read(build, build.gep(each, [here]), mask) for each in xs]
            by = [self.read(build, build.gep(each, [there]), mask) for each in ys]
            pairs = zip(((a, b) for a in of for b in by), sums, strict=True)
            return [self.multiply_add(build, a, b, total) for (a, b), total in pairs]

        zeros = [ir.Constant(self.vector, None)] * (count * size)
        with loop(build, positions, sums=zeros) as each:
            with loop(build, stop, step, sums=each.sums) as whole:
                whole.after = add(each.i, whole.i, whole.sums)
            with loop(build, some, sums=whole.sums) as rest:
                rest.after = add(each.i, stop, rest.sums, mask)
            each.after = rest.sums
        for i in range(count):
            line = build.gep(total, [self.entry(build, places, 2 * i + 1)])
            for j in range(size):
                place = build.gep(line, [ir.Constant(_INT, j * self.lanes)])
                value = build.fadd(self.read(build, place), each.sums[i * size + j])
                self.write(build, value, place)
        build.ret_void()
        return block


class loop:
    """`for i in range(start, stop, step)` around what is built inside, with sums that it carries.

    Inside, `sums` are those so far, and `after` is to be set; afterwards, `sums` are the last.
    """

    def __init__(
        self, build: Any, stop: Any, step: Any = None, start: Any = None, sums: Sequence[Any] = ()
    ) -> None:
        self.build, self.stop, self.step = build, stop, _ONE if step is None else step
        self.start = _ZERO if start is None else start
        self.before, self.after = list(sums), list[Any]()

    def __enter__(self) -> Any:
        build, here = self.build, self.build.block
        self.head = build.append_basic_block()
        body, self.end = build.append_basic_block(), build.append_basic_block()
        build.branch(self.head)
        build.position_at_end(self.head)
        self.i = build.phi(_INT)
        self.i.add_incoming(self.start, here)
        self.sums = [build.phi(value.type) for value in self.before]
        for phi, value in zip(self.sums, self.before, strict=True):
            phi.add_incoming(value, here)
        build.cbranch(build.icmp_signed("<", self.i, self.stop), body, self.end)
        build.position_at_end(body)
        return self if self.before else self.i

    def __exit__(self, *_: object) -> None:
        build = self.build
        self.i.add_incoming(build.add(self.i, self.step), build.block)
        for phi, value in zip(self.sums, self.after, strict=True):
            phi.add_incoming(value, build.block)
        build.branch(self.head)
        build.position_at_end(self.end)
