"""Functions of arrays for the operators of ONNX that are no layers: what `from_onnx` reads.

Each takes arrays, or numbers, by position and its settings by keyword. `KNOWN` has them by name,
for networks that are read from files of ours.

Source: https://onnx.ai/onnx/operators/
"""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from math import prod, sqrt
from typing import Any, TypeAlias

from tinynn import functional
from tinynn.rules.special import erf, logsumexp
from tinynn.trace import backend_of, namespace

Array: TypeAlias = Any
Ints: TypeAlias = Sequence[int]


def _of_the_standard(name: str, folded: bool = False) -> Callable[..., Array]:
    """The standard's function of that name; `folded`: of any number of arrays, two by two."""

    def function(*arrays: Array) -> Array:
        xp = namespace(*arrays)
        call = getattr(xp, name)
        return reduce(call, arrays) if folded else call(*arrays)

    function.__name__ = function.__qualname__ = name
    return function


def _reduction(name: str) -> Callable[..., Array]:
    """A reduction of the standard over axes; None are all."""

    def function(x: Array, *, axis: Ints | None = None, keepdims: bool = True) -> Array:
        axes = None if axis is None else tuple(axis)
        return getattr(namespace(x), name)(x, axis=axes, keepdims=keepdims)

    function.__name__ = function.__qualname__ = f"reduce_{name}"
    return function


def _vector_reduction(name: str, formula: Callable[[Any, Array, Any], Array]) -> Any:
    def function(x: Array, *, axis: Ints | None = None, keepdims: bool = True) -> Array:
        axes = None if axis is None else tuple(axis)
        return formula(namespace(x), x, {"axis": axes, "keepdims": keepdims})

    function.__name__ = function.__qualname__ = f"reduce_{name}"
    return function


def _largest_at(name: str) -> Callable[..., Array]:
    def function(x: Array, *, axis: int = 0, keepdims: bool = True) -> Array:
        return getattr(namespace(x), name)(x, axis=axis, keepdims=keepdims)

    function.__name__ = function.__qualname__ = name
    return function


# --- numbers


def mean_of(*arrays: Array) -> Array:
    """The mean of several arrays, element by element."""
    return reduce(operator.add, arrays) / len(arrays)


def clip(x: Array, low: Any = None, high: Any = None) -> Array:
    """No smaller than `low`, no larger than `high`."""
    return namespace(x).clip(x, low, high)


def hard_sigmoid(x: Array, *, alpha: float = 0.2, beta: float = 0.5) -> Array:
    """alpha * x + beta, between 0 and 1."""
    return namespace(x).clip(alpha * x + beta, 0.0, 1.0)


def hard_swish(x: Array) -> Array:
    """x * hard_sigmoid(x) with alpha 1/6."""
    return x * hard_sigmoid(x, alpha=1.0 / 6.0)


def selu(x: Array, *, alpha: float = 1.6732632, gamma: float = 1.0507010) -> Array:
    """gamma * elu(x, alpha)."""
    return gamma * functional.elu(x, alpha)


def celu(x: Array, *, alpha: float = 1.0) -> Array:
    """alpha * elu(x / alpha), whose slope is 1 at zero."""
    return alpha * functional.elu(x / alpha)


def mish(x: Array) -> Array:
    """x * tanh(softplus(x))."""
    return x * functional.tanh(functional.softplus(x))


def softsign(x: Array) -> Array:
    """x / (1 + abs(x))."""
    return x / (1.0 + abs(x))


def swish(x: Array, *, alpha: float = 1.0) -> Array:
    """x * sigmoid(alpha * x)."""
    return x * functional.sigmoid(alpha * x)


def thresholded_relu(x: Array, *, alpha: float = 1.0) -> Array:
    """x where it is above alpha, 0 elsewhere."""
    return _where(x > alpha, x, 0.0)


def shrink(x: Array, *, lambd: float = 0.5, bias: float = 0.0) -> Array:
    """x moved towards 0 by `bias` where it is further than `lambd` from it, 0 elsewhere."""
    return _where(x < -lambd, x + bias, _where(x > lambd, x - bias, 0.0))


