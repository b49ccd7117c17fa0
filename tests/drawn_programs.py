"""Drawn programs of every dtype and awkward values, whose every value is looked at.

Beside `programs`, whose programs are smooth and differentiated, these are for the compiler's
renderers: numbers of all dtypes, infinite, NaN, subnormal and at the ends of their range, views,
reductions, products, and scans, branches and loops in each other, some of them differentiated. One
program has so many lines that what a compiler takes to begin does not matter. What may be otherwise
by rounding decides nothing: comparisons and the like are of values that every engine has exactly.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tinynn

LINES = 60
STEPS = 2  # of the loop that a program is the step of
MOST = 48  # elements

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
UNSIGNED = ("uint16", "uint32", "uint64")  # which PyTorch has not

# {a} and {b} broadcast and have one dtype. Of floats, exactly known ones may be awkward;
# but nothing asks for the sign of a zero, which engines may choose in a maximum.
ONE = """
    sin({a}); cos({a}); tan({a}); tanh({a}); sinh({a}); cosh({a}); exp({a}); expm1({a}); log({a})
    log1p({a}); log2({a}); log10({a}); sqrt({a}); atan({a}); asinh({a}); acosh({a}); asin({a})
    acos({a}); atanh({a}); square({a}); reciprocal(abs({a})); pow({a}, 2.0); pow({a}, 3.0)
    pow(abs({a}), -1.0); pow(abs({a}), 0.5); pow(abs({a}), 1.5); clip({a}, -0.75, 1.5)
"""
TWO = """
    add({a}, {b}); subtract({a}, {b}); multiply({a}, {b}); divide({a}, abs({b})); hypot({a}, {b})
    atan2({a}, abs({b})); logaddexp({a}, {b}); pow(abs({a}), {b}); multiply({a}, sin({b}))
"""
# Where a rounding more or less is never seen much larger.
SMOOTH = """
    sin({a}); cos({a}); tanh({a}); sinh({a}); cosh({a}); exp({a}); expm1({a}); atan({a})
    asinh({a}); square({a}); add({a}, {b}); subtract({a}, {b}); multiply({a}, {b}); pow({a}, 3.0)
    clip({a}, -0.75, 1.5); logaddexp({a}, {b}); hypot({a}, 1 + {b} * {b}); log1p({a} * {a})
"""
# Every engine gives the same bits where it is given the same: floats, and integers too.
EXACT = """
    negative({a}); abs({a}); positive({a}); maximum({a}, {b}); minimum({a}, {b})
    where({a} > {b}, {a}, {b}); {a} < {b}; {a} >= {b}; {a} == {b}; {a} != {b}; isnan({a})
    isfinite({a}); isinf({a}); sign({a}); floor({a}); ceil({a}); trunc({a}); round({a})
    max({a}); min({a}, axis=0); max({a}, axis=-1, keepdims=True); any({a} > {b}); all({a} <= {b})
    astype({a} > 0, {a}.dtype); where(isfinite({a}), {a}, zeros_like({a}))
"""
WHOLE = """
    {a} + {b}; {a} - {b}; {a} * {b}; {a} & {b}; {a} | {b}; {a} ^ {b}; ~{a}; {a} << ({b} & 7)
    {a} >> ({b} & 7); floor_divide({a}, ({b} & 7) + 1); remainder({a}, ({b} & 7) + 1)
    pow({a}, {b} & 3); square({a}); sum({a}); sum({a}, axis=0); prod({a}, axis=-1); matmul({a}, {b})
    astype({a}, float32); astype({a}, float64); astype({a}, int32); astype({a}, int64)
    astype({a}, int8); astype({a}, uint8); astype({a}, bool)
    scan(lambda c, x: (c * 3 + x, c - x), {a}[0, ...], {a})[0]
    scan(lambda c, x: (c ^ x, c + 1), {a}[-1, ...], {a}, reverse=True)[1]
    while_loop(lambda c: sum(c[1]) < 5, lambda c: (c[0] * 3 + {b}, c[1] + 1), \
({a} ^ {b}, sum({a}) & 3), 9)[0]
"""
TRUTHS = """
    logical_and({a}, {b}); logical_or({a}, {b}); logical_xor({a}, {b}); logical_not({a}); ~{a}
    any({a}); all({a}, axis=0); any({a}, axis=-1, keepdims=True); {a} == {b}; where({a}, {b}, ~{b})
    astype({a}, float32); astype({a}, int32); astype({a}, uint8); max(astype({a}, int8))
    scan(lambda c, x: (c ^ x, c & x), {a}[0, ...], {a})[1]
