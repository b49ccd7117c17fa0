"""Arrays in nested dicts, lists, tuples, named tuples and dataclasses.

A *tree* is any nesting of those containers; everything else is a leaf, and `None` is an empty
tree. Names of leaves are their paths: `{"0": {"weight": w}}` holds the leaf "0.weight".
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["LEAF", "Structure", "children", "flatten", "leaves", "map", "paths"]


class Structure:
    """The containers of a tree, without its leaves.

    Attributes
    ----------
    kind
        The container's type.
    keys
        Of a dict its keys, of a named tuple or dataclass its fields, else places.
    children
        The Structures of what it holds; `LEAF` for a leaf.
    """

    __slots__ = ("children", "keys", "kind")

    def __init__(self, kind: Any, keys: Any, children: list["Structure"]) -> None:
        self.kind, self.keys, self.children = kind, keys, children

    def unflatten(self, leaves: Any) -> Any:
        """The tree with these leaves, which are taken in order."""
        supply = iter(leaves)
        try:
            tree = next(supply) if self is LEAF else self._build(supply)
        except StopIteration:
            raise ValueError(
                "tree.unflatten: fewer leaves were given than the structure holds"
            ) from None
        if next(supply, _NOTHING) is not _NOTHING:
            raise ValueError("tree.unflatten: more leaves were given than the structure holds")
        return tree

    def _build(self, supply: Iterator[Any]) -> Any:
        parts = [next(supply) if child is LEAF else child._build(supply) for child in self.children]
        kind = self.kind
        if kind is tuple or kind is list:
            return kind(parts)
        if kind is type(None):
            return None
        named = zip(self.keys, parts, strict=True)
        if issubclass(kind, dict):
            return kind(named)
        if hasattr(kind, "_fields"):
            return kind(*parts)
        return kind(**dict(named)) if hasattr(kind, "__dataclass_fields__") else kind(parts)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Structure)
            and self.kind is other.kind
            and self.keys == other.keys
            and self.children == other.children
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.keys, tuple(self.children)))


_NOTHING = object()
LEAF = Structure(object, (), [])
"""The structure of a leaf."""


class _Openers(dict[type, Any]):
    """Type -> what opens a container of it into keys and children, found once; None: a leaf."""

    def __missing__(self, kind: type) -> Any:
        self[kind] = opener = _opener(kind)
        return opener


def _opener(kind: type) -> Callable[[Any], tuple[Any, Any]] | None:
    if issubclass(kind, dict):
        return lambda tree: (tuple(tree), tree.values())
    if issubclass(kind, tuple | list):
        names = getattr(kind, "_fields", None)
        return lambda tree: (names or range(len(tree)), tree)
    if issubclass(kind, type(None)):
        return lambda tree: ((), ())
    if is_dataclass(kind):
        names = tuple([field.name for field in fields(kind) if field.init])
        return lambda tree: (names, [getattr(tree, name) for name in names])
    return None


_OPENERS = _Openers()


def _open(tree: Any) -> tuple[Any, Any] | None:
    """The keys and the children of a container; None for a leaf."""
    opener = _OPENERS[type(tree)]
    return None if opener is None else opener(tree)


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves of a tree in order, and the structure that rebuilds the tree from them.

    Parameters
    ----------
    tree
        Dicts, lists, tuples, named tuples and None, with leaves of any kind.

    Examples
    --------
    >>> leaves, structure = flatten({"w": 1, "layers": [2, (3, None)]})
    >>> leaves
    [1, 2, 3]
    >>> structure.unflatten([10, 20, 30])
    {'w': 10, 'layers': [20, (30, None)]}
    """
    out: list[Any] = []
    return out, _flatten(tree, out)


def _flatten(tree: Any, out: list[Any]) -> Structure:
    kind = type(tree)
    opener = _OPENERS[kind]
    if opener is None:
        out.append(tree)
        return LEAF
    keys, children = opener(tree)
    return Structure(kind, keys, [_flatten(child, out) for child in children])


def children(tree: Any) -> dict[str, Any] | None:
    """The children of a container by name; None for a leaf.

    Parameters
    ----------
    tree
        A tree, or a leaf.
    """
    opened = _open(tree)
    return None if opened is None else {str(k): v for k, v in zip(*opened, strict=True)}


def leaves(tree: Any) -> list[Any]:
    """The leaves of a tree, in order.

    Parameters
    ----------
    tree
        As `flatten` takes it.
    """
    out: list[Any] = []
    _gather(tree, out)
    return out


def _gather(tree: Any, out: list[Any]) -> None:
    opener = _OPENERS[type(tree)]
    if opener is None:
        out.append(tree)
    else:
        for child in opener(tree)[1]:
            _gather(child, out)


def paths(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf of a tree with its path, such as "0.weight".

    Parameters
    ----------
    tree
        As `flatten` takes it.

    Examples
    --------
    >>> paths({"0": {"weight": 1.5, "bias": 2.5}})
    [('0.weight', 1.5), ('0.bias', 2.5)]
    """
    opened = _open(tree)
    if opened is None:
        return [("", tree)]
    return [
        (f"{key}.{rest}" if rest else str(key), leaf)
        for key, child in zip(*opened, strict=True)
        for rest, leaf in paths(child)
    ]


def map(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    r"""Apply `f` leaf by leaf to trees of one structure, and return a tree of that structure.

    Raises ValueError, naming the first place where the structures differ.

    Parameters
    ----------
    f
        A function of as many leaves as there are trees.
    tree
        As `flatten` takes it.
    \*rest
        Trees of the same structure.

    Examples
    --------
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
