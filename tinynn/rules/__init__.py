"""One row a function: its derivative, filed by the standard's own chapters."""

from tinynn.rules import (
    decompositions,
    elementwise,
    extensions,
    fourier,
    linear_algebra,
    manipulation,
    searching,
    statistical,
)
from tinynn.rules.kinds import RULES

__all__ = [
    "RULES",
    "decompositions",
    "elementwise",
    "extensions",
    "fourier",
    "linear_algebra",
    "manipulation",
    "searching",
    "statistical",
]
