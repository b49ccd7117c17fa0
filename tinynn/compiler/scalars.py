"""What the functions of the standard are for single numbers, as text: the rows of the loops."""

import math
from typing import Any, NamedTuple

from tinynn.compiler.rewrite import CannotEmit
from tinynn.compiler.words import Names
from tinynn.transforms.graph import Node


def cannot(node: Node, why: str = "") -> CannotEmit:
    """The error that names the function."""
    at = f" at {node.origin}" if str(node.origin) else ""
    shapes = ", ".join(str(getattr(a, "shape", a)) for a in node.args)
    return CannotEmit(f"{node.name}({shapes}){at} cannot be written as loops{why}")


class Scalar(NamedTuple):
    """An elementwise function of numbers.

    Attributes:
        text: {0}, {1} are the arguments, {t} is the name of the dtype that they get first.
        cast: whether the text may give more bits of an integer than the result has.
    """

    text: str
    cast: bool = False


def _rows() -> dict[str, Scalar]:
    rows = {
        # In integers Python's arithmetic gives 64 bits, of which the result keeps its own.
        **{name: Scalar(text, True) for name, text in {
            "add": "({0} + {1})", "subtract": "({0} - {1})", "multiply": "({0} * {1})",
            "negative": "(-{0})", "abs": "abs({0})", "square": "({0} * {0})",
            "bitwise_and": "({0} & {1})", "bitwise_or": "({0} | {1})",
            "bitwise_xor": "({0} ^ {1})", "bitwise_invert": "(~{0})",
            "bitwise_left_shift": "({0} << {1})", "bitwise_right_shift": "({0} >> {1})",
            "floor_divide": "({0} // {1})", "remainder": "({0} % {1})",
            "pow": "pow_{t}({0}, {1})",
        }.items()},
        "divide": Scalar("({0} / {1})"),
        "reciprocal": Scalar("({one} / {0})"),
        "positive": Scalar("{0}"),
        "copied": Scalar("{0}"),
        "astype": Scalar("{0}", True),
        # Where either is NaN, so is the result.
        "maximum": Scalar("({0} if ({0} > {1}) | ({0} != {0}) else {1})"),
        "minimum": Scalar("({0} if ({0} < {1}) | ({0} != {0}) else {1})"),
        "sign": Scalar("({t}({0} > 0) - {t}({0} < 0) if {0} == {0} else {0})", True),
        "equal": Scalar("({0} == {1})"), "not_equal": Scalar("({0} != {1})"),
        "less": Scalar("({0} < {1})"), "less_equal": Scalar("({0} <= {1})"),
        "greater": Scalar("({0} > {1})"), "greater_equal": Scalar("({0} >= {1})"),
        "isnan": Scalar("({0} != {0})"), "isinf": Scalar("(abs({0}) == inf)"),
        "isfinite": Scalar("(abs({0}) < inf)"),
        "logical_not": Scalar("({0} == False)"), "logical_and": Scalar("({0} & {1})"),
        "logical_or": Scalar("({0} | {1})"), "logical_xor": Scalar("({0} != {1})"),
        "rint": Scalar("rint({0})"), "round": Scalar("rint({0})"),
        "copysign": Scalar("copysign({0}, {1})"),
    }  # fmt: skip
    rows |= {name: Scalar(f"{name}({{0}})", True) for name in ("sqrt", "floor", "ceil", "trunc")}
    # Functions of the compiler's own: see `LoopCompiler`.
    ones = "acos acosh asin asinh atan atanh cos cosh erf exp expm1 log log10 log1p log2 sin sinh"
    rows |= {name: Scalar(f"{name}_{{t}}({{0}})") for name in (*ones.split(), "tan", "tanh")}
    rows |= {
        name: Scalar(f"{name}_{{t}}({{0}}, {{1}})") for name in ("atan2", "hypot", "logaddexp")
    }
    return rows


ROWS = _rows()
_COMPARE = """equal not_equal less less_equal greater greater_equal isnan isinf isfinite
logical_not""".split()

#: A reduction: what it starts from, and how it takes one more number {1} into {0}.
REDUCTIONS = {
    "sum": ("0", "({0} + {1})"),
    "prod": ("1", "({0} * {1})"),
    "max": ("low", "({1} if ({1} > {0}) | ({1} != {1}) else {0})"),
    "min": ("high", "({1} if ({1} < {0}) | ({1} != {1}) else {0})"),
    "any": ("False", "({0} | {1})"),
    "all": ("True", "({0} & {1})"),
}


