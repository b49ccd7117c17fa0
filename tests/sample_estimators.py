"""Functions of a user's own, which other processes find by their names."""

import os

from tinynn.trace import namespace


def mean_absolute(prediction, target):
    off = prediction[:, 0] - target if prediction.ndim > target.ndim else prediction - target
    return namespace(off).mean(namespace(off).maximum(off, -off))


def twice(x):
    return 2 * x


def accuracy_and_process(estimator, X, y):
    return {"accuracy": estimator.score(X, y), "process": os.getpid()}
