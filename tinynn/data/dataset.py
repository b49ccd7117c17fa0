"""Datasets: so many samples, any of which can be taken as a batch on the device."""

from copy import copy
from math import prod
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

from backends import Backend, random
from tinynn import tree

Array: TypeAlias = Any
Tree: TypeAlias = Any


class Samples(NamedTuple):
    """Samples on one backend: trees of arrays (samples, ...), and their weights.

    Attributes
    ----------
    x
        What the network is given; a tuple is several inputs.
    y
        What it is to give.
    sample_weight : (samples,)
        How much each counts in the loss, or None.
    """

    x: Tree
    y: Tree
    sample_weight: Array | None = None

    @property
    def size(self) -> int:
        """The number of these samples."""
        return int(tree.leaves(self.x)[0].shape[0])

    @property
    def inputs(self) -> tuple[Tree, ...]:
        """The arguments that the network is called with."""
        return self.x if type(self.x) is tuple else (self.x,)

    def between(self, start: int, stop: int) -> "Samples":
        """The samples from `start` up to `stop`; views where the library has them."""
        part: Samples = tree.map(lambda a: a[start:stop, ...], self)
        return part


class Dataset(Protocol):
    """The interface of what batches come from: `size` samples, numbered from 0."""

    @property
    def size(self) -> int:
        """The number of samples."""

    def take(self, order: Array) -> Samples:
        """The samples of these numbers, (batch,) integers on the device, in that order."""

    def between(self, start: int, stop: int) -> Samples:
        """The samples from number `start` up to `stop`."""


class Source(Dataset, Protocol):
    """A dataset whose targets can be inspected: all of them, or those of its first samples."""

    @property
    def has_all_targets(self) -> bool:
        """True if `targets` are those of all samples."""

    @property
    def targets(self) -> Tree:
        """y, as much of it as can be looked at."""

    @property
    def sample_weight(self) -> Array | None:
        """The weights of the same samples, or None."""

    def with_targets(self, y: Tree) -> "Source":
        """The same samples with another y."""


class ArrayDataset:
    """A dataset of arrays in memory, or of memory-mapped files.

    Parameters
    ----------
    samples
        All of them.
    backend
        Where they are.
    """

    has_all_targets = in_memory = True

    def __init__(self, samples: Samples, backend: Backend) -> None:
        self.samples, self.backend, self.size = samples, backend, samples.size

    @property
    def targets(self) -> Tree:
        """All of y."""
        return self.samples.y

    @property
    def sample_weight(self) -> Array | None:
        """All weights, or None."""
        return self.samples.sample_weight

    def with_targets(self, y: Tree) -> "ArrayDataset":
        """The same samples with another y."""
        return ArrayDataset(self.samples._replace(y=y), self.backend)

    def take(self, order: Array) -> Samples:
        xp = self.backend.xp
        taken: Samples = tree.map(lambda a: xp.take(a, order, axis=0), self.samples)
        return taken

    def between(self, start: int, stop: int) -> Samples:
        whole = start == 0 and stop == self.size
        return self.samples if whole else self.samples.between(start, stop)


class TargetsBeside:
    """Targets and weights in arrays, beside an x that is not an array: a base of datasets.

    Parameters
    ----------
    rest
        y and weights of all samples; their x is not looked at.
    backend
        Where the batches are to be.
    """

    has_all_targets = True

    def __init__(self, rest: Samples, backend: Backend) -> None:
        self.rest = ArrayDataset(rest._replace(x=rest.y), backend)

    @property
    def targets(self) -> Tree:
        """All of y."""
        return self.rest.targets

    @property
    def sample_weight(self) -> Array | None:
        """All weights, or None."""
        return self.rest.sample_weight

    def with_targets(self, y: Tree) -> Self:
        """The same samples with another y."""
        made = copy(self)
        made.rest = ArrayDataset(self.rest.samples._replace(x=y, y=y), self.rest.backend)
        return made


class SparseDataset(TargetsBeside):
    """A dataset of the rows of a SciPy sparse matrix, given batch by batch.

    Where the backend has no products with sparse matrices, a batch is dense.

    Parameters
    ----------
    matrix
        (samples, features), in CSR form.
    dtype
        The name of the dtype that the batches get.
    rest
        y and weights of all samples; their x is not looked at.
    backend
        Where the batches are to be.
    """

    in_memory = False

    def __init__(self, matrix: Any, dtype: str, rest: Samples, backend: Backend) -> None:
        super().__init__(rest, backend)
        self.matrix, self.dtype, self.backend = matrix, dtype, backend
        self.size = int(matrix.shape[0])

    def take(self, order: Array) -> Samples:
        return self._rows(self.backend.to_host(order), self.rest.take(order))

    def between(self, start: int, stop: int) -> Samples:
        return self._rows(slice(start, stop), self.rest.between(start, stop))

    def _rows(self, rows: Any, rest: Samples) -> Samples:
        return rest._replace(x=self.backend.from_sparse(self.matrix[rows], self.dtype))