"""
VIEWS = """
    reshape({a}, (-1,)); {a}[::-1, ...]; {a}[..., ::2]; {a}[1:, ...]; {a}[0, ...]; {a}[..., -1]
    {a}[None, ...]; {a}[..., None]; concat([{a}, {a}]); concat([{a}[-1:, ...], {a}], axis=0)
    concat([{a}, {a}[..., :1]], axis=-1); broadcast_to({a}, (2, *{a}.shape)); {a}.mT
    permute_dims({a}, tuple(range({a}.ndim))[::-1]); take({a}, {i}, axis=0); matrix_transpose({a})
    expand_dims({a}, axis=0); moveaxis({a}, 0, -1); concat([{a}, {a}], axis=None)
"""
# Of small numbers.
SMALL = """
    sum({a}); sum({a}, axis=0); sum({a}, axis=-1, keepdims=True); mean({a}); mean({a}, axis=-1)
    prod(1 + 0.1 * {a}); matmul({a}, {b}); matmul({a}, {a}.mT); matmul({a}.mT, {a})
    var({a}, axis=0); std({a}); vecdot({a}, cos({a})); diff({a}, axis=0); tile({a}, (2,))
    sum(square({a} - {b})); {a} * 0.5 + {b}; {a} / (2 + {b} * {b})
    maximum({a} * 0.5, {a} * 0.25); tanh({a}) @ sin({b}); sum({a} * {b}, axis=0)
    scan(lambda c, x: (tanh(c + sum(x)), c * mean(x)), {b}, {a})[0]
    scan(lambda c, x: (0.5 * c + sin(x), c), {a}[0, ...], {a}, reverse=True)[1]
    scan(lambda c, x: ((c[1], sin(c[0] + x)), c[0]), ({a}[0, ...], {a}[-1, ...]), {a})[1]
    scan(lambda c, x: (tanh(matmul(c, x)), sum(c)), matmul({a}[0, ...].mT, {a}[0, ...]), \
matmul({a}.mT, {a}))[0]
    scan(lambda c, x: (scan(lambda d, y: (sin(d + y), None), c, x)[0], c), mean({b}), {a})[1]
    scan(lambda c, x: (while_loop(lambda d: d[1] < 3, lambda d: (sin(d[0] + x), d[1] + 1), \
(c, sum({n}) & 1), 4)[0], c), {a}[0, ...], {a})[1]
    cond(any({n} > 1), lambda a, b: (sin(a), b), lambda a, b: (a * a, sum(a) + b), {a}, {b})[1]
    cond(all({n} > 1), lambda a: scan(lambda c, x: (cos(c + x), None), a[0, ...], a)[0], \
lambda a: a[-1, ...], {a})
    while_loop(lambda c: c[1] < 6, lambda c: (sin(c[0]) + 0.5 * {b}, c[1] + 1), \
(0 * {a} + {b}, sum({n}) & 3), 9)[0]
    while_loop(lambda c: c[1] < 4, lambda c: (cond(c[1] > 2, sin, lambda a: a * 0.5, c[0]), \
c[1] + 1), ({a}, sum({n}) & 3), 4)[0]
    grad(lambda a: sum(scan(lambda c, x: (tanh(c * 0.7 + x), c * x), a[0, ...], a)[1]))({a})
    grad(lambda a: sum(while_loop(lambda c: c[1] < 4, lambda c: (sin(c[0]) * a, c[1] + 1), \
(a + {b}, sum({n}) & 3), 5)[0]))({a})
    grad(lambda a: sum(cond(any({n} > 1), lambda a: tanh(a) * sum(a), lambda a: a * a, a)))({a})
    grad(lambda a: sum(tanh(matmul(a, {b}))))({a}); grad(lambda a: sum(take(a, {i}) ** 2))({a})
    grad(lambda a: sum(sin(a)[..., ::2]) * sum(concat([a, a * a])))({a})
    vmap(lambda a: scan(lambda c, x: (tanh(c + x), c), 0 * a[0, ...], a)[0])({a})
    vmap(lambda a: while_loop(lambda c: sum(abs(c)) > 0.5, lambda c: 0.4 * c, a, 30))({a})
