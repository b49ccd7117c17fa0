"""What is done to gradients before an optimizer sees them: clipping and penalties."""

import functools
from dataclasses import dataclass
from typing import Any

from tinynn import tree
from tinynn.config import Configured, label, require
from tinynn.trace import namespace

from .base import Array, Optimizer


class Link(Configured):
    """Derive from it with a frozen dataclass and write `prepare`."""

    def prepare(self, gradients: Any, params: Any) -> Any:
        """New gradients from gradients; both are trees like the params."""
        raise NotImplementedError(f"{type(self).__name__} has no prepare(self, gradients, params)")


@dataclass(frozen=True)
class ClipByValue(Link):
    """Each entry of a gradient brought into [-limit, limit].

    >>> import numpy as np
    >>> ClipByValue(1.0).prepare([np.asarray([-3.0, 0.5])], None)[0].tolist()
    [-1.0, 0.5]
    """

    limit: float

    def __post_init__(self) -> None:
        require(self, "limit", lambda limit: limit > 0, "a number above 0")

    def prepare(self, gradients: Any, params: Any) -> Any:
        def clip(gradient: Array) -> Array:
            xp = namespace(gradient)
            return xp.minimum(xp.maximum(gradient, -self.limit), self.limit)

        return tree.map(clip, gradients)


@dataclass(frozen=True)
class ClipByGlobalNorm(Link):
    """All gradients scaled down together where the norm of them all is above `limit`.

    Source: Pascanu et al. 2012, arXiv:1211.5063; the 1e-6 that guards the division is PyTorch's.

    >>> import numpy as np
    >>> ClipByGlobalNorm(5.0).prepare([np.asarray([6.0, 8.0])], None)[0].round(5).tolist()
    [3.0, 4.0]
    """

    limit: float

    def __post_init__(self) -> None:
        require(self, "limit", lambda limit: limit > 0, "a number above 0")

    def prepare(self, gradients: Any, params: Any) -> Any:
        squares = [namespace(g).sum(g * g) for g in tree.leaves(gradients)]
        total = functools.reduce(lambda a, b: namespace(a, b).add(a, b), squares)
        xp = namespace(total)
        scale = xp.minimum(self.limit / (xp.sqrt(total) + 1e-6), 1.0)

        def scaled(gradient: Array) -> Array:
            factor = scale if scale.dtype == gradient.dtype else xp.astype(scale, gradient.dtype)
            return namespace(gradient, factor).multiply(gradient, factor)

        return tree.map(scaled, gradients)


@dataclass(frozen=True)
class L1(Link):
    """Adds the gradient of strength * sum(abs(w)), for every parameter w, biases included.

    >>> import numpy as np
    >>> L1(0.5).prepare([np.zeros(2)], [np.asarray([-3.0, 3.0])])[0].tolist()
    [-0.5, 0.5]
    """

    strength: float

    def __post_init__(self) -> None:
        require(self, "strength", lambda strength: strength >= 0, "a number of 0 or more")

    def prepare(self, gradients: Any, params: Any) -> Any:
        return tree.map(
            lambda g, w: namespace(g, w).add(g, self.strength * namespace(w).sign(w)),
            gradients,
            params,
        )


@dataclass(frozen=True)
class L2(Link):
    """Adds the gradient of strength / 2 * sum(w**2), as PyTorch's `weight_decay` does, for every
    parameter w, biases included.

    >>> import numpy as np
    >>> L2(0.5).prepare([np.zeros(2)], [np.asarray([-3.0, 3.0])])[0].tolist()
    [-1.5, 1.5]
    """

    strength: float

    def __post_init__(self) -> None:
        require(self, "strength", lambda strength: strength >= 0, "a number of 0 or more")

    def prepare(self, gradients: Any, params: Any) -> Any:
        return tree.map(lambda g, w: namespace(g, w).add(g, self.strength * w), gradients, params)


@dataclass(frozen=True, init=False)
class Chain(Optimizer):
    """Links, in their order, and the optimizer that takes what they leave.

    >>> import numpy as np
    >>> from tinynn.optim import SGD
    >>> params = {"w": np.asarray([1.0])}
    >>> chain = Chain(ClipByValue(1.0), SGD(learning_rate=0.5))
    >>> params, state = chain.update({"w": np.asarray([100.0])}, chain.init(params), params)
    >>> params["w"].tolist()
    [0.5]
    """

    links: tuple[Any, ...]

    def __init__(self, *links: Link | Optimizer) -> None:
        *first, last = links or (None,)
        if not (isinstance(last, Optimizer) and all(isinstance(link, Link) for link in first)):
            raise TypeError(
                "Chain: expected links (ClipByValue, ClipByGlobalNorm, L1, L2) and last an "
                f"optimizer, got {', '.join(map(label, links)) or 'nothing'}"
            )
        object.__setattr__(self, "links", links)

    def init(self, params: Any) -> dict[str, Any]:
        return self._last.init(params)

    def update(self, gradients: Any, state: dict[str, Any], params: Any) -> tuple[Any, Any]:
        for link in self.links[:-1]:
            gradients = link.prepare(gradients, params)
        return self._last.update(gradients, state, params)

    @property
    def _last(self) -> Optimizer:
        last: Optimizer = self.links[-1]
        return last
