"""Traced, the array; Trace, what is done with it; Function, the one place where calls meet."""

from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from itertools import count
from typing import Any

import backends
from backends import scoped
from tinynn.trace.operators import Operators
from tinynn.trace.scopes import scopes
from tinynn.trace.standard import Call

_levels = count()


class Trace:
    """One application of a transformation: it decides what a call on its arrays does.

    `level` orders nested transformations: a call is handled by the newest trace among its
    arrays, whose own calls on the values inside then reach the trace below. No two traces share
    a level, so the perturbations of one are never taken for another's.

    This base class is the transformation that changes nothing.

    Attributes:
        pulls: whether cotangents will be pulled back through what its arrays take part in.
        batches: whether the value of an array has one more axis in front than its user sees.
        hides: whether a program must not branch on the values of its arrays.
    """

    pulls = batches = hides = False

    def __init__(self) -> None:
        self.level = next(_levels)

    def process(self, function: "Function", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of `function(*args, **kwargs)`, at least one of `args` being of this trace.

        Args:
            function: what is called; calling it on values of lower levels reaches the trace below.
            args: arrays, Python scalars or None, by position.
            kwargs: everything else, by keyword.
        """
        return constant(function(*map(plain, args), **kwargs), function.space_of(args))

    def shape(self, array: "Traced") -> tuple[int, ...]:
        """The shape that the user of this array sees."""
        return array.value.shape

    def read(self, array: "Traced", kind: type) -> Any:
        """A Python scalar of this type, for `bool(x)`, `int(x)`, `float(x)` and `complex(x)`."""
        return kind(array.value)


class Traced(Operators):
    """An array of the standard around a value, which is an array or another Traced.

    Every operator, method and namespace function on it ends in `Trace.process`.

    Parameters
    ----------
    value
        An array, or another Traced.
    trace
        The application of a transformation that follows it.
    slot
        What that transformation knows of it.
    space
        The `Namespace` whose functions take it.
    """

    __slots__ = ("slot", "space", "trace", "value")
    __array_ufunc__ = None  # NumPy's operators hand over to ours
    __array_priority__ = 1000  # and so do those of the libraries that follow it

    def __init__(self, value: Any, trace: Trace, slot: Any, space: Any) -> None:
        self.value = value
        self.trace = trace
        self.slot = slot
        self.space = space

    def __getattr__(self, name: str) -> Any:
        # Called for missing attributes: NumPy's methods, most often.
        raise AttributeError(
            f"an array inside a transformation has no attribute {name!r}: arrays of the standard "
            f"have few methods; write xp.{name}(x, ...), with xp = x.__array_namespace__(), if the "
            "standard has that function"
        )

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        return self.space

    @property
    def shape(self) -> tuple[int, ...]:
        return self.trace.shape(self)

    @property
    def ndim(self) -> int:
        return len(self.trace.shape(self))

    @property
    def size(self) -> int:
        size = 1
        for length in self.trace.shape(self):
            size *= length
        return size

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    @property
    def device(self) -> Any:
        return self.space.device_of(bottom(self))

    @property
    def T(self) -> Any:
        if self.ndim != 2:
            raise ValueError(
                f"x.T: expected a matrix, got shape {self.shape}; write xp.permute_dims(x, axes), "
                "or x.mT to transpose the last two axes"
            )
        return self.space.permute_dims(self, (1, 0))

    @property
    def mT(self) -> Any:
        if self.ndim < 2:
            raise ValueError(f"x.mT: expected a matrix or a stack of them, got shape {self.shape}")
        return self.space.matrix_transpose(self)

    def __getitem__(self, key: Any, /) -> Any:
        arrays: list[Any] = []
        template = _take_out(key, arrays)
        return getitem(self, *arrays, key=template)

    def __setitem__(self, key: Any, value: Any, /) -> None:
        arrays: list[Any] = []
        template = _take_out(key, arrays)
        if any(type(a) is Traced and a.trace is not BASE for a in (self, value, *arrays)):
            raise TypeError(
                "x[...] = value: arrays inside a transformation cannot be changed in place, since "
                "what was computed from them would no longer follow from them; write a new array, "
                "for instance x = xp.where(mask, value, x) or xp.concat([x[:i], value, x[i + 1:]])"
            )
        # A tape may hold the old value, so this array gets a new one.
        changed = self.space.xp.asarray(self.value, copy=True)
        _assigned(changed, put_back(template, map(plain, arrays)), plain(value))
        self.value = changed

    def __iter__(self) -> Iterator[Any]:
        return (self[i, ...] for i in range(len(self)))

    def to_device(self, device: Any, /, *, stream: Any = None) -> Any:
        options = {} if stream is None else {"stream": stream}
        return to_device(self, device=device, **options)

    def __bool__(self) -> bool:
        return bool(self.trace.read(self, bool))

    def __int__(self) -> int:
        return int(self.trace.read(self, int))

    def __index__(self) -> int:
        return int(self.trace.read(self, int))

    def __float__(self) -> float:
        return float(self.trace.read(self, float))

    def __complex__(self) -> complex:
        return complex(self.trace.read(self, complex))

    def _exported(self) -> Any:
        """The value, for a library that does not know this array."""
        if self.trace is not BASE:
            raise TypeError(
                "an array inside a transformation was handed to a library that does not know it "
                "(it was asked for as a plain host array), so its derivative would be lost; call "
                "the functions of x.__array_namespace__() instead, or stop_gradient(x) outside the "
                "transformation"
            )
        return self.value

    def __array__(self, *args: Any, **options: Any) -> Any:
        return self._exported().__array__(*args, **options)

    def __dlpack__(
        self,
        /,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        options = {"max_version": max_version, "dl_device": dl_device, "copy": copy}
        given = {name: option for name, option in options.items() if option is not None}
        return self._exported().__dlpack__(stream=stream, **given)

    def __dlpack_device__(self) -> Any:
        return bottom(self).__dlpack_device__()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len(x): x has no axes")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self.trace).__name__.lower()}[{self.trace.level}]({self.value!r})"


class Effect(StrEnum):
    """The effect of a function, besides its result."""

    NONE = "none"
    READS = "reads"  # something that may be another the next time: a clock, a file
    WRITES = "writes"  # something outside: a file, a counter. Never its arguments
    COMMUNICATES = "communicates"  # with other processes, which have to do the same


class Function:
    """A function of arrays that traces see as one step.

    Parameters
    ----------
    name
        The standard's name of it, or the user's own.
    raw
        What it does to plain arrays: positional arrays, keyword kwargs. The attribute `body` is
        this; the attribute `raw` is what to call with plain arrays, which is the same unless calls
        have to be recorded for their effect.
    space
        The namespace whose function it is; None: that of the arrays it is given.
    call
        How it is called. None: all that is given by position is arrays.
    effect
        What it does besides its result. A call with an effect is recorded even if none of its
        arguments is of the recording, and no pass removes, repeats, merges or moves it across
        another one. It must not keep or change its arguments.
    """

    #: What a recording calls in its place: it gives results of the same shapes and dtypes, sooner.
    example: Callable[..., Any] | None = None
    #: The same in other functions, if it is made of them: recordings hold their calls.
    definition: Callable[..., Any] | None = None
    #: Whether tables may list it by its name, although it is neither the standard's nor tinynn's.
    listed = False
    #: The name that graphs know it by: made on first use.
    title = ""
    #: Of a pullback that computes its function again: that one, one that gives with its result what
    #: the pullback needs, and the pullback that takes this last. `Lowering.keeps` says where.
    kept: "tuple[Function, Function, Function] | None" = None
    #: Its rule: cached from the table of rules on first use, or set for a user's own function.
    rule: Any = None

    def __init__(
        self,
        name: str,
        raw: Callable[..., Any],
        space: Any = None,
        call: Call | None = None,
        effect: Effect | str = Effect.NONE,
    ) -> None:
        self.name, self.space, self.call = name, space, call
        self.body, self.effect = raw, Effect(effect)
        self.raw = raw if self.effect is Effect.NONE else partial(_with_effect, self)
        # So many arguments by position are its arrays, all of them; -1: that takes a closer look.
        self.count: int | None = None
        if call and not call.variadic:
            self.count = -1 if call.sequence or call.keyed else len(call.arrays)
        self.__name__ = name
        self.__doc__ = getattr(raw, "__doc__", None)
        if call:
            self.__signature__ = call.signature
        else:
            self.__wrapped__ = raw

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) != self.count and self.count is not None:
            args, kwargs = self._bound(args, kwargs)
        trace = None
        for a in args:
            if type(a) is Traced:
                other = a.trace
                if trace is None or other.level > trace.level:
                    trace = other
        if trace is None:
            return self.raw(*args, **kwargs)
        return trace.process(self, args, kwargs)

    @property
    def key(self) -> Any:
        """The key of its rule: the name of a standard function, or else the function itself."""
        return self.name if self.space else self

    def space_of(self, args: tuple[Any, ...]) -> Any:
        """The namespace in which this call happens."""
        if self.space is not None:
            return self.space
        for a in args:
            if type(a) is Traced:
                return a.space
        raise TypeError(f"{self.name}: none of its arguments is an array of a transformation")

    def _bound(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arrays by position and kwargs by keyword, however the caller wrote them."""
        call = self.call
        assert call is not None
        if call.sequence:
            if len(args) == 1 and isinstance(args[0], list | tuple):
                args = tuple(args[0])
            return args, kwargs
        count, spare = len(call.arrays), args[len(call.arrays) :]
        if spare and len(spare) <= len(call.kwargs):
            return args[:count], dict(zip(call.kwargs, spare, strict=False), **kwargs)
        if spare and not (len(spare) == len(call.keyed) and all(map(_array_or_none, spare))):
            raise TypeError(
                f"{self.name}{call.signature}: got {len(args)} arguments by position, expected "
                f"{count + len(call.kwargs)} at most"
            )
        given = dict(zip(call.arrays + call.keyed, args, strict=False)) | kwargs
        arrays = [given.pop(name, None) for name in call.arrays]
        for name, array in zip(call.arrays[: call.required], arrays, strict=False):
            if array is None:
                raise TypeError(f"{self.name}{call.signature}: the argument {name!r} is missing")
        if any(hasattr(given.get(name), "dtype") for name in call.keyed):
            arrays += [given.pop(name, None) for name in call.keyed]
        return tuple(arrays), given

    def __repr__(self) -> str:
        return f"<function {self.name}{f' of {self.space.__name__}' if self.space else ''}>"


def _with_effect(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call a function with an effect on plain arrays, through the open recording if any."""
    if scopes.recording is None:
        return function.body(*args, **kwargs)
    return scopes.recording.process(function, args, kwargs)


def _array_or_none(value: Any) -> bool:
    return value is None or hasattr(value, "dtype")


def plain(value: Any) -> Any:
    """The value without the wrapper that changes nothing.

    Parameters
    ----------
    value
        Anything.
    """
    return value.value if type(value) is Traced and value.trace is BASE else value


def bottom(value: Any) -> Any:
    """The library's array under every wrapper.

    Parameters
    ----------
    value
        Anything.
    """
    while type(value) is Traced:
        value = value.value
    return value


def example(value: Any) -> Any:
    """A plain array like this one, as its user sees it: the first entry of every batch.

    Parameters
    ----------
    value
        An array, wrapped or not.
    """
    entries = 0
    while type(value) is Traced:
        entries += value.trace.batches
        value = value.value
    if not entries:
        return value
    if 0 in value.shape[:entries]:
        xp, device = backends.of(value).xp, backends.of(value).device
        return xp.zeros(value.shape[entries:], dtype=value.dtype, device=device)
    return value[(*(0,) * entries, ...)]


def is_readable(value: Any) -> bool:
    """True if a program may branch on this array: its value is known, and one for all.

    Parameters
    ----------
    value
        An array, wrapped or not.
    """
    while type(value) is Traced:
        if value.trace.hides:
            return False
        value = value.value
    return backends.of(value).is_concrete(value)


def constant(value: Any, space: Any) -> Any:
    """An array, or a tuple of them, as Traced that no transformation follows.

    Parameters
    ----------
    value
        An array, a tuple or list of them, or anything else, which stays as it is.
    space
        The `Namespace` that the Traced are of.
    """
    if type(value) is Traced:
        return value
    if isinstance(value, tuple | list):
        return regrouped(value, [constant(item, space) for item in value])
    return Traced(value, BASE, None, space) if hasattr(value, "dtype") else value


def regrouped(results: Any, items: list[Any]) -> Any:
    """The items in a tuple, named tuple or list like `results`.

    Parameters
    ----------
    results
        A tuple, named tuple or list.
    items
        As many as it has.
    """
    kind = type(results)
    return kind(*items) if hasattr(results, "_fields") else kind(items)


BASE = Trace()


class _Hole:
    """The place of an array in an index."""

    def __repr__(self) -> str:
        return "[array]"


HOLE = _Hole()


def _take_out(key: Any, arrays: list[Any]) -> Any:
    """The index with its arrays taken out: arrays are positional in every call."""
    if isinstance(key, tuple):
        return tuple(_take_out(item, arrays) for item in key)
    if hasattr(key, "shape") and hasattr(key, "dtype"):
        arrays.append(key)
        return HOLE
    return key


def put_back(key: Any, arrays: Any) -> Any:
    """The index with these arrays in its holes, in order."""
    supply = iter(arrays)
    if isinstance(key, tuple):
        return tuple(next(supply) if item is HOLE else item for item in key)
    return next(supply) if key is HOLE else key


def _to_device(x: Any, *, device: Any, **options: Any) -> Any:
    import array_api_compat  # not every library's arrays have the method

    return array_api_compat.to_device(x, device, **options)


def _assign(array: Any, key: Any, value: Any) -> None:
    array[key] = value


getitem = Function("getitem", scoped(lambda x, *arrays, key: x[put_back(key, arrays)]))
_assigned = scoped(_assign)
to_device = Function("to_device", _to_device)
