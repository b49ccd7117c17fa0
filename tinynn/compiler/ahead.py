"""What does not depend on a scan's carry, computed for all steps at once, before the scan.

A step of a recurrent layer is many small calls, each of which takes longer to make than to carry
out. Elementwise calls that read entries of `xs` alone, such as the slopes of the gates in a layer's
pullback, become one call of the whole `xs`, before the scan. So that slopes are next to each other,
(carry * a) * b is first rewritten as carry * (a * b).
"""

from collections.abc import Callable, Container
from dataclasses import replace
from math import inf
from typing import Any

from tinynn.compiler.liveness import is_view
from tinynn.compiler.passes import is_itself, known
from tinynn.compiler.rewrite import Builder, elementwise, is_call, rewritten, size
from tinynn.compiler.scans import Steps, over_scans
from tinynn.transforms.graph import ITEM, Graph, Node
from tinynn.transforms.scan_pullback import Parts

# Elements of a value above which a call takes longer to carry out than to make, and longer still
# where the values of all steps do not fit the cache.
_FEW = 4096
# How many calls are followed in search of a value's bounds.
_DEPTH = 8
_BOUNDS = {
    "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "sin": (-1.0, 1.0), "cos": (-1.0, 1.0),
    "erf": (-1.0, 1.0), "sign": (-1.0, 1.0),
}  # fmt: skip


def computed_ahead(
    graph: Graph, into: Container[str], simplified: Callable[[Graph], Graph]
) -> Graph:
    """The graph in whose scans no small elementwise call reads entries of `xs` alone.

    Parameters
    ----------
    into
        The functions, by name, that the library writes into arrays.
    simplified
        The passes for a body.
    """

    def steps(node: Node, read: set[int]) -> Steps:
        body = _factored(node)
        return _Ahead(replace(node, kwargs=node.kwargs | {"body": body}), read, simplified, into)

    return over_scans(graph, steps)


class _Ahead(Steps):
    """A scan whose elementwise calls of entries of `xs` alone come before it."""

    def __init__(self, node: Node, read: set[int], simplified: Any, into: Container[str]) -> None:
        super().__init__(node, read, simplified)
        self._into = into

    def batch(self) -> None:
        new: dict[int, Any] = {}
        for value in self._last_ones():
            outer = self._for_all(value)
            if outer is not None:
                self._take_out(value, outer, self.xs, new)
        self._batched |= {id(inner): outer for inner, outer in self.xs}
        self._substitute(new)

    def _last_ones(self) -> list[Node]:
        """The calls of entries alone that others than such calls read."""
        fits: set[int] = set()
        for node in self.body.nodes:
            if self._fits(node, fits):
                fits.add(id(node))
        outs = [each.new for each in self.carry] + [value for value, _ in self._ys]
        others = [node for node in self.body.nodes if id(node) not in fits]
        read = {id(a) for node in others for a in node.args} | set(map(id, outs))
        return [node for node in self.body.nodes if id(node) in fits and id(node) in read]

    def _fits(self, node: Node, fits: Container[int]) -> bool:
        if id(node) in self._late or id(node) not in self._varying or node.dtype is None:
            return False
        if not all(self._is_known(a) or id(a) in fits for a in node.parents):
            return False
        alone = is_view(node) or (elementwise(node) and node.name in self._into)
        return alone and size(node) <= _FEW and self._may_be_stacked(node)

    def _is_known(self, value: Any) -> bool:
        return id(value) in self._batched or id(value) not in self._varying


def _factored(node: Node) -> Graph:
    """The body of a scan, in which factors that do not depend on the carry are multiplied first.

    One of each two is within -1 and 1, so that no product or sum of them overflows.
    """
    body, carries = node.kwargs["body"], node.kwargs["carries"]
    inner = Parts.of(body.inputs, node.kwargs["consts"], carries)
    given = Parts.of(node.args, node.kwargs["consts"], carries)
    outer = dict(zip(map(id, inner.xs), given.xs, strict=True))
    late = set(map(id, inner.carry))

    def split(product: Any, like: Node) -> tuple[Any, Any] | None:
        """The factor that depends on the carry, and the one that does not."""
        if not is_call(product) or product.name != "multiply":
            return None
        a, b = product.args
        if not (is_itself(a, like) and is_itself(b, like)) or (id(a) in late) == (id(b) in late):
            return None
        return (a, b) if id(a) in late else (b, a)

    def factored(call: Node, build: Builder) -> Node:
        if body.space.kinds[call.dtype] != "real floating":
            return call
        if call.name == "multiply":
            parts = split(call, call)
            inside = split(parts[0], call) if parts else None
            if not parts or not inside:
                return call
            if not any(_within_one(each, outer) for each in (parts[1], inside[1])):
                return call
            first, second = inside[0], build.call(call, "multiply", inside[1], parts[1])
        else:
            left, right = (split(a, call) for a in call.args)
            if not left or not right or left[0] is not right[0]:
                return call
            if not any(_within_one(each[1], outer) for each in (left, right)):
                return call
            first, second = left[0], build.call(call, call.name, left[1], right[1])
        return build.call(call, "multiply", first, second)

    def visit(call: Node, build: Builder) -> Any:
        known = call.dtype is not None and call.name in ("multiply", "add", "subtract")
        made = factored(call, build) if known else call
        if any(id(parent) in late for parent in made.parents):
            late.add(id(made))
        return made

    return rewritten(body, visit)


def _within_one(value: Any, outer: dict[int, Any]) -> bool:
    low, high = _bounds(value, outer, _DEPTH)
    return low >= -1 and high <= 1


def _bounds(value: Any, outer: dict[int, Any], depth: int) -> tuple[float, float]:
    """A lower and an upper bound of all elements; outer: the `xs` that inputs are entries of."""
    number = known(value)
    if number is not None:
        return number, number
    if id(value) in outer:
        return _bounds(outer[id(value)], {}, depth - 1)
    if not is_call(value) or depth <= 0:
        return -inf, inf
    if value.name in _BOUNDS:
        return _BOUNDS[value.name]
    if value.function is ITEM and value.args[0].name == "scan":
        scan, index = value.args[0], value.kwargs["index"]
        stacked = index >= scan.kwargs["carries"]
        return (
            _bounds(scan.kwargs["body"].outputs[index], {}, depth - 1) if stacked else (-inf, inf)
        )
    if is_view(value):
        return _bounds(value.args[0], outer, depth - 1)
    if value.name not in ("multiply", "add", "subtract"):
        return -inf, inf
    (a, b), (c, d) = (_bounds(arg, outer, depth - 1) for arg in value.args)
    if value.name != "multiply":
        return (a + c, b + d) if value.name == "add" else (a - d, b - c)
    most = max(abs(a), abs(b)) * max(abs(c), abs(d))
    signs = value.args[0] is value.args[1] or (a >= 0 and c >= 0)
    return (0.0 if signs else -most), most
