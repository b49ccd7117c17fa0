"""Every pipeline of passes: what happens to a recorded graph before a program is made of it.

A pass is a function from graph to graph; a pipeline is a list of them, in order. None removes,
repeats, merges or moves a node with an effect.

    program                      passes
    standard's calls             followed()
    the same in training         portable(), as for what reads a graph
    calls into buffers           for_library(lowering); in training into_buffers(lowering),
                                 `flatten_params.packed`, between_steps(lowering, kept)
    loops                        portable(), `flatten_params.packed`, into_loops(kept)

`flatten_params.packed` is no pass, since it changes the inputs: all parameters are then one vector.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tinynn.compiler.ahead import computed_ahead
from tinynn.compiler.data_passes import biases_in_products, data_broadcast
from tinynn.compiler.fused_calls import fused_calls
from tinynn.compiler.horizontal import fused_horizontally
from tinynn.compiler.passes import PATTERNS, common_subexpressions, without_stop_gradient
from tinynn.compiler.rewrite import simplest
from tinynn.compiler.scans import branches_simplified, scans_batched, scans_of
from tinynn.compiler.signs import without_negatives
from tinynn.compiler.target_passes import (
    kept_for_pullbacks,
    products,
    scattered,
    slopes_gate,
    slopes_of_maximum,
    slopes_of_relu,
    sums_of_chosen,
    sums_of_rows,
    without_logsumexp,
    without_rows_of_one,
    written_out,
)
from tinynn.rules.kinds import RULES
from tinynn.trace import Function
from tinynn.transforms.graph import Graph, pruned

Pass = Callable[[Graph], Graph]


def simplified(graph: Graph) -> Graph:
    """The graph with nothing in it that a pattern of `PATTERNS` changes, or that is there twice.

    So are the graphs that its calls run; out of scans goes what need not be done in each step.
    """
    if graph.simple:
        return graph
    graph = _simplified(branches_simplified(pruned(graph), simplified))
    if scans_of(graph):
        return _simplified(scans_batched(graph, simplified))
    graph.simple = True
    return graph


def _simplified(graph: Graph) -> Graph:
    before = None
    while graph is not before:
        before = common_subexpressions(simplest(graph, PATTERNS))
        graph = simplest(before, PATTERNS)  # what was there twice may be simpler still
    return graph


def applied(graph: Graph, passes: Sequence[Pass]) -> Graph:
    """The graph after these passes, in order."""
    for each in passes:
        graph = each(graph)
    return graph


def decompositions(lowering: Any) -> dict[str, Callable[..., Any]]:
    """The functions that are decomposed while a step is recorded for a library, by name.

    Those that its lowering names, and of tinynn's own functions of the elements those that are
    others of single numbers and that it has no form for. None without a lowering: what is the
    library's own to compile stays as it is called.
    """
    if lowering is None:
        return {}
    ours = {
        key.name: rule.scalar
        for key, rule in RULES.items()
        if isinstance(key, Function) and rule.scalar is not None and key.name not in lowering.into
    }
    return ours | lowering.decompositions


def followed() -> list[Pass]:
    """For the standard's own calls, where the library may follow them: its `grad` stops there."""
    return [
        simplified,  # recorded derivatives hold zeros, ones and the same call twice
    ]


def portable() -> list[Pass]:
    """For the standard's own calls, on any library, and for readers of the graph."""
    return [
        without_stop_gradient,  # no derivative is taken of the program any more
        *followed(),
    ]


def into_buffers(lowering: Any) -> list[Pass]:
    """For a library that writes results into buffers, as its lowering says."""
    passes: list[Pass] = [
        without_stop_gradient,
        simplified,  # fewer calls, each of which is one of the library
    ]
    if lowering.kernel is None:  # there such calls are in a kernel with others, and cost nothing
        passes.append(partial(computed_ahead, into=lowering.into, simplified=simplified))
    passes += [
        products,  # sum(a * b) is one call without a buffer
    ]
    if "sum_where" in lowering.into:
        passes.append(sums_of_chosen)  # a call less, and no array of zeros
    if "sign" in lowering.into:
        passes.append(slopes_of_relu)  # no booleans to convert
    if "gated" in lowering.into:
        passes.append(slopes_gate)
    if "scattered" in lowering.into:
        passes.append(scattered)
    if lowering.slow_where:
        passes.append(slopes_of_maximum)
    if lowering.few_axes:
        # A matrix has them in one product.
        passes.append(partial(sums_of_rows, lowering=lowering))
        passes.append(without_rows_of_one)  # broadcasting takes time where nothing is repeated
        passes.append(simplified)  # the reshapes it leaves
    if lowering.keeps:
        passes.append(partial(kept_for_pullbacks, names=lowering.keeps))
    return passes


def between_steps(lowering: Any, kept: int) -> list[Pass]:
    """For steps that are repeated in calls into buffers; the first `kept` inputs live on."""
    if lowering.kernel is not None:
        return []  # there such calls are in a kernel with others, and cost nothing
    return [
        partial(data_broadcast, kept=kept),  # once for each batch, not in each step
        partial(biases_in_products, kept=kept),  # a call less in each direction
        partial(fused_horizontally, kept=kept, into=lowering.into),  # a call for all layers
        partial(without_negatives, kept=kept),  # signs are the data's, or the other way about
        partial(fused_calls, into=lowering.into),  # the last: others look for what it joins
    ]


def for_library(lowering: Any) -> list[Pass]:
    """For a program that is called: into buffers where the library has a lowering."""
    if lowering is None:
        return followed()
    return [*into_buffers(lowering), partial(fused_calls, into=lowering.into)]


def into_loops(kept: int, lying: Mapping[int, Any] | None = None) -> list[Pass]:
    """For explicit loops over flat memory; the first `kept` inputs live on from step to step.

    Parameters
    ----------
    lying
        How inputs lie in memory, by the id of each, as `View`s; without it each in order.
    """
    # The language of loops takes its time, and most runs have none.
    from tinynn.compiler.codegen.schedule import check, inputs_copied, views_copied
    from tinynn.compiler.pushed import entries_computed_in_steps, slices_pushed

    return [
        partial(written_out, sayable=check),  # `var` and the like, where they have no words
        without_logsumexp,  # single numbers have no reduction of this kind
        entries_computed_in_steps,  # beside who reads them, and without memory for all of them
        slices_pushed,  # likewise: a nest goes through the elements of one slice
        partial(
            views_copied, lying=lying
        ),  # a view is an offset and strides, which not every reshape is
        partial(inputs_copied, kept=kept),  # a parameter's new value may not lie in another's
    ]
