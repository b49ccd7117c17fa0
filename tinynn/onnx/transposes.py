"""The rules by which operators take and give values whose axes are in another order.

An operator without one has its inputs turned as the graph says. `settle` is the whole of it.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

from tinynn.onnx.emitter import read_by
from tinynn.onnx.layouts import OPEN, Layout, Layouts, Order, Rules, all_of, inverse, shapes_of

#: Arrays of more elements are no shapes or axes, and shapes do not follow from them.
LARGE = 64
#: Operators that compute each element from those at the same place.
ELEMENTWISE = frozenset(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast "
    "Ceil Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual IsInf IsNaN LeakyRelu "
    "Less LessOrEqual Log Max Min Mul Neg Not Or Pow Reciprocal Relu Round Sigmoid Sign Sin Sinh "
    "Softplus Sqrt Sub Tan Tanh Where Xor".split()
)


def settle(model: Any, onnx: Any) -> None:
    """Let the graph of a model have as few Transposes as this finds ways for.

    Parameters
    ----------
    model : of `onnx.helper.make_model`; it is changed
    onnx : the package
    """
    if not _transposes(model.graph.node):
        return
    graph = model.graph
    layouts = Layouts(onnx, graph, shapes_of(_inferred(model, onnx)), RULES)
    nodes = _needed(layouts.settled(graph), [each.name for each in graph.output])
    if _transposes(nodes) > _transposes(graph.node):
        return
    graph.ClearField("node")
    graph.node.extend(nodes)
    layouts.keep_arrays(graph)


def _transposes(nodes: Iterable[Any]) -> int:
    return sum(node.op_type == "Transpose" for node in all_of(nodes))


def _needed(nodes: Sequence[Any], outputs: Iterable[str]) -> list[Any]:
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted |= read_by(node)
    return kept[::-1]


def _inferred(model: Any, onnx: Any) -> Any:
    """A copy of the graph with the shapes of all values, for a batch of OPEN."""
    copied, helper = onnx.ModelProto(), onnx.helper
    copied.opset_import.extend(model.opset_import)
    copied.ir_version = model.ir_version
    copied.graph.name = "shapes"
    for kind in ("node", "input"):
        getattr(copied.graph, kind).extend(getattr(model.graph, kind))
    for each in copied.graph.input:
        for length in each.type.tensor_type.shape.dim:
            if length.dim_param == "batch":
                length.dim_value = OPEN
    for each in model.graph.initializer:  # without the numbers of the large ones
        if prod(each.dims) > LARGE:
            given = helper.make_tensor_value_info(each.name, each.data_type, list(each.dims))
            copied.graph.input.append(given)
        else:
            copied.graph.initializer.append(each)
    for each in model.graph.output:
        copied.graph.output.add().name = each.name
    return onnx.shape_inference.infer_shapes(copied, data_prop=True).graph


# --- the rules of operators: True if the operator was written


def _transpose(out: Layouts, node: Any) -> bool:
    (perm,) = [list(a.ints) for a in node.attribute if a.name == "perm"]
    source, before, columns = out.layout(node.input[0])
    assert columns is None, "columns are given to products alone"
    order = tuple(perm if before is None else (before[axis] for axis in perm))
    out.layouts[node.output[0]] = Layout(source, None if order == tuple(sorted(order)) else order)
    return True


def _elementwise(out: Layouts, node: Any) -> bool:
    found = out.layout(node.input[0])
    if found.columns is not None:  # of one array alone: `_ends_in_products` has seen to it
        return out.changed(node, [found.source], columns=found.columns)
    return _together(out, node)


def _together(out: Layouts, node: Any, **axis: Any) -> bool:
    """One operator of several arrays in one layout, that which most of them have."""
    whole = out.shapes.get(node.output[0], ())
    given = [out.layout(name).order for name in node.input if name]
    orders = [order for order in given if order is not None and len(order) == len(whole)]
    if not orders:
        return False
    order = max(orders, key=orders.count)
    if axis:
        parts = [out.aligned(name, order) for name in node.input]
    else:
        spread = any(
            out.layout(name).order == order and out.shapes.get(name) == whole for name in node.input
        )
        parts = [out.aligned(name, order, whole, spread) for name in node.input]
    if parts.count(None) >= orders.count(order):
        return False
    pairs = zip(parts, node.input, strict=True)
    turned = [p or out.transposed(out.read(name), inverse(order)) for p, name in pairs]
    new = {key: order[value % len(order)] for key, value in axis.items()}
    return out.changed(node, turned, order, **new)


def _concat(out: Layouts, node: Any) -> bool:
    return _together(out, node, axis=_axis(node))


def _axis(node: Any, usual: int = -1) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), usual)


def _along(out: Layouts, node: Any) -> bool:
    """An operator along one axis, which is kept."""
    source, order, _ = out.layout(node.input[0])
    if order is None:
        return False
    return out.changed(node, [source], order, axis=order[_axis(node) % len(order)])


def _norm(out: Layouts, node: Any) -> bool:
    """A norm over the last axis, which has to stay the last one."""
    source, order, _ = out.layout(node.input[0])
    if order is None or _axis(node) % len(order) != len(order) - 1 or order[-1] != len(order) - 1:
        return False
    return out.changed(node, [source, *map(out.read, node.input[1:])], order)


def _over(out: Layouts, node: Any) -> bool:
    """An operator over axes, which are kept with length 1 or gone."""
    source, order, _ = out.layout(node.input[0])
    given = out.array(node.input[1]) if len(node.input) > 1 else None
    if order is None or (given is None and len(node.input) > 1):
        return False
    axes = [_axis(node, 0)] if given is None else given.reshape(-1).tolist()
    axes = [axis % len(order) for axis in axes]
    keep = any(a.name == "keepdims" and a.i for a in node.attribute)
    left = [order[axis] for axis in range(len(order)) if axis not in axes]
    after = order if keep else inverse(inverse(left))
    there = sorted(order[axis] for axis in axes)
    if given is None:
        return out.changed(node, [source], after, axis=there[0])
    return out.changed(node, [source, out.integers(there)], after)


def _slice(out: Layouts, node: Any) -> bool:
    source, order, _ = out.layout(node.input[0])
    axes = out.array(node.input[3]) if len(node.input) > 3 else None
    if order is None or axes is None:
        return False
    there = out.integers(order[axis % len(order)] for axis in axes.tolist())
    others = [out.read(name) for name in node.input[1:3]], list(map(out.read, node.input[4:]))
    return out.changed(node, [source, *others[0], there, *others[1]], order)


def _reshape(out: Layouts, node: Any) -> bool:
    """Axes that are split, joined and left away, where those that are joined stand together."""
    source, order, _ = out.layout(node.input[0])
    before, after = out.shapes.get(node.input[0]), out.shapes.get(node.output[0])
    target = out.array(node.input[1])
    if before is None or after is None or target is None or 0 in target:
        return False
    if order is None:
        out.layouts[node.output[0]] = Layout(out.reshaped(source, target.tolist(), after))
        return True
    groups = _groups(before, after)
    places = {axis: i for i, axis in enumerate(sorted(o for o, n in zip(order, before, strict=True)
                                                      if n != 1))}  # fmt: skip
    starts: list[int] = []
    for axes, _ in groups:
        there = [places[order[axis]] for axis in axes if before[axis] != 1]
        if there != list(range(there[0], there[0] + len(there))) if there else False:
            return _flattened(out, node, before, after)
        starts.append(there[0] if there else (starts[-1] if starts else -1))
    ranked = sorted(range(len(groups)), key=lambda i: (starts[i], i))
    moved = [axis for i in ranked for axis in groups[i][1]]
    lengths, shape = [int(target[axis]) for axis in moved], tuple(after[axis] for axis in moved)
    straight = moved == sorted(moved)
    made = out.reshaped(source, lengths, shape)
    out.layouts[node.output[0]] = Layout(made, None if straight else inverse(moved))
    return True


def _groups(before: Order, after: Order) -> list[tuple[list[int], list[int]]]:
    """The axes of two shapes of the same elements, in the smallest groups of the same product."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        axes, others = list[int](), list[int]()
        a = b = 1
        while (not axes and not others) or a != b:
            if (a <= b and i < len(before)) or j == len(after):
                axes.append(i)
                a, i = a * before[i], i + 1
            else:
                others.append(j)
                b, j = b * after[j], j + 1
        found.append((axes, others))
    return found


