"""The rows of operators that move elements and change no number."""

from collections.abc import Callable
from functools import partial
from math import prod
from operator import sub
from typing import Any

from tinynn import functional
from tinynn.layers import Flatten, Linear
from tinynn.onnx import operators
from tinynn.onnx.builder import Builder
from tinynn.onnx.source import OPEN, Step

Row = Callable[[Builder, Step], None]


def _flatten(build: Builder, step: Step) -> None:
    axis, rank = step.attributes.get("axis", 1), step.rank()
    if axis in (1, 1 - rank) and rank > 1:
        _as_rows(build, step)
    else:
        shape = step.shape()
        axis = axis + rank if axis < 0 else axis
        if axis and None in shape[axis:]:
            raise step.fail("known lengths")
        inner = prod(length or 0 for length in shape[axis:])
        wanted = (-1, inner) if axis else (1, -1)
        build.call(step, partial(operators.reshape, shape=wanted))


def _as_rows(build: Builder, step: Step) -> None:
    """(batch, ...) as (batch, features)."""
    if step.rank() == 2:
        build.alias(step, step.input(0))
    else:
        build.call(step, Flatten(), [step.input(0)])


def _reshape(build: Builder, step: Step) -> None:
    shape = target(step)
    before = step.source.shape(step.input(0))
    same = before is not None and len(shape) == len(before) and tuple(shape[1:]) == before[1:]
    if same and shape[:1] in ([], [-1], list(before or ())[:1]):
        build.alias(step, step.input(0))
    elif len(shape) == 2 and before and _keeps_rows(step, before):
        _as_rows(build, step)
    else:
        build.call(step, partial(operators.reshape, shape=tuple(shape)), [step.input(0)])


def _keeps_rows(step: Step, before: Any) -> bool:
    after = step.source.shape(step.outputs[0])
    return bool(after) and after[0] is not None and after[0] == before[0]  # type: ignore[index]


def target(step: Step) -> list[int]:
    """The shape that Reshape gives; -1 is the length that follows the batch, 0 what is there."""
    shape = step.source.shape(step.outputs[0])
    if shape is None or None in shape:
        given = step.source.lengths(step.input(1)) or step.integers("shape", 1)
        if given is None:
            raise step.fail("a shape that is constant, or follows from the batch")
        return given
    if 0 in shape:
        raise step.fail("no axis of length 0")
    known: list[int] = [int(n or 0) for n in shape]
    following = [place for place, n in enumerate(known) if step.source.follows(n)]
    if len(following) > 1:
        raise step.fail("one axis that follows the batch")
    if following:
        known[following[0]] = -1
    elif step.source.batch != OPEN and known:
        known[0] = -1  # the file is of one batch size: others have as many samples more
    return known


def _transpose(build: Builder, step: Step) -> None:
    axes = step.attributes.get("perm") or tuple(reversed(range(step.rank())))
    _unless_undone(build, step, partial(operators.permute_dims, axes=tuple(axes)))


def _unless_undone(build: Builder, step: Step, function: Any) -> None:
    """A function of shapes, left out where it undoes the one before it."""
    build.bind(step.outputs[0], build.then(step, function, build.value(step.input(0))))


def _axes(function: Any) -> Row:
    def row(build: Builder, step: Step) -> None:
        axes = step.integers("axes", 1)
        if axes is None:
            axes = [i for i, n in enumerate(step.shape()) if n == 1]
        _unless_undone(build, step, partial(function, axis=tuple(axes)))

    return row


def _concat(build: Builder, step: Step) -> None:
    axis = step.attributes.get("axis", 1)
    if len(step.inputs) == 2 and axis in (-1, step.rank() - 1) and _two_classes(build, step):
        return
    build.call(step, partial(operators.concat, axis=axis))


