"""Long vectors by pieces: what an optimizer does to all parameters, a piece after the other.

Ten calls on vectors that no cache holds fetch each of them from memory ten times. The same calls on
one piece after the other fetch it once, and what the calls only hand to one another never leaves
the cache.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tinynn.compiler.calls import CallEmitter
from tinynn.compiler.liveness import Stage
from tinynn.compiler.rewrite import elementwise, size
from tinynn.compiler.statements import Cut, For, Statement, Tuple, Variable, Write, filled


def tiled(emitter: CallEmitter, length: int) -> list[Statement]:
    """The statements of a step, with loops over pieces where calls on long vectors follow one
    another.

    Parameters
    ----------
    emitter : CallEmitter
        Its step. Statements that cut the vectors into pieces, once, are added to it.
    length : int
        The number of elements of a piece; 0 leaves vectors whole.
    """
    step = emitter.statements[Stage.STEP]
    if not length:
        return step
    out: list[Statement] = []
    for vectors, group in groupby(step, lambda each: _length(emitter, each, 2 * length)):
        run: list[Any] = list(group)
        out += [_looped(emitter, run, length)] if vectors and len(run) > 1 else run
    return out


def _length(emitter: CallEmitter, statement: Statement, least: int) -> int:
    """The number of elements, if a call goes through long vectors alone, element by element."""
    node = statement.node
    if node is None or not elementwise(node) or len(node.shape) != 1 or size(node) < least:
        return 0
    for each in (node, *node.parents):
        value = emitter.values[id(each)]
        straight = each.shape == node.shape and value.buffer and value.whole
        if each.shape != () and not straight:
            return 0
    return size(node)


def _looped(emitter: CallEmitter, run: Sequence[Any], length: int) -> For:
    """These calls, each on a piece at a time."""
    whole = run[0].out.shape
    vectors: dict[Variable, None] = {}  # in the order in which they appear

    def seen(leaf: Any) -> None:
        if isinstance(leaf, Variable) and leaf.shape == whole:
            vectors[leaf] = None

    for each in run:
        filled(each.call, seen)
    pieces = {v: Variable(emitter.names.new(f"{v.name}_i")) for v in vectors}
    target = Variable(emitter.names.new("pieces"))
    cut = Cut(target, list(vectors), _passing(emitter, run), length)
    emitter.statements[Stage.ONCE].append(cut)
    body = [
        Write(filled(each.call, lambda v: pieces.get(v, v)), pieces[each.out], each.node)
        for each in run
    ]
    names = list(pieces.values())
    return For(names[0] if len(names) == 1 else Tuple(names, True), target, body, run[0].node)


def _passing(emitter: CallEmitter, run: Sequence[Any]) -> set[Variable]:
    """The memory of values that these calls make and that are not needed after them."""
    last = emitter.graph.nodes.index(run[-1].node)
    read_first, written, needed = set[Any](), set[Any](), set[Any]()
    for each in run:
        read_first |= {emitter.operand(a) for a in each.node.parents} - written
        written.add(each.out)
        if each.out.kept or not emitter.liveness.dies_at(each.node, last):
            needed.add(each.out)
    return written - read_first - needed
