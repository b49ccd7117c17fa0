"""The base of layers, losses and optimizers: frozen dataclasses of hyperparameters.

`to_config` turns one into what JSON holds, `from_config` builds it again, `label` shows it and
`require` checks a value. Nothing is imported by a name that came out of a file: `from_config` looks
names up only in the mapping it is given.
"""

import functools
import inspect
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Self

from backends import scoped

__all__ = [
    "Configured",
    "Each",
    "children",
    "found",
    "from_config",
    "is_off",
    "label",
    "require",
    "require_count",
    "to_config",
]


def label(value: Any) -> str:
    """The settings as a person would write them: defaults left out, functions by their name.

    >>> from tinynn.layers import Linear
    >>> label(Linear(features=32, bias=False))
    'Linear(32, bias=False)'
    """
    if isinstance(value, functools.partial):
        settings = [f"{name}={label(setting)}" for name, setting in value.keywords.items()]
        return f"{label(value.func)}({', '.join(settings)})"
    if isinstance(value, Configured):
        shows: Any = type(value).__repr__
        if shows is not label:  # a class may show itself in a way of its own
            return repr(value)
        if not is_dataclass(value):
            return f"{type(value).__name__}()"
    if _is_number(value):
        return repr(value.item() if hasattr(value, "item") else value)  # as Python writes it
    if not is_dataclass(value) or isinstance(value, type):
        return getattr(value, "__name__", None) or repr(value)
    shown: list[str] = []
    for field in fields(value):
        setting = getattr(value, field.name)
        if field.default is MISSING and field.default_factory is MISSING:
            shown += map(label, setting) if isinstance(setting, tuple) else [label(setting)]
        elif hasattr(setting, "dtype") and not _is_number(setting):  # of many, in their program
            shown.append(f"{field.name}=...")
        elif setting != field.default:
            shown.append(f"{field.name}={label(setting)}")
    return f"{type(value).__name__}({', '.join(shown)})"


def _is_number(value: Any) -> bool:
    """True for a real number or a truth value, Python's own or one of a dtype."""
    return isinstance(value, numbers.Real) or is_truth(value)


# The methods that compute, and that others call.
_COMPUTING = (
    *("__call__", "init", "update", "prepare", "check"),
    *("measure", "merge", "compute"),
)


class Configured:
    """A base of dataclasses: their repr is their `label`, and their arguments are checked.

    Operators of plain arrays, which their methods may use, work on the arrays' device.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in cls.__dict__:  # dataclass() would write one of its own
            cls.__repr__ = label  # type: ignore[method-assign]
        for name in _COMPUTING:
            if name in cls.__dict__:
                setattr(cls, name, scoped(cls.__dict__[name]))

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """A new object; TypeError, naming the arguments there are, for one that does not exist."""
        own = cls.__dict__
        annotated = "__annotations__" in own or own.get("__annotate_func__")  # from Python 3.14 on
        if annotated and "__dataclass_params__" not in own:
            raise TypeError(
                f"{cls.__name__}: expected a frozen dataclass, got a plain class. To fix it: put "
                "@dataclass(frozen=True) above the class"
            )
        if is_dataclass(cls) and cls.__dataclass_params__.init:
            _check_arguments(cls, args, kwargs)
        return super().__new__(cls)


def _check_arguments(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    known = {field.name: field for field in fields(cls) if field.init}
    positional = [name for name, field in known.items() if not field.kw_only]
    if len(args) > len(positional):
        others = [name for name in known if name not in positional]
        shown = f" ({', '.join(positional)})" if positional else ""
        rest = ", ".join(f"{name}=" for name in others) or "no more"
        count = f"{len(positional) or 'no'} argument{'s' * (len(positional) != 1)}"
        raise TypeError(
            f"{cls.__name__}: expected {count} by position{shown}, got "
            f"{len(args)}. To fix it: give {rest} by keyword"
        )
    for name in kwargs:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise TypeError(
                f"{cls.__name__}: expected arguments from {', '.join(known) or 'none'}, got "
                f"{name!r}. To fix it: "
                + (f"write {near[0]}=" if near else "leave it out, or use one of these")
            )
    for name, value in (*zip(positional, args, strict=False), *kwargs.items()):
        if value is not known[name].default:  # which may be None, of a function that is left out
            _check_kind(f"{cls.__name__}: expected {name}", known[name].type, value)


def _check_kind(expected: str, kind: Any, value: Any) -> None:
    """ValueError for a value that its field's annotation, or the text of it, does not allow."""
    if kind in (bool, "bool") and not is_truth(value):
        raise ValueError(
            f"{expected} to be True or False, got {value!r}. To fix it: write one of them"
        )
    text = kind if isinstance(kind, str) else ""
    function = kind is Callable or getattr(kind, "__origin__", None) is Callable
    function = function or (text.startswith("Callable") and "|" not in text)
    if function and (isinstance(value, type) or not callable(value)):
        fix = f"write {value.__name__}(...)" if isinstance(value, type) else "give one"
        raise ValueError(f"{expected} to be a function, got {value!r}. To fix it: {fix}")


