"""One row or more for every rule: how it is called, on which shapes, in which domain.

`CASES[key]` is a list of cases; `f(xp, *arrays)` is differentiated by every array. Shapes are few
and small, since some libraries compile every function for every shape.
"""

from typing import Any

import array_api_compat

from tests.rule_matrices import MATRICES
from tests.rule_rows import (
    BOTH,
    COMPLEX,
    POSITIVE,
    UNIT,
    WIDE,
    Case,
    binary,
    indices,
    one,
    over_axes,
    unary,
    within,
)
from tinynn.functional import pools, upsampling
from tinynn.rules import convolution, slicing, special
from tinynn.trace.core import getitem, to_device

JAX_SIGN = "JAX takes the sign of a complex number for a constant"
JAX_ACOSH = "JAX has the other branch where the real part is negative"
JAX_NONE = "JAX has no derivative of it"
JAX_UNIQUE = "JAX takes the distinct values for constants"

PLAIN = {
    "stride": (1,), "padding": ((1, 0),), "input_dilation": (1,), "dilation": (2,), "groups": 1,
}  # fmt: skip
GROUPED = {
    "stride": (2, 1), "padding": ((0, 1), (2, -1)), "input_dilation": (1, 2), "dilation": (1, 1),
    "groups": 2,
}  # fmt: skip
POOLED = {
    "window": (2, 2), "stride": (2, 1), "dilation": (1, 1), "padding": ((1, 1), (0, 0)),
}  # fmt: skip

