"""Passes that have more done to the data, before the steps, so that less is done in each of them.

What follows from a batch alone is computed once for it, for all batches at once where it pays.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

from tinynn.compiler.identifiers import of_input
from tinynn.compiler.rewrite import Builder, elementwise, is_call, rewritten, size
from tinynn.trace import Effect
from tinynn.transforms.graph import FILL, PACK, PART, Constant, Graph, Node

# Elements of what is kept of a batch: with more, calls cost less than their work.
_FEW = 4096


def from_data(graph: Graph, kept: int) -> set[int]:
    """The ids of what follows from the data alone; the first `kept` inputs live on."""
    found = {id(each) for each in graph.inputs[kept:]}
    for node in graph.nodes:
        known = [
            id(a) in found or isinstance(a, Constant) or a.function is FILL for a in node.parents
        ]
        if known and all(known) and node.effect is Effect.NONE:
            found.add(id(node))
    return found


def data_broadcast(graph: Graph, kept: int) -> Graph:
    """Data in the shape of what they meet: libraries take their time for broadcasting."""
    data, visited = from_data(graph, kept), _each(graph)

    def visit(node: Node, build: Builder) -> Any:
        old = next(visited)
        if id(old) in data or not elementwise(node) or size(node) > _FEW or node.dtype is None:
            return node
        args = [
            _full(a, node, build) if _meets(a, node) and id(b) in data else a
            for a, b in zip(node.args, old.args, strict=True)
        ]
        if all(a is b for a, b in zip(args, node.args, strict=True)):
            return node
        return build.call(node, node.name, *args, **node.kwargs)

    return rewritten(graph, visit)


def _each(graph: Graph) -> Any:
    """The nodes that a pass visits, as they were before it."""
    return iter([node for node in graph.nodes if node.effect is Effect.NONE])


def _meets(value: Any, node: Node) -> bool:
    """True for an array of floats that has to be broadcast."""
    array = isinstance(value, Node) and value.shape and value.shape != node.shape
    return bool(array) and value.dtype == node.dtype


def _full(value: Node, node: Node, build: Builder) -> Node:
    """A product with ones: it lies in one piece, as a broadcast array does not."""
    ones = _ones(node.shape, value, build)
    return build.add(
        Node(build.space.multiply, (value, ones), {}, node.shape, value.dtype, node.origin)
    )


def _ones(shape: tuple[int, ...], like: Node, build: Builder) -> Node:
    kwargs = {"value": 1.0, "shape": shape, "dtype": like.dtype}
    return build.add(Node(FILL, (), kwargs, shape, like.dtype, like.origin))


def biases_in_products(graph: Graph, kept: int) -> Graph:
    """x @ w + b as one product of data: of x with a column of ones, and w with b as its last row.

    Where the parameters are one vector, b lies behind w. The gradients of both are one product too.
    """
    found = _Affine(graph, from_data(graph, kept))
    if not found.sums:
        return graph
    visited = _each(graph)
    return rewritten(graph, lambda node, build: found.made(node, next(visited), build))


class _Affine:
    """The sums x @ w + b of a graph whose x is data, and the gradients of their w and b."""

    def __init__(self, graph: Graph, data: set[int]) -> None:
        users = graph.users()
        self.sums = {
            id(node): node
            for node in graph.nodes
            if node.name == "add"
            and _is_affine(node.args[0], node.args[1], data)
            and len(users[id(node.args[0])]) == 1
        }
        self._wide: dict[int, Any] = {id(n.args[0].args[0]): None for n in self.sums.values()}
        self._behind: dict[int, int] = {}  # of a gradient of w that of b, by their ids
        self._both: dict[int, Node] = {}  # of a gradient of w the one of both
        for node in graph.nodes:
            pairs = pairwise(node.args) if node.function is PACK else ()
            for weight, bias in pairs:
                x = _data_of(weight, bias)
                alone = all(len(users[id(each)]) == 1 for each in (weight, bias))
                if x is not None and id(x) in self._wide and alone:
                    self._behind[id(weight)] = id(bias)

    def made(self, node: Node, old: Node, build: Builder) -> Any:
        """What becomes of a call, whose arguments are new; `old`: as it was."""
        if id(old) in self.sums:
            return self._sum(node, old, build)
        if id(old) in self._behind:
            turned, delta = old.args[0], node.args[1]
            made = self._with_ones(turned.args[0], node.args[0].args[0], build)
            view = Node(turned.function, (made,), {}, made.shape[::-1], made.dtype, turned.origin)
            shape = (made.shape[1], node.shape[1])
            args = (build.add(view), delta)
            both = Node(node.function, args, {}, shape, node.dtype, node.origin)
            self._both[id(old)] = build.add(both)
        return self._packed(node, old, build) if node.function is PACK else node

    def _sum(self, node: Node, old: Node, build: Builder) -> Node:
        """One product in place of a product and a sum."""
        product, bias = old.args
        x, weight = product.args
        names = [of_input(each.kwargs["label"]) for each in (weight, bias)]
        shape = (weight.shape[0] + 1, weight.shape[1])
        label = "_and_".join(names)
        kwargs = {"start": weight.kwargs["start"], "shape": shape, "label": label}
        both = build.add(Node(PART, weight.args, kwargs, shape, weight.dtype, weight.origin))
        args = (self._with_ones(x, node.args[0].args[0], build), both)
        return build.add(Node(product.function, args, {}, node.shape, node.dtype, product.origin))

    def _with_ones(self, x: Node, new: Node, build: Builder) -> Node:
        """The data with a column of ones; `new`: as they are now."""
        if self._wide[id(x)] is None:
            shape = (x.shape[0], x.shape[1] + 1)
            args = (new, _ones((x.shape[0], 1), x, build))
            self._wide[id(x)] = Node(
                build.space.concat, args, {"axis": 1}, shape, x.dtype, x.origin
            )
        made: Node = build.add(self._wide[id(x)])
        return made

    def _packed(self, node: Node, old: Node, build: Builder) -> Node:
        """The gradients side by side, those of w and b as one."""
        labels: list[str] = []
        args: list[Any] = []
        given = iter(zip(old.args, node.args, node.kwargs["labels"], strict=True))
        for before, now, label in given:
            both = self._both.get(id(before))
            if both is not None:
                behind = next(given)[2]
                now, label = both, f"{label.removesuffix('_grad')}_and_{behind}"
            args.append(now)
            labels.append(label)
        if not self._both:
            return node
        kwargs = node.kwargs | {"labels": labels}
        made: Node = build.add(replace(node, args=tuple(args), kwargs=kwargs))
        return made


def _is_affine(product: Any, bias: Any, data: set[int]) -> bool:
    """True for (x @ w, b) where b lies behind w, and x is a matrix of data, of their dtype."""
    calls = is_call(product) and is_call(bias)
    if not calls or product.name != "matmul" or bias.function is not PART:
        return False
    x, weight = product.args
    if id(x) not in data or size(x) > _FEW or len(x.shape) != 2:
        return False
    if weight.function is not PART or x.dtype != weight.dtype:
        return False
    behind = weight.kwargs["start"] + size(weight) == bias.kwargs["start"]
    alike = weight.args[0] is bias.args[0] and bias.shape == weight.shape[1:]
    return behind and alike and len(weight.shape) == 2


def _data_of(weight: Any, bias: Any) -> Any:
    """The x of x.T @ d and the sum of the rows of d; None for other calls."""
    if not is_call(bias) or not is_call(weight) or weight.name != "matmul" or bias.name != "sum":
        return None
    turned, delta = weight.args
    rows = bias.args[0] is delta and bias.kwargs.get("axis") in (0, (0,))
    kept = bias.kwargs.get("keepdims", False) or len(delta.shape) != 2
    if not rows or kept or not is_call(turned) or turned.name != "matrix_transpose":
        return None
    return turned.args[0]
