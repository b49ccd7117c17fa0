"""Doubt: how far predictions can be trusted, in numbers that are checked.

Functions of arrays, or of a network with its parameters, on any backend. `Model` and `ModelStack`
have them as methods.
"""

from tinynn.uncertainty.calibration import (
    Reliability,
    brier_score,
    expected_calibration_error,
    interval_coverage,
    reliability,
    set_coverage,
)
from tinynn.uncertainty.conformal import (
    Calibration,
    Interval,
    absolute_scores,
    adaptive_scores,
    conformal_quantile,
    least_ambiguous_scores,
    quantile_scores,
    scaled_scores,
)
from tinynn.uncertainty.dropout import monte_carlo
from tinynn.uncertainty.ensembles import Moments, class_information, moments
from tinynn.uncertainty.laplace import Laplace, laplace
from tinynn.uncertainty.temperature import temperature

__all__ = [
    "Calibration",
    "Interval",
    "Laplace",
    "Moments",
    "Reliability",
    "absolute_scores",
    "adaptive_scores",
    "brier_score",
    "class_information",
    "conformal_quantile",
    "expected_calibration_error",
    "interval_coverage",
    "laplace",
    "least_ambiguous_scores",
    "moments",
    "monte_carlo",
    "quantile_scores",
    "reliability",
    "scaled_scores",
    "set_coverage",
    "temperature",
]
