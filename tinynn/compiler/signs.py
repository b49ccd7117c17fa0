"""Signs: a minus goes where it costs nothing, instead of in a call.

A value may be kept as its opposite. Products, and what is linear, hand a minus on; sums and
differences take it in, as do numbers; of the data the opposite is made once for each batch. So a
call of `negative` is left out wherever the values around it can be kept with other signs: in
sigmoid(x @ w), whose exp(-z) is the exp of (-x) @ w. Since rounding is symmetric the results are
the same to the last bit, but for the sign of a zero, and for sums of rows that become products.
"""

from collections.abc import Container
from dataclasses import replace
from typing import Any

from tinynn.compiler.data_passes import from_data
from tinynn.compiler.liveness import is_view
from tinynn.compiler.rewrite import VIEWS, Builder, is_call, is_number, size
from tinynn.trace import Effect
from tinynn.transforms.graph import FILL, Graph, Node, pruned

_PRODUCTS = frozenset(["multiply", "divide", "matmul", "vecdot"])
_SUMS = frozenset(["add", "subtract"])
_CARRIERS = VIEWS | {"sum", "reciprocal", "concat", "pack"}  # of the sign of all their arguments
_QUOTIENTS = frozenset(["divide", "reciprocal"])
_KNOWN = _PRODUCTS | _SUMS | _CARRIERS | {"negative"}
# Elements of the data of which an opposite is made, and the values that are tried for one minus.
_FEW, _TRIES = 4096, 128


def without_negatives(graph: Graph, kept: int) -> Graph:
    """The graph with as few calls of `negative` as signs that are kept otherwise allow.

    Parameters
    ----------
    kept
        How many inputs live on from step to step; the others come with each batch.
    """
    if not any(node.name == "negative" for node in graph.nodes):
        return graph
    signs = _Signs(graph, kept)
    for node in signs.negatives:
        signs.leave_out(node)
    return signs.graph_of() if signs.minus else graph


