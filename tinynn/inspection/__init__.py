"""Looking into a trained model: what its answers depend on, and what its loss looks like."""

from tinynn.inspection.attribution import input_gradients, integrated_gradients
from tinynn.inspection.dependence import (
    PartialDependence,
    partial_dependence,
    permutation_importance,
)
from tinynn.inspection.influence import influence
from tinynn.inspection.live import DecisionBoundary
from tinynn.inspection.pictures import contour, heatmap, reliability_diagram
from tinynn.inspection.pixels import to_png, to_terminal
from tinynn.inspection.surfaces import Surface, decision_boundary, loss_landscape

__all__ = [
    "DecisionBoundary",
    "PartialDependence",
    "Surface",
    "contour",
    "decision_boundary",
    "heatmap",
    "influence",
    "input_gradients",
    "integrated_gradients",
    "loss_landscape",
    "partial_dependence",
    "permutation_importance",
    "reliability_diagram",
    "to_png",
    "to_terminal",
]
