"""Passes for libraries that write results into buffers: other calls that cost less there."""

from collections.abc import Callable, Container
from dataclasses import replace
from math import prod
from typing import Any

from tinynn.compiler.layouts import note
from tinynn.compiler.liveness import is_view
from tinynn.compiler.passes import is_itself, known
from tinynn.compiler.rewrite import Builder, CannotEmit, elementwise, is_call, rewritten, size
from tinynn.rules.kinds import Elementwise, axes_of
from tinynn.rules.special import scatter_add
from tinynn.trace import Function, namespace
from tinynn.transforms.definitions import definition_of
from tinynn.transforms.graph import ITEM, SUM_WHERE, Graph, Node, pruned
from tinynn.transforms.subgraph import substituted

_REDUCTIONS = ("sum", "max", "min")
_MOVED = ("permute_dims", "moveaxis", "broadcast_to")  # to reshape them is to copy them
_CHOSEN = 4096  # elements of which some are summed
_FEW = 1024  # elements, whose signs take no longer than a comparison


def products(graph: Graph) -> Graph:
    """Sums as products, where one call then does the work of two.

    sum(a * b) is a vecdot; the sum of the products of many matrices, such as a weight's gradient
    is, one product of all their rows.
    """
    kinds = graph.space.kinds

    def visit(node: Node, build: Builder) -> Any:
        x = node.args[0]
        if not is_call(x) or x.dtype != node.dtype:
            return node
        if x.name == "matmul":
            return _of_all_rows(node, x, build)
        real = kinds[x.dtype] == "real floating" and x.name == "multiply" and node.shape == ()
        if not real or not all(is_itself(a, x) for a in x.args):
            return node
        flat = [_shaped(a, (size(a),), build) for a in dict.fromkeys(x.args)]
        return build.call(node, "vecdot", flat[0], flat[-1])

    return rewritten(graph, visit, of={"sum"})


def _of_all_rows(node: Node, product: Node, build: Builder) -> Node:
    """The sum over all axes but the last two of mT(a) @ b, which have rows alike."""
    left, b = product.args
    rank = len(product.shape)
    alike = is_call(left) and left.name == "matrix_transpose" and left.dtype == b.dtype
    gone = set(axes_of(node.kwargs.get("axis"), rank))
    if not alike or rank < 3 or gone != set(range(rank - 2)) or node.shape != product.shape[-2:]:
        return node
    a = left.args[0]
    if a.shape[:-1] != b.shape[:-1] or any(v.name in _MOVED for v in (a, b)):
        return node
    a, b = [_shaped(v, (prod(v.shape[:-1]), v.shape[-1]), build) for v in (a, b)]
    shape = a.shape[::-1]
    transposed = build.space.matrix_transpose
    turned = build.add(Node(transposed, (a,), {}, shape, a.dtype, left.origin))
    return build.add(Node(product.function, (turned, b), {}, node.shape, node.dtype, node.origin))


def sums_of_chosen(graph: Graph) -> Graph:
    """sum(where(mask, x, 0)) as one call, which makes no array of zeros between.

    Of few elements alone: a library may add those that it picks one after the other.
    """
    kinds = graph.space.kinds

    def visit(node: Node, build: Builder) -> Any:
        chosen = node.args[0]
        if not is_call(chosen) or chosen.name != "where" or node.shape != ():
            return node
        mask, x, other = chosen.args
        alike = isinstance(x, Node) and x.shape == chosen.shape == getattr(mask, "shape", None)
        if not alike or x.dtype != node.dtype or kinds[node.dtype] != "real floating":
            return node
        if known(other) != 0 or size(chosen) > _CHOSEN:
            return node
        return build.add(Node(SUM_WHERE, (mask, x), {}, (), node.dtype, node.origin))

    return rewritten(graph, visit, of={"sum"})


