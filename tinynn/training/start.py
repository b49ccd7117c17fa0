"""The start of a run: parameters and state, new or given, and a first batch through the network."""

import inspect
from typing import Any

import backends
from backends import Backend, MixedArrays
from tinynn import tree
from tinynn.config import label
from tinynn.data import DataAdapter, Dataset, Samples
from tinynn.layers import ShapeError, run
from tinynn.layers.forward import create
from tinynn.training.batches import examples


def initial(
    net: Any, params: Any, state: Any, samples: Samples, seed: int, adapter: DataAdapter
) -> tuple[Any, Any]:
    """New parameters and state, or those given, if they are where X is and of the same shapes."""
    inputs = samples.inputs
    try:
        inspect.signature(net.forward).bind(None, *inputs)
    except TypeError as error:
        raise TypeError(
            f"fit: X: expected other inputs than {len(inputs)}, as {label(net)} takes them: {error}"
            ". To fix it: write a layer whose forward(scope, ...) takes each, or give one array"
        ) from error
    # To draw what is given would take time, and several times its memory.
    there = {
        path: leaf
        for path, leaf in (*tree.paths(params or {}), *tree.paths(state or {}))
        if backends.is_array(leaf) and backends.of(leaf) == adapter.target
    }
    new = create(net, int(seed), *inputs, dtype=adapter.dtype, there=there)
    given = (new[0] if params is None else params, new[1] if state is None else state)
    for name, expected, got in zip(("params", "state"), new, given, strict=True):
        if got is not expected:
            _check_like(name, expected, got, adapter.target)
    return given


def _check_like(name: str, expected: Any, got: Any, home: Backend) -> None:
    for path, leaf in tree.paths(got):
        if not backends.is_array(leaf):
            at = f" {path!r}:" if path else ""
            raise TypeError(
                f"fit: {name}:{at} expected an array, as net.init makes it, got "
                f"{type(leaf).__name__}. To fix it: backends.get({home.name!r}).asarray({leaf!r})"
            )
    shapes = [
        {path: (tuple(leaf.shape), leaf.dtype) for path, leaf in tree.paths(each)}
        for each in (expected, got)
    ]
    arrays = tree.leaves(got)
    if shapes[0].keys() == shapes[1].keys() and arrays and backends.of(*arrays) != home:
        raise MixedArrays(
            f"fit: {name}: expected arrays on {home!r}, where X is, "
            f"got arrays on {backends.of(*arrays)!r}. Move them first, with Model.to."
        )
    if shapes[0] != shapes[1]:
        path = next(p for p in {**shapes[0], **shapes[1]} if shapes[0].get(p) != shapes[1].get(p))
        said = [f"{s[path][0]} of {s[path][1]}" if path in s else "none" for s in shapes]
        raise ValueError(
            f"fit: {name}: {path!r}: expected {said[0]}, as net.init makes it, got {said[1]}. "
            "Give those of a network of the same layers and widths."
        )


def first_output(
    net: Any, start: tuple[Any, Any], dataset: Dataset, size: int, seed: int, computed: Any
) -> tuple[Any, bool]:
    """(the output for a first batch, whether layers draw random numbers).

    Every shape of batch goes through the network, so that errors come before training.
    """
    for batch in reversed(examples(dataset, size)):
        try:
            out = run(
                net, *start, *batch.inputs, key=int(seed), training=True, compute_dtype=computed
            )
        except ShapeError as error:
            if batch.size != size:
                error.add_note(
                    f"fit: {dataset.size} samples in batches of {size} leave a last batch of "
                    f"{batch.size}: choose another batch_size."
                )
            raise
    return out.output, out.draws
