"""Arithmetic of lengths that follow the size of the batch: what `from_onnx` knows of shapes.

A file computes shapes with its operators: Shape, Gather, Mul, Concat, Reshape. Where the size n of
the batch is left open, such a number is here `factor * n + offset`, for any n of 1 or more, and an
operator either gives numbers of that kind for every n, or it is `Undecided`.
"""

from collections.abc import Callable, Sequence
from operator import eq, ge, gt, le, lt, ne
from typing import Any, NamedTuple

#: Operators that take elements from places that do not depend on what the elements are.
MOVING = frozenset(
    "Identity Gather GatherElements GatherND Slice Split Concat Squeeze Unsqueeze Reshape Flatten "
    "Transpose Expand Tile".split()
)
#: Which of a moving operator's inputs are the elements; of the others all are.
FIRST = MOVING - {"Concat"}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Equal": eq, "Greater": gt, "GreaterOrEqual": ge, "Less": lt, "LessOrEqual": le,
}  # fmt: skip
BOOL = 9  # the number of booleans in ONNX
WIDE = (1, 6, 7, 11)  # those of float32, int32, int64 and float64, which hold any length


class Undecided(Exception):
    """The result is one for some sizes of the batch and another for others."""


class Lengths(NamedTuple):
    """An array of numbers that follow the size n of the batch: factors * n + offsets."""

    factors: Any
    offsets: Any

    @property
    def fixed(self) -> bool:
        """True if no number follows it."""
        return not self.factors.any()

    def at(self, size: int) -> Any:
        """The numbers for one size."""
        return self.factors * size + self.offsets


def result(
    operator: str,
    attributes: dict[str, Any],
    given: Sequence[Any],
    run: Callable[[Sequence[Any]], list[Any]],
) -> list[Lengths]:
    """The results of an operator.

    Parameters
    ----------
    given
        Its inputs: arrays, `Lengths`, or None for one that is left out.
    run
        The operator itself, of arrays alone.

    Raises
    ------
    Undecided
        They are not of this kind for every n.
    """
    if operator in MOVING:
        return _moved(operator, given, run)
    if operator == "Where":
        if isinstance(given[0], Lengths):
            raise Undecided
        parts = [[given[0], *[part(_length(a)) for a in given[1:]]] for part in _PARTS]
        return [Lengths(*[run(each)[0] for each in parts])]
    values = [_length(each) for each in given if each is not None]
    if operator == "Cast":
        if attributes.get("to") == BOOL:
            return [_compared(ne, values[0], _constant(values[0].offsets * 0))]
        if attributes.get("to") not in WIDE:
            raise Undecided
        return [_cast(values[0], run)]
    if operator in COMPARISONS:
        return [_compared(COMPARISONS[operator], *values)]
    if operator == "ReduceProd":
        return [_product(values[0], run, given[1:])]
    if operator not in _ARITHMETIC or (operator == "Mod" and attributes.get("fmod")):
        raise Undecided
    found, formula = values[0], _ARITHMETIC[operator]
    for other in values[1:]:
        found = formula(found, other)
    return [found if len(values) > 1 else formula(found)]


_PARTS: tuple[Callable[[Lengths], Any], ...] = (lambda a: a.factors, lambda a: a.offsets)


def _length(value: Any) -> Lengths:
    return value if isinstance(value, Lengths) else _constant(value)


def _constant(array: Any) -> Lengths:
    return Lengths(array * 0 if array.dtype.kind != "b" else array & ~array, array)


def _moved(operator: str, given: Sequence[Any], run: Any) -> list[Lengths]:
    elements = given[:1] if operator in FIRST else given
    rest = given[len(elements) :]
    if any(isinstance(each, Lengths) for each in rest):
        raise Undecided
    both = [run([*[part(_length(a)) for a in elements], *rest]) for part in _PARTS]
    return [Lengths(*pair) for pair in zip(*both, strict=True)]


def _never_negative(a: Lengths) -> Any:
    """For which elements factor * n + offset is 0 or more for every n."""
    return (a.factors >= 0) & (a.factors + a.offsets >= 0)


def _subtracted(a: Lengths, b: Lengths) -> Lengths:
    return Lengths(a.factors - b.factors, a.offsets - b.offsets)


def _negated(a: Lengths) -> Lengths:
    return Lengths(-a.factors, -a.offsets)


