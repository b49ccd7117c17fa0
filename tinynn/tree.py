"""Arrays in nested dicts, lists, tuples, named tuples and dataclasses.

A *tree* is any nesting of those containers; everything else is a leaf, and `None` is an empty
tree. Names of leaves are their paths: `{"0": {"weight": w}}` holds the leaf "0.weight".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Structure:
    """What is left of a tree when its leaves are taken out.

    `rebuild` makes the container from its children; `children` are Structures, or `LEAF`.
    """

    names: tuple[str, ...]
    children: tuple["Structure", ...]
    rebuild: Callable[[list[Any]], Any]
    kind: object

    def unflatten(self, leaves: Any) -> Any:
        """The tree with these leaves, which are taken in order."""
        supply = iter(leaves)
        tree = self._build(supply)
        if next(supply, _NOTHING) is not _NOTHING:
            raise ValueError("tree.unflatten: more leaves were given than the structure holds")
        return tree

    def _build(self, supply: Iterator[Any]) -> Any:
        if self is LEAF:
            leaf = next(supply, _NOTHING)
            if leaf is _NOTHING:
                raise ValueError("tree.unflatten: fewer leaves were given than the structure holds")
            return leaf
        return self.rebuild([child._build(supply) for child in self.children])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and (self.kind, self.names, self.children) == (
            other.kind,
            other.names,
            other.children,
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.names, self.children))


_NOTHING = object()
LEAF = Structure((), (), lambda children: None, "leaf")


def _open(tree: Any) -> tuple[Callable[[list[Any]], Any], list[tuple[str, Any]]] | None:
    """How to rebuild this container, and its named children; None for a leaf."""
    if tree is None:
        return (lambda children: None), []
    kind = type(tree)
    if isinstance(tree, dict):
        keys = list(tree)
        return (lambda children: kind(zip(keys, children, strict=True))), [
            (str(key), tree[key]) for key in keys
        ]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return (lambda children: kind(*children)), list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, list | tuple):
        return kind, [(str(i), child) for i, child in enumerate(tree)]
    if is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in fields(tree) if field.init]
        return (lambda children: kind(**dict(zip(names, children, strict=True)))), [
            (name, getattr(tree, name)) for name in names
        ]
    return None


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves of a tree in order, and the structure that puts them back.

    >>> leaves, structure = flatten({"w": 1, "layers": [2, (3, None)]})
    >>> leaves
    [1, 2, 3]
    >>> structure.unflatten([10, 20, 30])
    {'w': 10, 'layers': [20, (30, None)]}
    """
    out: list[Any] = []
    return out, _flatten(tree, out)


def _flatten(tree: Any, out: list[Any]) -> Structure:
    opened = _open(tree)
    if opened is None:
        out.append(tree)
        return LEAF
    rebuild, children = opened
    return Structure(
        tuple(name for name, _ in children),
        tuple(_flatten(child, out) for _, child in children),
        rebuild,
        type(tree),
    )


def children(tree: Any) -> dict[str, Any] | None:
    """The children of a container by name; None for a leaf."""
    opened = _open(tree)
    return None if opened is None else dict(opened[1])


def leaves(tree: Any) -> list[Any]:
    """The leaves of a tree, in order."""
    return flatten(tree)[0]


def paths(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf with its name, the path to it.

    >>> paths({"0": {"weight": 1.5, "bias": 2.5}})
    [('0.weight', 1.5), ('0.bias', 2.5)]
    """
    opened = _open(tree)
    if opened is None:
        return [("", tree)]
    return [
        (f"{name}.{rest}" if rest else name, leaf)
        for name, child in opened[1]
        for rest, leaf in paths(child)
    ]


def map(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`f` applied leaf by leaf to trees of one structure; a tree of that structure.

    Raises ValueError, naming the first place where the structures differ.

    >>> map(lambda a, b: a + b, {"w": 1, "b": [2]}, {"w": 10, "b": [20]})
    {'w': 11, 'b': [22]}
    """
    first, structure = flatten(tree)
    columns = [first]
    for other in rest:
        column, its_structure = flatten(other)
        if its_structure != structure:
            raise ValueError(f"tree.map: the trees differ: {_difference(tree, other)}")
        columns.append(column)
    return structure.unflatten([f(*row) for row in zip(*columns, strict=True)])


def _difference(a: Any, b: Any) -> str:
    left, right = [name for name, _ in paths(a)], [name for name, _ in paths(b)]
    for name in left:
        if name not in right:
            return f"{name or 'the root'!r} is in the first only"
    for name in right:
        if name not in left:
            return f"{name or 'the root'!r} is in the second only"
    return "the same names stand in containers of different types or in another order"