def written_out(graph: Graph, sayable: Callable[[Node], None]) -> Graph:
    """Calls that are defined by others, such as `var`, as those, where there are words for them.

    Parameters
    ----------
    sayable
        Raises CannotEmit for a call that there are no words for.
    """

    def has_words(node: Node) -> bool:
        try:
            sayable(node)
        except CannotEmit:
            return False
        return True

    def visit(node: Node, build: Builder) -> Any:
        if graph.batch is not None or node.dtype is None or is_view(node) or has_words(node):
            return node
        definition = definition_of(node, graph)
        if definition is None:
            return node
        definition = written_out(definition, sayable)
        if not all(map(has_words, definition.nodes)):
            return node  # an error then names the call that is in the user's program
        arrays = [a for a in node.args if isinstance(a, Node)]
        new: dict[int, Any] = dict(zip(map(id, definition.inputs), arrays, strict=True))
        definition = substituted(definition, new)
        for each in definition.nodes:
            build.add(each)
        return definition.outputs[0]

    return rewritten(graph, visit)


def kept_for_pullbacks(graph: Graph, names: Container[str]) -> Graph:
    """What a pullback would compute again of its function comes with the function's result.

    names: of the functions of which the library can give it.
    """
    wanted: dict[Any, Function] = {}  # by the function, its argument and keywords
    for node in graph.nodes:
        kept = node.function.kept
        if kept is not None and kept[0].name in names:
            wanted[kept[0], id(node.args[-1]), repr(node.kwargs)] = kept[1]
    if not wanted:
        return graph
    nodes: list[Node] = []
    new: dict[int, Any] = {}
    given: dict[Any, Node] = {}
    for node in graph.nodes:
        args = tuple(new.get(id(a), a) for a in node.args)
        key = (node.function, id(node.args[-1]) if node.args else None, repr(node.kwargs))
        pulled = node.function.kept and (node.function.kept[0], *key[1:])
        if key in wanted:
            both = Node(wanted[key], args, node.kwargs, (), None, node.origin)
            moved, given[key] = [
                Node(ITEM, (both,), {"index": i}, node.shape, dtype, node.origin)
                for i, dtype in enumerate((node.dtype, None))
            ]
            nodes += [both, moved, given[key]]
        elif pulled in given:
            moved = replace(node, function=node.function.kept[2], args=(*args, given[pulled]))
            nodes.append(moved)
        else:
            moved = replace(node, args=args)
            nodes.append(moved)
        new[id(node)] = moved
    outputs = [new.get(id(o), o) for o in graph.outputs]
    return pruned(replace(graph, nodes=nodes, outputs=outputs))


def without_logsumexp(graph: Graph) -> Graph:
    """log(sum(exp(x))) as the calls that it consists of, without overflow."""

    def visit(node: Node, build: Builder) -> Any:
        x: Any = node.args[0]
        axis = node.kwargs.get("axis")
        gone = axes_of(axis, len(x.shape))
        kept = tuple(1 if place in gone else n for place, n in enumerate(x.shape))

        def call(name: str, *args: Any, shape: Any = kept, **kwargs: Any) -> Node:
            function = getattr(graph.space, name)
            return build.add(Node(function, args, kwargs, shape, node.dtype, node.origin))

        largest = float(graph.space.xp.finfo(node.dtype).max)  # an infinite peak: inf - inf
        peak = call("max", x, axis=axis, keepdims=True)
        peak = call("minimum", call("maximum", peak, -largest), largest)
        powers = call("exp", call("subtract", x, peak, shape=x.shape), shape=x.shape)
        total = call("log", call("sum", powers, axis=axis, keepdims=True))
        total = call("add", total, peak)
        if tuple(node.shape) == kept:
            return total
        return build.call(node, "reshape", total, shape=node.shape)

    return rewritten(graph, visit, of={"logsumexp"})


def slopes_of_relu(graph: Graph) -> Graph:
    """Where max(x, 0) is known, its slope is the sign of it: floats at once, and no booleans.

    Libraries find signs by branching, and unpredictable branches are slow. So in large arrays it is
    a comparison that is written into floats.
    """
    known_maxima: dict[int, Node] = {}

    def visit(node: Node, build: Builder) -> Any:
        if node.name == "maximum" and known(node.args[1]) == 0 and isinstance(node.args[0], Node):
            known_maxima[id(node.args[0])] = node
        if node.name != "astype" or not is_call(node.args[0]):
            return node
        mask = node.args[0]
        if mask.name != "greater" or known(mask.args[1]) != 0:
            return node
        positive = known_maxima.get(id(mask.args[0]))
        if positive is None or not is_itself(positive, node):
            return node
        if size(node) <= _FEW and node.origin.backward:  # with NaN there, NaN comes out anyhow
            return build.call(node, "sign", positive)
        return build.call(node, "greater", positive, 0)

    done = rewritten(graph, visit, of={"maximum", "astype"})
    # A new array, such as is given away, would be of booleans.
    compared = [o for o in done.outputs if is_call(o) and o.name == "greater"]
    return graph if any(graph.space.kinds[o.dtype] for o in compared) else done


