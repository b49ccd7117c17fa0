"""Look-up of losses and metrics by name, with suggestions for misspelt ones."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

Found = TypeVar("Found")


def find(what: str, name: Any, known: Mapping[str, Found]) -> Found:
    """The entry of `known` under that name.

    Raises ValueError, with the nearest name and all that there are, if it has nothing.

    >>> find("loss", "hubber", {"huber": 1, "mse": 2})
    Traceback (most recent call last):
    ...
    ValueError: loss: expected one of huber, mse, got 'hubber'. To fix it: did you mean 'huber'?
    """
    if isinstance(name, str) and name in known:
        return known[name]
    message = f"{what}: expected one of {', '.join(known)}, got {name!r}"
    meant = str(name).lower()
    near = difflib.get_close_matches(meant, known, n=1)
    near = near or [other for other in known if meant and other.startswith(meant)]  # "acc"
    raise ValueError(message + (f". To fix it: did you mean {near[0]!r}?" if near else ""))
