"""Horizontal fusion: equal calls of the elements of several values, as one call of all of them.

Behind every sigmoid a derivative takes y * (1 - y): two calls a layer. Where the results of all the
layers lie side by side in one vector, it takes two calls in all. The values are written to their
places in it as they are made, so that nothing is copied. XLA calls this horizontal fusion.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from tinynn.compiler.liveness import is_view
from tinynn.compiler.rewrite import elementwise, is_call, size
from tinynn.transforms.graph import PACK, PART, Graph, Input, Node, pruned

# Elements of values that are joined: with more, a call costs less than its work.
_MOST = 8192


def fused_horizontally(graph: Graph, kept: int, into: Container[str]) -> Graph:
    """The graph with one call on a vector for calls of the elements that several values have alike.

    Parameters
    ----------
    kept
        How many inputs live on from step to step; what follows from others alone is made ahead.
    into
        The names of calls that can write their result to a place.
    """
    fusion = _Fusion(graph, graph.inputs[:kept], into)
    for group in fusion.groups():
        fusion.join(group)
    return fusion.graph_of() if fusion.joined else graph


@dataclass(eq=False)
class _Joined:
    """Calls that are made as one.

    Attributes
    ----------
    members
        The calls, one for each of the values.
    args
        Numbers, `_Joined`, or the values that lie side by side, by argument.
    place
        Before which call of the graph.
    """

    members: list[Node]
    args: list[Any]
    place: int


class _Fusion:
    def __init__(self, graph: Graph, kept: Sequence[Input], into: Container[str]) -> None:
        self.graph, self._into = graph, into
        self._place = {id(node): place for place, node in enumerate(graph.nodes)}
        self._steps = set(map(id, kept))  # what changes from step to step
        for node in graph.nodes:
            if any(id(a) in self._steps for a in node.parents):
                self._steps.add(id(node))
        packed = [a for node in graph.nodes if node.function is PACK for a in node.parents]
        self._taken = {*map(id, graph.outputs), *map(id, packed)}
        self._packs: dict[int, tuple[Node, ...]] = {}  # of a value, those that it lies beside
        self.joined: dict[int, _Joined] = {}  # by the id of each of its members

    # What there is to join.

    def groups(self) -> list[list[Node]]:
        """Calls that compute the same of different values, in the order of those."""
        words: dict[Any, int] = {}  # for what is computed, a number
        of: dict[int, tuple[int, Node]] = {}  # of a call: what it computes, of which value
        found: dict[Any, dict[int, Node]] = {}
        for node in self.graph.nodes:
            if not self._alone(node):
                continue
            known = [of.get(id(a), (-1, a)) for a in node.parents]
            base = known[0][1]
            if any(other is not base for _, other in known):
                continue
            args = [
                of.get(id(a), (-1, a))[0] if isinstance(a, Node) else repr(a) for a in node.args
            ]
            key = (node.function, *args, repr(sorted(node.kwargs.items())), node.dtype)
            word = words.setdefault(key, len(words))
            of[id(node)] = word, base
            found.setdefault(word, {}).setdefault(id(base), node)
        groups = [
            [group[base] for base in sorted(group, key=lambda base: self._place.get(base, -1))]
            for group in found.values()
            if len(group) > 1
        ]
        return sorted(groups, key=self._first)

    def _first(self, members: list[Node]) -> int:
        return min([self._place[id(each)] for each in members])

    def _alone(self, node: Node) -> bool:
        """True if it is a call of the elements of values that have its shape and dtype."""
        floating = node.dtype is not None and self.graph.space.kinds[node.dtype]
        if not floating or not node.shape or not node.parents or not elementwise(node):
            return False
        alike = all((a.shape, a.dtype) == (node.shape, node.dtype) for a in node.parents)
        inside = id(node) in self._steps and id(node) not in self._taken
        return alike and inside and node.name in self._into

    # What is joined.

    def join(self, members: list[Node]) -> None:
        """Make these calls one, if what they are computed from lies side by side by then."""
        if sum(map(size, members)) > _MOST or any(id(each) in self._packs for each in members):
            return
        place, args = self._first(members), list[Any]()
        packs: list[tuple[Node, ...]] = []
        for column in zip(*[node.args for node in members], strict=True):
            if not isinstance(column[0], Node):
                args.append(column[0])
                continue
            before = self.joined.get(id(column[0]))
            if before is not None and all(map(_same, before.members, column)):
                if before.place > place or len(before.members) != len(column):
                    return
                args.append(before)
            elif all(self._can_lie(value, column, place) for value in column):
                packs.append(column)
                args.append(column)
            else:
                return
        for column in packs:
            self._packs.update(dict.fromkeys(map(id, column), column))
        made = _Joined(members, args, place)
        self.joined.update(dict.fromkeys(map(id, members), made))

    def _can_lie(self, value: Any, beside: tuple[Node, ...], place: int) -> bool:
        """True if it can be written to a place beside these others before this call."""
        if not is_call(value) or is_view(value) or value.name not in self._into:
            return False
        fits = id(value) not in self._taken and id(value) not in self.joined
        where = self._packs.get(id(value), beside)
        same = len(where) == len(beside) and all(map(_same, where, beside))
        return fits and same and self._place[id(value)] < place and id(value) in self._steps

    # The graph.

    def graph_of(self) -> Graph:
        """The graph with the calls that are joined."""
        nodes: list[Node] = []
        new: dict[int, Node] = {}
        vectors: dict[Any, Node] = {}

        def vector(values: Any) -> Node:
            key = tuple(map(id, values))
            if key not in vectors:
                labels = ["joined"] * len(values)
                kwargs = {"name": "joined", "labels": labels}
                args = tuple([new.get(id(v), v) for v in values])
                vectors[key] = Node(PACK, args, kwargs, (sum(map(size, values)),), values[0].dtype)
                nodes.append(vectors[key])
            return vectors[key]

        def argument(value: Any) -> Any:
            if isinstance(value, _Joined):
                return vectors[tuple(map(id, value.members))]
            return vector(value) if isinstance(value, tuple) else value

        for node in self.graph.nodes:
            made = self.joined.get(id(node))
            if made is None:
                nodes.append(_with(node, new))
                new[id(node)] = nodes[-1]
            elif self._place[id(node)] == made.place:
                args, shape = tuple(map(argument, made.args)), (sum(map(size, made.members)),)
                whole = replace(node, args=args, shape=shape)
                vectors[tuple(map(id, made.members))] = whole
                nodes.append(whole)
                starts = [0, *accumulate(map(size, made.members))]
                for member, start in zip(made.members, starts, strict=False):
                    kwargs = {"start": start, "shape": tuple(member.shape), "label": ""}
                    part = Node(PART, (whole,), kwargs, member.shape, member.dtype, member.origin)
                    nodes.append(part)
                    new[id(member)] = part
        outputs = [new.get(id(o), o) for o in self.graph.outputs]
        return pruned(replace(self.graph, nodes=nodes, outputs=outputs))


def _same(a: Any, b: Any) -> bool:
    return a is b


def _with(node: Node, new: dict[int, Node]) -> Node:
    """The node with new arguments."""
    args = tuple([new.get(id(a), a) for a in node.args])
    if all(map(_same, args, node.args)):
        return node
    return Node(node.function, args, node.kwargs, node.shape, node.dtype, node.origin)
