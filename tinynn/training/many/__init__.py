"""Many networks trained in one program: `fit_many`, and the `ModelStack` it returns."""

from tinynn.training.many.fitting import fit_many
from tinynn.training.many.stack import ModelStack
from tinynn.training.many.stopping import SuccessiveHalving
from tinynn.training.many.training import StackRun

__all__ = ["ModelStack", "StackRun", "SuccessiveHalving", "fit_many"]
