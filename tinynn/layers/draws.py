"""Random numbers of layers, counted by the row of the whole batch."""

from typing import TYPE_CHECKING, Any, TypeAlias

from backends import random
from tinynn.config import label
from tinynn.functional.errors import InputError

if TYPE_CHECKING:
    from tinynn.layers.scope import Scope

Array: TypeAlias = Any


class Random:
    """Random numbers of one layer: `scope.random`.

    The first axis of a shape is that of the batch, and draws are counted by its rows: the rows of
    a part of a batch get what they would get in the whole. Each draw has a key of its own.
    """

    __slots__ = ("_scope",)

    def __init__(self, scope: "Scope") -> None:
        self._scope = scope

    def key(self) -> Array:
        """A new key, (2,) int32, for draws that are not counted by row."""
        run, path = self._scope._pass, self._scope.path
        if run.key is None:
            raise InputError(
                f"{label(self._scope.layer)}: expected a key to draw random numbers with, got "
                "none. To fix it: give apply a key=, an integer seed or a key of backends.random"
            )
        count = run.draws[path] = run.draws.get(path, 0) + 1
        return run.key_at(path, f"draw {count}")

    def uniform(
        self, shape: tuple[int, ...], dtype: Any, low: float = 0.0, high: float = 1.0
    ) -> Array:
        """Uniform draws from [low, high)."""
        run = self._scope._pass
        return run.lift(random.uniform(self.key(), shape, dtype, low, high, run.first_row))

    def normal(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Normal draws of mean 0 and variance 1."""
        run = self._scope._pass
        return run.lift(random.normal(self.key(), shape, dtype, run.first_row))

    def bernoulli(self, p: float, shape: tuple[int, ...]) -> Array:
        """True with probability `p`."""
        run = self._scope._pass
        return run.lift(random.bernoulli(self.key(), p, shape, run.first_row))
