"""The Laplace approximation: a normal distribution of parameters around those that were trained.

Its precision is that of a normal prior and the generalised Gauss-Newton matrix of the loss, the sum
over the rows of J^T H J, with J the outputs' derivatives by the parameters and H the loss's second
derivatives by the outputs. Source: Daxberger et al. 2021, "Laplace Redux", NeurIPS; Immer, Korzepa
and Bauer 2021, "Improving Predictions of Bayesian Neural Nets via Local Linearization", AISTATS;
for the choice of the prior and the noise, MacKay 1992, "Bayesian Interpolation".
"""

from dataclasses import dataclass
from math import inf, pi, prod
from typing import Any, TypeAlias

from tinynn import tree
from tinynn.config import label
from tinynn.layers import run
from tinynn.losses import BinaryCrossEntropy, SoftmaxCrossEntropy, SquaredError
from tinynn.trace import namespace
from tinynn.transforms import jacobian, vmap
from tinynn.uncertainty.calibrated import Calibrated
from tinynn.uncertainty.conformal import Calibration, Interval
from tinynn.uncertainty.ensembles import Moments
from tinynn.uncertainty.predictions import Prediction, two_columns

Array: TypeAlias = Any

_MOST = 2 * 2**30  # bytes of the matrices, of which there are three
_JACOBIAN = 2**26  # bytes of the derivatives of rows that are taken at once
_ROUNDS = 200  # of MacKay's fixed point


