"""`take` and `scatter_add` as loops: elements picked by whole numbers that are known beforehand.

The gradient of every index and slice is a scatter_add. Loops do not look where they write, so the
numbers have to be given from outside or with a batch, where `check_picked` looks at them before
every run.
"""

from collections.abc import Iterable
from typing import Any

from tinynn.compiler.plan import root
from tinynn.compiler.rewrite import size
from tinynn.compiler.scalars import cannot
from tinynn.transforms.graph import Constant, Input, Node


def write_picked(kernel: Any, node: Node) -> None:
    """The loops of a take, or of a scatter_add into a copy of its first argument."""
    x, indices = node.args[:2]
    axis = node.kwargs.get("axis", 0) % len(x.shape)
    first, count, out = root(indices), x.shape[axis], kernel.home(node)
    if not isinstance(first, Constant) and not any(first is s for s in kernel.streams):
        raise cannot(node, ": the step computes its indices")
    if len(indices.shape) != 1 or size(indices) != size(first):
        raise cannot(node, ": its indices are a part of other numbers, or no vector")
    kernel.picked.append((first, count))
    shape = node.shape if node.name == "take" else node.args[2].shape
    places = [f"i{place}" for place in range(len(shape))]
    picked = [*places[:axis], "at", *places[axis + 1 :]]
    if node.name == "scatter_add":
        kernel.copy(x, out)
    for depth, n in enumerate(shape):
        kernel.write(depth, f"for i{depth} in range({n}):")
    depth = len(shape)
    kernel.write(depth, f"at = {kernel.view(indices).at(places[axis])}")
    kernel.write(depth, f"at = at + {count} if at < 0 else at")
    if node.name == "take":
        kernel.write(depth, f"{out.at(*places)} = {kernel.view(x).at(*picked)}")
    else:
        more = kernel.view(node.args[2]).at(*places)
        kernel.write(depth, f"{out.at(*picked)} = {out.at(*picked)} + {more}")


def check_picked(picked: Iterable[tuple[Node, int]], arrays: dict[int, Any]) -> None:
    """IndexError if one of these arrays, by the id of what it is given for, picks what is not."""
    for node, count in picked:
        array = arrays.get(id(node))
        if array is None:
            continue
        if 0 not in array.shape and not (-count <= int(array.min()) and int(array.max()) < count):
            label = node.label if isinstance(node, Input) else "an array from outside"
            raise IndexError(
                f"{label}: expected indices from {-count} to {count - 1}, "
                f"got {int(array.min())} to {int(array.max())}"
            )
