"""Scope: a layer's access to its parameters, state and children during one pass."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import index
from typing import Any, TypeAlias
from zlib import crc32

import backends
from backends import random
from tinynn import tree
from tinynn.config import label
from tinynn.functional.errors import DtypeError, InputError, ShapeError
from tinynn.initializers import Initializer
from tinynn.layers.draws import Random
from tinynn.layers.inputs import as_real, cast, is_real, wrong_number
from tinynn.rules.special import stop_gradient
from tinynn.trace import Traced, backend_of, bottom, constant, namespace, plain
from tinynn.trace.scopes import scopes

Array: TypeAlias = Any
Tree: TypeAlias = Any


class Variable:
    """A value of a layer's state, read and set as `.value`; what is set has no gradient."""

    __slots__ = ("_key", "_scope", "_start")

    def __init__(self, scope: "Scope", name: str, start: Array) -> None:
        self._scope, self._key, self._start = scope, (*scope.path, name), start

    @property
    def value(self) -> Array:
        """The value that was set last in this pass, else the one from before it."""
        return self._scope._pass.new_state.get(self._key, self._start)

    @value.setter
    def value(self, value: Array) -> None:
        run, old = self._scope._pass, self._start
        if not _is_array(value):
            got = f"{value!r} ({type(value).__name__})"
        elif tuple(value.shape) != tuple(old.shape) or value.dtype != old.dtype:
            got = f"one of shape {tuple(value.shape)} and {value.dtype}"
        else:
            run.new_state[self._key] = run.lift(stop_gradient(value))
            return
        raise InputError(
            f"{label(self._scope.layer)}: expected an array of shape {tuple(old.shape)} and "
            f"{old.dtype} for state {self._key[-1]!r}, as before, got {got}. To fix it: keep its "
            "shape and dtype: xp.astype(value, old.dtype)"
        )


class Pass:
    """The data that the scopes of one pass through a network share.

    Attributes:
        backend: where its arrays live; None where there are none.
        dtype: of parameters: that of the first floats among inputs and parameters, or the default.
        compute_dtype: of what layers compute with: inputs and parameters are cast to it; None where
            it is `dtype`.
        creating: in a pass that makes parameters and state: those that are there, by their path.
        space: the namespace of differentiable arrays, if one is in the pass and the library's own
            arrays refuse to be added to it. Then all are made such, so that operators work.
    """

    __slots__ = (
        "backend", "compute_dtype", "creating", "draws", "dropping", "dtype", "first_row", "key",
        "layers", "losses", "new_state", "perturbations", "shard", "space", "tapping", "taps",
        "training",
    )  # fmt: skip

    def __init__(
        self,
        inputs: Tree,
        kept: tuple[dict[str, Any], ...],
        key: Array | int | None,
        *,
        dtype: Any = None,
        compute_dtype: Any = None,
        training: bool = False,
        dropping: bool = False,
        first_row: int = 0,
        creating: dict[str, Array] | None = None,
        perturbations: dict[str, Array] | None = None,
        tapping: bool = False,
        shard: Any = None,
    ) -> None:
        perturbations = perturbations or {}
        arrays = [a for a in tree.leaves(inputs) if hasattr(a, "dtype")]
        keyed: list[Array] = [key] if getattr(key, "shape", ()) else []
        first = next(chain(arrays, _stored(kept), keyed), None)
        self.backend = None if first is None else backend_of(first)
        # With a dtype to compute in, the inputs may have it already.
        order = (arrays, _stored(kept)) if compute_dtype is None else (_stored(kept), arrays)
        self.dtype = self._floating(chain(*order), dtype)
        self.compute_dtype = self._compute_dtype(compute_dtype)
        found = chain(_stored(kept), arrays, perturbations.values(), keyed)
        traced = next((a for a in found if type(a) is Traced), None)
        self.space = None if traced is None or _defers(bottom(traced), traced) else traced.space
        self.key = key if keyed or key is None else self._seeded(key)
        self.training, self.first_row, self.creating = training, first_row, creating
        self.perturbations, self.shard, self.dropping = perturbations, shard, training or dropping
        self.new_state: dict[tuple[str, ...], Array] = {}
        self.layers: dict[tuple[str, ...], Any] = {}
        self.losses: dict[str, Array] = {}
        self.tapping = tapping
        self.taps: dict[str, Array] = {}
        self.draws: dict[tuple[str, ...], int] = {}

    def _floating(self, arrays: Iterable[Array], dtype: Any) -> Any:
        if dtype is not None and self.backend is not None:
            return self.backend.dtypes()[self.backend.dtype_name(dtype)]
        found = next((a.dtype for a in arrays if is_real(a)), None)
        return self.backend.default_float if found is None and self.backend else found

    def _compute_dtype(self, given: Any) -> Any:
        if given is None or self.backend is None:
            return None
        dtype = self.backend.compute_dtype(given)
        return None if dtype == self.dtype else dtype

    def cast(self, value: Tree) -> Tree:
        """The floating-point arrays of a tree in the dtype to compute in."""
        if self.compute_dtype is None:
            return value
        return tree.map(lambda a: cast(a, self.compute_dtype) if is_real(a) else a, value)

    def uncast(self, value: Tree) -> Tree:
        """The arrays of a tree that have the dtype to compute in, in that of the parameters."""
        if self.compute_dtype is None:
            return value
        wanted, dtype = self.compute_dtype, self.dtype
        return tree.map(
            lambda a: cast(a, dtype) if hasattr(a, "dtype") and a.dtype == wanted else a, value
        )

    def _seeded(self, seed: Any) -> Array:
        return random.key(index(seed), self.backend or backends.get(backends.names()[0]))

    def lift(self, array: Array) -> Array:
        """The array as one that works together with all others of the pass."""
        return array if self.space is None else constant(array, self.space)

    def key_at(self, path: tuple[str, ...], last: str) -> Array:
        """The key of one place: all of them lead from the pass's own by a hash of the path."""
        return random.fold_in(self.key, crc32(".".join((*path, last)).encode()))