def is_truth(value: Any) -> bool:
    """True for a truth value, Python's own or one of a dtype."""
    has_dtype = getattr(value, "shape", None) == () and str(getattr(value, "dtype", "")) == "bool"
    return isinstance(value, bool) or has_dtype


class Each(tuple[float, ...]):
    """A number that is not the same for all of many networks: one for each of them.

    A setting that is a number holds one where it was given a list or a vector of numbers:
    `tinynn.fit_many` trains a network with each.

    >>> from tinynn.optim import Adam
    >>> Adam(learning_rate=[0.1, 0.01]).learning_rate
    (0.1, 0.01)
    """

    __slots__ = ()

    @classmethod
    def of(cls, value: Any) -> "Each | None":
        """The numbers of a list or vector of them; None for anything else."""
        listed = isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1
        if not listed or not len(value):
            return None
        if not isinstance(value, list | tuple):
            value = [float(value[i]) for i in range(len(value))]
        numeric = all(isinstance(n, numbers.Real) and not isinstance(n, bool) for n in value)
        return cls(map(float, value)) if numeric else None


def found(value: Any, path: str) -> Iterator[tuple[str, Each]]:
    """The numbers of many networks in an object, each with its path, which begins with this one."""
    if isinstance(value, Each):
        yield path, value
    else:
        for name, child in children(value):
            yield from found(child, f"{path}.{name}" if path else name)


def children(value: Any) -> list[tuple[str, Any]]:
    """What a setting is made of, by its names or places; nothing for what has no parts."""
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, tuple | list):
        return [(str(place), child) for place, child in enumerate(value)]
    return [(str(key), child) for key, child in value.items()] if isinstance(value, dict) else []


def is_off(value: Any) -> bool:
    """True for a number that is 0, which a part may be left out for; numbers of many never are."""
    return isinstance(value, int | float) and value == 0.0


def require(owner: Any, name: str, holds: Callable[[Any], bool], expected: str) -> None:
    """ValueError, naming the owner, its setting and what was expected, unless `holds(setting)`.

    A setting that is a float may be one for each of many networks: see `Each`.
    """
    setting = getattr(owner, name)
    field = getattr(owner, "__dataclass_fields__", {}).get(name)
    kind = None if field is None else field.type
    each = Each.of(setting) if kind in (float, "float") else None
    if each is None:
        real = isinstance(setting, numbers.Real) and not isinstance(setting, bool)
        fits = real or kind not in (int, "int", float, "float")
        _require(owner, name, setting, holds if fits else lambda _: False, expected)
        return
    for number in each:
        _require(owner, name, number, holds, f"{expected}, or as many as networks")
    object.__setattr__(owner, name, each)


