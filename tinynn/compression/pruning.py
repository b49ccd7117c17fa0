"""Magnitude pruning: the weights nearest to 0 become 0."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn import tree
from tinynn.config import Configured, require, require_count
from tinynn.optim import KeepZeros
from tinynn.optim.patterns import Patterns, as_patterns, matches, require_matches, require_patterns
from tinynn.trace import backend_of, namespace


def prune(
    params: Any, share: float, *, weights: Patterns = "*weight", per_layer: bool = False
) -> Any:
    """The parameters with this share of the weights, those nearest to 0, set to 0.

    Parameters
    ----------
    params
        A tree of arrays, as `Model.params`.
    share
        How many of the weights are to be 0, from 0 on and below 1; equal ones go together.
    weights
        A pattern of the paths of weights, or several.
    per_layer
        True takes the share of each weight; otherwise it is that of all together, so that layers
        whose weights are small lose more.

    Raises
    ------
    ValueError
        A share that is not in [0, 1), or a pattern that matches nothing.

    References
    ----------
    Han, Pool, Tran and Dally 2015, "Learning both Weights and Connections for Efficient Neural
    Networks", NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> prune({"weight": np.asarray([0.1, -2.0, 0.3, 1.0])}, 0.5)["weight"].tolist()
    [0.0, -2.0, 0.0, 1.0]
    """
    if isinstance(share, bool) or not 0.0 <= share < 1.0:
        raise ValueError(
            f"prune: share: expected a number in [0, 1), got {share!r}. To fix it: give 0.8 for "
            "four weights of five"
        )
    patterns = as_patterns(weights)
    require_matches("prune", params, patterns)
    chosen = {path: leaf for path, leaf in tree.paths(params) if matches(path, patterns)}
    groups = [[leaf] for leaf in chosen.values()] if per_layer else [list(chosen.values())]
    limits = [limit for group in groups for limit in [_limit(group, share)] * len(group)]
    known = dict(zip(chosen, limits, strict=True))
    leaves = [
        _cut(leaf, known[path]) if path in known else leaf for path, leaf in tree.paths(params)
    ]
    return tree.flatten(params)[1].unflatten(leaves)


def _limit(arrays: list[Any], share: float) -> Any:
    """The size up to which entries are cut: 0-d, below 0 where none is."""
    xp = namespace(*arrays)
    sizes = xp.sort(xp.concat([xp.abs(xp.reshape(a, (-1,))) for a in arrays]))
    count = round(share * sizes.shape[0])
    return sizes[count - 1] if count else -xp.ones_like(sizes[0])


def _cut(array: Any, limit: Any) -> Any:
    xp = namespace(array, limit)
    return xp.where(xp.abs(array) <= limit, xp.zeros_like(array), array)


def sparsity(params: Any, weights: Patterns = "*weight") -> float:
    """The share of the weights that are 0.

    Parameters
    ----------
    params, weights
        As `prune` takes them.

    Examples
    --------
    >>> import numpy as np
    >>> sparsity({"weight": np.asarray([0.0, 1.0])})
    0.5
    """
    patterns = as_patterns(weights)
    require_matches("sparsity", params, patterns)
    arrays = [leaf for path, leaf in tree.paths(params) if matches(path, patterns)]
    xp = namespace(*arrays)
    flat = xp.concat([xp.reshape(a == 0.0, (-1,)) for a in arrays])
    share = xp.mean(xp.astype(flat, arrays[0].dtype))
    return float(backend_of(share).to_host(share))


@dataclass
class Pruning(Configured):
    """A callback that prunes to a plan: fast in the beginning, slower towards the end.

    After the epochs from `first` to `last` the share of zeros is
    `share * (1 - (1 - done) ** 3)`, where `done` goes from just above 0 to 1. The optimizer has to
    leave zeros as they are: `optim.KeepZeros(Adam())`.

    Parameters
    ----------
    share
        How many of the weights are to be 0 in the end.
    first, last
        The numbers of the epochs after which weights are cut for the first and for the last time,
        counted from 1.
    weights, per_layer
        As `prune` takes them.

    References
    ----------
    Zhu and Gupta 2017, "To prune, or not to prune", arXiv:1710.01878.

    Examples
    --------
    >>> Pruning(0.8, first=1, last=4).share_after(2)
    0.7
    """

    share: float
    _: KW_ONLY
    first: int = 1
    last: int = 10
    weights: Patterns = "*weight"
    per_layer: bool = False

    def __post_init__(self) -> None:
        require(self, "share", lambda share: 0.0 <= share < 1.0, "a number in [0, 1)")
        require_count(self, "first")
        require_count(self, "last")
        require(self, "last", lambda last: last >= self.first, "at or after first")
        require_patterns(self, "weights")

    def share_after(self, epoch: int) -> float:
        """The share of zeros after an epoch, counted from 1."""
        done = (epoch - self.first + 1) / (self.last - self.first + 1)
        done = min(max(done, 0.0), 1.0)
        return round(self.share * (1.0 - (1.0 - done) ** 3), 12)

    def start(self, run: Any) -> None:
        """ValueError for an optimizer that would train the zeros."""
        found, optimizer = False, run.optimizer
        while optimizer is not None and not found:
            found = isinstance(optimizer, KeepZeros)
            optimizer = getattr(optimizer, "optimizer", None)
        if not found:
            raise ValueError(
                "Pruning: expected an optimizer that leaves zeros as they are, got "
                f"{run.optimizer}. To fix it: optimizer=KeepZeros(Adam())"
            )

    def __call__(self, run: Any) -> None:
        """Cut what the plan says."""
        if self.first <= run.epoch <= self.last:
            share = self.share_after(run.epoch)
            run.params = prune(run.params, share, weights=self.weights, per_layer=self.per_layer)