class TargetsSeen:
    """Targets and weights of the first samples, of data that are read as they are needed: a base.

    Parameters
    ----------
    first
        The first samples, on the backend.
    tail
        The axes of the targets after the first, as the loss expects them; None: as they are.
    """

    has_all_targets = in_memory = False

    def __init__(self, first: Samples, tail: tuple[int, ...] | None = None) -> None:
        self.first, self.tail = first, tail

    @property
    def targets(self) -> Tree:
        """y of the first samples."""
        return self.first.y

    @property
    def sample_weight(self) -> Array | None:
        """The weights of the first samples, or None."""
        return self.first.sample_weight

    def with_targets(self, y: Tree) -> Self:
        """The same samples, whose targets have the axes of this y."""
        made = copy(self)
        made.first = self.first._replace(y=y)
        made.tail = tuple(y.shape[1:]) if hasattr(y, "shape") else None
        return made

    def with_tail(self, samples: Samples, xp: Any) -> Samples:
        """Samples whose targets have the axes that the loss expects, if so many numbers fit."""
        if self.tail is None:
            return samples
        shape = (samples.size, *self.tail)
        if prod(samples.y.shape) != prod(shape):  # a comparison of shapes tells
            return samples
        return samples._replace(y=xp.reshape(samples.y, shape))


class GivenDataset(TargetsSeen):
    """A dataset of the user's own, of which only the first targets are inspected.

    Parameters
    ----------
    dataset
        What the samples are read from, when they are needed.
    backend
        Where it gives them.
    first
        Its first samples.
    """

    def __init__(self, dataset: Any, backend: Backend, first: Samples) -> None:
        super().__init__(first)
        self.dataset, self.backend, self.size = dataset, backend, int(dataset.size)

    def take(self, order: Array) -> Samples:
        return self.with_tail(Samples(*self.dataset.take(order)), self.backend.xp)

    def between(self, start: int, stop: int) -> Samples:
        return self.with_tail(Samples(*self.dataset.between(start, stop)), self.backend.xp)


class Subset:
    """Some samples of a dataset, chosen by number; nothing is copied.

    Parameters
    ----------
    dataset
        What the samples are of.
    indices
        (samples,) their numbers, on the device.
    backend
        Where they are.
    """

    in_memory = False

    def __init__(self, dataset: Dataset, indices: Array, backend: Backend) -> None:
        self.dataset, self.indices, self.backend = dataset, indices, backend
        self.size = int(indices.shape[0])

    def take(self, order: Array) -> Samples:
        return self.dataset.take(self.backend.xp.take(self.indices, order))

    def between(self, start: int, stop: int) -> Samples:
        return self.dataset.take(self.indices[start:stop])


class Slice:
    """The samples of a dataset from number `start` up to `stop`.

    Parameters
    ----------
    dataset
        What the samples are of.
    start, stop
        Numbers of samples.
    """

    def __init__(self, dataset: Dataset, start: int, stop: int) -> None:
        self.dataset, self.start, self.size = dataset, start, stop - start
        self.in_memory = getattr(dataset, "in_memory", False)

    def take(self, order: Array) -> Samples:
        return self.dataset.take(order + self.start)

    def between(self, start: int, stop: int) -> Samples:
        return self.dataset.between(self.start + start, self.start + stop)


def held_out_count(count: int, fraction: float) -> int:
    """The number of samples that a fraction holds out: at least one, and never all.

    Parameters
    ----------
    count
        Samples in all, 2 or more.
    fraction
        Of them, to hold out.
    """
    return min(max(round(count * fraction), 1), count - 1)


def held_out(
    dataset: Dataset, fraction: float, key: Array | None, classes: Array | None, backend: Backend
) -> tuple[Dataset, Dataset]:
    """Split a dataset into (samples to train on, samples held out), without copying.

    Parameters
    ----------
    dataset
        All samples.
    fraction
        Of them, to hold out.
    key
        What the draw is made with; None holds out the last samples.
    classes
        (samples,) integers or booleans; each class gets its share, to within one sample.
    backend
        Where the samples are.
    """
    count, few = dataset.size, held_out_count(dataset.size, fraction)
    xp = backend.xp
    part: Any = getattr(dataset, "part", None)  # of datasets that have parts of their own
    if key is None and part is None:
        return Slice(dataset, 0, count - few), Slice(dataset, count - few, count)
    if key is None:
        order = xp.arange(count, device=backend.device)
        return part(order[: count - few]), part(order[count - few :])
    order = random.permutation(key, count)
    if classes is not None:  # sorted by class, at random within it, then every so-manieth
        labels = xp.take(classes, order)
        if xp.isdtype(labels.dtype, "bool"):
            labels = xp.astype(labels, xp.int32)
        order = xp.take(order, xp.argsort(labels, stable=True))
    chosen = {int((i + 0.5) * count / few) for i in range(few)}
    places = [sorted(chosen), [i for i in range(count) if i not in chosen]]
    held, kept = (xp.sort(xp.take(order, backend.asarray(p, order.dtype))) for p in places)
    if part is not None:
        return part(kept), part(held)
    return Subset(dataset, kept, backend), Subset(dataset, held, backend)


def target_like(target: Array, prediction: Array, xp: Any) -> Array:
    """Reshape a target to (samples, 1) or (samples,) like the prediction: nothing broadcasts.

    Parameters
    ----------
    target
        (samples,) or (samples, ...).
    prediction
        Of any number of samples.
    xp
        The namespace of both.
    """
    if target.ndim == 1 and tuple(prediction.shape[1:]) == (1,):
        return xp.reshape(target, (-1, 1))
    if prediction.ndim == 1 and tuple(target.shape[1:]) == (1,):
        return xp.reshape(target, (-1,))
    return target
