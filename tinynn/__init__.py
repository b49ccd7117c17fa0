"""tinynn: neural networks on whatever array library you already have."""

from tinynn.rules.extensions import stop_gradient
from tinynn.trace import Namespace
from tinynn.transforms import grad, value_and_grad, vjp

__version__ = "0.1.0"
__all__ = ["Namespace", "grad", "stop_gradient", "value_and_grad", "vjp"]
