"""Matrix products as loops that keep a block of the result in registers, or left to BLAS.

Large ones are for the library's BLAS, which minds the processor's caches. The others take four rows
and 128 bytes of columns at a time: the compiler holds them in vector registers while it goes along
the axis that is summed over. The right factor's rows have to lie one element after the other, and
be as long as whole vectors; where they are not, a copy is.
"""

from math import inf, prod
from typing import Any

from tinynn.compiler.rewrite import is_call
from tinynn.compiler.views import View
from tinynn.transforms.graph import Node

_ROWS = 4
_BYTES = 128  # of a block's columns
_WIDTHS = (1, 2, 4, 8)


class Products:
    """Writes the loops of matrix products for a kernel."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.roomy: set[str] = set()  # memory whose rows have room for whole vectors

    def write(self, node: Node) -> None:
        """The loops of one product, for each of the matrices in a stack."""
        a, b = (self.kernel.view(x) for x in node.args)
        out = self.kernel.must_be_at(node)
        shape = tuple(node.shape)
        if len(a.shape) == 1:
            a = a._replace(shape=(1, *a.shape), strides=(0, *a.strides))
            shape = (*shape[:-1], 1, *shape[-1:]) if len(b.shape) > 1 else (1, *shape)
        if len(b.shape) == 1:
            b = b._replace(shape=(*b.shape, 1), strides=(*b.strides, 0))
            shape = (*shape, 1)
        stack = shape[:-2]
        a, b = a.broadcast((*stack, *a.shape[-2:])), b.broadcast((*stack, *b.shape[-2:]))
        large = self._large(node, a, b)
        if out is None and not stack and not large and tuple(node.shape) == shape:
            out = self._padded(node)
        out = (self.kernel.home(node) if out is None else out).reshaped(shape)
        if out is None:
            raise AssertionError(f"the memory of {node.name} cannot be looked at as {shape}")
        for axis, n in enumerate(stack):
            self.kernel.write(axis, f"for m{axis} in range({n}):")
        self.depth = len(stack)
        self.stack = [f"m{axis}" for axis in range(len(stack))]
        text = self._left_to_blas(node, a, b, out) if large else None
        if text is None:
            self._one(node, a, b, out)
        else:
            self._write(0, text)

    def _large(self, node: Node, a: View, b: View) -> bool:
        """Whether BLAS is faster."""
        sides = *a.shape[-2:], b.shape[-1]
        large = self.kernel.products.get(self.kernel.speech.dtype(node.dtype), inf)
        return min(sides) >= _ROWS and prod(sides) >= large

    def _left_to_blas(self, node: Node, a: View, b: View, out: View) -> str | None:
        """The call of BLAS; None where a factor's elements lie in an order that it has no word for.

        What lies transposed is the product of the transposed factors, the other way round.
        """
        if out.strides[-1] != 1:
            a, b, out = _turned(b), _turned(a), _turned(out)
        left, right, result = (_order(each) for each in (a, b, out))
        if left is None or right is None or result is None or result[0]:
            return None
        sizes = a.shape[-2], b.shape[-1], a.shape[-1]
        places = [f"{v.base}, {v.distance(*self.stack, 0, 0)}" for v in (a, b, out)]
        given = (*sizes, places[0], *left, places[1], *right, places[2], result[1])
        return f"product_{self.kernel.speech.dtype(node.dtype)}({', '.join(map(str, given))})"

    def _padded(self, node: Node) -> View | None:
        """Memory with room at the end of each row, if all who read the result can do with it."""
        rows, columns = node.shape
        wide = _padded_to(columns, self.kernel.speech.bytes(node.dtype))
        readers = self.kernel.schedule.readers.get(id(node), [])
        plain = ("matrix_transpose", "permute_dims", "broadcast_to")
        for _, seen in readers:
            while seen is not node:
                if seen.name not in plain:
                    return None
                seen = seen.args[0]
        if wide == columns or columns == 1 or not is_call(node) or self.is_output(node):
            return None
        name = self.kernel.allocated("b0", rows * wide, node.dtype)
        view: View = View.of(name, node.shape)._replace(strides=(wide, 1))
        self.kernel.homes[id(node)] = view
        self.roomy.add(name)
        return view

    def is_output(self, node: Node) -> bool:
        """Whether the step gives it away."""
        return any(o is node for o in self.kernel.graph.outputs)

    def _one(self, node: Node, a: View, b: View, out: View) -> None:
        rows, length = a.shape[-2:]
        columns = b.shape[-1]
        if columns == 1 and rows > 1:
            a, b, out = _turned(b), _turned(a), _turned(out)
            rows, columns = columns, rows
        straight = columns == 1 or b.strides[-1] == 1
        if columns == 1 or (rows < _ROWS and not straight):
            self._dots(node, a, b, out)
            return
        wide = _padded_to(columns, self.kernel.speech.bytes(node.dtype))
        room = b.base in self.roomy and b.strides[-2] == wide
        if not straight or (wide != columns and not room):
            b = self._copied(node, b, wide)
        target = out
        roomy = out.base in self.roomy and out.strides[-2] == wide
        if out.strides[-1] != 1 or (wide != columns and not roomy):
            name = self.kernel.allocated("block", rows * wide, node.dtype)
            target = View.of(name, (rows, wide))
            target = _stacked(target, out)
        self._blocks(node, a, b, target, rows, length, wide)
        if target is not out:
            self._loop(0, "i", rows)
            self._loop(1, "j", columns)
            self._write(2, f"{self._at(out, 'i', 'j')} = {self._at(target, 'i', 'j')}")

    def _copied(self, node: Node, b: View, wide: int) -> View:
        """The right factor with its rows in order, each as long as whole vectors."""
        length, columns = b.shape[-2:]
        name = self.kernel.allocated("turned", length * wide, node.dtype)
        copy = _stacked(View.of(name, (length, wide)), b)
        self._loop(0, "k", length)
        self._loop(1, "j", columns)
        self._write(2, f"{self._at(copy, 'k', 'j')} = {self._at(b, 'k', 'j')}")
        return copy

    def _dots(self, node: Node, a: View, b: View, out: View) -> None:
        """Each element by itself, along rows of both."""
        total = self.kernel.new("dot")
        self._loop(0, "i", a.shape[-2])
        self._loop(1, "j", b.shape[-1])
        self._write(2, f"{total} = {self.kernel.speech.number(0, node.dtype)}")
        self._loop(2, "k", a.shape[-1])
        factors = self._at(a, "i", "k"), self._at(b, "k", "j")
        more = self.kernel.speech.plus_product(node.dtype, total, *factors)
        self._write(3, f"{total} = {more}")
        self._write(2, f"{self._at(out, 'i', 'j')} = {total}")

    def _blocks(
        self, node: Node, a: View, b: View, out: View, rows: int, length: int, wide: int
    ) -> None:
        most = _BYTES // self.kernel.speech.bytes(node.dtype)
        whole = wide - wide % most
        for first, stop, step in ((0, whole, most), (whole, wide, wide - whole)):
            if first == stop:
                continue
            upper = rows - rows % _ROWS
            for top, bottom, high in ((0, upper, _ROWS), (upper, rows, rows - upper)):
                if top < bottom:
                    self._block(node, a, b, out, length, (first, stop, step), (top, bottom, high))

    def _block(self, node: Node, a: View, b: View, out: View, length: int, c: Any, r: Any) -> None:
        depth, i, j = 0, r[0], c[0]
        if r[1] - r[0] > r[2]:
            i = "i"
            self._write(depth, f"for i in range({r[0]}, {r[1]}, {r[2]}):")
            depth += 1
        column: Any = "j" if not j else ("j", j)
        if c[1] - c[0] > c[2]:
            self._write(depth, f"for j0 in range({c[0]}, {c[1]}, {c[2]}):")
            depth += 1
            column = "j0 + j"
        rows = [(i, n) for n in range(r[2])]
        self._loop(depth, "j", c[2])
        for row in rows:
            zero = self.kernel.speech.number(0, node.dtype)
            self._write(depth + 1, f"{self._at(out, row, column)} = {zero}")
        self._loop(depth, "k", length)
        factors = [self.kernel.new("a0") for _ in rows]
        for name, row in zip(factors, rows, strict=True):
            self._write(depth + 1, f"{name} = {self._at(a, row, 'k')}")
        self._loop(depth + 1, "j", c[2])
        factor = self.kernel.new("b")
        self._write(depth + 2, f"{factor} = {self._at(b, 'k', column)}")
        for name, row in zip(factors, rows, strict=True):
            place = self._at(out, row, column)
            more = self.kernel.speech.plus_product(node.dtype, place, name, factor)
            self._write(depth + 2, f"{place} = {more}")

    def _at(self, view: View, *places: Any) -> str:
        stack = self.stack[: len(view.shape) - 2]
        places = tuple(f"({p})" if isinstance(p, str) and "+" in p else p for p in places)
        return view.at(*stack, *places)

    def _loop(self, depth: int, name: str, count: int) -> None:
        self._write(depth, f"for {name} in range({count}):")

    def _write(self, depth: int, text: str) -> None:
        self.kernel.write(self.depth + depth, text)


def _padded_to(columns: int, bytes_each: int) -> int:
    """The number of columns that fills whole vectors."""
    vector = 64 // bytes_each
    if columns >= vector:
        return -(-columns // vector) * vector
    return next(w for w in (*_WIDTHS, vector) if w >= columns)


def _order(view: View) -> tuple[int, int] | None:
    """(whether a matrix lies transposed in memory, the step between its rows there), for BLAS."""
    for turned, (rows, columns) in enumerate((view.strides[-2:], view.strides[:-3:-1])):
        if columns == 1 and rows >= view.shape[-2 if turned else -1]:
            return turned, rows
    return None


def _turned(view: View) -> View:
    axes = list(range(len(view.shape)))
    return view.permuted([*axes[:-2], axes[-1], axes[-2]])


def _stacked(view: View, like: View) -> View:
    """A matrix that is used again for each of the stack."""
    stack = like.shape[:-2]
    return view._replace(shape=(*stack, *view.shape), strides=(0,) * len(stack) + view.strides)