CASES: dict[Any, list[Case]] = {
    **{name: unary(name, **BOTH) for name in "positive negative square exp expm1 sin cos".split()},
    **{name: unary(name, **BOTH) for name in "tanh abs sinh cosh asinh atan".split()},
    **{name: unary(name, **BOTH) for name in "real conj".split()},
    "imag": unary("imag", **COMPLEX),
    **{name: unary(name, POSITIVE, **BOTH) for name in "reciprocal log log1p log2 log10".split()},
    **{name: unary(name, UNIT, **BOTH) for name in "tan asin acos atanh".split()},
    "sqrt": [one(within("sqrt"), shape, domain=POSITIVE, **BOTH) for shape in ((3, 2), (), (0, 2))],
    "acosh": [
        *unary("acosh", (1.5, 3.0)),
        *unary("acosh", numbers="complex", jax=JAX_ACOSH),
    ],
    **{name: unary(name, smooth=False) for name in "ceil floor round trunc".split()},
    "sign": [*unary("sign", smooth=False), *unary("sign", numbers="complex", jax=JAX_SIGN)],
    **{name: binary(name, **BOTH) for name in "subtract multiply".split()},
    "add": [
        *binary("add", **BOTH),
        one(within("add"), (), (2, 2)),
        one(within("add"), (1, 3), (2, 1, 1)),
    ],
    **{name: binary(name) for name in "logaddexp maximum minimum atan2 hypot copysign".split()},
    "divide": binary("divide", WIDE, POSITIVE, **BOTH),
    "pow": [
        *binary("pow", POSITIVE, WIDE, **BOTH),
        *[one(lambda xp, x, p=p: xp.pow(x, p), (3, 2), **BOTH) for p in (0, 1, 2, 3)],
        one(lambda xp, x: xp.pow(x, -0.5), (3,), domain=POSITIVE),
        one(lambda xp, p: xp.pow(2.0, p), (3,)),
    ],
    "remainder": binary("remainder", (0.1, 0.9), (1.1, 2.9)),
    "floor_divide": binary("floor_divide", (0.1, 0.9), (1.1, 2.9), smooth=False),
    "nextafter": binary("nextafter", smooth=False, jax=JAX_NONE),
    "where": [
        one(lambda xp, x, y: xp.where(xp.abs(x) > 1.0, x, y), (3, 2), (2,), **BOTH),
        one(lambda xp, x: xp.where(x > 0.1, x, 1.0), (3, 2)),
        one(lambda xp, x: xp.where(x > 0.1, 0.5, x), (3, 2)),
    ],
    "clip": [
        one(lambda xp, x: xp.clip(x, -1.0, 1.0), (4, 3)),
        one(lambda xp, x: xp.clip(x, max=0.5), (4, 3)),
        one(lambda xp, x, low, high: xp.clip(x, low, high + 5.0), (4, 3), (3,), (4, 1)),
    ],
    "sum": over_axes(lambda xp: xp.sum, **BOTH),
    "mean": over_axes(lambda xp: xp.mean),
    "var": [
        *over_axes(lambda xp: xp.var),
        one(lambda xp, x: xp.var(x, axis=0, correction=1.0), (3, 2)),
    ],
    "std": over_axes(lambda xp: xp.std),
    "max": over_axes(lambda xp: xp.max),
    "min": over_axes(lambda xp: xp.min),
    "prod": over_axes(lambda xp: xp.prod, **BOTH),
    "cumulative_sum": [
        one(within("cumulative_sum"), (3,)),
        one(within("cumulative_sum", axis=-1), (2, 3), **BOTH),
        one(within("cumulative_sum", axis=0, include_initial=True), (3, 2)),
    ],
    "cumulative_prod": [
        one(within("cumulative_prod"), (3,)),
        one(within("cumulative_prod", axis=-1), (2, 5), **BOTH),
        one(within("cumulative_prod", axis=0, include_initial=True), (3, 2)),
    ],
    "sort": [one(within("sort"), (3, 4)), one(within("sort", axis=0), (3, 4))],
    **{
        name: [one(within(name), (3, 2), batch=False, jax=JAX_UNIQUE)]
        for name in ("unique_values",)
    },
    **{
        name: [
            one(
                lambda xp, x, name=name: getattr(xp, name)(x).values,
                (3, 2),
                batch=False,
                jax=JAX_UNIQUE,
            )
        ]
        for name in ("unique_all", "unique_counts", "unique_inverse")
    },
    "reshape": [one(lambda xp, x: xp.reshape(x, (3, -1)), (2, 3))],
    "expand_dims": [one(within("expand_dims", axis=a), (2, 3)) for a in (0, -1)],
    "squeeze": [one(lambda xp, x: xp.squeeze(x, axis=(0, -1)), (1, 3, 1))],
    "broadcast_to": [one(lambda xp, x: xp.broadcast_to(x, (4, 2, 3)), (2, 1))],
    "astype": [one(lambda xp, x: xp.astype(x, x.dtype), (3,))],
    to_device: [
        one(
            lambda xp, x: array_api_compat.to_device(x, x.device),
            (3,),
            jax="a tracer of JAX has no to_device",
        )
    ],
    "matrix_transpose": [one(within("matrix_transpose"), (2, 3, 4))],
    "flip": [one(within("flip"), (2, 3)), one(lambda xp, x: xp.flip(x, axis=-1), (2, 3))],
    "tril": [one(lambda xp, x: xp.tril(x, k=1), (3, 4))],
    "triu": [one(lambda xp, x: xp.triu(x, k=-1), (3, 4))],
    "permute_dims": [one(lambda xp, x: xp.permute_dims(x, (2, 0, 1)), (2, 3, 4))],
    "moveaxis": [one(lambda xp, x: xp.moveaxis(x, 0, -1), (2, 3, 4))],
    "roll": [
        one(lambda xp, x: xp.roll(x, 2), (2, 3)),
        one(lambda xp, x: xp.roll(x, (1, -1), axis=(0, 1)), (2, 3)),
    ],
    "concat": [
        one(lambda xp, x, y: xp.concat([x, y], axis=-1), (2, 3), (2, 1), **BOTH),
        one(lambda xp, x, y: xp.concat([x, y, x], axis=None), (2, 3), (4,)),
    ],
    "stack": [one(lambda xp, x, y, a=a: xp.stack([x, y], axis=a), (2, 3), (2, 3)) for a in (0, -1)],
    "repeat": [
        one(lambda xp, x: xp.repeat(x, 2), (2, 3)),
        one(
            lambda xp, x: xp.repeat(x, indices(xp, x, [2, 0, 3]), axis=1),
            (2, 3),
            jax="it compiles no repeats that are an array",
        ),
    ],
    "tile": [one(lambda xp, x, r=r: xp.tile(x, r), (2, 3)) for r in ((2,), (2, 1, 3))],
    "diff": [
        one(within("diff"), (3, 4)),
        one(within("diff"), (2, 0)),
        one(lambda xp, x, y: xp.diff(x, axis=0, n=2, prepend=y), (3, 2), (1, 2)),
        one(lambda xp, x, y: xp.diff(x, append=y), (3, 2), (3, 2), **BOTH),
    ],
    "meshgrid": [
        one(lambda xp, *arrays, way=way: tuple(xp.meshgrid(*arrays, indexing=way)), (2,), (3,))
        for way in ("xy", "ij")
    ],
    "take": [
        one(lambda xp, x: xp.take(x, indices(xp, x, [2, 0, 2]), axis=0), (3, 2), **BOTH),
        one(lambda xp, x: xp.take(x, indices(xp, x, [1, 1]), axis=-1), (3, 2)),
    ],
    "take_along_axis": [
        one(lambda xp, x: xp.take_along_axis(x, indices(xp, x, [[2, 0, 2], [1, 1, 0]])), (2, 3)),
        one(lambda xp, x: xp.take_along_axis(x, indices(xp, x, [[1, 0, 1]]), axis=0), (2, 3)),
    ],
    getitem: [
        one(lambda xp, x: x[1, ...], (3, 2)),
        one(lambda xp, x: x[..., ::2], (2, 3), **BOTH),
        one(lambda xp, x: x[:, None, 1:], (2, 3)),
        one(lambda xp, x: x[-1, 0], (2, 3)),
        one(lambda xp, x: x[()], ()),
    ],
    "unstack": [one(lambda xp, x: xp.unstack(x, axis=1)[1], (2, 3))],
    "broadcast_arrays": [one(lambda xp, x, y: xp.broadcast_arrays(x, y)[0], (2, 1), (3,))],
    **{
        f"{name}_like": [one(within(f"{name}_like"), (2,), smooth=False)]
        for name in ("zeros", "ones")
    },
    "full_like": [one(lambda xp, x: xp.full_like(x, 3.0), (2,), smooth=False)],
    "empty_like": [one(lambda xp, x: xp.where(xp.isnan(xp.empty_like(x)), x, x), (2,))],
    **MATRICES,
    special.sigmoid: [one(lambda xp, x: special.sigmoid(x), (3, 2))],
    special.relu: [one(lambda xp, x: special.relu(x), (3, 2))],
    special.first_maximum: [
        one(lambda xp, x, y: special.first_maximum(x, y), (3, 2), (2,)),
    ],
    special.erf: [one(lambda xp, x: special.erf(x), (3, 2))],
    special.logsumexp: over_axes(lambda xp: special.logsumexp),
    convolution.conv: [
        one(lambda xp, x, w: convolution.conv(x, w, **PLAIN), (2, 4, 2), (2, 2, 3)),
        one(lambda xp, x, w: convolution.conv(x, w, **GROUPED), (1, 4, 3, 4), (2, 2, 2, 2)),
    ],
    pools.largest: [
        one(lambda xp, x: pools.largest(x, **POOLED), (2, 3, 3, 2)),
        one(lambda xp, x: pools.largest(x, size=(2, 2)), (1, 3, 4, 2)),
    ],
    **{
        function: [one(lambda xp, g, x, f=function: f(g, x, **POOLED), *shapes, (1, 3, 3, 2))]
        for function, shapes in (
            (pools.largest_pulled, [(1, 2, 2, 2)]),
            (pools.largest_pushed, [(1, 3, 3, 2)]),
        )
    },
    pools.means: [
        one(lambda xp, x: pools.means(x, **POOLED), (2, 3, 3, 2)),
        one(lambda xp, x: pools.means(x, size=(2, 2)), (1, 3, 4, 2)),
    ],
    pools.means_pulled: [
        one(lambda xp, g: pools.means_pulled(g, lengths=(3, 3), **POOLED), (1, 2, 2, 2)),
        one(lambda xp, g: pools.means_pulled(g, lengths=(3,), size=(2,)), (1, 2, 2)),
    ],
    **{
        function: [one(lambda xp, x, f=function: f(x, scale=(2, 3)), (1, 4, 3, 2))]
        for function in (upsampling.upsample_linear, upsampling.upsample_linear_pullback)
    },
    special.scatter_add: [
        one(lambda xp, x, u: special.scatter_add(x, indices(xp, x, [2, 0, 2]), u), (3,), (3,)),
        one(
            lambda xp, x, u: special.scatter_add(x, indices(xp, x, [1, 1]), u, axis=-1),
            (3, 2),
            (3, 2),
        ),
    ],
    slicing.dynamic_slice: [
        one(lambda xp, x: slicing.dynamic_slice(x, indices(xp, x, 1), size=2, axis=-1), (2, 3)),
        one(lambda xp, x: slicing.dynamic_slice(x, indices(xp, x, 9), size=1), (3, 2)),
    ],
    slicing.dynamic_update_slice: [
        one(
            lambda xp, x, u: slicing.dynamic_update_slice(x, u, indices(xp, x, 1), axis=-1),
            (2, 3),
            (2, 1),
        ),
        one(
            lambda xp, x, u: slicing.dynamic_update_slice(x, u, indices(xp, x, -4)), (3, 2), (2, 2)
        ),
    ],
    special.stop_gradient: [
        one(lambda xp, x: special.stop_gradient(x), (3,), smooth=False, jax="it is ours")
    ],
}
