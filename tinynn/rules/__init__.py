"""One row a function: its derivative, filed by the standard's own chapters."""

from tinynn.rules import elementwise, extensions, linear_algebra, manipulation, statistical
from tinynn.rules.kinds import RULES

__all__ = [
    "RULES",
    "elementwise",
    "extensions",
    "linear_algebra",
    "manipulation",
    "statistical",
]
