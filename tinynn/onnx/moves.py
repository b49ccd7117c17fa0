"""Rows of the table for functions that move elements and change no number.

Source: https://onnx.ai/onnx/operators/
"""

from collections.abc import Callable
from typing import Any

from tinynn.onnx.emitter import INT64, Emitter, OnnxError
from tinynn.trace.core import HOLE
from tinynn.transforms.graph import Dim, Node

Row = Callable[[Emitter, Node], Any]


def axes_of(node: Node) -> list[int]:
    """The axes that a call is over, counted from the front."""
    rank, axis = len(node.args[0].shape), node.kwargs.get("axis")
    given = range(rank) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return [each % rank for each in given]


def reshaped(out: Emitter, node: Node) -> str:
    """The elements in another shape; the length of the batch follows from the others."""
    x = out.value(node.args[0])
    options: dict[str, Any] = (
        {"allowzero": 1} if 0 in [int(length) for length in node.shape] else {}
    )
    return out.emit("Reshape", [x, out.shape(node.shape, one_is_left=True)], **options)


def transposed(order: Callable[[Node, int], Any]) -> Row:
    """The axes in the order that `order(node, rank)` gives."""

    def row(out: Emitter, node: Node) -> str:
        rank = len(node.args[0].shape)
        perm = [axis % rank for axis in order(node, rank)]
        return out.transpose(out.value(node.args[0]), perm)

    return row


def last_two(node: Node, rank: int) -> list[int]:
    """The order of a matrix transposed."""
    return [*range(rank - 2), rank - 1, rank - 2]


