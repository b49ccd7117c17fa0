"""The renderer of LLVM's intermediate representation: a function of numbers and pointers.

One thread carries it out. Every variable has a place on the stack, which LLVM makes registers of;
so has memory that does not outlive a call, of which nothing then has to be written back.
Sums of floats may be put in another order where an `Accumulate` says so, and nowhere else.

The functions that the text may call without defining them are said with
`backends.lowering.LoopCompiler`. Source of the language: https://llvm.org/docs/LangRef.html.
"""

import math
import struct
from collections.abc import Iterable

from tinynn.compiler.codegen.language import (
    BYTES,
    INDEX,
    Accumulate,
    Apply,
    Assign,
    Buffer,
    Cast,
    Comment,
    Constant,
    Expression,
    Function,
    Gemm,
    If,
    Index,
    Load,
    Loop,
    Matrix,
    Select,
    Statement,
    Store,
    Variable,
    is_float,
    walk,
)
from tinynn.compiler.codegen.operations import OPERATIONS, taken_in

_TYPES = {"bool": "i1", INDEX: "i64", "float32": "float", "float64": "double"} | {
    dtype: f"i{8 * size}" for dtype, size in BYTES.items() if "int" in dtype
}
_IN_ANY_ORDER = "contract nsz reassoc"


def render(function: Function) -> str:
    """The text of a function of one thread."""
    return _Renderer(function).text()


