"""How a row of tests/rule_cases.py and tests/rule_matrices.py is written."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pytest

import backends
from tinynn.trace import Function

Shape = tuple[int, ...]
Domain = tuple[float, float]


@dataclass(frozen=True)
class Case:
    """A call under test: arrays of these shapes, each uniform in its own (low, high).

    smooth: False: zero derivative everywhere that it has one.
    numbers: "real", "complex" (real and imaginary parts in the domain), or "both".
    jax: why JAX's derivative of it is no measure.
    batch: False: the shape of the result depends on the values.
    """

    f: Callable[..., Any]
    shapes: tuple[Shape, ...]
    domains: tuple[Domain, ...]
    smooth: bool = True
    numbers: str = "real"
    jax: str = ""
    batch: bool = True


WIDE, POSITIVE, UNIT = (-2.0, 2.0), (0.5, 3.0), (-0.9, 0.9)
BOTH = {"numbers": "both"}
COMPLEX = {"numbers": "complex"}


def within(path: str, **kwargs: Any) -> Callable[..., Any]:
    """The function of that name, "linalg.det" say, with these kwargs."""
    return lambda xp, *arrays: attrgetter(path)(xp)(*arrays, **kwargs)


def one(f: Callable[..., Any], *shapes: Shape, domain: Domain = WIDE, **more: Any) -> Case:
    return Case(f, shapes, (domain,) * len(shapes), **more)


def unary(name: str, domain: Domain = WIDE, **more: Any) -> list[Case]:
    return [one(within(name), (3, 2), domain=domain, **more)]


def binary(name: str, left: Domain = WIDE, right: Domain = WIDE, **more: Any) -> list[Case]:
    shapes = (((3, 2), (3, 2)), ((2,), (3, 1)))
    return [Case(within(name), pair, (left, right), **more) for pair in shapes]


def over_axes(f: Callable[..., Any], domain: Domain = WIDE, **more: Any) -> list[Case]:
    """A reduction over all axes, one, several, a negative one, and with the axes kept."""
    ways: list[dict[str, Any]] = [
        {},
        {"axis": -1, "keepdims": True},
        {"axis": (0, 2)},
        {"axis": (-1, 1), "keepdims": True},
    ]
    return [
        one(lambda xp, x, way=way: f(xp)(x, **way), (2, 3, 2), domain=domain, **more)
        for way in ways
    ]


def indices(xp: Any, x: Any, values: Any) -> Any:
    """Integers where `x` is; a tracer of JAX does not know where that is."""
    return xp.asarray(values, device=getattr(x, "device", None))


def missing(call: Callable[[], Any], backend: Any) -> str:
    """What PyTorch says it lacks, or array-api-strict was told to do without; "" for nothing."""
    if backend.name not in ("array_api_strict", "torch"):
        return ""
    try:
        call()
    except NotImplementedError as error:
        return str(error)
    except RuntimeError as error:
        if "for array-api-strict" not in str(error):
            raise
        return str(error)
    return ""


def skip_if_missing(call: Callable[[], Any], backend: Any) -> None:
    """Skip what the library lacks, for the reason it gives."""
    if reason := missing(call, backend):
        pytest.skip(reason)


def require(key: Any, backend: backends.Backend) -> None:
    """Skip where this backend, set up as it is, lacks the function."""
    if isinstance(key, Function):
        return
    try:
        attrgetter(key)(backend.xp)
    except (AttributeError, RuntimeError) as error:
        pytest.skip(f"{backend!r} has no {key}: {error}")
