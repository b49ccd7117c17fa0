"""Many networks trained in one program: `fit_many`, and the `ModelStack` it returns."""

from tinynn.training.many.fitting import fit_many
from tinynn.training.many.stack import ModelStack
from tinynn.training.many.stopping import SuccessiveHalving

__all__ = ["ModelStack", "SuccessiveHalving", "fit_many"]
