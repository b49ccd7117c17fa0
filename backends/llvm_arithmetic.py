"""Arithmetic that writes instructions of LLVM: what Python's operators do here, a kernel will do.

A function of `Number`s becomes one of numbers of the machine. It may not branch, so that a loop
that calls it is vectorized; `where` takes the place of `if`.
"""

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any, TypeAlias

import llvmlite.binding as llvm
from llvmlite import ir

Real: TypeAlias = "Number | float"

_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()
_CONTRACT = ("contract",)


class Number:
    """A number of the machine: float32, float64, an integer of as many bits, or a boolean.

    Python's numbers become constants of the other operand's type. Comparisons with NaN are false,
    but for `!=`, which is true.
    """

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    __hash__ = None  # type: ignore[assignment]

    @property
    def type(self) -> Any:
        return self.value.type

    @property
    def short(self) -> bool:
        """Of 32 bits."""
        return self.type in (_FLOAT, ir.IntType(32))

    @property
    def real(self) -> bool:
        return self.type in (_FLOAT, _DOUBLE)

    def like(self, value: Any) -> "Number":
        """A constant of this type; a Number as it is."""
        if isinstance(value, Number):
            return value
        return Number(self.builder, ir.Constant(self.type, value))

    def _new(self, value: Any) -> "Number":
        return Number(self.builder, value)

    def _both(self, name: str, other: Any, turned: bool = False) -> "Number":
        pair = self.value, self.like(other).value
        instruction = getattr(self.builder, f"f{name}" if self.real else name)
        return self._new(instruction(*reversed(pair) if turned else pair))

    def __add__(self, other: Any) -> "Number":
        return self._both("add", other)

    def __radd__(self, other: Any) -> "Number":
        return self._both("add", other)

    def __sub__(self, other: Any) -> "Number":
        return self._both("sub", other)

    def __rsub__(self, other: Any) -> "Number":
        return self._both("sub", other, turned=True)

    def __mul__(self, other: Any) -> "Number":
        return self._both("mul", other)

    def __rmul__(self, other: Any) -> "Number":
        return self._both("mul", other)

    def __truediv__(self, other: Any) -> "Number":
        return self._both("div", other)

    def __rtruediv__(self, other: Any) -> "Number":
        return self._both("div", other, turned=True)

    def __neg__(self) -> "Number":
        return self._new(self.builder.fneg(self.value))

    def _compared(self, sign: str, other: Any) -> "Number":
        pair = self.value, self.like(other).value
        if not self.real:
            return self._new(self.builder.icmp_signed(sign, *pair))
        order = self.builder.fcmp_unordered if sign == "!=" else self.builder.fcmp_ordered
        return self._new(order(sign, *pair))

    def __lt__(self, other: Any) -> "Number":
        return self._compared("<", other)

    def __le__(self, other: Any) -> "Number":
        return self._compared("<=", other)

    def __gt__(self, other: Any) -> "Number":
        return self._compared(">", other)

    def __ge__(self, other: Any) -> "Number":
        return self._compared(">=", other)

    def __eq__(self, other: Any) -> "Number":  # type: ignore[override]
        return self._compared("==", other)

    def __ne__(self, other: Any) -> "Number":  # type: ignore[override]
        return self._compared("!=", other)

    # Bits.

    def __and__(self, other: Any) -> "Number":
        return self._new(self.builder.and_(self.value, self.like(other).value))

    def __or__(self, other: Any) -> "Number":
        return self._new(self.builder.or_(self.value, self.like(other).value))

    def __xor__(self, other: Any) -> "Number":
        return self._new(self.builder.xor(self.value, self.like(other).value))

    def below(self, other: int) -> "Number":
        """True if it is less, where both are integers without a sign."""
        return self._new(self.builder.icmp_unsigned("<", self.value, self.like(other).value))

    def __lshift__(self, count: int) -> "Number":
        return self._new(self.builder.shl(self.value, self.like(count).value))

    def __rshift__(self, count: int) -> "Number":
        """With zeros from the left."""
        return self._new(self.builder.lshr(self.value, self.like(count).value))

    def down(self, count: int) -> "Number":
        """Shifted right, with copies of the sign from the left."""
        return self._new(self.builder.ashr(self.value, self.like(count).value))

    @property
    def as_real(self) -> "Number":
        """The real number that an integer is."""
        return self._new(self.builder.sitofp(self.value, _FLOAT if self.short else _DOUBLE))

    @property
    def bits(self) -> "Number":
        """The integer of the same bits."""
        return self._new(self.builder.bitcast(self.value, ir.IntType(32 if self.short else 64)))

    @property
    def from_bits(self) -> "Number":
        """The real number of the same bits."""
        return self._new(self.builder.bitcast(self.value, _FLOAT if self.short else _DOUBLE))

    # Functions that are instructions.

    def call(self, name: str, *others: Any) -> "Number":
        """An intrinsic of LLVM of arguments of this type."""
        args = [self.value, *[self.like(each).value for each in others]]
        kind = ir.FunctionType(self.type, [self.type] * len(args))
        function = self.builder.module.declare_intrinsic(f"llvm.{name}", [self.type], kind)
        return self._new(self.builder.call(function, args))

    def __abs__(self) -> "Number":
        return self.call("fabs")

    def sqrt(self) -> "Number":
        """The square root, rounded once."""
        return self.call("sqrt")

    def sign_of(self, other: "Number") -> "Number":
        """This number with the sign of another."""
        return self.call("copysign", other)

    def known(self) -> "Number":
        """True if it turns out to be a constant when a loop is compiled."""
        kind = ir.FunctionType(ir.IntType(1), [self.type])
        function = self.builder.module.declare_intrinsic("llvm.is.constant", [self.type], kind)
        return self._new(self.builder.call(function, [self.value]))

    def double(self) -> "Number":
        """The same number in float64."""
        return self._new(self.builder.fpext(self.value, _DOUBLE))

    def single(self) -> "Number":
        """The nearest number of float32."""
        return self._new(self.builder.fptrunc(self.value, _FLOAT))


