"""Trees: dicts, lists, tuples, named tuples and dataclasses of arrays."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynn import tree

Pair = namedtuple("Pair", "left right")


@dataclass(frozen=True)
class Box:
    weight: Any
    bias: Any = None


def test_every_container_comes_back_as_itself() -> None:
    value = {"a": [1, (2, Pair(3, 4))], "b": Box(5), "c": None, "d": OrderedDict(x=6)}
    leaves, structure = tree.flatten(value)
    assert leaves == [1, 2, 3, 4, 5, 6]
    assert structure.unflatten(leaves) == value
    assert isinstance(structure.unflatten(leaves)["d"], OrderedDict)


def test_paths_name_the_leaves() -> None:
    assert [name for name, _ in tree.paths({"0": Box(1, [2]), "2": Pair(3, 4)})] == [
        "0.weight",
        "0.bias.0",
        "2.left",
        "2.right",
    ]
    assert tree.paths(7) == [("", 7)]


TREES = st.recursive(
    st.integers(),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.tuples(children, children),
        st.dictionaries(st.text(max_size=3), children, max_size=3),
        st.builds(Box, children, st.none() | children),
    ),
    max_leaves=12,
)


@given(TREES)
def test_map_keeps_the_structure(value: Any) -> None:
    leaves, structure = tree.flatten(value)
    assert structure.unflatten(leaves) == value
    doubled = tree.map(lambda x: 2 * x, value)
    assert tree.leaves(doubled) == [2 * x for x in leaves]
    assert tree.flatten(doubled)[1] == structure
    assert [leaf for _, leaf in tree.paths(value)] == leaves


def test_trees_that_differ_are_told_apart() -> None:
    with pytest.raises(ValueError, match=r"'b' is in the first only"):
        tree.map(lambda a, b: a, {"a": 1, "b": 2}, {"a": 1})
    with pytest.raises(ValueError, match=r"'c' is in the second only"):
        tree.map(lambda a, b: a, {"a": 1}, {"a": 1, "c": 2})
    with pytest.raises(ValueError, match="containers of different types"):
        tree.map(lambda a, b: a, [1, 2], (1, 2))


def test_leaves_are_counted() -> None:
    structure = tree.flatten([1, 2])[1]
    with pytest.raises(ValueError, match="fewer leaves"):
        structure.unflatten([1])
    with pytest.raises(ValueError, match="more leaves"):
        structure.unflatten([1, 2, 3])
