"""Snapshot: a network with the arrays that its parameters are now, and a quick test of that."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tinynn import tree


class Snapshot:
    """A network with the arrays that its parameters and state are now.

    Attributes:
        net: the network.
        params, state: its trees, copied but for the arrays.
    """

    def __init__(self, net: Any, params: Any, state: Any) -> None:
        self.net, self._given = net, (params, state)
        dicts: list[dict[Any, Any]] = []
        # Containers of other types, and what they held.
        self._others: list[tuple[Any, tuple[Any, ...]]] = []
        waiting = list(self._given)
        while waiting:
            folder = waiting.pop()
            items = _items(folder)
            if items is not None:
                if type(folder) is dict:
                    dicts.append(folder)
                else:
                    self._others.append((folder, items))
                waiting += [child for _, child in items]
        self.params, self.state = map(_copied, self._given)
        holds = _test_of(tuple(map(len, dicts)))(
            (net, params, state), dicts, *zip(*[i for d in dicts for i in d.items()], strict=True)
        )
        #: `is_of(net, params, state)` is True if it is of this network, and its parameters are
        #: still the same arrays.
        self.is_of: Callable[[Any, Any, Any], bool] = holds
        if self._others:
            self.is_of = lambda *given: holds(*given) and self._others_hold()

    def _others_hold(self) -> bool:
        for folder, items in self._others:
            now = _items(folder) or ()
            if len(now) != len(items) or any(
                a[1] is not b[1] for a, b in zip(now, items, strict=True)
            ):
                return False
        return True


def _items(folder: Any) -> tuple[Any, ...] | None:
    """The children of a container with their names; None for a leaf."""
    if type(folder) is dict:
        return tuple(folder.items())
    children = tree.children(folder)
    return None if children is None else tuple(children.items())


def _copied(part: Any) -> Any:
    leaves, structure = tree.flatten(part)
    return structure.unflatten(leaves)


_TEST = """
def bind(given, dicts, keys=(), values=()):
    net, params, state = given
    {unpacked}

    def is_of(a, b, c):
        try:
            return a is net and b is params and c is state{tests}
        except KeyError:
            return False

    return is_of
"""


@lru_cache(256)
def _test_of(lengths: tuple[int, ...]) -> Callable[..., Callable[[Any, Any, Any], bool]]:
    """A function that makes a test of dicts of these lengths: they hold the same under each name.

    It is written out, one comparison after the other: every answer for one row waits for it.
    """
    items = [place for place, length in enumerate(lengths) for _ in range(length)]
    names = {"d": len(lengths), "k": len(items), "v": len(items)}
    unpacked = [
        f"{', '.join(f'{letter}{i}' for i in range(count))}, = {source}"
        for (letter, count), source in zip(names.items(), ("dicts", "keys", "values"), strict=True)
        if count
    ]
    tests = [f" and len(d{place}) == {length}" for place, length in enumerate(lengths)]
    tests += [f" and d{place}[k{i}] is v{i}" for i, place in enumerate(items)]
    scope: dict[str, Any] = {}
    exec(_TEST.format(unpacked="\n    ".join(unpacked), tests="".join(tests)), scope)
    return scope["bind"]
