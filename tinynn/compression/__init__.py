"""Smaller networks: weights that are 0, and small networks that learn from large ones.

Whole numbers in place of floats are written by `Model.to_onnx(path, X, quantize=True)`.
"""

from tinynn.compression.distillation import Distillation, distill
from tinynn.compression.pruning import Pruning, prune, sparsity

__all__ = ["Distillation", "Pruning", "distill", "prune", "sparsity"]
