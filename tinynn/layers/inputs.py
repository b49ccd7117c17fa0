"""What may come into a layer: arrays of numbers, as many as it takes."""

import inspect
from typing import Any, TypeAlias

from tinynn.config import label
from tinynn.functional.errors import DtypeError, InputError
from tinynn.trace import namespace

Array: TypeAlias = Any

NUMBERS = ("bool", "integral")


def is_floating(array: Array) -> bool:
    """True if its dtype is real or complex floating-point."""
    return bool(namespace(array).isdtype(array.dtype, ("real floating", "complex floating")))


def is_real(array: Any) -> bool:
    """True for an array of real floating-point numbers."""
    return hasattr(array, "dtype") and bool(namespace(array).isdtype(array.dtype, "real floating"))


def cast(array: Array, dtype: Any) -> Array:
    """The array in that dtype; itself if it has it."""
    return array if array.dtype == dtype else namespace(array).astype(array, dtype)


def as_real(layer: Any, x: Array, dtype: Any) -> Array:
    """`x`, integers and booleans converted to `dtype`; DtypeError for other than real numbers."""
    xp = namespace(x)
    if xp.isdtype(x.dtype, "real floating"):
        return x
    if xp.isdtype(x.dtype, NUMBERS):
        return xp.astype(x, dtype)
    fix = "encode texts as numbers first"
    if xp.isdtype(x.dtype, "complex floating"):
        fix = "give xp.real(x) and xp.imag(x), as features of their own"
    raise DtypeError(f"{label(layer)}: expected real numbers, got {x.dtype}. To fix it: {fix}")


def wrong_number(layer: Any, inputs: tuple[Any, ...]) -> InputError | None:
    """The error for a layer or function that does not take so many inputs; None if it does.

    To be asked after a TypeError, which may be that of the call, and may come from inside.
    """
    try:
        signature = inspect.signature(layer.forward if hasattr(layer, "forward") else layer)
    except (TypeError, ValueError):  # some that are compiled have none
        return None
    scope = (None,) if hasattr(layer, "forward") else ()
    try:
        signature.bind(*scope, *inputs)
    except TypeError:
        own = list(signature.parameters.values())[len(scope) :]
        return InputError(
            f"{label(layer)}: expected {_taken(own)}, got {len(inputs)}. To fix it: pick the "
            "inputs that it is for in a layer of your own"
        )
    return None


def _taken(parameters: list[inspect.Parameter]) -> str:
    """How many inputs go to these parameters, in words."""
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least, most = sum(p.default is p.empty for p in places), len(places)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return f"{least} inputs or more"
    return f"{least} to {most} inputs" if least < most else f"{most} input{'s' * (most != 1)}"
