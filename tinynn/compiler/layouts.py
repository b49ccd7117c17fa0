"""Memory order: how the axes of a value lie in memory, where a library's function has its own.

A library may make a convolution's result with the batch innermost. Then what is computed from it,
element by element, belongs in memory of the same order: calls that read one and write another take
several times as long. An order is the axes from the outermost inwards; None is the order of the
axes themselves.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, TypeAlias

from tinynn.compiler.rewrite import RESHAPES, elementwise
from tinynn.trace.core import HOLE
from tinynn.transforms.graph import Graph, Node

Order: TypeAlias = tuple[int, ...] | None


def orders(graph: Graph, lowering: Any) -> dict[int, tuple[int, ...]]:
    """The orders of the values of a graph, by id, of those that have one of their own."""
    found: dict[int, tuple[int, ...]] = {}
    templates = map(lowering.into.get, [node.name for node in graph.nodes]) if lowering else ()
    if any(template and template.order for template in templates):  # one that others follow
        for node in graph.nodes:
            note(node, lowering, found)
    return found


def note(node: Node, lowering: Any, found: dict[int, tuple[int, ...]]) -> None:
    """Add the order of a call's result to those of the values before it."""
    order = _order(node, lowering.into, found) if lowering else None
    if order is not None and order != tuple(range(len(order))):
        found[id(node)] = order


def _order(node: Node, into: Mapping[str, Any], found: Mapping[int, Any]) -> Order:
    if node.dtype is None:
        return None
    template = into.get(node.name)
    if template is not None and template.order is not None:
        own: Order = template.order(node.args, node.kwargs)
        return own
    known = [a for a in node.parents if id(a) in found]
    if not known:
        return None
    if elementwise(node) or node.name == "concat":
        same = [found[id(a)] for a in known if len(a.shape) == len(node.shape)]
        alike = [found[id(a)] for a in known if a.shape == node.shape]
        return next(iter(alike or same), None)
    order = found.get(id(node.args[0]))
    if order is None:
        return None
    if node.name in RESHAPES:
        return reshaped(order, node.args[0].shape, node.shape)
    if node.name == "permute_dims":
        axes = node.kwargs["axes"]
        return tuple(axes.index(axis) for axis in order)
    if node.name == "getitem":
        return _indexed(order, node.kwargs["key"])
    return None


def reshaped(order: tuple[int, ...], before: Any, after: Any) -> Order:
    """The order after a change of shape that is only another view; None for all others.

    >>> reshaped((1, 2, 0), (5, 6, 7), (5, 2, 3, 7))
    (1, 2, 3, 0)
    >>> reshaped((1, 2, 0), (5, 6, 7), (5, 42)), reshaped((1, 2, 0), (5, 6, 7), (30, 7))
    ((1, 0), None)
    """
    places: dict[int, list[int]] = {}  # for an old axis, the new ones that lie there
    gone: set[int] = set()
    old = new = 0
    while old < len(before) or new < len(after):
        olds, news = [old] if old < len(before) else [], [new] if new < len(after) else []
        size, other = prod(before[i] for i in olds), prod(after[i] for i in news)
        while size != other or not olds or not news:
            if (size <= other or not news) and old + len(olds) < len(before):
                olds.append(old + len(olds))
                size *= before[olds[-1]]
            elif new + len(news) < len(after):
                news.append(new + len(news))
                other *= after[news[-1]]
            else:
                break
        # Axes of length one belong to the axis before them.
        while new + len(news) < len(after) and after[new + len(news)] == 1 and olds:
            if old + len(olds) < len(before) and before[old + len(olds)] == 1:
                break
            news.append(new + len(news))
        old, new = old + len(olds), new + len(news)
        if not olds:  # of length one, at the end
            places.setdefault(order[-1], []).extend(news)
            continue
        start = order.index(olds[0])
        if list(order[start : start + len(olds)]) != olds:
            return None
        places[olds[0]] = [*news, *places.get(olds[0], [])]
        gone.update(olds[1:])
    return tuple(axis for each in order for axis in places.get(each, []))


def _indexed(order: tuple[int, ...], key: Any) -> Order:
    """The order after an index of numbers and slices."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(k is HOLE or k is None for k in keys):
        return None
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(order) - len(keys) + 1)
    keys += [slice(None)] * (len(order) - len(keys))
    kept = [axis for axis, k in enumerate(keys) if isinstance(k, slice)]
    return tuple(kept.index(axis) for axis in order if axis in kept)