#: gated(g, x): g where x is above zero, else zero.
GATED = Function("gated", lambda g, x: namespace(x).where(x > 0, g, 0.0))
GATED.rule, GATED.listed = Elementwise(None, None), True


def slopes_gate(graph: Graph) -> Graph:
    """What the slope of relu, already a comparison in floats, lets through, in one call."""
    kinds = graph.space.kinds

    def visit(node: Node, build: Builder) -> Any:
        for g, slope in (node.args, node.args[::-1]):
            if not is_call(slope) or slope.name != "greater" or known(slope.args[1]) != 0:
                continue
            x: Any = slope.args[0]
            alike = is_itself(g, node) and is_itself(x, node)
            if alike and kinds[slope.dtype] == "real floating":
                return build.add(Node(GATED, (g, x), {}, node.shape, node.dtype, node.origin))
        return node

    return rewritten(graph, visit, of={"multiply"})


def _scattered(indices: Any, updates: Any, *, shape: tuple[int, ...], axis: int) -> Any:
    zeros = namespace(updates).zeros(shape, dtype=updates.dtype, device=updates.device)
    return scatter_add(zeros, indices, updates, axis=axis)


#: scatter_add of zeros of a shape.
SCATTERED = Function("scattered", _scattered)
SCATTERED.listed = True


def scattered(graph: Graph) -> Graph:
    """The gradient of rows that were taken, written where it belongs, with no zeros beside it."""

    def visit(node: Node, build: Builder) -> Any:
        zeros, indices, updates = node.args
        if known(zeros) != 0 or updates.dtype != node.dtype:
            return node
        kwargs = {"shape": node.shape, "axis": node.kwargs.get("axis", 0)}
        args = indices, updates
        return build.add(Node(SCATTERED, args, kwargs, node.shape, node.dtype, node.origin))

    return rewritten(graph, visit, of={"scatter_add"})


def slopes_of_maximum(graph: Graph) -> Graph:
    """Of first_maximum(a, b) the cotangents of both as products with a mask of floats.

    A library finds `where` by branching, and makes an array of each. Where a cotangent is not
    finite, both are NaN or infinite: the other of the two is not spared, as `where` would. Where
    the result is NaN, the cotangent goes to `b`, whichever is NaN: to ask costs as much again.
    """
    shares: dict[tuple[int, int], Node] = {}  # what `a` gets, by the condition and the cotangent

    def visit(node: Node, build: Builder) -> Any:
        if not node.origin.backward or not is_call(node.args[0]):
            return node
        mask, first, second = node.args
        g = second if known(first) == 0 else first
        found = _operands_of_maximum(mask)
        if not found or not is_itself(g, node) or 0 not in (known(first), known(second)):
            return node
        a, y = found
        if not is_itself(y, node):
            return node
        key = id(mask), id(g)
        if key not in shares:
            shares[key] = build.call(node, "multiply", g, build.call(node, "equal", a, y))
        return shares[key] if g is second else build.call(node, "subtract", g, shares[key])

    return rewritten(graph, visit, of={"where"})


def _operands_of_maximum(mask: Node) -> tuple[Node, Node] | None:
    """`a` and y = maximum(a, b), if the mask is that of the derivative of `first_maximum`."""
    if mask.name != "logical_or" or not all(map(is_call, mask.args)):
        return None
    larger, unlike = mask.args
    if larger.name != "greater" or unlike.name != "not_equal":
        return None
    (y, a), (b, same) = larger.args, unlike.args
    if not (is_call(y) and y.name == "maximum" and y.args[0] is a and y.args[1] is b is same):
        return None
    return a, y


