"""Rows: whether a recorded function gives each row of a batch what it would give it alone.

Only then can a batch be passed in parts, or with rows added to it. The lengths that follow the
batch (`Dim`) say most of it: a sum over the rows has none of them left, a product of every row with
every row has two. What keeps the length and yet lets rows meet, such as a sort along it, is told
from the call's axes. Of a function without a row here nobody can tell.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from tinynn.rules import batching, slicing
from tinynn.rules.kinds import RULES, Composed, axes_of
from tinynn.trace import Effect, namespace
from tinynn.trace.core import HOLE
from tinynn.transforms.graph import ITEM, Constant, Dim, Graph, Node, mapped, pruned
from tinynn.transforms.record import record


@dataclass(frozen=True)
class Mixing:
    """Where rows of one batch meet.

    Attributes
    ----------
    where
        The call, its layer and the line of the user's code.
    certain
        Rows do meet there; else nobody can tell.
    """

    where: str
    certain: bool


def rows_of(f: Callable[..., Any], *inputs: Any) -> Graph:
    """The graph of a function of batches of any size, in calls whose rows can be followed."""
    composed = {
        key if isinstance(key, str) else key.name: rule.definition
        for key, rule in RULES.items()
        if isinstance(rule, Composed) and key not in batching.BATCHING
    }
    return pruned(record(f, *inputs, batch_axes=0, decompositions=composed))


def bytes_of_row(graph: Graph) -> int:
    """The bytes that a row takes in the widest value of a graph from `rows_of`."""
    space = graph.space

    def size(node: Node) -> int:
        lengths = [n.factor if isinstance(n, Dim) else n for n in node.shape]
        return prod(lengths) * itemsize(space.xp, node.dtype)

    values = [*graph.inputs, *[node for node in graph.nodes if node.dtype is not None]]
    return max(size(v) for v in values if any(isinstance(n, Dim) for n in v.shape))


def itemsize(xp: Any, dtype: Any) -> int:
    """The bytes of an element."""
    if xp.isdtype(dtype, "bool"):
        return 1
    info = xp.iinfo if xp.isdtype(dtype, "integral") else xp.finfo
    return int(info(dtype).bits) // 8 * (2 if xp.isdtype(dtype, "complex floating") else 1)


def mixing(graph: Graph) -> Mixing | None:
    """Where rows of the batch meet in a graph from `rows_of`; None if each stays alone."""
    axes: dict[int, int] = {}  # the axis along which a value has the rows, by its id
    for each in graph.inputs:
        if (axis := _axis(each)) is not None:
            axes[id(each)] = axis
    for node in graph.nodes:
        alone = _is_alone(node, axes)
        if alone is not True:
            return Mixing(f"{node.name} in {node.origin}", certain=alone is False)
    for output in graph.outputs:
        rows = isinstance(output, Node) and axes.get(id(output)) == 0
        if not rows or output.shape[0] != Dim(graph.batch or 0):
            return Mixing("the output, whose first axis is not the batch", certain=True)
    return None


def _axis(node: Node) -> int | None:
    """The only axis that follows the batch; None if there is none, or several."""
    found = [axis for axis, n in enumerate(node.shape) if isinstance(n, Dim)]
    one = len(found) == 1 and node.shape[found[0]].offset == 0
    return found[0] if one else None


def _is_alone(node: Node, axes: dict[int, int]) -> bool | None:
    """True if a row of the result follows from the same row of the arguments; None: unknown.

    Notes the axis of the rows in the result.
    """
    numbers: list[Any] = []
    mapped(list(node.args), lambda a: numbers.append(a) if isinstance(a, Dim) else None)
    if numbers:
        return False  # it computes with the number of rows
    if node.effect is not Effect.NONE:
        return None
    follows = any(isinstance(n, Dim) for n in node.shape)
    given = [axes.get(id(a)) if isinstance(a, Node) else None for a in node.args]
    if any(axis is not None for axis in given):
        alone = True if node.function is ITEM else _along_rows(node, given)
        if alone is not True:
            return alone
        if node.dtype is None:  # several results, each of which has the rows
            axes[id(node)] = next(axis for axis in given if axis is not None)
            return True
        if not follows:
            return False
    elif not follows:
        return True
    axis = _axis(node)
    if axis is None:
        return False
    axes[id(node)] = axis
    return True


Given = list["int | None"]


def _along_rows(node: Node, given: Given) -> bool | None:
    """True if the call keeps rows apart as far as its result's shape does not tell."""
    batcher = batching.batcher_of(node.function)
    check = _CHECKS.get(node.function.name) or _OF_BATCHERS.get(batcher)
    return None if check is None else check(node, given)


