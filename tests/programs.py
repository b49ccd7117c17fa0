"""Random programs: about 20 functions of the standard put together by a seed, as Python source.

A program is text, so it runs over any namespace (tinynn's over a library, or JAX's own), and a
failing test prints what the reader needs to run it again. While a program is written it is carried
out on NumPy, at the point where it will be differentiated: values are kept small, and away from
the points where a derivative jumps.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

import numpy as np

import tinynn
from backends import Backend, scoped

STEPS = 20
LARGEST = 3.0  # |value|; what grows beyond it is squashed
# What grows beyond this is not written: the sine of 65,536 has a slope that no difference can tell
# (a product of 16 numbers of about 2, in seed 20198).
STEEPEST = 100.0
MOST = 64  # elements
# Values inside a program are of order one: where a tanh saturates, less than this is their rounding
# (seed 2047: two derivatives of 7.5e-12 that are 2e-17 apart).
ROUNDING = 1e-14
CLEAR = 0.01  # how far from a kink a value must stay
BATCH = 3  # points besides the one that the program was written at

# One argument, which may be of any shape. After the bar: what must not come near 0.
UNARY = """
    xp.sin({a}); xp.cos({a}); xp.tanh({a}); xp.atan({a}); xp.asinh({a}); xp.square({a}); -{a}
    xp.negative({a}); xp.positive({a}); xp.exp(xp.sin({a})); xp.expm1(0.5 * {a}); 2.0 ** {a}
    xp.sinh(xp.sin({a})); xp.cosh(xp.sin({a})); xp.tan(0.7 * xp.sin({a})); 2 * {a} - 1; {a} ** 2
    xp.asin(0.9 * xp.tanh({a})); xp.acos(0.9 * xp.sin({a})); xp.atanh(0.9 * xp.tanh({a})); {a} / 3
    xp.acosh(1.5 + xp.square({a})); xp.sqrt(1 + {a} * {a}); xp.log(1.5 + xp.sin({a})); {a} ** 3
    xp.log1p(xp.square({a})); xp.log2(2 + xp.cos({a})); xp.log10(2 + xp.sin({a})); 1 / (2 + {a}**2)
    xp.reciprocal(2 + xp.sin({a})); xp.pow(1.5 + xp.sin({a}), -1.5); xp.pow({a}, 3); {a}[...]
    xp.abs({a}) | {a}; xp.clip({a}, -0.8, 0.9) | {a} + 0.8, {a} - 0.9; xp.sign({a}) * {a} | {a}
    xp.where({a} > 0.2, {a}, 0.5 * xp.sin({a})) | {a} - 0.2; xp.maximum({a}, 0.1) | {a} - 0.1
    xp.remainder({a} + 9.0, 20.0); {a} * xp.floor({a}) | {a} - xp.round({a})
    xp.multiply({a}, xp.astype({a} > 0, {a}.dtype)) | {a}; xp.broadcast_arrays({a}, {a})[0]
    xp.linalg.vector_norm(2 + xp.sin({a})); xp.linalg.vector_norm({a}, ord=1) | {a}
    xp.reshape({a}, (-1,)); xp.expand_dims({a}, axis=0); xp.expand_dims({a}, axis=-1)
    {a}[None, ...]; {a}[..., None]
"""

# Two arguments whose shapes broadcast.
BINARY = """
    xp.add({a}, {b}); xp.subtract({a}, {b}); xp.multiply({a}, {b}); xp.divide({a}, 2 + xp.sin({b}))
    xp.hypot({a}, 1.5 + xp.sin({b})); xp.atan2({a}, 1.5 + xp.sin({b})); xp.logaddexp({a}, {b})
    xp.pow(1.5 + xp.sin({a}), {b}); xp.broadcast_arrays({a}, {b})[1]
    xp.maximum({a}, {b}) | xp.subtract({a}, {b}); xp.minimum({a}, {b}) | xp.subtract({a}, {b})
    xp.where(xp.greater({a}, {b}), {a}, xp.sin({b})) | xp.subtract({a}, {b})
    xp.copysign({a}, {b}) | {a}, {b}
