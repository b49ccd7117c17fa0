"""The code of lines: what a call, or several that are folded, look like in Python."""

import re
from typing import Any

from tinynn.explanation import formulas
from tinynn.explanation.lines import LOSS, Context, Line, is_view, output_paths
from tinynn.explanation.names import Names
from tinynn.trace.scopes import Composite
from tinynn.transforms.graph import Constant, Graph, Input, Node

_LONG, _FEW = 52, 12  # characters and calls of an expression
_MOST = 7  # arguments of a line that are named
_SHORT = re.compile(r"\w+(\.m?T)?|.{1,20}")  # a view inside of an expression
_SUM, _PRODUCT, _SIGN, _POWER, _ATOM = 1, 2, 3, 4, 5
_INFIX: dict[str, tuple[str, int]] = {
    "add": ("+", _SUM),
    "subtract": ("-", _SUM),
    "multiply": ("*", _PRODUCT),
    "divide": ("/", _PRODUCT),
    "floor_divide": ("//", _PRODUCT),
    "remainder": ("%", _PRODUCT),
    "matmul": ("@", _PRODUCT),
    "pow": ("**", _POWER),
    **{
        name: (sign, 0)
        for name, sign in (
            *(("less", "<"), ("less_equal", "<="), ("greater", ">"), ("greater_equal", ">=")),
            *(("equal", "=="), ("not_equal", "!=")),
        )
    },
}


_BENDS = frozenset(("broadcast_to", "reshape", "expand_dims", "squeeze"))


