"""The common part of forward and reverse mode: following a call by its rule."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinynn import tree
from tinynn.rules.kinds import Composed, Rule, rule_of
from tinynn.trace import (
    Function,
    Namespace,
    Trace,
    Traced,
    constant,
    namespace,
)
from tinynn.trace.core import BASE
from tinynn.trace.scopes import Composite, scopes

#: One call, once it was carried out: (rule, function, space, values, slots, result, kwargs),
#: `values` being the arguments as they are below the trace, and `slots` the slots of those that
#: are of the trace, by position. A plain tuple, since every call makes one.
Entry = tuple[Rule, Function, Any, list[Any], dict[int, Any], Any, dict[str, Any]]

SEVERAL = (tuple, list)


class EscapedError(ValueError):
    """A value left the transformation it belongs to."""


class NotDifferentiableError(TypeError):
    """Something has no derivative: a function, an argument's data type, a result."""


class Transformation(Trace):
    """A trace that lasts as long as the function it transforms.

    Args:
        name: what the user asked for, as errors say it.
    """

    open = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def require_open(self, function: Function) -> None:
        """EscapedError if the function that this trace transforms has returned."""
        if not self.open:
            raise EscapedError(
                f"{function.name}: an array of a finished {self.name} was used: a value made "
                "inside the function was kept (in a list, a global, a closure) and used outside "
                "of it, where no derivative can reach it; return it from the function "
                "(has_aux=True), or keep stop_gradient(x)"
            )

    def captured_array_error(self, function: Function) -> ValueError:
        """For a function of the user's that closes over one of this trace's arrays."""
        return ValueError(
            f"{function.name}: inside {self.name} it closes over a traced array, which cannot be "
            "followed there. To fix it: pass the array as an argument"
        )

    def leave(self, leaf: Any) -> Any:
        """The value that the world outside this trace sees."""
        mine = type(leaf) is Traced and (leaf.trace is self or leaf.trace is BASE)
        return leaf.value if mine else leaf


class Derivative(Transformation):
    """A transformation that follows every call by the rule of its function."""

    def process(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.open:
            self.require_open(function)
        rule = function.rule or rule_of(function)
        space = function.space or function.space_of(args)
        if type(rule) is Composed:
            if scopes.recording is None:
                return rule.definition(space, *args, **kwargs)
            with scopes.inside(Composite(function.name, args, kwargs)):
                return rule.definition(space, *args, **kwargs)
        slots: dict[int, Any] = {}
        values, call = [*args], function.raw
        for i, a in enumerate(args):
            if type(a) is Traced:
                if a.trace is self:
                    slots[i] = a.slot
                elif a.trace is not BASE:
                    call = function
                    continue
                values[i] = a = a.value
                if type(a) is Traced:
                    call = function
        result = call(*values, **kwargs)
        if type(result) is Traced and result.trace is self:
            raise self.captured_array_error(function)
        several = isinstance(result, SEVERAL)
        moves = is_inexact(result, space) if several else space.kinds[result.dtype]
        if not moves or (rule is not None and rule.constant):
            return constant(result, space)
        if rule is None:
            raise NotDifferentiableError(
                f"{function.name}: {self.name} knows no derivative of it; write it with other "
                "functions of the standard, or use stop_gradient(x) if none is wanted"
            )
        entry = (rule, function, space, values, slots, result, kwargs)
        if several:
            return self.follow_several(result, space, entry)
        return self.follow(result, space, entry)

    @abstractmethod
    def follow(self, result: Any, space: Any, entry: Entry) -> Any:
        """The result of this call as Traced of this trace."""

    @abstractmethod
    def follow_several(self, results: Any, space: Any, entry: Entry) -> Any:
        """`follow` where a call has several results, some of which have a floating dtype."""

    def read(self, array: Traced, kind: type) -> Any:
        if kind in (float, complex):
            raise TypeError(
                f"{kind.__name__}(x) inside {self.name}: the number would have no derivative; keep "
                f"x as an array, or write {kind.__name__}(stop_gradient(x)) to look at its value"
            )
        return kind(array.value)


def is_inexact(result: Any, space: Any) -> Any:
    """True if any of it has a floating dtype, real or complex."""
    if isinstance(result, (tuple, list)):
        return any(is_inexact(item, space) for item in result)
    return space.kinds[result.dtype]


def is_traced(value: Any) -> bool:
    """True if it is, or holds, an array of a transformation."""
    return type(value) is Traced or (isinstance(value, tuple | list) and any(map(is_traced, value)))


def space_of_leaf(name: str, place: int, argument: Any, leaf: Any) -> Any:
    """The namespace of a leaf of an argument; NotDifferentiableError unless it can change."""
    if not hasattr(leaf, "dtype"):
        raise NotDifferentiableError(
            f"{name}: {_where(place, argument, leaf)}: expected a floating-point array, got "
            f"{type(leaf).__name__} {leaf!r}; place it on a device with "
            "backends.get(...).asarray(x), or leave it out of argnums"
        )
    space = Namespace(namespace(leaf))
    if not space.kinds[leaf.dtype]:
        raise NotDifferentiableError(
            f"{name}: {_where(place, argument, leaf)}: expected a floating-point array, got dtype "
            f"{leaf.dtype}; integers have no small changes: cast it, or leave it out of argnums"
        )
    return space


def _where(place: int, argument: Any, leaf: Any) -> str:
    path = next(path for path, other in tree.paths(argument) if other is leaf)
    return f"argument {place}" + (f", {path!r}" if path else "")


def applied(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`f(*args, **kwargs)` of the user's; a ufunc's error is told what to write instead.

    NumPy asks no more of what it must leave operators to, as `Traced` needs, than to refuse ufuncs.
    """
    try:
        return f(*args, **kwargs)
    except TypeError as error:
        if "__array_ufunc__" in str(error) and not hasattr(error, "__notes__"):
            error.add_note(
                "An array inside a transformation was given to a function of another namespace, "
                "such as np.tanh(x). To fix it: xp = x.__array_namespace__(), then xp.tanh(x)"
            )
        raise


def name_of(what: str, f: Callable[..., Any]) -> str:
    """The name of the transformation of this function in errors."""
    return f"{what} of {getattr(f, '__name__', 'a function')}"


def place_of(what: str, f: Callable[..., Any]) -> str:
    """The same with the line on which the function begins: "scan of step, net.py:12"."""
    code = getattr(f, "__code__", None)
    line = f", {Path(code.co_filename).name}:{code.co_firstlineno}" if code is not None else ""
    return name_of(what, f) + line