@dataclass(frozen=True, eq=False)
class Laplace(Calibrated):
    """A network whose parameters are known to a normal distribution, as `laplace` finds it.

    Attributes
    ----------
    net, params, state, loss
        The network as it was trained, and its loss.
    paths
        The parameters that are uncertain.
    eigenvalues, eigenvectors
        Of the Gauss-Newton matrix, for a noise of 1: (parameters,) and (parameters, parameters).
    prior_precision
        1 / variance of the prior of each parameter, whose mean is 0: a 0-d array.
    noise
        The variance of targets around the outputs under `SquaredError`, 1 under other losses: 0-d.
    log_likelihood
        Of the training rows, under the parameters as they were trained: 0-d.
    calibration
        The scores of the rows that `calibrate` was given; None before.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> x = np.linspace(-1.0, 1.0, 20)[:, None]
    >>> y = 2 * x + 0.1 * np.sin(40 * x)
    >>> model = tinynn.fit(Linear(1), x, y, optimizer="lbfgs", batch_size=None)
    >>> sure = model.laplace(x, y).predict(np.asarray([[0.0], [10.0]]))
    >>> bool(sure.epistemic[1, 0] > 50 * sure.epistemic[0, 0])
    True
    """

    net: Any
    params: Any
    state: Any
    loss: Any
    paths: tuple[str, ...]
    eigenvalues: Array
    eigenvectors: Array
    prior_precision: Array
    noise: Array
    log_likelihood: Array
    calibration: Calibration | None = None

    @property
    def log_marginal_likelihood(self) -> Array:
        """The logarithm of the evidence for the prior and the noise: 0-d; larger is better."""
        return self.log_likelihood + _evidence(
            self.eigenvalues / self.noise, self.prior_precision, _norm(self.params, self.paths)
        )

    def variance(self, *inputs: Any) -> Array:
        """The covariance of each row's outputs, from the parameters alone.

        inputs: arrays (rows, ...), as the network takes them. The result is (rows, outputs,
        outputs).
        """
        function = _Function(self.net, self.params, self.state, self.paths)
        precision = self.eigenvalues / self.noise + self.prior_precision
        parts = [
            _covariance(namespace(rows).matmul(rows, self.eigenvectors), precision)
            for rows in function.jacobians(inputs)
        ]
        return parts[0] if len(parts) == 1 else namespace(parts[0]).concat(parts, axis=0)

    def predict(self, *inputs: Any, interval: float | None = None) -> Moments | Interval:
        """The mean and the variance of outputs: aleatoric is the noise, (rows, outputs) each.

        With interval=0.9 it is an `Interval` that holds nine targets of ten, as wide as each row's
        deviation asks for, once the posterior is calibrated: `calibrate`. The interval of the
        normal distribution itself is `predict(X).interval(0.9)`.

        Raises TypeError under a loss of classes, whose answer `predict_proba` gives.
        """
        if not isinstance(self.loss, SquaredError):
            raise TypeError(
                f"Laplace.predict: expected SquaredError, got {label(self.loss)}. To fix it: take "
                "predict_proba"
            )
        if interval is not None:
            self._of_numbers(interval)
            return self._interval_of([self._predicted(inputs)], interval)
        return self._moments(inputs)

    def calibrate(self, *rows: Any, method: str | None = None) -> None:
        """Keep how far targets of rows that training did not see are off.

        rows: the network's inputs and, last, the targets. method: "scaled", in deviations of the
        posterior, or "absolute"; of classes "least_ambiguous" or "adaptive". From then on
        `predict(X, interval=0.9)` gives intervals and `predict_set(X)` sets with the promise that
        `Model.calibrate` explains. Raises ValueError for no rows or another method.
        """
        *inputs, y = rows
        self._calibrate([self._predicted(tuple(inputs))], y, method)

    def predict_set(self, *inputs: Any, level: float = 0.9) -> Array:
        """The classes that may be the right one: (rows, classes) booleans. Raises as `predict`."""
        self._of_classes(level)
        return self._sets_of([self._predicted(inputs)], level)

    def predict_proba(self, *inputs: Any) -> Array:
        """The probabilities of classes, less sure where parameters are: as the loss gives them.

        By the probit approximation: MacKay 1992, "The Evidence Framework Applied to Classification
        Networks"; of several classes, Gibbs 1998, with the variance of each output alone. Raises
        TypeError under `SquaredError`.
        """
        if isinstance(self.loss, SquaredError):
            raise TypeError(
                "Laplace.predict_proba: expected a loss of classes, got SquaredError(). To fix it: "
                "take predict"
            )
        mean, spread = self._outputs(inputs)
        xp = namespace(mean)
        return self.loss.probabilities(mean / xp.sqrt(1.0 + (pi / 8.0) * spread))

    _noun = "posterior"

    def _moments(self, inputs: tuple[Any, ...]) -> Moments:
        mean, spread = self._outputs(inputs)
        return Moments(mean, namespace(mean).zeros_like(mean) + self.noise, spread)

    def _predicted(self, inputs: tuple[Any, ...]) -> Prediction:
        """What intervals and sets are made of."""
        if isinstance(self.loss, SquaredError):
            found = self._moments(inputs)
            root = namespace(found.mean).sqrt(found.variance)
            return Prediction(("scaled", "absolute"), found.mean, root)
        p = two_columns(self.predict_proba(*inputs))
        return Prediction(("least_ambiguous", "adaptive"), probabilities=p)

    def _outputs(self, inputs: tuple[Any, ...]) -> tuple[Array, Array]:
        """The outputs of each row and their variances: (rows, outputs)."""
        output = run(self.net, self.params, self.state, *inputs).output
        xp, covariance = namespace(output), self.variance(*inputs)
        return output, xp.reshape(xp.linalg.diagonal(covariance), output.shape)


