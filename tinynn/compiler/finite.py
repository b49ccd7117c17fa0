"""Where NaN or infinity in a program's result began; and whether its input has any."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tinynn.compiler.rewrite import is_call, size
from tinynn.trace import backend_of
from tinynn.trace.core import getitem
from tinynn.transforms.graph import Constant, Graph, Input, Node, pruned


def first_nonfinite(graph: Graph, values: Sequence[Any]) -> Node | None:
    """The first operation with a non-finite result, among those that made an output non-finite.

    Parameters
    ----------
    graph
        A recorded function.
    values
        An array for each of its inputs, in order.

    Returns
    -------
    Node or None
        Its `origin` names the layer and the line; an Input or Constant where NaN or infinity came
        from outside; None if the outputs are finite. What is infinite on the way and does no harm,
        as exp(1000) in 1 / (1 + exp(1000)), is not named.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.transforms.record import record
    >>> f = lambda x: x.__array_namespace__().log(x) + 1
    >>> graph = record(f, np.asarray([1.0, 2.0]))
    >>> with np.errstate(all="ignore"):
    ...     print(first_nonfinite(graph, [np.asarray([1.0, -2.0])]).name)
    log
    """
    return _run(graph, values)[1]


def by_first_product(graph: Graph) -> Graph:
    """The graph with another last output, where that is the sum of an input's squares.

    Such a number is only asked whether it is finite: if it is, so is the input. Of a product with a
    matrix that the graph has anyway one column will do, since NaN or infinity in a row of the input
    is in the whole row of the product, and stays in a sum.
    """
    total = graph.outputs[-1]
    if not is_call(total) or total.name != "sum" or not is_call(total.args[0]):
        return graph
    x = total.args[0].args[0]
    product = next((node for node in graph.nodes if _multiplies_rows(node, x)), None)
    if product is None or product.dtype != x.dtype:
        return graph
    space, origin = graph.space, product.origin
    of_one_row = size(product) == product.shape[-1]
    key = (0,) * len(product.shape) if of_one_row else (..., 0)
    shape = () if of_one_row else product.shape[:-1]
    column = number = Node(getitem, (product,), {"key": key}, shape, x.dtype, origin)
    added = [column]
    if shape:
        number = Node(space.sum, (column,), {}, (), x.dtype, origin)
        added.append(number)
    place = graph.nodes.index(product) + 1
    nodes = [*graph.nodes[:place], *added, *graph.nodes[place:]]
    return pruned(replace(graph, nodes=nodes, outputs=[*graph.outputs[:-1], number]))


def _multiplies_rows(node: Node, x: Any) -> bool:
    """True for the product of an input, in whatever shape, with a matrix of some columns."""
    if node.name != "matmul" or len(node.args[1].shape) != 2 or len(node.args[0].shape) < 2:
        return False
    rows = node.args[0]
    while is_call(rows) and rows.name == "reshape":
        rows = rows.args[0]
    return rows is x and size(node) > 0


def check_outputs(graph: Graph, values: Sequence[Any]) -> list[Any]:
    """The outputs of a graph; FloatingPointError, with where it began, if they are not finite."""
    outs, node = _run(graph, values)
    if node is not None:
        raise FloatingPointError(f"{graph.name}: {_why(node)}")
    return outs


def _run(graph: Graph, values: Sequence[Any]) -> tuple[list[Any], Node | None]:
    spoiled: set[int] = set()

    def look(node: Node, value: Any) -> None:
        if not _is_finite(value):
            spoiled.add(id(node))

    for each, value in zip(graph.inputs, values, strict=True):
        look(each, value)
    for constant in graph.constants:
        look(constant, constant.value)
    outs = graph.run(values, look)
    for node in graph.outputs:
        if isinstance(node, Node) and id(node) in spoiled:
            while parent := next((p for p in node.parents if id(p) in spoiled), None):
                node = parent
            return outs, node
    return outs, None


def _is_finite(value: Any) -> bool:
    if not hasattr(value, "dtype"):  # a number, or several results, each of which comes by itself
        return True
    xp = backend_of(value).xp
    if not xp.isdtype(value.dtype, ("real floating", "complex floating")):
        return True
    return bool(xp.all(xp.isfinite(value)))


def _why(node: Node) -> str:
    if isinstance(node, Input):
        return f"{node.label} holds NaN or infinity. Clean it, or leave those rows out"
    if isinstance(node, Constant):
        return "an array from outside holds NaN or infinity. Clean it before the call"
    return (
        f"{node.name} gave NaN or infinity, in {node.origin}. "
        "Check the data, lower the learning rate, or keep its argument in range"
    )
