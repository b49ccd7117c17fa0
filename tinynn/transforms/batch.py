"""Batching: vmap.

An array of a `Batch` trace is one entry of a batch to the function that sees it; its value holds
all entries, along axis 0. A call on such arrays is one call on the values.
"""

from collections.abc import Callable
from typing import Any

from backends import scope_of
from tinynn import tree
from tinynn.rules.batching import UNBATCHABLE, batcher_of
from tinynn.rules.kinds import Composed, Rule, rule_of
from tinynn.trace import Effect, Function, Namespace, Traced, constant, namespace, plain, regrouped
from tinynn.transforms.base import Transformation, applied, name_of


class Batch(Transformation):
    """Carries out each call for `size` entries at once."""

    batches = hides = True

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name)
        self.size = size

    def process(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.require_open(function)
        space = function.space_of(args)
        batcher, rule = batcher_of(function), rule_of(function)
        if batcher is None and isinstance(rule, Composed):
            return rule.definition(space, *args, **kwargs)
        if batcher is None and function.effect is not Effect.NONE:
            raise NotImplementedError(
                f"{function.name}: {self.name} does not know whether it {function.effect} once for "
                "the batch or once for each entry. To fix it: call it outside vmap"
            )
        if batcher is None and function.space is None and rule is not None:
            batcher = users_own
        if batcher is None or batcher is UNBATCHABLE:
            raise NotImplementedError(
                f"{function.name}: {self.name} cannot batch it: the shape of its result depends on "
                "the values of each entry; write it with other functions, or call it outside vmap"
            )
        batched = [type(a) is Traced and a.trace is self for a in args]
        values = [a.value if own else plain(a) for a, own in zip(args, batched, strict=True)]
        if not any(batched):
            return constant(function(*values, **kwargs), space)
        result = batcher(function, space, values, batched, self.size, kwargs)
        if type(result) is Traced and result.trace is self:
            raise self.captured_array_error(function)
        return self._entries(result, space)

    def _entries(self, result: Any, space: Any) -> Any:
        if isinstance(result, tuple | list):
            return regrouped(result, [self._entries(item, space) for item in result])
        return Traced(plain(result), self, None, space)

    def shape(self, array: Traced) -> tuple[int, ...]:
        return tuple(array.value.shape[1:])

    def read(self, array: Traced, kind: type) -> Any:
        raise TypeError(
            f"{kind.__name__}(x) inside {self.name}: x has a value for each entry of the batch, "
            "so the program cannot branch on it; write xp.where(condition, a, b), or keep it as an "
            "array"
        )


def users_own(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """A user's function on a batch: one whose body and whose rule are the batched ones."""
    axes = tuple(0 if own else None for own in batched)

    def body(*args: Any, **kwargs: Any) -> Any:
        return vmap(lambda *entries: f.raw(*entries, **kwargs), axes)(*args)

    whole = Function(f.name, body)
    whole.rule = BatchedRule(f.rule, axes)
    return whole(*args, **kwargs)


class BatchedRule(Rule):
    """The rule of a batched function: the function's own, for every entry."""

    def __init__(self, rule: Rule, axes: tuple[int | None, ...]) -> None:
        self.rule, self.axes = rule, axes

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        xp = Namespace(xp)

        def one(g: Any, y: Any, *args: Any) -> list[Any]:
            return self.rule.vjps(positions, xp, g, y, args, kwargs)

        shares: list[Any] = vmap(one, (0, 0, *self.axes))(g, y, *args)
        return shares

    def jvp(self, f: Any, xp: Any, tangents: Any, y: Any, args: Any, kwargs: Any) -> Any:
        xp = Namespace(xp)

        def one(tangents: Any, y: Any, *args: Any) -> Any:
            return self.rule.jvp(f, xp, tangents, y, args, kwargs)

        moving = {i: self.axes[i] for i in tangents}
        return vmap(one, (moving, 0, *self.axes))(tangents, y, *args)


def vmap(f: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """A function that applies `f` to every entry of a batch, in one call of each operation.

    Parameters
    ----------
    f
        A function of trees of arrays that returns a tree of arrays, written for one entry.
    in_axes
        Along which axis the entries of each argument lie; None: the argument is the same for all.
        One for all arguments, or a tuple with one (or a tree of them) for each.
    out_axes
        Along which axis the entries of the result are put: one, or a tree of them.

    Returns
    -------
    callable
        A function of batches of `f`'s arguments that gives a batch of its results.

    Raises
    ------
    ValueError
        Nothing is batched, an axis is out of range, or the batches differ in size.
    TypeError
        The function reads a value (`bool`, `float`) that differs from entry to entry.

    Examples
    --------
    >>> import numpy as np
    >>> dot = lambda a, b: a.__array_namespace__().sum(a * b)
    >>> vmap(dot, in_axes=(0, None))(np.asarray([[1.0, 0.0], [0.0, 2.0]]), np.asarray([3.0, 4.0]))
    array([3., 8.])
    """
    name = name_of("vmap", f)

    def batched(*args: Any) -> Any:
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise ValueError(f"{name}: in_axes has {len(axes)} entries for {len(args)} arguments")
        rows = [
            row
            for place, (argument, axis) in enumerate(zip(args, axes, strict=True))
            for row in leaves_with_axes(name, f"argument {place}", argument, axis)
        ]
        trace = Batch(name, batch_size(name, rows))
        entries = iter([_entry(trace, leaf, axis) for _, leaf, axis in rows])
        inside = [tree.map(lambda leaf: next(entries), argument) for argument in args]
        with scope_of(plain(next(leaf for _, leaf, axis in rows if axis is not None))):
            result = applied(f, *inside)
        trace.open = False
        outs = iter([
            _whole(trace, leaf, axis)
            for _, leaf, axis in leaves_with_axes(name, "the result", result, out_axes)
        ])  # fmt: skip
        return tree.map(lambda leaf: next(outs), result)

    return batched


def leaves_with_axes(
    name: str, what: str, value: Any, axes: Any
) -> list[tuple[str, Any, int | None]]:
    """Every leaf with what it is called and the axis of its entries."""
    named = [(f"{what}, {path!r}" if path else what, leaf) for path, leaf in tree.paths(value)]
    if axes is None or isinstance(axes, int):
        return [(where, leaf, axes) for where, leaf in named]
    listed = _spread(name, what, value, axes)
    return [(where, leaf, axis) for (where, leaf), axis in zip(named, listed, strict=True)]


def _spread(name: str, what: str, value: Any, axes: Any) -> list[int | None]:
    """The axes of a tree's leaves, from a tree of axes that may stop earlier."""
    if axes is None or isinstance(axes, int):
        return [axes] * len(tree.leaves(value))
    inner, outer = tree.children(value), tree.children(axes)
    if inner is None or outer is None or inner.keys() != outer.keys():
        raise ValueError(f"{name}: {what}: the axes are not a tree like it: {axes!r}")
    return [axis for key in inner for axis in _spread(name, what, inner[key], outer[key])]


def batch_size(name: str, rows: list[tuple[str, Any, int | None]]) -> int:
    """The size of the batch that these leaves hold; ValueError unless they agree."""
    sizes: dict[int, str] = {}
    for where, leaf, axis in rows:
        if axis is None:
            continue
        if not hasattr(leaf, "shape"):
            raise ValueError(
                f"{name}: {where}: expected an array to batch over, got {type(leaf).__name__} "
                f"{leaf!r}; give it the axis None if it is the same for every entry"
            )
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(
                f"{name}: {where}: axis {axis} is out of range for shape {tuple(leaf.shape)}"
            )
        sizes.setdefault(leaf.shape[axis], where)
    if not sizes:
        raise ValueError(
            f"{name}: nothing to batch over: give an argument an axis that is not None"
        )
    if len(sizes) > 1:
        seen = ", ".join(f"{size} in {where}" for size, where in sizes.items())
        raise ValueError(f"{name}: the batches differ in size: {seen}")
    return next(iter(sizes))


def _entry(trace: Batch, leaf: Any, axis: int | None) -> Any:
    leaf = plain(leaf)
    if axis is None:
        return leaf
    xp = namespace(leaf)
    value = leaf if axis == 0 else xp.moveaxis(leaf, axis, 0)
    return Traced(value, trace, None, Namespace(xp))


def _whole(trace: Batch, leaf: Any, axis: int | None) -> Any:
    if not hasattr(leaf, "shape"):
        return leaf
    mine = type(leaf) is Traced and leaf.trace is trace
    value = leaf.value if mine else plain(leaf)
    if axis is None:
        if mine:
            raise ValueError(
                f"{trace.name}: out_axes is None for a result that differs from entry to entry"
            )
        return value
    xp = namespace(value)
    if not mine:
        value = xp.broadcast_to(value, (trace.size, *value.shape))
    return value if axis == 0 else xp.moveaxis(value, 0, axis)
