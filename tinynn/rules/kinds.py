"""The kinds of rule: what one row of the table says, and what follows from it.

Every kind answers two questions about `y = f(*args, **kwargs)`: which cotangents of some `args`
does a cotangent `g` of `y` give (`vjps`), and which tangent of `y` do tangents of `args` give
(`jvp`). Broadcasting is undone, and data types are put right, by the transformation, never here.
In every row, `g` stands for the cotangent or tangent, and `xp` is the namespace of all
the arrays: the library's own, unless one of them is of a transformation.

Cotangents are gathered in plain loops: until Python 3.12 a comprehension is a call of its own.
"""
# ruff: noqa: PERF401

from collections.abc import Callable
from typing import Any

#: Tangents of some of the arguments, by position.
Tangents = dict[int, Any]

#: The rule of each function: by its name in the standard, or for other functions by itself.
RULES: dict[Any, "Rule"] = {}


class Rule:
    """The derivatives of a function, forward and in reverse.

    Attributes:
        takes_none: whether `vjps` takes None, and not zeros, for those of several results that no
            cotangent reached.
        constant: whether no derivative flows: it is zero wherever there is one.
        scalar: `scalar(xp, *args)`, what a function of the elements is of single numbers, in other
            functions of the standard.
        definition: `definition(xp, *args, **kwargs)`, the same in other functions, for targets that
            have no words for this one.
    """

    takes_none = constant = False
    scalar: "Callable[..., Any] | None" = None
    definition: "Callable[..., Any] | None" = None

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        """The cotangents of `args[i]`, for each i of `positions`, from the cotangent `g` of `y`."""
        raise NotImplementedError

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        """The tangent of `y` from the tangents of some arguments."""
        raise NotImplementedError


class Elementwise(Rule):
    """A function of the elements in one place: the row that every target reads.

    It is batched, its arguments broadcast, and its result may be written over one of them. What
    else there is to say stands here.

    Args:
        partials: `partials[i](xp, g, y, *args)` is `g` times the partial derivative by `args[i]`.
            One product serves both directions, since the Jacobian is diagonal. None at all: no
            derivative flows.
        c: the function of C's library that it is, of floats: loops call that, in every target.
        scalar: the same in other functions of the standard: loops compute these, and where a
            library has no form of its own, programs call them. `xp` is their namespace, for arrays
            or for single numbers.
    """

    def __init__(
        self,
        *partials: Callable[..., Any] | None,
        c: str = "",
        scalar: Callable[..., Any] | None = None,
    ) -> None:
        self.partials: tuple[Any, ...] = partials
        self.constant, self.c, self.scalar = not partials, c, scalar

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        shares = []
        for i in positions:
            shares.append(self.partials[i](xp, g, y, *args))
        return shares

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        return total(xp, [self.partials[i](xp, t, y, *args) for i, t in tangents.items()])


class Linear(Rule):
    """`transpose(xp, g, i, args, **kwargs)` is the transpose in `args[i]`, applied to `g`.

    `f` is linear in its arrays `operands` together (all of them, unless said), as `concat` is.
    """

    def __init__(self, transpose: Callable[..., Any], operands: slice = slice(None)) -> None:
        self.transpose, self.operands = transpose, operands

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        shares = []
        for i in positions:
            shares.append(self.transpose(xp, g, i, args, **kwargs))
        return shares

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        moved = list(args)
        for i in range(len(args))[self.operands]:
            moved[i] = tangents[i] if i in tangents else xp.zeros_like(args[i])
        return f(*moved, **kwargs)


class Bilinear(Rule):
    """Linear in each of two arrays: `transposes[i](xp, g, *args, **kwargs)`."""

    def __init__(self, *transposes: Callable[..., Any]) -> None:
        self.transposes = transposes

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        shares = []
        for i in positions:
            shares.append(self.transposes[i](xp, g, *args, **kwargs))
        return shares

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        moved = [(*args[:i], t, *args[i + 1 :]) for i, t in tangents.items()]
        return total(xp, [f(*each, **kwargs) for each in moved])


class Reduction(Rule):
    """`weight(xp, y, x, axis)`: the derivative of `y` by each element of `x`, `y` kept in shape.

    The cotangent is the weight times `g`; the tangent is the sum over the reduced axes of the
    weight times the tangent of `x`.
    """

    def __init__(self, weight: Callable[..., Any]) -> None:
        self.weight = weight

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        x, axis, keepdims = args[0], kwargs.get("axis"), kwargs.get("keepdims", False)
        g = keep_axes(xp, g, x, axis, keepdims)
        return [g * self.weight(xp, keep_axes(xp, y, x, axis, keepdims), x, axis)]

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        x, axis, keepdims = args[0], kwargs.get("axis"), kwargs.get("keepdims", False)
        weight = self.weight(xp, keep_axes(xp, y, x, axis, keepdims), x, axis)
        return xp.sum(weight * tangents[0], axis=axis, keepdims=keepdims)


class ByHand(Rule):
    """Both directions written out.

    `vjp(i, xp, g, y, args, **kwargs)` and `jvp(xp, tangents, y, args, **kwargs)`. Where the
    function has several results, `y` is the tuple of them, `g` a list with zeros where no
    cotangent came, and `jvp` gives a list.
    """

    def __init__(self, vjp: Callable[..., Any], jvp: Callable[..., Any]) -> None:
        self.pull, self.push = vjp, jvp

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        return [self.pull(i, xp, g, y, args, **kwargs) for i in positions]

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        return self.push(xp, tangents, y, args, **kwargs)


class Composed(Rule):
    """`definition(xp, *args, **kwargs)` in other functions, whose rules are used instead.

    With `scalar` it is a function of the elements.
    """

    definition: Callable[..., Any]

    def __init__(
        self, definition: Callable[..., Any], scalar: Callable[..., Any] | None = None
    ) -> None:
        self.definition, self.scalar = definition, scalar


class Constant(Rule):
    """No derivative flows."""

    constant = True


CONSTANT = Constant()

#: The functions of C's library that a row may name, with the number of their arguments. Every
#: compiled target has them.
C_FUNCTIONS = {
    **dict.fromkeys(
        """acos acosh asin asinh atan atanh cbrt cos cosh erf erfc exp exp2 expm1 lgamma log log10
        log1p log2 sin sinh tan tanh tgamma""".split(),
        1,
    ),
    **dict.fromkeys("atan2 fdim fmod hypot".split(), 2),
}


def rule_of(function: Any) -> "Rule | None":
    """The rule of a function: looked up once, and kept with it."""
    rule: Rule | None = function.rule
    if rule is None:
        rule = function.rule = RULES.get(function.key)
    return rule


def total(xp: Any, terms: list[Any]) -> Any:
    """The sum of one or more arrays."""
    out = terms[0]
    for term in terms[1:]:
        out = xp.add(out, term)
    return out


def axes_of(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """The axes, none of them negative, that `axis` names."""
    if axis is None or not ndim:  # some libraries take an axis of a 0-d array
        return tuple(range(ndim))
    return tuple(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def keep_axes(xp: Any, y: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    """`y`, a reduction of `x` over `axis`, in a shape that broadcasts to that of `x`."""
    if keepdims or axis is None or not x.ndim:
        return y
    gone = axes_of(axis, x.ndim)
    return xp.reshape(y, tuple(1 if a in gone else n for a, n in enumerate(x.shape)))