class Writer:
    """Writes the code and the formulas of lines."""

    def __init__(self, graph: Graph, lines: list[Line], names: Names, context: Context) -> None:
        self.graph, self.names, self.context = graph, names.of, context
        self.home = {id(node): line for line in lines for node in line.nodes}
        self.users = graph.users()
        self.shown = {
            id(node): line for line in lines if not line.hidden for node in (line.result,)
        }
        self.row = formulas.of_loss(context.loss)
        outputs = output_paths(graph).items()
        self.states = {id(value) for path, value in outputs if path.startswith("state.")}

    def write(self, line: Line) -> None:
        """Give a line its name, code and formula, and what it takes."""
        line.name = self.names[id(line.result)]
        if line.hidden and len(line.nodes) == 1:
            line.code, line.takes = self.call(line.result)
            return
        if line.key[0] == "counters":
            self._count(line)
            return
        # An expression may be as long as two to the number of calls.
        few = len(line.nodes) <= _FEW
        expression = _Expression(self, line)
        inline = expression.of(line.result)[0] if few else ""
        rows = {
            "composite": self._composite,
            "pullback": self._pullback,
            "random": self._random,
            "update": self._update,
        }
        function, formula = rows.get(line.key[0], self._plain)(line)
        folded = line.key[0] in ("composite", "random") or not expression.fits(inline)
        if not few or (function is not None and folded):
            outside = self._outside(line)
            line.takes = tuple(outside)
            if line.key[0] == "update":
                outside = self._of_update(line, outside)
            if line.key[0] == "composite":
                outside += _given(_frame(line))
            if len(outside) > _MOST:
                outside = [*outside[: _MOST - 1], "..."]
            line.code = f"{function or line.result.name}({', '.join(outside)})"
        else:
            line.code, line.takes = inline, tuple(dict.fromkeys(expression.taken))
        line.formula = formula
        line.also = tuple(self.names[id(node)] for node in line.saves if id(node) in self.states)

    def call(self, node: Node) -> tuple[str, tuple[str, ...]]:
        """The code of one call, with a name for each argument, and these names."""
        expression = _Expression(self, None)
        return expression.of(node)[0], tuple(dict.fromkeys(expression.taken))

    def _count(self, line: Line) -> None:
        """The number of the step, and what follows from it alone, such as a learning rate."""
        known = [self.names[id(node)] for node in line.saves]
        line.also = tuple(name for name in known if not re.fullmatch(r"v\d+", name))
        line.takes = tuple(self._outside(line))
        if not line.also and all(not isinstance(a, Node) or a.function is None
                                 for a in line.result.args):  # fmt: skip
            line.code = self.call(line.result)[0]
        else:
            line.code = f"count({', '.join(line.takes)})"

    # The function's name and the formula, by what a line is folded by.

    def _plain(self, line: Line) -> tuple[str | None, str]:
        name = line.result.name
        if line.key[0] == "shared":
            clips = any(type(p).__name__ == "ClipByGlobalNorm" for p in _chained(self.context))
            if clips:
                return "clip_by_global_norm", "s = min(1, limit / ‖all g‖)"
            return "shared", ""
        return None, formulas.CALLS.get(name, "") if len(line.nodes) == 1 else ""

    def _composite(self, line: Line) -> tuple[str | None, str]:
        frame = _frame(line)
        row = self._row(frame)
        if row is None:  # never, since it would not be folded
            return None, ""
        if frame is not None and type(frame) is Composite and frame.name == "linear":
            bias = any(node.name == "add" for node in line.nodes)
            return None, row.call if bias else "y = x W"
        return self._function(frame), row.call

    def _pullback(self, line: Line) -> tuple[str | None, str]:
        pullback = line.nodes[-1].origin.pullback
        if pullback is None:
            return None, ""
        frame = _frame(line)
        row = None if frame is None else self._row(frame)
        if row is not None:
            return f"{self._function(frame)}_backward", row.backward.get(self._role(line), "")
        call, rows = pullback.of, formulas.PULLBACKS.get(pullback.of.name, ())
        place = self._argument(line, call)
        formula = rows[place] if place is not None and place < len(rows) else ""
        return f"{call.name}_backward", formula

    def _role(self, line: Line) -> str:
        """By which argument of a composite this is the derivative: a parameter's name, or "x".

        It has the argument's shape; "" if several arguments have it.
        """
        for path, gradient in self.context.gradients.items():
            if gradient is line.result:
                return path.rpartition(".")[2]
        roles: set[str] = set()
        forward = line.follows
        inside = set(map(id, forward.nodes)) if forward else set()
        for node in forward.nodes if forward else ():
            for a in node.parents:
                if id(a) in inside or tuple(a.shape or ()) != line.shape:
                    continue
                label = a.label if isinstance(a, Input) else ""
                parameter = label.startswith("carry.params.")
                roles.add(label.rpartition(".")[2] if parameter else "x")
        return roles.pop() if len(roles) == 1 else ""

    def _argument(self, line: Line, call: Node) -> int | None:
        """The argument of a call that this is the derivative by, as far as names tell."""
        if len(call.parents) == 1:
            return call.args.index(call.parents[0])
        for place, a in enumerate(call.args):
            if isinstance(a, Node) and line.name == f"{self.names[id(a)]}_grad":
                return place
        return None

    def _random(self, line: Line) -> tuple[str | None, str]:
        if "Dropout" in line.place:
            return "dropout_mask", "m = 0 with probability rate, else 1 / (1 - rate)"
        return "random", "independent draws, which follow from the key"

    def _update(self, line: Line) -> tuple[str | None, str]:
        optimizer = self.context.optimizer
        formula = formulas.of_update(optimizer, line.key[1])
        return _snake(type(optimizer).__name__), formula

    def _of_update(self, line: Line, outside: list[str]) -> list[str]:
        """The parameter, its gradient, and what all share: without what the optimizer keeps."""
        kept = {
            self.names[id(value)]
            for value in self.graph.inputs
            if value.label.startswith("carry.optimizer_state")
        }
        gradient = self.context.gradients.get(line.key[1])
        first = [line.name, self.names[id(gradient)] if gradient is not None else ""]
        rest = [name for name in outside if name not in kept]
        return [n for n in first if n in rest] + [n for n in rest if n not in first]

    def _row(self, frame: Any) -> formulas.Row | None:
        if type(frame) is Composite:
            of_loss = frame.name == LOSS
            return self.row if of_loss else formulas.COMPOSITES.get(frame.name)
        return formulas.COMPOSITES.get(type(frame[1]).__name__)

    def _function(self, frame: Any) -> str:
        if type(frame) is not Composite:
            return _snake(type(frame[1]).__name__)
        of_loss = frame.name == LOSS
        name = type(self.context.loss).__name__ if of_loss else frame.name
        return _snake(name.rpartition(".")[2] or name)

    def _outside(self, line: Line) -> list[str]:
        """The names of what a line takes; for what is inside of another line, what that takes."""
        found: dict[str, None] = {}
        inside = {id(node) for node in line.nodes}

        def take(value: Node) -> None:
            if id(value) in inside or isinstance(value, Constant):
                return
            home = self.home.get(id(value))
            if home is None or id(value) in self.shown:
                found.setdefault(self.names[id(value)])
            elif home is not line and home.kind == "set-up":
                return
            elif home is not line and home.hidden:
                for parent in value.parents:
                    take(parent)
            elif home is not line:
                for name in self._outside(home):
                    found.setdefault(name)

        pullback = line.nodes[-1].origin.pullback
        if line.key[0] == "pullback" and pullback and isinstance(pullback.cotangent, Node):
            take(pullback.cotangent)
        for node in line.nodes:
            for parent in node.parents:
                take(parent)
        return list(found)