def _stored(kept: Iterable[Any]) -> Iterator[Array]:
    """The arrays in nested dicts, one by one: most often the first one says enough."""
    for entry in kept:
        yield from _stored(entry.values()) if isinstance(entry, dict) else (entry,)


def _defers(array: Array, traced: Traced) -> bool:
    """True if the library's `array + other` leaves it to an array that it does not know."""
    kind = type(array)
    if kind not in _DEFERRING:
        try:
            _DEFERRING[kind] = kind.__add__(array, traced) is NotImplemented
        except TypeError:
            _DEFERRING[kind] = False
    return _DEFERRING[kind]


_DEFERRING: dict[type, bool] = {}


class Scope:
    """A layer's access, in `forward(scope, x)`, to its parameters, state, key and children.

    `scope(name, layer, *inputs)` calls a child. A child is known by its name alone: calling one
    name twice shares the parameters; two names are two children, however equal their layers.

    Attributes
    ----------
    path
        The names that lead to this layer, () for the network itself.
    training
        Whether this is a pass of training.
    """

    __slots__ = (
        "_getters", "_inputs", "_params", "_pass", "_state", "layer", "path", "training",
    )  # fmt: skip

    def __init__(
        self,
        of: Pass,
        layer: Any,
        params: dict[str, Any],
        state: dict[str, Any],
        path: tuple[str, ...],
        inputs: tuple[Tree, ...],
        getters: tuple[Callable[..., Array], ...] = (),
    ) -> None:
        self._pass, self.layer, self._params, self._state = of, layer, params, state
        self.path, self.training, self._inputs = path, of.training, inputs
        self._getters = getters  # those of the layers outside, the innermost last

    def param(
        self, name: str, init: Initializer, shape: tuple[int, ...], dtype: Any = None
    ) -> Array:
        """The parameter of this name: made by `init` the first time, and kept in `params`.

        Parameters
        ----------
        name
            Its name within this layer.
        init
            A function of (key, shape, dtype); see `tinynn.initializers`.
        shape
            Its shape, most often in part the input's.
        dtype
            None is that of all parameters, cast to the dtype to compute in; a dtype
            that is given is that of the parameter, in computing too.

        Raises
        ------
        ShapeError, DtypeError
            The parameter that is there does not fit the input.
        """
        if not self._getters:
            return self._entry("parameter", self._params, name, init, shape, dtype)
        getters = self._getters
        self._getters = getters[:-1]  # what the getter asks for is not its own
        try:
            return getters[-1](self, name, init, shape, dtype)
        finally:
            self._getters = getters

    def state(
        self, name: str, init: Initializer, shape: tuple[int, ...], dtype: Any = None
    ) -> Variable:
        """The state of this name, which a pass reads and sets as `.value`; see `param`."""
        return Variable(self, name, self._entry("state", self._state, name, init, shape, dtype))

    @property
    def dropping(self) -> bool:
        """True if dropout drops in this pass: in training, and where `run` is told to."""
        return self._pass.dropping

    @property
    def dtype(self) -> Any:
        """The dtype of the parameters: the wide one, where computing has one of its own."""
        return self._pass.dtype

    @property
    def compute_dtype(self) -> Any:
        """The dtype that layers compute in; most often that of the parameters."""
        run = self._pass
        return run.dtype if run.compute_dtype is None else run.compute_dtype

    def as_float(self, x: Array) -> Array:
        """`x`, integers and booleans converted to the dtype that layers compute in.

        Raises `DtypeError` for what is no real number.
        """
        return as_real(self.layer, x, self.compute_dtype)

    def widened(self, x: Array) -> Array:
        """`x` in the dtype of the parameters, for what a half precision is too coarse for.

        Statistics and long sums are; `narrowed` takes the result back.
        """
        x = self.as_float(x)
        return x if self._pass.compute_dtype is None else cast(x, self._pass.dtype)

    def narrowed(self, x: Array) -> Array:
        """`x` in the dtype that layers compute in."""
        return x if self._pass.compute_dtype is None else cast(x, self._pass.compute_dtype)

    @property
    def first_row(self) -> int:
        """The number of the inputs' first row in the whole batch."""
        return self._pass.first_row

    @property
    def whole_rows(self) -> int | None:
        """The rows of the batch that several processes share; None where one has all of it."""
        shard = self._pass.shard
        return None if shard is None else int(shard.whole)

    def mean_of_batch(self, x: Array) -> Array:
        """The mean of x, (batch, ..., features), over all axes but the last: (features,).

        In training on several processes it is that of the rows of all.
        """
        shard = self._pass.shard
        if shard is not None:
            return shard.mean(x)
        return namespace(x).mean(x, axis=tuple(range(x.ndim - 1)))

    @property
    def random(self) -> Random:
        """Random numbers of this layer and this pass."""
        return Random(self)

    def add_loss(self, name: str, value: Array) -> None:
        """Add a 0-d array, such as a penalty, to what training minimises."""
        self._check_name(name)
        if tuple(getattr(value, "shape", ())):
            raise ShapeError(
                f"{label(self.layer)}: expected a 0-d array as the loss {name!r}, got shape "
                f"{tuple(value.shape)}. To fix it: take its sum or mean"
            )
        path, losses = ".".join((*self.path, name)), self._pass.losses
        losses[path] = losses[path] + value if path in losses else value

    @property
    def tapping(self) -> bool:
        """Whether layers with a matrix are to tap their "input" and "output", for K-FAC."""
        return self._pass.tapping

    def tap(self, name: str, x: Array) -> Array:
        """Show `x` in `Forward.taps`, and add what the pass was given to perturb it with.

        The gradient by that perturbation, at zero, is the loss's gradient by `x`. The path is that
        of the layer and the name; where a layer is called again, "path.name[1]" and so on.
        """
        self._check_name(name)
        run, first = self._pass, ".".join((*self.path, name))
        path, times = first, 0
        while path in run.taps:
            times += 1
            path = f"{first}[{times}]"
        perturbation = run.perturbations.get(path)
        if perturbation is not None:
            if tuple(perturbation.shape) != tuple(x.shape):
                raise ShapeError(
                    f"{label(self.layer)}: expected a perturbation of shape {tuple(x.shape)} for "
                    f"{path!r}, got {tuple(perturbation.shape)}. To fix it: make it with "
                    "xp.zeros_like(x)"
                )
            x = x + run.lift(perturbation)
        run.taps[path] = x
        return x

    def __call__(
        self, name: str, layer: Any, *inputs: Tree, getter: Callable[..., Array] | None = None
    ) -> Tree:
        """The output of a child, a layer or a plain function, for these inputs.

        getter: A function of (scope, name, init, shape, dtype) that gives the child and all inside
        it their parameters, made of others, and of state, that it asks that scope for.
        """
        child = self._child(name, layer, inputs) if hasattr(layer, "forward") else None
        if child is not None and getter is not None:
            child._getters = (*self._getters, getter)
        around = scopes.frames
        scopes.frames = (*around, (name, layer))
        try:
            if child is None:
                return self._called(layer, inputs)
            return layer.forward(child, *self._pass.cast(inputs))
        except InputError as error:
            error.path = f"{name}.{error.path}" if error.path else name
            raise
        except Exception as error:
            wrong = wrong_number(layer, inputs) if isinstance(error, TypeError) else None
            if wrong is not None:
                wrong.path = name
                raise wrong from error
            error.add_note(f"in layer {'.'.join((*self.path, name))}, {label(layer)}")
            raise
        finally:
            scopes.frames = around

    def _called(self, function: Any, inputs: tuple[Tree, ...]) -> Tree:
        if self._pass.space is None:
            return function(*inputs)
        # It may be the library's own, which takes plain arrays as long as nothing follows them.
        return tree.map(self._pass.lift, function(*tree.map(plain, inputs)))

    def _entry(
        self,
        what: str,
        entries: dict[str, Any],
        name: str,
        init: Initializer,
        shape: tuple[int, ...],
        dtype: Any,
    ) -> Array:
        """The parameter or state of this name, made if the pass is one that makes them."""
        run = self._pass
        if run.creating is not None and name not in entries:
            self._check_name(name)
            if name in self._params or name in self._state:
                raise self._named_twice(name)
            entries[name] = self._made(what, name, init, tuple(shape), dtype)
        entry = entries.get(name)
        if isinstance(entry, dict):
            raise self._named_twice(name)
        if entry is None:
            raise self._missing(what, name, entries)
        if tuple(entry.shape) != tuple(shape):
            raise ShapeError(self._unfit(what, name, entry, shape))
        if (dtype is None or dtype is run.dtype) and entry.dtype != run.dtype:
            owner = "parameters are" if what == "parameter" else "state is"
            raise DtypeError(
                f"{label(self.layer)}: expected input of dtype {entry.dtype}, as its {owner}, "
                f"got {run.dtype}. To fix it: convert one of them with xp.astype"
            )
        entry = run.lift(entry)
        return run.cast(entry) if what == "parameter" and dtype is None else entry

    def _made(
        self, what: str, name: str, init: Initializer, shape: tuple[int, ...], dtype: Any
    ) -> Array:
        run = self._pass
        assert run.backend is not None  # `create` sees to it
        if what == "parameter" and 0 in shape:
            raise ShapeError(
                f"{label(self.layer)}: expected input of one feature or more, got none, for which "
                f"{name!r} has the shape {shape}. To fix it: leave out what is empty"
            )
        known = run.backend.dtypes()
        dtype = run.dtype if dtype is None else known[run.backend.dtype_name(dtype)]
        made = (run.creating or {}).get(".".join((*self.path, name)))
        if made is None or (tuple(made.shape), made.dtype) != (shape, dtype):
            made = init(run.key_at(self.path, name), shape, dtype)
        if tuple(made.shape) != shape:
            raise ShapeError(
                f"{label(self.layer)}: expected {label(init)} to make {what} {name!r} of shape "
                f"{shape}, got {tuple(made.shape)}. To fix it: return an array of the shape that "
                "it is given"
            )
        return made

    def _child(self, name: str, layer: Any, inputs: tuple[Tree, ...]) -> "Scope":
        run, path = self._pass, (*self.path, name)
        before = run.layers.setdefault(path, layer)
        if before is not layer and before != layer:
            raise InputError(
                f"{label(self.layer)}: expected one layer of the name {name!r}, got {label(layer)} "
                f"after {label(before)}. To fix it: give each child a name of its own"
            )
        if run.creating is not None:
            self._check_name(name)
            if isinstance(layer, type):
                raise TypeError(
                    f"{label(self.layer)}: expected child {name!r} to be a layer, got the class "
                    f"{layer.__name__}. To fix it: write {layer.__name__}(...)"
                )
            parts = [tree_.setdefault(name, {}) for tree_ in (self._params, self._state)]
        else:
            parts = [tree_.get(name, _EMPTY) for tree_ in (self._params, self._state)]
        if not all(isinstance(part, dict) for part in parts):
            raise self._named_twice(name)
        return Scope(run, layer, parts[0], parts[1], path, inputs, self._getters)

    def _check_name(self, name: Any) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise InputError(
                f"{label(self.layer)}: expected a name, a string without dots, got {name!r}. To "
                "fix it: rename it"
            )

    def _named_twice(self, name: str) -> InputError:
        return InputError(
            f"{label(self.layer)}: expected different names for parameters, state and children, "
            f"got {name!r} for two of them. To fix it: rename one"
        )

    def _missing(self, what: str, name: str, there: dict[str, Any]) -> InputError:
        if what == "state" and not there:
            return InputError(
                f"{label(self.layer)}: expected its state, {name!r}, got none. To fix it: call "
                "net.apply(params, state, x) with the state that net.init returned, since "
                "net(params, x) is for networks without one"
            )
        return InputError(
            f"{label(self.layer)}: expected a {what} {name!r}, got {', '.join(there) or 'none'}. "
            "To fix it: give the parameters and state of this network, as net.init makes them"
        )

    def _unfit(self, what: str, name: str, old: Array, shape: tuple[int, ...]) -> str:
        shapes = ", ".join(_shown(a.shape) for a in tree.leaves(self._inputs) if _is_array(a))
        return (
            f"{label(self.layer)}: expected input that fits {what} {name!r} of shape "
            f"{tuple(old.shape)}, got input of shape {shapes}, which needs {tuple(shape)}. To fix "
            "it: give it data of the width it was made for, or make new parameters with init"
        )


_EMPTY: dict[str, Any] = {}


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape")


def _shown(shape: tuple[int, ...]) -> str:
    """(32, 64) as "(batch, 64)": the number of rows is no part of what fits."""
    return "(" + ", ".join(["batch", *map(str, shape[1:])]) + ")" if shape else "()"
