"""Passes over scans: what need not be done step by step is done for all steps at once.

A step of a recurrent layer is a few small products, of which only those with the carry have to
wait for the step before. The others are one large product, before the scan or after it: entries of
an array times a constant; and a sum over all steps of products, as the gradient of a weight is.
What depends on constants alone is computed once, and what nobody reads is not computed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tinynn.compiler.liveness import is_view
from tinynn.compiler.passes import is_itself
from tinynn.compiler.rewrite import Builder, elementwise, is_call, rewritten, size
from tinynn.rules.kinds import axes_of
from tinynn.transforms.graph import FILL, ITEM, Graph, Input, Node, pruned
from tinynn.transforms.scan_pullback import Parts
from tinynn.transforms.subgraph import substituted

Shape = tuple[int, ...]

# Elements: more than that are not kept of all steps at once. Such steps are large by themselves.
_MOST = 2**24


def scans_of(graph: Graph) -> list[Node]:
    """The scans of a graph, in order."""
    return [node for node in graph.nodes if node.name == "scan"]


def branches_simplified(graph: Graph, simplified: Callable[[Graph], Graph]) -> Graph:
    """The graph after passes over the graphs of its branches and loops without end."""
    with_graphs = {
        n.name for n in graph.nodes if any(isinstance(v, Graph) for v in n.kwargs.values())
    }

    def visit(node: Node, build: Builder) -> Any:
        graphs = {key: value for key, value in node.kwargs.items() if isinstance(value, Graph)}
        after = {key: simplified(inside) for key, inside in graphs.items()}
        if all(after[key] is inside for key, inside in graphs.items()):
            return node
        return replace(node, kwargs=node.kwargs | after)

    return rewritten(graph, visit, of=with_graphs - {"scan"})


def scans_batched(graph: Graph, simplified: Callable[[Graph], Graph]) -> Graph:
    """The graph whose scans do step by step what has to wait for the carry.

    Parameters
    ----------
    simplified
        The passes for a body.
    """
    return over_scans(graph, lambda node, read: Steps(node, read, simplified))


def over_scans(graph: Graph, steps: "Callable[[Node, set[int]], Steps]") -> Graph:
    """The graph with the steps of its scans done otherwise.

    Parameters
    ----------
    steps
        Of a scan and the numbers of its results that are read.
    """
    if graph.batch is not None:  # lengths that follow the batch do not multiply
        return graph
    # The last one first: what it does not read, others need not give, and some need not be there.
    place = len(scans_of(graph))
    while before := scans_of(graph)[:place]:
        node, place = before[-1], len(before) - 1
        read = {user.kwargs["index"] for user in graph.users().get(id(node), [])}
        graph = _replaced(graph, node, steps(node, read))
    return graph


def _replaced(graph: Graph, node: Node, steps: "Steps") -> Graph:
    steps.batch()
    made = steps.call()

    def visit(each: Node, build: Builder) -> Any:
        if each is node:
            for call in (*steps.before, made, *steps.after):
                build.add(call)
            return made
        if each.function is ITEM and each.args[0] is made:
            return steps.results[each.kwargs["index"]]
        return each

    return rewritten(graph, visit)


@dataclass(eq=False)
class _Carried:
    """A value that is carried: in a step, before the first, after each, the number of the last."""

    inner: Input
    first: Any
    new: Any
    place: int


class Steps:
    """A scan in parts, each of which may be done otherwise.

    Parameters
    ----------
    node
        The scan.
    read
        The numbers of its results that are read.
    simplified
        The passes for its body.

    Attributes
    ----------
    before, after
        Calls that come before the scan and after it.
    results
        What takes the place of its results, by their numbers.
    """

    def __init__(self, node: Node, read: set[int], simplified: Callable[[Graph], Graph]) -> None:
        self.made = replace(node)
        self.length, carries = node.kwargs["length"], node.kwargs["carries"]
        given = Parts.of(node.args, node.kwargs["consts"], carries)
        self.body = simplified(_with_fills(node.kwargs["body"], given))
        self.space = self.body.space
        inner = Parts.of(self.body.inputs, node.kwargs["consts"], carries)
        self.consts = list(zip(inner.consts, given.consts, strict=True))
        self.xs = list(zip(inner.xs, given.xs, strict=True))
        self.before: list[Node] = []
        self.after: list[Node] = []
        self.results: dict[int, Any] = {}
        self._ys: list[tuple[Any, Node]] = []  # a value of the body, and all of its values
        outputs = self.body.outputs
        parts = zip(inner.carry, given.carry, outputs, strict=False)
        carry = [_Carried(*each, place) for place, each in enumerate(parts)]
        ys = {place: outputs[place] for place in sorted(read) if place >= carries}
        self.carry = self._alive(carry, read, list(ys.values()))
        for each in self.carry:
            if each.place in read:
                self.results[each.place] = self._item(each.first)
        self._outside: dict[int, Any] = {id(i): outer for i, outer in self.consts}
        self._batched: dict[int, Any] = {id(i): outer for i, outer in self.xs}
        self._look()
        for place, value in ys.items():
            self.results[place] = self._stacked(value)

    def _alive(self, carry: list[_Carried], read: set[int], ys: list[Any]) -> list[_Carried]:
        """The carried values that others than their own next value read."""
        alive = [each for each in carry if each.place in read]
        while True:
            wanted = [*ys, *[each.new for each in alive]]
            used = _used(replace(self.body, outputs=wanted))
            more = [each for each in carry if each in alive or id(each.inner) in used]
            if len(more) == len(alive):
                return alive
            alive = more

    # What depends on what.

    def _look(self) -> None:
        """Find the values that follow from the entries, and those that follow from the carry."""
        self._late = {id(each.inner) for each in self.carry}
        self._varying = self._late | {id(inner) for inner, _ in self.xs}
        for node in self.body.nodes:
            for known in (self._late, self._varying):
                if any(id(parent) in known for parent in node.parents):
                    known.add(id(node))

    def _users(self) -> dict[int, int]:
        """How often each value is taken, in the body or out of it."""
        count: dict[int, int] = {}
        outs = [each.new for each in self.carry] + [value for value, _ in self._ys]
        body = pruned(replace(self.body, outputs=outs))
        for value in [*outs, *[parent for node in body.nodes for parent in node.parents]]:
            count[id(value)] = count.get(id(value), 0) + 1
        return count

    # Values outside of the scan.

    def _new(
        self, calls: list[Node], name: str, like: Node, shape: Shape, *args: Node, **kwargs: Any
    ) -> Node:
        """A call of the standard before the scan or after it, which gives an array of a shape."""
        if name == "reshape":
            kwargs = {"shape": shape}
        made = Node(getattr(self.space, name), args, kwargs, shape, like.dtype, like.origin)
        calls.append(made)
        return made

    def _item(self, like: Node, shape: Any = None) -> Node:
        """A result of the scan, whose number is not known yet."""
        shape = tuple(like.shape if shape is None else shape)
        made = Node(ITEM, (self.made,), {"index": None}, shape, like.dtype, like.origin)
        self.after.append(made)
        return made

    def _stacked(self, value: Any) -> Any:
        """All values of a value of the body."""
        if id(value) in self._batched:
            return self._batched[id(value)]
        for each, item in self._ys:
            if each is value:
                return item
        shape = (self.length, *value.shape)
        if is_call(value) and value.function is FILL:
            self.before.append(replace(value, kwargs=value.kwargs | {"shape": shape}, shape=shape))
            return self._batched.setdefault(id(value), self.before[-1])
        item = self._item(value, shape)
        self._ys.append((value, item))
        return item

    def _is_stacked(self, value: Any) -> bool:
        return id(value) in self._batched or any(each is value for each, _ in self._ys)

    def _may_be_stacked(self, value: Any) -> bool:
        return self._is_stacked(value) or self.length * size(value) <= _MOST

    def _once(self, value: Any) -> Any:
        """A value that is the same in every step, outside."""
        if not is_call(value):
            return self._outside.get(id(value), value)
        if id(value) not in self._outside:
            args = tuple(self._once(a) if isinstance(a, Node) else a for a in value.args)
            self._outside[id(value)] = replace(value, args=args)
            self.before.append(self._outside[id(value)])
        return self._outside[id(value)]

    def _for_all(self, value: Any) -> Any:
        """All values of what depends on entries and constants, before the scan; None if that is
        not to be had by one call for each of its calls."""
        if id(value) in self._batched or id(value) in self._late or not is_call(value):
            return self._batched.get(id(value))
        shape, args = (self.length, *value.shape), []
        for a in value.args:
            varies = id(a) in self._varying
            every = self._for_all(a) if varies else self._once(a) if isinstance(a, Node) else a
            if every is None and varies:
                return None
            args.append(every)
        kwargs, name = dict(value.kwargs), value.name
        if name == "reshape":
            kwargs["shape"] = shape
        elif name == "getitem" and is_view(value):
            key = kwargs["key"]
            kwargs["key"] = (slice(None), *(key if isinstance(key, tuple) else (key,)))
        elif elementwise(value) or name == "astype":
            for place, (a, old) in enumerate(zip(args, value.args, strict=True)):
                few = len(value.shape) - len(getattr(old, "shape", value.shape))
                if id(old) in self._varying and few:
                    wide = (self.length, *(1,) * few, *old.shape)
                    args[place] = self._new(self.before, "reshape", old, wide, a)
        elif name == "matmul" and self._is_product(value):
            made = self._product(self.before, value, args[0], args[1])
            return self._batched.setdefault(id(value), made)
        elif name != "matrix_transpose":
            return None
        made = replace(value, args=tuple(args), kwargs=kwargs, shape=shape)
        self.before.append(made)
        return self._batched.setdefault(id(value), made)

    def _is_product(self, node: Any) -> bool:
        """True for the product of what varies, a vector or a matrix, with a constant matrix."""
        if not is_call(node) or node.name != "matmul":
            return False
        a, b = node.args
        shapes = len(a.shape) in (1, 2) and len(b.shape) == 2
        return shapes and id(a) in self._varying and id(b) not in self._varying

    def _product(self, calls: list[Node], node: Node, left: Node, right: Node) -> Node:
        """All values of a product, as one."""
        flat = (prod(left.shape[:-1]), left.shape[-1])
        rows = self._new(calls, "reshape", left, flat, left)
        made = self._new(calls, "matmul", node, (flat[0], right.shape[1]), rows, right)
        shape = (self.length, *node.shape)
        return self._new(calls, "reshape", node, shape, made)

    # What is done otherwise.

    def batch(self) -> None:
        """Take out of the steps all that need not be done in each of them."""
        if self.length < 2:
            return
        self._take_out_the_constant()
        self._take_out_products()
        self._sum_afterwards()
        self._multiply_afterwards()

    def _take_out(self, value: Node, outer: Node, lists: list[tuple[Input, Any]], new: Any) -> None:
        given = Input(None, (), {}, value.shape, value.dtype, value.origin, label="computed")
        new[id(value)] = given
        lists.append((given, outer))

    def _substitute(self, new: dict[int, Any]) -> None:
        """Have other values in place of some."""
        if not new:
            return
        nodes = [node for node in self.body.nodes if id(node) not in new]
        self.body = substituted(replace(self.body, nodes=nodes, outputs=[]), new)
        for each in self.carry:
            each.new = new.get(id(each.new), each.new)
        self._ys = [(new.get(id(value), value), item) for value, item in self._ys]
        for table in (self._outside, self._batched):
            table.update({id(new[key]): table[key] for key in table.keys() & new.keys()})
        self._look()

    def _take_out_the_constant(self) -> None:
        outs = [each.new for each in self.carry] + [value for value, _ in self._ys]
        new: dict[int, Any] = {}
        staying = [node for node in self.body.nodes if id(node) in self._varying]
        seen: set[int] = set()
        wanted = [*outs, *[parent for node in staying for parent in node.parents]]
        while wanted:
            value = wanted.pop()
            if not is_call(value) or id(value) in seen or id(value) in self._varying:
                continue
            seen.add(id(value))
            if is_view(value) or value.function is FILL:
                wanted += value.parents
            elif value.dtype is not None:
                self._take_out(value, self._once(value), self.consts, new)
        self._outside |= {id(inner): outer for inner, outer in self.consts}
        self._substitute(new)

    def _take_out_products(self) -> None:
        new: dict[int, Any] = {}
        for node in self.body.nodes:
            waits = id(node) in self._late or not self._may_be_stacked(node)
            if self._is_product(node) and not waits:
                outer = self._for_all(node)
                if outer is not None:
                    self._take_out(node, outer, self.xs, new)
        self._batched |= {id(inner): outer for inner, outer in self.xs}
        self._substitute(new)

    def _sum_afterwards(self) -> None:
        """Values that are only added up are added up after the scan."""
        count = self._users()
        for total in (self._product_of_all, self._sum_of_all):
            for each in list(self.carry):
                added = _added(each)
                if added is None or count.get(id(each.inner)) != 1 or count.get(id(each.new)) != 1:
                    continue
                outer = total(added)
                if outer is not None:
                    together = self._new(self.after, "add", outer, outer.shape, each.first, outer)
                    self.results[each.place] = together
                    self.carry.remove(each)

    def _product_of_all(self, node: Any) -> Any:
        """The sum over the steps of x.T @ y, as one product; None where it is another call."""
        if (
            not is_call(node)
            or node.name != "matmul"
            or [len(a.shape) for a in node.args] != [2, 2]
        ):
            return None
        left, right = _turned(node.args[0]), node.args[1]
        if left is None or not {id(left), id(right)} <= self._varying:
            return None
        if not (self._may_be_stacked(left) and self._may_be_stacked(right)):
            return None
        x, y = (self._flat(self._stacked(value)) for value in (left, right))
        turned = self._new(self.after, "matrix_transpose", x, x.shape[::-1], x)
        return self._new(self.after, "matmul", node, node.shape, turned, y)

    def _flat(self, value: Node) -> Node:
        """The rows of all steps below each other."""
        shape = (prod(value.shape[:-1]), value.shape[-1])
        return self._new(self.after, "reshape", value, shape, value)

    def _sum_of_all(self, node: Any) -> Any:
        """The sum over the steps of sums of what is at hand; None where it is another call."""
        if not is_call(node) or node.name != "sum" or not self._is_stacked(node.args[0]):
            return None
        x = self._stacked(node.args[0])
        if x.dtype != node.dtype:
            return None
        gone = axes_of(node.kwargs.get("axis"), len(x.shape) - 1)
        axes = (0, *[axis + 1 for axis in gone])
        left = tuple(n for axis, n in enumerate(x.shape) if axis not in axes)
        total = self._new(self.after, "sum", node, left, x, axis=axes)
        if left == tuple(node.shape):
            return total
        return self._new(self.after, "reshape", node, tuple(node.shape), total)

    def _multiply_afterwards(self) -> None:
        """A y that is a product with a constant is one product, after the scan."""
        count = self._users()
        for place, item in list(self.results.items()):
            pairs = [pair for pair in self._ys if pair[1] is item]
            if not pairs or not self._is_product(pairs[0][0]):
                continue
            value = pairs[0][0]
            shared = sum(other is item for other in self.results.values())
            if count[id(value)] != 1 or shared != 1 or not self._may_be_stacked(value.args[0]):
                continue
            self._ys.remove(pairs[0])
            rows = self._stacked(value.args[0])
            self.results[place] = self._product(self.after, value, rows, self._once(value.args[1]))

    # The scan that is left.

    def call(self) -> Node:
        """The scan, with what is left in its body."""
        outputs = [each.new for each in self.carry] + [value for value, _ in self._ys]
        used = _used(replace(self.body, outputs=outputs))
        consts = [pair for pair in self.consts if id(pair[0]) in used]
        xs = [pair for pair in self.xs if id(pair[0]) in used]
        if not (consts or xs or self.carry):  # somebody has to say which library it is
            consts = self.consts[:1]
            xs = [] if consts else self.xs[:1]
        inputs = [*[pair[0] for pair in consts], *[each.inner for each in self.carry]]
        inputs += [pair[0] for pair in xs]
        body = pruned(replace(self.body, inputs=inputs, outputs=outputs))
        made, carries = self.made, len(self.carry)
        made.args = (*[a for _, a in consts], *[each.first for each in self.carry],
                     *[a for _, a in xs])  # fmt: skip
        made.kwargs = made.kwargs | {"body": body, "consts": len(consts), "carries": carries}
        for index, each in enumerate(self.carry):
            if each.place in self.results:
                self.results[each.place].kwargs["index"] = index
        for index, (_, item) in enumerate(self._ys, carries):
            item.kwargs["index"] = index
        return made


def _with_fills(body: Graph, given: Parts) -> Graph:
    """The body with arrays of one value that it is given, as its own."""
    new: dict[int, Any] = {}
    fills = []
    groups = Parts.of(body.inputs, len(given.consts), len(given.carry))
    for inputs, outers, entry in ((groups.consts, given.consts, 0), (groups.xs, given.xs, 1)):
        for inner, outer in zip(inputs, outers, strict=True):
            if is_call(outer) and outer.function is FILL:
                kwargs = outer.kwargs | {"shape": tuple(outer.shape[entry:])}
                new[id(inner)] = replace(outer, kwargs=kwargs, shape=kwargs["shape"])
                fills.append(new[id(inner)])
    if not new:
        return body
    done = substituted(body, new)
    return replace(done, nodes=[*fills, *done.nodes])


def _used(graph: Graph) -> set[int]:
    """The values that a graph's results depend on, by their id."""
    nodes = pruned(graph).nodes
    return {id(o) for o in graph.outputs} | {id(p) for node in nodes for p in node.parents}


def _added(each: _Carried) -> Any:
    """The term that is added to a carried value, if that is all that becomes of it."""
    if not is_call(each.new) or each.new.name != "add":
        return None
    a, b = each.new.args
    other = b if a is each.inner else a if b is each.inner else None
    return other if is_itself(other, each.new) else None


def _turned(node: Any) -> Any:
    """The matrix whose transpose this one is; None if it is none."""
    if not is_call(node):
        return None
    if node.name == "matrix_transpose":
        return node.args[0]
    row = node.name == "reshape" and tuple(node.args[0].shape) == tuple(node.shape[::-1])
    return node.args[0] if row and len(node.shape) == 2 and 1 in node.shape else None
