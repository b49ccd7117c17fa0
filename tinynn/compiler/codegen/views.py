"""Views: where the elements of an array lie in flat memory. What only moves axes moves no data."""

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any, NamedTuple

from tinynn.compiler.codegen.language import Buffer, Index, Load, Variable
from tinynn.compiler.rewrite import RESHAPES
from tinynn.transforms.graph import Node

Shape = tuple[int, ...]


def contiguous(shape: Shape) -> Shape:
    """The steps from element to element along each axis, the last axis running fastest."""
    return (*list(accumulate(reversed(shape), mul))[-2::-1], 1) if shape else ()


class View(NamedTuple):
    """An array as a place in flat memory.

    Attributes
    ----------
    base
        The memory, or the variable that a single number is in; None where only the order of the
        elements is of interest.
    strides
        How far the next element is, along each axis; 0 where it is the same one.
    start
        Where the array begins, as far as that is not known beforehand: by loop variables.
    """

    base: Buffer | Variable | None
    shape: Shape
    strides: Shape
    offset: int = 0
    start: Index = Index()

    @property
    def scalar(self) -> bool:
        """True for a single number in a variable."""
        return isinstance(self.base, Variable)

    @classmethod
    def of(cls, base: Buffer | Variable | None, shape: Shape) -> "View":
        """An array that fills its memory in order."""
        return cls(base, tuple(shape), contiguous(tuple(shape)))

    def broadcast(self, shape: Shape) -> "View":
        """The array stretched to a shape."""
        new = len(shape) - len(self.shape)
        pairs = zip(self.shape, self.strides, shape[new:], strict=True)
        stretched = [step if have == want else 0 for have, step, want in pairs]
        return self._replace(shape=tuple(shape), strides=(0,) * new + tuple(stretched))

    def permuted(self, axes: Sequence[int]) -> "View":
        """The axes in another order."""
        shape, strides = (tuple(row[a] for a in axes) for row in (self.shape, self.strides))
        return self._replace(shape=shape, strides=strides)

    def squeezed(self) -> "View":
        """The array without axes of length 1."""
        kept = [a for a, n in enumerate(self.shape) if n != 1]
        return self.permuted(kept)

    def reshaped(self, shape: Shape) -> "View | None":
        """The elements in another shape; None where that would need a copy."""
        if prod(self.shape) == 1:
            return self._replace(shape=shape, strides=(0,) * len(shape))
        old = [[n, s] for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        merged = old[:1]
        for n, s in old[1:]:
            if merged[-1][1] == n * s:
                merged[-1] = [merged[-1][0] * n, s]
            else:
                merged.append([n, s])
        strides = []
        for n in reversed(shape):
            if n == 1:
                strides.append(0)
                continue
            if merged[-1][0] == 1:
                merged.pop()
            have, step = merged[-1]
            if have % n:
                return None
            strides.append(step)
            merged[-1] = [have // n, step * n]
        return self._replace(shape=tuple(shape), strides=tuple(reversed(strides)))

    def indexed(self, key: Any) -> "View":
        """The view that an index of integers, slices, None and Ellipsis gives."""
        parts = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis not in parts:
            parts.append(Ellipsis)
        place = parts.index(Ellipsis)
        missing = len(self.shape) - sum(p is not None and p is not Ellipsis for p in parts)
        parts[place : place + 1] = [slice(None)] * missing
        shape, strides, offset, axis = [], [], self.offset, 0
        for part in parts:
            if part is None:
                shape.append(1)
                strides.append(0)
                continue
            length, step = self.shape[axis], self.strides[axis]
            axis += 1
            if isinstance(part, slice):
                start, stop, by = part.indices(length)
                shape.append(len(range(start, stop, by)))
                strides.append(step * by)
                offset += start * step
            else:
                offset += (part % length) * step
        return self._replace(shape=tuple(shape), strides=tuple(strides), offset=offset)

    def entry(self, place: Index) -> "View":
        """The array at a place along the first axis."""
        start = self.start.plus(place.times(self.strides[0]))
        return self._replace(shape=self.shape[1:], strides=self.strides[1:], start=start)

    def part(self, first: int, shape: Shape) -> "View":
        """An array of a vector's elements in order, from one of them on."""
        return self._replace(
            shape=tuple(shape), strides=contiguous(tuple(shape)), offset=self.offset + first
        )

    def at(self, *places: Index | Variable | int) -> Load | Variable:
        """One element."""
        if isinstance(self.base, Variable):
            return self.base
        assert self.base is not None
        return Load(self.base, self.distance(*places))

    def distance(self, *places: Index | Variable | int) -> Index:
        """The distance of an element from the start of the memory."""
        index = self.start
        for step, place in zip(self.strides, places, strict=True):
            index = index.plus(Index.of(place).times(step))
        return index.plus(Index.of(self.offset))


def seen(node: Node, base: View) -> View | None:
    """The view that a call gives of an array lying as `base` says; None if it needs a copy."""
    shape = tuple(node.shape)
    if node.name in RESHAPES:
        return base.reshaped(shape)
    if node.name == "part":
        start = node.kwargs["start"]
        return base.part(start, shape)
    if node.name == "broadcast_to":
        return base.broadcast(shape)
    axes = list(range(len(base.shape)))
    if node.name == "matrix_transpose":
        return base.permuted([*axes[:-2], axes[-1], axes[-2]])
    if node.name == "permute_dims":
        axes = node.kwargs["axes"] if "axes" in node.kwargs else node.args[1]
        return base.permuted([a % len(base.shape) for a in axes])
    if node.name == "moveaxis":
        source, goal = node.kwargs["source"], node.kwargs["destination"]
        pairs = zip(*[(v,) if isinstance(v, int) else v for v in (source, goal)], strict=True)
        moved = {d % len(axes): s % len(axes) for s, d in pairs}
        rest = iter([a for a in axes if a not in moved.values()])
        return base.permuted([moved[a] if a in moved else next(rest) for a in axes])
    return base.indexed(node.kwargs["key"])
