"""Traced, the array; Trace, what is done with it; Function, the one place where calls meet."""

from collections.abc import Callable
from itertools import count
from typing import Any

_levels = count()


class Trace:
    """One transformation at work: it decides what a call on its arrays means.

    `level` orders nested transformations: a call is handled by the newest trace among its
    arrays, whose own calls on the values inside then reach the trace below. No two traces share
    a level, so the perturbations of one are never taken for another's.

    This base class is the transformation that changes nothing.
    """

    def __init__(self) -> None:
        self.level = next(_levels)

    def process(self, function: "Function", args: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        """The result of `function(*args, **settings)`, at least one of `args` being of this trace.

        Args:
            function: what is called; calling it on values of lower levels reaches the trace below.
            args: arrays, Python scalars or None, by position.
            settings: everything else, by keyword.
        """
        return constant(function(*map(plain, args), **settings), function.space_of(args))

    def shape(self, array: "Traced") -> tuple[int, ...]:
        """The shape that the user of this array sees."""
        return array.value.shape

    def read(self, array: "Traced", kind: type) -> Any:
        """A Python scalar of this type, for `bool(x)`, `int(x)`, `float(x)` and `complex(x)`."""
        return kind(array.value)


class Traced:
    """An array of the standard around a value, which is an array or another Traced.

    Every operator, method and namespace function on it ends in `Trace.process`.
    """

    __slots__ = ("slot", "space", "trace", "value")
    __array_ufunc__ = None  # NumPy's operators hand over to ours
    __array_priority__ = 1000  # and so do those of the libraries that follow it

    def __init__(self, value: Any, trace: Trace, slot: Any, space: Any) -> None:
        self.value = value
        self.trace = trace
        self.slot = slot
        self.space = space

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
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
        return self.space.matrix_transpose(self)

    def __getitem__(self, key: Any) -> Any:
        arrays: list[Any] = []
        template = _take_out(key, arrays)
        return getitem(self, *arrays, key=template)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            "x[...] = value: an array inside a transformation cannot be changed in place, since "
            "what was computed from it would no longer follow from it; write a new array, for "
            "instance x = xp.where(mask, value, x) or xp.concat([x[:i], value, x[i + 1:]])"
        )

    def to_device(self, device: Any, /, **options: Any) -> Any:
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

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "an array inside a transformation was handed to a library that does not know it "
            "(it was asked for as a plain host array), so its derivative would be lost; call "
            "the functions of x.__array_namespace__() instead, or stop_gradient(x) outside the "
            "transformation"
        )

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self.trace is not BASE:
            return self.__array__()
        return self.value.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return bottom(self).__dlpack_device__()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len(x): x has no axes")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self.trace).__name__.lower()}[{self.trace.level}]({self.value!r})"

    __hash__ = None  # type: ignore[assignment]  # == is element by element


class Function:
    """A function of arrays that traces see as one step.

    Args:
        name: the standard's name of it, or the user's own.
        raw: what it does to plain arrays: positional arrays, keyword settings.
        space: the namespace whose function it is; None: that of the arrays it is given.
        arrays, settings: names of its array arguments, and of the settings that may follow them
            by position. `arrays` None: every positional argument is an array; a name in brackets:
            one sequence of arrays.
    """

    def __init__(
        self,
        name: str,
        raw: Callable[..., Any],
        space: Any = None,
        arrays: tuple[str, ...] | None = None,
        settings: tuple[str, ...] = (),
    ) -> None:
        self.name, self.raw, self.space = name, raw, space
        self.arrays, self.settings = arrays, settings
        self.count = None if arrays is None else -1 if arrays[0][0] == "[" else len(arrays)
        self.__doc__ = getattr(raw, "__doc__", None)

    def __call__(self, *args: Any, **settings: Any) -> Any:
        if self.count is not None and len(args) != self.count:
            args, settings = self._bind(args, settings)
        trace = None
        for a in args:
            if type(a) is Traced and (trace is None or a.trace.level > trace.level):
                trace = a.trace
        if trace is None:
            return self.raw(*args, **settings)
        return trace.process(self, args, settings)

    @property
    def key(self) -> Any:
        """What its rule is filed under: the name of one of the standard's, any other itself."""
        return self.name if self.space else self

    def space_of(self, args: tuple[Any, ...]) -> Any:
        """The namespace in which this call happens."""
        return self.space or next(a.space for a in args if type(a) is Traced)

    def _bind(
        self, args: tuple[Any, ...], settings: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arrays by position and settings by keyword, however the caller wrote them."""
        assert self.arrays is not None
        if self.count == -1:
            return tuple(args[0]) if isinstance(args[0], list | tuple) else args, settings
        names = self.arrays + self.settings
        if len(args) > len(names):
            raise TypeError(
                f"{self.name}: expected ({', '.join(names)}) by position, got {len(args)} arguments"
            )
        given = dict(zip(names, args, strict=False)) | settings
        arrays = [given.pop(name, None) for name in self.arrays]
        if len(self.arrays) == 2 and arrays[1] is None:
            raise TypeError(f"{self.name}: the argument {self.arrays[1]!r} is missing")
        return tuple(arrays), given

    def __repr__(self) -> str:
        return f"<function {self.name}{f' of {self.space.__name__}' if self.space else ''}>"


def plain(value: Any) -> Any:
    """The value without the wrapper that changes nothing."""
    return value.value if type(value) is Traced and value.trace is BASE else value


def bottom(value: Any) -> Any:
    """The library's array under every wrapper."""
    while type(value) is Traced:
        value = value.value
    return value


def constant(value: Any, space: Any) -> Any:
    """An array, or a tuple of them, as Traced that no transformation follows."""
    if type(value) is Traced:
        return value
    if isinstance(value, tuple | list):
        items = [constant(item, space) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return Traced(value, BASE, None, space) if hasattr(value, "dtype") else value


BASE = Trace()


class _Hole:
    """Where an array stood in an index."""

    def __repr__(self) -> str:
        return "[array]"


_HOLE = _Hole()


def _take_out(key: Any, arrays: list[Any]) -> Any:
    """The index with its arrays taken out: arrays are positional in every call."""
    if isinstance(key, tuple):
        return tuple(_take_out(item, arrays) for item in key)
    if hasattr(key, "shape") and hasattr(key, "dtype"):
        arrays.append(key)
        return _HOLE
    return key


def put_back(key: Any, arrays: Any) -> Any:
    """The index with these arrays in its holes, in order."""
    supply = iter(arrays)
    if isinstance(key, tuple):
        return tuple(next(supply) if item is _HOLE else item for item in key)
    return next(supply) if key is _HOLE else key


getitem = Function("getitem", lambda x, *arrays, key: x[put_back(key, arrays)])
to_device = Function(
    "to_device",
    lambda x, *, device, **options: x.to_device(device, **options),
)
