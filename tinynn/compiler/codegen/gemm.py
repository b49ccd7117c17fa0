"""Matrix products as loops that keep a block of the result in registers, or left to BLAS.

Large ones are for the library's BLAS, which minds the processor's caches. The others take four rows
and 128 bytes of columns at a time: the compiler holds them in vector registers while it goes along
the axis that is summed over. The right factor's rows have to lie one element after the other, and
be as long as whole vectors; where they are not, a copy is. Of several threads, each computes a few
rows of one column, in registers of its own.
"""

from collections.abc import Iterable
from math import inf, prod
from typing import Any

from tinynn.compiler.codegen.language import (
    BYTES,
    INDEX,
    Accumulate,
    Apply,
    Assign,
    Buffer,
    Combine,
    Expression,
    Gemm,
    Index,
    Loop,
    Matrix,
    Parallel,
    Statement,
    Store,
    Variable,
    nested,
)
from tinynn.compiler.codegen.operations import start_of
from tinynn.compiler.codegen.views import View
from tinynn.compiler.rewrite import is_call
from tinynn.transforms.graph import Node

_ROWS = 4
_BYTES = 128  # of a block's columns
_WIDTHS = (1, 2, 4, 8)
_LONG = 64  # of a dot product that threads share

_I, _J, _K, _J0 = (Variable(name, INDEX) for name in ("i", "j", "k", "j0"))

Place = Index | Variable | int


