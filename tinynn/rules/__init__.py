"""One row a function: its derivative, filed by the standard's own chapters."""

from tinynn.rules import (
    elementwise,
    factorizations,
    fourier,
    linear_algebra,
    manipulation,
    searching,
    special,
    statistical,
)
from tinynn.rules.kinds import RULES

__all__ = [
    "RULES",
    "elementwise",
    "factorizations",
    "fourier",
    "linear_algebra",
    "manipulation",
    "searching",
    "special",
    "statistical",
]
