"""Optimizers: frozen dataclasses. `init(params) -> state`, and `update(gradients, state, params) ->
(params, state)`; nothing is changed in place.

`Chain(ClipByGlobalNorm(1.0), L2(1e-4), Adam())` transforms the gradients before the last one's
step. To write an optimizer, derive from `Optimizer`; to write a transformation of gradients, from
`GradientTransformation`; to write a schedule, from `Schedule`.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from tinynn import config

from .adam import Adam, AdamW, NAdam
from .adaptive import Adadelta, Adagrad, Lion, RMSprop
from .base import GradientTransformation, Optimizer
from .composed import Accumulate, Averaged, Chain, Groups, Masked, averaged_params, freeze
from .lbfgs import LBFGS
from .rates import learning_rates, set_learning_rate
from .scaling import LossScaling, loss_scale
from .schedules import (
    Constant,
    CosineDecay,
    ExponentialDecay,
    InverseScaling,
    OneCycle,
    PiecewiseConstant,
    PolynomialDecay,
    Schedule,
    StatefulSchedule,
    Warmup,
)
from .second_order.kfac import KFAC
from .second_order.levenberg_marquardt import GaussNewton, LevenbergMarquardt, NaturalGradient
from .second_order.minimizing import Minimum
from .second_order.newton_cg import NewtonCG
from .second_order.objective import Objective
from .sgd import SGD
from .sparse import KeepZeros
from .stateful import Adjustable, ReduceOnPlateau
from .transformations import (
    L1,
    L2,
    ClipByGlobalNorm,
    ClipByNorm,
    ClipByValue,
    Momentum,
    Scale,
    ScaleByAdam,
)

__all__ = [
    "KFAC",
    "L1",
    "L2",
    "LBFGS",
    "SGD",
    "Accumulate",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adjustable",
    "Averaged",
    "Chain",
    "ClipByGlobalNorm",
    "ClipByNorm",
    "ClipByValue",
    "Constant",
    "CosineDecay",
    "ExponentialDecay",
    "GaussNewton",
    "GradientTransformation",
    "Groups",
    "InverseScaling",
    "KeepZeros",
    "LevenbergMarquardt",
    "Lion",
    "LossScaling",
    "Masked",
    "Minimum",
    "Momentum",
    "NAdam",
    "NaturalGradient",
    "NewtonCG",
    "Objective",
    "OneCycle",
    "Optimizer",
    "PiecewiseConstant",
    "PolynomialDecay",
    "RMSprop",
    "ReduceOnPlateau",
    "Scale",
    "ScaleByAdam",
    "Schedule",
    "StatefulSchedule",
    "Warmup",
    "averaged_params",
    "freeze",
    "from_config",
    "get",
    "learning_rates",
    "loss_scale",
    "set_learning_rate",
    "to_config",
]

_NAMES: dict[str, Callable[[], Optimizer]] = {
    "adadelta": Adadelta,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "gauss_newton": GaussNewton,
    "kfac": KFAC,
    "lbfgs": LBFGS,
    "levenberg_marquardt": LevenbergMarquardt,
    "lion": Lion,
    "momentum": lambda: SGD(momentum=0.9),
    "nadam": NAdam,
    "natural_gradient": NaturalGradient,
    "nesterov": lambda: SGD(momentum=0.9, nesterov=True),
    "newton_cg": NewtonCG,
    "rmsprop": RMSprop,
    "sgd": SGD,
}
_ABSTRACT = (GradientTransformation, Minimum, Objective, Optimizer, Schedule, StatefulSchedule)
_KNOWN: dict[str, Any] = {
    name: value
    for name, value in list(globals().items())
    if name in __all__ and isinstance(value, type) and value not in _ABSTRACT
}


def get(name: str) -> Optimizer:
    """The optimizer of that name, with its defaults; "momentum" and "nesterov" give SGD.

    Raises ValueError for a name that is not known, with the closest that is.

    Parameters
    ----------
    name
        Of an optimizer, in lower case: "adam".

    Examples
    --------
    >>> get("nesterov")
    SGD(momentum=0.9, nesterov=True)
    """
    if name not in _NAMES:
        near = difflib.get_close_matches(str(name).lower(), _NAMES, 1)
        advice = f"did you mean {near[0]!r}?" if near else "use one of them"
        raise ValueError(
            f"optim.get: expected the name of an optimizer ({', '.join(_NAMES)}), got {name!r}. "
            f"To fix it: {advice}"
        )
    return _NAMES[name]()


def to_config(optimizer: Any) -> Any:
    """Describe an optimizer, a transformation or a schedule as JSON can hold it.

    Parameters
    ----------
    optimizer
        An optimizer, a transformation or a schedule.

    Examples
    --------
    >>> to_config(SGD(CosineDecay(0.1, steps=9)))["learning_rate"]["class"]
    'CosineDecay'
    """
    return config.to_config(optimizer, _KNOWN)


def from_config(description: Any, custom: Mapping[str, Any] | None = None) -> Any:
    """Build what `to_config` described; `custom` names classes and functions of your own.

    Parameters
    ----------
    description
        As `to_config` gives it.
    custom
        Name -> class or function, for those of your own; None for none.

    Examples
    --------
    >>> from_config({"class": "Adam", "learning_rate": 0.1}) == Adam(0.1)
    True
    """
    return config.from_config(description, {**_KNOWN, **(custom or {})})
