"""Numbers that are not the same for all of many networks.

A number of a layer, of the loss or of the optimizer that is an `Each` has an entry for each
network. It is known by where it is found: {"optimizer.learning_rate": (0.1, 0.01)}.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from tinynn.config import Each, children, found, label
from tinynn.training.step import Carry, TrainingStep


def numbers_of(**parts: Any) -> dict[str, Each]:
    """The numbers that vary in these objects, by where they are found."""
    return {path: each for name, part in parts.items() for path, each in found(part, name)}


def of_network(numbers: Mapping[str, Each], k: int) -> dict[str, float]:
    """The numbers of network k."""
    return {path: each[k] for path, each in numbers.items()}


def with_numbers(value: Any, path: str, numbers: Mapping[str, Any]) -> Any:
    """The object at `path` with these numbers, by where they are found, in place of its own.

    >>> from tinynn.optim import Adam
    >>> with_numbers(Adam(), "optimizer", {"optimizer.learning_rate": 0.1})
    Adam(learning_rate=0.1)
    """
    if path in numbers:
        return numbers[path]
    if not any(each.startswith(f"{path}.") for each in numbers):
        return value
    new = {name: with_numbers(v, f"{path}.{name}", numbers) for name, v in children(value)}
    if isinstance(value, tuple | list):
        return type(value)(new.values())
    if isinstance(value, dict):
        return dict(zip(value, new.values(), strict=True))
    changed = copy.copy(value)  # not made anew, since arrays would not pass its checks
    kept = {name: v for name, v in vars(value).items() if not _is_cached(value, name)}
    vars(changed).clear()
    vars(changed).update(kept | new)
    return changed


def check_single(**parts: Any) -> None:
    """ValueError for numbers of many networks where one network is to be trained."""
    for path, each in numbers_of(**parts).items():
        part, _, rest = path.partition(".")
        raise ValueError(
            f"fit: {part}: expected one number as {rest} of {label(parts[part])}, got {len(each)}. "
            "To fix it: give one, or train a network with each of them: tinynn.fit_many"
        )


def _is_cached(value: Any, name: str) -> bool:
    return isinstance(getattr(type(value), name, None), cached_property)


def step_with(step: TrainingStep, numbers: Mapping[str, Any]) -> TrainingStep:
    """The training step with these numbers of its net, loss and optimizer."""
    parts = {name: with_numbers(getattr(step, name), name, numbers) for name in _PARTS}
    return replace(step, **parts)


_PARTS = ("net", "loss", "optimizer")


class NumberedStep:
    """The step of any of many networks, whose numbers come with what it carries on.

    The carry is that of the step, with (optimizer state, numbers) as its optimizer state.
    """

    def __init__(self, step: TrainingStep) -> None:
        self.step, self.optimizer = step, step.optimizer

    def __call__(self, carry: Carry, batch: Any, key: Any) -> tuple[Carry, Any]:
        """(carry, loss) one step on."""
        inner, numbers = carry.optimizer_state
        step = step_with(self.step, numbers)
        after, loss = step(carry._replace(optimizer_state=inner), batch, key)
        return after._replace(optimizer_state=(after.optimizer_state, numbers)), loss
