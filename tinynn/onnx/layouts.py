"""Transposes, moved through a graph until they meet and are gone: the layouts of its values.

Operators of ONNX have the channels in the second axis, so that rows write a Transpose before and
behind them. Here a Transpose is not carried out where it stands: the value behind it is known as
what was there before, with its axes in another order, and operators that can compute with those
are changed to do so. Only who cannot makes one necessary.
"""

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, NamedTuple

from tinynn.onnx.emitter import read_by, renamed

#: The size of the batch, where a file leaves it open: no other length is a multiple.
OPEN = 1_000_003
#: Arrays of more elements are no shapes or axes, and their numbers are not looked at.
LARGE = 64
Order = tuple[int, ...]


class Layout(NamedTuple):
    """A value as another one, `source`: with the axes in an order, or columns, or as it is.

    order: axis i of the value is axis order[i] of the source; None for no change
    columns: column i of the value, a matrix, is column columns[i] of the source; None likewise
    """

    source: str
    order: Order | None = None
    columns: Any = None


def all_of(nodes: Iterable[Any]) -> Iterable[Any]:
    """Operators, and those inside of them."""
    for node in nodes:
        yield node
        for graph in _graphs(node):
            yield from all_of(graph.node)


def _graphs(node: Any) -> list[Any]:
    return [a.g for a in node.attribute if a.HasField("g")]


def shapes_of(graph: Any) -> dict[str, Order]:
    """The shapes that are known in full; those that follow from the batch are multiples of OPEN."""
    found = {}
    for each in (*graph.input, *graph.value_info, *graph.output):
        if each.type.tensor_type.HasField("shape"):
            lengths = each.type.tensor_type.shape.dim
            if all(length.HasField("dim_value") for length in lengths):
                found[each.name] = tuple(length.dim_value for length in lengths)
    for node in graph.node:
        for inner in _graphs(node):
            found |= shapes_of(inner)
    return found


