"""Long vectors by pieces: what an optimizer does to all parameters, a piece after the other.

Ten calls on vectors that no cache holds fetch each of them from memory ten times. The same calls on
one piece after the other fetch it once, and what the calls only hand to one another never leaves
the cache.
"""

import re
from typing import Any

from tinynn.compiler.plan import When
from tinynn.compiler.rewrite import elementwise, size
from tinynn.compiler.words import Line
from tinynn.transforms.graph import Node


def in_pieces(writer: Any, length: int) -> list[Line]:
    """The lines of a step, with loops over pieces of `length` where calls on long vectors follow
    one another. The pieces are cut once. A length of 0 leaves them whole.
    """
    if not length:
        return list(writer.lines[When.STEP])
    lines: list[Line] = []
    run: list[Line] = []
    for line in [*writer.lines[When.STEP], ("", None)]:
        if run and (_vector(writer, line[1], length) != _vector(writer, run[0][1], length)):
            lines += _looped(writer, run, length) if len(run) > 1 else run
            run = []
        if _vector(writer, line[1], length):
            run.append(line)
        else:
            lines.append(line)
    return lines[:-1]


def _vector(writer: Any, node: Node | None, length: int) -> int:
    """The number of elements, if a call goes through long vectors alone, element by element."""
    if node is None or not elementwise(node) or len(node.shape) != 1 or size(node) < 2 * length:
        return 0
    for each in (node, *node.parents):
        spelling = writer.values[id(each)]
        straight = each.shape == node.shape and spelling.storage and spelling.whole
        if each.shape != () and not straight:
            return 0
    return size(node)


def _looped(writer: Any, run: list[Line], length: int) -> list[Line]:
    """These calls, each on a piece at a time."""
    whole = size(run[0][1])  # type: ignore[arg-type]
    text = "\n".join(text for text, _ in run)
    words = dict.fromkeys(re.findall(r"[A-Za-z_]\w*", text))
    bound = {n for n, a in writer.names.bound.items() if getattr(a, "shape", None) == (whole,)}
    nodes = [n for _, line in run if line for n in (line, *line.parents) if n.shape != ()]
    vectors = [w for w in words if w in bound | {writer.spell(n) for n in nodes}]
    passing = _passing(writer, run)
    names = {w: writer.names.new(f"{w}_i") for w in vectors}
    first, here = f"[:{length}][: {whole} - i]", f"[i : i + {length}]"
    cut = [w + (first if w in passing else here) for w in vectors]
    pieces = writer.names.new("pieces")
    start = f"{pieces} = [({', '.join(cut)}) for i in range(0, {whole}, {length})]"
    writer.lines[When.ONCE].append((start, None))
    head = f"for {', '.join(names.values())} in {pieces}:"
    inside = [(re.sub(r"[A-Za-z_]\w*", lambda m: names.get(m[0], m[0]), t), n) for t, n in run]
    return [(head, run[0][1]), *[(f"    {text}", node) for text, node in inside]]


def _passing(writer: Any, run: list[Line]) -> set[str]:
    """The memory of values that these calls make and that are not needed after them."""
    places = {id(node): place for place, node in enumerate(writer.graph.nodes)}
    made = [node for _, node in run if node is not None]
    last = places[id(made[-1])]
    read_first: set[str] = set()
    written: set[str] = set()
    for node in made:
        read_first |= {writer.spell(a) for a in node.parents} - written
        written.add(writer.spell(node))
    kept = {writer.spell(n) for n in made if writer.values[id(n)].storage.kept}
    later = {writer.spell(n) for n in made if not writer.plan.dies_at(n, last)}
    return written - read_first - kept - later
