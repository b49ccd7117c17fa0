"""GradientTransformation and Optimizer: state and update for whole trees; each class adds what is
done to one array.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

from tinynn import tree
from tinynn.config import Configured, Each, label, require
from tinynn.trace import backend_of, namespace

from .patterns import ALL, as_patterns, first_match, require_matches, require_patterns
from .schedules import Schedule, StatefulSchedule, is_number, is_plain_schedule

Array: TypeAlias = Any
State: TypeAlias = dict[str, Any]
Slots: TypeAlias = dict[str, Array]
Number: TypeAlias = float | Schedule | Callable[[Array], Array]

_NOT_NEGATIVE = (lambda value: value >= 0.0, "a number of 0 or more")
_POSITIVE = (lambda value: value > 0.0, "a number above 0")
_BELOW_ONE = (lambda value: 0.0 <= value < 1.0, "a number in [0, 1)")
# Fields of these names are hyperparameters: numbers in these ranges, or schedules.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "learning_rate": _NOT_NEGATIVE,
    **dict.fromkeys("momentum decay beta1 beta2".split(), _BELOW_ONE),
    **dict.fromkeys("epsilon weight_decay strength momentum_decay".split(), _NOT_NEGATIVE),
    "limit": _POSITIVE,
    "factor": (is_number, "a finite number"),
}


class GradientTransformation(Configured):
    """Base class of what makes new gradients of gradients, such as clipping.

    Derive from it with a frozen dataclass.

    `init(params) -> state` and `update(gradients, state, params) -> (gradients, state)`; gradients
    and params are trees of one structure, and nothing is changed in place. What treats each array
    by itself writes `update_leaf`; another writes `update`, and `init` if it has a state.

    The state that is made here holds a tree like the params for each of `slot_names`; "step", 0-d
    int32, where steps are counted; a 0-d array for each of `carried`; and "schedules", the states
    of those that have one. Fields called learning_rate, momentum, decay, beta1, beta2, epsilon,
    weight_decay, strength, limit and factor are checked, and take a schedule as well; its value at
    the step is what `step_scalars` and `update_leaf` are given.

    Attributes
    ----------
    counts_steps
        Whether steps are counted even where no field is a schedule.
    carried
        Numbers kept from step to step, by name, each with what it starts from.
    """

    counts_steps: ClassVar[bool] = False
    carried: ClassVar[Mapping[str, float]] = {}

    def __post_init__(self) -> None:
        for name, value in vars(self).copy().items():
            if isinstance(value, StatefulSchedule) and name != "learning_rate":
                raise ValueError(
                    f"{type(self).__name__}: expected {name} to be a number or a schedule without "
                    f"a state, got {value}. To fix it: use it for learning_rate"
                )
            if name not in _RANGES or isinstance(value, Schedule) or is_plain_schedule(value):
                continue
            holds, expected = _RANGES[name]
            each = Each.of(value)  # of many networks
            good = all(is_number(n) and holds(n) for n in ((value,) if each is None else each))
            require(self, name, lambda _, good=good: good, f"{expected}, or a schedule")  # type: ignore[misc]
            # NumPy's numbers would change dtypes.
            object.__setattr__(self, name, float(value) if each is None else each)
        if hasattr(self, "mask"):
            require_patterns(self, "mask")

    @property
    def needs(self) -> frozenset[str]:
        """The keywords that `update` has to be given beside gradients, state and params.

        "value": the loss, 0-d. "value_and_grad": a function params -> (value, gradients).
        Whoever trains gives what is named here; a class may name other things.
        """
        if not self._scheduled:
            return frozenset()
        return frozenset[str]().union(*[s.needs for s in self._scheduled.values()])

    def slot_names(self) -> tuple[str, ...]:
        """The names of what is kept for each parameter."""
        return ()

    def init_leaf(self, name: str, parameter: Array) -> Array:
        """The start of what is kept for a parameter under this name: zeros."""
        return namespace(parameter).zeros_like(parameter)

    def carry(self, values: Any, step: Array) -> Mapping[str, Array]:
        """The new values of `carried`, whose old ones are attributes of `values`."""
        return {}

    def step_scalars(self, values: Any, step: Array) -> Any:
        """The values that depend on the step alone, computed once for all arrays of a dtype.

        values: has the fields of this class, and what is carried, as attributes.
        step: (), from 1 on, of the dtype of the arrays.
        """
        return values

    def update_leaf(
        self, gradient: Array, parameter: Array, slots: Slots, scalars: Any
    ) -> tuple[Array, Slots]:
        """(result, slots): what comes of one array, and the new values of what is kept for it.

        The result is the new gradient; an Optimizer's is the new parameter.

        scalars: what `step_scalars` returned.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no update_leaf(self, gradient, parameter, slots, scalars)"
        )

    def init(self, params: Any) -> State:
        """The state to start from, on the params' library and device.

        Raises ValueError for params without arrays, and for a pattern that matches none of them;
        TypeError for arrays that are not of a real floating-point dtype.
        """
        first = require_params(self, params)[0]
        require_matches(self, params, as_patterns(getattr(self, "mask", ())))
        backend = backend_of(first)
        state: State = {}
        if self.counts_steps or self._scheduled:
            state["step"] = backend.asarray(0, dtype=backend.xp.int32)
        for slot in self.slot_names():
            state[slot] = tree.map(lambda leaf, slot=slot: self.init_leaf(slot, leaf), params)
        for name, start in self.carried.items():
            state[name] = backend.asarray(start, dtype=first.dtype)
        like = backend.asarray(0.0, dtype=first.dtype)
        if stateful := self._stateful:
            state["schedules"] = {name: each.init(like) for name, each in stateful.items()}
        return state

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        """(gradients, state), or of an Optimizer (params, state), one step on.

        gradients: a tree like the params.
        extras: what `needs` names.

        Raises ValueError for trees that differ, TypeError where something needed is missing.
        """
        leaves, structure = tree.flatten(params)
        columns = {name: column(self, state, name, structure) for name in self.slot_names()}
        given = column(self, {"gradients": gradients}, "gradients", structure)
        at = AtStep(self, state, leaves, structure, required(self, extras))
        new: list[Array] = []
        for index, parameter in enumerate(leaves):
            slots = {name: values[index] for name, values in columns.items()}
            result, kept = self.update_leaf(given[index], parameter, slots, at.scalars(index))
            new.append(result)
            for name, values in columns.items():
                values[index] = kept[name]
        after = {name: structure.unflatten(values) for name, values in columns.items()}
        kept = {**at.state, **after}
        return structure.unflatten(new), {name: kept[name] for name in state}  # in its order

    # What the fields are.

    @cached_property
    def _scheduled(self) -> dict[str, Schedule]:
        """The fields that hold schedules."""
        return {
            name: value if isinstance(value, Schedule) else _OfFunction(value)
            for name, value in vars(self).items()
            if isinstance(value, Schedule) or (name in _RANGES and callable(value))
        }

    @property
    def _stateful(self) -> dict[str, StatefulSchedule]:
        return {k: s for k, s in self._scheduled.items() if isinstance(s, StatefulSchedule)}


