"""Optimizers made of others: Chain, Masked, Groups, freeze, Accumulate, Averaged."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

from tinynn import tree
from tinynn.config import label, require
from tinynn.trace import backend_of, namespace

from .base import (
    AtStep,
    GradientTransformation,
    Number,
    Optimizer,
    State,
    column,
    require_params,
    required,
)
from .patterns import (
    Patterns,
    as_patterns,
    first_match,
    matches,
    require_matches,
    require_patterns,
    shown,
)
from .schedules import COUNT


@dataclass(frozen=True, init=False)
class Chain(Optimizer):
    r"""Transformations of gradients in order, followed by an optimizer.

    Its state holds theirs, by their places: "0", "1", ...

    Parameters
    ----------
    \*parts
        Transformations, and an optimizer as the last one; without one, the chain is a
        transformation.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.optim import SGD, ClipByValue
    >>> params = {"w": np.asarray([1.0])}
    >>> chain = Chain(ClipByValue(1.0), SGD(learning_rate=0.5))
    >>> params, state = chain.update({"w": np.asarray([100.0])}, chain.init(params), params)
    >>> params["w"].tolist()
    [0.5]
    """

    parts: tuple[Any, ...]

    def __init__(self, *parts: GradientTransformation) -> None:
        *first, last = parts or (None,)
        if not (isinstance(last, Optimizer) and all(map(_is_transformation, first))):
            raise TypeError(
                "Chain: expected transformations of gradients (ClipByValue, L2, ...) and last an "
                f"optimizer, got {', '.join(map(label, parts)) or 'nothing'}"
            )
        _refuse_searches("Chain", last, "give it alone, and put a penalty into the loss")
        object.__setattr__(self, "parts", parts)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset[str]().union(*[part.needs for part in self.parts])

    def init(self, params: Any) -> State:
        return {str(place): part.init(params) for place, part in enumerate(self.parts)}

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        after: State = {}
        for place, part in enumerate(self.parts):
            own = _own_state(self, state, str(place))
            gradients, after[str(place)] = part.update(
                gradients, own, params, **required(part, extras)
            )
        return gradients, after  # the last one's are the params


@dataclass(frozen=True)
class Masked(GradientTransformation):
    """A transformation of only those gradients whose parameters' paths match a pattern.

    Parameters
    ----------
    transformation
        What is done to them.
    mask
        A pattern, or several, in fnmatch's words. One that matches nothing is an error.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.optim import L2
    >>> params = {"weight": np.ones(1), "bias": np.ones(1)}
    >>> masked = Masked(L2(0.5), "*weight")
    >>> masked.update(params, masked.init(params), params)[0]
    {'weight': array([1.5]), 'bias': array([1.])}
    """

    transformation: GradientTransformation
    mask: Patterns

    def __post_init__(self) -> None:
        if not _is_transformation(self.transformation):
            raise TypeError(
                "Masked: expected a transformation of gradients, such as L2(0.1), got "
                f"{label(self.transformation)}. To fix it: for an optimizer use Groups"
            )
        require_patterns(self, "mask")

    @property
    def needs(self) -> frozenset[str]:
        return self.transformation.needs

    def init(self, params: Any) -> State:
        leaves = require_params(self, params)
        require_matches(self, params, as_patterns(self.mask))
        structure = tree.flatten(params)[1]
        return self.transformation.init(
            _part(structure, leaves, self._places(structure, leaves), 0)
        )

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        leaves, structure = tree.flatten(params)
        given = column(self, {"gradients": gradients}, "gradients", structure)
        places = self._places(structure, leaves)
        part, own = (_part(structure, values, places, 0) for values in (given, leaves))
        changed, state = self.transformation.update(part, state, own, **required(self, extras))
        return structure.unflatten(_merged(given, places, {0: changed})), state

    def _places(self, structure: Any, leaves: Sequence[Any]) -> tuple[int, ...]:
        return first_match(structure, len(leaves), (as_patterns(self.mask),))


@dataclass(frozen=True)
class Groups(Optimizer):
    """An optimizer for each group of parameters; a path belongs to its first matching pattern.

    Parameters
    ----------
    groups
        A mapping of pattern -> optimizer, or None for parameters that stay as they are, to
        the bit. Every parameter must match a pattern, and every pattern be the first to match
        one.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.optim import SGD
    >>> params = {"0": {"weight": np.ones(1)}, "1": {"weight": np.ones(1)}}
    >>> groups = Groups({"0.*": None, "*": SGD(0.5)})
    >>> params, state = groups.update(params, groups.init(params), params)
    >>> params
    {'0': {'weight': array([1.])}, '1': {'weight': array([0.5])}}
    """

    groups: Any

    def __post_init__(self) -> None:
        given = self.groups
        pairs = given.items() if isinstance(given, Mapping) else given
        try:
            pairs = tuple((pattern, optimizer) for pattern, optimizer in pairs)
        except (TypeError, ValueError):
            pairs = ()
        for pattern, optimizer in pairs or (("", ""),):
            if not isinstance(pattern, str) or not isinstance(optimizer, Optimizer | None):
                raise TypeError(
                    "Groups: expected a dict of patterns and optimizers (or None), such as "
                    f"{{'0.*': None, '*': Adam()}}, got {given!r}"
                )
            _refuse_searches("Groups", optimizer, "give it alone")
        object.__setattr__(self, "groups", pairs)

    def __repr__(self) -> str:
        pairs = [f"{pattern!r}: {label(optimizer)}" for pattern, optimizer in self.groups]
        return f"Groups({{{', '.join(pairs)}}})"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset[str]().union(*[each.needs for _, each in self.groups if each])

    @cached_property
    def _rows(self) -> tuple[tuple[str, ...], ...]:
        return tuple((pattern,) for pattern, _ in self.groups)

    def init(self, params: Any) -> State:
        leaves = require_params(self, params)
        structure = tree.flatten(params)[1]
        places = first_match(structure, len(leaves), self._rows)
        paths = [path for path, _ in tree.paths(params)]
        for place, (pattern, _) in enumerate(self.groups):
            if place not in places:
                require_matches(self, params, (pattern,))
                taken = [path for path in paths if matches(path, (pattern,))]
                raise ValueError(
                    f"{label(self)}: expected pattern {pattern!r} to match a parameter that no "
                    f"pattern before it matches, got only {shown(taken)}. "
                    "To fix it: put the special patterns first"
                )
        if left := [path for path, place in zip(paths, places, strict=True) if place < 0]:
            raise ValueError(
                f"{label(self)}: expected every parameter to match a pattern, got no match for "
                f"{shown(left)}. To fix it: add '*': an optimizer, or None to leave them alone"
            )
        return {
            pattern: optimizer.init(_part(structure, leaves, places, place))
            for place, (pattern, optimizer) in enumerate(self.groups)
            if optimizer is not None
        }

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        leaves, structure = tree.flatten(params)
        given = column(self, {"gradients": gradients}, "gradients", structure)
        places = first_match(structure, len(leaves), self._rows)
        changed: dict[int, Any] = {}
        after: State = {}
        for place, (pattern, optimizer) in enumerate(self.groups):
            if optimizer is not None:
                changed[place], after[pattern] = optimizer.update(
                    _part(structure, given, places, place),
                    _own_state(self, state, pattern),
                    _part(structure, leaves, places, place),
                    **required(optimizer, extras),
                )
        return structure.unflatten(_merged(leaves, places, changed)), after


def freeze(optimizer: Optimizer, patterns: Patterns) -> Groups:
    """Keep the parameters whose paths match a pattern as they are; the optimizer trains the others.

    Frozen parameters stay the same to the bit.

    Parameters
    ----------
    optimizer
        What trains the others.
    patterns
        A pattern of paths, or several, in fnmatch's words.

    Examples
    --------
    >>> from tinynn.optim import SGD
    >>> freeze(SGD(0.1), "0.*")
    Groups({'0.*': None, '*': SGD(learning_rate=0.1)})
    """
    return Groups([*[(pattern, None) for pattern in as_patterns(patterns)], ("*", optimizer)])


@dataclass(frozen=True)
class Accumulate(Optimizer):
    """One step of an optimizer every `steps` calls, on the mean of their gradients.

    Between them the parameters stay as they are. optax calls it `MultiSteps`.

    The optimizer counts its own steps. What it needs, such as the loss, is the last call's.

    Parameters
    ----------
    optimizer
        What makes the step.
    steps
        Calls for each of its steps.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.optim import SGD
    >>> params, optimizer = [np.zeros(1)], Accumulate(SGD(1.0), steps=2)
    >>> state = optimizer.init(params)
    >>> for gradient in (1.0, 3.0):
    ...     params, state = optimizer.update([np.full(1, gradient)], state, params)
    ...     print(params[0].tolist())
    [0.0]
    [-2.0]
    """

    optimizer: Optimizer
    _: KW_ONLY
    steps: int

    def __post_init__(self) -> None:
        _require_optimizer(self)
        _refuse_searches("Accumulate", self.optimizer, "give it alone, and all data at once")
        require(self, "steps", *COUNT)

    @property
    def needs(self) -> frozenset[str]:
        return self.optimizer.needs

    def init(self, params: Any) -> State:
        zeros = tree.map(lambda leaf: namespace(leaf).zeros_like(leaf), params)
        return {**_counter(self, params), "sum": zeros, "optimizer": self.optimizer.init(params)}

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        structure = tree.flatten(params)[1]
        given = column(self, {"gradients": gradients}, "gradients", structure)
        sums = column(self, state, "sum", structure)
        step = state["step"] + 1
        due = step % self.steps == 0
        totals = [namespace(a, b).add(a, b) for a, b in zip(sums, given, strict=True)]
        means = structure.unflatten([total * (1.0 / self.steps) for total in totals])
        # All of it is computed in every call, since a device does not wait for a host to decide.
        moved, after = self.optimizer.update(means, state["optimizer"], params, **extras)

        def chosen(new: Any, old: Any) -> Any:
            return namespace(due, new, old).where(due, new, old)

        kept = [chosen(namespace(total).zeros_like(total), total) for total in totals]
        return tree.map(chosen, moved, params), {
            "step": step,
            "sum": structure.unflatten(kept),
            "optimizer": tree.map(chosen, after, state["optimizer"]),
        }


@dataclass(frozen=True)
class Averaged(Optimizer):
    """An optimizer that also keeps a running mean of the parameters.

    The mean is
    a = decay * a + (1 - decay) * w after each step, from the first parameters on.

    `averaged_params(state)` gives it.

    Source: Polyak and Juditsky 1992; the exponential form is PyTorch's `get_ema_multi_avg_fn`.

    Parameters
    ----------
    optimizer
        What trains the parameters.
    decay
        What remains of the mean in each step: a number or a schedule.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.optim import SGD
    >>> params, optimizer = [np.zeros(1)], Averaged(SGD(1.0), decay=0.75)
    >>> params, state = optimizer.update([np.ones(1)], optimizer.init(params), params)
    >>> params[0].tolist(), averaged_params(state)[0].tolist()
    ([-1.0], [-0.25])
    """

    optimizer: Optimizer
    _: KW_ONLY
    decay: Number = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_optimizer(self)

    @property
    def needs(self) -> frozenset[str]:
        return self.optimizer.needs

    def init(self, params: Any) -> State:
        own = self.optimizer.init(params)
        copies = tree.map(lambda leaf: namespace(leaf).asarray(leaf, copy=True), params)
        return {**_counter(self, params), "average": copies, "optimizer": own}

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        own = _own_state(self, state, "optimizer")
        params, own = self.optimizer.update(gradients, own, params, **extras)
        leaves, structure = tree.flatten(params)
        averages = column(self, state, "average", structure)
        at = AtStep(self, state, leaves, structure, {})
        new = []
        for index, (old, leaf) in enumerate(zip(averages, leaves, strict=True)):
            decay = at.scalars(index).decay
            new.append(namespace(old, leaf).add(decay * old, (1.0 - decay) * leaf))
        return params, {**at.state, "average": structure.unflatten(new), "optimizer": own}


def averaged_params(state: State) -> Any:
    """The running mean of the parameters, from the state of an optimizer that keeps one.

    The state is that of `Averaged`, or of an optimizer that has one inside. Raises ValueError for
    any other.

    Parameters
    ----------
    state
        The optimizer's.
    """
    found = _average_in(state)
    if found is None:
        raise ValueError(
            "averaged_params: expected the state of an optimizer with Averaged in it, got one "
            f"with {', '.join(map(repr, state)) or 'nothing'}. "
            "To fix it: train with Averaged(optimizer)"
        )
    return found


def _average_in(state: Any) -> Any:
    if not isinstance(state, dict):
        return None
    if state.keys() == {"step", "average", "optimizer"}:
        return state["average"]
    return next(filter(None, map(_average_in, state.values())), None)


def _is_transformation(part: Any) -> bool:
    return isinstance(part, GradientTransformation) and not isinstance(part, Optimizer)


def _require_optimizer(owner: Any) -> None:
    if not isinstance(owner.optimizer, Optimizer):
        raise TypeError(
            f"{type(owner).__name__}: expected an optimizer, such as Adam(), got "
            f"{label(owner.optimizer)}"
        )


def _refuse_searches(owner: str, optimizer: Any, advice: str) -> None:
    """TypeError for an optimizer that evaluates the loss itself: at what, the owner cannot say."""
    if optimizer is not None and optimizer.needs & {"value_and_grad", "objective"}:
        raise TypeError(
            f"{owner}: expected an optimizer that takes gradients as they are, got "
            f"{label(optimizer)}, which evaluates the loss itself. To fix it: {advice}"
        )


def _counter(owner: Any, params: Any) -> State:
    backend = backend_of(require_params(owner, params)[0])
    return {"step": backend.asarray(0, dtype=backend.xp.int32)}


def _own_state(owner: Any, state: State, name: str) -> State:
    if name not in state:
        raise ValueError(
            f"{label(owner)}: expected a state with {name!r}, got one with "
            f"{', '.join(map(repr, state)) or 'nothing'}. To fix it: start from init(params)"
        )
    own: State = state[name]
    return own


def _part(structure: Any, leaves: Sequence[Any], places: Sequence[int], place: int) -> Any:
    """The tree with None, which is an empty tree, for the leaves of other groups."""
    kept = [leaf if at == place else None for leaf, at in zip(leaves, places, strict=True)]
    return structure.unflatten(kept)


def _merged(leaves: Sequence[Any], places: Sequence[int], changed: dict[int, Any]) -> list[Any]:
    """The leaves, with those of each changed group in their places."""
    new = {place: iter(tree.leaves(group)) for place, group in changed.items()}
    return [
        next(new[place]) if place in new else leaf
        for leaf, place in zip(leaves, places, strict=True)
    ]