def laplace(
    net: Any,
    params: Any,
    state: Any,
    x: Any,
    y: Array,
    loss: Any,
    *,
    last_layer: bool = False,
    prior_precision: float | None = None,
    noise: float | None = None,
) -> Laplace:
    """The Laplace approximation of a trained network, all of it or its last layer.

    Parameters
    ----------
    net, params, state
        The network as it was trained, in float64 for numbers to be trusted.
    x
        The training rows: an array (rows, ...), or a tuple of the network's inputs.
    y
        Their targets.
    loss
        `SquaredError`, `SoftmaxCrossEntropy` or `BinaryCrossEntropy`: the likelihood.
    last_layer
        True for the parameters of the last layer alone, with the others as they are.
    prior_precision
        Of the parameters' normal prior of mean 0; None chooses the one of the largest marginal
        likelihood.
    noise
        The variance of the targets, under `SquaredError`; None chooses it likewise.

    Raises
    ------
    TypeError
        Another loss, whose second derivatives are no likelihood's.
    ValueError
        So many parameters that their matrix would not fit into 2 GiB: the message has the number;
        a loss with a `class_weight`, which is no likelihood; a precision or a noise that is not
        above 0, or a noise under a loss of classes.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> from tinynn.losses import SquaredError
    >>> x, params = np.ones((4, 1)), {"weight": np.ones((1, 1)), "bias": np.zeros(1)}
    >>> found = laplace(Linear(1), params, {}, x, x, SquaredError(), prior_precision=1.0, noise=1.0)
    >>> found.variance(x[:1]).round(4).tolist()  # 2 / (1 + 2 * 4)
    [[[0.2222]]]
    """
    if not isinstance(loss, SquaredError | SoftmaxCrossEntropy | BinaryCrossEntropy):
        raise TypeError(
            "laplace: loss: expected SquaredError, SoftmaxCrossEntropy or BinaryCrossEntropy, got "
            f"{label(loss)}. To fix it: train with one of these"
        )
    _check(loss, prior_precision, noise)
    inputs = x if type(x) is tuple else (x,)
    paths = _chosen(params, last_layer)
    function = _Function(net, params, state, paths)
    _check_memory(function.vector)
    output = run(net, params, state, *inputs).output
    xp = namespace(output)
    size = function.vector.shape[0]
    matrix: Array = xp.zeros((size, size), dtype=output.dtype, device=output.device)
    start = 0
    for rows in function.jacobians(inputs):
        roots = _curvature(loss, output[start : start + rows.shape[0], ...])
        start += rows.shape[0]
        # One product over rows and outputs: a matrix for each row would not fit into memory.
        both = (xp.reshape(each, (-1, size)) for each in (rows, xp.matmul(roots, rows)))
        matrix = matrix + _gram(*both)
    values, vectors = xp.linalg.eigh(matrix)
    values = xp.maximum(values, xp.zeros_like(values))  # rounding leaves some just below 0
    cost = xp.sum(loss.values(output, y))
    count = prod(output.shape)
    norm = xp.sum(function.vector**2)
    squared = isinstance(loss, SquaredError)
    errors = (cost, count) if squared else None
    given = [None if n is None else xp.zeros_like(cost) + n for n in (prior_precision, noise)]
    if not squared:
        given[1] = xp.ones_like(cost)
    precision, noise_ = _fitted(values, norm, errors, *given)
    likelihood = -cost
    if squared:
        likelihood = -0.5 * (cost / noise_ + count * xp.log(2.0 * pi * noise_))
    return Laplace(net, params, state, loss, paths, values, vectors, precision, noise_, likelihood)


def _gram(left: Array, right: Array) -> Array:
    """The products of columns: (parameters, parameters)."""
    xp = namespace(left, right)
    return xp.matmul(xp.matrix_transpose(left), right)


def _check(loss: Any, prior_precision: Any, noise: Any) -> None:
    """ValueError for what makes no normal distribution, or would be left out of it."""
    if getattr(loss, "class_weight", None) is not None:
        raise ValueError(
            f"laplace: loss: expected one without class_weight, got {label(loss)}: a likelihood "
            "counts each row once. To fix it: train without class_weight"
        )
    if noise is not None and not isinstance(loss, SquaredError):
        raise ValueError(
            f"laplace: noise: expected none under {label(loss)}, whose targets have no variance of "
            f"their own, got {noise!r}. To fix it: leave it out"
        )
    for name, number in (("prior_precision", prior_precision), ("noise", noise)):
        if number is not None and not 0.0 < float(number) < inf:
            raise ValueError(
                f"laplace: {name}: expected a number above 0, got {number!r}. To fix it: leave it "
                "out, and the largest marginal likelihood chooses one"
            )


def _covariance(rotated: Array, precision: Array) -> Array:
    """Of outputs whose derivatives, by the eigenvectors, are (rows, outputs, parameters)."""
    xp = namespace(rotated)
    return xp.matmul(rotated / precision, xp.matrix_transpose(rotated))


def _chosen(params: Any, last_layer: bool) -> tuple[str, ...]:
    """The paths of the parameters that are uncertain."""
    paths = [path for path, _ in tree.paths(params)]
    if last_layer:
        ending = paths[-1].rpartition(".")[0]
        paths = [path for path in paths if path.rpartition(".")[0] == ending]
    return tuple(paths)


def _norm(params: Any, paths: tuple[str, ...]) -> Array:
    """The sum of squares of the parameters at these paths."""
    squares = [namespace(a).sum(a * a) for path, a in tree.paths(params) if path in paths]
    return sum(squares[1:], squares[0])


