"""The differentiable array, the differentiable namespace over another, and the trace."""

from tinynn.trace.core import (
    Effect,
    Function,
    Trace,
    Traced,
    bottom,
    constant,
    example,
    is_readable,
    plain,
    regrouped,
)
from tinynn.trace.namespace import Namespace, backend_of, namespace

__all__ = [
    "Effect",
    "Function",
    "Namespace",
    "Trace",
    "Traced",
    "backend_of",
    "bottom",
    "constant",
    "example",
    "is_readable",
    "namespace",
    "plain",
    "regrouped",
]