def sums_of_rows(graph: Graph, lowering: Any = None) -> Graph:
    """Sums over all axes but the last as sums over the rows of a matrix: one product with ones.

    Not of what `lowering` would have in memory in an order without such rows.
    """
    sums = [node.args[0] for node in graph.nodes if node.name == "sum"]
    if all(len(x.shape) < 3 for x in sums):
        return graph
    found: dict[int, tuple[int, ...]] = {}

    def visit(node: Node, build: Builder) -> Any:
        note(node, lowering, found)
        x: Any = node.args[0] if node.args else None
        if node.name != "sum" or not isinstance(x, Node) or x.dtype != node.dtype:
            return node
        if id(x) in found:
            return node
        leading = len(x.shape) - 1
        gone = axes_of(node.kwargs.get("axis"), len(x.shape))
        if leading < 2 or set(gone) != set(range(leading)) or node.shape != x.shape[-1:]:
            return node
        rows = _shaped(x, (prod(x.shape[:-1]), x.shape[-1]), build)
        return build.call(node, "sum", rows, axis=0)

    return rewritten(graph, visit)


def without_rows_of_one(graph: Graph) -> Graph:
    """A batch of one without the axes of length one in front, where a call can do without them.

    A library takes its time for broadcasting even where nothing is repeated. A row that comes from
    outside is multiplied as it is: to look at it in another shape would take longer.
    """
    if not any(node.shape and node.shape[0] == 1 for node in graph.nodes):
        return graph

    def visit(node: Node, build: Builder) -> Any:
        if node.dtype is None or node.shape == _stripped(node.shape):
            return node
        if elementwise(node):
            return _unrepeated(node, build)
        if node.name == "matmul" and _is_of_row(node) and is_call(node.args[0]):
            row = _shaped(node.args[0], node.args[0].shape[-1:], build)
            return _back(node, build, node.shape[-1:], row, node.args[1])
        if node.name in _REDUCTIONS and node.args[0].dtype == node.dtype:
            return _reduced(node, build)
        return node

    return rewritten(graph, visit)


def _is_of_row(node: Node) -> bool:
    """True for the product of one row, with whatever axes of one before it, and a matrix."""
    x, matrix = (tuple(a.shape) for a in node.args)
    return len(x) > 1 and len(matrix) == 2 and prod(x[:-1]) == 1


def _stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape from its first axis on that is longer than one."""
    first = next((i for i, n in enumerate(shape) if n != 1), len(shape))
    return tuple(shape[first:])


def _unrepeated(node: Node, build: Builder) -> Node:
    """The call without broadcasting of arrays, if it can do without."""
    few = [a for a in node.parents if a.shape not in ((), node.shape)]
    if not few:
        return node
    if all(size(a) == 1 for a in few):
        args = [_shaped(a, (), build) if a in few else a for a in node.args]
        return build.call(node, node.name, *args, **node.kwargs)
    return _back(node, build, _stripped(node.shape), *[_flat(a, build) for a in node.args])


def _flat(value: Any, build: Builder) -> Any:
    """The value without its axes of one in front."""
    if not isinstance(value, Node) or value.shape == _stripped(value.shape):
        return value
    return _shaped(value, _stripped(value.shape), build)


def _shaped(value: Node, shape: tuple[int, ...], build: Builder) -> Node:
    kwargs, reshape = {"shape": shape}, build.space.reshape
    return build.add(Node(reshape, (value,), kwargs, shape, value.dtype, value.origin))


def _back(node: Node, build: Builder, shape: Any, *args: Any, **kwargs: Any) -> Node:
    """The node's function of other arguments, which gives `shape`, in the shape of the node."""
    kwargs = node.kwargs | kwargs
    flat = build.add(Node(node.function, args, kwargs, shape, node.dtype, node.origin))
    return _shaped(flat, node.shape, build)


def _reduced(node: Node, build: Builder) -> Node:
    """A reduction over axes behind those in front."""
    x = node.args[0]
    flat = _flat(x, build)
    front = len(x.shape) - len(flat.shape)
    gone = [axis - front for axis in axes_of(node.kwargs.get("axis"), len(x.shape))]
    axes = tuple(axis for axis in gone if axis >= 0)
    shape = tuple(n for axis, n in enumerate(flat.shape) if axis not in axes)
    if not axes or shape != _stripped(node.shape):
        return node
    axis = axes[0] if len(axes) == 1 else axes
    return _back(node, build, shape, flat, axis=axis, keepdims=False)
