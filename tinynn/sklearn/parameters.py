"""The checks of an estimator's parameters, made when it is fitted."""

from collections.abc import Callable, Iterable
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

from tinynn.losses import NAMES
from tinynn.training.engines import ENGINES

_Check = tuple[Callable[[Any], bool], str]


def _number(low: float, high: float = inf, *, open_: bool = False) -> _Check:
    """A finite number from `low` to `high`; `open_`: above `low`."""

    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number = float(value)
        above = number > low if open_ else number >= low
        return above and number <= high and isfinite(number)

    bound = f"above {low:g}" if open_ else f"of {low:g} or more"
    return holds, f"a number {bound}" + ("" if high == inf else f" and at most {high:g}")


def _count(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) > 0


def _object_or_name(method: str) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, str) or (hasattr(value, method) and not isinstance(value, type))
    )


def _loss(value: Any) -> bool:
    known = value is None or (isinstance(value, str) and value in ("log_loss", *NAMES))
    return known or (callable(value) and not isinstance(value, type))


def _rate(value: Any) -> bool:
    schedule = callable(value) and not isinstance(value, type)
    return schedule or _number(0, open_=True)[0](value)


_FLAG: _Check = (lambda value: isinstance(value, Integral | bool), "True or False")
_CHECKS: dict[str, _Check] = {
    "network": (
        lambda value: value is None or (hasattr(value, "forward") and not isinstance(value, type)),
        "a layer, such as Sequential(Linear(32), relu, Linear(10)), or None",
    ),
    "solver": (
        _object_or_name("update"),
        "'adam', 'sgd', 'lbfgs', 'auto', another name of tinynn.optim, or an optimizer such as "
        "AdamW()",
    ),
    "loss": (_loss, f"None, one of {', '.join(NAMES)}, a loss such as Huber(), or a function"),
    "alpha": _number(0),
    "batch_size": (
        lambda value: value is None or value == "auto" or _count(value),
        "'auto', a whole number of 1 or more, or None for all samples at once",
    ),
    "learning_rate": (
        ("constant", "invscaling", "adaptive").__contains__,
        "'constant', 'invscaling' or 'adaptive' (a schedule is for learning_rate_init)",
    ),
    "learning_rate_init": (_rate, "a number above 0, or a schedule such as CosineDecay(0.1, ...)"),
    "power_t": _number(0),
    "max_iter": (_count, "a whole number of 1 or more"),
    "max_fun": (_count, "a whole number of 1 or more"),
    "shuffle": _FLAG,
    "warm_start": _FLAG,
    "early_stopping": _FLAG,
    "nesterovs_momentum": _FLAG,
    "tol": (
        lambda value: value is None or _number(0)[0](value),
        "a number of 0 or more, or None to train for max_iter epochs whatever the loss does",
    ),
    "momentum": _number(0, 1),
    "validation_fraction": (
        lambda value: _number(0, 1, open_=True)[0](value) and value < 1,
        "a number above 0 and below 1",
    ),
    "beta_1": _number(0, 1),
    "beta_2": _number(0, 1),
    "epsilon": _number(0, open_=True),
    "n_iter_no_change": (
        lambda value: value == inf or _count(value),
        "a whole number of 1 or more, or infinity",
    ),
    "engine": (ENGINES.__contains__, f"one of {', '.join(map(repr, ENGINES))}"),
    "callbacks": (
        lambda value: value is None or callable(value) or isinstance(value, Iterable),
        "None, or functions of the run, such as CSVLog('run.csv')",
    ),
    "dtype": (
        (None, "float32", "float64").__contains__,
        "None, 'float32' or 'float64'",
    ),
}


def check(owner: Any) -> None:
    """ValueError unless every parameter of the estimator is one that it can work with."""
    name, given = type(owner).__name__, owner.get_params(deep=False)
    for parameter, (holds, expected) in _CHECKS.items():
        value = given[parameter]
        if not holds(value):
            raise ValueError(f"{name}: {parameter}: expected {expected}, got {value!r}")
    if given["solver"] == "lbfgs" and callable(given["learning_rate_init"]):
        raise ValueError(
            f"{name}: solver: expected another than 'lbfgs' with a schedule of learning rates, "
            "since L-BFGS searches for the length of its steps itself"
        )
    if given["learning_rate"] != "constant" and not _number(0)[0](given["learning_rate_init"]):
        raise ValueError(
            f"{name}: learning_rate_init: expected a number with "
            f"learning_rate={given['learning_rate']!r}, got {given['learning_rate_init']!r}. To "
            "fix it: leave learning_rate='constant' beside a schedule"
        )