class _Expression:
    """One expression: the calls of a line, and the views that it takes, inside one another.

    With no line it is one call, all of whose arguments have a name.
    """

    def __init__(self, writer: Writer, line: Line | None) -> None:
        self.writer, self.line = writer, line
        self.inside = set(map(id, line.nodes)) if line else set()
        self.taken: list[str] = []
        self.times: dict[int, int] = {}
        self.internal = False  # it takes what is inside of a folded line

    def fits(self, text: str) -> bool:
        """True if the expression reads better than a name for it."""
        repeated = any(times > 1 for times in self.times.values())
        return len(text) <= _LONG and not self.internal and not repeated

    def of(self, node: Any, top: bool = True, beside: Any = None) -> tuple[str, int]:
        """(code, how tightly it binds).

        beside: what an element-wise function takes it together with; it broadcasts by itself then.
        """
        if not isinstance(node, Node):
            return _literal(node), _ATOM
        home = self.writer.home.get(id(node))
        if not top and self._has_name(node, home):
            name = self.writer.names[id(node)]
            self.taken.append(name)
            return name, _ATOM
        if id(node) in self.inside and not is_view(node):
            self.times[id(node)] = self.times.get(id(node), 0) + 1
        if not top and self.line is not None and _is_idle(node, beside):
            return self.of(node.args[0], False, beside)
        text, level = self._call(node)
        if top or self.line is None or not is_view(node) or _SHORT.fullmatch(text):
            return text, level
        return self._view(node), _ATOM

    def _view(self, node: Any) -> str:
        """A view of a view, whose parts are no matter."""
        base = node
        while not self._has_name(base, self.writer.home.get(id(base))) and is_view(base):
            base = base.args[0]
        text = self.of(base, False)[0]
        return f"view({text})"

    def _has_name(self, node: Node, home: Line | None) -> bool:
        if self.line is None or home is None:
            return True
        if id(node) in self.inside:
            return False
        if home.hidden:
            return len(home.nodes) > 3
        self.internal |= id(node) not in self.writer.shown
        return True

    def _call(self, node: Node) -> tuple[str, int]:
        name, args = node.name, node.args
        if name in ("ones_like", "zeros_like") and self.line is not None and not node.shape:
            return ("1" if name == "ones_like" else "0"), _ATOM
        if name in _INFIX and len(args) == 2:
            sign, level = _INFIX[name]
            each = name != "matmul"
            left = self.of(args[0], False, args[1] if each else None)
            right = self.of(args[1], False, args[0] if each else None)
            tight = _POWER + 1 if level == _POWER else level
            a = left[0] if left[1] >= tight else f"({left[0]})"
            b = right[0] if right[1] > level else f"({right[0]})"
            return f"{a} {sign} {b}", level
        if name == "negative":
            text, level = self.of(args[0], False)
            return (f"-{text}" if level > _SIGN else f"-({text})"), _SIGN
        if name in ("matrix_transpose", "permute_dims") and _is_transpose(node):
            return f"{self._tight(args[0])}.{'T' if len(node.shape or ()) == 2 else 'mT'}", _ATOM
        if name == "getitem":
            rest = [self.of(a, False)[0] for a in args[1:]]
            return f"{self._tight(args[0])}[{_index(node.kwargs['key'], iter(rest))}]", _ATOM
        if name == "item":
            return f"{self._tight(args[0])}[{node.kwargs['index']}]", _ATOM
        shown = [self.of(a, False)[0] for a in args]
        if node.function.call is not None and node.function.call.sequence:
            shown = [f"[{', '.join(shown)}]"]
        return f"{name}({', '.join([*shown, *_keywords(node.kwargs)])})", _ATOM

    def _tight(self, node: Any) -> str:
        text, level = self.of(node, False)
        return text if level == _ATOM else f"({text})"


