"""Liveness and hoisting: when a value is computed, and how long it is needed."""

from collections.abc import Callable, Collection, Container
from enum import IntEnum
from typing import Any

from tinynn.compiler.rewrite import VIEWS, elementwise, is_call, is_number
from tinynn.trace import Effect
from tinynn.trace.core import HOLE
from tinynn.transforms.graph import Constant, Graph, Input, Node

FOREVER = 1 << 60


class Stage(IntEnum):
    """How often a value is computed."""

    ONCE = 0
    SERIES = 1  # for all steps at once, since it depends on their number alone
    BATCH = 2  # once for each batch, since it depends on the data alone
    STEP = 3


def is_view(node: Any) -> bool:
    """True if the result is the memory of its first argument, looked at in another way."""
    if not is_call(node) or not isinstance(node.args[0] if node.args else None, Node):
        return False
    return node.name in VIEWS or (node.name == "getitem" and not _picks(node.kwargs["key"]))


def is_entry(node: Node) -> bool:
    """True for one entry of an array, by its place along each axis."""
    if node.name != "getitem" or node.shape != ():
        return False
    key = node.kwargs["key"]
    return all(type(part) is int for part in (key if isinstance(key, tuple) else (key,)))


def root(node: Any) -> Any:
    """The value whose memory a view looks at."""
    while is_view(node):
        node = node.args[0]
    return node


def _picks(key: Any) -> bool:
    return key is HOLE or (isinstance(key, tuple) and any(map(_picks, key)))


def each_alone(node: Node) -> bool:
    """True if the scalar call can be vectorised: a vector of arguments gives the results."""
    return node.shape == () and (elementwise(node) or node.name == "astype")


def counted(inputs: list[Input], graph: Graph) -> dict[int, float]:
    """By how much an input grows in each step, by the id of its next value, if that is all."""
    new_of = list(zip(inputs, graph.outputs, strict=False))
    adding = [(each, new) for each, new in new_of if _adds_number(new, each)]
    users, given = graph.users() if adding else {}, [id(output) for output in graph.outputs]
    return {
        id(new): new.args[1]
        for each, new in adding
        if given.count(id(new)) == 1 and id(each) not in given and users[id(each)] == [new]
    }


def _adds_number(new: Any, each: Input) -> bool:
    adds = is_call(new) and new.name == "add" and new.shape == () and new.args[0] is each
    return adds and is_number(new.args[1])


class Liveness:
    """When each value of a graph is computed, and when it is read for the last time.

    Parameters
    ----------
    graph
        The program of one step.
    streams
        The inputs that are given anew for every batch.
    counters
        The nodes that are a counter's value after a step.
    fresh
        True if a call's result is memory of its own. Any other may be its argument's.
    loop
        True if the program repeats its step, or is called once at a time.
    """

    def __init__(
        self,
        graph: Graph,
        streams: list[Input],
        counters: Container[int],
        fresh: Callable[[Node], bool],
        loop: bool,
    ) -> None:
        self.graph = graph
        # Between the steps of a loop arrays from outside stay as they are, between calls they may
        # be changed in place.
        self.constants = Stage.ONCE if loop else Stage.STEP
        # For every value that may look at the memory of others, it and those.
        self.seen: dict[int, set[int]] = {}
        self.when: dict[int, Stage] = dict.fromkeys(map(id, graph.inputs), Stage.STEP)
        self.when.update(dict.fromkeys(map(id, streams), Stage.BATCH))
        self.last: dict[int, int] = {}
        for place, node in enumerate(graph.nodes):
            self.when[id(node)] = self._when(node, id(node) in counters)
            read = [each for parent in node.parents for each in self.sees(parent)]
            self.last.update(dict.fromkeys(read, place))
            if read and not fresh(node):
                self.seen[id(node)] = {id(node), *read}
        outputs = [self.sees(o) for o in graph.outputs if isinstance(o, Node)]
        self.outputs = set[int]().union(*outputs)
        self.last.update(dict.fromkeys(self.outputs, FOREVER))

    def _when(self, node: Node, counter: bool) -> Stage:
        """The latest of what it depends on. A series meets the data in each step only."""
        if node.effect is not Effect.NONE:
            return Stage.STEP
        if counter:
            return Stage.SERIES
        times = {self._of(parent) for parent in node.parents}
        times.discard(Stage.ONCE)
        if times == {Stage.SERIES} and not each_alone(node):
            return Stage.STEP
        return Stage.ONCE if not times else times.pop() if len(times) == 1 else Stage.STEP

    def _of(self, node: Node) -> Stage:
        return self.constants if isinstance(node, Constant) else self.when[id(node)]

    def sees(self, node: Node) -> Collection[int]:
        """The values whose memory this one may look at."""
        return self.seen.get(id(node)) or (id(node),)

    def dies_at(self, node: Node, place: int) -> bool:
        """True if the value's memory is not read after the call at this place."""
        last = self.last
        for each in self.sees(node):  # noqa: SIM110  # `all` of a generator takes twice as long
            if last.get(each, -1) > place:
                return False
        return True

    def left(self, a: Node, node: Node, place: int) -> bool:
        """True if the call at this place is the last reader of an argument, and reads it as it is.

        Its result may take the argument's memory, if it is of its shape and dtype.
        """
        alike = (a.shape, a.dtype) == (node.shape, node.dtype)
        views = [b for b in node.parents if b is not a and id(a) in self.sees(b)]
        return alike and not views and self.dies_at(a, place)
