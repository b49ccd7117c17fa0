"""The text of a step as loops over flat memory, every bound and distance a number."""

import builtins
import math
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from tinynn.compiler import words
from tinynn.compiler.nests import (
    Group,
    Schedule,
    check,
    looked,
    pointwise,
    reduces,
)
from tinynn.compiler.picked import write_picked
from tinynn.compiler.pipelines import applied, into_loops
from tinynn.compiler.plan import is_view, root
from tinynn.compiler.products import Products
from tinynn.compiler.rewrite import CannotEmit, is_call, size
from tinynn.compiler.scalars import Speech
from tinynn.compiler.views import Shape, View, contiguous
from tinynn.rules.kinds import axes_of
from tinynn.transforms.graph import FILL, Constant, Graph, Input, Node

_RESERVED = {*dir(math), *dir(builtins), *"run steps times outs turn first rint".split()}
_RESERVED |= {*"exp_float32 exp_float64 plus plus_product product_float32 product_float64".split()}


class Kernel:
    """Writes one step.

    Args:
        graph: the program of the step.
        kept: how many inputs live on; their new values are the first outputs.
        backend: where it runs.
        products: from how many multiplications on BLAS multiplies matrices, by dtype.

    Attributes:
        names: the names of the values that live on, and of the streams.
        constants: arrays from outside, by name.
        scratch: the size and dtype of memory of its own, by name.
        lines: the statements of a step.
        picked: indices, and for each the length of the axis along which they pick.
    """

    def __init__(self, graph: Graph, kept: int, backend: Any, products: Mapping[str, int]) -> None:
        self.products = products
        for node in graph.nodes:
            check(node)
        self.graph = graph = applied(graph, into_loops(kept))
        self.schedule = Schedule(graph)
        self._names = words.Names()
        self.speech = Speech(backend, graph.space, self._names)
        self._names.taken |= _RESERVED | {self.speech.dtype(d) for d in _dtypes(graph)}
        self.kept, self.streams = graph.inputs[:kept], graph.inputs[kept:]
        self.names = [self._names.new(words.of_input(i.label)) for i in graph.inputs]
        self.starts: dict[str, str] = {}  # the variable that says where a stream's batch begins
        self.constants: dict[str, Constant] = {}
        self.scratch: dict[str, tuple[int, Any]] = {}
        self.lines: list[str] = []
        self.homes: dict[int, View] = {}  # where values lie, by the id of their root
        self.picked: list[tuple[Node, int]] = []  # indices, and how many there are to pick from
        self._packed: dict[int, View] = {}  # memory that a value must be written to
        self._moves: dict[int, list[tuple[Any, View]]] = {}  # what is copied into packed memory
        self._products = Products(self)
        self._place_inputs()
        self._choose_memory()
        for group in self.schedule.groups:
            self._group(group)
        self._finish()

    # Memory.

    def _place_inputs(self) -> None:
        for name, node in zip(self.names, self.graph.inputs, strict=True):
            view = View.of(name, node.shape)
            if id(node) in map(id, self.streams):
                self.starts[name] = self._names.new(f"{name}_0")
                view = view._replace(start=self.starts[name])
            elif not node.shape:
                view = view._replace(scalar=True)
            self.homes[id(node)] = view
        for constant in self.graph.constants:
            name = self._names.new("constant")
            self.constants[name] = constant
            view = View.of(name, constant.shape)
            self.homes[id(constant)] = view._replace(scalar=size(constant) == 1)

    def _choose_memory(self) -> None:
        """Parameters change in place where they may; what is packed is written to its place."""
        self.late: list[tuple[Input, Any]] = []
        outputs = self.graph.outputs
        for old, new in zip(self.kept, outputs, strict=False):
            if new is old:
                continue
            fresh = is_call(new) and not is_view(new) and id(new) not in self._packed
            if fresh and size(new) > 1 and self.schedule.may_replace(new, old):
                self._packed[id(new)] = self.homes[id(old)]
            else:
                self.late.append((old, new))
        for node in self.graph.nodes:
            if node.name in ("pack", "concat"):
                self._parts(node)

    def _parts(self, node: Node) -> None:
        """Where the arguments of a `pack` or `concat` belong in its memory."""
        home = self.home(node)
        moves = self._moves.setdefault(id(node), [])
        axis, start = node.kwargs.get("axis", 0), 0
        for value in node.args:
            if node.name == "pack" or axis is None:
                view = View.of(home.base, value.shape)._replace(offset=home.offset + start)
                start += size(value)
            else:
                along = axis % len(node.shape)
                view = home._replace(shape=tuple(value.shape))
                view = view._replace(offset=home.offset + start * home.strides[along])
                start += value.shape[along]
            fresh = is_call(value) and not is_view(value) and id(value) not in self.homes
            straight = view.strides == contiguous(view.shape) and value.dtype == node.dtype
            if fresh and straight and id(value) not in self._packed and size(value) > 1:
                self._packed[id(value)] = view
            else:
                moves.append((value, view))

    def allocated(self, wanted: str, count: int, dtype: Any) -> str:
        """The name of new memory, full of zeros before the first step."""
        name = self._names.new(wanted)
        self.scratch[name] = (count, dtype)
        return name

    def home(self, node: Node) -> View:
        """Where a value lies, from the first question on."""
        if id(node) not in self.homes:
            if id(node) in self._packed:
                view = self._packed[id(node)]
            elif size(node) == 1 and (pointwise(node) or reduces(node)):
                view = View.of(self._names.new("s0"), node.shape)._replace(scalar=True)
            else:
                name = self.allocated("b0", size(node), node.dtype)
                view = View.of(name, node.shape)
            self.homes[id(node)] = view
        return self.homes[id(node)]

    def must_be_at(self, node: Node) -> View | None:
        """The memory that has been chosen for a value."""
        return self.homes.get(id(node), self._packed.get(id(node)))

    def view(self, node: Node) -> View:
        """Where the elements of a value lie."""
        view = looked(node, self.home(root(node)))
        if view is None:
            raise CannotEmit(f"{node.name} of {node.shape} cannot be looked at without a copy")
        return view

    def new(self, wanted: str) -> str:
        """A new name."""
        return self._names.new(wanted)

    # Nests.

    def write(self, depth: int, text: str) -> None:
        """A statement."""
        self.lines.append("    " * depth + text)

    def _group(self, group: Group) -> None:
        origins = dict.fromkeys(
            n.origin.place + (", backward" if n.origin.backward else "") for n in group.nodes
        )
        self.write(0, "# " + "; ".join(filter(None, origins)))
        if group.dims is not None:
            Nest(self, group).write()
        elif group.nodes[0].name == "matmul":
            self._products.write(group.nodes[0])
        elif group.nodes[0].name in ("take", "scatter_add"):
            write_picked(self, group.nodes[0])
        else:
            node = group.nodes[0]
            self.home(node)
            for value, view in self._moves[id(node)]:
                self.copy(value, view)

    def copy(self, value: Any, out: View) -> None:
        """Copy a value, or a number, to a place."""
        if not isinstance(value, Node):
            raise CannotEmit("a number in place of an array cannot be written as loops")
        source = self.view(value).broadcast(out.shape)
        sources = merged([source.squeezed(), out.squeezed()])
        places = [f"i{axis}" for axis in range(len(sources[0].shape))]
        for axis, n in enumerate(sources[0].shape):
            self.write(axis, f"for i{axis} in range({n}):")
        left, right = sources[1].at(*places), sources[0].at(*places)
        self.write(len(places), f"{left} = {right}")

    def _finish(self) -> None:
        """Copy to its place, at the end of the step, what could not be changed there."""
        late = []
        for old, new in self.late:
            text = self._number(new, old)
            if text is None and (old.shape or size(new) != 1):
                self.copy(new, self.homes[id(old)])
                continue
            late.append((self.homes[id(old)].at(*[0] * len(old.shape)), text or self.one(new)))
        if late:
            left, right = zip(*late, strict=True)
            self.write(0, f"{', '.join(left)} = {', '.join(right)}")

    def _number(self, new: Any, old: Input) -> str | None:
        if isinstance(new, Node):
            return None
        if old.shape:
            raise CannotEmit("a number in place of an array cannot be written as loops")
        return self.speech.number(new, old.dtype)

    def one(self, node: Any) -> str:
        """The element of a value that has no other."""
        if not isinstance(node, Node):
            return repr(node)
        view = self.view(node)
        return view.at(*[0] * len(view.shape))


