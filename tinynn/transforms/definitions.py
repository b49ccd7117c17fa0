"""Definitions: what a call is in other functions, as a graph.

For programs in a language that has no word of its own for the call, such as loops and ONNX.
"""

from collections.abc import Callable
from typing import Any

from tinynn.rules.kinds import rule_of
from tinynn.trace import backend_of
from tinynn.transforms.graph import Graph, Node, at_batch, mapped
from tinynn.transforms.record import MORE_ROWS, recorded
from tinynn.transforms.symbolic import symbolic


def definition_of(node: Node, graph: Graph) -> Graph | None:
    """The graph of what defines a call, for a batch of any size if that of the call is for one.

    Its inputs are the call's arguments that are arrays, its calls have the origin of the call, and
    its result the shape and dtype. None for a call that nothing defines.

    Parameters
    ----------
    node : Node
        The call.
    graph : Graph
        That it is of.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.transforms.record import record
    >>> graph = record(lambda x: x.__array_namespace__().std(x), np.ones(3))
    >>> [node.name for node in definition_of(graph.nodes[0], graph).nodes][-1]
    'sqrt'
    """
    rule = rule_of(node.function)
    definition = None if rule is None else rule.definition or rule.scalar
    if definition is None or not node.parents:
        return None
    if graph.batch is None:
        made = _made(node, graph, definition, lambda value: value)
    else:
        sizes = [graph.batch + more for more in MORE_ROWS]
        at = [lambda value, size=size: at_batch(value, size) for size in sizes]
        made = symbolic([_made(node, graph, definition, each) for each in at], sizes)
    if node.dtype is not None:
        results = made.outputs
        alone = len(results) == 1 and isinstance(results[0], Node)
        if not alone or (tuple(results[0].shape), results[0].dtype) != (
            tuple(node.shape),
            node.dtype,
        ):
            return None
    for each in made.nodes:
        each.origin = node.origin
    return made


def _made(
    node: Node, graph: Graph, definition: Callable[..., Any], now: Callable[[Any], Any]
) -> Graph:
    """The definition for arguments of the shapes that `now` gives."""
    xp = graph.space.xp
    examples = tuple([xp.ones(tuple(map(now, a.shape)), dtype=a.dtype) for a in node.parents])
    kwargs = mapped(node.kwargs, now)

    def defined(*given: Any) -> Any:
        supply = iter(given)
        args = [next(supply) if isinstance(a, Node) else now(a) for a in node.args]
        return definition(graph.space, *args, **kwargs)

    with backend_of(*examples).quiet():
        return recorded(defined, examples)
