"""Calls of the standard's functions, drawn by Hypothesis: shapes, axes, and all else they take.

`CALLS[name]` is a strategy. Shapes have 0 to 4 axes of length 0 to 3.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from operator import attrgetter, getitem
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.rule_rows import POSITIVE, WIDE, Domain, Shape

MOST_AXES, LONGEST = 4, 3
Draw = Callable[[Any], Any]

#: Functions whose arrays come in a list.
LISTED = ("concat", "stack")


@dataclass(frozen=True)
class Call:
    """`name(*before, *arrays, *after, **kwargs)`: derivatives are those by the arrays.

    Arrays of the host among the others are placed where the function runs.
    """

    name: str
    shapes: tuple[Shape, ...]
    after: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    before: tuple[Any, ...] = ()
    domains: tuple[Domain, ...] = (WIDE,) * 3

    def __call__(self, space: Any, place: Callable[[Any], Any], *arrays: Any) -> Any:
        f = getitem if self.name == "getitem" else attrgetter(self.name)(space)
        before, after = [
            [place(a) if isinstance(a, np.ndarray) else a for a in part]
            for part in (self.before, self.after)
        ]
        given = [list(arrays)] if self.name in LISTED else arrays
        return f(*before, *given, *after, **self.kwargs)


def shapes(least: int = 0, most: int = MOST_AXES, shortest: int = 0) -> Any:
    lengths = st.integers(shortest, LONGEST)
    return st.lists(lengths, min_size=least, max_size=most).map(tuple)


def axis_in(ndim: int) -> Any:
    return st.integers(-ndim, ndim - 1)


def some_axes(ndim: int) -> Any:
    """Distinct axes, in any order, counted from either end."""
    places = st.lists(st.integers(0, ndim - 1), min_size=1, max_size=ndim, unique=True)
    signs = st.lists(st.sampled_from((0, ndim)), min_size=ndim, max_size=ndim)
    return st.tuples(places, signs).map(
        lambda drawn: tuple(a - sign for a, sign in zip(drawn[0], drawn[1], strict=False))
    )


def axes_or_none(ndim: int) -> Any:
    return st.none() if ndim == 0 else st.none() | axis_in(ndim) | some_axes(ndim)


def named(axes: Any, ndim: int) -> tuple[int, ...]:
    """The axes, none of them negative, that a kwarg `axis` names."""
    listed = range(ndim) if axes is None else axes if isinstance(axes, tuple) else (axes,)
    return tuple(a % ndim for a in listed)


def given_or_left_out(name: str, values: Any, default: Any) -> Any:
    """A kwarg; where it is the default, it is not written."""
    return values.map(lambda value: {} if value is default else {name: value})


def stretchable(draw: Draw, shape: Shape) -> Shape:
    """A shape that broadcasts to this one: axes left out in front, or of length 1."""
    own = shape[draw(st.integers(0, len(shape))) :]
    ones = draw(st.lists(st.booleans(), min_size=len(own), max_size=len(own)))
    return tuple(1 if one else n for n, one in zip(own, ones, strict=True))


def together(draw: Draw, count: int, most: int = MOST_AXES) -> tuple[Shape, ...]:
    """Shapes that broadcast with each other."""
    shape = draw(shapes(most=most))
    return tuple(stretchable(draw, shape) for _ in range(count))


def booleans(draw: Draw, shape: Shape) -> np.ndarray:
    flags = st.lists(st.booleans(), min_size=prod(shape), max_size=prod(shape))
    return np.asarray(draw(flags), dtype=bool).reshape(shape)


def integers(draw: Draw, shape: Shape, below: int) -> np.ndarray:
    values = st.lists(st.integers(0, max(0, below - 1)), min_size=prod(shape), max_size=prod(shape))
    return np.asarray(draw(values), dtype=np.int64).reshape(shape)


def elementwise(name: str, left: Domain = WIDE, right: Domain = WIDE) -> Any:
    @st.composite
    def strategy(draw: Draw) -> Call:
        return Call(name, together(draw, 2), domains=(left, right))

    return strategy()


@st.composite
def where(draw: Draw) -> Call:
    condition, *others = together(draw, 3)
    return Call("where", tuple(others), before=(booleans(draw, condition),))


@st.composite
def clip(draw: Draw) -> Call:
    """Bounds that broadcast to x, as the standard has it."""
    shape = draw(shapes())
    bounds = (stretchable(draw, shape), stretchable(draw, shape))
    return Call("clip", (shape, *bounds), domains=(WIDE, (-1.5, -0.5), (0.5, 1.5)))


def reduction(name: str, empty: bool, domain: Domain = WIDE) -> Any:
    """Over nothing at all (an axis of length 0) only where `empty`."""

    @st.composite
    def strategy(draw: Draw) -> Call:
        shape = draw(shapes())
        axis = draw(axes_or_none(len(shape)))
        over, least, kwargs = named(axis, len(shape)), 0 if empty else 1, {}
        if name in ("var", "std") and over and draw(st.booleans()):
            kwargs["correction"] = draw(st.sampled_from((0.5, 1)))
            least = 2  # more elements than the correction takes away
        shape = tuple(max(least, n) if a in over else n for a, n in enumerate(shape))
        kwargs |= draw(given_or_left_out("keepdims", st.booleans(), False))
        kwargs |= {} if axis is None else {"axis": axis}
        return Call(name, (shape,), kwargs=kwargs, domains=(domain,))

    return strategy()


@st.composite
def cumulative_sum(draw: Draw) -> Call:
    shape = draw(shapes(1))
    axes = axis_in(len(shape)) | st.none() if len(shape) == 1 else axis_in(len(shape))
    kwargs = draw(given_or_left_out("axis", axes, None))
    kwargs |= draw(given_or_left_out("include_initial", st.booleans(), False))
    return Call("cumulative_sum", (shape,), kwargs=kwargs)


@st.composite
def cumulative_prod(draw: Draw) -> Call:
    return replace(draw(cumulative_sum()), name="cumulative_prod")


@st.composite
def diff(draw: Draw) -> Call:
    shape, n = draw(shapes(1)), draw(st.integers(0, 2))
    kwargs = draw(given_or_left_out("axis", axis_in(len(shape)), -1))
    return Call("diff", (shape,), kwargs=kwargs | ({} if n == 1 else {"n": n}))


@st.composite
def diagonal(draw: Draw) -> Call:
    offset = given_or_left_out("offset", st.integers(-4, 4), 0)
    return Call("linalg.diagonal", (draw(shapes(2)),), kwargs=draw(offset))


@st.composite
def reshape(draw: Draw) -> Call:
    shape = draw(shapes())
    rest, target = prod(shape), []
    for _ in range(draw(st.integers(0, 3))):
        target.append(draw(st.sampled_from([n for n in range(1, 10) if rest % n == 0])))
        rest = rest // target[-1]
    if rest != 1 or draw(st.booleans()):
        target.insert(draw(st.integers(0, len(target))), draw(st.sampled_from((rest, -1))))
    return Call("reshape", (shape,), (tuple(target),))


@st.composite
def permute_dims(draw: Draw) -> Call:
    shape = draw(shapes())
    order = draw(st.permutations(range(len(shape))))
    return Call("permute_dims", (shape,), (tuple(order),))


@st.composite
def moveaxis(draw: Draw) -> Call:
    shape = draw(shapes(1))
    source = draw(axis_in(len(shape)) | some_axes(len(shape)))
    if isinstance(source, int):
        return Call("moveaxis", (shape,), (source, draw(axis_in(len(shape)))))
    goals = draw(st.permutations(range(len(shape))))
    return Call("moveaxis", (shape,), (source, tuple(goals[: len(source)])))


@st.composite
def squeeze(draw: Draw) -> Call:
    shape = list(draw(shapes(1)))
    axes = draw(axis_in(len(shape)) | some_axes(len(shape)))
    for axis in named(axes, len(shape)):
        shape[axis] = 1
    return Call("squeeze", (tuple(shape),), kwargs={"axis": axes})


@st.composite
def expand_dims(draw: Draw) -> Call:
    shape = draw(shapes())
    return Call("expand_dims", (shape,), kwargs={"axis": draw(axis_in(len(shape) + 1))})


@st.composite
def flip(draw: Draw) -> Call:
    shape = draw(shapes())
    axes = axes_or_none(len(shape))
    return Call("flip", (shape,), kwargs=draw(given_or_left_out("axis", axes, None)))


@st.composite
def roll(draw: Draw) -> Call:
    shape, shift = draw(shapes()), st.integers(-4, 4)
    axis = draw(axes_or_none(len(shape)))
    if isinstance(axis, tuple):
        shift = st.tuples(*[shift] * len(axis)) | shift
    return Call("roll", (shape,), (draw(shift),), {} if axis is None else {"axis": axis})


@st.composite
def tile(draw: Draw) -> Call:
    times = st.lists(st.integers(0, 2), max_size=MOST_AXES).map(tuple)
    return Call("tile", (draw(shapes(most=3)),), (draw(times),))


@st.composite
def repeat(draw: Draw) -> Call:
    shape = draw(shapes())
    axis = draw(st.none() | axis_in(len(shape)) if shape else st.none())
    length = prod(shape) if axis is None else shape[axis]
    times = draw(st.integers(0, 2) | st.just("an array"))
    times = integers(draw, (length,), 3) if times == "an array" else times
    return Call("repeat", (shape,), (times,), {} if axis is None else {"axis": axis})


@st.composite
def broadcast_to(draw: Draw) -> Call:
    shape = draw(shapes())
    return Call("broadcast_to", (stretchable(draw, shape),), (shape,))


@st.composite
def broadcast_arrays(draw: Draw) -> Call:
    return Call("broadcast_arrays", together(draw, draw(st.integers(1, 3))))


@st.composite
def concat(draw: Draw) -> Call:
    count, axis = draw(st.integers(1, 3)), draw(st.none() | st.integers(-MOST_AXES, MOST_AXES - 1))
    if axis is None:
        each = tuple(draw(shapes(1, 2)) for _ in range(count))
        return Call("concat", each, kwargs={"axis": None})
    shape = draw(shapes(max(axis + 1, -axis)))
    lengths = [draw(st.integers(0, LONGEST)) for _ in range(count)]
    place = axis % len(shape)
    each = tuple((*shape[:place], n, *shape[place + 1 :]) for n in lengths)
    return Call("concat", each, kwargs=draw(given_or_left_out("axis", st.just(axis), 0)))


@st.composite
def stack(draw: Draw) -> Call:
    shape = draw(shapes(most=3))
    axis = given_or_left_out("axis", axis_in(len(shape) + 1), 0)
    return Call("stack", (shape,) * draw(st.integers(1, 3)), kwargs=draw(axis))


@st.composite
def unstack(draw: Draw) -> Call:
    shape = draw(shapes(1))
    axis = given_or_left_out("axis", axis_in(len(shape)), 0)
    return Call("unstack", (shape,), kwargs=draw(axis))


@st.composite
def take(draw: Draw) -> Call:
    shape = draw(shapes(1))
    axis = draw(axis_in(len(shape)))
    count = draw(st.integers(0, 4)) if shape[axis] else 0
    indices = integers(draw, (count,), shape[axis])
    left_out = len(shape) == 1 and draw(st.booleans())
    return Call("take", (shape,), (indices,), {} if left_out else {"axis": axis})


@st.composite
def take_along_axis(draw: Draw) -> Call:
    """The other axes broadcast, either way."""
    shape = draw(shapes(1))
    axis = draw(axis_in(len(shape)))
    x, indices = list(shape), list(shape)
    for a in range(len(shape)):
        (x, indices)[draw(st.integers(0, 1))][a] = draw(st.sampled_from((1, shape[a])))
    place, x[axis] = axis % len(shape), shape[axis]
    indices[place] = draw(st.integers(0, 4)) if shape[axis] else 0
    picked = integers(draw, tuple(indices), shape[axis])
    kwargs = draw(given_or_left_out("axis", st.just(axis), -1))
    return Call("take_along_axis", (tuple(x),), (picked,), kwargs)


@st.composite
def index(draw: Draw) -> Call:
    """Integers, slices, new axes, and the rest as it is."""
    shape, key = draw(shapes()), []
    steps = st.sampled_from((None, 1, 2, -1, -2))
    for n in shape[: draw(st.integers(0, len(shape)))]:
        if draw(st.booleans()):
            key.append(None)
        if n and draw(st.booleans()):
            key.append(draw(axis_in(n)))
        else:
            start, stop = sorted(draw(st.tuples(*[st.integers(0, n)] * 2)))
            step = draw(steps)
            backwards = step is not None and step < 0
            key.append(slice(None, None, step) if backwards else slice(start, stop, step))
    return Call("getitem", (shape,), ((*key, ...),))


@st.composite
def matmul(draw: Draw) -> Call:
    """Matrices and vectors; stacks of matrices broadcast."""
    n, k, m = draw(st.tuples(*[st.integers(0, LONGEST)] * 3))
    stacks = together(draw, 2, most=2)
    kinds = draw(st.tuples(st.booleans(), st.booleans()))
    left = (k,) if kinds[0] else (*stacks[0], n, k)
    right = (k,) if kinds[1] else (*stacks[1], k, m)
    return Call("matmul", (left, right))


@st.composite
def tensordot(draw: Draw) -> Call:
    left, right = list(draw(shapes(most=3))), list(draw(shapes(most=3)))
    count = draw(st.integers(0, min(len(left), len(right))))
    if draw(st.booleans()):
        pairs = (tuple(range(len(left) - count, len(left))), tuple(range(count)))
        kwargs = draw(given_or_left_out("axes", st.just(count), 2))
    else:
        orders = [draw(st.permutations(range(len(each))))[:count] for each in (left, right)]
        pairs = (tuple(orders[0]), tuple(orders[1]))
        kwargs = {"axes": pairs}
    for a, b in zip(*pairs, strict=True):
        right[b] = left[a]
    return Call("tensordot", (tuple(left), tuple(right)), kwargs=kwargs)


@st.composite
def vecdot(draw: Draw) -> Call:
    """Along the same axis of both, counted from the end; the others broadcast."""
    n, axis = draw(st.integers(0, LONGEST)), draw(st.integers(-3, -1))
    shape = draw(shapes(-axis))
    each = []
    for _ in range(2):
        own = list(stretchable(draw, shape))
        own = [1] * (-axis - len(own)) + own
        own[axis] = n
        each.append(tuple(own))
    return Call("vecdot", tuple(each), kwargs=draw(given_or_left_out("axis", st.just(axis), -1)))


CALLS: dict[str, Any] = {
    **{name: elementwise(name) for name in "add subtract multiply maximum minimum".split()},
    **{name: elementwise(name) for name in "hypot logaddexp copysign".split()},
    "divide": elementwise("divide", WIDE, POSITIVE),
    "pow": elementwise("pow", POSITIVE, WIDE),
    "atan2": elementwise("atan2", WIDE, POSITIVE),
    "remainder": elementwise("remainder", (0.1, 0.9), (1.1, 2.9)),
    "where": where(),
    "clip": clip(),
    "sum": reduction("sum", empty=True),
    "prod": reduction("prod", empty=True, domain=(0.5, 1.5)),
    **{name: reduction(name, empty=False) for name in "mean max min var std".split()},
    "cumulative_sum": cumulative_sum(),
    "cumulative_prod": cumulative_prod(),
    "diff": diff(),
    "linalg.diagonal": diagonal(),
    "reshape": reshape(),
    "permute_dims": permute_dims(),
    "moveaxis": moveaxis(),
    "squeeze": squeeze(),
    "expand_dims": expand_dims(),
    "flip": flip(),
    "roll": roll(),
    "tile": tile(),
    "repeat": repeat(),
    "broadcast_to": broadcast_to(),
    "broadcast_arrays": broadcast_arrays(),
    "concat": concat(),
    "stack": stack(),
    "unstack": unstack(),
    "take": take(),
    "take_along_axis": take_along_axis(),
    "getitem": index(),
    "matmul": matmul(),
    "tensordot": tensordot(),
    "vecdot": vecdot(),
}
