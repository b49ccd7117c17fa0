"""The emitter `calls`: a straight-line program in the library's own calls, as statements.

Where the library can write into arrays that are there, buffers are allocated once and reused, what
the parameters and the data look like in other shapes is taken once, and parameters change in place:
what a careful person would have written by hand. Elsewhere it is the standard's calls, in order.
"""

from collections.abc import Container, Iterable, Mapping
from typing import Any

from backends.expressions import OUT, Ones
from backends.lowering import OutTemplate, form_of
from tinynn.compiler import identifiers
from tinynn.compiler.buffers import (
    Buffer,
    Value,
    is_literal,
    part_of,
    parts,
    written_in_place,
)
from tinynn.compiler.layouts import Order, orders, reshaped
from tinynn.compiler.liveness import Liveness, Stage, is_entry, is_view
from tinynn.compiler.rewrite import RESHAPES, elementwise, is_number, overwritable, size
from tinynn.compiler.statements import (
    Assign,
    Call,
    Expression,
    Statement,
    Subscript,
    Tuple,
    Variable,
    Write,
    argument,
    filled,
)
from tinynn.transforms.graph import (
    COPIED,
    FILL,
    ITEM,
    OF_NUMBERS,
    PACK,
    PART,
    Constant,
    Graph,
    Input,
    Node,
)

_OF_BATCH = {"matrix_transpose": "{}_T", "negative": "minus_{}", "concat": "{}_and_ones"}
_PREFIXES = {Stage.ONCE: "c", Stage.SERIES: "s", Stage.BATCH: "d", Stage.STEP: "v"}