def _where(condition: Array, a: Array, b: Any) -> Array:
    xp = namespace(condition, a)
    return xp.where(condition, a, xp.full_like(a, b) if isinstance(b, float) else b)


def prelu(x: Array, slope: Array) -> Array:
    """x where positive, slope * x elsewhere."""
    return namespace(x, slope).where(x >= 0, x, slope * x)


def gelu_tanh(x: Array) -> Array:
    """The approximation of gelu by a tanh: Hendrycks and Gimpel 2016, arXiv:1606.08415."""
    return 0.5 * x * (1.0 + functional.tanh(sqrt(0.63661977236) * (x + 0.044715 * x * x * x)))


def hardmax(x: Array, *, axis: int = -1) -> Array:
    """1 at the first of the largest elements along an axis, 0 elsewhere."""
    xp, rank = namespace(x), x.ndim
    best = xp.argmax(x, axis=axis, keepdims=True)
    places = xp.arange(x.shape[axis], device=backend_of(x).device)
    places = xp.reshape(places, (-1, *(1,) * (rank - 1 - axis % rank)))
    return xp.astype(places == best, x.dtype)


def softmax_over(x: Array, *, axis: Ints, log: bool = False) -> Array:
    """softmax, or its logarithm, over several axes together."""
    xp, axes = namespace(x), tuple(axis)
    shifted = x - xp.max(x, axis=axes, keepdims=True)
    total = xp.sum(xp.exp(shifted), axis=axes, keepdims=True)
    return shifted - xp.log(total) if log else xp.exp(shifted) / total


def astype(x: Array, *, dtype: str) -> Array:
    """Converted to a dtype by its name."""
    return namespace(x).astype(x, backend_of(x).dtypes()[dtype])


def gemm(
    a: Array, b: Array, c: Any = 0.0, *, alpha: float = 1.0, beta: float = 1.0,
    trans_a: bool = False, trans_b: bool = False,
) -> Array:  # fmt: skip
    """alpha * a @ b + beta * c, of matrices or their transposes."""
    xp = namespace(a, b)
    a, b = (xp.matrix_transpose(m) if t else m for m, t in ((a, trans_a), (b, trans_b)))
    return alpha * (a @ b) + beta * c


# --- norms


def _normal(x: Array, axes: Any, epsilon: float) -> Array:
    xp = namespace(x)
    centred = x - xp.mean(x, axis=axes, keepdims=True)
    return centred / xp.sqrt(xp.mean(centred * centred, axis=axes, keepdims=True) + epsilon)


def _by_channel(x: Array, weight: Array) -> Array:
    return namespace(weight).reshape(weight, (-1, *(1,) * (x.ndim - 2)))


