"""Transformations of functions: each is one Trace."""

from tinynn.transforms.base import EscapedError, NotDifferentiableError
from tinynn.transforms.batch import vmap
from tinynn.transforms.derived import (
    checkpoint,
    custom_elementwise,
    custom_jvp,
    custom_vjp,
    hessian,
    hvp,
    jacobian,
)
from tinynn.transforms.forward import jvp
from tinynn.transforms.reverse import grad, value_and_grad, vjp

__all__ = [
    "EscapedError",
    "NotDifferentiableError",
    "checkpoint",
    "custom_elementwise",
    "custom_jvp",
    "custom_vjp",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "value_and_grad",
    "vjp",
    "vmap",
]