class CallEmitter:
    """Emits the statements of one graph.

    Parameters
    ----------
    graph : Graph
        The program of one step.
    backend : Backend
        Where it runs.
    streams : list of Input
        Those that are given anew for every batch.
    kept : dict
        Inputs that live on from step to step: the node that is their value afterwards, by id.
    collected : mapping, optional
        The names of arrays that values of every step are written to, by the value's id.
    counters : container of int
        The nodes that are a counter's value after a step, by id.
    lowering : Lowering, optional
        How the library writes; None: in the standard's own calls.
    reserved : iterable of str
        Names that no value gets.
    donated : container of int
        The inputs whose memory outputs may take, by id.

    Attributes
    ----------
    statements : dict
        The statements, by how often they run.
    names : Names
        The names of the program, and what is bound to them.
    constants
        The arrays from outside, by the names of them.
    collected : dict
        The arrays that values of every step are written to, by the value's id.
    """

    def __init__(
        self,
        graph: Graph,
        backend: Any,
        streams: list[Input],
        kept: dict[int, Node],
        collected: Mapping[int, str] | None = None,
        counters: Container[int] = (),
        lowering: Any = None,
        reserved: Iterable[str] = (),
        donated: Container[int] = (),
    ) -> None:
        self.graph, self.backend, self.kept, self.donated = graph, backend, kept, donated
        self.lowering = lowering
        self.loop = bool(kept or collected)
        self._forms: dict[int, tuple[Expression, OutTemplate] | None] = {}
        joined = [n for n in graph.nodes if n.name == "concat" and self._into(n)]
        self._joins = {id(node): parts(node) for node in joined}
        numbers = lowering is not None and lowering.gives_numbers
        fresh = lambda node: self._into(node) is not None or (numbers and is_entry(node))  # noqa: E731
        self.liveness = Liveness(graph, streams, counters, fresh, self.loop)
        self.names = identifiers.Names(self.lowering.library if self.lowering else None)
        self.statements: dict[Stage, list[Statement]] = {when: [] for when in Stage}
        self.values: dict[int, Value] = {}
        self.collected = {
            key: Buffer(name, kept=True, anew=True) for key, name in (collected or {}).items()
        }
        self.names.taken.update([buffer.name for buffer in self.collected.values()], reserved)
        self.counters = counters
        self._orders = orders(graph, lowering)
        self._free: dict[Any, list[Buffer]] = {}
        self._wholes: dict[int, Buffer] = {}  # of the joined values, from their first part on
        self._targets: dict[int, Buffer] = {}
        self._places: dict[tuple[int, int], Buffer] = {}  # in vectors, by the vector and the start
        self._written: set[int] = set()
        self._bound: dict[str, Variable] = {}
        self.constants: dict[str, Constant] = {}
        for each in graph.inputs:
            self._input(each)
        for node in graph.nodes:
            if node.function is PACK and self.lowering:
                self._lay_out(node)
        self._users = graph.users() if joined else {}
        self._parts = written_in_place(graph, self._joins, self._fits_in)
        for place, node in enumerate(graph.nodes):
            self._node(place, node)
            self._release(place, node)
        self._finish()

    # Inputs, constants and numbers.

    def _input(self, node: Input) -> None:
        name = self.names.new(identifiers.of_input(node.label))
        donated = id(node) in self.donated
        if not self.lowering or (id(node) not in self.kept and not donated):
            self.values[id(node)] = Value(Variable(name, node.shape))
            return
        buffer = Buffer(name, node.shape, node.dtype, kept=True, anew=donated)
        self.values[id(node)] = Value(buffer, buffer, contiguous=not donated)
        if not donated and self.kept[id(node)] is not node:
            self._targets[id(self.kept[id(node)])] = buffer

    def operand(self, value: Any) -> Any:
        """The expression of an argument: a variable, or the literal that it is."""
        if not isinstance(value, Node):
            return value if is_literal(value) else self._bind("number", value)
        if isinstance(value, Constant) and id(value) not in self.values:
            name = self.names.new("constant")
            self.names.bound[name], self.constants[name] = value.value, value
            # It may lie in any order, so that to reshape it can be to copy it.
            buffer = Buffer(name, value.shape, value.dtype, kept=True)
            self.values[id(value)] = Value(buffer, buffer, contiguous=False)
        return self.values[id(value)].variable

    def _bind(self, wanted: str, value: Any, key: Any = None) -> Variable:
        """The variable of something from outside; what has the same `key` is bound once."""
        name = self.names.bind(wanted, value, key)
        if name not in self._bound:
            self._bound[name] = Variable(name, getattr(value, "shape", None))
        return self._bound[name]

    def _number(
        self, value: float, dtype: Any, shape: tuple[int, ...] = (), order: Order = None
    ) -> Variable:
        """A number as an array, made once: it saves the library a conversion in every call."""
        lying = shape if order is None else tuple(shape[axis] for axis in order)
        array = self.graph.space.xp.full(lying, value, dtype=dtype, device=self.backend.device)
        if order is not None:
            array = self._ordered(array, order)
        name = identifiers.of_number(value) + ("s" if shape else "")
        return self._bind(name, array, ("number", repr(value), str(dtype), tuple(shape), order))

    def _lay_out(self, node: Node) -> None:
        """A vector for values that lie side by side, each written to its place as it is made."""
        vector = self._allocated(node, self.names.new(node.kwargs["name"]))
        vector.kept = True
        self.values[id(node)] = Value(vector, vector)
        start = 0
        for value, label in zip(node.parents, node.kwargs["labels"], strict=True):
            place = Buffer(self.names.new(label), value.shape, value.dtype, kept=True)
            self._add(Stage.ONCE, Assign(place, part_of(vector, start, value.shape)))
            self._places[id(node), start] = place
            self._targets.setdefault(id(value), place)  # it may be in two vectors
            start += size(value)

    # Calls.

    def _add(self, when: Stage, statement: Statement) -> None:
        self.statements[when].append(statement)

    def _node(self, place: int, node: Node) -> None:
        when = self.liveness.when[id(node)]
        if node.function is PACK:
            return self._fill_up(node)
        if when is Stage.SERIES and id(node) in self.counters:
            self.values[id(node)] = Value(Variable(self.names.new("count"), node.shape))
            return None
        if when is not Stage.STEP:
            return self._new(node, when)
        if id(node) in self._wholes:
            return self._join(node)
        if is_view(node) and (self._is_written(node) or self._hoisted(node)):
            return None
        form = self._into(node)
        buffer = self._buffer(place, node, form[1]) if form else None
        if form is None or buffer is None:
            return self._new(node, when)
        whole = id(node) not in self._parts
        self.values[id(node)] = Value(buffer, buffer, whole, buffer.order)
        return self._add(when, Write(self._filled_in(*form, node, buffer), buffer, node))

    def _fill_up(self, node: Node) -> None:
        """Copy into the vector what could not be written there directly."""
        vector, start = self.values[id(node)].buffer, 0
        for value in node.parents:
            if self.values[id(value)].buffer is not self._places[id(node), start]:
                out = part_of(vector, start, value.shape)
                self._add(Stage.STEP, self.copied(self.operand(value), out, node))
            start += size(value)

    def copied(self, value: Any, out: Expression, node: Node | None = None) -> Write:
        """The statement that copies a value into an array."""
        form = self.lowering.into["copy"].call
        return Write(filled(form, lambda leaf: out if leaf is OUT else value), out, node)

    def _new(self, node: Node, when: Stage) -> None:
        """`name = call(...)`: a new array."""
        call = self._call(node)
        said = _OF_BATCH.get(node.name) if when is Stage.BATCH else None
        wanted = said and said.format(self.operand(node.args[0]).name)
        name = self.names.new(wanted) if wanted else self.names.numbered(_PREFIXES[when])
        once = when is Stage.ONCE
        kind = Buffer(name, node.shape, node.dtype, kept=True) if once else None
        variable = kind or Variable(name, node.shape)
        self.values[id(node)] = Value(variable, kind, contiguous=False)
        self._add(when, Assign(variable, call, node))

    def _call(self, node: Node) -> Any:
        """The expression that makes a new array, or a view."""
        if node.function is FILL:
            return self._number(node.kwargs["value"], node.dtype, node.shape)
        args = [self.operand(a) for a in node.args]
        if node.function is PART:
            return part_of(args[0], node.kwargs["start"], node.shape)
        if node.function is ITEM:
            return Subscript(args[0], node.kwargs["index"])
        if node.name == "getitem":
            return Subscript(args[0], node.kwargs["key"], args[1:])
        if node.dtype is None and node.name in OF_NUMBERS:
            return Call(self.names.function(node.name, OF_NUMBERS[node.name]), *args)
        template = self.lowering.calls.get(node.name) if self.lowering else None
        form = form_of(template, node.args, node.kwargs) if template else None
        if form is not None:
            return filled(form, lambda leaf: argument(leaf, args, node))
        kwargs = {
            key: value if is_literal(value) else self._bind(key, value)
            for key, value in node.kwargs.items()
        }
        name = node.name.rpartition(".")[2]  # of a user's own function, without its module
        return Call(self.names.function(name, node.function.raw), *args, **kwargs)

    def _hoisted(self, node: Node) -> bool:
        """A view of memory that stays is taken once, before the first step."""
        if node.name == "getitem" and node.shape == ():
            return False  # a library may give a number, which does not change with its array
        self.operand(node.args[0])
        parent = self.values[id(node.args[0])]
        if parent.buffer is None or parent.buffer.anew:
            return False
        order = None
        if node.name in RESHAPES and parent.order is not None:
            order = reshaped(parent.order, node.args[0].shape, node.shape)
        if node.name == "reshape" and (not parent.contiguous or (parent.order and not order)):
            return False
        wanted = parent.variable.name + ("_T" if "transpose" in node.name else "")
        if node.function is PART and node.kwargs["label"]:
            wanted = identifiers.of_input(node.kwargs["label"])
        view = Variable(self.names.new(wanted), node.shape)
        contiguous = parent.contiguous and (node.name in RESHAPES or node.function is PART)
        self._add(Stage.ONCE, Assign(view, self._call(node), node))
        self.values[id(node)] = Value(view, parent.buffer, contiguous, order)
        return True

    def _into(self, node: Node) -> tuple[Expression, OutTemplate] | None:
        """How the library writes this call's result into an array, if it can."""
        if id(node) not in self._forms:
            name = "copy" if node.function is COPIED else node.name
            into: Any = self.lowering.into.get(name) if self.lowering else None
            found = None
            if into is not None and node.function is not ITEM and node.dtype is not None:
                form = form_of(into.call, node.args, node.kwargs)
                found = None if form is None else (form, into)
            self._forms[id(node)] = found
        return self._forms[id(node)]

    def _filled_in(self, form: Expression, into: OutTemplate, node: Node, out: Buffer) -> Any:
        """The call of a template with this node's operands."""
        floating = self.graph.space.kinds
        arrays = [a for a in node.args if isinstance(a, Node) and a.dtype is not None]
        dtype = arrays[-1].dtype if arrays else node.dtype  # the first may be a condition
        args = []
        for a in node.args:
            fits = (
                is_number(a) and (isinstance(a, int) or floating[dtype]) and not into.keep_scalars
            )
            if fits:
                shape = node.shape if into.broadcast_scalars else ()
                args.append(self._number(a, dtype, shape, out.order if shape else None))
            else:
                args.append(self.operand(a))

        def leaf(place: Any) -> Any:
            if place is OUT:
                return out
            if isinstance(place, Ones):
                length = arrays[0].shape[place.axis]
                return self._number(1, dtype, (length, 1) if place.column else (length,))
            return argument(place, args, node)

        return filled(into.inplace if into.inplace and args[0] is out else form, leaf)

    # Memory.

    def _buffer(self, place: int, node: Node, into: OutTemplate) -> Buffer | None:
        """The memory for a result: its parameter's, an argument's, one that is free, a new one.

        What is given away has an array of its own, None, but where one was donated.
        """
        over = overwritable(node) if into.may_alias else []
        if not self.loop and id(node) in self.liveness.outputs:
            left = [a for a in over if id(a) in self.donated and self.liveness.left(a, node, place)]
            return self.values[id(left[0])].buffer if left else None
        target = self._targets.get(id(node))
        if target and self._may_overwrite(place, node, target):
            self._written.add(id(node))
            return target
        if id(node) in self.collected:
            return self.collected[id(node)]
        if id(node) in self._parts:
            return self._part(node)
        for a in over:
            buffer = self._given_up(place, node, a)
            if buffer is not None:
                return buffer
        return self._unused(node)

    def _unused(self, node: Node) -> Buffer:
        """Memory that is free, or new."""
        pool = self._free.get((node.shape, node.dtype, self._orders.get(id(node))))
        if pool:
            return pool.pop()
        return self._allocated(node, self.names.numbered("t"), self._orders.get(id(node)))

    def _given_up(self, place: int, node: Node, a: Node) -> Buffer | None:
        """The memory of an argument that is not needed after this call, if the result fits it."""
        value = self.values.get(id(a))
        buffer = value.buffer if value and value.whole else None
        if buffer is None or buffer.kept or buffer.order != self._orders.get(id(node)):
            return None
        alike = (a.shape, a.dtype) == (node.shape, node.dtype) and self.liveness.dies_at(a, place)
        return buffer if alike and self._alone(node, buffer) else None

    def _allocated(self, node: Node, name: str, order: Order = None) -> Buffer:
        shape = node.shape if order is None else tuple(node.shape[axis] for axis in order)
        array = self.lowering.empty(shape, dtype=node.dtype, device=self.backend.device)
        array = array if order is None else self._ordered(array, order)
        self.names.bound[name] = array
        return Buffer(name, tuple(array.shape), array.dtype, order=order)

    def _ordered(self, array: Any, order: tuple[int, ...]) -> Any:
        """An array with its axes in order, of one that has them as they lie in memory."""
        return self.graph.space.xp.permute_dims(array, tuple(map(order.index, range(len(order)))))

    def _alone(self, node: Node, buffer: Buffer) -> bool:
        """True if the call sees this memory only as it is, in no other shape or order."""
        found, sees = self.values.get, self.liveness.sees
        seen = [(each == id(a), found(each)) for a in node.parents for each in sees(a)]
        return all(itself and v.whole for itself, v in seen if v and v.buffer is buffer)

    def _may_overwrite(self, place: int, node: Node, buffer: Buffer) -> bool:
        """True if a kept input can be overwritten here: its old value is not read later."""
        inputs = self.graph.inputs
        old = next((i for i in inputs if self.values[id(i)].buffer is buffer), None)
        if old is None:  # a place in a vector, which is not read before it is full
            return True
        read = any(id(old) in self.liveness.sees(a) for a in node.parents)
        return (
            (not read or elementwise(node) or any(a is old for a in overwritable(node)))
            and self.liveness.dies_at(old, place)
            and self._alone(node, buffer)
            and (old.shape, old.dtype) == (node.shape, node.dtype)
        )

    def _release(self, place: int, node: Node) -> None:
        """Free the memory whose value is not read any more."""
        done = set()
        mine = self.values.get(id(node))
        for a in [*node.parents, node]:
            value = self.values.get(id(a))
            buffer = value.buffer if value else None
            if buffer is None or buffer.kept or buffer in done:
                continue
            if mine and mine.buffer is buffer and not self.liveness.dies_at(node, place):
                continue
            if self.liveness.dies_at(a, place):
                done.add(buffer)
                key = buffer.shape, buffer.dtype, buffer.order
                self._free.setdefault(key, []).append(buffer)

    # Values that are joined.

    def _fits_in(self, node: Node, place: int) -> bool:
        """True if the value can be written where the call at this place joins it with others."""
        step = self.liveness.when[id(node)] is Stage.STEP
        whole = self.graph.nodes[place]
        inside = step and self.liveness.when[id(whole)] is Stage.STEP
        others = (*self.collected, *self.liveness.outputs, *self._targets)
        if not inside or id(node) in others or not self._is_joined_here(whole):
            return False
        written = elementwise(node) and self._into(node) is not None
        return written and self.liveness.last[id(node)] <= place

    def _is_joined_here(self, whole: Node) -> bool:
        """True if the memory of a joined value is known before the step."""
        return id(whole) not in self.liveness.outputs

    def _is_written(self, node: Node) -> bool:
        """True for the shape in which a value is joined that is in its place already."""
        whole, part = self._parts.get(id(node.args[0]), (None, None))
        if whole is None or part is None or part.value is not node:
            return False
        return self._users[id(node)] == [whole] and sum(a is node for a in whole.args) == 1

    def _part(self, node: Node) -> Buffer:
        """The place of a part in the memory of what it is joined to."""
        whole, part = self._parts[id(node)]
        if id(whole) not in self._wholes:
            self._wholes[id(whole)] = self.collected.get(id(whole)) or self._unused(whole)
        return self._place(self._wholes[id(whole)], part.key, node)

    def _place(self, memory: Buffer, key: Any, value: Node) -> Buffer:
        """The part of some memory that a value goes to."""
        place = Buffer(self.names.new(f"{memory.name}_1"), value.shape, value.dtype, kept=True)
        self._add(Stage.ONCE, Assign(place, Subscript(memory, key)))
        return place

    def _join(self, node: Node) -> None:
        """Copy the other parts to those that are in their places."""
        memory = self._wholes.pop(id(node))
        self.values[id(node)] = Value(memory, memory, order=memory.order)
        for part in self._joins[id(node)]:
            if self._parts.get(id(part.source), (None, None))[1] is not part:
                axis = len(part.key) - 2
                key = part.key
                if part.source is not part.value:
                    key = (*key[:axis], slice(key[axis], key[axis] + 1), ...)
                out = self._place(memory, key, part.value)
                self._add(Stage.STEP, self.copied(self.operand(part.value), out, node))

    # The end of a step.

    def _finish(self) -> None:
        """What is collected goes to its place, then new values go where they are kept."""
        given = {id(o): o for o in self.graph.outputs if id(o) in self.collected}
        for key, value in given.items() if self.lowering else ():
            if (source := self.operand(value)) is not self.collected[key]:
                self._add(Stage.STEP, self.copied(source, self.collected[key]))
        late = [n for n in self.graph.inputs if id(n) in self.kept and not self._done(n)]
        if not late:
            return
        targets = [self.values[id(n)].variable for n in late]
        sources = [self.operand(self.kept[id(n)]) for n in late]
        if not self.lowering:
            left, right = Tuple(targets, bare=True), Tuple(sources, bare=True)
            one = Assign(targets[0], sources[0])
            self._add(Stage.STEP, Assign(left, right) if len(late) > 1 else one)
            return
        # They may be the memory of old ones: views, and what a branch gives of its arguments.
        seen = {each for n in late for each in self.liveness.sees(self.kept[id(n)])}
        if any(id(n) in seen for n in late):
            asarray = self.names.bind("asarray", self.graph.space.xp.asarray)
            for i, source in enumerate(sources):
                sources[i] = Variable(self.names.new("kept"))
                self._add(Stage.STEP, Assign(sources[i], Call(asarray, source, copy=True)))
        for out, source in zip(targets, sources, strict=True):
            self._add(Stage.STEP, self.copied(source, out))

    def _done(self, node: Input) -> bool:
        new, mine = self.kept[id(node)], self.values[id(node)].buffer
        written = id(new) in self._written and self._targets[id(new)] is mine
        return new is node or written or id(new) in self.counters
