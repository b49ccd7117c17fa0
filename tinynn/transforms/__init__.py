"""Transformations of functions: each is one Trace."""

from tinynn.transforms.reverse import (
    EscapedError,
    NotDifferentiableError,
    grad,
    value_and_grad,
    vjp,
)

__all__ = ["EscapedError", "NotDifferentiableError", "grad", "value_and_grad", "vjp"]