class Layouts:
    """The operators of a graph, written again, each for the layouts of what it takes."""

    def __init__(self, onnx: Any, graph: Any, shapes: dict[str, Order], rules: "Rules") -> None:
        self.onnx, self.rules = onnx, rules
        self.arrays = {each.name: each for each in graph.initializer}
        self.taken = {name for node in all_of(graph.node) for name in (*node.output, *node.input)}
        self.nodes: list[Any] = []
        self.layouts: dict[str, Layout] = {}  # of the values of the graph, where they differ
        self.shapes = {name: tuple(each.dims) for name, each in self.arrays.items()} | shapes
        self.sizes: dict[str, Order] = dict(self.shapes)  # of the values that are really there
        self.makers: dict[str, Any] = {}  # of these
        self.users: dict[str, list[Any]] = {}
        for node in all_of(graph.node):
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        inside = [each for node in all_of(graph.node) for each in _graphs(node)]
        self.results = {each.name for one in (graph, *inside) for each in one.output}
        self._turned: dict[tuple[str, Order], str] = {}
        self._stored: dict[Any, str] = {}
        for name in self.arrays:
            if prod(self.shapes[name]) <= LARGE:
                self._stored[self._key(self.array(name), "")] = name
        self._instead: dict[str, str] = {}  # of an array, and of that whose place it took
        self._place = ""

    def settled(self, graph: Any) -> list[Any]:
        """The operators of a graph, or of one inside of it, whose results keep their names."""
        around, self.nodes = self.nodes, []
        outputs = [each.name for each in graph.output]
        for node in graph.node:
            self._place = node.name.rpartition("/")[0]
            rule = self.rules.get(node.op_type)
            if rule is None or not rule(self, node):
                self.plain(node)
        for name in outputs:
            self._finish(name, outputs)
        nodes, self.nodes = self.nodes, around
        return nodes

    def _finish(self, name: str, outputs: list[str]) -> None:
        """Let an output of the graph be there under its name."""
        found = self.read(name)
        if found == name:
            return
        if any(name in node.output for node in self.nodes):  # its source has that name
            self._rename(name, self.unique(f"{name}/turned"))
        if found in outputs or all(found not in node.output for node in self.nodes):
            make = self.onnx.helper.make_node
            self.nodes.append(make("Identity", [found], [name], name=name))
        else:
            self._rename(found, name)

    def _rename(self, name: str, new: str) -> None:
        """Let a value that is there have another name, in the layouts of others too."""
        renamed(self.nodes, name, new)
        self.layouts.setdefault(name, Layout(name))
        for key, each in self.layouts.items():
            if each.source == name:
                self.layouts[key] = each._replace(source=new)
        names = {name: new}
        self._turned = {
            (names.get(source, source), order): names.get(made, made)
            for (source, order), made in self._turned.items()
        }
        for known in (self.sizes, self.makers):
            if name in known:
                known[new] = known[name]

    # --- values

    def unique(self, name: str) -> str:
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    def layout(self, name: str) -> Layout:
        return self.layouts.get(name, Layout(name))

    def array(self, name: str) -> Any:
        """The numbers of a stored array; None if the value is none."""
        each = self.arrays.get(name)
        return None if each is None else self.onnx.numpy_helper.to_array(each)

    def _key(self, array: Any, instead: str) -> Any:
        return instead, array.dtype.str, array.shape, array.tobytes()

    def stored(self, array: Any, instead: str = "") -> str:
        """An array of the file's own, in the place of another one if `instead` says so."""
        key = self._key(array, instead)
        if key not in self._stored:
            name = self.unique(f"{instead}/turned" if instead else "constant")
            self.arrays[name] = self.onnx.numpy_helper.from_array(array.copy(), name)
            self.sizes[name] = array.shape
            self._stored[key], self._instead[name] = name, instead
        return self._stored[key]

    def integers(self, values: Iterable[int]) -> str:
        """A vector of int64."""
        make, values = self.onnx.helper.make_tensor, list(values)
        tensor = make("", self.onnx.TensorProto.INT64, [len(values)], values)
        return self.stored(self.onnx.numpy_helper.to_array(tensor))

    def keep_arrays(self, graph: Any) -> None:
        """Leave the arrays that operators read; one in the place of another takes its name too."""
        wanted: set[str] = {each.name for each in graph.output}.union(*map(read_by, graph.node))
        first = {each.name: place for place, each in enumerate(graph.initializer)}
        kept = [name for name in self.arrays if name in wanted]
        kept.sort(key=lambda name: first.get(self._instead.get(name) or name, len(first)))
        instead = [self._instead.get(name, "") for name in kept]
        for name, other in zip(kept, instead, strict=True):
            if other and other not in wanted and instead.count(other) == 1:
                renamed(graph.node, name, other)
                self.arrays[name].name = other
        arrays = [self.arrays[name] for name in kept]
        blobs = [each.SerializeToString() for each in arrays]
        graph.ClearField("initializer")
        graph.initializer.extend(self.onnx.TensorProto.FromString(blob) for blob in blobs)

    def read(self, name: str) -> str:
        """The name of what is there for a value, made now if it was not."""
        source, order, columns = self.layout(name)
        assert columns is None, "columns are given to products alone"
        return source if order is None else self.transposed(source, order)

    def transposed(self, source: str, order: Order) -> str:
        """A value that is there with its axes in another order, which is made but once."""
        if order == tuple(sorted(order)):
            return source
        if (source, order) not in self._turned:
            size = self.sizes.get(source, ())
            shape = tuple(size[axis] for axis in order) if size else ()
            if size and is_kept(size, order) and (target := target_of(shape)) is not None:
                made = self.reshaped(source, target, shape)
            else:
                made = self.emit("Transpose", [source], shape, perm=list(order))
            self._turned[source, order] = made
            self._turned[made, inverse(order)] = source
        return self._turned[source, order]

    def reshaped(self, source: str, target: Sequence[int], shape: Order) -> str:
        """A value in another shape; one that was just given that shape is as it was before."""
        maker = self.makers.get(source)
        if maker is not None and maker.op_type == "Reshape":
            source = maker.input[0]
        if self.sizes.get(source) == shape:
            return source
        return self.emit("Reshape", [source, self.integers(target)], shape)

    def emit(self, operator: str, inputs: Sequence[str], shape: Order, **attributes: Any) -> str:
        """One more operator, and the name of its result."""
        name = self.unique(f"{self._place}/{operator}" if self._place else operator)
        make = self.onnx.helper.make_node
        self.keep(make(operator, list(inputs), [name], name=name, **attributes), shape)
        return name

    def keep(self, node: Any, shape: Order) -> None:
        """An operator as it is to stand in the file."""
        self.nodes.append(node)
        for name in filter(None, node.output):
            self.makers[name] = node
            self.sizes[name] = shape

    # --- operators

    def plain(self, node: Any) -> bool:
        """An operator that takes and gives what the graph says."""
        made = type(node).FromString(node.SerializeToString())
        for place, name in enumerate(node.input):
            made.input[place] = self.read(name) if name else ""
        for inner in _graphs(made):
            for name in sorted(set[str]().union(*map(read_by, inner.node)) & self.layouts.keys()):
                self.read(name)  # once, outside, and not in each step
            around = self._place, dict(self._turned), dict(self.makers)
            nodes = self.settled(inner)
            self._place, self._turned, self.makers = around  # nobody outside sees what is inside
            inner.ClearField("node")
            inner.node.extend(nodes)
        self.keep(made, ())
        for name in made.output:
            self.sizes[name] = self.shapes.get(name, ())
        return True

    def changed(
        self, node: Any, inputs: Sequence[str], order: Order = (), columns: Any = None, **new: int
    ) -> bool:
        """An operator of these inputs, whose result the graph has with its axes in that order.

        new: attributes that are changed
        """
        name = node.output[0]
        made = type(node).FromString(node.SerializeToString())
        made.ClearField("input")
        made.input.extend(inputs)
        for attribute in made.attribute:
            if attribute.name in new:
                attribute.i = new[attribute.name]
        shape = self.shapes.get(name, ())
        straight = order == tuple(sorted(order))
        self.layouts[name] = Layout(name, None if straight else order, columns)
        self.keep(made, tuple(shape[axis] for axis in inverse(order)) if order else shape)
        return True

    def aligned(
        self, name: str, order: Order, whole: Order | None = None, spread: bool = False
    ) -> str | None:
        """A value as one of the axes that `order` has changed; None if it would have to be turned.

        whole: the shape of the result, where the value is broadcast to it
        spread: whether another value has that shape, so that this one need not be given it
        """
        source, own, columns = self.layout(name)
        shape, back = self.shapes.get(name), inverse(order)
        if own == order:
            return source
        if columns is not None or shape is None or len(shape) > len(order):
            return None
        if whole is not None and prod(shape) == 1:
            return self.read(name)
        maker = self.makers.get(source)
        if spread and maker is not None and maker.op_type == "Expand":
            size: Order = self.sizes.get(maker.input[0], (0,))
            if prod(size) == 1:
                return str(maker.input[0])
        shape = (1,) * (len(order) - len(shape)) + shape
        wanted = tuple(shape[axis] for axis in back)
        few = wanted if whole is None else wanted[next(i for i, n in enumerate(wanted) if n != 1) :]
        if own is None and (array := self.array(source)) is not None:
            if few == array.shape and is_kept(shape, back):
                return source
            return self.stored(array.reshape(shape).transpose(back).reshape(few), source)
        if own is None and (source, back) in self._turned:
            return self._turned[source, back]
        if not is_kept(shape, back) or (target := target_of(few)) is None:
            return None
        return self.reshaped(self.read(name), target, few)


def inverse(order: Sequence[int]) -> Order:
    """The order that undoes another one."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def is_kept(shape: Order, order: Order) -> bool:
    """True if axes longer than 1 keep their order: the elements then stand as before."""
    long = [axis for axis in order if shape[axis] != 1]
    return long == sorted(long)


def target_of(shape: Order) -> list[int] | None:
    """A shape for Reshape, with -1 for the length that follows the batch; None for several.

    Such a length need not be a multiple (of x[1:] it is one less), but it is long.
    """
    found = [-1 if n > OPEN // 100 else n for n in shape]
    return found if found.count(-1) < 2 and 0 not in shape else None


#: What an operator of a name may do for layouts; True if it was written.
Rules = dict[str, Callable[[Layouts, Any], bool]]
