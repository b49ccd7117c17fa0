"""Rows of linear algebra and of the Fourier transforms, for tests/rule_cases.py.

What a decomposition leaves open (the sign or phase of its vectors) is settled in the row, so that
it has a derivative at all, and the same one in every library.
"""

from typing import Any

from tests.rule_rows import BOTH, COMPLEX, Case, one, over_axes, within

SQUARES = ((3, 3), (2, 3, 3))
OBLONGS = ((4, 3), (3, 4), (2, 3, 3))
PRODUCTS = (
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
)
ONCE_ONLY = "JAX differentiates no eigenvectors of a general matrix unless asked otherwise"
WIDE_QR = "JAX differentiates no qr of a matrix with more columns than rows"


def adjoint(xp: Any, x: Any) -> Any:
    x = xp.matrix_transpose(x)
    return xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x


def diagonal(xp: Any, x: Any) -> Any:
    """1, 2, 3, ... on the diagonal, in the shape of `x`."""
    return xp.tril(xp.triu(xp.cumulative_sum(xp.ones_like(x), axis=-1)))


def spread(xp: Any, x: Any) -> Any:
    """A matrix with eigenvalues and singular values well apart."""
    return 0.2 * x + 2.0 * diagonal(xp, x)


def hermitian(xp: Any, x: Any) -> Any:
    x = spread(xp, x)
    return x + adjoint(xp, x)


def definite(xp: Any, x: Any) -> Any:
    return xp.matmul(x, adjoint(xp, x)) + diagonal(xp, x)


def on(name: str, made: Any, **kwargs: Any) -> Any:
    """The function on a matrix made of `x`."""
    return lambda xp, x: within(name, **kwargs)(xp, made(xp, x))


def turn(xp: Any, x: Any) -> Any:
    """What makes these numbers positive, as a factor."""
    return xp.abs(x) / x


def eigh(xp: Any, x: Any) -> Any:
    w, v = xp.linalg.eigh(hermitian(xp, x))
    return w, v * turn(xp, v[..., :1, :])


def exponential(xp: Any, x: Any) -> Any:
    w, v = xp.linalg.eigh(hermitian(xp, x))
    return xp.matmul(v * xp.exp(-w)[..., None, :], adjoint(xp, v))


def eig(xp: Any, x: Any) -> Any:
    w, v = xp.linalg.eig(spread(xp, x))
    weights = xp.real(w * w)[..., None, :]
    return xp.sum(w * w * w, axis=-1), xp.sum(weights * xp.abs(v) ** 2, axis=-1)


def eigvals(xp: Any, x: Any) -> Any:
    w = xp.linalg.eigvals(spread(xp, x))
    return xp.sum(w * w * w, axis=-1)


def svd(xp: Any, x: Any, full_matrices: bool = False) -> Any:
    u, s, vh = xp.linalg.svd(spread(xp, x), full_matrices=full_matrices)
    factor = turn(xp, u[..., :1, :])
    return u * factor, s, vh / xp.matrix_transpose(factor)


def qr(xp: Any, x: Any) -> Any:
    q, r = xp.linalg.qr(spread(xp, x))
    factor = turn(xp, xp.linalg.diagonal(r))
    return q / factor[..., None, :], r * factor[..., :, None]


def norms(name: str, orders: tuple[Any, ...], shape: tuple[int, ...]) -> list[Case]:
    return [
        one(
            lambda xp, x, o=o, k=k: within(name, ord=o, keepdims=k)(xp, spread(xp, x)),
            shape,
            **BOTH,
        )
        for o, k in zip(orders, (True, False) * len(orders), strict=False)
    ]


def fourier(name: str, **more: Any) -> list[Case]:
    """Lengths as they come, cut and padded; even and odd."""
    ways: list[dict[str, Any]] = [
        {},
        {"n": 3, "axis": 0, "norm": "ortho"},
        {"n": 6, "norm": "forward"},
    ]
    return [one(within(f"fft.{name}", **way), (4, 5), **more) for way in ways]


def fourier_over_axes(name: str, **more: Any) -> list[Case]:
    ways: list[dict[str, Any]] = [
        {},
        {"axes": (0,), "norm": "ortho"},
        {"s": (3, 6), "axes": (1, 0), "norm": "forward"},
    ]
    return [one(within(f"fft.{name}", **way), (4, 5), **more) for way in ways]


