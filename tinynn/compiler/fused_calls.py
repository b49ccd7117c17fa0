"""Calls that are fused: sums with products, and pullbacks, by PyTorch's names.

For libraries that have such a call and write its result into an array.
"""

from collections.abc import Container
from typing import Any

from tinynn.compiler.passes import is_itself, known
from tinynn.compiler.rewrite import Builder, is_call, is_number, rewritten
from tinynn.rules.kinds import Elementwise
from tinynn.trace import Effect, Function
from tinynn.transforms.graph import Graph, Node


def _of_elements(name: str, raw: Any) -> Function:
    function = Function(name, raw)
    function.rule, function.listed = Elementwise(None, None), True
    return function


#: x + a @ b, of matrices; x may be one row for all.
ADDMM = Function("addmm", lambda x, a, b: x + a @ b)
ADDMM.listed = True
#: x + a * b, and with a number for `scale` x + scale * y.
ADDCMUL = _of_elements("addcmul", lambda x, a, b: x + a * b)
ADD_SCALED = _of_elements("add_scaled", lambda x, y, scale: x + scale * y)
#: The pullbacks of sigmoid and tanh: of the cotangent g, and the result y.
SIGMOID_PULLBACK = _of_elements("sigmoid_pullback", lambda g, y: g * (y * (1 - y)))
TANH_PULLBACK = _of_elements("tanh_pullback", lambda g, y: g * (1 - y * y))


def fused_calls(graph: Graph, into: Container[str]) -> Graph:
    """The graph with the fused calls that the library has.

    Parameters
    ----------
    into
        The functions, by name, that the library writes into arrays.
    """
    kinds = graph.space.kinds

    def pulled(node: Node, build: Builder) -> Any:
        if node.dtype is None or kinds[node.dtype] != "real floating":
            return node
        for g, slope in (node.args, node.args[::-1]):
            found = _slope(slope, node) if is_itself(g, node) else None
            if found is not None and found[0].name in into:
                return _call(found[0], node, build, g, found[1])
        return node

    if "sigmoid_pullback" in into or "tanh_pullback" in into:
        graph = rewritten(graph, pulled, of={"multiply"})
    if "addmm" in into:
        graph = _sums(graph)
    return graph


def _call(function: Function, like: Node, build: Builder, *args: Any, **kwargs: Any) -> Node:
    return build.add(Node(function, args, kwargs, like.shape, like.dtype, like.origin))


def _slope(value: Any, like: Node) -> tuple[Function, Any] | None:
    """The pullback that multiplies by this slope, and the result y that it is the slope at."""
    if is_call(value) and value.name == "multiply":
        for y, rest in (value.args, value.args[::-1]):
            if is_itself(y, like) and _rest(rest) is y:
                return SIGMOID_PULLBACK, y
    square = _rest(value)
    if is_call(square) and square.name == "multiply" and square.args[0] is square.args[1]:
        y = square.args[0]
        return (TANH_PULLBACK, y) if is_itself(y, like) else None
    return None


def _rest(value: Any) -> Any:
    """The x of 1 - x; None for anything else."""
    one_less = is_call(value) and value.name == "subtract" and known(value.args[0]) == 1
    return value.args[1] if one_less else None


def _sums(graph: Graph) -> Graph:
    """The graph with a sum and its product fused, where nobody else reads the product."""
    users, outputs = graph.users(), set(map(id, graph.outputs))
    olds = iter([node for node in graph.nodes if node.effect is Effect.NONE])

    def visit(node: Node, build: Builder) -> Any:
        old = next(olds)
        if node.name not in ("add", "subtract") or node.dtype is None:
            return node
        if graph.space.kinds[node.dtype] != "real floating":
            return node
        for place in (1, 0) if node.name == "add" else (1,):
            x, product, before = node.args[1 - place], node.args[place], old.args[place]
            alone = len(users.get(id(before), ())) == 1 and id(before) not in outputs
            if alone and is_itself(product, node) and is_call(product) and isinstance(x, Node):
                made = _sum(node, x, product, build)
                if made is not None:
                    return made
        return node

    return rewritten(graph, visit)


def _sum(node: Node, x: Node, product: Node, build: Builder) -> Node | None:
    """x plus or minus a product as one call; None where there is none."""
    if x.dtype != node.dtype:
        return None
    matrices = product.name == "matmul" and [len(a.shape) for a in product.args] == [2, 2]
    if matrices and node.name == "add" and x.shape in (node.shape, node.shape[-1:]):
        return _call(ADDMM, node, build, x, *product.args)
    if product.name != "multiply" or not is_itself(x, node):
        return None
    a, b = product.args
    if is_number(a):
        a, b = b, a
    if is_number(b) and is_itself(a, node):
        scale = b if node.name == "add" else -b
        return _call(ADD_SCALED, node, build, x, a, scale=scale)
    if node.name == "add" and is_itself(a, node) and is_itself(b, node):
        return _call(ADDCMUL, node, build, x, a, b)
    return None