class Optimizer(GradientTransformation):
    """Base class of optimizers: `update(gradients, state, params) -> (params, state)`.

    Derive from it with a frozen dataclass and write `update_leaf`, whose result is the new
    parameter. Everything else is as with a GradientTransformation.
    """

    counts_steps = True
    whole_batch: ClassVar[bool] = False
    """Whether it is meant for all samples at once, which `batch_size="auto"` is for it then."""


class _OfFunction(Schedule):
    """A function of the step, given in place of a schedule."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self.function = function

    def __call__(self, step: Any) -> Any:
        return self.function(step)


class AtStep:
    """The values of one step that are the same for all arrays.

    Attributes:
        state: after the step, but for what is kept for each parameter.
    """

    def __init__(
        self, owner: Any, state: State, leaves: list[Array], structure: Any, extras: Any
    ) -> None:
        self.owner, self.leaves = owner, leaves
        self.state: State = {}
        self.made: dict[Any, Any] = {}
        self.newest: tuple[Any, ...] = (None, None, None)
        self.decayed: tuple[int, ...] | None = None
        mask = getattr(owner, "mask", ALL)
        if mask != ALL:
            self.decayed = first_match(structure, len(leaves), (as_patterns(mask),))
        if "step" in state:
            self.state["step"] = state["step"] + 1
        if "schedules" in state:
            self.state["schedules"] = {
                name: owner._scheduled[name].observe(kept, extras.get("value"))
                for name, kept in state["schedules"].items()
            }
        if owner.carried:
            step, values = self._values(leaves[0].dtype, state)
            self.state.update(owner.carry(values, step))

    def scalars(self, index: int) -> Any:
        """The scalars that `update_leaf` is given for the parameter at this place."""
        dtype = self.leaves[index].dtype
        decayed = self.decayed is None or self.decayed[index] >= 0
        if dtype is self.newest[0] and decayed is self.newest[1]:  # nearly always
            return self.newest[2]
        key = (dtype, decayed)
        if key not in self.made:
            step, values = self._values(key[0], self.state)
            if not decayed:
                # An array, since all arrays are then treated alike, which programs profit from.
                zero = namespace(step).zeros_like(step)
                values = SimpleNamespace(**{**_settings(values), "weight_decay": zero})
            self.made[key] = self.owner.step_scalars(values, step)
        self.newest = (dtype, decayed, self.made[key])
        return self.made[key]

    def _values(self, dtype: Any, carried: State) -> tuple[Any, Any]:
        """The step in that dtype, and an object with the hyperparameters' values at it."""
        owner = self.owner
        if "step" not in self.state:
            return None, owner
        counter = self.state["step"]
        step = namespace(counter).astype(counter, dtype)
        if not owner._scheduled and not owner.carried:
            return step, owner
        values = _settings(owner)
        for name, schedule in owner._scheduled.items():
            kept = self.state.get("schedules", {}).get(name)
            count = step - 1.0
            value = schedule(count) if kept is None else schedule(count, _cast(kept, dtype))
            values[name] = value
        values |= _cast({name: carried[name] for name in owner.carried}, dtype)
        return step, SimpleNamespace(**values)