def layer_norm(
    x: Array, weight: Array, bias: Any = 0.0, *, axis: int = -1, epsilon: float = 1e-5
) -> Array:
    """Mean 0 and variance 1 over all axes from `axis` on."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    return _normal(x, axes, epsilon) * weight + bias


def rms_norm(x: Array, weight: Array, *, axis: int = -1, epsilon: float = 1e-5) -> Array:
    """A mean square of 1 over all axes from one on: Zhang and Sennrich 2019, arXiv:1910.07467."""
    xp, axes = namespace(x), tuple(range(axis % x.ndim, x.ndim))
    return x / xp.sqrt(xp.mean(x * x, axis=axes, keepdims=True) + epsilon) * weight


def instance_norm(x: Array, weight: Array, bias: Array, *, epsilon: float = 1e-5) -> Array:
    """Mean 0 and variance 1 for each sample and channel; channels first."""
    y = _normal(x, tuple(range(2, x.ndim)), epsilon)
    return y * _by_channel(x, weight) + _by_channel(x, bias)


def group_norm(
    x: Array, weight: Array, bias: Array, *, groups: int, epsilon: float = 1e-5
) -> Array:
    """Mean 0 and variance 1 for each sample and group of channels; channels first."""
    xp, shape = namespace(x), tuple(x.shape)
    parts = xp.reshape(x, (shape[0], groups, prod(shape[1:]) // groups))
    y = xp.reshape(_normal(parts, (2,), epsilon), shape)
    return y * _by_channel(x, weight) + _by_channel(x, bias)


def mean_variance_norm(x: Array, *, axis: Ints = (0, 2, 3)) -> Array:
    """Mean 0 and deviation 1 over some axes."""
    return _normal(x, tuple(axis), 0.0)


def local_response_norm(
    x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Array:
    """Divided by a power of the sum of squares of neighbouring channels; channels first."""
    before, channels = (size - 1) // 2, x.shape[1]
    pads = ((0, 0), (before, size - 1 - before), *((0, 0),) * (x.ndim - 2))
    square = pad_axes(x * x, pads=pads)
    total = reduce(operator.add, [square[:, i : i + channels, ...] for i in range(size)])
    return x / (bias + alpha / size * total) ** beta


def lp_norm(x: Array, *, axis: int = -1, p: int = 2) -> Array:
    """Divided by the norm along an axis; zeros stay."""
    xp = namespace(x)
    norm = xp.linalg.vector_norm(x, axis=axis, keepdims=True, ord=p)
    return x / xp.where(norm == 0, xp.ones_like(norm), norm)


# --- shapes


def reshape(x: Array, *, shape: Ints) -> Array:
    """In another shape; 0 keeps the length of that axis, -1 follows from the others."""
    lengths = tuple(x.shape[i] if n == 0 else n for i, n in enumerate(shape))
    return namespace(x).reshape(x, lengths)


def permute_dims(x: Array, *, axes: Ints) -> Array:
    """The axes in another order."""
    return namespace(x).permute_dims(x, tuple(axes))


def squeeze(x: Array, *, axis: Ints) -> Array:
    """Without some axes of length 1."""
    return namespace(x).squeeze(x, axis=tuple(axis))


def unsqueeze(x: Array, *, axis: Ints) -> Array:
    """With axes of length 1 at these places of the result."""
    rank, xp = x.ndim + len(axis), namespace(x)
    for each in sorted(a % rank for a in axis):
        x = xp.expand_dims(x, axis=each)
    return x


def concat(*arrays: Array, axis: int) -> Array:
    """One array after the other."""
    return namespace(*arrays).concat(list(arrays), axis=axis)


def split(x: Array, *, sizes: Ints, axis: int = 0) -> tuple[Array, ...]:
    """Parts of these lengths along an axis."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    before = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*before, slice(end - n, end), ...)] for n, end in zip(sizes, ends, strict=True))


def item(values: Sequence[Array], *, index: int) -> Array:
    """One of several results."""
    return values[index]


