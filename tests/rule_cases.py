"""One row or more for every rule: how it is called, on which shapes, in which domain.

`CASES[key]` is a list of cases; `f(xp, *arrays)` is differentiated by every array.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from tinynn.rules import extensions
from tinynn.trace import getitem


@dataclass(frozen=True)
class Case:
    """A call under test: arrays of these shapes, each uniform in its own (low, high)."""

    f: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    domains: tuple[tuple[float, float], ...]
    smooth: bool = True  # False: zero derivative everywhere that it has one


WIDE, POSITIVE, UNIT = (-2.0, 2.0), (0.5, 3.0), (-0.9, 0.9)
UNARY_SHAPES = ((3, 2), (), (0, 2))
BINARY_SHAPES = (((3, 2), (3, 2)), ((2,), (3, 1)), ((), (2, 2)), ((1, 3), (2, 1, 1)))


def called(name: str) -> Callable[..., Any]:
    return lambda xp, *arrays: getattr(xp, name)(*arrays)


def unary(name: str, domain: tuple[float, float] = WIDE, smooth: bool = True) -> list[Case]:
    return [Case(called(name), (shape,), (domain,), smooth) for shape in UNARY_SHAPES]


def binary(
    name: str,
    left: tuple[float, float] = WIDE,
    right: tuple[float, float] = WIDE,
    smooth: bool = True,
) -> list[Case]:
    return [Case(called(name), shapes, (left, right), smooth) for shapes in BINARY_SHAPES]


def one(f: Callable[..., Any], *shapes: tuple[int, ...], domain: Any = WIDE, **more: Any) -> Case:
    return Case(f, shapes, (domain,) * len(shapes), **more)


def over_axes(f: Callable[..., Any], domain: tuple[float, float] = WIDE) -> list[Case]:
    """A reduction over all axes, one, several, a negative one, and with the axes kept."""
    ways: list[dict[str, Any]] = [
        {},
        {"axis": 0},
        {"axis": -1, "keepdims": True},
        {"axis": (0, 2)},
        {"axis": (-1, 1), "keepdims": True},
    ]
    return [one(lambda xp, x, way=way: f(xp)(x, **way), (2, 3, 2), domain=domain) for way in ways]


def within(path: str, **settings: Any) -> Callable[..., Any]:
    return lambda xp, *arrays: attrgetter(path)(xp)(*arrays, **settings)


def indices(xp: Any, x: Any, values: list[int]) -> Any:
    return xp.asarray(values, device=x.device)


PRODUCTS = [
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
]


CASES: dict[Any, list[Case]] = {
    **{name: unary(name) for name in "positive negative square exp expm1 sin cos tanh".split()},
    **{name: unary(name) for name in "abs sinh cosh asinh atan".split()},
    **{name: unary(name, POSITIVE) for name in "sqrt reciprocal log log1p log2 log10".split()},
    **{name: unary(name, UNIT) for name in "tan asin acos atanh".split()},
    "acosh": unary("acosh", (1.5, 3.0)),
    **{name: unary(name, smooth=False) for name in "ceil floor round trunc sign".split()},
    **{name: binary(name) for name in "add subtract multiply logaddexp maximum minimum".split()},
    **{name: binary(name, POSITIVE, POSITIVE) for name in "hypot copysign atan2".split()},
    "divide": binary("divide", WIDE, POSITIVE),
    "pow": [
        *binary("pow", POSITIVE, WIDE),
        *[one(lambda xp, x, p=p: xp.pow(x, p), (3, 2)) for p in (0, 1, 2, 3)],
        one(lambda xp, x: xp.pow(x, -0.5), (3,), domain=POSITIVE),
        one(lambda xp, p: xp.pow(2.0, p), (3,)),
    ],
    "remainder": binary("remainder", (0.1, 0.9), (1.1, 2.9)),
    "floor_divide": binary("floor_divide", (0.1, 0.9), (1.1, 2.9), smooth=False),
    "nextafter": binary("nextafter", smooth=False),
    "where": [
        one(lambda xp, x, y: xp.where(xp.greater(x, 0.1), x, y), (3, 2), (2,)),
        one(lambda xp, x: xp.where(xp.greater(x, 0.1), x, 1.0), (3, 2)),
        one(lambda xp, x: xp.where(xp.greater(x, 0.1), 0.5, x), (3, 2)),
    ],
    "clip": [
        one(lambda xp, x: xp.clip(x, -1.0, 1.0), (4, 3)),
        one(lambda xp, x: xp.clip(x, max=0.5), (4, 3)),
        one(lambda xp, x, low, high: xp.clip(x, low, high + 5.0), (4, 3), (3,), (4, 1)),
    ],
    "sum": over_axes(lambda xp: xp.sum),
    "mean": over_axes(lambda xp: xp.mean),
    "var": [
        *over_axes(lambda xp: xp.var),
        one(lambda xp, x: xp.var(x, axis=0, correction=1.0), (3, 2)),
    ],
    "std": over_axes(lambda xp: xp.std),
    "max": over_axes(lambda xp: xp.max),
    "min": over_axes(lambda xp: xp.min),
    "reshape": [one(lambda xp, x: xp.reshape(x, (3, -1)), (2, 3))],
    "expand_dims": [one(within("expand_dims", axis=a), (2, 3)) for a in (0, -1)],
    "squeeze": [one(lambda xp, x: xp.squeeze(x, axis=(0, -1)), (1, 3, 1))],
    "broadcast_to": [one(lambda xp, x: xp.broadcast_to(x, (4, 2, 3)), (2, 1))],
    "astype": [one(lambda xp, x: xp.astype(x, x.dtype), (3,))],
    "matrix_transpose": [one(called("matrix_transpose"), (2, 3, 4))],
    "linalg.matrix_transpose": [one(lambda xp, x: xp.linalg.matrix_transpose(x), (2, 3))],
    "flip": [one(called("flip"), (2, 3)), one(lambda xp, x: xp.flip(x, axis=-1), (2, 3))],
    "tril": [one(lambda xp, x: xp.tril(x, k=1), (3, 4))],
    "triu": [one(lambda xp, x: xp.triu(x, k=-1), (3, 4))],
    "permute_dims": [one(lambda xp, x: xp.permute_dims(x, (2, 0, 1)), (2, 3, 4))],
    "moveaxis": [one(lambda xp, x: xp.moveaxis(x, 0, -1), (2, 3, 4))],
    "roll": [
        one(lambda xp, x: xp.roll(x, 2), (2, 3)),
        one(lambda xp, x: xp.roll(x, (1, -1), axis=(0, 1)), (2, 3)),
    ],
    "concat": [
        one(lambda xp, x, y: xp.concat([x, y], axis=-1), (2, 3), (2, 1)),
        one(lambda xp, x, y: xp.concat([x, y, x], axis=None), (2, 3), (4,)),
    ],
    "stack": [one(within("stack", axis=a), (2, 3), (2, 3)) for a in (0, -1)],
    "take": [
        one(lambda xp, x: xp.take(x, indices(xp, x, [2, 0, 2]), axis=0), (3, 2)),
        one(lambda xp, x: xp.take(x, indices(xp, x, [1, 1]), axis=-1), (3, 2)),
    ],
    getitem: [
        one(lambda xp, x: x[1, ...], (3, 2)),
        one(lambda xp, x: x[..., ::2], (2, 3)),
        one(lambda xp, x: x[:, None, 1:], (2, 3)),
        one(lambda xp, x: x[-1, 0], (2, 3)),
        one(lambda xp, x: x[()], ()),
    ],
    "unstack": [one(lambda xp, x: xp.unstack(x, axis=1)[1], (2, 3))],
    "broadcast_arrays": [one(lambda xp, x, y: xp.broadcast_arrays(x, y)[0], (2, 1), (3,))],
    **{
        f"{name}_like": [one(called(f"{name}_like"), (2,), smooth=False)]
        for name in ("zeros", "ones")
    },
    "full_like": [one(lambda xp, x: xp.full_like(x, 3.0), (2,), smooth=False)],
    "empty_like": [one(lambda xp, x: xp.where(xp.isnan(xp.empty_like(x)), x, x), (2,))],
    **{
        prefix + name: [one(within(prefix + name, **way), *pair) for pair in pairs]
        for prefix in ("", "linalg.")
        for name, way, pairs in [
            ("matmul", {}, PRODUCTS),
            ("vecdot", {"axis": -1}, [((2, 3), (2, 3)), ((3,), (2, 3))]),
            ("tensordot", {"axes": 2}, [((4, 2, 3), (2, 3))]),
            ("tensordot", {"axes": ((0, -1), (1, 0))}, [((2, 3, 4), (4, 2, 5))]),
        ]
    },
    extensions.sigmoid: [one(lambda xp, x: extensions.sigmoid(x), s) for s in UNARY_SHAPES],
    extensions.relu: [one(lambda xp, x: extensions.relu(x), s) for s in UNARY_SHAPES],
    extensions.erf: [one(lambda xp, x: extensions.erf(x), s) for s in UNARY_SHAPES],
    extensions.logsumexp: over_axes(lambda xp: extensions.logsumexp),
    extensions.scatter_add: [
        one(lambda xp, x, u: extensions.scatter_add(x, indices(xp, x, [2, 0, 2]), u), (3,), (3,)),
        one(
            lambda xp, x, u: extensions.scatter_add(x, indices(xp, x, [1, 1]), u, axis=-1),
            (3, 2),
            (3, 2),
        ),
    ],
    extensions.stop_gradient: [one(lambda xp, x: extensions.stop_gradient(x), (3,), smooth=False)],
}
