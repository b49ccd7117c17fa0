"""`take` and `scatter_add` as loops: elements chosen by whole numbers that are known beforehand.

The gradient of every index and slice is a scatter_add. Loops do not look where they write, so the
numbers have to be given from outside or with a batch, where `check_indices` looks at them before
every run. Of several threads, each adds along the whole axis, in order: two that are given the same
index would meet.
"""

from collections.abc import Callable, Iterable
from typing import Any

from tinynn.compiler.codegen.language import (
    INDEX,
    Accumulate,
    Apply,
    Assign,
    Cast,
    Constant,
    Load,
    Loop,
    Select,
    Statement,
    Store,
    Variable,
)
from tinynn.compiler.codegen.nest import places
from tinynn.compiler.codegen.scalars import cannot
from tinynn.compiler.liveness import root
from tinynn.compiler.rewrite import size
from tinynn.transforms.graph import Input, Node

_AT = Variable("at", INDEX)


def statements(block: Any, node: Node) -> Iterable[Statement]:
    """The loops of a take, or of a scatter_add into a copy of its first argument."""
    x, indices = node.args[:2]
    if not x.shape:
        raise cannot(node, ": it takes from a single number")
    axis = node.kwargs.get("axis", 0) % len(x.shape)
    first, count, out = root(indices), x.shape[axis], block.home(node)
    checked = block.work.checked.get(id(first))
    if checked is None:
        raise cannot(node, ": the step computes its indices")
    if len(indices.shape) != 1 or size(indices) != size(first):
        raise cannot(node, ": its indices are a part of other numbers, or no vector")
    block.work.gathers.append((checked, count))
    shape = node.shape if node.name == "take" else node.args[2].shape
    at = places(len(shape))
    axes = list(zip(at, shape, strict=True))
    chosen = [*at[:axis], _AT, *at[axis + 1 :]]
    body: list[Statement] = _index_of(block.view(indices).at(at[axis]), count)
    if node.name == "take":
        place, value = out.at(*at), block.view(x).at(*chosen)
        done: Iterable[Statement] = block.work.each(axes, [*body, Store(place, value)])
        return done
    body.append(Accumulate(out.at(*chosen), "sum", block.view(node.args[2]).at(*at)))
    alone = tuple(pair for pair in axes if pair[0] is not at[axis])
    if block.work.parallel:
        body = [Loop(at[axis], 0, shape[axis], 1, tuple(body))]
    return [*block.copied(x, out), *block.work.each(alone if block.work.parallel else axes, body)]


def _index_of(given: Load | Variable, count: int) -> list[Statement]:
    """The place that an index from -count to count - 1 names."""
    below = Apply("less", (_AT, Constant(0, INDEX)), "bool")
    from_end = Apply("add", (_AT, Constant(count, INDEX)), INDEX)
    return [Assign(_AT, Cast(given, INDEX)), Assign(_AT, Select(below, from_end, _AT))]


def check_indices(
    gathers: Iterable[tuple[Node, int]], arrays: dict[int, Any], to_host: Callable[[Any], Any]
) -> None:
    """IndexError if one of these arrays, by the id of its node, holds an index out of range.

    Parameters
    ----------
    to_host
        Copies an array to the host, where it is checked without a launch.
    """
    for node, count in gathers:
        if id(node) not in arrays or 0 in arrays[id(node)].shape:
            continue
        indices = to_host(arrays[id(node)])
        low, high = int(indices.min()), int(indices.max())
        if not (-count <= low and high < count):
            label = node.label if isinstance(node, Input) else "an array from outside"
            raise IndexError(
                f"{label}: expected indices from {-count} to {count - 1}, got {low} to {high}"
            )