class _Signs:
    """Which values are kept as their opposites."""

    def __init__(self, graph: Graph, kept: int) -> None:
        self.graph, self.users = graph, graph.users()
        self.negatives = [node for node in graph.nodes if node.name == "negative"]
        self.minus: set[int] = set()
        data = from_data(graph, kept)
        values = [*graph.inputs[kept:], *graph.nodes]
        self._either = {
            id(v) for v in values if id(v) in data and self._real(v) and size(v) <= _FEW
        }
        self._free = {
            id(node)
            for node in graph.nodes
            if node.name in _KNOWN and node.effect is Effect.NONE and self._real(node)
        } - {*self._either, *map(id, graph.outputs)}
        self._opposites: dict[int, Node] = {}

    def _real(self, node: Node) -> bool:
        return self.graph.space.kinds[node.dtype] == "real floating" if node.dtype else False

    # Which signs there are.

    def leave_out(self, node: Node) -> None:
        """Keep values as their opposites so that this call of `negative` does nothing, if it can.

        That is only done where all such calls together become fewer.
        """
        if not self._called(node, self.minus):
            return
        for first in (node.args[0], node):
            if id(first) in self._free:
                found = _Search(self).settled(self.minus, first)
                if found is not None and self._cost(found) < self._cost(self.minus):
                    self.minus = found
                    return

    def _called(self, node: Node, minus: Container[int]) -> bool:
        return (id(node.args[0]) in minus) == (id(node) in minus)

    def _cost(self, minus: Container[int]) -> int:
        return sum([self._called(node, minus) for node in self.negatives])

    def can_flip(self, value: Any) -> bool:
        """True if it may be kept as its opposite."""
        return id(value) in self._free

    def sign(self, value: Any, minus: Container[int]) -> bool | None:
        """True for a minus; None for what has either sign at no cost."""
        return None if is_number(value) or id(value) in self._either else id(value) in minus

    def fits(self, node: Node, minus: Container[int]) -> bool:
        """True if there is a call for arguments and a result of these signs."""
        out, signs = id(node) in minus, [self.sign(a, minus) for a in node.args]
        if node.name in _QUOTIENTS and self._turns_a_zero(node.args[-1], minus):
            return False
        if node.name == "negative":
            divided = [u for u in self.users.get(id(node), ()) if u.name in _QUOTIENTS]
            turned = any(self._turns_a_zero(u.args[-1], minus) for u in divided)
            return (None not in signs or not out) and not turned
        if node.name in _PRODUCTS and len(signs) == 2:
            return None in signs or (signs[0] != signs[1]) == out
        if node.name in _SUMS and len(signs) == 2:
            second = signs[1] != (node.name == "subtract")
            return None in signs or not (signs[0] == second != out)
        if _over_rows(node):
            return True
        if node.name in _CARRIERS:
            return all(sign in (None, out) for sign in signs)
        return not out and not any(signs)

    def _turns_a_zero(self, value: Any, minus: Container[int]) -> bool:
        """True for a divisor that comes from an opposite, and may be 0: the infinity would turn."""
        left_out = is_call(value) and value.name == "negative" and not self._called(value, minus)
        return (left_out or id(value) in minus) and not _is_positive(value)

    # The calls of these signs.

    def graph_of(self) -> Graph:
        """The graph whose values are kept with these signs."""
        build, new = Builder(self.graph.space), dict[int, Any]()
        for node in self.graph.nodes:
            args = tuple([new.get(id(a), a) for a in node.args])
            value = self._made(node, args, build)
            if value is not node:
                new[id(node)] = value
            build.add(value)
        outputs = [new.get(id(o), o) for o in self.graph.outputs]
        return pruned(replace(self.graph, nodes=build.nodes, outputs=outputs))

    def _made(self, node: Node, args: tuple[Any, ...], build: Builder) -> Any:
        out, signs = id(node) in self.minus, [self.sign(a, self.minus) for a in node.args]
        if node.name == "negative" and signs[0] != out and signs[0] is not None:
            return args[0]
        if node.name in _PRODUCTS and len(args) == 2 and (bool(signs[0]) != bool(signs[1])) != out:
            place = signs.index(None)
            args = (*args[:place], self._opposite(args[place], build), *args[place + 1 :])
        if node.name in _SUMS and len(args) == 2:
            return self._sum(node, args, [bool(sign) != out for sign in signs], signs, build)
        if _over_rows(node) and bool(signs[0]) != out:
            return self._minus_sum(node, args[0], build)
        if node.name in _CARRIERS and out:
            args = tuple(
                [
                    self._opposite(a, build) if s is None else a
                    for a, s in zip(args, signs, strict=True)
                ]
            )
        if all(a is b for a, b in zip(args, node.args, strict=True)):
            return node
        return Node(node.function, args, node.kwargs, node.shape, node.dtype, node.origin)

    def _sum(
        self, node: Node, args: Any, minus: list[bool], signs: list[Any], build: Builder
    ) -> Node:
        """The sum of two terms, each with or without a minus."""
        a, b = args
        first, second = minus[0], minus[1] != (node.name == "subtract")
        if first and second:  # one of them has either sign
            if signs[1] is None:
                b, second = self._opposite(b, build), False
            else:
                a, first = self._opposite(a, build), False
        if first:
            a, b, second = b, a, True
        name = "subtract" if second else "add"
        if (name, a, b) == (node.name, *node.args):
            return node
        return Node(
            getattr(self.graph.space, name), (a, b), {}, node.shape, node.dtype, node.origin
        )

    def _minus_sum(self, node: Node, x: Node, build: Builder) -> Node:
        """The sum of the rows of a matrix, with a minus: as much work as without."""
        shape = x.shape[:1]
        kwargs = {"value": -1.0, "shape": shape, "dtype": x.dtype}
        ones = build.add(Node(FILL, (), kwargs, shape, x.dtype, node.origin))
        function = self.graph.space.matmul
        return Node(function, (ones, x), {}, node.shape, node.dtype, node.origin)

    def _opposite(self, value: Any, build: Builder) -> Any:
        """A number, or the data, with another sign."""
        if is_number(value):
            return -value
        if id(value) not in self._opposites:
            space = self.graph.space
            if is_view(value) and len(value.args) == 1:  # another look at data
                args: Any = (self._opposite(value.args[0], build),)
                made = replace(value, args=args)
            else:
                made = Node(space.negative, (value,), {}, value.shape, value.dtype, value.origin)
            self._opposites[id(value)] = build.add(made)
        return self._opposites[id(value)]


def _is_positive(value: Any) -> bool:
    """True for 1 + exp(x) and its like, and their opposites."""
    if is_call(value) and (is_view(value) or value.name == "negative"):
        return _is_positive(value.args[0])
    if not is_call(value) or value.name != "add":
        return False
    return any(is_number(a) and a > 0 for a in value.args) and any(
        is_call(a) and a.name in ("exp", "square") for a in value.args
    )


def _over_rows(node: Node) -> bool:
    """True for the sum of the rows of a matrix, a product with a vector of ones."""
    if node.name != "sum" or node.kwargs.get("axis") not in (0, (0,)):
        return False
    x = node.args[0]
    plain = not node.kwargs.get("keepdims") and node.kwargs.get("dtype") is None
    return plain and len(x.shape) == 2 and x.dtype == node.dtype


class _Search:
    """Other values that have to be kept as their opposites where one is."""

    def __init__(self, signs: _Signs) -> None:
        self._signs, self._left = signs, _TRIES

    def settled(self, minus: set[int], first: Node) -> set[int] | None:
        """The values that are kept as opposites after this one and others flipped; else None."""
        return self._flipped(minus, frozenset(), first, [])

    def _flipped(
        self, minus: set[int], done: frozenset[int], value: Node, waiting: list[Node]
    ) -> set[int] | None:
        """The same after `done` have flipped; `waiting`: calls that may not fit any more."""
        self._left -= 1
        if self._left < 0:
            return None
        signs, minus, done = self._signs, minus ^ {id(value)}, done | {id(value)}
        waiting = [*waiting, value, *signs.users.get(id(value), ())]
        while waiting:
            node = waiting[-1]
            if signs.fits(node, minus):
                waiting.pop()
                continue
            for each in (node, *node.parents):
                if signs.can_flip(each) and id(each) not in done:
                    found = self._flipped(minus, done, each, waiting)
                    if found is not None:
                        return found
            return None
        return minus