"""

AWKWARD = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, -1e-42, 1e-38, 3e38, -3e38, 1.0, -1.0, 0.5]
AWKWARD += [1.5, 2.5, -2.5, 88.7, -104.0, 1e-8, 1.0000001, 0.99999994, 1e5, 7e6, 16777217.0]


def rows(table: str) -> list[str]:
    """The expressions of a table."""
    return [text.strip() for line in table.strip().splitlines() for text in line.split(";")]


WORD = re.compile(r"[A-Za-z_]\w*")
KINDS = {
    name: rows(globals()[name]) for name in "ONE TWO SMOOTH EXACT WHOLE TRUTHS VIEWS SMALL".split()
}


@dataclass
class Value:
    """A value of a program: what it is on NumPy, whether every engine has its bits, and whether
    numbers are small, so that sums of them lose little."""

    at: Any
    exact: bool = True
    small: bool = False


@dataclass
class DrawnProgram:
    """A function of arrays that gives all values on its way.

    seed: the same seed writes the same program.
    unsigned: whether there are integers without a sign, of more than eight bits.
    backwards: whether slices go backwards, which PyTorch's do not.
    subnormal: whether there are numbers below the smallest normal one, which are 0 to XLA.
    """

    seed: int
    unsigned: bool = True
    backwards: bool = True
    subnormal: bool = True
    count: int = LINES
    lines: list[str] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    #: For each value, in order, whether it is exact, close (one rounding away) or loose.
    outputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw, self.numbers = random.Random(self.seed), np.random.default_rng(self.seed)
        dtypes = [*FLOATS, *FLOATS, "bool", *INTEGERS, *(UNSIGNED if self.unsigned else ())]
        wanted = ["float64", "float32", self.draw.choice(INTEGERS), *self.draw.sample(dtypes, 4)]
        shapes = [tuple(self.draw.choices((1, 2, 3, 4), k=k)) for k in (2, 1, 3, 2, 0)]
        self.inputs = {
            f"x{i}": self._numbers(
                dtype, self.draw.choice(shapes[: 5 if i > 2 else 4]), i > 0 and dtype in FLOATS
            )
            for i, dtype in enumerate(wanted)
        }
        self.values = {n: Value(a[0], small=n == "x0") for n, a in self.inputs.items()}
        for _ in range(40 * self.count):
            if len(self.outputs) >= self.count:
                break
            self._line()

    def _numbers(self, dtype: str, shape: tuple[int, ...], awkward: bool) -> Any:
        """(STEPS, *shape) numbers."""
        shape = (STEPS, *shape)
        if dtype == "bool":
            return self.numbers.random(shape) < 0.5
        if dtype in FLOATS:
            drawn = self.numbers.uniform(-2, 2, shape)
            if awkward:
                mask = self.numbers.random(shape) < 0.5
                drawn = np.where(mask, self.numbers.choice(AWKWARD, shape), drawn)
                if not self.subnormal:
                    drawn = np.where(np.abs(drawn) < np.finfo("float32").tiny, 0.0, drawn)
            return drawn.astype(dtype)
        limits = np.iinfo(dtype)
        ends = [limits.min, limits.max, limits.max - 1, 0, 1, 2, 3, 100]
        drawn = self.numbers.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        mask = self.numbers.random(shape)
        drawn = np.where(
            mask < 0.4,
            np.asarray(self.draw.choices(ends, k=drawn.size), dtype).reshape(shape),
            drawn,
        )
        return np.where(mask > 0.8, drawn & 7, drawn).astype(dtype)

    def __str__(self) -> str:
        shapes = ", ".join(f"{n}: {a.dtype}{a.shape[1:]}" for n, a in self.inputs.items())
        return f"{self.source}    # seed {self.seed}; {shapes}"

    @property
    def source(self) -> str:
        body = "".join(f"    {line}\n" for line in self.lines)
        given, result = ", ".join(self.inputs), ", ".join(self.outputs)
        return f"def program({given}):\n{body}    return [{result}]\n"

    def over(self, xp: Any, place: Callable[[Any], Any]) -> Callable[..., list[Any]]:
        """The program in the functions of `xp`; its indices as arrays that `place` makes."""
        known = _known(xp, place)
        exec(compile(self.source, f"<program {self.seed}>", "exec"), known)
        function: Callable[..., list[Any]] = known["program"]
        return function

    # Writing.

    def _line(self) -> None:
        kind = self.draw.choice(
            "ONE TWO SMOOTH EXACT EXACT WHOLE WHOLE TRUTHS VIEWS VIEWS SMALL SMALL SMALL".split()
        )
        text = self.draw.choice(KINDS[kind])
        if "::-1, " in text and not self.backwards:
            return
        names = [n for n, v in self.values.items() if self._suits(v, kind)]
        if not names:
            return
        # Rather a late one, so that the program is deep.
        a = names[-1 - int(len(names) * self.draw.random() ** 2)]
        like = [n for n in names if self.values[n].at.dtype == self.values[a].at.dtype]
        b = self.draw.choice(like)
        if not self.values[a].at.shape and ("axis" in text or "..." in text):
            return
        whole = [
            n for n, v in self.values.items() if v.at.dtype.kind in "iu" and v.at.dtype.itemsize < 8
        ]
        parts = {
            "a": a,
            "b": b,
            "n": self.draw.choice(whole or ["x2"]),
            "i": f"i{self.draw.randrange(3)}",
        }
        given = [self.values[n] for k, n in parts.items() if f"{{{k}}}" in text and k in "ab"]
        self._write(kind, text.format(**parts), given)

    def _suits(self, value: Value, kind: str) -> bool:
        dtype = value.at.dtype.kind
        if kind in ("ONE", "TWO"):
            return dtype == "f" and value.exact
        if kind == "EXACT":
            return dtype in "fiu" and value.exact
        if kind in ("SMALL", "SMOOTH"):
            return dtype == "f" and value.small
        return kind == "VIEWS" or dtype in {"WHOLE": "iu", "TRUTHS": "b"}[kind]

    def _write(self, kind: str, text: str, given: list[Value]) -> None:
        known = _known(tinynn.Namespace(np), np.asarray)
        known |= {name: value.at for name, value in self.values.items()}
        try:
            with np.errstate(all="ignore"):
                at = np.asarray(eval(text, known))
        except (
            AttributeError,
            ValueError,
            IndexError,
            TypeError,
        ):  # these shapes or dtypes do not go together
            return
        if not 0 < at.size <= MOST or at.ndim > 4 or at.dtype == np.float16:
            return
        if not self.unsigned and at.dtype.name in UNSIGNED:
            return
        name = f"v{len(self.outputs)}"
        exact = all(v.exact for v in given)
        known_bits = kind in ("EXACT", "WHOLE", "TRUTHS", "VIEWS") or at.dtype.kind != "f"
        self.lines.append(f"{name} = {text}")
        how = (
            "exact"
            if exact and known_bits
            else "close"
            if exact and kind in ("ONE", "TWO")
            else "loose"
        )
        self.outputs[name] = how
        small = kind == "VIEWS" and given[0].small
        self.values[name] = Value(at, how == "exact", small)
        if at.dtype.kind == "f" and not small:
            self.lines.append(f"t{name} = tame({name})")
            with np.errstate(all="ignore"):
                self.values[f"t{name}"] = Value(np.asarray(known["tame"](at)), how == "exact", True)
            if how != "exact":
                del self.values[name]


def _known(xp: Any, place: Callable[[Any], Any]) -> dict[str, Any]:
    """What the names of a program mean: functions of a namespace, transformations, and indices."""
    names = "scan cond while_loop grad vmap".split()
    indices = {f"i{n}": place(np.asarray(i)) for n, i in enumerate(([0, -1, 0], [0], [-1, 0]))}
    words = {word for table in KINDS.values() for text in table for word in WORD.findall(text)}
    functions = {word: getattr(xp, word) for word in words if hasattr(xp, word)}

    def tame(x: Any) -> Any:
        """Numbers from -2 to 2."""
        return xp.clip(xp.where(xp.isfinite(x), x, xp.zeros_like(x)), -2.0, 2.0)

    return functions | {name: getattr(tinynn, name) for name in names} | indices | {"tame": tame}
