"""Temperature scaling: probabilities that are as sure as they may be."""

from typing import Any, TypeAlias

from tinynn.optim import LBFGS
from tinynn.trace import namespace
from tinynn.transforms import value_and_grad

Array: TypeAlias = Any


def temperature(logits: Array, labels: Array, loss: Any) -> Array:
    """The number that logits are to be divided by: the one of the lowest loss, by L-BFGS.

    Answers stay the same; only how sure they are changes. It is for rows that training did not
    see.

    Parameters
    ----------
    logits : (rows, ...)
        A network's outputs.
    labels
        As the loss takes them.
    loss
        Of (logits, labels), such as `SoftmaxCrossEntropy()`.

    Returns
    -------
    array
        0-d, above 0.

    Raises
    ------
    ValueError
        There is no lowest loss: answers are right for all rows, or wrong for more than half of
        what is sure.

    References
    ----------
    Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.losses import SoftmaxCrossEntropy
    >>> logits, labels = np.asarray([[0.0, 9.0]] * 4), np.asarray([1, 1, 1, 0])
    >>> t = temperature(logits, labels, SoftmaxCrossEntropy())
    >>> round(float(9 / t), 4), round(float(np.log(3)), 4)
    (1.0986, 1.0986)
    """
    xp = namespace(logits)

    def cost(log: Array) -> Array:
        space = namespace(log, logits)
        return loss(space.multiply(logits, space.exp(-log)), labels)

    start = xp.zeros((), dtype=logits.dtype, device=logits.device)
    method = LBFGS(gradient_tolerance=1e-6, value_tolerance=1e-12)
    found = method.minimize(value_and_grad(cost), start)[0]
    here, cooler, warmer = (float(cost(found + step)) for step in (0.0, -0.7, 0.7))
    if min(cooler, warmer) <= here:  # where there is a lowest loss, it rises on both sides
        raise ValueError(
            "temperature: expected rows for which one temperature is best, got rows that are "
            f"answered {'right' if cooler <= here else 'no better than by chance'} without "
            "exception. To fix it: give more rows, that training did not see"
        )
    return xp.exp(found)