class _Renderer:
    """Writes instructions in order; each value has a name that is written once."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self._lines: list[str] = []
        self._count = self._hints = 0
        self._block = "entry"
        self._places: dict[Variable, str] = {}  # on the stack
        self._running = {number: f"%{number.name}" for number in function.numbers}  # of loops
        self._called: dict[str, None] = {}  # declarations, in order

    def text(self) -> str:
        function = self.function
        self._statements(function.body)
        given = [f"i64 %{number.name}" for number in function.numbers]
        given += [f"ptr noalias %{buffer.name}" for buffer in function.arguments]
        stack = [f"  {p} = alloca {_TYPES[v.dtype]}" for v, p in self._places.items()]
        stack += [
            f"  %{b.name} = alloca [{b.size} x {_in_memory(b)}], align 32" for b in function.shared
        ]
        head = f"define void @{function.name}({', '.join(given)}) {{"
        lines = [*self._called, head, "entry:", *stack, *self._lines, "  ret void", "}"]
        # Hints for loops; source: https://llvm.org/docs/LangRef.html#llvm-loop.
        lines.append('!0 = !{!"llvm.loop.vectorize.enable", i1 false}')
        lines += [f"!{n} = distinct !{{!{n}, !0}}" for n in range(1, self._hints + 1)]
        return "\n".join(lines) + "\n"

    def _new(self) -> str:
        self._count += 1
        return f"%.{self._count}"

    def _label(self) -> str:
        self._count += 1
        return f"b{self._count}"

    def _start(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._block = label

    def _do(self, text: str) -> None:
        self._lines.append(f"  {text}")

    def _put(self, text: str) -> str:
        """The name of what an instruction gives."""
        name = self._new()
        self._lines.append(f"  {name} = {text}")
        return name

    # Statements.

    def _statements(self, statements: Iterable[Statement]) -> None:
        for each in statements:
            self._statement(each)

    def _statement(self, statement: Statement) -> None:
        match statement:
            case Comment(text):
                self._do(f"; {text}")
            case Assign(variable, value):
                self._store(variable, self._value(value))
            case Store(place, value):
                self._store(place, self._value(value))
            case Accumulate(place, reduction, value):
                self._store(place, self._accumulated(place, reduction, value))
            case Loop():
                self._loop(statement)
            case If(condition, then, otherwise):
                self._if(self._value(condition), then, otherwise)
            case Gemm():
                self._gemm(statement)
            case _:
                kind = type(statement).__name__
                raise TypeError(f"{kind} is for functions of several threads")

    def _loop(self, loop: Loop) -> None:
        before, head, body, end = self._block, self._label(), self._label(), self._label()
        stop = self._variable(loop.stop) if isinstance(loop.stop, Variable) else loop.stop
        place, following = self._new(), self._new()
        self._do(f"br label %{head}")
        self._start(head)
        # The block that the loop comes back from is known when its body is written.
        phi = len(self._lines)
        self._do("")
        more = self._put(f"icmp {'slt' if loop.step > 0 else 'sgt'} i64 {place}, {stop}")
        if loop.going is not None:
            more = self._put(f"and i1 {more}, {self._variable(loop.going)}")
        self._do(f"br i1 {more}, label %{body}, label %{end}")
        self._start(body)
        outside = self._running.get(loop.variable)
        self._running[loop.variable] = place
        self._statements(loop.body)
        if outside is not None:
            self._running[loop.variable] = outside
        else:
            del self._running[loop.variable]
        self._do(f"{following} = add nsw i64 {place}, {loop.step}")
        self._do(f"br label %{head}{self._hint(loop)}")
        sources = f"[ {loop.start}, %{before} ], [ {following}, %{self._block} ]"
        self._lines[phi] = f"  {place} = phi i64 {sources}"
        self._start(end)

    def _hint(self, loop: Loop) -> str:
        """For a loop around others: it is not vectorized, though they be unrolled.

        From one of its steps to the next, elements are no neighbours: it would gather them.
        """
        if not any(isinstance(each, Loop) for each in walk(loop.body)):
            return ""
        self._hints += 1
        return f", !llvm.loop !{self._hints}"

    def _if(self, condition: str, *branches: tuple[Statement, ...]) -> None:
        labels, end = [self._label(), self._label()], self._label()
        self._do(f"br i1 {condition}, label %{labels[0]}, label %{labels[1]}")
        for label, branch in zip(labels, branches, strict=True):
            self._start(label)
            self._statements(branch)
            self._do(f"br label %{end}")
        self._start(end)

    def _accumulated(self, place: Variable | Load, reduction: str, value: Expression) -> str:
        if reduction != "sum" or not is_float(place.dtype):
            return self._value(taken_in(reduction, place, value))
        held, kind = self._value(place), f"{_IN_ANY_ORDER} {_TYPES[place.dtype]}"
        if isinstance(value, Apply) and value.operation == "multiply":
            x, y = map(self._value, value.args)
            return self._put(f"fadd {kind} {held}, {self._put(f'fmul {kind} {x}, {y}')}")
        return self._put(f"fadd {kind} {held}, {self._value(value)}")

    def _gemm(self, gemm: Gemm) -> None:
        def matrix(each: Matrix) -> list[str]:
            given = self._index(each.start), int(each.transposed), each.step
            return [f"ptr %{each.buffer.name}", *[f"i64 {number}" for number in given]]

        sizes = [f"i64 {n}" for n in (gemm.rows, gemm.columns, gemm.length)]
        left, right, out = map(matrix, (gemm.left, gemm.right, gemm.out))
        name = f"product_{gemm.out.buffer.dtype}"
        self._do(self._call(name, "void", [*sizes, *left, *right, *out]))

    # Memory.

    def _store(self, place: Variable | Load, value: str) -> None:
        if isinstance(place, Variable):
            kind = _TYPES[place.dtype]
            self._do(f"store {kind} {value}, ptr {self._place(place)}")
            return
        kind = _in_memory(place.buffer)
        if kind != _TYPES[place.dtype]:
            value = self._put(f"zext i1 {value} to {kind}")
        self._do(f"store {kind} {value}, ptr {self._address(place)}")

    def _place(self, variable: Variable) -> str:
        if variable not in self._places:
            self._places[variable] = f"%.{variable.name}.{variable.dtype}"
        return self._places[variable]

    def _address(self, place: Load) -> str:
        kind, buffer = _in_memory(place.buffer), place.buffer
        index = self._index(place.index)
        return self._put(f"getelementptr inbounds {kind}, ptr %{buffer.name}, i64 {index}")

    def _index(self, index: Index) -> str:
        total = ""
        for variable, factor in index.terms:
            term = self._variable(variable)
            term = term if factor == 1 else self._put(f"mul nsw i64 {term}, {factor}")
            total = self._put(f"add nsw i64 {total}, {term}") if total else term
        if not total:
            return str(index.offset)
        return self._put(f"add nsw i64 {total}, {index.offset}") if index.offset else total

    # Expressions.

    def _value(self, value: Expression) -> str:
        match value:
            case Variable():
                return self._variable(value)
            case Constant(number, dtype):
                return _number(number, dtype)
            case Load(buffer):
                kind = _in_memory(buffer)
                held = self._put(f"load {kind}, ptr {self._address(value)}")
                # In memory a boolean is a byte.
                return self._put(f"icmp ne i8 {held}, 0") if buffer.dtype == "bool" else held
            case Cast(inside, dtype):
                return self._cast(self._value(inside), inside.dtype, dtype)
            case Select(condition, yes, no):
                kind = _TYPES[value.dtype]
                test, one, other = map(self._value, (condition, yes, no))
                return self._put(f"select i1 {test}, {kind} {one}, {kind} {other}")
            case Apply():
                return self._applied(value)

    def _variable(self, variable: Variable) -> str:
        if variable in self._running:
            return self._running[variable]
        return self._put(f"load {_TYPES[variable.dtype]}, ptr {self._place(variable)}")

    def _cast(self, value: str, given: str, wanted: str) -> str:
        before, after = _TYPES[given], _TYPES[wanted]
        if wanted == "bool" and given != "bool":
            test = "fcmp une" if is_float(given) else "icmp ne"
            return self._put(f"{test} {before} {value}, {_number(0, given)}")
        if is_float(given) and is_float(wanted):
            name = "fpext" if wanted == "float64" else "fptrunc"
        elif is_float(given):
            return self._whole(value, before, after, _signed(wanted))
        elif is_float(wanted):
            name = "sitofp" if _signed(given) else "uitofp"
        else:
            wider = "sext" if _signed(given) else "zext"
            name = wider if int(after[1:]) > int(before[1:]) else "trunc"
        return value if before == after else self._put(f"{name} {before} {value} to {after}")

    def _whole(self, value: str, before: str, after: str, signed: bool) -> str:
        """A float as an integer; where that has no sign, a negative one wraps around."""
        if signed:
            return self._put(f"fptosi {before} {value} to {after}")
        below = self._put(f"fptosi {before} {value} to i64")
        if after != "i64":
            return self._put(f"trunc i64 {below} to {after}")
        negative = self._put(f"fcmp olt {before} {value}, {_number(0, 'float64')}")
        above = self._put(f"fptoui {before} {value} to i64")
        return self._put(f"select i1 {negative}, i64 {below}, i64 {above}")

    def _applied(self, value: Apply) -> str:
        row = OPERATIONS[value.operation]
        dtype = value.args[0].dtype
        kind, args = _TYPES[dtype], list(map(self._value, value.args))
        form = row.in_llvm(dtype)
        if form.startswith("@"):
            given = [f"{kind} {each}" for each in args]
            return self._put(self._call(form[1:], _TYPES[value.dtype], given))
        # Places in memory do not overflow, which LLVM has to be told to see where a loop goes.
        kind = f"nsw {kind}" if value.dtype == INDEX else kind
        return self._put(form.format(*args, t=kind))

    def _call(self, name: str, result: str, args: list[str]) -> str:
        """The text of a call, whose function is declared."""
        kinds = ", ".join(arg.split()[0] for arg in args)
        self._called[f"declare {result} @{name}({kinds})"] = None
        return f"call {result} @{name}({', '.join(args)})"


def _signed(dtype: str) -> bool:
    return dtype == INDEX or dtype.startswith("int")


def _in_memory(buffer: Buffer) -> str:
    return "i8" if buffer.dtype == "bool" else _TYPES[buffer.dtype]


def _number(value: bool | int | float, dtype: str) -> str:
    """The text of a number: of a float its bits, as those of float64."""
    if dtype == "bool":
        return "true" if value else "false"
    if not is_float(dtype):
        return str(value)
    if dtype == "float32" and math.isfinite(value):
        value = _single(value)
    return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"


def _single(value: float) -> float:
    """The nearest number of float32."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