class Speech:
    """Spells numbers, casts and calls, in the dtypes of one backend."""

    def __init__(self, backend: Any, space: Any, names: Names) -> None:
        self.backend, self.space, self.names = backend, space, names
        self.numbers: dict[str, str] = {}  # the names of numbers in their dtypes, by their text

    def dtype(self, dtype: Any) -> str:
        """The name of a dtype, which casts a number to it."""
        name = str(self.backend.dtype_name(dtype))
        if name.startswith("complex"):
            raise CannotEmit(f"{name} cannot be written as loops")
        return "bool_" if name == "bool" else name

    def bytes(self, dtype: Any) -> int:
        """How long a number of that dtype is."""
        limits = self.space.xp.finfo if self.space.kinds[dtype] else self.space.xp.iinfo
        return 1 if self.dtype(dtype) == "bool_" else int(limits(dtype).bits) // 8

    def number(self, value: Any, dtype: Any) -> str:
        """A Python number in that dtype."""
        if isinstance(value, bool) or self.dtype(dtype) == "bool_":
            return str(bool(value))
        floating = self.space.kinds[dtype] == "real floating"
        text = repr(float(value) if floating else value)
        return self._named(f"{self.dtype(dtype)}({text})")

    def _named(self, text: str) -> str:
        """A variable for a number: what has a name need not be compiled twice."""
        if text not in self.numbers:
            self.numbers[text] = self.names.new("n0")
        return self.numbers[text]

    def cast(self, text: str, have: Any, want: Any) -> str:
        """A number of one dtype in another."""
        if have == want:
            return text
        if self.dtype(want) == "bool_":
            return f"({text} != 0)"
        return f"{self.dtype(want)}({text})"

    def among(self, node: Node) -> Any:
        """The dtype in which a call's arguments meet."""
        dtypes = [a.dtype for a in node.args if isinstance(a, Node) and a.dtype is not None]
        if node.name == "where":
            return node.dtype
        if node.name not in _COMPARE and node.name != "astype":
            return node.dtype
        return self.space.xp.result_type(*dtypes)

    def call(self, node: Node, args: list[tuple[str, Any]]) -> str:
        """An elementwise call of arguments that are (text, dtype); dtype None for a number."""
        if node.name == "where":
            chosen = [self._meet(a, node.dtype) for a in args[1:]]
            return f"({chosen[0]} if {args[0][0]} else {chosen[1]})"
        if node.name == "clip":
            return self._clipped(node, args)
        row = ROWS.get(node.name)
        kwargs = {k: v for k, v in node.kwargs.items() if k not in ("dtype", "copy", "device")}
        if row is None or kwargs or any(a[0] == "None" for a in args):
            raise cannot(node)
        meet = self.among(node)
        words = {"t": self.dtype(meet)}
        if "{one}" in row.text:
            words["one"] = self.number(1, meet)
        text = row.text.format(*[self._meet(a, meet) for a in args], **words)
        if node.name == "astype":
            return self.cast(text, meet, node.dtype)
        if row.cast and (self.space.kinds[node.dtype] == "" or node.name == "sign"):
            text = f"{self.dtype(node.dtype)}({text})"
        return text

    def _meet(self, arg: tuple[str, Any], dtype: Any) -> str:
        text, have = arg
        return self.number(_parsed(text), dtype) if have is None else self.cast(text, have, dtype)

    def _clipped(self, node: Node, args: list[tuple[str, Any]]) -> str:
        text = args[0][0]
        for (bound, dtype), sign in zip(args[1:], "><", strict=False):
            if bound == "None":
                continue
            limit = self._meet((bound, dtype), node.dtype)
            text = f"({limit} if {limit} {sign} {text} else {text})"
        return text

    def reduction(self, node: Node, held: str, value: str, have: Any) -> str:
        """One more number taken into what a reduction holds."""
        value = self.cast(value, have, node.dtype)
        text = REDUCTIONS[node.name][1].format(held, value)
        if node.name not in ("sum", "prod"):
            return text
        if self.space.kinds[node.dtype] == "":
            return f"{self.dtype(node.dtype)}({text})"
        return f"plus({held}, {value})" if node.name == "sum" else text

    def plus_product(self, dtype: Any, total: str, left: str, right: str) -> str:
        """A sum with one more product."""
        if self.space.kinds[dtype]:
            return f"plus_product({total}, {left}, {right})"
        return f"{self.dtype(dtype)}({total} + {left} * {right})"

    def start(self, node: Node) -> str:
        """What a reduction begins with."""
        first = REDUCTIONS[node.name][0]
        if first not in ("low", "high"):
            return first if first in ("True", "False") else self.number(int(first), node.dtype)
        if self.space.kinds[node.dtype] == "real floating":
            return self.number(-math.inf if first == "low" else math.inf, node.dtype)
        info = self.space.xp.iinfo(node.dtype)
        return self.number(info.min if first == "low" else info.max, node.dtype)


def _parsed(text: str) -> Any:
    return {"True": True, "False": False}.get(text) if text in ("True", "False") else (
        int(text) if text.lstrip("-").isdigit() else float(text)
    )  # fmt: skip
