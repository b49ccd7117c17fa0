"""Training: `fit`, the `Model` it returns, and what stands around them."""

from tinynn.training import checkpoints, engines
from tinynn.training.automatic import Choice, choose_optimizer
from tinynn.training.callbacks import CSVLog, EarlyStopping, LearningRate, TensorBoard
from tinynn.training.files import ModelFileError
from tinynn.training.fit import fit, train
from tinynn.training.generation import Generated, generate
from tinynn.training.history import History
from tinynn.training.loading import load
from tinynn.training.many import ModelStack, StackRun, SuccessiveHalving, fit_many
from tinynn.training.model import Model
from tinynn.training.predictor import Predictor
from tinynn.training.problem import Problem, prepare
from tinynn.training.state import Run, TrainingState
from tinynn.training.step import Carry, TrainingStep

__all__ = [
    "CSVLog",
    "Carry",
    "Choice",
    "EarlyStopping",
    "Generated",
    "History",
    "LearningRate",
    "Model",
    "ModelFileError",
    "ModelStack",
    "Predictor",
    "Problem",
    "Run",
    "StackRun",
    "SuccessiveHalving",
    "TensorBoard",
    "TrainingState",
    "TrainingStep",
    "checkpoints",
    "choose_optimizer",
    "engines",
    "fit",
    "fit_many",
    "generate",
    "load",
    "prepare",
    "train",
]
