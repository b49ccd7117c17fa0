"""Docstrings of public names say what each of their parameters is."""

import importlib
import inspect
import re
from enum import Enum

import pytest

from tests.public import MODULES, public

# What users are given and never make themselves.
GIVEN = """Backend Status Scope Variable Line DataAdapter IndexedDataset Stream Predictor
    Run""".split()
ENTRY = re.compile(r"^(\\?\*{0,2}\w+(?:, \\?\*{0,2}\w+)*)(?: : .*|,?)$", re.MULTILINE)
SECTION = re.compile(r"^(Parameters|Attributes)\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)", re.M | re.S)
ELSEWHERE = re.compile(r"`(\w+)` has the parameters|and of `(\w+)`, whose\s+docstring")


def documented(value: object, home: object) -> set[str]:
    """The names in the sections of a docstring, and of the one that it refers to."""
    doc = inspect.getdoc(value) or ""
    entries = [each for _, body in SECTION.findall(doc) for each in ENTRY.findall(body)]
    names = {name.lstrip("\\*") for entry in entries for name in entry.split(", ")}
    for found in ELSEWHERE.findall(doc):
        names |= documented(getattr(home, next(filter(None, found))), home)
    return names


def parameters(value: object) -> set[str]:
    """The names in a signature; of a class with none of its own there are none to document."""
    inherited = inspect.isclass(value) and (
        issubclass(value, BaseException | Enum) or getattr(value, "_is_protocol", False)
    )
    try:
        found = {} if inherited else inspect.signature(value).parameters
    except (TypeError, ValueError):  # a value, or a type that C made
        return set()
    return {name for name in found if not name.startswith("_")} - {"args", "kwargs"}


@pytest.mark.parametrize("module", MODULES)
def test_every_parameter_is_documented(module: str) -> None:
    home = importlib.import_module(module)
    missing = {}
    for name in sorted(set(public(home)) - set(GIVEN)):
        value = getattr(home, name)
        if left := parameters(value) - documented(value, home):
            missing[name] = sorted(left)
    assert not missing, f"{module}: to document under Parameters: {missing}"
