"""Batching rules: each function of arrays with one more axis, the batch axis, in front.

`BATCHING[key](f, xp, args, batched, size, kwargs)` calls `f` (or others) so that entry i of the
result's axis 0 is what `f` gives for entry i of the arrays for which `batched` is true; the others
are the same for every entry. Element-wise functions and reductions need no row: their kind says
it. Functions composed of others are batched through those.
"""

from collections.abc import Callable
from math import prod
from typing import Any

from tinynn.rules import special
from tinynn.rules.complex import device_of
from tinynn.rules.kinds import Elementwise, Reduction, rule_of
from tinynn.trace import Function
from tinynn.trace.core import getitem, put_back, to_device

Batcher = Callable[..., Any]
BATCHING: dict[Any, Batcher] = {}


def UNBATCHABLE(*args: Any) -> Any:
    """In place of a batcher: the shape of the result depends on the values of each entry."""


def batcher_of(function: Function) -> Batcher | None:
    """The way of batching this function, by its own row or by the kind of its rule."""
    found = BATCHING.get(function.key)
    if found is not None:
        return found
    rule = rule_of(function)
    if isinstance(rule, Elementwise) or (rule is not None and rule.scalar is not None):
        return elementwise
    return reduction if isinstance(rule, Reduction) else None


def aligned(xp: Any, args: Any, batched: list[bool]) -> list[Any]:
    """Arrays whose entries broadcast as they would without the batch axis."""
    ranks = [a.ndim - own for a, own in zip(args, batched, strict=True) if hasattr(a, "ndim")]
    rank = max(ranks, default=0)

    def widened(a: Any) -> Any:
        missing = rank + 1 - a.ndim
        if missing == 0:
            return a
        return xp.reshape(a, (a.shape[0], *(1,) * missing, *a.shape[1:]))

    return [widened(a) if own else a for a, own in zip(args, batched, strict=True)]


def everywhere(xp: Any, args: Any, batched: list[bool], size: int) -> list[Any]:
    """All arrays with the batch axis: those without are repeated along it."""
    return [
        a if own else xp.broadcast_to(a, (size, *a.shape))
        for a, own in zip(args, batched, strict=True)
    ]


def rows(xp: Any, x: Any) -> Any:
    """Each entry's elements in a row: (size, elements). -1 is ambiguous for empty batches."""
    return xp.reshape(x, (x.shape[0], prod(x.shape[1:])))


def shifted(axis: Any) -> Any:
    """The axis or axes as they are counted with the batch axis in front."""
    if isinstance(axis, tuple | list):
        return tuple(shifted(a) for a in axis)
    return axis + 1 if axis >= 0 else axis


def checked(axis: Any, x: Any, f: Any) -> Any:
    """`shifted(axis)`, once it is known to be an axis of an entry and not the batch's."""
    for a in axis if isinstance(axis, tuple | list) else (axis,):
        if not -(x.ndim - 1) <= a < x.ndim - 1:
            raise ValueError(
                f"{f.name}: axis {a} is out of range under vmap, where each entry of the batch "
                f"has shape {tuple(x.shape[1:])}"
            )
    return shifted(axis)


