"""Every pipeline of passes: what happens to a recorded graph before a program is made of it.

A pass is a function from graph to graph; a pipeline is a list of them, in order. None removes,
repeats, merges or moves a node with an effect.

    program                      passes
    standard's calls, readers    portable()
    calls into buffers           into_buffers(lowering); in training then `flatten_params.packed`
    loops                        portable(), `flatten_params.packed`, into_loops(kept)

`flatten_params.packed` is no pass, since it changes the inputs: all parameters are then one vector.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tinynn.compiler.codegen.schedule import inputs_copied, views_copied
from tinynn.compiler.passes import (
    algebra,
    common_subexpressions,
    constants_folded,
    same,
    shapes_merged,
)
from tinynn.compiler.target_passes import (
    products,
    slopes_of_relu,
    without_logsumexp,
    without_rows_of_one,
)
from tinynn.transforms.graph import Graph, pruned

Pass = Callable[[Graph], Graph]

#: Run over and over, since each leaves something to do for the others.
SIMPLIFYING: tuple[Pass, ...] = (
    constants_folded,  # known numbers, so that the next pass meets them
    algebra,  # calls that change nothing go, and constants meet
    shapes_merged,  # one change of shape in place of several
    common_subexpressions,  # last: what the others made alike is computed once
)


def simplified(graph: Graph) -> Graph:
    """The graph after the passes of `SIMPLIFYING`, over again until nothing changes."""
    graph = pruned(graph)
    while True:
        before = [(node.function, node.args) for node in graph.nodes]
        graph = applied(graph, SIMPLIFYING)
        after = [(node.function, node.args) for node in graph.nodes]
        if len(after) == len(before) and all(
            a[0] is b[0] and same(a[1], b[1]) for a, b in zip(after, before, strict=True)
        ):
            return graph


def applied(graph: Graph, passes: Sequence[Pass]) -> Graph:
    """The graph after these passes, in order."""
    for each in passes:
        graph = each(graph)
    return graph


def portable() -> list[Pass]:
    """For the standard's own calls, on any library, and for readers of the graph."""
    return [simplified]


def into_buffers(lowering: Any) -> list[Pass]:
    """For a library that writes results into buffers, as its lowering says."""
    passes: list[Pass] = [
        simplified,
        products,  # sum(a * b) is one call without a buffer
    ]
    if "sign" in lowering.into:
        passes.append(slopes_of_relu)  # no booleans to convert
    if lowering.few_axes:
        passes.append(without_rows_of_one)  # broadcasting takes time where nothing is repeated
        passes.append(simplified)  # the reshapes it leaves
    return passes


def for_library(lowering: Any) -> list[Pass]:
    """`into_buffers` where the library has a lowering, else `portable`."""
    return portable() if lowering is None else into_buffers(lowering)


def into_loops(kept: int) -> list[Pass]:
    """For explicit loops over flat memory; the first `kept` inputs live on from step to step."""
    return [
        without_logsumexp,  # single numbers have no reduction of this kind
        views_copied,  # a view is an offset and strides, which not every reshape is
        partial(inputs_copied, kept=kept),  # a parameter's new value may not lie in another's
    ]
