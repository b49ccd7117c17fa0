"""Training: `fit`, the `Model` it returns, and what stands around them."""

from tinynn.training.callbacks import EarlyStopping, Run
from tinynn.training.files import ModelFileError
from tinynn.training.fit import fit
from tinynn.training.history import History
from tinynn.training.model import Model, load
from tinynn.training.step import TrainingStep

__all__ = [
    "EarlyStopping",
    "History",
    "Model",
    "ModelFileError",
    "Run",
    "TrainingStep",
    "fit",
    "load",
]
