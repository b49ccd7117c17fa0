"""Answers: compiled programs for inputs that `Model.predict` is given often."""

from math import isfinite
from typing import Any

import backends
from tinynn import functional, layers, tree
from tinynn.layers import Layer, Sequential, run
from tinynn.trace import Traced, namespace

_OFTEN = 4  # predictions for one kind of array before there is a program for it
_KINDS = 64  # of arrays to keep count of; with more, all is forgotten


class Answers:
    """Programs of one network, by the kind of array that they take.

    They go by the arrays that the parameters were when the first of them was made, and are
    forgotten as soon as other arrays are found in their place.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._times: dict[Any, int] = {}
        self._calls: dict[Any, Any] = {}
        self._made_for: tuple[Any, Any, Any] = (None, None, None)
        self._folders: list[tuple[Any, tuple[Any, ...]]] = []  # dicts, and what they held
        self._held: list[Any] = []  # the parameters, in order
        self._device: Any = None

    def __reduce__(self) -> Any:
        return Answers, ()  # a copy of the model has other parameters

    def answer(self, x: Any, kind: Any, net: Any, weights: Any) -> Any:
        """The network's output for an array of a kind that was checked before.

        None on a miss: run without a program. The sum of squares tells whether x is finite.
        """
        call = self._calls.get(kind)
        if call is None or x.device != self._device:
            return None
        if call.current and self._are_of(net, weights):
            given = [*self._held, x]
            if call.is_followed(given):
                return None
            try:
                y, squares = call.run(given)
                return y if isfinite(squares) else None
            except Exception:  # the uncompiled path reports the error
                pass
        self._forget()
        return None

    def remember(self, y: Any, x: Any, kind: Any, net: Any, weights: Any) -> None:
        """Count that y was answered to x without a program, and compile one when it pays."""
        if len(self._times) == _KINDS:
            self._forget()
        times = self._times[kind] = self._times.get(kind, 0) + 1
        if times != _OFTEN or not backends.is_array(y) or isinstance(x, Traced):
            return
        if not _depends_on_arguments_alone(net):
            return
        folders = _folders(weights)
        if folders is None:
            return
        from tinynn.compiler.compiled import Call  # few models are asked often

        def answer(weights: Any, x: Any) -> Any:
            xp = namespace(x)
            return run(net, *weights, x).output, xp.sum(x * x)

        try:
            call = Call(answer, (weights, x), check=False, followed=False)
        except Exception:  # the uncompiled path works without a program
            return
        given = [tree.leaves((weights, x))[place] for place in call.places]
        if call.is_followed(given):
            return
        if not self._are_of(net, weights):
            self._calls.clear()
        self._made_for, self._folders, self._held = (
            (net, weights[0], weights[1]),
            folders,
            given[:-1],
        )
        self._calls[kind], self._device = call, x.device

    def _are_of(self, net: Any, weights: Any) -> bool:
        """True if the programs are of this network, and its parameters are the same arrays."""
        if any(a is not b for a, b in zip(self._made_for, (net, *weights), strict=True)):
            return False
        for folder, items in self._folders:
            if len(folder) != len(items):
                return False
            for name, value in items:
                if folder.get(name) is not value:
                    return False
        return True


def _depends_on_arguments_alone(net: Any) -> bool:
    """True for a network of our own layers and functions: others may read what changes."""
    if type(net) is Sequential:
        return all(map(_depends_on_arguments_alone, net.layers))
    if isinstance(net, Layer):
        return type(net).__module__.startswith(f"{layers.__name__}.")
    return any(net is function for function in vars(functional).values())


def _folders(weights: Any) -> list[tuple[Any, tuple[Any, ...]]] | None:
    """Every dict in the parameters and state with its items; None if there are other containers."""
    found: list[tuple[Any, tuple[Any, ...]]] = []
    waiting = list(weights)
    while waiting:
        folder = waiting.pop()
        if tree.children(folder) is None:
            continue
        if not isinstance(folder, dict):
            return None
        found.append((folder, tuple(folder.items())))
        waiting += folder.values()
    return found
