"""Optimizer: state and update for whole trees; each optimizer adds the rule for one array."""

from collections.abc import Callable
from typing import Any, TypeAlias

from tinynn import tree
from tinynn.config import Configured, require
from tinynn.trace import backend_of, namespace

Array: TypeAlias = Any
Slots: TypeAlias = dict[str, Array]
STEP = "step"

_RATE = (lambda value: value >= 0.0, "a number of 0 or more")
_DECAY = (lambda value: 0.0 <= value < 1.0, "a number in [0, 1)")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("learning_rate", "epsilon", "weight_decay"), _RATE),
    **dict.fromkeys(("momentum", "decay", "beta1", "beta2"), _DECAY),
}


class Optimizer(Configured):
    """What optimizers share; derive from it with a frozen dataclass and write `rule`.

    The state is {"step": 0-d int32, and for each of `slot_names` a tree like the params}.
    """

    def __post_init__(self) -> None:
        for name, (holds, expected) in _RANGES.items():
            if hasattr(self, name):
                require(self, name, holds, expected)

    def slot_names(self) -> tuple[str, ...]:
        """The names of what is kept for each parameter, from zeros."""
        return ()

    def at_step(self, step: Array) -> Any:
        """What depends on the step (0-d, from 1) alone, and so is computed once for all arrays."""
        return None

    def rule(self, gradient: Array, parameter: Array, slots: Slots, once: Any) -> Array:
        """The new parameter; the new values of the slots are put into `slots`.

        once: what `at_step` returned for a step of the parameter's dtype.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rule")

    def init(self, params: Any) -> dict[str, Any]:
        """The state to start from, on the params' library and device."""
        leaves = tree.leaves(params)
        if not leaves:
            raise ValueError(f"{self}: expected parameters to train, got none; add a Linear layer")
        backend = backend_of(leaves[0])
        state = {STEP: backend.asarray(0, dtype=backend.xp.int32)}
        for slot in self.slot_names():
            state[slot] = tree.map(lambda leaf: namespace(leaf).zeros_like(leaf), params)
        return state

    def update(self, gradients: Any, state: dict[str, Any], params: Any) -> tuple[Any, Any]:
        """(params, state) one step on. gradients: a tree like the params. Nothing is changed."""
        leaves, structure = tree.flatten(params)
        columns = {name: _column(state[name], structure, name) for name in self.slot_names()}
        step = state[STEP] + 1
        once: dict[Any, Any] = {}
        new: list[Array] = []
        for index, gradient in enumerate(_column(gradients, structure, "the gradients")):
            parameter = leaves[index]
            if parameter.dtype not in once:
                once[parameter.dtype] = self.at_step(namespace(step).astype(step, parameter.dtype))
            slots = {name: column[index] for name, column in columns.items()}
            new.append(self.rule(gradient, parameter, slots, once[parameter.dtype]))
            for name, value in slots.items():
                columns[name][index] = value
        kept = {name: structure.unflatten(column) for name, column in columns.items()}
        return structure.unflatten(new), {STEP: step, **kept}


def _column(values: Any, structure: Any, name: str) -> list[Array]:
    leaves, its_structure = tree.flatten(values)
    if its_structure != structure:
        raise ValueError(f"Optimizer.update: {name} are expected to be a tree like the params")
    return leaves


def blend(old: Array, new: Array, decay: float) -> Array:
    """decay * old + (1 - decay) * new."""
    xp = namespace(old, new)
    return xp.add(decay * old, (1.0 - decay) * new)


def descend(parameter: Array, change: Array, rate: Any) -> Array:
    """parameter - rate * change."""
    xp = namespace(parameter, change)
    return xp.subtract(parameter, rate * change)
