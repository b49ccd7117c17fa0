"""Array libraries: which are usable here, and what each adds to the Array API standard.

>>> import backends
>>> numpy = backends.get("numpy")
>>> x = numpy.asarray([1.0, 2.0])
>>> backends.of(x) == numpy
True

Importing this package imports no array library but NumPy.
"""

from backends import random
from backends.base import Advice, Backend, BackendUnavailable, MixedArrays
from backends.registry import Status, available, get, is_array, names, of
from backends.scopes import scope_of, scoped

_of_tinynn_xp = True  # by which tinynn knows it from others of the name

__all__ = [
    "Advice",
    "Backend",
    "BackendUnavailable",
    "MixedArrays",
    "Status",
    "available",
    "get",
    "is_array",
    "names",
    "of",
    "random",
    "scope_of",
    "scoped",
]