def _flattened(out: Layouts, node: Any, before: Order, after: Order) -> bool:
    """Rows of all that a sample has, in another order than the weights of products have them."""
    source, order, _ = out.layout(node.input[0])
    assert order is not None
    flat = len(after) == 2 and before[0] == after[0] and before[0] % OPEN == 0 and order[0] == 0
    if not flat or not _ends_in_products(out, node.output[0]):
        return False
    size = [before[axis] for axis in inverse(order)][1:]
    numbers = out.onnx.numpy_helper.to_array(out.arrays[node.input[1]])
    places = (numbers.reshape(-1)[:1] * 0 + 1).repeat(after[1]).cumsum() - 1
    columns = places.reshape(size).transpose([axis - 1 for axis in order[1:]]).reshape(-1)
    made = out.reshaped(source, [-1, after[1]], after)
    out.layouts[node.output[0]] = Layout(made, columns=columns)
    return True


def _ends_in_products(out: Layouts, name: str) -> bool:
    """True if nothing takes a value but products with stored weights, and functions before them."""
    wanted = [name]
    while wanted:
        name = wanted.pop()
        users = out.users.get(name, [])
        if not users or name in out.results:
            return False
        for node in users:
            if node.op_type in ELEMENTWISE and list(node.input) == [name]:
                wanted.append(node.output[0])
            elif not _is_product(out, node, name):
                return False
    return True


def _is_product(out: Layouts, node: Any, name: str) -> bool:
    plain = node.op_type in ("Gemm", "MatMul") and list(node.input).count(name) == 1
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    weight = out.sizes.get(node.input[1], ()) if plain and node.input[1] in out.arrays else ()
    return plain and node.input[0] == name and not turned and len(weight) == 2


def _product(out: Layouts, node: Any) -> bool:
    source, _, columns = out.layout(node.input[0])
    if columns is None:
        return False
    weight, back = out.array(node.input[1]), inverse(columns.tolist())
    by_column = any(a.name == "transB" and a.i for a in node.attribute)
    turned = weight[:, list(back)] if by_column else weight[list(back)]
    given = [source, out.stored(turned, node.input[1]), *map(out.read, node.input[2:])]
    return out.changed(node, given)


_OVER = "Sum Mean Max Min Prod L1 L2 LogSumExp".split()
RULES: Rules = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **{f"Reduce{name}": _over for name in _OVER},
    **dict.fromkeys(("ArgMax", "ArgMin", "Squeeze"), _over),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _along),
    **dict.fromkeys(("Gemm", "MatMul"), _product),
    "Transpose": _transpose,
    "Concat": _concat,
    "LayerNormalization": _norm,
    "Slice": _slice,
    "Reshape": _reshape,
}
