"""Weights of classes: scikit-learn's `class_weight`, as something hashable."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from tinynn.functional import one_hot
from tinynn.functional.errors import ShapeError
from tinynn.trace import backend_of, namespace

# None, "balanced", a number for each class, or pairs of a class and its number (from a mapping).
ClassWeight: TypeAlias = Any
_EXPECTED = 'None, "balanced", a mapping of class to weight, or a sequence of one number a class'


def normalized(owner: str, given: Any) -> ClassWeight:
    """`class_weight` as it is stored: hashable, and in what JSON can hold.

    Raises ValueError for what is none of the four forms, and for weights that are negative, not
    finite, or all 0.

    >>> normalized("BinaryCrossEntropy", {0: 1, 1: 10})
    ((0, 1.0), (1, 10.0))
    """
    if given is None or (isinstance(given, str) and given == "balanced"):
        return given
    try:
        if isinstance(given, Mapping):
            pairs = [(_key(key), float(weight)) for key, weight in given.items()]
            stored: tuple[Any, ...] = tuple(sorted(pairs, key=lambda pair: str(pair[0])))
        elif isinstance(given, str):
            raise TypeError
        else:
            stored = tuple(map(_entry, given))
        weights = [entry[1] if isinstance(entry, tuple) else entry for entry in stored]
        sound = len({type(entry) for entry in stored}) <= 1
        sound = sound and all(weight >= 0 and math.isfinite(weight) for weight in weights)
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(
            f"{owner}: expected class_weight to be {_EXPECTED}, all numbers of 0 or more, "
            f"got {given!r}"
        )
    if isinstance(given, Mapping) and not stored:
        return None
    if not any(weights) and not isinstance(stored[0] if stored else 0.0, tuple):
        raise ValueError(
            f"{owner}: expected a class_weight with a number above 0, got {given!r}, "
            "under which nothing counts"
        )
    return stored


def _entry(entry: Any) -> Any:
    """A number, or the pair of a class and a number that a mapping was stored as."""
    if isinstance(entry, tuple | list):
        key, weight = entry
        return _key(key), float(weight)
    return float(entry)


def _key(key: Any) -> int | str:
    """A class by its name or number."""
    if isinstance(key, str):
        return str(key)
    if int(key) != key:
        raise ValueError(f"expected a class, got {key!r}")
    return int(key)


def by_class(
    owner: Any, class_weight: ClassWeight, count: int, names: Sequence[Any] = ()
) -> tuple[float, ...]:
    """One number for each of `count` classes; a class that a mapping leaves out counts 1.

    Raises ValueError for "balanced" that has not been computed, for a class that does not exist
    and for another number of weights.
    """
    if class_weight == "balanced":
        raise ValueError(
            f"{owner}: expected weights that have been computed from the training targets. "
            "To fix it: call loss = loss.fit_to(prediction, target) first, as fit does"
        )
    if isinstance(class_weight[0], tuple):
        known: tuple[Any, ...] = tuple(names) or tuple(range(count))
        given = dict(class_weight)
        strange = [key for key in given if key not in known]
        if strange:
            raise ValueError(
                f"{owner}: expected class_weight to name classes out of {_listed(known)}, "
                f"got {strange[0]!r}"
            )
        return tuple(given.get(name, 1.0) for name in known)
    if len(class_weight) != count:
        raise ShapeError(
            f"{owner}: expected class_weight to have {count} numbers, one for each class, "
            f"got {len(class_weight)}"
        )
    return tuple(class_weight)


def balanced(counts: Iterable[float]) -> tuple[float, ...]:
    """scikit-learn's "balanced" weights, samples / (classes * samples of the class).

    Only classes that occur are counted; one that does not has no influence and gets weight 1.

    >>> balanced([6, 2, 0])
    (0.6666666666666666, 2.0, 1.0)
    """
    counts = list(counts)
    total, present = math.fsum(counts), sum(count > 0 for count in counts)
    return tuple(total / (present * count) if count > 0 else 1.0 for count in counts)


def class_counts(
    target: Any, classes: int, like: Any, sample_weight: Any = None, *, by_label: bool
) -> list[float]:
    """The number of samples of each class, weighed by `sample_weight`; reads `classes` numbers.

    target: integer labels (...) from 0 to classes - 1 if `by_label`, else one-hot or probabilities
    (..., classes). like: an array of the floating dtype in which weights are summed.
    """
    xp, backend = namespace(target), backend_of(target)
    if by_label and sample_weight is None:  # exact, and without a matrix of samples by classes
        with backend.scope():
            numbers = xp.arange(classes, device=backend.device)
        labels = xp.sort(xp.astype(xp.reshape(target, (-1,)), numbers.dtype))
        after, before = (xp.searchsorted(labels, numbers, side=side) for side in ("right", "left"))
        return backend.to_host(after - before).tolist()
    shares = one_hot(target, classes, like.dtype) if by_label else xp.astype(target, like.dtype)
    if sample_weight is not None:
        rows = xp.reshape(sample_weight, (-1,) + (1,) * (shares.ndim - 1))
        shares = shares * xp.astype(rows, like.dtype)
    return backend.to_host(xp.sum(xp.reshape(shares, (-1, classes)), axis=0)).tolist()


def _listed(names: Sequence[Any]) -> str:
    """Names for a message: all of a few, the first and last of many."""
    shown = list(map(repr, names))
    return ", ".join(shown if len(shown) <= 12 else [*shown[:5], "...", shown[-1]])
