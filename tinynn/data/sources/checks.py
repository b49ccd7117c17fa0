"""Checks that several sources share."""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinynn.data.blocks import DataError

BLOCK = 4 * 2**20  # bytes of a block where the format has none

Names = str | Sequence[str]
Location = str | os.PathLike[str]


def library(name: str, extra: str) -> Any:
    """A package that reads a format; ImportError, with the command, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"expected the package {package} to read such files, got none. To fix it: "
            f'pip install "tinynn-xp[{extra}]"'
        ) from error


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder by the pattern of their names, in the order of these."""
    found = sorted(folder.glob(pattern))
    if not found:
        held = len(list(folder.iterdir()))
        raise DataError(
            f"{folder}: expected files named {pattern}, got none among {held} there. To fix it: "
            "give the folder that holds them, or say how they are named"
        )
    return found


def named_arrays(path: Any, group: Any, names: Sequence[str | None]) -> list[Any]:
    """The arrays of a group by their names, all of numbers and with as many rows."""
    found: list[Any] = []
    for name in filter(None, names):
        if name not in group or getattr(group[name], "shape", None) is None:
            raise DataError(
                f"{path}: expected an array {name!r}, got {', '.join(sorted(group)) or 'none'}. To "
                "fix it: name one of these"
            )
        array = group[name]
        if not array.shape or array.shape[0] != (found[0] if found else array).shape[0]:
            raise DataError(
                f"{path}: {name}: expected as many rows as the array of X has, got shape "
                f"{tuple(array.shape)}. To fix it: write X and y with the same rows"
            )
        if getattr(array.dtype, "kind", "O") not in "biuf":
            raise DataError(
                f"{path}: {name}: expected numbers, got {array.dtype}. To fix it: write numbers, "
                "such as the index of each class"
            )
        found.append(array)
    return found