class _Function:
    """A network's outputs for a row as a function of one vector of some of its parameters."""

    def __init__(self, net: Any, params: Any, state: Any, paths: tuple[str, ...]) -> None:
        self.net, self.params, self.state, self.chosen = net, params, state, set(paths)
        leaves = [leaf for path, leaf in tree.paths(params) if path in self.chosen]
        xp = namespace(*leaves)
        self.vector = xp.concat([xp.reshape(leaf, (-1,)) for leaf in leaves])

    def __call__(self, vector: Array, *row: Any) -> Array:
        """The outputs of one row: (outputs,)."""
        leaves, start = [], 0
        for path, leaf in tree.paths(self.params):
            if path in self.chosen:
                stop = start + prod(leaf.shape)
                leaf = namespace(vector).reshape(vector[start:stop], tuple(leaf.shape))
                start = stop
            leaves.append(leaf)
        params = tree.flatten(self.params)[1].unflatten(leaves)
        inputs = tree.map(lambda a: namespace(a).expand_dims(a, axis=0), row)
        output = run(self.net, params, self.state, *inputs).output
        return namespace(output).reshape(output, (-1,))

    def jacobians(self, inputs: tuple[Any, ...]) -> Any:
        """The derivatives of rows, so many at once as fit: (rows, outputs, parameters) each."""
        count = tree.leaves(inputs)[0].shape[0]
        first = tree.map(lambda a: a[0, ...], inputs)
        width = self(self.vector, *first).shape[0]
        most = max(1, _JACOBIAN // (8 * width * self.vector.shape[0]))
        for start in range(0, count, most):
            stop = min(start + most, count)
            part = tree.map(lambda a, s=start, e=stop: a[s:e, ...], inputs)
            yield vmap(lambda *row: jacobian(self)(self.vector, *row))(*part)


def _curvature(loss: Any, output: Array) -> Array:
    """The second derivatives of each row's loss by its outputs: (rows, outputs, outputs)."""
    flat = namespace(output).reshape(output, (output.shape[0], -1))
    xp = namespace(flat)
    one = xp.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    if isinstance(loss, SquaredError):
        return xp.broadcast_to(one, (flat.shape[0], *one.shape))
    p = loss.probabilities(flat)
    column = xp.expand_dims(p, axis=-1)
    if isinstance(loss, BinaryCrossEntropy):
        return one * column * (1.0 - column)
    return one * column - column * xp.expand_dims(p, axis=-2)


def _check_memory(vector: Array) -> None:
    """ValueError for a matrix that would take too much memory."""
    size = int(vector.shape[0])
    need = 3 * 8 * size * size
    if need > _MOST:
        raise ValueError(
            f"laplace: expected {int((_MOST / 24) ** 0.5):,} parameters at most, whose matrices "
            f"fit into 2 GiB, got {size:,}, which would take {need / 2**30:,.1f} GiB. To fix it: "
            "give last_layer=True, or a smaller network"
        )


def _evidence(eigenvalues: Array, precision: Array, norm: Array) -> Array:
    """The logarithm of the evidence, but for the likelihood of the parameters as they are."""
    xp = namespace(eigenvalues)
    ratio = xp.sum(xp.log((eigenvalues + precision) / precision))
    return -0.5 * (ratio + precision * norm)


def _fitted(
    eigenvalues: Array, norm: Array, errors: Any, precision: Array | None, noise: Array | None
) -> tuple[Array, Array]:
    """The prior precision and the noise of the largest marginal likelihood, where not given.

    errors: the sum of the squared errors, and how many they are; None without a noise.
    """
    xp = namespace(eigenvalues)
    fixed = precision is not None, noise is not None
    one = xp.ones_like(norm)
    precision = one if precision is None else precision
    noise = one * errors[0] / errors[1] if noise is None else noise
    if all(fixed):
        return precision, noise
    tiny = xp.finfo(norm.dtype).smallest_normal ** 0.5
    if not fixed[1]:  # of answers without an error
        noise = xp.maximum(noise, one * tiny)
    for _ in range(_ROUNDS):
        scaled = eigenvalues / noise
        known = xp.sum(scaled / (scaled + precision))  # the effective number of parameters
        if not fixed[0]:
            precision = xp.maximum(known / xp.maximum(norm, one * tiny), one * tiny)
        if not fixed[1]:
            rest = xp.maximum(errors[1] - known, one * 1e-3)
            noise = xp.maximum(errors[0] / rest, one * tiny)
    return precision, noise