class Nest:
    """One nest of loops: calls that go through the same elements."""

    def __init__(self, kernel: Kernel, group: Group) -> None:
        self.kernel, self.group, self.speech = kernel, group, kernel.speech
        self.dims: Shape = group.dims or ()
        self.inside: dict[int, str] = {}  # variables, by the id of their node
        self.loads: dict[View, str] = {}

    def write(self) -> None:
        """The loops."""
        kernel, lives = self.kernel, self.kernel.schedule.lives
        outputs = {id(root(o)) for o in kernel.graph.outputs if isinstance(o, Node)}
        self.stored: dict[int, View] = {}
        self.sums: dict[int, View] = {}
        for node in self.group.nodes:
            if reduces(node):
                self.sums[id(node)] = self._reduced(node)
            elif lives(node) or id(node) in outputs:
                home = kernel.home(node)
                self.stored[id(node)] = home.squeezed()
        self._find_loads()
        self._merge()
        self._loops()

    def _reduced(self, node: Node) -> View:
        """Where a reduction's result is met in the loops over its argument."""
        shape = node.args[0].shape
        gone = axes_of(node.kwargs.get("axis"), len(shape))
        home = self.kernel.home(node)
        full = tuple(1 if a in gone else n for a, n in enumerate(shape))
        view = home._replace(strides=(0,) * len(full)) if home.scalar else home.reshaped(full)
        if view is None:  # the axes that are left lie as they do in the result
            raise CannotEmit(f"{node.name} into {home.shape} cannot be written as loops")
        return view._replace(shape=full).broadcast(shape).squeezed()

    def _find_loads(self) -> None:
        self.reads: dict[tuple[int, int], View] = {}
        here = {id(n) for n in self.group.nodes if not reduces(n)}
        for node in self.group.nodes:
            over = node.args[0].shape if reduces(node) else node.shape
            for i, a in enumerate(node.args):
                if not isinstance(a, Node) or id(root(a)) in here or root(a).function is FILL:
                    continue
                self.reads[id(node), i] = self.kernel.view(a).broadcast(over).squeezed()

    def _merge(self) -> None:
        """Axes that all arrays run through as one become one."""
        tables: tuple[dict[Any, View], ...] = (self.reads, self.stored, self.sums)
        views = [v for table in tables for v in table.values()]
        full = View("", self.dims, (0,) * len(self.dims))
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

    def _loops(self) -> None:
        depth, rank = 0, len(self.dims)
        places = [f"i{axis}" for axis in range(rank)]
        within: dict[int, list[Node]] = {}  # sums that are variables, by where they begin
        held: dict[int, str] = {}
        for node in self.group.nodes:
            if not reduces(node):
                continue
            view = self.sums[id(node)]
            begin = rank
            while begin and view.strides[begin - 1] == 0:
                begin -= 1
            if all(view.strides[:begin]):
                within.setdefault(begin, []).append(node)
                held[id(node)] = view.base if view.scalar else self.kernel.new("sum")
            else:
                self._clear(node, view)
                held[id(node)] = view.at(*places)
        for depth in range(rank + 1):
            for node in within.get(depth, []):
                self._write(depth, f"{held[id(node)]} = {self.speech.start(node)}")
            if depth < rank:
                self._write(depth, f"for i{depth} in range({self.dims[depth]}):")
        self._body(rank, places, held)
        for depth in range(rank, -1, -1):
            for node in within.get(depth, []):
                view = self.sums[id(node)]
                if not view.scalar:
                    self._write(depth, f"{view.at(*places)} = {held[id(node)]}")

    def _clear(self, node: Node, view: View) -> None:
        axes = [a for a, step in enumerate(view.strides) if step]
        view = view.permuted(axes)
        for depth, n in enumerate(view.shape):
            self._write(depth, f"for i{depth} in range({n}):")
        place = view.at(*[f"i{a}" for a in range(len(axes))])
        self._write(len(axes), f"{place} = {self.speech.start(node)}")

    def _body(self, depth: int, places: list[str], held: dict[int, str]) -> None:
        stores = []
        for node in self.group.nodes:
            args = [self._argument(node, i, depth, places) for i in range(len(node.args))]
            if reduces(node):
                text, dtype = args[0]
                if dtype is None:
                    text, dtype = self.speech.number(float(text), node.dtype), node.dtype
                total = self.speech.reduction(node, held[id(node)], text, dtype)
                self._write(depth, f"{held[id(node)]} = {total}")
                continue
            if node.function is FILL:
                text = self.speech.number(node.kwargs["value"], node.dtype)
            else:
                text = self.speech.call(node, args)
            stored = self.stored.get(id(node))
            name = stored.base if stored and stored.scalar else self.kernel.new("v0")
            self.inside[id(node)] = name
            self._write(depth, f"{name} = {text}")
            if stored and not stored.scalar:
                stores.append(f"{stored.at(*places)} = {name}")
        # Last, since what is overwritten may be read above.
        for text in stores:
            self._write(depth, text)

    def _argument(self, node: Node, i: int, depth: int, places: list[str]) -> tuple[str, Any]:
        """An argument's text and dtype; None for a number's."""
        a = node.args[i]
        if not isinstance(a, Node):
            return repr(a), None
        first = root(a)
        if id(first) in self.inside:
            return self.inside[id(first)], first.dtype
        if first.function is FILL:
            return repr(first.kwargs["value"]), None
        view = self.reads[id(node), i]
        if view.scalar:
            return view.base, first.dtype
        if view not in self.loads:
            self.loads[view] = self.kernel.new("x0")
            # In memory a boolean is a byte.
            test = " != 0" if self.speech.dtype(first.dtype) == "bool_" else ""
            self._write(depth, f"{self.loads[view]} = {view.at(*places)}{test}")
        return self.loads[view], first.dtype

    def _write(self, depth: int, text: str) -> None:
        self.kernel.write(depth, text)


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


def _dtypes(graph: Graph) -> list[Any]:
    return [n.dtype for n in (*graph.inputs, *graph.nodes) if n.dtype is not None]
