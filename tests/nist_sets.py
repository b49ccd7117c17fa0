"""NIST's nonlinear regression sets: what their files hold, and their models."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinynn.trace import namespace

FOLDER = Path(__file__).parent / "nist"


class NistSet(NamedTuple):
    """One of the sets: starts and certified values (parameters,), rows (observations, columns)."""

    starts: tuple[list[float], list[float]]
    certified: list[float]
    squares: float
    rows: Any


def read(name: str) -> NistSet:
    """The set of that name."""
    text = (FOLDER / f"{name}.dat").read_text()
    number = r"\s+(-?[\d.]+(?:[Ee][+-]?\d+)?)"
    found = re.findall(rf"^\s*b\d+ =\s*{number[3:]}{number}{number}{number}", text, re.MULTILINE)
    first, second, certified, _ = zip(*found, strict=True)
    squares = re.search(r"Residual Sum of Squares:\s+(\S+)", text)
    assert squares is not None
    rows = [line.split() for line in text[text.rindex("Data:") :].splitlines()[1:] if line.strip()]
    starts = ([float(x) for x in first], [float(x) for x in second])
    values = np.asarray([[float(x) for x in row] for row in rows])
    return NistSet(starts, [float(x) for x in certified], float(squares[1]), values)


def _three(xp: Any, b: Any, x: Any) -> Any:
    return b[0] * xp.exp(-b[1] * x) + b[2] * xp.exp(-b[3] * x) + b[4] * xp.exp(-b[5] * x)


def _peaks(xp: Any, b: Any, x: Any) -> Any:
    first = b[2] * xp.exp(-((x - b[3]) ** 2) / b[4] ** 2)
    return b[0] * xp.exp(-b[1] * x) + first + b[5] * xp.exp(-((x - b[6]) ** 2) / b[7] ** 2)


def _waves(xp: Any, b: Any, x: Any) -> Any:
    total, turn = b[0], 2 * math.pi * x
    for period, cosine, sine in ((12.0, b[1], b[2]), (b[3], b[4], b[5]), (b[6], b[7], b[8])):
        total = total + cosine * xp.cos(turn / period) + sine * xp.sin(turn / period)
    return total


def _chwirut(xp: Any, b: Any, x: Any) -> Any:
    return xp.exp(-b[0] * x) / (b[1] + b[2] * x)


def _cubics(xp: Any, b: Any, x: Any) -> Any:
    above = b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3
    return above / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


#: name -> (xp, parameters, x) -> y
MODELS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "Misra1a": lambda xp, b, x: b[0] * (1 - xp.exp(-b[1] * x)),
    "Chwirut2": _chwirut,
    "Chwirut1": _chwirut,
    "Lanczos3": _three,
    "Gauss1": _peaks,
    "Gauss2": _peaks,
    "DanWood": lambda xp, b, x: b[0] * x ** b[1],
    "Misra1b": lambda xp, b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Kirby2": lambda xp, b, x: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "Hahn1": _cubics,
    "Nelson": lambda xp, b, x: b[0] - b[1] * x[0] * xp.exp(-b[2] * x[1]),
    "MGH17": lambda xp, b, x: b[0] + b[1] * xp.exp(-x * b[3]) + b[2] * xp.exp(-x * b[4]),
    "Lanczos1": _three,
    "Lanczos2": _three,
    "Gauss3": _peaks,
    "Misra1c": lambda xp, b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda xp, b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Roszman1": lambda xp, b, x: b[0] - b[1] * x - xp.atan(b[2] / (x - b[3])) / math.pi,
    "ENSO": _waves,
    "MGH09": lambda xp, b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "Thurber": _cubics,
    "BoxBOD": lambda xp, b, x: b[0] * (1 - xp.exp(-b[1] * x)),
    "Rat42": lambda xp, b, x: b[0] / (1 + xp.exp(b[1] - b[2] * x)),
    "MGH10": lambda xp, b, x: b[0] * xp.exp(b[1] / (x + b[2])),
    "Eckerle4": lambda xp, b, x: b[0] / b[1] * xp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Rat43": lambda xp, b, x: b[0] / (1 + xp.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Bennett5": lambda xp, b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
}


def residuals(name: str, rows: Any, backend: Any, dtype: Any) -> Callable[[Any], Any]:
    """The residuals of a set as a function of its parameters, on a backend."""
    columns = [backend.asarray(column, dtype=dtype) for column in np.asarray(rows).T]
    xp, y = backend.xp, columns[0]
    if name == "Nelson":
        y, x = xp.log(y), columns[1:]
    else:
        x = columns[1]
    return lambda b: MODELS[name](namespace(b), b, x) - y