def _two_classes(build: Builder, step: Step) -> bool:
    """(1 - p, p), or (sigmoid(-z), sigmoid(z)), with p = sigmoid(z) is softmax((0, z))."""
    first, second = (build.calls.get(build.value(name)) for name in step.inputs)
    if first is None or second is None or second.layer is not functional.sigmoid:
        return False
    z, dropped = second.args[0], [first, second]
    if first.layer is functional.sigmoid:
        turned = build.calls.get(first.args[0])
        if turned is None or turned.layer is not operators.KNOWN["negative"]:
            return False
        dropped.append(turned)
        if turned.args != (z,):
            return False
    elif first.layer is not sub or first.args != (1, second.name):
        return False
    linear = build.calls.get(z)
    if linear is None or linear.layer != Linear(1, bias=linear.layer.bias) or linear.child:
        return False
    users = [call for call in build.calls.values() if z in call.args or z == call.child]
    if len(users) != len(dropped) - 1:
        return False
    for call in dropped:
        build.drop(call)
    build.two_outputs(linear)
    build.call(step, functional.softmax, values=(linear.name,))
    return True


def _split(build: Builder, step: Step) -> None:
    axis, count = step.attributes.get("axis", 0), len(step.outputs)
    sizes = step.integers("split", 1)
    if sizes is None:
        length = step.shape()[axis]
        if length is None or step.source.follows(length):
            raise step.fail("an axis of a known length")
        part = -(-length // count)
        sizes = [min(part, length - i * part) for i in range(count)]
    build.call(step, partial(operators.split, sizes=tuple(sizes), axis=axis), [step.input(0)])
    build.results(step, lambda place: partial(operators.item, index=place), count)


def _slice(build: Builder, step: Step) -> None:
    starts, ends, axes, steps = (
        step.integers(name, place)
        for place, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    if starts is None or ends is None:
        raise step.fail("ends that are constant")
    axes = axes or list(range(len(starts)))
    call = partial(
        operators.slices, starts=tuple(starts), ends=tuple(ends), axes=tuple(axes),
        steps=tuple(steps or [1] * len(starts)),
    )  # fmt: skip
    build.call(step, call, [step.input(0)])


def _expand(build: Builder, step: Step) -> None:
    shape = step.source.shape(step.outputs[0])
    if shape is None or None in shape:
        shape = tuple(step.integers("shape", 1) or ())
    follows = [step.source.follows(n) for n in shape]
    if any(own and n != step.source.batch for own, n in zip(follows, shape, strict=True)):
        raise step.fail("lengths that are the batch's or fixed, got a multiple of it")
    wanted = tuple(-1 if own else int(n or 0) for own, n in zip(follows, shape, strict=True))
    like = step.source.inputs[:1] if any(follows) else []
    x = build.value(step.input(0)) if step.given(0) is None else build.array(step.input(0))
    values = (x, *map(build.value, like))
    build.call(step, partial(operators.expand, shape=wanted), values=values)


def _tile(build: Builder, step: Step) -> None:
    repeats = step.integers("repeats", 1) or []
    build.call(step, partial(operators.tile, repeats=tuple(repeats)), [step.input(0)])


def _gather(function: Any) -> Row:
    def row(build: Builder, step: Step) -> None:
        axis = step.attributes.get("axis", 0)
        indices = step.given(1)
        call = partial(function, axis=axis)
        if indices is not None and indices.ndim == 0:
            at = {"indices": int(indices), "axis": axis}
            build.call(step, partial(function, **at), [step.input(0)])
        else:
            build.call(step, call)

    return row


def _length_of_batch(build: Builder, step: Step) -> None:
    """Shapes that do not follow the batch, and what is reshaped by it, are known already."""
    raise step.fail("no number that follows from the size of the batch, but in shapes")


def _trilu(build: Builder, step: Step) -> None:
    k, upper = step.integers("k", 1) or [0], bool(step.attributes.get("upper", 1))
    build.call(step, partial(operators.trilu, k=k[0], upper=upper), [step.input(0)])


def _to_space(function: Any) -> Row:
    def row(build: Builder, step: Step) -> None:
        settings: dict[str, Any] = {"size": step.attributes["blocksize"]}
        if "mode" in step.attributes:
            settings["mode"] = step.text("mode", "DCR")
        build.call(step, partial(function, **settings))

    return row


READERS: dict[str, Row] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _axes(operators.squeeze),
    "Unsqueeze": _axes(operators.unsqueeze),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": _tile,
    "Gather": _gather(operators.gather),
    "GatherElements": _gather(operators.gather_elements),
    "Trilu": _trilu,
    "Shape": _length_of_batch,
    "DepthToSpace": _to_space(operators.depth_to_space),
    "SpaceToDepth": _to_space(operators.space_to_depth),
}