class Products:
    """Writes the loops of matrix products for a block."""

    def __init__(self, block: Any) -> None:
        self.block = block
        self.roomy: set[Buffer] = set()  # memory whose rows have room for whole vectors

    def statements(self, node: Node) -> Iterable[Statement]:
        """The loops of one product, for each of the matrices in a stack."""
        a, b = (self.block.view(x) for x in node.args)
        out = self.block.must_be_at(node)
        self.dtype: str = self.block.work.scalars.dtype(node.dtype)
        shape = tuple(node.shape)
        if len(a.shape) == 1:
            a = a._replace(shape=(1, *a.shape), strides=(0, *a.strides))
            shape = (*shape[:-1], 1, *shape[-1:]) if len(b.shape) > 1 else (1, *shape)
        if len(b.shape) == 1:
            b = b._replace(shape=(*b.shape, 1), strides=(*b.strides, 0))
            shape = (*shape, 1)
        stack = shape[:-2]
        a, b = a.broadcast((*stack, *a.shape[-2:])), b.broadcast((*stack, *b.shape[-2:]))
        large, serial = self._large(a, b), not self.block.work.parallel
        if out is None and serial and not stack and not large and tuple(node.shape) == shape:
            out = self._padded(node)
        out = (self.block.home(node) if out is None else out).reshaped(shape)
        if out is None:
            raise AssertionError(f"the memory of {node.name} cannot be looked at as {shape}")
        self.stack = [Variable(f"m{axis}", INDEX) for axis in range(len(stack))]
        matrices = list(zip(self.stack, stack, strict=True))
        if not serial:
            return self._by_threads(matrices, a, b, out)
        gemm = self._left_to_blas(a, b, out) if large else None
        return nested(matrices, self._one(a, b, out) if gemm is None else [gemm])

    # BLAS.

    def _large(self, a: View, b: View) -> bool:
        """True for a product that is large enough for BLAS to be faster."""
        sides = *a.shape[-2:], b.shape[-1]
        large = self.block.work.products.get(self.dtype, inf)
        return min(sides) >= _ROWS and prod(sides) >= large

    def _left_to_blas(self, a: View, b: View, out: View) -> Gemm | None:
        """The call of BLAS; None where a factor's elements lie in an order that it has no word for.

        What lies transposed is the product of the transposed factors, the other way round.
        """
        if out.strides[-1] != 1:
            a, b, out = _turned(b), _turned(a), _turned(out)
        left, right, result = (self._matrix(each) for each in (a, b, out))
        if left is None or right is None or result is None or result.transposed:
            return None
        return Gemm(a.shape[-2], b.shape[-1], a.shape[-1], left, right, result)

    def _matrix(self, view: View) -> Matrix | None:
        """A matrix as BLAS knows it."""
        for turned, (rows, columns) in enumerate((view.strides[-2:], view.strides[:-3:-1])):
            if columns == 1 and rows >= view.shape[-2 if turned else -1]:
                assert isinstance(view.base, Buffer)
                return Matrix(view.base, view.distance(*self.stack, 0, 0), bool(turned), rows)
        return None

    # Blocks in vector registers.

    def _padded(self, node: Node) -> View | None:
        """Memory with room at the end of each row, if all who read the result can do with it."""
        rows, columns = node.shape
        wide = _padded_to(columns, BYTES[self.dtype])
        readers = self.block.schedule.readers.get(id(node), [])
        plain = ("matrix_transpose", "permute_dims", "broadcast_to")
        for _, seen in readers:
            while seen is not node:
                if seen.name not in plain:
                    return None
                seen = seen.args[0]
        given = any(o is node for o in self.block.graph.outputs)
        if wide == columns or columns == 1 or not is_call(node) or given:
            return None
        memory = self.block.work.allocated("b0", rows * wide, self.dtype)
        view: View = View.of(memory, node.shape)._replace(strides=(wide, 1))
        self.block.homes[id(node)] = view
        self.roomy.add(memory)
        return view

    def _one(self, a: View, b: View, out: View) -> list[Statement]:
        rows, length = a.shape[-2:]
        columns = b.shape[-1]
        if columns == 1 and rows > 1:
            a, b, out = _turned(b), _turned(a), _turned(out)
            rows, columns = columns, rows
        straight = columns == 1 or b.strides[-1] == 1
        if columns == 1 or (rows < _ROWS and not straight):
            return self._dots(a, b, out)
        done: list[Statement] = []
        wide = _padded_to(columns, BYTES[self.dtype])
        room = b.base in self.roomy and b.strides[-2] == wide
        if not straight or (wide != columns and not room):
            copy = self._memory("turned", length, wide, b)
            store = self._store(copy, (_K, _J), self._at(b, _K, _J))
            once = b.base in self.block.fixed and not self.stack
            copying = nested([(_K, length), (_J, columns)], [store])
            (self.block.before if once else done).extend(copying)
            b = copy
        target = out
        roomy = out.base in self.roomy and out.strides[-2] == wide
        if out.strides[-1] != 1 or (wide != columns and not roomy):
            target = self._memory("block", rows, wide, out)
        done += self._blocks(a, b, target, rows, length, wide)
        if target is not out:
            store = self._store(out, (_I, _J), self._at(target, _I, _J))
            done += nested([(_I, rows), (_J, columns)], [store])
        return done

    def _memory(self, wanted: str, rows: int, columns: int, like: View) -> View:
        """A matrix of its own, which is used again for each of the stack."""
        memory = self.block.work.allocated(wanted, rows * columns, self.dtype)
        view, stack = View.of(memory, (rows, columns)), like.shape[:-2]
        return view._replace(shape=(*stack, *view.shape), strides=(0,) * len(stack) + view.strides)

    def _dots(self, a: View, b: View, out: View) -> list[Statement]:
        """Each element by itself, along rows of both."""
        total = self.block.work.variable("dot", self.dtype)
        product = self._product(self._at(a, _I, _K), self._at(b, _K, _J))
        body: list[Statement] = [
            Assign(total, start_of("sum", self.dtype)),
            Loop(_K, 0, a.shape[-1], 1, (Accumulate(total, "sum", product),)),
            self._store(out, (_I, _J), total),
        ]
        return list(nested([(_I, a.shape[-2]), (_J, b.shape[-1])], body))

    def _blocks(
        self, a: View, b: View, out: View, rows: int, length: int, wide: int
    ) -> list[Statement]:
        done: list[Statement] = []
        most = _BYTES // BYTES[self.dtype]
        whole = wide - wide % most
        for first, stop, step in ((0, whole, most), (whole, wide, wide - whole)):
            if first == stop:
                continue
            upper = rows - rows % _ROWS
            for top, bottom, high in ((0, upper, _ROWS), (upper, rows, rows - upper)):
                if top < bottom:
                    c, r = (first, stop, step), (top, bottom, high)
                    done += self._block(a, b, out, length, c, r)
        return done

    def _block(
        self, a: View, b: View, out: View, length: int, c: tuple[int, ...], r: tuple[int, ...]
    ) -> tuple[Statement, ...]:
        """Blocks of the result, from c[0] and r[0] on, in steps of their size."""
        down, across = r[1] - r[0] > r[2], c[1] - c[0] > c[2]
        top, left = Index.of(_I if down else r[0]), Index.of(_J0 if across else c[0])
        column = left.plus(Index.of(_J)) if across else Index.of(_J).plus(left)
        rows = [top.plus(Index.of(n)) for n in range(r[2])]
        zero = start_of("sum", self.dtype)
        cleared = [self._store(out, (row, column), zero) for row in rows]
        factors = [self.block.work.variable("a0", self.dtype) for _ in rows]
        loads = [Assign(f, self._at(a, row, _K)) for f, row in zip(factors, rows, strict=True)]
        factor = self.block.work.variable("b", self.dtype)
        body: list[Statement] = [Assign(factor, self._at(b, _K, column))]
        for name, row in zip(factors, rows, strict=True):
            body.append(Accumulate(self._at(out, row, column), "sum", self._product(name, factor)))
        along = Loop(_J, 0, c[2], 1, tuple(body))
        done: tuple[Statement, ...] = (
            Loop(_J, 0, c[2], 1, tuple(cleared)),
            Loop(_K, 0, length, 1, (*loads, along)),
        )
        if across:
            done = (Loop(_J0, c[0], c[1], c[2], done),)
        if down:
            done = (Loop(_I, r[0], r[1], r[2], done),)
        return done

    # Threads.

    def _by_threads(
        self, stack: list[tuple[Variable, int]], a: View, b: View, out: View
    ) -> list[Statement]:
        """Elements of the result for each thread, in variables."""
        rows, length, columns = *a.shape[-2:], b.shape[-1]
        if rows == columns == 1 and not stack and length >= _LONG:
            return self._shared_dot(a, b, out)
        points = columns * prod(n for _, n in stack)
        high = _ROWS if rows // _ROWS * points >= self.block.work.threads else 1
        done: list[Statement] = []
        upper = rows - rows % high
        for top, bottom, each in ((0, upper, high), (upper, rows, rows - upper)):
            if top == bottom:
                continue
            row = Index.of(_I).times(each).plus(Index.of(top))
            body = self._tile(a, b, out, [row.plus(Index.of(n)) for n in range(each)], length)
            axes = (*stack, (_I, (bottom - top) // each), (_J, columns))
            done.append(Parallel(axes, tuple(body)))
        return done

    def _tile(
        self, a: View, b: View, out: View, rows: list[Index], length: int
    ) -> Iterable[Statement]:
        """A few rows of one column."""
        totals = [self.block.work.variable("dot", self.dtype) for _ in rows]
        factor = self.block.work.variable("b", self.dtype)
        body: list[Statement] = [Assign(factor, self._at(b, _K, _J))]
        for total, row in zip(totals, rows, strict=True):
            product = self._product(self._at(a, row, _K), factor)
            body.append(Accumulate(total, "sum", product))
        yield from [Assign(total, start_of("sum", self.dtype)) for total in totals]
        yield Loop(_K, 0, length, 1, tuple(body))
        for total, row in zip(totals, rows, strict=True):
            yield self._store(out, (row, _J), total)

    def _shared_dot(self, a: View, b: View, out: View) -> list[Statement]:
        """The product of two long vectors: a part of the sum for each thread."""
        total = self.block.work.variable("dot", self.dtype)
        product = self._product(self._at(a, 0, _K), self._at(b, _K, 0))
        return [
            Assign(total, start_of("sum", self.dtype)),
            Parallel(((_K, a.shape[-1]),), (Accumulate(total, "sum", product),)),
            Combine(total, "sum"),
            Parallel((), (self._store(out, (0, 0), total),)),
        ]

    # Elements.

    def _at(self, view: View, row: Place, column: Place) -> Any:
        return view.at(*self.stack[: len(view.shape) - 2], row, column)

    def _store(self, view: View, place: tuple[Place, Place], value: Expression) -> Store:
        return Store(self._at(view, *place), value)

    def _product(self, left: Expression, right: Expression) -> Apply:
        return Apply("multiply", (left, right), self.dtype)


def _padded_to(columns: int, bytes_each: int) -> int:
    """The number of columns that fills whole vectors."""
    vector = 64 // bytes_each
    if columns >= vector:
        return -(-columns // vector) * vector
    return next(w for w in (*_WIDTHS, vector) if w >= columns)


def _turned(view: View) -> View:
    axes = list(range(len(view.shape)))
    return view.permuted([*axes[:-2], axes[-1], axes[-2]])
