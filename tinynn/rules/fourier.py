"""Derivatives of the Fourier transforms: all of them linear.

The matrix of `fft` is symmetric, so `fft` is its own transpose (without conjugation: see
`numbers`). A transform pads or cuts what it is given to the length `n`; its transpose undoes that.
"""

from operator import attrgetter
from typing import Any

from tinynn.rules.complex import conj, device_of
from tinynn.rules.kinds import RULES, Composed, Linear, axes_of

#: Which `norm` scales the opposite transform by the same factor.
OPPOSITE = {"backward": "forward", "ortho": "ortho", "forward": "backward"}


def _along(axis: int, part: slice) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, part, ...)


def _resized(xp: Any, g: Any, shape: tuple[int, ...]) -> Any:
    """`g` cut, or padded with zeros, to this shape."""
    for axis, n in enumerate(shape):
        missing = n - g.shape[axis]
        if missing < 0:
            g = g[_along(axis, slice(n))]
        elif missing:
            gap = (*g.shape[:axis], missing, *g.shape[axis + 1 :])
            g = xp.concat([g, xp.zeros(gap, dtype=g.dtype, device=device_of(g))], axis=axis)
    return g


def _axes(x: Any, s: Any, axes: Any) -> tuple[int, ...]:
    """The axes, none of them negative, of a transform over several."""
    if axes is not None:
        return axes_of(tuple(axes), x.ndim)
    return tuple(range(x.ndim)) if s is None else tuple(range(x.ndim - len(s), x.ndim))


def _own_transpose(name: str) -> Linear:
    def transpose(xp: Any, g: Any, i: int, args: Any, *, n: Any = None, **where: Any) -> Any:
        return _resized(xp, attrgetter(name)(xp)(g, **where), args[0].shape)

    return Linear(transpose)


def _own_transpose_over_axes(name: str) -> Linear:
    def transpose(
        xp: Any, g: Any, i: int, args: Any, *, s: Any = None, axes: Any = None, **norm: Any
    ) -> Any:
        transformed = attrgetter(name)(xp)(g, axes=_axes(g, s, axes), **norm)
        return _resized(xp, transformed, args[0].shape)

    return Linear(transpose)


def _rfft_back(
    xp: Any, g: Any, i: int, args: Any, *, n: Any = None, axis: int = -1, norm: str = "backward"
) -> Any:
    # rfft keeps the first half of fft; x being real, so is its cotangent.
    n = args[0].shape[axis] if n is None else n
    return _resized(xp, xp.fft.fft(g, n=n, axis=axis, norm=norm), args[0].shape)


def _irfft_back(
    xp: Any, g: Any, i: int, args: Any, *, n: Any = None, axis: int = -1, norm: str = "backward"
) -> Any:
    # What irfft is not given it takes for the conjugate of what it is: all but the first
    # frequency, and the last of an even number, count twice.
    half = conj(xp, xp.fft.rfft(g, axis=axis, norm=OPPOSITE[norm]))
    axis, single = axis % g.ndim, (g.shape[axis] + 1) // 2
    first, last = half[_along(axis, slice(1))], half[_along(axis, slice(single, None))]
    twice = 2 * half[_along(axis, slice(1, single))]
    return _resized(xp, xp.concat([first, twice, last], axis=axis), args[0].shape)


def _hfft(xp: Any, x: Any, *, norm: str = "backward", **where: Any) -> Any:
    return xp.fft.irfft(conj(xp, x), norm=OPPOSITE[norm], **where)


def _ihfft(xp: Any, x: Any, *, norm: str = "backward", **where: Any) -> Any:
    return conj(xp, xp.fft.rfft(x, norm=OPPOSITE[norm], **where))


def _rfftn(xp: Any, x: Any, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    axes = _axes(x, s, axes)
    *ns, n = (None,) * len(axes) if s is None else s
    x = xp.fft.rfft(x, n=n, axis=axes[-1], norm=norm)
    for n, axis in zip(ns, axes, strict=False):
        x = xp.fft.fft(x, n=n, axis=axis, norm=norm)
    return x


def _irfftn(xp: Any, x: Any, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    axes = _axes(x, s, axes)
    *ns, last = (None,) * len(axes) if s is None else s
    for n, axis in zip(ns, axes, strict=False):
        x = xp.fft.ifft(x, n=n, axis=axis, norm=norm)
    return xp.fft.irfft(x, n=last, axis=axes[-1], norm=norm)


for name in ("fft.fft", "fft.ifft"):
    RULES[name] = _own_transpose(name)
for name in ("fft.fftn", "fft.ifftn"):
    RULES[name] = _own_transpose_over_axes(name)
RULES["fft.rfft"] = Linear(_rfft_back)
RULES["fft.irfft"] = Linear(_irfft_back)
RULES["fft.hfft"] = Composed(_hfft)
RULES["fft.ihfft"] = Composed(_ihfft)
RULES["fft.rfftn"] = Composed(_rfftn)
RULES["fft.irfftn"] = Composed(_irfftn)
RULES["fft.fftshift"] = Linear(lambda xp, g, i, args, **axes: xp.fft.ifftshift(g, **axes))
RULES["fft.ifftshift"] = Linear(lambda xp, g, i, args, **axes: xp.fft.fftshift(g, **axes))
