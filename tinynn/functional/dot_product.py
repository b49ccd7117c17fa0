"""Attention: the plain form, and one in blocks whose memory grows with the length alone."""

import math
from typing import Any, TypeAlias

from backends import scoped
from tinynn.functional.errors import DtypeError, ShapeError
from tinynn.functional.integers import require_integers
from tinynn.functional.lengths import counted, shape_of, valid_steps, without_padding
from tinynn.rules.special import stop_gradient
from tinynn.trace import namespace
from tinynn.trace.scopes import composite
from tinynn.transforms.derived import checkpoint
from tinynn.transforms.scan import scan

__all__ = ["attention"]

Array: TypeAlias = Any
LOWEST = float("-inf")


@composite
@scoped
def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    causal: bool = False,
    start: Array | int = 0,
    scale: float | None = None,
    block: int | None = None,
    factors: Array | None = None,
) -> Array:
    """Scaled dot-product attention: softmax(q @ k.mT * scale) @ v, for each head.

    The axes are in the order of `jax.nn.dot_product_attention`, (batch, time, heads, width);
    PyTorch's have heads before time.

    Parameters
    ----------
    q
        Queries, (batch, time, heads, width).
    k
        Keys, (batch, keys, key_heads, width). Fewer heads than the queries', a divisor of their
        number, are shared by groups of queries' heads that stand side by side.
    v
        Values, (batch, keys, key_heads, features).
    mask
        Booleans, True where a query sees a key: (batch, keys) for all queries alike, or
        (batch, heads, time, keys), in which each axis may be 1. A query that sees nothing gives
        zeros.
    lengths
        (batch,) integers, the number of keys that are none of the padding.
    causal
        Let the query at time t see the keys up to start + t alone.
    start
        The place of the first query among the keys, an integer or a 0-d array of it, from 0 to
        keys - 1: the number of keys that a cache held before.
    scale
        The factor of the products; None is 1 / sqrt(width).
    block
        None: all products of queries and keys are there at once. A number: so many queries and
        keys at a time are looked at, with a running softmax, and looked at again for the gradient.
        Memory then grows with the length and not with its square, and the time with the products
        that are computed twice. The results are the same but for rounding.
    factors
        (batch, heads, time, keys) numbers that the weights of keys are multiplied by once they sum
        to 1, such as the 0 and 1 / (1 - rate) of dropout; not beside `block`.

    Returns
    -------
    array
        (batch, time, heads, features), of the dtype of `q`.

    Raises
    ------
    ShapeError, DtypeError, ValueError
        An array does not fit the others, or the start is no place of a key.

    Notes
    -----
    The softmax of float16 and bfloat16 is computed in float32.

    Keys and values that `lengths`, or a mask of (batch, keys), excludes are not read: NaN there
    changes no result and no gradient.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762; grouped queries: Ainslie et al. 2023, arXiv:2305.13245;
    blocks: Rabe and Staats 2021, arXiv:2112.05682, and Dao et al. 2022, arXiv:2205.14135.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[[[0.0]], [[1.0]], [[2.0]]]])
    >>> attention(np.zeros_like(x), x, x, causal=True).ravel().tolist()
    [0.0, 0.5, 1.0]
    """
    if not causal and (type(start) is not int or start):
        raise ValueError(
            f"attention: expected causal=True beside a start, got start={start!r}, which says what "
            "a query may see of the keys. To fix it: leave start out, or let the queries be causal"
        )
    _check_shapes(q, k, v, block)
    _check_factors(q, k, factors, block)
    seen, pairs = _masks(q, k, mask, lengths)
    xp = namespace(q, k, v, seen, pairs, factors)
    k, v = without_padding(k, seen), without_padding(v, seen)
    heads, groups = int(k.shape[2]), int(q.shape[2]) // int(k.shape[2])
    q = q * (1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if groups > 1:  # (batch, heads, groups, time, width) against (batch, heads, 1, keys, width)
        q = xp.reshape(q, (*q.shape[:2], heads, groups, q.shape[3]))
        q = xp.permute_dims(q, (0, 2, 3, 1, 4))
        k, v = (xp.expand_dims(xp.permute_dims(a, (0, 2, 1, 3)), axis=2) for a in (k, v))
        if pairs is not None:
            split = (1, 1) if pairs.shape[1] == 1 else (heads, groups)
            pairs = xp.reshape(pairs, (pairs.shape[0], *split, *pairs.shape[2:]))
        if factors is not None:
            shape = (factors.shape[0], heads, groups, *factors.shape[2:])
            factors = namespace(factors).reshape(factors, shape)
    else:
        q, k, v = (xp.permute_dims(a, (0, 2, 1, 3)) for a in (q, k, v))
    if seen is not None:
        seen = xp.reshape(seen, (seen.shape[0], *(1,) * (q.ndim - 3), seen.shape[1]))
    rows = _rows(q, start, int(k.shape[-2])) if causal else None
    given = (q, k, v, seen, pairs, rows)
    out = _plain(*given, factors) if block is None else _in_blocks(*given, block)
    if groups > 1:
        out = xp.permute_dims(out, (0, 3, 1, 2, 4))
        return xp.reshape(out, (*out.shape[:2], heads * groups, out.shape[4]))
    return xp.permute_dims(out, (0, 2, 1, 3))


def _plain(
    q: Array,
    k: Array,
    v: Array,
    seen: Array | None,
    pairs: Array | None,
    rows: Array | None,
    factors: Array | None,
) -> Array:
    xp = namespace(q, k, v, seen, pairs, rows, factors)
    scores = _wide(xp.matmul(q, xp.matrix_transpose(k)))
    order = None if rows is None else _ahead(q, rows, k.shape[-2])
    for allowed in (_steps(xp, seen), pairs, order):
        if allowed is not None:
            scores = xp.where(allowed, scores, LOWEST)
    top = xp.max(stop_gradient(scores), axis=-1, keepdims=True)
    empty = seen is not None or pairs is not None  # the query at 0 sees a key if order is all
    powers = xp.exp(scores - (_finite(top) if empty else top))
    total = xp.sum(powers, axis=-1, keepdims=True)
    total = _positive(total) if empty else total
    if factors is not None:
        powers = xp.multiply(powers, factors)
    # Divided late: rows of a head's width are shorter than those of the keys.
    return _like(xp.matmul(powers, _like(v, powers)) / total, q)


def _in_blocks(
    q: Array,
    k: Array,
    v: Array,
    seen: Array | None,
    pairs: Array | None,
    places: Array | None,
    block: int,
) -> Array:
    """A scan over blocks of queries, and in it one over blocks of keys.

    Both forget what they compute in between: for the gradient it is computed again.
    """
    xp, (times, keys) = namespace(q, k, v, seen, pairs, places), (q.shape[-2], k.shape[-2])
    rows, columns = {"q": _cut(xp, q, -2, block)}, {
        "k": _cut(xp, k, -2, block), "v": _cut(xp, v, -2, block)
    }  # fmt: skip
    if pairs is not None:
        rows["pairs"] = _cut(xp, pairs, -2, block, rows["q"].shape[0])
    if seen is not None:
        columns["seen"] = _cut(xp, seen, -1, block)
    if places is not None:
        rows["row"] = _cut(xp, places, 0, block)
    if places is not None or keys % block:  # what fills the last block up is seen by nobody
        columns["column"] = _cut(xp, counted(q, keys), 0, block, fill=keys + times)

    def of_queries(row: Any, columns: Any) -> Any:
        if "pairs" in row:
            count = columns["k"].shape[0]
            columns = columns | {"pairs": _cut(xp, row["pairs"], -1, block, count)}
        held = {name: row[name] for name in row if name != "pairs"}
        narrow = _wide(stop_gradient(row["q"][..., :1]))
        wide = xp.multiply(narrow, _wide(columns["v"][0, ..., :1, :]))
        start = (xp.full_like(narrow, LOWEST), xp.zeros_like(narrow), xp.zeros_like(wide))
        step = checkpoint(lambda carry, column, held: _step(carry, column, held, keys))
        (_, total, out), _ = scan(lambda c, column: (step(c, column, held), None), start, columns)
        return _like(out / _positive(total), q)

    again = checkpoint(of_queries)
    _, out = scan(lambda carry, row: (carry, again(row, columns)), (), rows)
    out = xp.moveaxis(out, 0, -3)  # (..., blocks, block, features)
    out = xp.reshape(out, (*out.shape[:-3], out.shape[-3] * block, out.shape[-1]))
    return out[..., :times, :]


def _step(carry: Any, column: Any, row: Any, keys: int) -> Any:
    """The running maximum, sum and mixture of values, with one block of keys more."""
    top, total, out = carry
    q, k, v = row["q"], column["k"], column["v"]
    xp = namespace(q, k, v, out, column.get("seen"), column.get("pairs"))
    scores = _wide(xp.matmul(q, xp.matrix_transpose(k)))
    for allowed in (_steps(xp, column.get("seen")), column.get("pairs")):
        if allowed is not None:
            scores = xp.where(allowed, scores, LOWEST)
    if "column" in column:
        after = xp.expand_dims(row["row"], axis=1) if "row" in row else keys - 1
        scores = xp.where(xp.less_equal(column["column"], after), scores, LOWEST)
    top = stop_gradient(top)
    new = xp.maximum(top, xp.max(stop_gradient(scores), axis=-1, keepdims=True))
    base = _finite(new)
    # By functions, as any of these may be the only one that is not traced.
    shrink, powers = (xp.exp(xp.subtract(each, base)) for each in (top, scores))
    total = xp.add(xp.multiply(total, shrink), xp.sum(powers, axis=-1, keepdims=True))
    return new, total, xp.add(xp.multiply(out, shrink), xp.matmul(powers, _wide(v)))


def _cut(xp: Any, x: Array, axis: int, block: int, count: int = 0, fill: Any = None) -> Array:
    """One axis in blocks, which come first; an axis of 1 is there for each of `count` blocks."""
    axis, length = axis % x.ndim, x.shape[axis]
    if length == 1 and count:
        return xp.broadcast_to(xp.expand_dims(x, axis=0), (count, *x.shape))
    count = -(-length // block)
    if count * block > length:
        one = x[(*(slice(None),) * axis, slice(1), ...)]  # of x, so that the batch stays its batch
        one = xp.zeros_like(one) if fill is None else xp.full_like(one, fill)
        shape = (*x.shape[:axis], count * block - length, *x.shape[axis + 1 :])
        x = xp.concat([x, xp.broadcast_to(one, shape)], axis=axis)
    x = xp.reshape(x, (*x.shape[:axis], count, block, *x.shape[axis + 1 :]))
    return xp.moveaxis(x, axis, 0)


def _steps(xp: Any, seen: Array | None) -> Array | None:
    """Keys that are seen, (batch, 1, ..., keys), for every query."""
    return None if seen is None else xp.expand_dims(seen, axis=-2)


def _rows(q: Array, start: Array | int, keys: int) -> Array:
    """(time,): the places of the queries among the keys."""
    rows = counted(q, int(q.shape[-2]))
    if type(start) is int:
        if not 0 <= start < keys:
            raise ValueError(
                f"attention: expected a start from 0 to {keys - 1}, the last of the keys, got "
                f"{start}. To fix it: give the place of the first query among the keys"
            )
        return rows + start if start else rows
    require_integers("attention", "start", start, "xp.astype(start, xp.int32)")
    if getattr(start, "ndim", 0):
        raise ShapeError(
            f"attention: expected a 0-d start, got {shape_of(start)}. To fix it: give one number, "
            "or take each sequence's own by tinynn.vmap"
        )
    xp = namespace(rows, start)
    return xp.add(rows, xp.astype(start, rows.dtype))


def _ahead(q: Array, rows: Array, keys: int) -> Array:
    """(times, keys): True where the key is not ahead of the query."""
    columns = counted(q, keys)
    xp = namespace(rows, columns)
    return xp.less_equal(columns, xp.expand_dims(rows, axis=1))


def _finite(top: Array) -> Array:
    xp = namespace(top)
    return xp.where(xp.equal(top, LOWEST), xp.zeros_like(top), top)


def _positive(total: Array) -> Array:
    """The sum of the powers, of which the largest is 1; 1 where there are none."""
    xp = namespace(total)
    return xp.where(xp.equal(total, 0.0), xp.ones_like(total), total)


def _wide(x: Array) -> Array:
    """In float32, if it is of a half precision: sums over many keys need the digits."""
    xp = namespace(x)
    return xp.astype(x, xp.float32) if xp.finfo(x.dtype).bits < 32 else x


def _like(x: Array, other: Array) -> Array:
    return x if x.dtype == other.dtype else namespace(x).astype(x, other.dtype)


def _check_factors(q: Array, k: Array, factors: Array | None, block: int | None) -> None:
    if factors is None:
        return
    if block is not None:
        raise ValueError(
            "attention: expected factors or block, got both: factors are as large as all products. "
            "To fix it: leave one of them out"
        )
    full = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    if tuple(factors.shape) != full:
        raise ShapeError(
            f"attention: expected factors of shape (batch, heads, time, keys), here {full}, got "
            f"{shape_of(factors)}. To fix it: give one for each pair of a query and a key"
        )


def _check_shapes(q: Array, k: Array, v: Array, block: int | None) -> None:
    if not all(getattr(a, "ndim", 0) == 4 for a in (q, k, v)):
        raise ShapeError(
            "attention: expected q, k and v of shape (batch, time, heads, width), got "
            f"{', '.join(shape_of(a) for a in (q, k, v))}. To fix it: reshape them, (batch, time, "
            "heads, width // heads) for one"
        )
    fits = k.shape[0] == q.shape[0] and tuple(v.shape[:3]) == tuple(k.shape[:3])
    if not fits or k.shape[3] != q.shape[3] or not k.shape[1]:
        raise ShapeError(
            "attention: expected k of the batch and width of q, of one key or more, and v of "
            f"the batch, keys and heads of k, got {', '.join(map(shape_of, (q, k, v)))}. To fix "
            "it: make them from inputs of one batch"
        )
    if not k.shape[2] or q.shape[2] % k.shape[2]:
        raise ShapeError(
            f"attention: expected the heads of k to divide those of q, got {k.shape[2]} and "
            f"{q.shape[2]}. To fix it: give each key head the same number of query heads"
        )
    if block is not None and not (type(block) is int and block > 0):
        raise ValueError(f"attention: expected block to be None or 1 or more, got {block!r}")


def _masks(
    q: Array, k: Array, mask: Array | None, lengths: Array | None
) -> tuple[Array | None, Array | None]:
    """The keys that are seen, (batch, keys), and the pairs, (batch, heads, time, keys)."""
    batch, keys = q.shape[0], k.shape[1]
    seen = None if lengths is None else valid_steps("attention", lengths, batch, keys)
    if mask is None:
        return seen, None
    shape, rows = tuple(getattr(mask, "shape", ())), (batch, keys)
    full = (batch, q.shape[2], q.shape[1], keys)
    of_pairs = len(shape) == 4 and all(n in (1, m) for n, m in zip(shape, full, strict=True))
    if not of_pairs and shape != rows:
        raise ShapeError(
            f"attention: expected a mask of shape (batch, keys), here {rows}, or (batch, heads, "
            f"time, keys), here {full}, in which each may be 1, got {shape_of(mask)}. To fix it: "
            "give a mask of (time, keys) as mask[None, None, ...]"
        )
    xp = namespace(mask, seen)
    if not xp.isdtype(mask.dtype, "bool"):
        raise DtypeError(
            f"attention: expected a mask of booleans, True where a key is seen, got {mask.dtype}. "
            "To fix it: mask != 0; of numbers that are added to the products, mask == 0"
        )
    if of_pairs:
        return seen, mask
    return mask if seen is None else xp.logical_and(mask, seen), None
