"""The functions of compiled programs on NumPy: its own names, and what it lacks."""

from typing import Any

import numpy

from backends import numpy_convolution
from backends.convolution import Settings

__all__ = ["conv"]


def __getattr__(name: str) -> Any:
    return getattr(numpy, name)


def __dir__() -> list[str]:
    return [*__all__, *dir(numpy)]


def conv(x: Any, weight: Any, out: Any, **settings: Any) -> Any:
    """The convolution of `Backend.conv`, into an array."""
    return numpy_convolution.conv(x, weight, Settings(**settings), out)