def _require(
    owner: Any, name: str, setting: Any, holds: Callable[[Any], bool], expected: str
) -> None:
    try:
        if holds(setting):
            return
    except (TypeError, AttributeError):  # not even comparable with a number
        pass
    raise ValueError(f"{type(owner).__name__}: expected {name} to be {expected}, got {setting!r}")


def require_count(owner: Any, name: str) -> None:
    """ValueError unless the value is a whole number of one or more."""
    whole = isinstance(getattr(owner, name), numbers.Integral)
    holds = lambda n: whole and not isinstance(n, bool) and n > 0  # noqa: E731
    require(owner, name, holds, "a whole number of 1 or more")


def to_config(value: Any, known: Mapping[str, Any]) -> Any:
    """The value in what JSON can hold: the reverse of `from_config`.

    value: a dataclass, function, `functools.partial` with keywords, number, string, None, or a
        list or tuple of these.
    known: name -> class or function; the names `from_config` will find by itself. Other classes and
        functions are described by their own name, and `from_config` must be given them.

    Raises ValueError for what cannot be found again: a lambda, or something of the user's that
    bears the name of another thing in `known`.

    >>> from tinynn.layers import Linear
    >>> to_config([Linear(2, weight_init=max), None], {"Linear": Linear})[0]["weight_init"]
    {'function': 'max'}
    """
    if value is None or isinstance(value, str):
        return value
    if is_truth(value):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [to_config(entry, known) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        settings = {f.name: to_config(getattr(value, f.name), known) for f in fields(value)}
        return {"class": _name(type(value), known), **settings}
    if isinstance(value, functools.partial) and not value.args:
        settings = {name: to_config(entry, known) for name, entry in value.keywords.items()}
        return {"function": _name(value.func, known), **settings}
    if callable(value):
        return {"function": _name(value, known)}
    raise ValueError(
        f"{label(value)} ({type(value).__name__}) cannot be written down: expected a dataclass, "
        "a function, a number, a string, None or a tuple of these"
    )


def _name(value: Any, known: Mapping[str, Any]) -> str:
    name = getattr(value, "__name__", "")
    if not name.isidentifier():
        raise ValueError(
            f"{value!r} cannot be written down: it has no name to be found again by; "
            "define it with `def`, or put it in a layer Lambda(function, name=...), and pass it by "
            "that name in custom= when reading"
        )
    if known.get(name, value) is not value:
        raise ValueError(
            f"{value!r} cannot be written down: {name!r} would be read back as {known[name]!r}; "
            "use that one, or give yours another name"
        )
    return str(name)


def from_config(description: Any, known: Mapping[str, Any]) -> Any:
    """Build what `to_config` described; lists come back as tuples.

    Raises ValueError for a name that is not in `known` and for settings that do not fit.

    >>> from tinynn.layers import Linear
    >>> from_config({"class": "Linear", "features": 3}, {"Linear": Linear}) == Linear(3)
    True
    """
    if isinstance(description, list):
        return tuple(from_config(entry, known) for entry in description)
    if not isinstance(description, dict):
        return description
    settings = dict(description)
    kind = "class" if "class" in settings else "function"
    name = settings.pop(kind, None)
    made = known.get(name) if isinstance(name, str) else None
    if made is None or (kind == "class") is not (isinstance(made, type) and is_dataclass(made)):
        raise ValueError(
            f"no {kind} is known as {name!r}; known are {', '.join(sorted(known))}; "
            f"pass your own as custom={{{str(name)!r}: ...}}"
        )
    settings = {key: from_config(entry, known) for key, entry in settings.items()}
    if kind == "function":
        return functools.partial(made, **settings) if settings else made
    try:
        spread = [  # Sequential(*layers) takes its field as positional arguments
            entry
            for parameter in inspect.signature(made).parameters.values()
            if parameter.kind is parameter.VAR_POSITIONAL
            for entry in settings.pop(parameter.name)
        ]
        return made(*spread, **settings)
    except (TypeError, KeyError) as error:
        raise ValueError(f"the settings written down for {name} do not fit it: {error}") from error
