"""Which cases of a test run on the libraries that compile every function anew for every shape."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.variants import COMPILING, WIDE


def without_combinations(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """On libraries that compile, each case of each mark `parametrize` once.

    All combinations of them run where a test takes milliseconds, on NumPy for one. So what is not
    for all libraries, by its mark `only`, is left whole, as are the parts of drawn programs.
    """
    found = [(item, dict(_cases(item))) for item in items]
    places: dict[Any, dict[Any, int]] = {}  # of the cases of a mark of a test
    for item, cases in found:
        for mark, case in cases.items():
            known = places.setdefault((_test(item), mark), {})
            known.setdefault(case, len(known))
    for item, cases in found:
        known = [(places[_test(item), mark], case) for mark, case in cases.items()]
        turns = range(max((len(each) for each, _ in known), default=1))
        if any(all(turn % len(each) == each[case] for each, case in known) for turn in turns):
            yield item


def _test(item: Any) -> tuple[Any, ...]:
    """The test of an item, and the variant that it runs on."""
    return item.location[0], item.originalname, item.callspec.params["variant"]


def _cases(item: Any) -> Iterator[tuple[Any, Any]]:
    """Of each mark of an item that may be thinned: its names, and the case."""
    params = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    variant, only = params.pop("variant", None), item.get_closest_marker("only")
    if variant is None or variant.library not in COMPILING:
        return
    if only is not None and not set(WIDE) <= set(only.args):
        return
    params.pop("part", None)
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0]
        names = names.replace(",", " ").split() if isinstance(names, str) else names
        if together := tuple(name for name in names if name in params):
            yield together, tuple(id(params.pop(name)) for name in together)
    for name, value in params.items():  # of fixtures
        yield name, id(value)
