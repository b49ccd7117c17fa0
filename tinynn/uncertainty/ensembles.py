"""What several answers for the same rows say together: the mean, and two kinds of variance."""

from statistics import NormalDist
from typing import Any, NamedTuple, TypeAlias

from tinynn.trace import namespace
from tinynn.uncertainty.conformal import Interval, check_level

Array: TypeAlias = Any


class Moments(NamedTuple):
    """A prediction with its variance in two parts.

    Attributes
    ----------
    mean
        Of the predictions: (samples, ...).
    aleatoric
        The variance that every network sees in the data, 0 where none of them predicts any: more
        data would leave it. (samples, ...).
    epistemic
        The variance of what the networks disagree in: more data would lessen it.
    """

    mean: Array
    aleatoric: Array
    epistemic: Array

    @property
    def variance(self) -> Array:
        """The sum of both."""
        return self.aleatoric + self.epistemic

    def interval(self, level: float) -> Interval:
        """The interval of a normal distribution of this mean and variance: (samples, ...).

        It holds the share `level` of targets as far as that distribution is the right one; for
        intervals that do so whatever it is, calibrate what predicts. Raises ValueError for a level
        that is not between 0 and 1, and TypeError for moments of classes.

        Examples
        --------
        >>> import numpy as np
        >>> one = np.ones((1, 1))
        >>> Moments(3 * one, 2 * one, 2 * one).interval(0.9).upper.round(4).tolist()
        [[6.2897]]
        """
        check_level("interval", level)
        if self.mean.shape != self.aleatoric.shape:
            raise TypeError(
                "interval: expected moments of numbers, got those of classes. To fix it: calibrate "
                f"the model or the stack with rows kept apart, and take predict_set(X, {level!r})"
            )
        margin = NormalDist().inv_cdf(0.5 + 0.5 * level) * namespace(self.mean).sqrt(self.variance)
        return Interval(self.mean, self.mean - margin, self.mean + margin)


def moments(means: Array, variances: Array | None = None) -> Moments:
    """Mean and variance of a deep ensemble's mixture, by the law of total variance.

    Parameters
    ----------
    means : (networks, samples, ...)
        What each network predicts.
    variances
        Those that each network predicts, of the same shape; None for networks that predict none.

    References
    ----------
    Lakshminarayanan, Pritzel and Blundell 2017, "Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles".

    Examples
    --------
    >>> import numpy as np
    >>> found = moments(np.asarray([[1.0], [3.0]]), np.asarray([[0.5], [1.5]]))
    >>> found.mean.tolist(), found.aleatoric.tolist(), found.epistemic.tolist()
    ([2.0], [1.0], [1.0])
    """
    xp = namespace(means, variances)
    mean, spread = xp.mean(means, axis=0), xp.var(means, axis=0)
    within = xp.zeros_like(mean) if variances is None else xp.mean(variances, axis=0)
    return Moments(mean, within, spread)


def class_information(probabilities: Array) -> Moments:
    """Mean probabilities of an ensemble, and their entropy in two parts, in nats.

    The entropy of the mean is the sum of the mean entropy, which is aleatoric, and the mutual
    information of the class and the network, which is epistemic.

    Parameters
    ----------
    probabilities : (networks, samples, classes)

    Returns
    -------
    Moments
        The mean, (samples, classes), and the two entropies, (samples,).

    References
    ----------
    Houlsby et al. 2011, "Bayesian Active Learning for Classification and Preference Learning".

    Examples
    --------
    >>> import numpy as np
    >>> found = class_information(np.asarray([[[1.0, 0.0]], [[0.0, 1.0]]]))
    >>> found.aleatoric.tolist(), found.epistemic.round(4).tolist()
    ([0.0], [0.6931])
    """
    xp = namespace(probabilities)
    mean = xp.mean(probabilities, axis=0)
    within = xp.mean(_entropy(probabilities), axis=0)
    return Moments(mean, within, _entropy(mean) - within)


def _entropy(p: Array) -> Array:
    """The entropy along the last axis; nothing for a class of probability 0."""
    xp = namespace(p)
    positive = p > 0
    logarithm = xp.log(xp.where(positive, p, xp.ones_like(p)))
    return -xp.sum(p * logarithm, axis=-1)
