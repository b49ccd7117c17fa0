"""A tree of parameters as one vector, which methods that look at all of them together work on."""

from math import prod
from typing import Any

from tinynn import tree
from tinynn.trace import namespace

Array = Any


class Flat:
    """A tree of arrays as one vector of their widest dtype, and back.

    Attributes:
        leaves: the arrays, of which only shapes and dtypes count.
        size: how many numbers there are.
    """

    def __init__(self, leaves: list[Array], structure: tree.Structure) -> None:
        self.structure, self.leaves = structure, leaves
        xp = namespace(leaves[0])
        self.dtype = leaves[0].dtype if len(leaves) == 1 else xp.result_type(*leaves)
        self.sizes = [prod(leaf.shape) for leaf in leaves]  # PyTorch's `size` is a method
        self.size = sum(self.sizes)

    @classmethod
    def of(cls, value: Any) -> "Flat":
        """The layout of a tree of arrays."""
        leaves, structure = tree.flatten(value)
        return cls(leaves, structure)

    def vector(self, values: Any) -> Array:
        """(n,)"""
        leaves = tree.leaves(values)
        xp = namespace(*leaves)
        flat = [xp.reshape(leaf, (-1,)) for leaf in leaves]
        return xp.concat([a if a.dtype == self.dtype else xp.astype(a, self.dtype) for a in flat])

    def rows(self, values: Any) -> Array:
        """(..., n) from a tree whose arrays have more axes in front."""
        leaves = tree.leaves(values)
        front = leaves[0].shape[: leaves[0].ndim - len(self.leaves[0].shape)]
        xp = namespace(*leaves)
        pairs = zip(leaves, self.sizes, strict=True)
        flat = [xp.astype(xp.reshape(a, (*front, size)), self.dtype) for a, size in pairs]
        return xp.concat(flat, axis=-1)

    def tree(self, vector: Array) -> Any:
        """The tree of such a vector."""
        xp, out, start = namespace(vector), [], 0
        for leaf, size in zip(self.leaves, self.sizes, strict=True):
            part = xp.reshape(vector[start : start + size], leaf.shape)
            out.append(part if part.dtype == leaf.dtype else xp.astype(part, leaf.dtype))
            start += size
        return self.structure.unflatten(out)
