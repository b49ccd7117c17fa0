"""The estimate by which "auto" chooses: whether loops save more time than compiling them takes."""

from collections.abc import Iterator

from tinynn.compiler.liveness import is_view
from tinynn.compiler.rewrite import size
from tinynn.transforms.graph import ITEM, Graph, Node

# What a call costs in a library that costs nothing in loops, and what loops cost to be compiled, in
# seconds: the least and the most that was measured.
_CALL, _ELEMENT = 0.25e-6, 0.1e-9
# Of many networks, whose arrays lie in no cache between two calls, an element costs more; and they
# are compiled when they are expected to gain, not only when they are sure to.
_ELEMENT_OF_MANY, _EXPECTED = 1e-9, 0.5
_COMPILING, _COMPILING_CALL = 0.4, 0.025
# Elements, and multiplications of a product: beyond them the work takes longer than the calls, and
# a library that has several threads for it may be faster.
_LARGEST, _LARGEST_PRODUCT = 2**18, 2**22
# Of a while_loop: a larger bound is a guard, and says nothing of how many there will be.
_TURNS = 100
# Of the function that is slower in loops: what one number costs more than in a library.
_SLOWER = {"pow": 1e-9}


def worth_compiling(graph: Graph, steps: int, networks: int = 1) -> bool:
    """True if so many steps of a program take longer in calls than compiling loops does.

    It decides from the program's size, not from timing, so that the answer is the same every time.

    Parameters
    ----------
    networks
        For how many a call acts at once.
    """
    calls = [(node, times) for node, times in _calls(graph) if not is_view(node)]
    # Beside a scan there is what is done for all of its steps at once.
    most = max((times for _, times in _calls(graph, loops=False)), default=1)
    if any(size(node) > _LARGEST * most for node, _ in calls) or any(
        size(n) * n.args[0].shape[-1] > _LARGEST_PRODUCT * most
        for n, _ in calls
        if n.name == "matmul"
    ):
        return False
    sizes = [(size(node), times) for node, times in calls]
    element = _ELEMENT if networks == 1 else networks * _ELEMENT_OF_MANY
    saved = sum(times * (_CALL + count * element) for count, times in sizes)
    slower = sum(times * size(node) * _SLOWER.get(node.name, 0.0) for node, times in calls)
    compiling = _COMPILING + len(calls) * _COMPILING_CALL
    expected = 1.0 if networks == 1 else _EXPECTED
    return steps * (saved - networks * slower) > compiling * expected


def _calls(graph: Graph, times: int = 1, loops: bool = True) -> Iterator[tuple[Node, int]]:
    """The calls of a graph and of those in it, and how often each is carried out at most.

    A `while_loop` has as many turns as its bound allows, up to `_TURNS`; without `loops` one.
    """
    for node in graph.nodes:
        graphs = [value for value in node.kwargs.values() if isinstance(value, Graph)]
        turns = min(node.kwargs.get("bound", 1), _TURNS) if loops else 1
        for inside in graphs:
            yield from _calls(inside, times * node.kwargs.get("length", turns), loops)
        if not graphs and node.function is not ITEM:
            yield node, times
