"""Formulas of what programs call: one table for each kind of call, a row a function.

In them x, a, b are the arguments and y is the result of a call; z is what goes into an activation;
W, b are weight and bias; p is the network's prediction and t the target; L is the loss; w and g
are a parameter and its gradient, and t, in an update, the number of the step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tinynn.optim.patterns import as_patterns, matches

#: Of one call of a function.
CALLS: dict[str, str] = {
    "sigmoid": "y = 1 / (1 + exp(-x))",
    "relu": "y = max(x, 0)",
    "tanh": "y = tanh(x)",
    "erf": "y = 2/√π ∫₀ˣ exp(-s²) ds",
    "logsumexp": "y = log Σ exp(x)",
    "logaddexp": "y = log(exp(a) + exp(b))",
    "matmul": "y = a b",
    "square": "y = x²",
    "sqrt": "y = √x",
    "exp": "y = eˣ",
    "sum": "y = Σ x",
    "take": "y = the rows of a that b numbers",
    "where": "y = a where the condition holds, else b",
}

#: Of the pullback of one call: for each argument.
PULLBACKS: dict[str, tuple[str, ...]] = {
    "sigmoid": ("∂L/∂x = ∂L/∂y · y (1 - y)",),
    "relu": ("∂L/∂x = ∂L/∂y where x > 0, else 0",),
    "tanh": ("∂L/∂x = ∂L/∂y · (1 - y²)",),
    "exp": ("∂L/∂x = ∂L/∂y · y",),
    "log": ("∂L/∂x = ∂L/∂y / x",),
    "sqrt": ("∂L/∂x = ∂L/∂y / (2 y)",),
    "erf": ("∂L/∂x = ∂L/∂y · 2/√π exp(-x²)",),
    "logsumexp": ("∂L/∂x = ∂L/∂y · softmax(x)",),
    "matmul": ("∂L/∂a = ∂L/∂y bᵀ", "∂L/∂b = aᵀ ∂L/∂y"),
    "multiply": ("∂L/∂a = ∂L/∂y · b", "∂L/∂b = ∂L/∂y · a"),
    "divide": ("∂L/∂a = ∂L/∂y / b", "∂L/∂b = -∂L/∂y · y / b"),
    "add": ("∂L/∂a = ∂L/∂y", "∂L/∂b = ∂L/∂y"),
    "subtract": ("∂L/∂a = ∂L/∂y", "∂L/∂b = -∂L/∂y"),
    "sum": ("∂L/∂x = ∂L/∂y for each entry",),
    "take": ("∂L/∂a = ∂L/∂y, added up at the rows that were taken",),
}


class Row(NamedTuple):
    """The formulas of a composite: of the call, and of its pullback for each argument.

    `backward` is by the name of a parameter, or "x" for all else.
    """

    call: str
    backward: dict[str, str] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


#: Of functions and layers that are folded into one line, by name.
COMPOSITES: dict[str, Row] = {
    "linear": Row(
        "y = x W + b",
        {"x": "∂L/∂x = ∂L/∂y Wᵀ", "weight": "∂L/∂W = xᵀ ∂L/∂y", "bias": "∂L/∂b = Σ rows of ∂L/∂y"},
    ),
    "softmax": Row("y = exp(x) / Σ exp(x)", {"x": "∂L/∂x = y · (∂L/∂y - Σ ∂L/∂y · y)"}),
    "log_softmax": Row("y = x - log Σ exp(x)", {"x": "∂L/∂x = ∂L/∂y - softmax(x) Σ ∂L/∂y"}),
    "sparsemax": Row("y = x - t where above 0, else 0, t such that Σ y = 1"),
    "leaky_relu": Row("y = x where x > 0, else slope · x"),
    "elu": Row("y = x where x > 0, else α (exp(x) - 1)"),
    "gelu": Row("y = x Φ(x), Φ the normal distribution", {"x": "∂L/∂x = ∂L/∂y · (Φ(x) + x φ(x))"}),
    "silu": Row("y = x / (1 + exp(-x))"),
    "softplus": Row("y = log(1 + exp(x))", {"x": "∂L/∂x = ∂L/∂y / (1 + exp(-x))"}),
    "celu": Row("y = x where x > 0, else α (exp(x / α) - 1)"),
    "selu": Row("y = 1.0507 elu(x), α = 1.6733"),
    "mish": Row("y = x tanh(log(1 + exp(x)))"),
    "log_sigmoid": Row("y = -log(1 + exp(-x))", {"x": "∂L/∂x = ∂L/∂y / (1 + exp(x))"}),
    "softsign": Row("y = x / (1 + |x|)", {"x": "∂L/∂x = ∂L/∂y / (1 + |x|)²"}),
    "squareplus": Row("y = (x + √(x² + b)) / 2"),
    "relu6": Row("y = min(max(x, 0), 6)", {"x": "∂L/∂x = ∂L/∂y where 0 < x < 6, else 0"}),
    "hard_sigmoid": Row("y = min(max(x + 3, 0), 6) / 6"),
    "hard_silu": Row("y = x min(max(x + 3, 0), 6) / 6"),
    "hard_tanh": Row("y = x, at least -1 and at most 1"),
    "hard_shrink": Row("y = x where |x| > threshold, else 0"),
    "soft_shrink": Row("y = x - threshold sign(x) where |x| > threshold, else 0"),
    "tanh_shrink": Row("y = x - tanh(x)", {"x": "∂L/∂x = ∂L/∂y · tanh²(x)"}),
    "threshold": Row("y = x where x > threshold, else value"),
    "glu": Row("y = a / (1 + exp(-b)), a and b the halves of x"),
    "one_hot": Row("y = 1 at the label, else 0"),
    "mean": Row("y = Σ x / n", {"x": "∂L/∂x = ∂L/∂y / n for each entry"}),
    "var": Row("y = Σ (x - mean x)² / n", {"x": "∂L/∂x = ∂L/∂y · 2 (x - mean x) / n"}),
    "std": Row("y = √(Σ (x - mean x)² / n)", {"x": "∂L/∂x = ∂L/∂y · (x - mean x) / (n y)"}),
    "linalg.vector_norm": Row("y = ‖x‖"),
    "clip": Row("y = x, at least min and at most max"),
    "LayerNorm": Row(
        "y = x̂ γ + β, x̂ = (x - mean x) / √(var x + ε), for each row",
        {
            "x": "∂L/∂x = (h - mean h - x̂ mean(h x̂)) / √(var x + ε), h = γ ∂L/∂y",
            "weight": "∂L/∂γ = Σ rows of x̂ ∂L/∂y",
            "bias": "∂L/∂β = Σ rows of ∂L/∂y",
        },
    ),
    "BatchNorm": Row(
        "y = x̂ γ + β, x̂ = (x - mean x) / √(var x + ε), for each column",
        {
            "x": "∂L/∂x = (h - mean h - x̂ mean(h x̂)) / √(var x + ε), h = γ ∂L/∂y",
            "weight": "∂L/∂γ = Σ rows of x̂ ∂L/∂y",
            "bias": "∂L/∂β = Σ rows of ∂L/∂y",
        },
    ),
}

_REDUCED = {"mean": "mean({})", "sum": "Σ ({})", "half_sum": "½ Σ ({})"}
_SHARE = {"mean": " / n", "sum": "", "half_sum": " / 2"}

#: Of losses: the value of one entry, and the derivative of that by the prediction.
_LOSSES: dict[str, tuple[str, str]] = {
    "SquaredError": ("(p - t)²", "2 (p - t)"),
    "AbsoluteError": ("|p - t|", "sign(p - t)"),
    "Huber": ("½ (p - t)² up to δ, then δ (|p - t| - ½ δ)", "(p - t, at most δ)"),
    "LogCosh": ("log cosh(p - t)", "tanh(p - t)"),
    "Poisson": ("exp(p) - t p", "(exp(p) - t)"),
    "BinaryCrossEntropy": (
        "-t log σ(p) - (1 - t) log(1 - σ(p))", "(σ(p) - t)"
    ),
    "SoftmaxCrossEntropy": ("-log softmax(p)[t]", "(softmax(p) - onehot(t))"),
    "KLDivergence": ("Σ t log(t / softmax(p))", "(softmax(p) - t)"),
    "NegativeLogLikelihood": ("-p[t]", "-onehot(t)"),
}  # fmt: skip


def of_loss(loss: Any) -> Row | None:
    """The formulas of one of tinynn's losses; None for a function of the user's own."""
    name = type(loss).__name__
    if name not in _LOSSES or not _is_ours(loss):
        return None
    value, slope = _LOSSES[name]
    notes = [
        note
        for note, holds in (
            ("entries weighed by class", getattr(loss, "class_weight", None) is not None),
            ("t smoothed", getattr(loss, "label_smoothing", 0.0) != 0.0),
        )
        if holds
    ]
    also = "".join(f", {note}" for note in notes)
    call = "L = " + _REDUCED[loss.reduction].format(value) + also
    shown = slope.replace("2 ", "", 1) if loss.reduction == "half_sum" and "2 " in slope else slope
    share = "" if shown != slope else _SHARE[loss.reduction]
    return Row(call, {"x": f"∂L/∂p = {shown}{share}{also}"})


_ADAM = "m = β₁ m + (1 - β₁) g;  v = β₂ v + (1 - β₂) g²;  m̂ = m / (1 - β₁ᵗ);  v̂ = v / (1 - β₂ᵗ);  "


def _sgd(sgd: Any) -> str:
    if sgd.momentum == 0.0:
        return "w = w - η g"
    return "u = μ u + g;  w = w - η " + ("(g + μ u)" if sgd.nesterov else "u")


def _adam(adam: Any) -> str:
    largest = "v̂ = the largest so far;  " if adam.amsgrad else ""
    return f"{_ADAM}{largest}w = w - η m̂ / (√v̂ + ε)"


def _rmsprop(rmsprop: Any) -> str:
    mean = "m = ρ m + (1 - ρ) g;  " if rmsprop.centered else ""
    change = f"g / (√{'(v - m²)' if rmsprop.centered else 'v'} + ε)"
    if rmsprop.momentum == 0.0:
        return f"v = ρ v + (1 - ρ) g²;  {mean}w = w - η {change}"
    return f"v = ρ v + (1 - ρ) g²;  {mean}u = μ u + {change};  w = w - η u"


def _momentum(momentum: Any) -> str:
    return "u = μ u + g;  g = " + ("g + μ u" if momentum.nesterov else "u")


#: Of optimizers and transformations of gradients.
_UPDATES: dict[str, Callable[[Any], str]] = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": lambda adamw: "w = (1 - η λ) w;  " + _adam(adamw),
    "RMSprop": _rmsprop,
    "Adagrad": lambda _: "v = v + g²;  w = w - η g / (√v + ε)",
    "Adadelta": lambda _: (
        "v = ρ v + (1 - ρ) g²;  d = √((u + ε) / (v + ε)) g;  u = ρ u + (1 - ρ) d²;  w = w - η d"
    ),
    "Lion": lambda _: "w = w - η (sign(β₁ m + (1 - β₁) g) + λ w);  m = β₂ m + (1 - β₂) g",
    "ClipByValue": lambda _: "g = g, at least -limit, at most limit",
    "ClipByNorm": lambda _: "g = g · min(1, limit / ‖g‖)",
    "ClipByGlobalNorm": lambda _: "g = g · min(1, limit / ‖all g‖)",
    "L1": lambda _: "g = g + strength · sign(w)",
    "L2": lambda _: "g = g + strength · w",
    "Scale": lambda _: "g = factor · g",
    "Momentum": _momentum,
}


def of_update(optimizer: Any, path: str) -> str:
    """The formula by which an optimizer updates the parameter of this path; "" for one unknown."""
    name = type(optimizer).__name__
    if not _is_ours(optimizer):
        return ""
    if name == "Chain":
        parts = [of_update(part, path) for part in optimizer.parts]
        return ";  ".join(parts) if all(parts) else ""
    if name == "Groups":
        found = (each for pattern, each in optimizer.groups if matches(path, (pattern,)))
        return of_update(next(found, None), path)
    if name == "Masked":
        changed = matches(path, as_patterns(optimizer.mask))
        return of_update(optimizer.transformation, path) if changed else "g = g"
    if name == "AdamW" and not matches(path, as_patterns(optimizer.mask)):
        return _adam(optimizer)
    row = _UPDATES.get(name)
    return "" if row is None else row(optimizer)


def _is_ours(value: Any) -> bool:
    return type(value).__module__.startswith("tinynn.")
