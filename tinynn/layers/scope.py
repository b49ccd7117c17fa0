"""Scope: what a layer sees of the pass through the network that it takes part in."""

from typing import Any, TypeAlias
from zlib import crc32

from backends import random
from tinynn import tree
from tinynn.config import label
from tinynn.functional import DtypeError, InputError, ShapeError
from tinynn.initializers import Initializer
from tinynn.rules.special import stop_gradient
from tinynn.trace import backend_of, namespace
from tinynn.trace.scopes import scopes

Array: TypeAlias = Any
Tree: TypeAlias = Any


class Variable:
    """A value of the state, read and set as `.value`; what is set is outside every gradient."""

    __slots__ = ("_key", "_pass", "_start")

    def __init__(self, of: "Pass", key: tuple[str, ...], start: Array) -> None:
        self._pass, self._key, self._start = of, key, start

    @property
    def value(self) -> Array:
        """The value that was set last in this pass, else the one from before it."""
        return self._pass.new_state.get(self._key, self._start)

    @value.setter
    def value(self, value: Array) -> None:
        where, old = ".".join(self._key), self._start
        if tuple(value.shape) != tuple(old.shape) or value.dtype != old.dtype:
            raise ShapeError(
                f"state {where!r}: expected a value of shape {tuple(old.shape)} and {old.dtype} as "
                f"before, got {tuple(value.shape)} and {value.dtype}; keep its shape and dtype"
            )
        self._pass.new_state[self._key] = stop_gradient(value)


class Pass:
    """What the scopes of one pass through a network share."""

    __slots__ = (
        "backend", "creating", "draws", "dtype", "first_row", "key", "layers", "losses",
        "new_state", "perturbations", "taps", "training",
    )  # fmt: skip

    def __init__(
        self,
        values: list[Any],
        *,
        training: bool = False,
        first_row: int = 0,
        creating: bool = False,
        perturbations: dict[str, Array] | None = None,
    ) -> None:
        self.key: Array | None = None
        self.training, self.first_row, self.creating = training, first_row, creating
        arrays = [a for a in values if hasattr(a, "dtype")]
        self.backend = backend_of(arrays[0]) if arrays else None
        self.dtype = self._floating(arrays)
        self.perturbations = perturbations or {}
        self.new_state: dict[tuple[str, ...], Array] = {}
        self.layers: dict[tuple[str, ...], Any] = {}
        self.losses: dict[str, Array] = {}
        self.taps: dict[str, Array] = {}
        self.draws: dict[tuple[str, ...], int] = {}

    def _floating(self, arrays: list[Array]) -> Any:
        """The dtype of the first floats among the inputs, else of the parameters."""
        for array in arrays:
            if is_floating(array):
                return array.dtype
        return None

    def key_at(self, path: tuple[str, ...], last: str) -> Array:
        """The key of one place: all of them lead from the pass's own by a hash of the path."""
        return random.fold_in(self.key, crc32(".".join((*path, last)).encode()))


def is_floating(array: Array) -> bool:
    """Whether its dtype is real or complex floating-point."""
    return bool(namespace(array).isdtype(array.dtype, ("real floating", "complex floating")))


