"""What an emitter has to know of a graph: when each value is computed, and how long it is needed."""

from enum import IntEnum
from typing import Any

from tinynn.compile.rewrite import VIEWS, is_call
from tinynn.trace.core import HOLE
from tinynn.transforms.record import Constant, Graph, Input, Node

FOREVER = 1 << 60


class When(IntEnum):
    """How often a value is computed."""

    ONCE = 0
    BATCH = 1  # once for each batch, since it depends on the data alone
    STEP = 2


def is_view(node: Any) -> bool:
    """Whether the result is the memory of its first argument, looked at in another way."""
    if not is_call(node) or not isinstance(node.args[0] if node.args else None, Node):
        return False
    return node.name in VIEWS or (node.name == "getitem" and not _picks(node.settings["key"]))


def _picks(key: Any) -> bool:
    return key is HOLE or (isinstance(key, tuple) and any(map(_picks, key)))


def root_of(node: Node) -> Node:
    """The value whose memory this one looks at."""
    while is_view(node):
        node = node.args[0]
    return node


class Plan:
    """When each value of a graph is computed, and when it is read for the last time.

    Args:
        graph: the program of one step.
        streams: the inputs that are given anew for every batch.
    """

    def __init__(self, graph: Graph, streams: list[Input]) -> None:
        self.graph = graph
        self.when: dict[int, When] = {id(i): When.STEP for i in graph.inputs}
        self.when.update({id(i): When.BATCH for i in streams})
        self.last: dict[int, int] = {}
        for place, node in enumerate(graph.nodes):
            self.when[id(node)] = max(map(self._of, node.parents), default=When.ONCE)
            for parent in node.parents:
                self.last[id(root_of(parent))] = place
        self.outputs = {id(root_of(o)) for o in graph.outputs if isinstance(o, Node)}
        for each in self.outputs:
            self.last[each] = FOREVER

    def _of(self, node: Node) -> When:
        return When.ONCE if isinstance(node, Constant) else self.when[id(node)]

    def dies_at(self, node: Node, place: int) -> bool:
        """Whether nobody reads the value or its views after the call at this place."""
        return self.last.get(id(root_of(node)), -1) <= place
