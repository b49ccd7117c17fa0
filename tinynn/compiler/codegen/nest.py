"""One nest of loops: calls that go through the same elements.

Of several threads, each takes points along the axes over which nothing but a whole is reduced; the
other axes are loops inside. What is reduced to one number is so by each thread first, then among
them. A nest of few elements that is reduced to one number is gone through by every thread: that
costs no more, and none has to wait.
"""

from collections.abc import Iterable
from math import prod
from typing import Any

from tinynn.compiler.codegen.language import (
    INDEX,
    Accumulate,
    Assign,
    Combine,
    Expression,
    Loop,
    Parallel,
    Statement,
    Store,
    Variable,
)
from tinynn.compiler.codegen.operations import start_of
from tinynn.compiler.codegen.scalars import Argument, cast, number
from tinynn.compiler.codegen.schedule import Group, reduces
from tinynn.compiler.codegen.views import Shape, View, contiguous
from tinynn.compiler.liveness import root
from tinynn.compiler.rewrite import CannotEmit
from tinynn.rules.kinds import axes_of
from tinynn.transforms.graph import FILL, Node

_FEW = 32  # elements


def places(count: int) -> list[Variable]:
    """The loop variables of so many axes."""
    return [Variable(f"i{axis}", INDEX) for axis in range(count)]


