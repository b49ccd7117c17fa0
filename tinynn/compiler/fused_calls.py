"""Several calls as one, where the library has such a call and writes its result into an array."""

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


#: A matrix, or a row for all rows, and a product of matrices.
ADD_PRODUCT = Function("add_product", lambda x, a, b: x + a @ b)
ADD_PRODUCT.listed = True
#: x + a * b, and with a number for `scale` x + scale * y.
ADD_MULTIPLIED = _of_elements("add_multiplied", lambda x, a, b: x + a * b)
ADD_SCALED = _of_elements("add_scaled", lambda x, y, scale: x + scale * y)
#: What the slopes of a sigmoid and a tanh let through, of their results.
SIGMOID_PULLBACK = _of_elements("sigmoid_pullback", lambda g, y: g * (y * (1 - y)))
TANH_PULLBACK = _of_elements("tanh_pullback", lambda g, y: g * (1 - y * y))


def fused_calls(graph: Graph, into: Container[str]) -> Graph:
    """The graph with such calls.

    Parameters
    ----------
    into
        The functions, by name, that the library writes into arrays.
    """
    real = graph.space.kinds

    def pulled(node: Node, build: Builder) -> Any:
        if node.dtype is None or real[node.dtype] != "real floating":
            return node
        for g, slope in (node.args, node.args[::-1]):
            found = _slope(slope, node) if is_itself(g, node) else None
            if found is not None and found[0].name in into:
                return _call(found[0], node, build, g, found[1])
        return node

    if "sigmoid_pullback" in into or "tanh_pullback" in into:
        graph = rewritten(graph, pulled, of={"multiply"})
    if "add_product" in into:
        graph = _sums(graph)
    return graph


def _call(function: Function, like: Node, build: Builder, *args: Any, **kwargs: Any) -> Node:
    return build.add(Node(function, args, kwargs, like.shape, like.dtype, like.origin))


def _slope(value: Any, like: Node) -> tuple[Function, Any] | None:
    """The function whose pullback this is the slope of, and its result."""
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
    """What 1 is without, of 1 - x the x."""
    one_less = is_call(value) and value.name == "subtract" and known(value.args[0]) == 1
    return value.args[1] if one_less else None


def _sums(graph: Graph) -> Graph:
    """Sums with a product that nobody else reads."""
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
    """x and a product, or x less it; None where that is no call."""
    if x.dtype != node.dtype:
        return None
    matrices = product.name == "matmul" and [len(a.shape) for a in product.args] == [2, 2]
    if matrices and node.name == "add" and x.shape in (node.shape, node.shape[-1:]):
        return _call(ADD_PRODUCT, node, build, x, *product.args)
    if product.name != "multiply" or not is_itself(x, node):
        return None
    a, b = product.args
    if is_number(a):
        a, b = b, a
    if is_number(b) and is_itself(a, node):
        scale = b if node.name == "add" else -b
        return _call(ADD_SCALED, node, build, x, a, scale=scale)
    if node.name == "add" and is_itself(a, node) and is_itself(b, node):
        return _call(ADD_MULTIPLIED, node, build, x, a, b)
    return None