def elementwise(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """Functions of the elements in one place. The compiler, too, knows them by this row."""
    return f(*aligned(xp, args, batched), **kwargs)


def trailing(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """Functions of the last axes that broadcast over the rest."""
    return elementwise(f, xp, args, batched, size, kwargs)


def reduction(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """Functions over one, several or all axes."""
    x, axis = args[0], kwargs.get("axis")
    if axis is None:
        axis = tuple(range(x.ndim - 1))
    return f(x, **{**kwargs, "axis": checked(axis, x, f)})


def along(flat: bool, default: Any = None) -> Batcher:
    """A function along one axis.

    Where `axis` is not given it is `default`; where that is None, all elements in a row, as which
    they stay in the result if `flat`.
    """

    def batch(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
        x, axis = args[0], kwargs.get("axis", default)
        if axis is not None:
            return f(x, **{**kwargs, "axis": checked(axis, x, f)})
        rest = {name: value for name, value in kwargs.items() if name != "axis"}
        if x.ndim == 2 or flat:
            return f(rows(xp, x), axis=-1, **rest)
        y = f(rows(xp, x), axis=-1, **{**rest, "keepdims": False})
        kept = (1,) * (x.ndim - 1) if rest.get("keepdims") else ()
        return xp.reshape(y, (size, *kept))

    return batch


def batch_reshape(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """Functions that are given the shape of the result."""
    (x,) = args
    if f.name == "broadcast_to":
        (x,) = aligned(xp, [x], batched)
        missing = len(kwargs["shape"]) + 1 - x.ndim
        x = xp.reshape(x, (size, *(1,) * missing, *x.shape[1:]))
    shape = kwargs["shape"]
    if -1 in shape:
        known = -prod(shape)
        length = prod(x.shape[1:]) // known if known else 0
        shape = tuple(length if n == -1 else n for n in shape)
    return f(x, **{**kwargs, "shape": (size, *shape)})


def on_axes(*names: str) -> Batcher:
    """A function whose keywords `names` hold axes: they count from behind the batch axis."""

    def batch(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
        moved = {name: checked(kwargs[name], args[0], f) for name in names if name in kwargs}
        return f(args[0], **{**kwargs, **moved})

    return batch


def batch_expand_dims(
    f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any
) -> Any:
    """expand_dims: by default the new axis comes first in the entry, behind the batch axis."""
    return f(args[0], axis=shifted(kwargs.get("axis", 0)))


def batch_permute_dims(
    f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any
) -> Any:
    """permute_dims: the batch axis stays in front."""
    (x,) = args
    return f(x, axes=(0, *(axis % (x.ndim - 1) + 1 for axis in kwargs["axes"])))


def batch_flip(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """flip: without an axis all axes of an entry are meant."""
    (x,) = args
    axis = kwargs.get("axis")
    axis = tuple(range(x.ndim - 1)) if axis is None else axis
    return f(x, axis=checked(axis, x, f))


def batch_roll(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """roll: without an axis each entry is rolled as if it were flat."""
    (x,) = args
    if kwargs.get("axis") is not None:
        return f(x, shift=kwargs["shift"], axis=checked(kwargs["axis"], x, f))
    return xp.reshape(f(rows(xp, x), shift=kwargs["shift"], axis=1), x.shape)


def batch_concat(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """concat and stack."""
    args = everywhere(xp, args, batched, size)
    axis = kwargs.get("axis", 0)
    if axis is None:
        return f([rows(xp, a) for a in args], axis=1)
    return f(args, axis=shifted(axis))


def batch_matmul(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """matmul: vectors are temporarily matrices; the rows of all entries meet one matrix at once."""
    (a, b), (own_a, own_b) = args, batched
    vector_a, vector_b = a.ndim - own_a == 1, b.ndim - own_b == 1
    a = xp.expand_dims(a, axis=-2) if vector_a else a
    b = xp.expand_dims(b, axis=-1) if vector_b else b
    if own_a and not own_b and a.ndim == 3 and b.ndim == 2:
        rows = xp.matmul(xp.reshape(a, (size * a.shape[1], a.shape[2])), b)
        y = xp.reshape(rows, (size, a.shape[1], b.shape[1]))
    else:
        y = xp.matmul(*aligned(xp, [a, b], batched))
    y = xp.squeeze(y, axis=-1) if vector_b else y
    return xp.squeeze(y, axis=-1 if vector_b else -2) if vector_a else y


def batch_take(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """take: each entry may have its own indices."""
    x, indices = args
    entry_rank = x.ndim - batched[0]
    axis = kwargs.get("axis", 0) % entry_rank
    if not batched[1]:
        return f(x, indices, axis=axis + 1)
    x, indices = everywhere(xp, args, batched, size)
    x, indices = _in_a_row(xp, x, indices, axis)
    y = xp.take(x, xp.reshape(indices, (-1,)), axis=0)
    return xp.moveaxis(xp.reshape(y, (*indices.shape, *x.shape[1:])), 1, axis + 1)


def batch_scatter_add(
    f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any
) -> Any:
    """scatter_add: the entries are added to one after another, in one array."""
    axis = kwargs.get("axis", 0) % (args[0].ndim - batched[0])
    whole, indices, updates = everywhere(xp, args, batched, size)
    x, indices = _in_a_row(xp, whole, indices, axis)
    updates = xp.moveaxis(updates, axis + 1, 1)
    updates = xp.reshape(updates, (prod(indices.shape), *updates.shape[2:]))
    y = f(x, xp.reshape(indices, (-1,)), updates, axis=0)
    y = xp.reshape(y, (size, whole.shape[axis + 1], *y.shape[1:]))
    return xp.moveaxis(y, 1, axis + 1)


def _in_a_row(xp: Any, x: Any, indices: Any, axis: int) -> tuple[Any, Any]:
    """The entries one after another along axis 0, and the indices (size, k) into that."""
    x = xp.moveaxis(x, axis + 1, 1)
    size, length = x.shape[:2]
    starts = xp.arange(size, device=device_of(x)) * length
    indices = xp.astype(indices, starts.dtype)  # small integers do not reach that far
    indices = xp.where(indices < 0, indices + length, indices)
    # Beyond the end of an entry is the next one.
    indices = xp.clip(indices, 0, max(length - 1, 0))
    indices = xp.add(indices, xp.reshape(starts, (-1, 1)))
    return xp.reshape(x, (size * length, *x.shape[2:])), indices


def batch_take_along_axis(
    f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any
) -> Any:
    """take_along_axis."""
    x, indices = everywhere(xp, args, batched, size)
    return f(x, indices, axis=shifted(kwargs.get("axis", -1)))


def batch_getitem(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """getitem: the index picks the same elements of every entry."""
    x, *arrays = args
    key = kwargs["key"] if isinstance(kwargs["key"], tuple) else (kwargs["key"],)
    if not arrays:
        return f(x, key=(slice(None), *key))
    shape = tuple(x.shape[batched[0] :])
    if not any(batched[1:]):
        table = xp.reshape(xp.arange(prod(shape), device=device_of(x)), shape)
        places = table[put_back(key, arrays)]
        y = xp.take(rows(xp, x), xp.reshape(places, (-1,)), axis=1)
        return xp.reshape(y, (size, *places.shape))
    kinds = [xp.isdtype(array.dtype, "bool") for array in arrays]
    alone = len([part for part in key if part is not ...]) == 1 and key[0] is not ...
    if len(arrays) == 1 and alone and not any(kinds):
        x, index = everywhere(xp, args, batched, size)
        y = batch_take(xp.take, xp, [x, rows(xp, index)], [True, True], size, {"axis": 0})
        return xp.reshape(y, (size, *index.shape[1:], *shape[1:]))
    if any(kinds):
        raise NotImplementedError(
            "x[mask] under vmap: a mask that differs from entry to entry picks another number of "
            "elements in each; write xp.where(mask, x, 0) instead"
        )
    raise ValueError(
        "x[...] under vmap: an index with an array that differs from entry to entry is understood "
        "alone only, as x[index, ...]; write it with xp.take or xp.take_along_axis"
    )


def batch_unchanged(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """Functions that act on the whole batch as on each entry."""
    return f(*args, **kwargs)


def over_axes(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """Functions along `axes`, by default along all, or as many of the last as `s` has lengths."""
    (x,) = args
    axes, lengths = kwargs.get("axes"), kwargs.get("s")
    if axes is None:
        axes = tuple(range(-(x.ndim - 1 if lengths is None else len(lengths)), 0))
    return f(x, **{**kwargs, "axes": checked(axes, x, f)})


def batch_solve(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """solve: a vector is temporarily a matrix."""
    a, b = args
    vector = b.ndim - batched[1] == 1
    b = xp.expand_dims(b, axis=-1) if vector else b
    y = f(*aligned(xp, [a, b], batched))
    return xp.squeeze(y, axis=-1) if vector else y


def batch_isin(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """isin: compared with each of the other elements."""
    if not batched[1]:
        return f(*args, **kwargs)
    x, others = everywhere(xp, args, batched, size)
    count = prod(others.shape[1:])
    others = xp.reshape(others, (size, *(1,) * (x.ndim - 1), count))
    found = xp.any(xp.equal(xp.expand_dims(x, axis=-1), others), axis=-1)
    return xp.logical_not(found) if kwargs.get("invert") else found


def batch_searchsorted(
    f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any
) -> Any:
    """searchsorted: the place is the number of elements that come before."""
    x, values = everywhere(xp, args, batched, size)
    if kwargs.get("sorter") is not None:
        sorter = xp.broadcast_to(kwargs["sorter"], x.shape)
        x = xp.take_along_axis(x, sorter, axis=-1)
    x = xp.reshape(x, (size, *(1,) * (values.ndim - 1), x.shape[-1]))
    values = xp.expand_dims(values, axis=-1)
    comes_before = xp.less_equal if kwargs.get("side") == "right" else xp.less
    return xp.count_nonzero(comes_before(x, values), axis=-1)


for name in "astype zeros_like ones_like empty_like full_like".split():
    BATCHING[name] = elementwise
BATCHING[special.stop_gradient] = elementwise
BATCHING[to_device] = batch_unchanged
for name in "sum mean var std max min prod all any count_nonzero linalg.vector_norm".split():
    BATCHING[name] = reduction
for name in ("argmax", "argmin"):
    BATCHING[name] = along(flat=False)
for name in ("cumulative_sum", "cumulative_prod"):
    BATCHING[name] = along(flat=True)
for name in ("sort", "argsort"):
    BATCHING[name] = along(flat=True, default=-1)
for name in """matrix_transpose tril triu linalg.matrix_transpose linalg.cholesky linalg.det
    linalg.eig linalg.eigh linalg.eigvals linalg.eigvalsh linalg.inv linalg.matrix_norm
    linalg.matrix_power linalg.matrix_rank linalg.pinv linalg.qr linalg.slogdet linalg.svd
    linalg.svdvals linalg.trace linalg.diagonal""".split():
    BATCHING[name] = trailing
BATCHING["reshape"] = batch_reshape
BATCHING["broadcast_to"] = batch_reshape
BATCHING["expand_dims"] = batch_expand_dims
BATCHING["squeeze"] = on_axes("axis")
BATCHING["moveaxis"] = on_axes("source", "destination")
BATCHING["permute_dims"] = batch_permute_dims
BATCHING["flip"] = batch_flip
BATCHING["roll"] = batch_roll
BATCHING["concat"] = batch_concat
BATCHING["stack"] = batch_concat
BATCHING["matmul"] = batch_matmul
BATCHING["linalg.matmul"] = batch_matmul
BATCHING["take"] = batch_take
BATCHING["take_along_axis"] = batch_take_along_axis
BATCHING[special.scatter_add] = batch_scatter_add
BATCHING[getitem] = batch_getitem
for name in "nonzero unique_all unique_counts unique_inverse unique_values".split():
    BATCHING[name] = UNBATCHABLE
for name in "fft ifft rfft irfft hfft ihfft".split():
    BATCHING[f"fft.{name}"] = along(flat=True, default=-1)
for name in "fftn ifftn rfftn irfftn fftshift ifftshift".split():
    BATCHING[f"fft.{name}"] = over_axes
BATCHING["linalg.solve"] = batch_solve
BATCHING["isin"] = batch_isin
BATCHING["searchsorted"] = batch_searchsorted
