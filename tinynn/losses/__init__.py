"""Losses: frozen dataclasses, called as loss(prediction, target, sample_weight=None) -> 0-d array.

`loss.values` are the losses of the rows; weighing by sample and reducing happen once, in `Loss`.
`loss.check` finds, before training, what would keep it from working, `loss.task` says what kind of
answer a prediction is, and `loss.fit_to` computes what depends on the training data.
"""

from collections.abc import Mapping
from typing import Any

from tinynn import config
from tinynn.losses.base import Loss
from tinynn.losses.choice import activation_conflict, for_targets
from tinynn.losses.classification import (
    BinaryCrossEntropy,
    KLDivergence,
    NegativeLogLikelihood,
    SoftmaxCrossEntropy,
)
from tinynn.losses.ctc import CTC, ctc_loss
from tinynn.losses.distributions import GaussianNLL, Quantile
from tinynn.losses.embeddings import InfoNCE, Triplet
from tinynn.losses.margins import (
    BinaryFocal,
    Hinge,
    MulticlassHinge,
    SoftmaxFocal,
    SquaredHinge,
)
from tinynn.losses.names import find
from tinynn.losses.regression import (
    AbsoluteError,
    CosineDistance,
    Huber,
    LogCosh,
    Poisson,
    SmoothL1,
    SquaredError,
)

__all__ = [
    "CTC",
    "KNOWN",
    "AbsoluteError",
    "BinaryCrossEntropy",
    "BinaryFocal",
    "CosineDistance",
    "GaussianNLL",
    "Hinge",
    "Huber",
    "InfoNCE",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "MulticlassHinge",
    "NegativeLogLikelihood",
    "Poisson",
    "Quantile",
    "SmoothL1",
    "SoftmaxCrossEntropy",
    "SoftmaxFocal",
    "SquaredError",
    "SquaredHinge",
    "Triplet",
    "activation_conflict",
    "ctc_loss",
    "for_targets",
    "from_config",
    "get",
    "to_config",
]

NAMES: dict[str, type[Loss]] = {
    "squared_error": SquaredError,
    "mean_squared_error": SquaredError,
    "mse": SquaredError,
    "absolute_error": AbsoluteError,
    "mean_absolute_error": AbsoluteError,
    "mae": AbsoluteError,
    "huber": Huber,
    "smooth_l1": SmoothL1,
    "log_cosh": LogCosh,
    "poisson": Poisson,
    "gaussian_nll": GaussianNLL,
    "quantile": Quantile,
    "pinball": Quantile,
    "cosine_distance": CosineDistance,
    "binary_cross_entropy": BinaryCrossEntropy,
    "bce": BinaryCrossEntropy,
    "cross_entropy": SoftmaxCrossEntropy,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "negative_log_likelihood": NegativeLogLikelihood,
    "nll": NegativeLogLikelihood,
    "binary_focal": BinaryFocal,
    "focal": SoftmaxFocal,
    "softmax_focal": SoftmaxFocal,
    "kl_divergence": KLDivergence,
    "hinge": Hinge,
    "squared_hinge": SquaredHinge,
    "multiclass_hinge": MulticlassHinge,
    "ctc": CTC,
    "triplet": Triplet,
    "info_nce": InfoNCE,
}
KNOWN: Mapping[str, Any] = {loss.__name__: loss for loss in NAMES.values()}
"""The loss classes by name, as `to_config` writes them."""


def get(name: str) -> Loss:
    """The loss of that name, with its default hyperparameters.

    Raises ValueError for a name that is not known; the message has the nearest one and all.

    Parameters
    ----------
    name
        Of a loss: "mse".

    Examples
    --------
    >>> get("mse")
    SquaredError()
    """
    return find("loss", name, NAMES)()


def to_config(loss: Any) -> Any:
    """Describe a loss by its hyperparameters as JSON can hold them; a plain function by its name.

    Parameters
    ----------
    loss
        A loss, or a plain function.

    Examples
    --------
    >>> to_config(Huber(2.0))
    {'class': 'Huber', 'reduction': 'mean', 'delta': 2.0}
    """
    return config.to_config(loss, KNOWN)


def from_config(description: Any, custom: Mapping[str, Any] | None = None) -> Any:
    """Build the loss that `to_config` described; `custom` names classes and functions of your own.

    Parameters
    ----------
    description
        As `to_config` gives it.
    custom
        Name -> class or function, for those of your own; None for none.

    Examples
    --------
    >>> from_config({"class": "Huber", "delta": 2.0}) == Huber(2.0)
    True
    """
    return config.from_config(description, {**KNOWN, **(custom or {})})