"""

# One argument and an axis of it, its length n.
ALONG = """
    xp.flip({a}, axis={axis}); xp.roll({a}, 1, axis={axis}); xp.cumulative_sum({a}, axis={axis})
    xp.cumulative_prod({a}, axis={axis}); xp.moveaxis({a}, {axis}, 0); xp.moveaxis({a}, 0, {axis})
    xp.repeat({a}, 2, axis={axis}); xp.unstack({a}, axis={axis})[0]; xp.diff({a}, axis={axis})
    xp.take({a}, {indices}, axis={axis}); xp.concat([{a}, xp.sin({a})], axis={axis})
    xp.concat([{a}, {a}[:1, ...]]); xp.stack([{a}, xp.cos({a})], axis={axis})
    xp.sort({a}, axis={axis}) | xp.diff(xp.sort({a}, axis={axis}), axis={axis})
    xp.max({a}, axis={axis}) | xp.diff(xp.sort({a}, axis={axis}), axis={axis})
    xp.min({a}, axis={axis}, keepdims=True) | xp.diff(xp.sort({a}, axis={axis}), axis={axis})
    xp.prod({a}, axis={axis}); xp.sum({a}, axis={axis}); xp.mean({a}, axis={axis}, keepdims=True)
    xp.var({a}, axis={axis}); xp.std({a}, axis={axis}) | xp.std({a}, axis={axis})
    xp.vecdot({a}, xp.cos({a}), axis={axis}); xp.linalg.vector_norm(1 + {a} * {a}, axis={axis})
    xp.take_along_axis({a}, xp.argsort({a}, axis={axis}), axis={axis}) | xp.diff(xp.sort({a}, \
axis={axis}), axis={axis})
    {a}[1:, ...]; {a}[..., ::2]; {a}[0, ...]; {a}[..., -1]; {a}[:, None, ...]
    xp.take({a}, {indices0}, axis=0)
    xp.tile({a}, (2,)); xp.sum({a}); xp.mean({a}); xp.roll({a}, 2); xp.flip({a}); xp.var({a})
    xp.prod(0.5 + 0.1 * {a}); xp.concat([{a}, {a}], axis=None)
"""

# One matrix or more.
MATRIX = """
    xp.matrix_transpose({a}); {a}.mT; xp.tril({a}); xp.triu({a}, k=1); xp.matmul({a}, {a}.mT)
    {a} @ xp.sin({a}.mT); xp.linalg.trace(xp.matmul({a}, {a}.mT)); {a}[0, ...] @ {a}.mT
    xp.sum({a}, axis=(-2, -1)); xp.mean({a}, axis=(0, -1), keepdims=True); xp.linalg.diagonal({a})
    xp.tensordot({a}, {a}, axes=((-1,), (-1,))); xp.linalg.matrix_norm(2 + xp.sin({a}))
"""

# One square matrix, or more: m is it, made positive definite.
SQUARE = """
    xp.linalg.inv({m}); xp.linalg.solve({m}, {a}); xp.linalg.det({m}); xp.linalg.cholesky({m})
    xp.linalg.slogdet({m})[1]; xp.linalg.matrix_power({m} / 4, 3)
    xp.linalg.eigvalsh({m})[..., -1] | xp.diff(xp.linalg.eigvalsh({m}), axis=-1)
"""

FOURIER = """
    xp.real(xp.fft.fft(xp.astype({a}, xp.complex128), axis={axis}))
    xp.imag(xp.fft.rfft({a}, axis={axis}))
    xp.abs(3 + xp.fft.ifft(xp.astype({a}, xp.complex128), axis={axis})); xp.fft.fftshift({a})
