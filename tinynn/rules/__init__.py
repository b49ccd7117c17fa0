"""The rules: one row for each function with its derivative, by the chapters of the standard."""

from tinynn.rules import (
    convolution,
    elementwise,
    factorizations,
    fourier,
    linear_algebra,
    manipulation,
    searching,
    slicing,
    special,
    statistical,
)
from tinynn.rules.kinds import RULES

__all__ = [
    "RULES",
    "convolution",
    "elementwise",
    "factorizations",
    "fourier",
    "linear_algebra",
    "manipulation",
    "searching",
    "slicing",
    "special",
    "statistical",
]
