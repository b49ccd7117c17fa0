"""Training: `fit`, the `Model` it returns, and what stands around them."""

from tinynn.training.callbacks import EarlyStopping, Run
from tinynn.training.files import ModelFileError
from tinynn.training.fit import fit
from tinynn.training.history import History
from tinynn.training.metrics import Accuracy, accuracy, mean_absolute_error, r2
from tinynn.training.model import Model, load
from tinynn.training.step import TrainingStep

__all__ = [
    "Accuracy",
    "EarlyStopping",
    "History",
    "Model",
    "ModelFileError",
    "Run",
    "TrainingStep",
    "accuracy",
    "fit",
    "load",
    "mean_absolute_error",
    "r2",
]