def _is_transpose(node: Node) -> bool:
    if node.name == "matrix_transpose":
        return True
    return tuple(node.kwargs.get("axes", ())) == (1, 0)


def _is_idle(node: Node, beside: Any) -> bool:
    """True if a view changes nothing where it stands, and so is left out of the code."""
    if node.name == "stop_gradient":
        return True
    if not isinstance(beside, Node) or (beside.function is not None and beside.name in _BENDS):
        return False
    if tuple(beside.shape or ()) != tuple(node.shape or ()) or node.name not in _BENDS:
        return False
    return node.name == "broadcast_to" or _stripped(node.args[0]) == _stripped(node)


def _stripped(node: Any) -> tuple[int, ...]:
    """The shape without ones in front, which broadcasting adds by itself."""
    shape = list(node.shape or ())
    while shape and shape[0] == 1:
        shape.pop(0)
    return tuple(shape)


def _index(key: Any, rest: Any) -> str:
    def part(item: Any) -> str:
        if isinstance(item, slice):
            ends = ["" if end is None else str(end) for end in (item.start, item.stop, item.step)]
            return ":".join(ends if item.step is not None else ends[:2])
        if item is Ellipsis:
            return "..."
        if item is None or isinstance(item, int):
            return str(item)
        return next(rest, "...")

    return ", ".join(map(part, key)) if isinstance(key, tuple) else part(key)


def _given(frame: Any) -> list[str]:
    """The keyword arguments of a function, which are no arrays."""
    if type(frame) is not Composite or frame.name == LOSS:
        return []
    return [*map(_literal, frame.args), *_keywords(frame.kwargs)]


_SHOWN = (bool, int, float, complex, str, tuple, list, dict, Graph)


def _keywords(kwargs: dict[str, Any]) -> list[str]:
    """The keyword arguments that are not at their defaults."""
    return [
        f"{key}={_literal(value)}"
        for key, value in kwargs.items()
        if not (key == "keepdims" and value is False)
        and not (key == "axis" and value is None)
        and (key == "dtype" or value is None or isinstance(value, _SHOWN))
    ]


def _literal(value: Any) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return repr(value)
    if isinstance(value, float):
        return f"{value:.6g}" if value != int_or_none(value) else f"{value:.1f}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Graph):
        return value.name
    if isinstance(value, tuple | list):
        inside = ", ".join(map(_literal, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_literal(item)}" for key, item in value.items()) + "}"
    return dtype_name(value)


def int_or_none(value: float) -> int | None:
    """The integer that a float of few digits is."""
    return int(value) if abs(value) < 1e6 and value == int(value) else None


def dtype_name(dtype: Any) -> str:
    """The name of a dtype of any library: "float32"."""
    text = str(getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or dtype)
    return text.rpartition(".")[2]


def _chained(context: Context) -> tuple[Any, ...]:
    """The parts of a Chain; else the optimizer itself."""
    parts: tuple[Any, ...] = getattr(context.optimizer, "parts", (context.optimizer,))
    return parts


def _frame(line: Line) -> Any:
    number = line.key[1]
    if line.key[0] not in ("composite", "pullback"):
        return None
    return next((f for f in line.nodes[-1].origin.frames if id(f) == number), None)


def _snake(name: str) -> str:
    """SquaredError as squared_error; SGD as sgd."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
