"""A library's namespace with some functions of our own in it."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


class Namespace(ModuleType):
    """A namespace over another: its `own` functions, and the rest of `under` as it is.

    name: that of the module it stands for
    under: the library's namespace
    own: functions, classes and namespaces by name, which come first
    wrap: what is made of each function that is left to `under`; itself unless given

    >>> import numpy as np
    >>> xp = Namespace("numpy", np, {"exp": lambda x: x})
    >>> xp.exp(2), float(xp.log(1))
    (2, 0.0)
    """

    def __init__(
        self,
        name: str,
        under: Any,
        own: Mapping[str, Any],
        wrap: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(name, under.__doc__)
        self._under = under
        self._wrap = wrap
        for key, value in own.items():
            setattr(self, key, value)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._under, name)
        if self._wrap and callable(value) and not isinstance(value, type):
            value = self._wrap(value)
        setattr(self, name, value)  # made once a name
        return value

    def __dir__(self) -> list[str]:
        return dir(self._under)