MATRICES: dict[Any, list[Case]] = {
    **{
        prefix + name: [one(within(prefix + name, **way), *pair, **more) for pair in pairs]
        for prefix in ("", "linalg.")
        for name, way, more, pairs in [
            ("matmul", {}, {}, PRODUCTS[: -1 if prefix else None]),
            ("vecdot", {"axis": -1}, BOTH, [((2, 3), (2, 3)), ((3,), (2, 3))]),
            ("tensordot", {"axes": ((0, -1), (1, 0))}, BOTH, [((2, 3, 4), (4, 2, 5))]),
        ]
    },
    "linalg.matrix_transpose": [one(within("linalg.matrix_transpose"), (2, 3))],
    "linalg.outer": [one(within("linalg.outer"), (3,), (2,), **BOTH)],
    "linalg.cross": [
        one(within("linalg.cross"), (2, 3), (2, 3), **BOTH),
        one(within("linalg.cross", axis=-2), (3, 2), (3, 1)),
    ],
    "linalg.diagonal": [
        one(within("linalg.diagonal", offset=k), shape)
        for k, shape in [(0, (3, 3)), (1, (3, 4)), (-2, (2, 4, 3)), (3, (3, 3))]
    ],
    "linalg.trace": [one(within("linalg.trace", offset=k), (2, 3, 3)) for k in (0, 1)],
    "linalg.matrix_power": [
        one(lambda xp, x, n=n: xp.linalg.matrix_power(spread(xp, x), n), (2, 3, 3), smooth=n != 0)
        for n in (0, 1, 3, -2)
    ],
    "linalg.inv": [one(on("linalg.inv", spread), shape, **BOTH) for shape in SQUARES],
    "linalg.solve": [
        one(lambda xp, a, b: xp.linalg.solve(spread(xp, a), b), a, b, **BOTH)
        for a, b in [
            ((3, 3), (3,)),
            ((3, 3), (3, 2)),
            ((2, 3, 3), (3,)),
            ((2, 3, 3), (3, 2)),
        ]
    ],
    "linalg.det": [one(on("linalg.det", spread), shape, **BOTH) for shape in SQUARES],
    "linalg.slogdet": [one(on("linalg.slogdet", spread), shape, **BOTH) for shape in SQUARES],
    "linalg.pinv": [one(on("linalg.pinv", spread), shape, **BOTH) for shape in OBLONGS],
    "linalg.cholesky": [
        one(on("linalg.cholesky", definite, upper=upper), shape, **BOTH)
        for upper, shape in zip((False, True), SQUARES, strict=True)
    ],
    "linalg.eigh": [
        *[one(eigh, shape, **BOTH) for shape in SQUARES],
        one(exponential, (3, 3), **BOTH),
        one(lambda xp, x: eigh(xp, x)[0], (3, 3)),
    ],
    "linalg.eigvalsh": [one(on("linalg.eigvalsh", hermitian), shape, **BOTH) for shape in SQUARES],
    "linalg.eig": [one(eig, shape, jax=ONCE_ONLY, **BOTH) for shape in SQUARES],
    "linalg.eigvals": [one(eigvals, (3, 3), jax="it refuses the second order of it", **BOTH)],
    "linalg.svd": [
        *[one(svd, shape, **BOTH) for shape in OBLONGS],
        one(lambda xp, x: svd(xp, x)[2], (4, 3)),
        one(lambda xp, x: svd(xp, x, full_matrices=True), (3, 3)),
    ],
    "linalg.svdvals": [one(on("linalg.svdvals", spread), shape, **BOTH) for shape in OBLONGS],
    "linalg.qr": [
        one(qr, shape, jax=WIDE_QR if shape == (3, 4) else "", **BOTH) for shape in OBLONGS
    ],
    "linalg.vector_norm": [
        *over_axes(lambda xp: xp.linalg.vector_norm, **BOTH),
        *norms("linalg.vector_norm", (1, float("inf"), 3.5, float("-inf")), (4, 3)),
        one(within("linalg.vector_norm", ord=0), (3,), smooth=False),
    ],
    "linalg.matrix_norm": norms(
        "linalg.matrix_norm", ("fro", "nuc", 2, -2, 1, float("inf")), (2, 3, 3)
    ),
    "fft.fft": fourier("fft", **COMPLEX),
    "fft.ifft": fourier("ifft", **COMPLEX),
    "fft.rfft": fourier("rfft"),
    "fft.irfft": fourier("irfft", **COMPLEX),
    "fft.hfft": fourier("hfft", **COMPLEX),
    "fft.ihfft": fourier("ihfft"),
    "fft.fftn": fourier_over_axes("fftn", **COMPLEX),
    "fft.ifftn": fourier_over_axes("ifftn", **COMPLEX),
    "fft.rfftn": fourier_over_axes("rfftn"),
    "fft.irfftn": fourier_over_axes("irfftn", **COMPLEX),
    "fft.fftshift": [
        one(within("fft.fftshift"), (4, 5)),
        one(within("fft.fftshift", axes=1), (4, 5)),
    ],
    "fft.ifftshift": [one(within("fft.ifftshift", axes=(0,)), (4, 5))],
}
