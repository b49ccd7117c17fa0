"""The differentiable array, the differentiable namespace over another, and the trace."""

from tinynn.trace.core import (
    BASE,
    Effect,
    Function,
    Trace,
    Traced,
    bottom,
    constant,
    example,
    getitem,
    is_readable,
    plain,
    regrouped,
)
from tinynn.trace.namespace import Namespace, backend_of, namespace

__all__ = [
    "BASE",
    "Effect",
    "Function",
    "Namespace",
    "Trace",
    "Traced",
    "backend_of",
    "bottom",
    "constant",
    "example",
    "getitem",
    "is_readable",
    "namespace",
    "plain",
    "regrouped",
]