def slices(x: Array, *, starts: Ints, ends: Ints, axes: Ints, steps: Ints) -> Array:
    """Every step-th element between two places of some axes."""
    xp = namespace(x)
    key: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        n, axis = x.shape[axis], axis % x.ndim
        low = -1 if step < 0 else 0
        first = min(max(start + n if start < 0 else start, low + (step < 0)), n + low)
        last = min(max(end + n if end < 0 else end, low), n)
        if step > 0:
            key[axis] = slice(first, max(last, first), step)
        else:  # not every library has negative steps: the other way round, then turned
            count = max(-(-(first - last) // -step), 0)
            x = xp.flip(x[(*(slice(None),) * axis, slice(last + 1, first + 1), ...)], axis=axis)
            key[axis] = slice(0, count * -step, -step)
    return x[tuple(key)]


def expand(x: Array, like: Any = None, *, shape: Ints) -> Array:
    """Repeated to a shape, whose -1 is the size of the batch that `like` has."""
    wanted = [like.shape[0] if n == -1 else n for n in shape]
    rank = max(len(wanted), x.ndim)
    if like is not None:  # a constant alone would be of the batch of one recording
        xp, axis = namespace(x, like), shape.index(-1) - len(shape)
        rows = xp.ones_like(like[(slice(None), *(0,) * (like.ndim - 1))], dtype=xp.bool)
        x = xp.where(xp.reshape(rows, (-1, *(1,) * (-axis - 1))), x, x)
    pairs = zip([1] * (rank - x.ndim) + list(x.shape), [1] * (rank - len(wanted)) + wanted,
                strict=True)  # fmt: skip
    return namespace(x).broadcast_to(x, tuple(b if a == 1 else a for a, b in pairs))


def tile(x: Array, *, repeats: Ints) -> Array:
    """Repeated along its axes."""
    return namespace(x).tile(x, tuple(repeats))


def gather(x: Array, indices: Any, *, axis: int = 0) -> Array:
    """The entries at indices along an axis; negative ones count from the end."""
    axis = axis % x.ndim
    if isinstance(indices, int):
        return x[(*(slice(None),) * axis, indices, ...)]
    xp, n = namespace(x, indices), x.shape[axis]
    indices = xp.where(indices < 0, indices + n, indices)
    flat = xp.take(x, xp.reshape(indices, (-1,)), axis=axis)
    return xp.reshape(flat, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def gather_elements(x: Array, indices: Array, *, axis: int = 0) -> Array:
    """The entries at indices along an axis, for each slice its own."""
    xp = namespace(x, indices)
    indices = xp.where(indices < 0, indices + x.shape[axis], indices)
    axis = axis % x.ndim  # along the others there may be fewer indices than entries
    x = x[tuple(slice(None if i == axis else n) for i, n in enumerate(indices.shape))]
    return xp.take_along_axis(x, indices, axis=axis)


def trilu(x: Array, *, k: int = 0, upper: bool = True) -> Array:
    """The part of matrices on one side of a diagonal."""
    xp = namespace(x)
    return xp.triu(x, k=k) if upper else xp.tril(x, k=k)


def pad_axes(
    x: Array, *, pads: Sequence[Ints], value: float = 0.0, mode: str = "constant"
) -> Array:
    """Elements around every axis, (before, after); negative numbers cut.

    mode: "constant", or "edge", "reflect" and "wrap", which take them from x.
    """
    xp = namespace(x)
    for axis, (low, high) in enumerate(pads):
        before, n = (slice(None),) * axis, x.shape[axis]
        if min(low, high) < 0:
            x = x[(*before, slice(max(-low, 0), n - max(-high, 0)), ...)]
            low, high, n = max(low, 0), max(high, 0), x.shape[axis]
        if not low and not high:
            continue
        if mode == "constant":
            one = xp.full_like(x[(*before, slice(1), ...)], value)
            shapes = [(*x.shape[:axis], count, *x.shape[axis + 1 :]) for count in (low, high)]
            ends = [xp.broadcast_to(one, shape) if shape[axis] else None for shape in shapes]
            parts = [part for part in (ends[0], x, ends[1]) if part is not None]
            x = xp.concat(parts, axis=axis)
        else:
            places = [_place(i, n, mode) for i in range(-low, n + high)]
            x = xp.take(x, backend_of(x).asarray(places, dtype="int64"), axis=axis)
    return x


def _place(i: int, n: int, mode: str) -> int:
    if mode == "edge":
        return min(max(i, 0), n - 1)
    if mode == "wrap":
        return i % n
    i %= max(2 * n - 2, 1)  # back and forth
    return min(i, 2 * n - 2 - i)


def depth_to_space(x: Array, *, size: int, mode: str = "DCR") -> Array:
    """Blocks of channels as squares of pixels; channels first."""
    xp, (batch, channels, height, width) = namespace(x), x.shape
    rest = channels // size**2
    if mode == "DCR":
        x = xp.reshape(x, (batch, size, size, rest, height, width))
        x = xp.permute_dims(x, (0, 3, 4, 1, 5, 2))
    else:
        x = xp.reshape(x, (batch, rest, size, size, height, width))
        x = xp.permute_dims(x, (0, 1, 4, 2, 5, 3))
    return xp.reshape(x, (batch, rest, height * size, width * size))


def space_to_depth(x: Array, *, size: int, mode: str = "DCR") -> Array:
    """Squares of pixels as blocks of channels; channels first."""
    xp, (batch, channels, height, width) = namespace(x), x.shape
    x = xp.reshape(x, (batch, channels, height // size, size, width // size, size))
    x = xp.permute_dims(x, (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4))
    return xp.reshape(x, (batch, channels * size**2, height // size, width // size))


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    *,
    heads: int = 0,
    key_heads: int = 0,
    scale: float | None = None,
    causal: bool = False,
) -> Array:
    """softmax(q @ k.T * scale) @ v of (batch, heads, time, width), or of heads side by side.

    heads, key_heads: 0 where they are an axis. mask: what is added to the products, or booleans;
    keys that it does not reach are not seen.
    """
    xp = namespace(q, k, v)

    def apart(x: Array, count: int) -> Array:
        """(batch, heads, time, width)"""
        if not count:
            return x
        return xp.moveaxis(xp.reshape(x, (*x.shape[:2], count, x.shape[2] // count)), 1, 2)

    q, k, v = apart(q, heads), apart(k, key_heads), apart(v, key_heads)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (_repeated(xp, x, groups) for x in (k, v))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    products = xp.matmul(q, xp.matrix_transpose(k)) * scale
    if causal:
        ones = xp.ones(products.shape[2:], dtype=xp.bool, device=backend_of(q).device)
        products = xp.where(xp.tril(ones), products, float("-inf"))
    if mask is not None:
        added = not xp.isdtype(mask.dtype, "bool")
        short = max(0, products.shape[3] - mask.shape[-1])
        ends = [(0, 0)] * (mask.ndim - 1) + [(0, short)]
        mask = pad_axes(mask, pads=ends, value=float("-inf") if added else False)
        products = products + mask if added else xp.where(mask, products, float("-inf"))
    seen = xp.max(products, axis=-1, keepdims=True) > float("-inf")  # else there is nothing to mix
    shares = xp.where(seen, functional.softmax(xp.where(seen, products, 0.0)), 0.0)
    y = xp.matmul(shares, v)
    if not heads:
        return y
    y = xp.moveaxis(y, 1, 2)
    return xp.reshape(y, (*y.shape[:2], -1))


def _repeated(xp: Any, x: Array, times: int) -> Array:
    """Each head so many times."""
    shape = (*x.shape[:2], times, *x.shape[2:])
    wide = xp.broadcast_to(xp.expand_dims(x, axis=2), shape)
    return xp.reshape(wide, (x.shape[0], x.shape[1] * times, *x.shape[2:]))


UNARY = (
    "abs acos acosh asin asinh atan atanh ceil cos cosh exp floor isinf isnan log negative "
    "reciprocal round sign sin sinh sqrt tan bitwise_invert logical_not"
).split()
BINARY = (
    "equal greater greater_equal less less_equal logical_and logical_or logical_xor bitwise_and "
    "bitwise_or bitwise_xor matmul remainder where"
).split()
#: Of any number of arrays.
FOLDED = ("add", "maximum", "minimum")
REDUCED = ("max", "mean", "min", "prod", "sum")

_MADE: list[Callable[..., Array]] = [
    *(_of_the_standard(name) for name in UNARY + BINARY),
    *(_of_the_standard(name, folded=True) for name in FOLDED),
    erf,
    *map(_reduction, REDUCED),
    *map(_largest_at, ("argmax", "argmin")),
    _vector_reduction("l1", lambda xp, x, over: xp.sum(abs(x), **over)),
    _vector_reduction("l2", lambda xp, x, over: xp.sqrt(xp.sum(x * x, **over))),
    _vector_reduction("log_sum", lambda xp, x, over: xp.log(xp.sum(x, **over))),
    _vector_reduction("sum_square", lambda xp, x, over: xp.sum(x * x, **over)),
    _vector_reduction("logsumexp", lambda xp, x, over: logsumexp(x, **over)),
    *(operator.sub, operator.mul, operator.truediv, operator.pow),
    *(mean_of, clip, hard_sigmoid, hard_swish, selu, celu, mish, softsign, swish),
    *(thresholded_relu, shrink, prelu, gelu_tanh, hardmax, softmax_over, astype, gemm),
    *(layer_norm, rms_norm, instance_norm, group_norm, mean_variance_norm, local_response_norm),
    *(lp_norm, reshape, permute_dims, squeeze, unsqueeze, concat, split, item, slices, expand),
    *(tile, gather, gather_elements, trilu, pad_axes, depth_to_space, space_to_depth, attention),
]  # fmt: skip


KNOWN: dict[str, Callable[..., Array]] = {each.__name__: each for each in _MADE}
