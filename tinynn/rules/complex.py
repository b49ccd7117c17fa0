"""Helpers of rules for complex numbers; for real arrays each costs nothing.

The convention is JAX's: the cotangent of z = x + iy is dL/dx - i dL/dy, so that transposes are
taken without conjugation, and a holomorphic function multiplies by its derivative.
"""

from typing import Any

from tinynn.trace import Namespace, backend_of


def is_complex(xp: Any, x: Any) -> bool:
    """True if the elements of `x` are complex numbers."""
    kind: str = Namespace(xp).kinds[x.dtype]
    return kind == "complex floating"


def conj(xp: Any, x: Any) -> Any:
    """The complex conjugate."""
    return xp.conj(x) if is_complex(xp, x) else x


def real(xp: Any, x: Any) -> Any:
    """The real part."""
    return xp.real(x) if is_complex(xp, x) else x


def squared_size(xp: Any, x: Any) -> Any:
    """|x|**2, which is real."""
    if is_complex(xp, x):
        return xp.square(xp.real(x)) + xp.square(xp.imag(x))
    return xp.square(x)


def device_of(x: Any) -> Any:
    """The device of `x`, also where that is a library's own tracer, which does not say."""
    return backend_of(x).device