def _multiplied(a: Lengths, b: Lengths) -> Lengths:
    if (a.factors * b.factors).any():
        raise Undecided  # n * n
    crossed = a.factors * b.offsets + a.offsets * b.factors
    return Lengths(crossed, a.offsets * b.offsets)


def _divided(a: Lengths, b: Lengths) -> Lengths:
    divisor = b.offsets
    if not b.fixed or not divisor.all():
        raise Undecided
    if a.offsets.dtype.kind == "f":
        return Lengths(a.factors / divisor, a.offsets / divisor)
    # Whole numbers are cut towards zero, which is a floor where nothing is negative.
    exact = a.offsets % divisor == 0
    floor = _never_negative(a) & (divisor > 0)
    if (a.factors % divisor).any() or not (exact | floor).all():
        raise Undecided
    return Lengths(a.factors // divisor, a.offsets // divisor)


def _remainder(a: Lengths, b: Lengths) -> Lengths:
    divisor = b.offsets
    if not b.fixed or not divisor.all() or (a.factors % divisor).any():
        raise Undecided
    return Lengths(a.factors * 0, a.offsets % divisor)


def _larger(a: Lengths, b: Lengths) -> Lengths:
    above, below = _never_negative(_subtracted(a, b)), _never_negative(_subtracted(b, a))
    if not (above | below).all():
        raise Undecided
    return Lengths(*[one * above + two * ~above for one, two in zip(a, b, strict=True)])


def _smaller(a: Lengths, b: Lengths) -> Lengths:
    return _negated(_larger(_negated(a), _negated(b)))


def _absolute(a: Lengths) -> Lengths:
    return _larger(a, _negated(a))


def _floor(a: Lengths) -> Lengths:
    if (a.factors % 1).any():
        raise Undecided
    return Lengths(a.factors, a.offsets // 1)


def _ceiling(a: Lengths) -> Lengths:
    return _negated(_floor(_negated(a)))


def _cast(a: Lengths, run: Any) -> Lengths:
    found = Lengths(*[run([part])[0] for part in a])
    if a.offsets.dtype.kind == "f" and found.offsets.dtype.kind != "f":
        # Numbers are cut towards zero, which is a floor where nothing is negative.
        exact = a.offsets % 1 == 0
        if (a.factors % 1).any() or not (exact | _never_negative(a)).all():
            raise Undecided
        found = Lengths(found.factors, run([a.offsets // 1])[0])
    return found


def _product(a: Lengths, run: Any, axes: Sequence[Any]) -> Lengths:
    flat = list(zip(a.factors.reshape(-1), a.offsets.reshape(-1), strict=True))
    shape = run([a.offsets, *axes])[0]
    if shape.size != 1:
        raise Undecided
    found = Lengths(shape * 0, shape * 0 + 1)
    for factor, offset in flat:
        found = _multiplied(found, Lengths(shape * 0 + factor, shape * 0 + offset))
    return found


def _compared(holds: Callable[[Any, Any], Any], a: Lengths, b: Lengths) -> Lengths:
    """Booleans that are the same for every n."""
    if a.offsets.dtype.kind == "b" or b.offsets.dtype.kind == "b":
        raise Undecided
    found = _subtracted(a, b)
    answers = holds(found.at(1), 0)
    for factor, offset, answer in zip(
        found.factors.reshape(-1).tolist(), found.offsets.reshape(-1).tolist(),
        answers.reshape(-1).tolist(), strict=True,
    ):  # fmt: skip
        if not factor:
            continue
        zero = -offset / factor  # where the difference changes its sign
        if holds in (eq, ne):
            changes = zero >= 1 and zero == int(zero)
        else:  # at, behind and far behind what it begins with
            later = {bool(holds(factor * n + offset, 0)) for n in (int(zero), int(zero) + 1, 2**60)
                     if n >= 1}  # fmt: skip
            changes = later != {answer}
        if changes:
            raise Undecided
    return _constant(answers)


_ARITHMETIC: dict[str, Callable[..., Lengths]] = {
    "Add": lambda a, b: Lengths(a.factors + b.factors, a.offsets + b.offsets),
    "Sub": _subtracted,
    "Mul": _multiplied,
    "Div": _divided,
    "Mod": _remainder,
    "Max": _larger,
    "Min": _smaller,
    "Neg": _negated,
    "Abs": _absolute,
    "Floor": _floor,
    "Ceil": _ceiling,
}