class Random:
    """Random numbers of one layer: `scope.random`.

    The first axis of a shape is that of the batch, and draws are counted by its rows: the rows of
    a part of a batch get what they would get in the whole. Each draw has a key of its own.
    """

    __slots__ = ("_pass", "_path")

    def __init__(self, of: Pass, path: tuple[str, ...]) -> None:
        self._pass, self._path = of, path

    def key(self) -> Array:
        """A new key, (2,) int32, for draws that are not counted by row."""
        run, path = self._pass, self._path
        if run.key is None:
            raise ValueError(
                "expected a key to draw random numbers with, got none. To fix it: give apply a "
                "key=, an integer seed or a key of backends.random"
            )
        count = run.draws[path] = run.draws.get(path, 0) + 1
        return run.key_at(path, f"draw {count}")

    def uniform(
        self, shape: tuple[int, ...], dtype: Any, low: float = 0.0, high: float = 1.0
    ) -> Array:
        """Uniform draws from [low, high)."""
        rows = self._pass.first_row
        return random.uniform(self.key(), shape, dtype, low, high, rows)

    def normal(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Normal draws of mean 0 and variance 1."""
        return random.normal(self.key(), shape, dtype, self._pass.first_row)

    def bernoulli(self, p: float, shape: tuple[int, ...]) -> Array:
        """True with probability `p`."""
        return random.bernoulli(self.key(), p, shape, self._pass.first_row)


class Scope:
    """What a layer is given in `forward(scope, x)`: its parameters, state, key and children.

    `scope(name, layer, *inputs)` calls a child. A child is known by its name alone: calling one
    name twice shares the parameters; two names are two children, however equal their layers.

    Attributes:
        path: the names that lead to this layer, () for the network itself.
        training: whether this is a pass of training.
    """

    __slots__ = ("_inputs", "_params", "_pass", "_state", "layer", "path", "training")

    def __init__(
        self,
        of: Pass,
        layer: Any,
        params: dict[str, Any],
        state: dict[str, Any],
        path: tuple[str, ...],
        inputs: tuple[Tree, ...],
    ) -> None:
        self._pass, self.layer, self._params, self._state = of, layer, params, state
        self.path, self.training, self._inputs = path, of.training, inputs

    def param(
        self, name: str, init: Initializer, shape: tuple[int, ...], dtype: Any = None
    ) -> Array:
        """The parameter of this name: made by `init` the first time, and kept in `params`.

        Args:
            name: its name within this layer.
            init: a function of (key, shape, dtype); see `tinynn.initializers`.
            shape: its shape, most often in part the input's.
            dtype: None is that of all parameters.

        Raises:
            ShapeError, DtypeError: the parameter that is there does not fit the input.
        """
        run, params = self._pass, self._params
        if run.creating and name not in params:
            self._check_name(name)
            params[name] = init(run.key_at(self.path, name), shape, dtype or run.dtype)
        try:
            param = params[name]
        except KeyError:
            raise self._missing("parameter", name, params) from None
        if tuple(param.shape) != tuple(shape):
            raise ShapeError(self._unfit("parameter", name, param, shape))
        if dtype is None and run.dtype is not None and param.dtype != run.dtype:
            raise DtypeError(
                f"{label(self.layer)}: expected input of dtype {param.dtype}, as its parameters "
                f"are, got {run.dtype}; convert one of them with xp.astype"
            )
        return param

    def state(
        self, name: str, init: Initializer, shape: tuple[int, ...], dtype: Any = None
    ) -> Variable:
        """The state of this name, which a pass reads and sets as `.value`; see `param`."""
        run, state = self._pass, self._state
        if run.creating and name not in state:
            self._check_name(name)
            state[name] = init(run.key_at(self.path, name), shape, dtype or run.dtype)
        try:
            value = state[name]
        except KeyError:
            raise self._missing("state", name, state) from None
        if tuple(value.shape) != tuple(shape):
            raise ShapeError(self._unfit("state", name, value, shape))
        return Variable(run, (*self.path, name), value)

    def as_float(self, x: Array) -> Array:
        """`x`, integers and booleans converted to the dtype of the parameters."""
        if is_floating(x) or self._pass.dtype is None:
            return x
        return namespace(x).astype(x, self._pass.dtype)

    @property
    def first_row(self) -> int:
        """The number of the inputs' first row in the whole batch."""
        return self._pass.first_row

    @property
    def random(self) -> Random:
        """Random numbers of this layer and this pass."""
        return Random(self._pass, self.path)

    def add_loss(self, name: str, value: Array) -> None:
        """Add a 0-d array, such as a penalty, to what training minimises."""
        path = ".".join((*self.path, name))
        before = self._pass.losses.get(path)
        self._pass.losses[path] = value if before is None else before + value

    def tap(self, name: str, x: Array) -> Array:
        """Show `x` in `Forward.taps`, and add what the pass was given to perturb it with.

        The gradient by that perturbation, at zero, is the loss's gradient by `x`.
        """
        path = ".".join((*self.path, name))
        self._pass.taps[path] = x
        perturbation = self._pass.perturbations.get(path)
        return x if perturbation is None else x + perturbation

    def __call__(self, name: str, layer: Any, *inputs: Tree) -> Tree:
        """The output of a child, a layer or a plain function, for these inputs."""
        scopes.stack.append((name, layer))
        try:
            if hasattr(layer, "forward"):
                return layer.forward(self._child(name, layer, inputs), *inputs)
            return layer(*inputs)
        except InputError as error:
            error.path = f"{name}.{error.path}" if error.path else name
            raise
        except Exception as error:
            error.add_note(f"in layer {'.'.join((*self.path, name))}, {label(layer)}")
            raise
        finally:
            scopes.stack.pop()

    def _child(self, name: str, layer: Any, inputs: tuple[Tree, ...]) -> "Scope":
        run, path = self._pass, (*self.path, name)
        before = run.layers.setdefault(path, layer)
        if before is not layer and before != layer:
            raise ValueError(
                f"expected one layer of the name {name!r}, got {label(layer)} after "
                f"{label(before)}. To fix it: give each child a name of its own"
            )
        if run.creating:
            self._check_name(name)
            parts = [tree_.setdefault(name, {}) for tree_ in (self._params, self._state)]
        else:
            parts = [tree_.get(name, _EMPTY) for tree_ in (self._params, self._state)]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError(
                f"{name!r} is the name of a parameter or state and of a child. To fix it: give "
                "them different names"
            )
        return Scope(run, layer, parts[0], parts[1], path, inputs)

    def _check_name(self, name: str) -> None:
        if not name or "." in name:
            raise ValueError(f"expected a name without dots, got {name!r}. To fix it: change it")
        twice = name in self._params and name in self._state
        if twice and not isinstance(self._params[name], dict):
            raise ValueError(f"{name!r} is a parameter and a state. To fix it: rename one of them")

    def _missing(self, what: str, name: str, there: dict[str, Any]) -> InputError:
        if what == "state" and not there:
            return InputError(
                f"{label(self.layer)}: expected its state, {name!r}, got none; call net.apply("
                "params, state, x) with the state that net.init returned, since net(params, x) is "
                "for networks without one"
            )
        return InputError(
            f"{label(self.layer)}: expected a {what} {name!r}, got {', '.join(there) or 'none'}; "
            "give the parameters and state of this network, as net.init makes them"
        )

    def _unfit(self, what: str, name: str, old: Array, shape: tuple[int, ...]) -> str:
        shapes = ", ".join(_shown(a.shape) for a in tree.leaves(self._inputs) if _is_array(a))
        return (
            f"{label(self.layer)}: expected input that fits {what} {name!r} of shape "
            f"{tuple(old.shape)}, got input of shape {shapes}, which needs {tuple(shape)}; give it "
            "data of the width it was made for, or make new parameters with init"
        )


_EMPTY: dict[str, Any] = {}


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape")


def _shown(shape: tuple[int, ...]) -> str:
    """(32, 64) as "(batch, 64)": the number of rows is no part of what fits."""
    return "(" + ", ".join(["batch", *map(str, shape[1:])]) + ")" if shape else "()"