def _by_shape(node: Node, given: Given) -> bool | None:
    return True


def _not_along(default: Any = None, several: str = "axis") -> Callable[..., bool | None]:
    """A call along an axis, which may not be that of the rows; without one it is along all."""

    def check(node: Node, given: Given) -> bool | None:
        axis = node.kwargs.get(several, default)
        if axis is None:
            return False
        ranks = [len(a.shape) if isinstance(a, Node) else 0 for a in node.args]
        pairs = [(own, n) for own, n in zip(given, ranks, strict=True) if own is not None]
        axis = tuple(axis) if isinstance(axis, list) else axis
        return all(own not in axes_of(axis, n) for own, n in pairs)

    return check


def _leading(node: Node, given: Given) -> bool | None:
    """A function of the last two axes."""
    return all(
        own is None or own < len(a.shape) - 2 for own, a in zip(given, node.args, strict=True)
    )


def _picked(check: Callable[..., bool | None]) -> Callable[..., bool | None]:
    """A take: rows may pick from what is the same for all of them."""

    def of_indices(node: Node, given: Given) -> bool | None:
        if given[1] is not None:
            return True if given[0] is None else None
        return check(node, given)

    return of_indices


def _of_reshape(node: Node, given: Given) -> bool | None:
    """Before the rows lies as much as before, so that a row's elements stay together."""
    own, new = given[0], _axis(node)
    if own is None or new is None:
        return False
    before = node.args[0].shape
    return prod(before[:own]) == prod(node.shape[:new])


def _of_scatter(node: Node, given: Given) -> bool | None:
    if given[1] is not None:
        return None
    return _not_along(0)(node, given)


def _from_one_place(node: Node, given: Given) -> bool | None:
    """A dynamic slice, or an update of one: at one place of all rows, and not along them."""
    if given[-1] is not None:
        return None
    return _not_along(0)(node, given)


def _of_second(node: Node, given: Given) -> bool | None:
    """What each element is compared with is the same for all rows."""
    return given[1] is None


def _of_first(node: Node, given: Given) -> bool | None:
    return given[0] is None


def _of_getitem(node: Node, given: Given) -> bool | None:
    own, arrays = given[0], node.args[1:]
    if own is None:  # rows pick from what is the same for all of them
        return True if len(arrays) == 1 else None
    if not all(isinstance(a, Constant) and not _is_mask(a) for a in arrays):
        return None
    key = node.kwargs["key"]
    parts = list(key) if isinstance(key, tuple) else [key]
    place = next((i for i, p in enumerate(parts) if p is ...), len(parts))
    taken = sum(p is not None and p is not ... for p in parts)
    parts[place : place + 1] = [slice(None)] * (len(node.args[0].shape) - taken)
    part = [p for p in parts if p is not None][own]
    if part is HOLE or not isinstance(part, slice):
        return False
    return part.start in (None, 0) and part.stop is None and part.step in (None, 1)


def _is_mask(array: Constant) -> bool:
    return bool(namespace(array.value).isdtype(array.dtype, "bool"))


_OF_BATCHERS: dict[Any, Callable[..., bool | None]] = {
    batching.elementwise: _by_shape,
    batching.reduction: _by_shape,
    batching.batch_unchanged: _by_shape,
    batching.batch_matmul: _by_shape,
    batching.batch_expand_dims: _by_shape,
    batching.batch_permute_dims: _by_shape,
    batching.trailing: _leading,
    batching.batch_solve: _leading,
    batching.batch_take: _picked(_not_along(0)),
    batching.batch_take_along_axis: _not_along(-1),
    batching.batch_scatter_add: _of_scatter,
    slicing.batch_dynamic_slice: _from_one_place,
    slicing.batch_dynamic_update_slice: _from_one_place,
    batching.batch_getitem: _of_getitem,
    batching.batch_flip: _not_along(),
    batching.batch_roll: _not_along(),
    batching.over_axes: _not_along(several="axes"),
}
_CHECKS: dict[str, Callable[..., bool | None]] = {
    "reshape": _of_reshape,
    "concat": _not_along(0),
    **dict.fromkeys(
        "broadcast_to squeeze moveaxis matrix_transpose linalg.matrix_transpose stack".split(),
        _by_shape,
    ),
    **dict.fromkeys("argmax argmin cumulative_sum cumulative_prod".split(), _not_along()),
    **dict.fromkeys("sort argsort".split(), _not_along(-1)),
    **dict.fromkeys(
        [f"fft.{name}" for name in "fft ifft rfft irfft hfft ihfft".split()], _not_along(-1)
    ),
    "isin": _of_second,
    "searchsorted": _of_first,
}
