"""`optimizer="auto"`: the optimizer that suits a network, a loss and data, and why."""

from math import prod
from typing import Any, NamedTuple

from tinynn import tree

_STEP = 1e9  # multiplications a step of second order may take
_MOST = 1000  # parameters, up to which it is worth them
_FEW = 64  # parameters of which a step costs nothing, however many rows there are
_SMALL = 2e7  # rows times parameters, up to which a line search over all data is


class Choice(NamedTuple):
    """An optimizer and why it is the one.

    Attributes
    ----------
    optimizer
        The optimizer.
    reason
        A sentence.
    """

    optimizer: Any
    reason: str


def choose_optimizer(problem: Any, batch_size: Any = "auto") -> Choice:
    """Levenberg-Marquardt for regression with few parameters or fewer rows, L-BFGS, or Adam.

    L-BFGS is for other small data, Adam for large ones and batches. Where residuals can vanish,
    Gauss-Newton's matrix is the Hessian in the end, and some steps suffice; of a loss of classes it
    is not.

    Parameters
    ----------
    problem
        A `Problem`, of any optimizer.
    batch_size
        As it was asked for; a number asks for batches, which Adam is for.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> from tinynn.training import prepare
    >>> choose_optimizer(prepare(Linear(1), np.ones((50, 3)), np.linspace(0, 9, 50))).reason
    'LevenbergMarquardt: 4 parameters, 50 rows, and SquaredError() is convex in the prediction'
    """
    from tinynn import optim  # two dozen dataclasses, which take their time to be made

    step, batches = problem.step, problem.batches
    parameters = sum(prod(leaf.shape) for leaf in tree.leaves(problem.start.params))
    rows = batches.dataset.size
    if rows is None or batch_size not in ("auto", None):
        return Choice(optim.Adam(), "Adam: the data come in batches")
    said = f"{parameters} parameters, {rows} rows"
    if batches.draws:
        return Choice(optim.Adam(), f"Adam: {said}, and layers draw random numbers")
    output = problem.answers
    answers = rows * sum(prod(leaf.shape[1:]) for leaf in tree.leaves(output))
    quick = answers * parameters**2 + parameters**3 <= _STEP
    alone = problem.communicator is None  # gradients can be summed over processes, matrices not
    fits = getattr(step.loss, "convex", False) and step.loss.task(output) == "regression"
    vanishes = parameters <= _FEW or answers <= parameters <= _MOST
    if alone and fits and quick and vanishes:
        why = f"{said}, and {step.loss} is convex in the prediction"
        return Choice(optim.LevenbergMarquardt(), f"LevenbergMarquardt: {why}")
    if rows * parameters <= _SMALL:
        return Choice(optim.LBFGS(), f"LBFGS: {said}, few enough for all at once")
    return Choice(optim.Adam(), f"Adam: {said}, too many for all at once")
