"""An optimizer of networks that have been pruned."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn import tree
from tinynn.trace import namespace

from .base import Optimizer, State, require_params
from .composed import _own_state, _refuse_searches, _require_optimizer
from .patterns import Patterns, as_patterns, first_match, require_matches, require_patterns


@dataclass(frozen=True)
class KeepZeros(Optimizer):
    """An optimizer that leaves the zeros of pruned weights as they are.

    What is exactly 0 before a step is 0 after it. The zeros are those of the parameters themselves,
    so that there is no mask to keep beside them: `tinynn.compression.prune` makes more of them, in
    between as well.

    Parameters
    ----------
    optimizer
        What trains the parameters.
    mask
        A pattern of the parameters whose zeros stay, or several, in fnmatch's words; others, such
        as biases that begin as 0, are trained as ever.

    Raises
    ------
    TypeError
        For an optimizer that evaluates the loss itself, such as `LBFGS`: it would try weights that
        are then 0 again.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.optim import SGD
    >>> params, optimizer = {"weight": np.asarray([0.0, 1.0])}, KeepZeros(SGD(0.5))
    >>> gradients = {"weight": np.ones(2)}
    >>> optimizer.update(gradients, optimizer.init(params), params)[0]["weight"].tolist()
    [0.0, 0.5]
    """

    optimizer: Optimizer
    _: KW_ONLY
    mask: Patterns = "*weight"

    def __post_init__(self) -> None:
        _require_optimizer(self)
        _refuse_searches("KeepZeros", self.optimizer, "take one that goes by the gradient: Adam()")
        require_patterns(self, "mask")

    @property
    def needs(self) -> frozenset[str]:
        return self.optimizer.needs

    def init(self, params: Any) -> State:
        require_params(self, params)
        require_matches(self, params, as_patterns(self.mask))
        return {"optimizer": self.optimizer.init(params)}

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        own = _own_state(self, state, "optimizer")
        moved, own = self.optimizer.update(gradients, own, params, **extras)
        leaves, structure = tree.flatten(params)
        places = first_match(structure, len(leaves), (as_patterns(self.mask),))
        rows = zip(leaves, tree.leaves(moved), places, strict=True)
        kept = [new if place < 0 else _kept(old, new) for old, new, place in rows]
        return structure.unflatten(kept), {"optimizer": own}


def _kept(old: Any, new: Any) -> Any:
    xp = namespace(old, new)
    return xp.where(old == 0.0, xp.zeros_like(new), new)