"""

# One array to go through and one to carry.
SCAN = """
    xp.add(*scan(lambda c, x: (xp.tanh(c + xp.sum(x)), c * xp.mean(x)), {b}, {a}))
    scan(lambda c, x: (xp.sin(c - 0.5 * xp.mean(x)), xp.cos(c)), {b}, {a}, reverse=True)[1]
    scan(lambda c, x: (0.5 * c + xp.sin(x), None), {a}[0, ...], {a}, reverse=True)[0]
    xp.sum(scan(lambda c, x: ((c[1], xp.sin(c[0] + x)), c[0]), ({a}[0, ...], {a}[-1, ...]), {a})[1])
    scan(lambda c, x: (c + xp.matmul(x, x.mT), xp.sum(c)), xp.matmul({a}[0, ...], {a}[0, ...].mT), \
{a})[0]
    (lambda w: scan(lambda c, x: (xp.sin(xp.matmul(c, w) + xp.matmul(x, w)), c), {a}[0, ...], \
{a}))(xp.matmul({a}[0, ...].mT, {a}[0, ...]))[1]
    (lambda w: scan(lambda c, x: (xp.tanh(xp.matmul(c, w) * x), xp.matmul(c, w)), {a}[0, ...], \
{a}))(xp.matmul({a}.mT, {a}))[1]
    scan(lambda c, x: (scan(lambda d, y: (xp.sin(d + y), None), c, x)[0], c), xp.mean({b}), {a})[1]
    cond(xp.sum({a}) > xp.sum({b}), lambda a, b: (xp.sin(a), b), lambda a, b: (a * a, xp.sum(a) \
+ b), {a}, {b})[0] | xp.sum({a}) - xp.sum({b})
    scan(lambda c, x: (cond(xp.sum(c) > 0, xp.cos, lambda c: c + xp.sum({b}), c), c * x), \
{a}[0, ...], {a})[1] | xp.sum({a}[0, ...])
    scan(lambda c, x: (c[:, ::-1] * xp.exp(-x[:, :1]) + x[1:, :], c[:, 1:]), {a}[0, 1:, :], {a})[1]
