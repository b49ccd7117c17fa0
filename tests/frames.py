"""The least that a data frame is."""

import types
from typing import Any

import numpy as np


class Frame(dict[str, Any]):
    """The least that a data frame is."""

    @property
    def columns(self) -> list[str]:
        return list(self)

    def __getitem__(self, name: str) -> Any:
        values = super().__getitem__(name)
        return types.SimpleNamespace(name=name, to_numpy=lambda: np.asarray(values))
