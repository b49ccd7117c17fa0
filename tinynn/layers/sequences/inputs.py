"""The inputs of layers over sequences: each an array, or a pair of it and what of it is valid."""

from typing import Any

from tinynn import tree
from tinynn.functional.errors import InputError, ShapeError
from tinynn.functional.lengths import shape_of, valid_rows
from tinynn.layers.inputs import is_floating
from tinynn.layers.scope import Array, Tree

Sequence = tuple[Array, Array | None]
Cache = dict[str, Array]


def sequences(layer: Any, inputs: tuple[Tree, ...], most: int) -> list[Sequence]:
    """Each sequence with booleans, (batch, time), of its valid steps; None if all are.

    inputs: sequences, (batch, time, features), in order. Lengths, (batch,) integers, or a mask,
    (batch, time) booleans, follow the sequence that they are of, in a pair with it or as the next
    input.
    most: so many sequences there may be.
    """
    found: list[tuple[Array, Array | None]] = []
    for leaf in tree.leaves(inputs):
        if found and hasattr(leaf, "dtype") and not is_floating(leaf):
            x, before = found[-1]
            if before is not None:
                raise InputError(
                    f"{layer}: expected lengths or a mask once for each sequence, got "
                    f"{shape_of(leaf)} after {shape_of(before)}. To fix it: give one of them"
                )
            found[-1] = (x, valid_rows(layer, leaf, x.shape[0], x.shape[1]))
            continue
        if getattr(leaf, "ndim", 0) != 3 or not leaf.shape[1]:
            raise ShapeError(
                f"{layer}: expected input of shape (batch, time, features), of one step or more, "
                f"got {shape_of(leaf)}. To fix it: reshape the data; one feature needs an axis, too"
            )
        found.append((leaf, None))
    if not 0 < len(found) <= most:
        raise InputError(
            f"{layer}: expected {' or '.join(map(str, range(1, most + 1)))} sequences, got "
            f"{len(found)}. To fix it: pick those that this layer is for in a layer of your own"
        )
    if len({x.shape[0] for x, _ in found}) > 1:
        shapes = " and ".join(shape_of(x) for x, _ in found)
        raise ShapeError(
            f"{layer}: expected sequences of one batch, got {shapes}. To fix it: give a context to "
            "each sequence"
        )
    return found


def without_cache(inputs: tuple[Tree, ...]) -> tuple[tuple[Tree, ...], Cache | None]:
    """The inputs that are sequences, and the cache after them, if there is one.

    All may be in one tuple, as a `Sequential` is given them.
    """
    if len(inputs) == 1 and isinstance(inputs[0], tuple | list):
        inputs = tuple(inputs[0])
    if len(inputs) > 1 and isinstance(inputs[-1], dict):
        return inputs[:-1], inputs[-1]
    return inputs, None