class Nest:
    """The nest of one group.

    Parameters
    ----------
    block
        The statements that it is among.
    group
        Calls over the same elements.
    """

    def __init__(self, block: Any, group: Group) -> None:
        self.block, self.group = block, group
        self.dims: Shape = group.dims or ()
        self.inside: dict[int, Variable] = {}  # values of this nest, by the id of their node
        self.loads: dict[View, Variable] = {}
        self._place_results()
        self._place_arguments()
        self._merge()
        self._order()

    # Where values lie.

    def _place_results(self) -> None:
        self.stored: dict[int, View] = {}
        self.sums: dict[int, View] = {}
        for node in self.group.nodes:
            if reduces(node):
                self.sums[id(node)] = self._reduced(node)
            elif self.block.schedule.lives(node) or self.block.is_output(node):
                self.stored[id(node)] = self.block.home(node).squeezed()

    def _reduced(self, node: Node) -> View:
        """The view of a reduction's result in the loops over its argument."""
        shape = node.args[0].shape
        gone = axes_of(node.kwargs.get("axis"), len(shape))
        home = self.block.home(node)
        full = tuple(1 if a in gone else n for a, n in enumerate(shape))
        view = home._replace(strides=(0,) * len(full)) if home.scalar else home.reshaped(full)
        if view is None:  # the axes that are left lie as they do in the result
            raise CannotEmit(f"{node.name} into {home.shape} cannot be written as loops")
        squeezed: View = view._replace(shape=full).broadcast(shape).squeezed()
        return squeezed

    def _place_arguments(self) -> None:
        self.reads: dict[tuple[int, int], View] = {}
        here = {id(n) for n in self.group.nodes if not reduces(n)}
        for node in self.group.nodes:
            over = node.args[0].shape if reduces(node) else node.shape
            for i, a in enumerate(node.args):
                if not isinstance(a, Node) or id(root(a)) in here or root(a).function is FILL:
                    continue
                self.reads[id(node), i] = self.block.view(a).broadcast(over).squeezed()

    def _merge(self) -> None:
        """Axes that all arrays run through as one become one."""
        tables: tuple[dict[Any, View], ...] = (self.reads, self.stored, self.sums)
        views = [v for table in tables for v in table.values()]
        full = View(None, self.dims, (0,) * len(self.dims))
        flags = []
        for view in self.sums.values():
            # An axis of the result and one that is summed over stay apart.
            mark = tuple(0 if step == 0 else 1 for step in view.strides)
            flags.append(full._replace(strides=_marks(self.dims, mark)))
        done = merged([full, *views, *flags])
        self.dims = done[0].shape
        found = iter(done[1:])
        for table in tables:
            for key in table:
                table[key] = next(found)

    def _order(self) -> None:
        """Choose the parallel axes, and the order of all of them."""
        rank = len(self.dims)
        whole, partial = [], set[int]()
        for node in self.group.nodes:
            if reduces(node):
                over = {axis for axis, step in enumerate(self.sums[id(node)].strides) if not step}
                whole.append(len(over) == rank)
                partial |= over if len(over) < rank else set()
        written = {view.base for view in self.stored.values()}
        few = any(whole) and not partial and prod(self.dims) <= _FEW
        few = few and not any(view.base in written for view in self.reads.values())
        self.threads: bool = self.block.work.parallel
        apart = [a for a in range(rank) if a not in partial and not few] if self.threads else []
        self.parallel = len(apart)
        assert not (self.threads and partial and not apart), "threads would meet in their sums"
        self.order = [*apart, *[axis for axis in range(rank) if axis not in apart]]

    # Statements.

    def statements(self) -> Iterable[Statement]:
        """The loops."""
        rank = len(self.dims)
        self.at = places(rank)
        self.begun: dict[int, list[Node]] = {}  # sums that are variables, by where they begin
        self.held: dict[int, Any] = {}
        cleared: list[Statement] = []
        for node in self.group.nodes:
            if not reduces(node):
                continue
            view = self.sums[id(node)]
            steps = [view.strides[axis] for axis in self.order]
            begin = rank
            while begin and steps[begin - 1] == 0:
                begin -= 1
            if all(steps[:begin]):
                self.begun.setdefault(begin, []).append(node)
                name = self.block.work.variable
                self.held[id(node)] = view.base if view.scalar else name("sum", self._dtype(node))
            else:
                cleared += self._cleared(node, view)
                self.held[id(node)] = view.at(*self.at)
        return [*cleared, *self._from(0)]

    def _from(self, depth: int) -> list[Statement]:
        """The statements for one point of the axes before `depth`: loops over the others."""
        begun = self.begun.get(depth, [])
        out: list[Statement] = [
            Assign(self.held[id(node)], start_of(node.name, self._dtype(node))) for node in begun
        ]
        axes = [(self.at[axis], self.dims[axis]) for axis in self.order]
        if depth == len(axes):
            out += self._body()
        elif depth < self.parallel:
            out.append(Parallel(tuple(axes[: self.parallel]), tuple(self._from(self.parallel))))
            out += [Combine(self.held[id(node)], node.name) for node in begun]
        else:
            out.append(Loop(axes[depth][0], 0, axes[depth][1], 1, tuple(self._from(depth + 1))))
        for node in begun:
            view = self.sums[id(node)]
            if not view.scalar:
                out += self._store(view, self.held[id(node)])
        return out

    def _cleared(self, node: Node, view: View) -> Iterable[Statement]:
        axes = [a for a, step in enumerate(view.strides) if step]
        view = view.permuted(axes)
        at = places(len(axes))
        store = Store(view.at(*at), start_of(node.name, self._dtype(node)))  # type: ignore[arg-type]
        result: Iterable[Statement] = self.block.work.each(
            zip(at, view.shape, strict=True), [store]
        )
        return result

    def _store(self, view: View, value: Expression) -> list[Statement]:
        """An element gets its value: from one thread, where every thread has come here."""
        store = Store(view.at(*self.at), value)  # type: ignore[arg-type]
        return [Parallel((), (store,))] if self.threads and not self.parallel else [store]

    def _body(self) -> list[Statement]:
        out: list[Statement] = []
        stores: list[Statement] = []
        for node in self.group.nodes:
            args = [self._argument(node, i, out) for i in range(len(node.args))]
            dtype = self._dtype(node)
            if reduces(node):
                value = args[0]
                if isinstance(value, bool | int | float):
                    value = number(value, dtype)
                assert value is not None
                out.append(Accumulate(self.held[id(node)], node.name, cast(value, dtype)))
                continue
            if node.function is FILL:
                value = number(node.kwargs["value"], dtype)
            else:
                value = self.block.work.scalars.call(node, args)
            stored = self.stored.get(id(node))
            variable = stored.base if stored else None
            if not isinstance(variable, Variable):
                variable = self.block.work.variable("v0", dtype)
            self.inside[id(node)] = variable
            out.append(Assign(variable, value))
            if stored and not stored.scalar:
                stores += self._store(stored, variable)
        # Last, since what is overwritten may be read above.
        return [*out, *stores]

    def _argument(self, node: Node, i: int, out: list[Statement]) -> Argument:
        """An argument, which is loaded first if it lies in memory."""
        a = node.args[i]
        if not isinstance(a, Node):
            argument: Argument = a
            return argument
        first = root(a)
        if id(first) in self.inside:
            return self.inside[id(first)]
        if first.function is FILL:
            value: Argument = first.kwargs["value"]
            return value
        view = self.reads[id(node), i]
        if view.scalar:
            scalar: Argument = view.at(*self.at)
            return scalar
        if view not in self.loads:
            self.loads[view] = self.block.work.variable("x0", self._dtype(first))
            out.append(Assign(self.loads[view], view.at(*self.at)))
        return self.loads[view]

    def _dtype(self, node: Node) -> str:
        dtype: str = self.block.work.scalars.dtype(node.dtype)
        return dtype


def _marks(dims: Shape, mark: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an array that has the marked axes alone."""
    kept = contiguous(tuple(n for n, m in zip(dims, mark, strict=True) if m))
    supply = iter(kept)
    return tuple(next(supply) if m else 0 for m in mark)


def merged(views: Iterable[View]) -> list[View]:
    """The views with axes put together wherever all of them run through two as one."""
    views = list(views)
    axis = len(views[0].shape) - 2
    while axis >= 0:
        n = views[0].shape[axis + 1]
        if all(v.strides[axis] == v.strides[axis + 1] * n or v.scalar for v in views):
            views = [_joined(v, axis) for v in views]
        axis -= 1
    return views


def _joined(view: View, axis: int) -> View:
    shape = (*view.shape[:axis], prod(view.shape[axis : axis + 2]), *view.shape[axis + 2 :])
    return view._replace(shape=shape, strides=view.strides[:axis] + view.strides[axis + 1 :])