def where(condition: Number, yes: Real, no: Real) -> Number:
    """One of two numbers."""
    one = yes if isinstance(yes, Number) else no
    assert isinstance(one, Number)
    pair = one.like(yes).value, one.like(no).value
    return Number(condition.builder, condition.builder.select(condition.value, *pair))


def near_fma(a: Number, b: Real, c: Real) -> Number:
    """a * b + c, rounded once or twice, as is quicker."""
    builder = a.builder
    product = builder.fmul(a.value, a.like(b).value, flags=_CONTRACT)
    return Number(builder, builder.fadd(product, a.like(c).value, flags=_CONTRACT))


def fma(a: Number, b: Real, c: Real) -> Number:
    """a * b + c, rounded once; without such an instruction, nearly so.

    Products are split then as by T. J. Dekker, Numerische Mathematik 18 (1971), 224-242.
    """
    b, c = a.like(b), a.like(c)
    if _has_fma():
        return a.call("fma", b, c)
    product, rest = product_of(a, b)
    total, lost = sum_of(product, c)
    return total + (lost + rest)


@cache
def _has_fma() -> bool:
    features = llvm.get_host_cpu_features()
    return bool(features.get("fma", "x86" not in llvm.get_process_triple()))


def product_of(a: Number, b: Real) -> tuple[Number, Number]:
    """a * b as the sum of two numbers, exactly."""
    b = a.like(b)
    product = a * b
    if _has_fma():
        return product, fma(a, b, -product)
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(x: Number) -> tuple[Number, Number]:
    large = x * (4097.0 if x.short else 134217729.0)
    high = large - (large - x)
    return high, x - high


def sum_of(a: Number, b: Real) -> tuple[Number, Number]:
    """a + b as the sum of two numbers, exactly (D. E. Knuth's TwoSum)."""
    b = a.like(b)
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def ordered_sum(a: Number, b: Real) -> tuple[Number, Number]:
    """As `sum_of`, for |a| >= |b|, or a = 0."""
    total = a + b
    return total, b - (total - a)