"""


def rows(table: str) -> list[tuple[str, str]]:
    """(expression, what must not come near 0)."""
    parts = [part.partition("|") for line in table.strip().splitlines() for part in line.split(";")]
    return [(text.strip(), guard.strip()) for text, _, guard in parts]


TABLES = {
    name: rows(globals()[name])
    for name in ("UNARY", "BINARY", "ALONG", "MATRIX", "SQUARE", "FOURIER", "SCAN")
}
CHANCES: dict[str, float] = {
    "UNARY": 5,
    "BINARY": 6,
    "ALONG": 8,
    "MATRIX": 3,
    "SQUARE": 1,
    "FOURIER": 0.5,
    "SCAN": 6,
}


@dataclass
class Program:
    """A function of 2 or 3 float64 arrays that gives a scalar.

    Args:
        seed: the same seed writes the same program.
        fourier: whether functions of `xp.fft` may be among the steps.
        without: functions that may not.
        scans: whether scans may be.
    """

    seed: int
    fourier: bool = True
    without: frozenset[str] = frozenset()
    scans: bool = False
    lines: list[str] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        numbers = np.random.default_rng(self.seed)
        count = self.draw.choice((2, 3))
        shapes = [tuple(self.draw.choices((1, 2, 3, 4), k=rank)) for rank in (2, 1, 3)]
        if self.draw.random() < 0.3:
            shapes[1] = ()
        self.inputs = {
            name: numbers.uniform(-1, 1, shape)
            for name, shape in zip("xyz", shapes[:count], strict=False)
        }
        #: Further points, and a direction at the first: (BATCH, *shape) and shape, of each input.
        self.batch = [numbers.uniform(-1, 1, (BATCH, *x.shape)) for x in self.inputs.values()]
        self.direction = [numbers.uniform(-1, 1, x.shape) for x in self.inputs.values()]
        #: The values so far, at every point where a derivative will be asked for.
        self._points = [dict(self.inputs)]
        for i in range(BATCH):
            moved = [entries[i] for entries in self.batch]
            self._points.append(dict(zip(self.inputs, moved, strict=True)))
            self._points.append({**self.inputs, "x": moved[0]})
        self._values = self._points[0]
        self._unused = set(self.inputs)
        while len(self.lines) < STEPS:
            self._step()
        ends = [f"xp.mean(xp.sin({name}))" for name in sorted(self._unused)]
        self.lines.append("return " + " + ".join(ends))
        used = "\n".join(self.lines)
        self.constants = {name: v for name, v in self.constants.items() if name in used}

    def __str__(self) -> str:
        constants = "".join(f"{name} = {v.tolist()}\n" for name, v in self.constants.items())
        shapes = ", ".join(f"{name}: {x.shape}" for name, x in self.inputs.items())
        return f"{constants}{self.source}    # seed {self.seed}; {shapes}"

    @property
    def source(self) -> str:
        body = "".join(f"    {line}\n" for line in self.lines)
        return f"def program({', '.join(self.inputs)}):\n{body}"

    def over(self, xp: Any, place: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
        """The program in the functions of `xp`, its constants as arrays that `place` makes."""
        known = {
            "xp": xp,
            "scan": tinynn.scan,
            "cond": tinynn.cond,
            **{name: place(value) for name, value in self.constants.items()},
        }
        exec(compile(self.source, f"<program {self.seed}>", "exec"), known)
        function: Callable[..., Any] = known["program"]
        return function

    # Writing.

    def _step(self) -> None:
        """Write one more line, if the step that is drawn suits the values there are."""
        kinds = [kind for kind in CHANCES if kind != "FOURIER" or self.fourier]
        kinds = [kind for kind in kinds if kind != "SCAN" or self.scans]
        kind = self.draw.choices(kinds, [CHANCES[kind] for kind in kinds])[0]
        text, guard = self.draw.choice(TABLES[kind])
        if not self.without.isdisjoint(re.findall(r"\w+", text)):
            return
        # Rather one that nothing uses yet, so that the program is deep.
        names = list(self._values)
        pool = sorted(self._unused) if self.draw.random() < 0.8 else names
        a = self.draw.choice(pool)
        parts: dict[str, str] | None = {"a": a}
        if kind in ("BINARY", "SCAN"):
            parts |= {"b": self.draw.choice(names)}
        elif kind in ("ALONG", "FOURIER"):
            parts = self._along(a)
        elif kind == "MATRIX":
            parts = parts if self._values[a].ndim >= 2 else None
        elif kind == "SQUARE":
            parts = self._square(a)
        if kind == "SCAN" and not self._values[a].shape:
            parts = None
        if parts is not None:
            self._write(text.format(**parts), guard.format(**parts), parts)

    def _along(self, a: str) -> dict[str, str] | None:
        shape = self._values[a].shape
        if not shape:
            return None
        axis = self.draw.randrange(len(shape))
        return {
            "a": a,
            "axis": str(self.draw.choice((axis, axis - len(shape)))),
            "indices": self._indices(shape[axis]),
            "indices0": self._indices(shape[0]),
        }

    def _indices(self, length: int) -> str:
        name = f"i{length}{ascii_lowercase[self.draw.randrange(3)]}"
        drawn = np.asarray(self.draw.choices(range(length), k=3))
        return self._constant(name, drawn)

    def _square(self, a: str) -> dict[str, str] | None:
        shape = self._values[a].shape
        if len(shape) < 2 or shape[-1] != shape[-2]:
            return None
        eye = self._constant(f"eye{shape[-1]}", np.eye(shape[-1]))
        return {"a": a, "m": f"(xp.matmul({a}, {a}.mT) + 2 * {eye})"}

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.constants.setdefault(name, value)
        return name

    def _write(self, text: str, guard: str, parts: dict[str, str]) -> None:
        try:
            values = self._carried_out(text)
            margins = [m for ms in self._carried_out(f"[{guard}]") for m in ms]
        except (ValueError, IndexError):  # these shapes do not go together
            return
        if not 0 < np.size(values[0]) <= MOST or np.ndim(values[0]) > 4:
            return
        if any(np.min(np.abs(m), initial=1.0) < CLEAR for m in margins):
            return
        largest = max(np.max(np.abs(value)) for value in values)
        if "scan" in text and largest > 4 * LARGEST:  # the rounding of its steps would be seen
            return
        if largest > STEEPEST:
            return
        if largest > LARGEST:
            text = f"{self.draw.choice(('xp.tanh', 'xp.sin'))}({text})"
            values = self._carried_out(text)
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        for point, value in zip(self._points, values, strict=True):
            point[name] = np.asarray(value)
        self._unused -= {parts["a"], parts.get("b", "")}
        self._unused.add(name)

    def _carried_out(self, text: str) -> list[Any]:
        """What the expression gives, at each point."""
        known = {"xp": np, "scan": tinynn.scan, "cond": tinynn.cond} | self.constants
        return [eval(text, known | point) for point in self._points]


def nested(api: Any, xp: Any, seed: int, many: Any) -> tuple[str, Callable[[Any], Any]]:
    """A function of one number under up to four transformations in random order, and their names.

    Args:
        api: what has `grad`, `jvp`, `vmap` and so on: tinynn, or JAX.
        many: (3,) numbers, to be batched over.
    """

    def closed_over(f: Any) -> Any:
        return lambda x: xp.sum(api.vmap(lambda s: f(xp.multiply(s, x)))(many))

    def two_levels(f: Any) -> Any:  # the derivative by y only, though x is within
        return lambda x: xp.multiply(x, api.grad(lambda y: f(xp.multiply(x, y)))(xp.sin(x)))

    def two_directions(f: Any) -> Any:
        return lambda x: api.jvp(lambda y: xp.multiply(f(y), x), (x,), (f(x),))[1]

    ways = {
        "grad": lambda f: api.grad(f),
        "jvp": lambda f: lambda x: api.jvp(f, (x,), (xp.cos(x),))[1],
        "vjp": lambda f: lambda x: api.vjp(f, x)[1](xp.sin(x))[0],
        "vmap": lambda f: lambda x: xp.sum(api.vmap(f)(xp.multiply(many, x))),
        "vmap, closed over": closed_over,
        "grad, closed over": two_levels,
        "jvp, closed over": two_directions,
        "checkpoint": lambda f: api.checkpoint(f),
        "jacobian": lambda f: lambda x: xp.sum(api.jacobian(lambda s: f(xp.sum(s)))(x * many)),
        "hessian": lambda f: api.hessian(f),
    }
    bases = [
        lambda x: xp.sin(1.3 * x) * xp.exp(-0.2 * x * x),
        lambda x: xp.tanh(x) ** 2 + 0.3 * x,
        lambda x: xp.log(1.5 + xp.cos(x)) * x,
        lambda x: xp.where(x > 0, xp.sin(x), xp.expm1(x)),
    ]
    draw = random.Random(seed)
    f, names = draw.choice(bases), draw.choices(list(ways), k=draw.randint(1, 4))
    for name in names:
        f = ways[name](f)
    return " of ".join(names[::-1]), f


def transformed(program: Program, backend: Backend) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function of a program's value, derivatives of two orders and a batch; and its input."""
    f = scoped(program.over(tinynn.Namespace(backend.xp), backend.asarray))
    groups = (program.inputs.values(), program.direction, program.batch)
    x, direction, batch = (tuple(backend.asarray(np.asarray(a)) for a in g) for g in groups)
    gradient = tinynn.grad(f, tuple(range(len(x))))

    def everything(x: Any, direction: Any, batch: Any) -> Any:
        value, change = tinynn.jvp(f, x, direction)
        return {
            "value": value,
            "jvp": change,
            "gradient": gradient(*x),
            "hvp": tinynn.jvp(gradient, x, direction)[1],
            "batch": tinynn.vmap(gradient)(*batch),
        }

    return everything, (x, direction, batch)
