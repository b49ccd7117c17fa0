"""A shard: this process's rows of a batch, and how its part of a step becomes the whole step."""

from dataclasses import dataclass
from typing import Any

from tinynn import tree
from tinynn.rules.special import stop_gradient
from tinynn.trace import Effect, Function, namespace
from tinynn.transforms import custom_vjp

Array = Any
Tree = Any


def all_reduce_of(communicator: Any) -> Function:
    """`communicator.all_reduce` as a function that can be differentiated and recorded.

    Its effect keeps its calls in their order, so that every process carries out the same ones.
    A recording writes it down without carrying it out.

    Parameters
    ----------
    communicator
        A `Communicator`.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn import grad
    >>> class Two:  # as if another process had the same numbers
    ...     def all_reduce(self, array):
    ...         return 2 * array
    >>> summed = all_reduce_of(Two())
    >>> float(grad(lambda x: summed(x * x))(np.asarray(3.0)))  # 2 x of each loss
    12.0
    """

    @custom_vjp(lambda g, y, x: (all_reduce(g),), effect=Effect.COMMUNICATES)
    def all_reduce(x: Array) -> Array:
        return communicator.all_reduce(x)

    all_reduce.example = lambda x: namespace(x).asarray(x, copy=True)
    return all_reduce


@dataclass(frozen=True)
class Shard:
    """The rows of a batch that one process computes with.

    The loss of a batch is a sum of the processes' parts, each the loss of its rows times their
    share in the batch; so the sum of the gradients is the gradient of the batch.

    Attributes
    ----------
    all_reduce
        `all_reduce_of` a communicator.
    rows
        How many rows of the batch are this process's own; 0: it has been given one that another
        process has too, and it counts for nothing.
    first_row
        The number of its first row in the batch.
    whole
        The rows of the batch.
    averages
        True if the loss is a mean over the rows, False if it is a sum.
    """

    all_reduce: Any
    rows: int
    first_row: int
    whole: int
    averages: bool = True

    @property
    def fraction(self) -> float:
        """The share of the batch's rows."""
        return self.rows / self.whole

    def part_of_loss(self, value: Array, weight: Array | None) -> Array:
        """This process's part of the loss of the whole batch.

        Parameters
        ----------
        value
            The loss of this process's rows, 0-d.
        weight
            The sum of the weights that a mean was divided by, 0-d; None where all rows weigh the
            same.
        """
        if not self.averages:
            return value * float(self.rows > 0)
        if weight is None:
            return value * self.fraction
        weight = stop_gradient(weight) * float(self.rows > 0)
        total = self.all_reduce(weight)
        xp = namespace(total)
        return value * (weight / xp.where(total == 0, xp.ones_like(total), total))

    def mean(self, x: Array) -> Array:
        """The mean over the whole batch, and over all axes but the last: (features,)."""
        xp, axes = namespace(x), tuple(range(x.ndim - 1))
        total = xp.sum(x, axis=axes)
        count = 1
        for length in x.shape[1:-1]:
            count *= int(length)
        return self.all_reduce(total * float(self.rows > 0)) / (self.whole * count)

    def reduced(self, value: Array, state: Tree, gradients: Tree) -> tuple[Array, Tree, Tree]:
        """(loss, state, gradients) of the whole batch from those of this process's rows.

        All go through one flat array for each dtype. Statistics in the state become their mean,
        by rows; what is no floating-point array is the same in every process, and stays.
        """
        leaves, structure = tree.flatten((value, state, gradients))
        first = 1 + len(tree.leaves(state))
        places: dict[Any, list[int]] = {}
        for place, leaf in enumerate(leaves):
            kinds = ("real floating", "complex floating")
            if hasattr(leaf, "dtype") and namespace(leaf).isdtype(leaf.dtype, kinds):
                places.setdefault(leaf.dtype, []).append(place)
        for found in places.values():
            arrays = [leaves[p] * float(self.rows) if 0 < p < first else leaves[p] for p in found]
            for place, total in zip(found, self._summed(arrays), strict=True):
                leaves[place] = total / float(self.whole) if 0 < place < first else total
        whole: tuple[Array, Tree, Tree] = structure.unflatten(leaves)
        return whole

    def _summed(self, arrays: list[Array]) -> list[Array]:
        """The sums over all processes, of arrays of one dtype."""
        xp = namespace(*arrays)
        flat = self.all_reduce(xp.concat([xp.reshape(a, (-1,)) for a in arrays]))
        sums, start = [], 0
        for array in arrays:
            count = 1
            for length in array.shape:
                count *= int(length)
            sums.append(xp.reshape(flat[start : start + count], tuple(array.shape)))
            start += count
        return sums