def poly(x: Number, *coefficients: float) -> Number:
    """A polynomial, its highest coefficient first.

    In pairs of terms, and pairs of these, none of which waits for another. Source: G. Estrin,
    Organization of Computer Systems: The Fixed Plus Variable Structure Computer, 1960.
    """
    terms = [x.like(each) for each in reversed(coefficients)]
    while len(terms) > 1:
        alone = terms[len(terms) // 2 * 2 :]
        pairs = zip(terms[::2], terms[1::2], strict=False)
        terms = [near_fma(high, x, low) for low, high in pairs] + alone
        x = x * x
    return terms[0]


def bounded(x: Number, low: float, high: float) -> Number:
    """x between two bounds; NaN stays."""
    x = where(x > high, high, x)
    return where(x < low, low, x)


def integer(x: Number, factor: float, offset: int = 0) -> tuple[Number, Number]:
    """n, the integer nearest to x * factor, and an integer whose last bits are n + offset."""
    shift = (12582912.0 if x.short else 6755399441055744.0) + offset  # 1.5 times 2**23 and 2**52
    large = near_fma(x, factor, shift)
    return large - shift, large.bits


def rarely(condition: Number, name: str, otherwise: Number, *args: Number) -> Number:
    """`otherwise`, or, where the condition holds, what the C library gives for the arguments.

    It should hold seldom. A loop stays vectorized: where it does hold for one of a vector's
    numbers, the library is asked for each of those.
    """
    builder = otherwise.builder
    start, end = builder.block, builder.append_basic_block()
    with builder.goto_block(builder.append_basic_block()):
        far = builder.block
        function = _of_c(builder.module, name, otherwise.type, len(args))
        # All is computed before the branch: what lives across it would have to be put in memory.
        value = builder.call(function, [otherwise.value, *[each.value for each in args]])
        builder.branch(end)
    branch = builder.cbranch(condition.value, far, end)
    branch.set_weights([1, 2**20])
    builder.position_at_end(end)
    result = builder.phi(otherwise.type)
    result.add_incoming(otherwise.value, start)
    result.add_incoming(value, far)
    return Number(builder, result)


def _of_c(module: Any, name: str, kind: Any, arity: int) -> Any:
    """The C library's function, behind one that the vectorizer accepts.

    Its first argument is what is wanted where it is not called. The vectorizer accepts a call for
    which there is a function of vectors, by the rules of the Vector Function ABI; those of ours
    take the numbers one by one, where they are wanted.
    """
    name = name + "f" * (kind == _FLOAT)
    ours = f"{VECTORS}{name}_of_c"
    if ours in module.globals:
        return module.globals[ours]
    given = ir.FunctionType(kind, [kind] * arity)
    theirs = module.globals.get(name) or ir.Function(module, given, name)
    wanted = ir.FunctionType(kind, [kind] * (arity + 1))
    function = _quiet(module, wanted, ours, "noinline")
    function.linkage = "weak"  # or LLVM would see that it does not read its first argument
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(builder.call(theirs, function.args[1:]))
    vectors = {count: _vector_of_c(function, count) for count in (2, 4, 8, 16)}
    kinds = "v" * (arity + 1)
    variants = [f"_ZGV_LLVM_M{n}{kinds}_{ours}({each.name})" for n, each in vectors.items()]
    set.add(function.attributes, f'"vector-function-abi-variant"="{",".join(variants)}"')
    return function


def _vector_of_c(one: Any, count: int) -> Any:
    """A function of so many numbers, of which those are wanted that a mask names.

    It is to be put in where it is called: no call is made where nothing is wanted.
    """
    numbers, mask = ir.VectorType(one.args[0].type, count), ir.VectorType(ir.IntType(1), count)
    wanted = ir.FunctionType(numbers, [numbers] * len(one.args) + [mask])
    each = _quiet(one.module, wanted, f"{one.name}_each_{count}", "noinline")
    builder, result = ir.IRBuilder(each.append_basic_block()), each.args[0]
    *arrays, asked = each.args
    for place in range(count):
        index = ir.Constant(ir.IntType(32), place)
        before, old = builder.block, result
        with builder.if_then(builder.extract_element(asked, index)):
            value = builder.call(one, [builder.extract_element(x, index) for x in arrays])
            new = builder.insert_element(old, value, index)
            inside = builder.block
        result = builder.phi(numbers)
        result.add_incoming(old, before)
        result.add_incoming(new, inside)
    builder.ret(result)
    function = _quiet(one.module, wanted, f"{one.name}_{count}", "alwaysinline")
    function.linkage = "external"  # nothing calls it until loops are vectorized
    builder = ir.IRBuilder(function.append_basic_block())
    bits = builder.bitcast(function.args[-1], ir.IntType(count))
    start = builder.block
    with builder.if_then(builder.icmp_unsigned("!=", bits, bits.type(0)), likely=False):
        found, inside = builder.call(each, function.args), builder.block
    result = builder.phi(numbers)
    result.add_incoming(function.args[0], start)
    result.add_incoming(found, inside)
    builder.ret(result)
    return function


def _quiet(module: Any, kind: Any, name: str, inlined: str) -> Any:
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    for each in (inlined, "nounwind", "memory(none)", "willreturn"):
        set.add(function.attributes, each)  # its own `add` does not know them all
    return function


VECTORS = "tinynn_vectors_"


def define(module: Any, name: str, kind: Any, body: Callable[..., Number]) -> None:
    """A function of a module that computes `body`, to be put in wherever it is called."""
    count = len(signature(body).parameters)
    function = ir.Function(module, ir.FunctionType(kind, [kind] * count), name)
    function.attributes.add("alwaysinline")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(body(*[Number(builder, each) for each in function.args]).value)