def moved(node: Node, rank: int) -> list[int]:
    """The order after some axes were moved."""
    source, to = node.kwargs["source"], node.kwargs["destination"]
    sources = [a % rank for a in (source if isinstance(source, tuple | list) else [source])]
    targets = [a % rank for a in (to if isinstance(to, tuple | list) else [to])]
    order = [axis for axis in range(rank) if axis not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return order


def concat(out: Emitter, node: Node) -> str:
    """One array after the other."""
    arrays, axis = [out.value(a, node.dtype) for a in node.args], node.kwargs.get("axis", 0)
    if axis is None:
        arrays, axis = [out.emit("Reshape", [a, out.integers([-1])]) for a in arrays], 0
    return out.emit("Concat", arrays, axis=axis % len(node.shape))


def stack(out: Emitter, node: Node) -> str:
    """Arrays along an axis that is new."""
    axis = node.kwargs.get("axis", 0) % len(node.shape)
    at = out.integers([axis])
    arrays = [out.emit("Unsqueeze", [out.value(a, node.dtype), at]) for a in node.args]
    return out.emit("Concat", arrays, axis=axis)


def unstack(out: Emitter, node: Node) -> list[str]:
    """The parts along an axis, each a value of its own."""
    x, axis = node.args[0], node.kwargs.get("axis", 0)
    if isinstance(x.shape[axis], Dim):
        raise OnnxError("expected an axis of a fixed length to unstack, got the batch")
    return [
        out.emit("Gather", [out.value(x), out.number(index, INT64)], axis=axis)
        for index in range(x.shape[axis])
    ]


def broadcast(out: Emitter, node: Node) -> str:
    """Repeated to a shape."""
    return out.emit("Expand", [out.value(node.args[0]), out.shape(node.shape)])


def filled(value: float | None) -> Row:
    """An array of one value, in the shape that was recorded."""

    def row(out: Emitter, node: Node) -> str:
        names = ("fill_value", "value")
        given = next((node.kwargs[n] for n in names if n in node.kwargs), value)
        return out.emit("Expand", [out.value(given, node.dtype), out.shape(node.shape)])

    return row


def flip(out: Emitter, node: Node) -> str:
    """The other way round along some axes."""
    axes = axes_of(node)
    ends = [axes, [-1] * len(axes), [-(2**63) + 1] * len(axes)]
    starts, stops = out.integers(ends[1]), out.integers(ends[2])
    return out.emit("Slice", [out.value(node.args[0]), starts, stops, out.integers(axes), starts])


def tile(out: Emitter, node: Node) -> str:
    """Repeated along its axes."""
    times, rank = node.kwargs["repetitions"], len(node.args[0].shape)
    if len(times) > rank or any(isinstance(each, Dim) for each in times):
        raise OnnxError("expected a fixed number of repetitions for axes that are there")
    times = [1] * (rank - len(times)) + list(times)
    return out.emit("Tile", [out.value(node.args[0]), out.integers(times)])


def triangle(upper: int) -> Row:
    """The part on one side of a diagonal."""
    return lambda out, node: out.emit(
        "Trilu", [out.value(node.args[0]), out.number(node.kwargs.get("k", 0), INT64)], upper=upper
    )


def take(out: Emitter, node: Node) -> str:
    """The entries at indices along an axis."""
    x, indices = out.value(node.args[0]), out.value(node.args[1])
    return out.emit("Gather", [x, indices], axis=node.kwargs.get("axis") or 0)


def take_along(out: Emitter, node: Node) -> str:
    """The entries at indices, for each slice its own."""
    x, indices = out.value(node.args[0]), out.value(node.args[1])
    return out.emit("GatherElements", [x, indices], axis=node.kwargs.get("axis", -1))


def dynamic_slice(out: Emitter, node: Node) -> str:
    """A slice whose ends are computed."""
    size = node.kwargs["size"]
    return _between(out, node, *_ends(out, node, node.args[1], size))


def dynamic_update_slice(out: Emitter, node: Node) -> str:
    """What stands before the slice, the update, and what stands behind it."""
    axis, update = node.kwargs.get("axis", 0), node.args[1]
    first, last = _ends(out, node, node.args[2], update.shape[axis])
    before = _between(out, node, out.integers([0]), first)
    behind = _between(out, node, last, out.integers([2**63 - 1]))
    return out.emit("Concat", [before, out.value(update), behind], axis=axis % len(node.shape))


def _ends(out: Emitter, node: Node, start: Any, size: Any) -> tuple[str, str]:
    """Where a slice that is always inside begins and ends."""
    last = int(node.args[0].shape[node.kwargs.get("axis", 0)]) - int(size)
    first = out.emit("Max", [_as_int64(out, start), out.number(0, INT64)])
    first = out.emit("Min", [first, out.number(last, INT64)])
    first = out.emit("Reshape", [first, out.integers([1])])
    return first, out.emit("Add", [first, out.integers([int(size)])])


def _as_int64(out: Emitter, start: Any) -> str:
    return out.emit("Cast", [out.value(start)], to=INT64)


def _between(out: Emitter, node: Node, first: str, last: str) -> str:
    axis = out.integers([node.kwargs.get("axis", 0) % len(node.args[0].shape)])
    return out.emit("Slice", [out.value(node.args[0]), first, last, axis])


def getitem(out: Emitter, node: Node) -> str:
    """Slices first, then what takes axes away, then what adds them."""
    x, key = node.args[0], node.kwargs["key"]
    key = list(key) if isinstance(key, tuple) else [key]
    if len(node.args) > 1:
        return _gathered(out, node, key)
    if any(isinstance(part, bool) for part in key):
        raise OnnxError("expected integers, slices, None and ... as an index, got a boolean")
    used = sum(part is not None and part is not Ellipsis for part in key)
    rest = [slice(None)] * (len(x.shape) - used)
    at = key.index(Ellipsis) if Ellipsis in key else len(key)
    parts = [*key[:at], *rest, *key[at + 1 :]]
    name, axis, gone, new, place = out.value(x), 0, [], [], 0
    cut: list[list[Any]] = [[], [], [], []]
    for part in parts:
        if part is None:
            new.append(place)
        elif isinstance(part, slice):
            if part != slice(None):
                _cut(cut, axis, part)
        else:
            _cut(cut, axis, slice(part, part + 1 if part != -1 else None))
            gone.append(axis)
        place += part is None or isinstance(part, slice)
        axis += part is not None
    if cut[2]:
        starts, stops, axes, steps = cut
        ends = [out.shape(starts), out.shape(stops), out.integers(axes), out.integers(steps)]
        name = out.emit("Slice", [name, *ends])
    name = out.emit("Squeeze", [name, out.integers(gone)]) if gone else name
    return out.emit("Unsqueeze", [name, out.integers(new)]) if new else name


def _cut(cut: list[list[Any]], axis: int, part: slice) -> None:
    """One more axis for Slice, whose ends are numbers in every case."""
    far, step = 2**63 - 1, part.step or 1
    first, last = (0, far) if step > 0 else (far, -far)
    for column, value in zip(
        cut,
        (
            first if part.start is None else part.start,
            last if part.stop is None else part.stop,
            axis,
            step,
        ),
        strict=True,
    ):
        column.append(value)


def _gathered(out: Emitter, node: Node, key: list[Any]) -> str:
    """An index with one array of integers, everything else being taken whole."""
    indices = node.args[1]
    whole = all(part is HOLE or part is Ellipsis or part == slice(None) for part in key)
    integers = out.backend.xp.isdtype(indices.dtype, "integral")
    if len(node.args) > 2 or not whole or not integers:
        raise OnnxError("expected one array of integers and whole slices as an index, got another")
    at = key.index(HOLE)
    if Ellipsis in key[:at]:
        at -= len(key)
    return out.emit("Gather", [out.value(node.args[0]), out.value(indices)], axis=at)


def item(out: Emitter, node: Node) -> str:
    """One of several results."""
    name: str = out.names[id(node.args[0])][node.kwargs["index"]]
    return name