def _settings(values: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(values).items() if not name.startswith("_")}


def _cast(values: Mapping[str, Array], dtype: Any) -> dict[str, Array]:
    return {
        name: value if value.dtype == dtype else namespace(value).astype(value, dtype)
        for name, value in values.items()
    }


def previous(schedule: Any, value: Any, step: Array) -> Any:
    """The value of a field one step before; of one that is no schedule the value itself.

    value: the value now. step: from 1 on.
    """
    if not callable(schedule):
        return value
    return schedule(namespace(step).maximum(step - 2.0, 0.0))


def require_params(owner: Any, params: Any) -> list[Array]:
    """The arrays of params; ValueError for none, TypeError for a dtype that cannot be trained."""
    pairs = tree.paths(params)
    if not pairs:
        raise ValueError(
            f"{label(owner)}: expected parameters to train, got none; add a Linear layer"
        )
    for path, leaf in pairs:
        if not namespace(leaf).isdtype(leaf.dtype, "real floating"):
            raise TypeError(
                f"{label(owner)}: expected parameters of a real floating-point dtype, got "
                f"{leaf.dtype} for {path or 'the parameter'!r}. To fix it: convert it with "
                "xp.astype, or keep it beside the parameters"
            )
    return [leaf for _, leaf in pairs]


def required(owner: Any, extras: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that `owner.needs` names; TypeError where one is missing."""
    needs = owner.needs
    if not needs:
        return {}
    missing = sorted(needs - extras.keys())
    if missing:
        raise TypeError(
            f"{label(owner)}: expected update to be given {', '.join(missing)}, got "
            f"{', '.join(sorted(extras)) or 'nothing'} beside gradients, state and params. "
            f"To fix it: call update(gradients, state, params, {missing[0]}=...)"
        )
    return {name: extras[name] for name in needs}


def column(owner: Any, state: Any, name: str, structure: Any) -> list[Array]:
    """The arrays of an entry of the state; ValueError unless it is a tree like the params."""
    if name not in state:
        raise ValueError(
            f"{label(owner)}: expected a state with {name!r}, got one with "
            f"{', '.join(map(repr, state)) or 'nothing'}. To fix it: start from init(params)"
        )
    leaves, its_structure = tree.flatten(state[name])
    if its_structure != structure:
        raise ValueError(
            f"{label(owner)}: expected {name} to be a tree like the params, got another one. "
            "To fix it: start from init(params), and take gradients of the same params"
        )
    return leaves
