"""The renderer of CUDA C: a function that the threads of one block carry out.

Every thread has variables of its own; what is outside of an index space is done by all of them. No
result depends on which thread comes first: sums go over the threads in the order of a tree.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from tinynn.compiler.codegen.language import (
    BYTES,
    INDEX,
    Accumulate,
    Apply,
    Assign,
    Barrier,
    Cast,
    Combine,
    Comment,
    Constant,
    Expression,
    Function,
    Gemm,
    If,
    Load,
    Loop,
    Parallel,
    Select,
    Statement,
    Store,
    Variable,
    is_float,
    is_integer,
    room,
    walk,
)
from tinynn.compiler.codegen.operations import OPERATIONS, REDUCTIONS, limits, taken_in
from tinynn.compiler.codegen.renderers.parts import index_text

_TYPES = {
    "bool": "bool",
    "float32": "float",
    "float64": "double",
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
    INDEX: "long long",
}
_SPECIAL = {
    ("float32", math.inf): "__int_as_float(0x7f800000)",
    ("float32", -math.inf): "__int_as_float(0xff800000)",
    ("float64", math.inf): "__longlong_as_double(0x7ff0000000000000LL)",
    ("float64", -math.inf): "__longlong_as_double(0xfff0000000000000LL)",
}
_NAN = {
    "float32": "__int_as_float(0x7fc00000)",
    "float64": "__longlong_as_double(0x7ff8000000000000LL)",
}
_WORDS = """alignas alignof asm auto bool case catch char class const constexpr continue decltype
default delete do double else enum explicit export extern false float for friend goto inline int
long mutable namespace new noexcept nullptr operator private protected public register
reinterpret_cast short signed sizeof static static_assert static_cast struct switch template this
throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t
EOF INFINITY NAN NULL RAND_MAX assert blockDim blockIdx gridDim threadIdx warpSize
combined floor_divide floor_mod memory point power"""
# Given to a kernel of many networks: which they are, and how many elements lie between theirs.
_OF_NETWORKS = ("networks", "apart")
#: Names that mean something in a kernel's source.
RESERVED = {*_WORDS.split(), *_OF_NETWORKS}
RESERVED |= {f"{name}_of_{dtype}" for name in REDUCTIONS for dtype in BYTES}
# Each thread's number is put down, and halves of them are taken into the others.
_COMBINED = """\
__device__ {t} {name}({t} mine, void* room) {{
  {t}* const held = ({t}*)room;
  held[threadIdx.x] = mine;
  __syncthreads();
  for (int half = {half}; half > 0; half /= 2) {{
    if (threadIdx.x < half) {{
      const {t} x = held[threadIdx.x], y = held[threadIdx.x + half];
      held[threadIdx.x] = {joined};
    }}
    __syncthreads();
  }}
  mine = held[0];
  __syncthreads();
  return mine;
}}"""


def render(function: Function) -> str:
    """The source of a function of one block of threads."""
    return "\n".join(_Renderer(function).lines()) + "\n"


def element(body: Sequence[Statement], known: Sequence[Variable]) -> tuple[str, str]:
    """The text of what a kernel does with one element, and that of the functions it calls.

    Parameters
    ----------
    body
        Assignments to variables.
    known
        Those that are declared elsewhere: the kernel's operands and results.
    """
    renderer = _Renderer(Function("element", tuple(known), (), (), tuple(body)))
    return "\n".join(renderer.block(body, 0)), "\n".join(renderer.helpers)


class _Renderer:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.helpers: dict[str, None] = {}  # functions that the kernel calls, in order
        self.declared: list[set[Variable]] = [set(function.numbers)]

    def lines(self) -> Iterator[str]:
        function = self.function
        given = [f"const long long {number.name}" for number in function.numbers]
        if function.networks:
            given += [f"const long long* __restrict__ {name}" for name in _OF_NETWORKS]
        given += [f"{_TYPES[b.dtype]}* __restrict__ {b.name}" for b in function.arguments]
        head = f'extern "C" __global__ void __launch_bounds__({function.threads})'
        block = list(self.block(function.body, 1))
        body = [*self._memory(), *block]
        yield from self.helpers
        yield head
        yield f"{function.name}({', '.join(given)}) {{"
        yield from body
        yield "}"

    def _memory(self) -> Iterator[str]:
        """The memory of this block's network; and what threads share: that of reductions, and the
        rest in one piece.
        """
        if self.function.networks:
            for i, each in enumerate(self.function.arguments):
                yield f"  {each.name} += networks[blockIdx.x] * apart[{i}];"
        if any(isinstance(each, Combine) for each in walk(self.function.body)):
            yield f"  __shared__ double combined[{self.function.threads}];"
        if self.function.shared:
            yield "  extern __shared__ double memory[];"
        start = 0
        for each in self.function.shared:
            kind = _TYPES[each.dtype]
            yield f"  {kind}* const {each.name} = ({kind}*)((char*)memory + {start});"
            start += room(each)

    # Statements.

    def block(self, statements: Iterable[Statement], depth: int) -> Iterator[str]:
        self.declared.append(set())
        for each in statements:
            yield from ("  " * depth + line for line in self._lines(each))
        self.declared.pop()

    def _lines(self, statement: Statement) -> Iterator[str]:
        match statement:
            case Comment(text):
                yield "// " + text.rstrip("\\")  # which would go on with the next line
            case Barrier():
                yield "__syncthreads();"
            case Loop(variable, start, stop, step, body, going):
                short = isinstance(stop, int) and stop + step < 2**31
                kind = "int" if short else "long long"
                end = stop.name if isinstance(stop, Variable) else stop
                test = f" && {going.name}" if going is not None else ""
                more = f"++{variable.name}" if step == 1 else f"{variable.name} += {step}"
                name = variable.name
                yield f"for ({kind} {name} = {start}; {name} < {end}{test}; {more}) {{"
                yield from self.block(body, 1)
                yield "}"
            case If(condition, then, otherwise):
                yield f"if ({self._text(condition)}) {{"
                yield from self.block(then, 1)
                if otherwise:
                    yield "} else {"
                    yield from self.block(otherwise, 1)
                yield "}"
            case Parallel(axes, body):
                yield from self._points(axes)
                yield from self.block(body, 1)
                yield "}"
            case Combine(variable, reduction):
                name = self._combined(reduction, variable.dtype)
                yield f"{variable.name} = {name}({variable.name}, combined);"
            case Assign(variable, value):
                known = any(variable in block for block in self.declared)
                self.declared[-1].add(variable)
                kind = "" if known else f"{_TYPES[variable.dtype]} "
                yield f"{kind}{variable.name} = {self._text(value)};"
            case Store(place, value):
                yield f"{self._text(place)} = {self._text(value)};"
            case Accumulate(place, reduction, value):
                yield f"{self._text(place)} = {self._text(_taken(place, reduction, value))};"
            case Gemm():
                raise TypeError("a kernel of CUDA C calls no library")

    def _points(self, axes: tuple[tuple[Variable, int], ...]) -> Iterator[str]:
        """The head of a loop over the points that are this thread's."""
        threads = self.function.threads
        if not axes:
            yield "if (threadIdx.x == 0) {"
            return
        count = math.prod(n for _, n in axes)
        point = axes[0][0].name if len(axes) == 1 else "point"
        yield f"for (int {point} = threadIdx.x; {point} < {count}; {point} += {threads}) {{"
        if len(axes) > 1:
            places, after = [], 1
            for variable, n in reversed(axes):
                quotient = "point" if after == 1 else f"point / {after}"
                after *= n
                rest = "0" if n == 1 else quotient if after == count else f"{quotient} % {n}"
                places.append(f"{variable.name} = {rest}")
            yield f"  const int {', '.join(reversed(places))};"

    def _combined(self, reduction: str, dtype: str) -> str:
        """The name of the function that reduces what the threads hold."""
        name = f"{reduction}_of_{dtype}"
        x, y = Variable("x", dtype), Variable("y", dtype)
        joined = self._text(taken_in(reduction, y, x))
        helper = _COMBINED.format(
            t=_TYPES[dtype], name=name, half=self.function.threads // 2, joined=joined
        )
        self.helpers[helper] = None
        return name

    # Expressions.

    def _text(self, value: Expression) -> str:
        match value:
            case Variable(name):
                return name
            case Constant(number, dtype):
                return _number(number, dtype)
            case Load(buffer, index):
                return f"{buffer.name}[{index_text(index)}]"
            case Cast(inside, dtype):
                return f"({_TYPES[dtype]}){self._inner(inside)}"
            case Select(condition, yes, no):
                return f"{self._inner(condition)} ? {self._inner(yes)} : {self._inner(no)}"
            case Apply():
                return self._applied(value)

    def _applied(self, value: Apply) -> str:
        row = OPERATIONS[value.operation]
        if row.helper:
            self.helpers[row.helper] = None
        args = list(map(self._text if row.call else self._inner, value.args))
        dtype = value.dtype
        # Signed integers that overflow are undefined in C, unsigned ones wrap around. Those that
        # are shorter than an int are ints in C's arithmetic.
        if row.wraps and is_integer(dtype):
            wide = _TYPES["uint64" if dtype.endswith("64") else "uint32"]
            args = [f"({wide}){each}" for each in args]
        text = row.cuda.format(*args)
        return f"({_TYPES[dtype]})({text})" if is_integer(dtype) else text

    def _inner(self, value: Expression) -> str:
        """The text of an argument."""
        text = self._text(value)
        if isinstance(value, Apply):
            atom = OPERATIONS[value.operation].call
        else:
            atom = isinstance(value, Variable | Load | Constant)
        return text if atom else f"({text})"


def _taken(place: Variable | Load, reduction: str, value: Expression) -> Expression:
    if reduction == "sum":
        return Apply("add", (place, value), place.dtype)
    return taken_in(reduction, place, value)


def _number(value: bool | int | float, dtype: str) -> str:
    if dtype == "bool":
        return "true" if value else "false"
    if is_float(dtype):
        if value != value:
            return _NAN[dtype]
        if (dtype, value) in _SPECIAL:
            return _SPECIAL[dtype, float(value)]
        return f"{value!r}" if dtype == "float64" else f"float({value!r})"
    if dtype == INDEX or dtype == "int32":
        return f"({value})" if value < 0 else str(value)
    if value == limits(dtype)[0] and value:  # -9223372036854775808 is no literal in C
        return f"({_TYPES[dtype]})({value + 1} - 1)" if dtype != "int64" else f"({value + 1}LL - 1)"
    suffix = {"int64": "LL", "uint64": "ULL", "uint32": "U"}.get(dtype, "")
    text = f"{value}{suffix}"
    return f"({_TYPES[dtype]})({text})" if not suffix else f"({text})"
