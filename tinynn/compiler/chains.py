"""Chains of elementwise calls as one kernel each, where the library takes kernels of one's own.

On a device a launch costs more than the work of a small call, and calls on long vectors wait for
memory: a chain in one kernel is one launch that reads its operands once and keeps what the calls
only hand to one another. Products and reductions stay calls of the library.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tinynn.compiler.buffers import Buffer, is_literal
from tinynn.compiler.calls import CallEmitter
from tinynn.compiler.liveness import Stage, is_view
from tinynn.compiler.rewrite import CannotEmit, elementwise, is_call, is_number
from tinynn.compiler.statements import Call, Statement, Variable, Write
from tinynn.transforms.graph import Node

_NAMED = 3  # calls by which a kernel is named; the others are counted


def chained(emitter: CallEmitter, kernel: Callable[..., Any] | None) -> list[Statement]:
    """The statements of a step, with one kernel for elementwise calls that follow one another.

    Parameters
    ----------
    emitter : CallEmitter
        Its step.
    kernel : callable, optional
        Makes a kernel, as `Lowering.kernel` does; None leaves every call to itself.
    """
    step: list[Statement] = emitter.statements[Stage.STEP]
    if kernel is None:
        return step
    out: list[Statement] = []
    chain = _Chain(emitter)
    for each in step:
        if chain.takes(each):
            continue
        out += chain.written(kernel)
        chain = _Chain(emitter)
        if not chain.takes(each):
            out.append(each)
    return out + chain.written(kernel)


class _Chain:
    """Elementwise calls of one shape, of which every element follows from those at its place."""

    def __init__(self, emitter: CallEmitter) -> None:
        from tinynn.compiler.codegen.language import Assign  # which takes its time to load
        from tinynn.compiler.codegen.language import Variable as Number
        from tinynn.compiler.codegen.scalars import Scalars

        self._assign, self._number = Assign, Number
        self.emitter, self._scalars = emitter, Scalars(emitter.backend, emitter.graph.space)
        self.statements: list[Any] = []
        self._read: dict[Variable, tuple[Any, Any]] = {}  # its number, and the memory it lies in
        self._made: dict[int, Any] = {}  # numbers, by the id of the value
        self._body: list[Any] = []

    def takes(self, statement: Statement) -> bool:
        """Add a statement; False, and no change, if it has to wait for the chain's end."""
        node, out = statement.node, getattr(statement, "out", None)
        if not (isinstance(statement, Write) and node is not None and elementwise(node)):
            return False
        if not isinstance(out, Buffer) or (self.statements and node.shape != self._shape):
            return False
        read = dict(self._read)
        try:
            args = [self._argument(a, read) for a in node.args]
            value = self._scalars.call(node, args)
        except CannotEmit:
            return False
        written = {each.out for each in self.statements} | {out}
        # A thread may not read what another one overwrites.
        if any(memory in written and v is not memory for v, (_, memory) in read.items()):
            return False
        self._read = read
        number = self._number(f"v{len(self.statements)}", value.dtype)
        self._made[id(node)] = number
        self._body.append(self._assign(number, value))
        self.statements.append(statement)
        return True

    @property
    def _shape(self) -> Any:
        return self.statements[0].node.shape

    def _argument(self, a: Any, read: dict[Variable, tuple[Any, Any]]) -> Any:
        """An operand as a number of the kernel, noting what is read from memory for it."""
        if is_number(a):
            return a
        if not isinstance(a, Node) or a.dtype is None:
            raise CannotEmit("an operand is no array")
        if id(a) in self._made:
            return self._made[id(a)]
        if self._sees(a):
            raise CannotEmit("an operand is another look at what the chain makes")
        variable = self.emitter.operand(a)
        if not isinstance(variable, Variable) or is_literal(variable):
            raise CannotEmit("an operand has no name")
        if variable not in read:
            number = self._number(f"x{len(read)}", self._scalars.dtype(a.dtype))
            value = self.emitter.values.get(id(a))
            read[variable] = number, value.buffer if value else None
        return read[variable][0]

    def _sees(self, a: Node) -> bool:
        """True if the value may lie in memory that the chain writes."""
        waiting, seen = [a], set[int]()
        while waiting:
            seen.update(self.emitter.liveness.sees(node := waiting.pop()))
            if is_view(node) or (is_call(node) and node.name in ("concat", "pack", "part")):
                waiting += node.parents
        return not seen.isdisjoint(self._made)

    def written(self, kernel: Callable[..., Any]) -> list[Statement]:
        """The statements of the chain: one kernel, or the only call as it was."""
        if len(self.statements) < 2:
            return self.statements
        from tinynn.compiler.codegen.renderers.cuda import element

        nodes = [each.node for each in self.statements]
        place = self.emitter.graph.nodes.index(nodes[-1])
        last = {each.out: each.node for each in self.statements}  # what its memory holds then
        needed = [
            out
            for out, node in last.items()
            if out.kept or not self.emitter.liveness.dies_at(node, place)
        ]
        left = {
            out: self._number(f"y{i}", self._made[id(last[out])].dtype)
            for i, out in enumerate(needed)
        }
        stores = [self._assign(y, self._made[id(last[out])]) for out, y in left.items()]
        numbers = [number for number, _ in self._read.values()]
        text, helpers = element([*self._body, *stores], [*numbers, *left.values()])
        given, taken = (
            ", ".join(f"{each.dtype} {each.name}" for each in part)
            for part in (numbers, left.values())
        )
        made = kernel(given, taken, text, helpers)
        names = self.emitter.names
        name = names.bind(_name(nodes), made, ("kernel", given, taken, text))
        call = Call(name, *self._read, *left)
        return [Write(call, next(iter(left)), nodes[-1])]


def _name(nodes: Sequence[Node]) -> str:
    """ "subtract_multiply" of these two calls; of many the first ones, and how many more."""
    words = [node.name for node in nodes[:_NAMED]]
    more = len(nodes) - len(words)
    return "_".join([*words, *([f"and_{more}_more"] if more else [])])
