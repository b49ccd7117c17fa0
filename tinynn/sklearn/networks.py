"""The network, the loss and the optimizer that an estimator's parameters describe."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

from tinynn import functional, losses, optim, tree
from tinynn.data import Samples
from tinynn.functional import activations, piecewise
from tinynn.layers import Linear, Sequential
from tinynn.optim import LBFGS, SGD, Adam, InverseScaling, ReduceOnPlateau
from tinynn.trace import namespace
from tinynn.trace.scopes import scopes
from tinynn.training import TrainingStep


def _is_elementwise(function: Any) -> bool:
    """Whether an activation is one of each element, and needs no more than the array."""
    _, *more = signature(function).parameters.values()
    return all(each.name != "axis" and each.default is not each.empty for each in more)


# scikit-learn's names of activations; those of `tinynn.functional` are known as well.
_ACTIVATIONS = {"identity": None, "logistic": functional.sigmoid}
_ELEMENTWISE = {
    name: function
    for chapter in (activations, piecewise)
    for name in chapter.__all__
    if _is_elementwise(function := getattr(chapter, name))
}
ADAPTIVE_FACTOR = 0.2  # scikit-learn divides an adaptive learning rate by five
_NEVER = 2**30


def network(owner: str, parameters: Any, outputs: int, loss: Any) -> Any:
    """The layer to train: the one given, or hidden layers and one of so many outputs."""
    if parameters.network is not None:
        return parameters.network
    entries = _entries(owner, parameters.hidden_layer_sizes)
    widths = [entry for entry in entries if not callable(entry)]
    functions = iter(_activations(owner, parameters.activation, len(widths)))
    layers: list[Any] = []
    for entry in entries:
        if callable(entry):
            layers.append(entry)
        else:
            layers += [Linear(entry), *_given(next(functions))]
    layers += [Linear(outputs), *_given(_activation(owner, parameters.output_activation))]
    if isinstance(loss, losses.NegativeLogLikelihood) and parameters.output_activation is None:
        layers.append(functional.log_softmax)
    return Sequential(*layers)


def _given(function: Any) -> list[Any]:
    return [] if function is None else [function]


def _entries(owner: str, given: Any) -> list[Any]:
    """Widths, and layers among them."""
    several = isinstance(given, Iterable) and not isinstance(given, str)
    entries = list(given) if several else [given]
    for place, entry in enumerate(entries):
        whole = hasattr(entry, "__index__") and not isinstance(entry, bool) and int(entry) > 0
        layer = callable(entry) and not isinstance(entry, type)
        if not (whole or layer):
            raise ValueError(
                f"{owner}: hidden_layer_sizes: expected whole numbers above 0, or layers such as "
                f"Dropout(0.1), got {entry!r} in place {place}"
            )
    return [entry if callable(entry) else int(entry) for entry in entries]


def _activations(owner: str, given: Any, count: int) -> list[Any]:
    """A function for each hidden layer; None is the identity."""
    if isinstance(given, list | tuple):
        if len(given) != count:
            raise ValueError(
                f"{owner}: activation: expected one, or one for each of {count} hidden layers, "
                f"got {len(given)}"
            )
        return [_activation(owner, each) for each in given]
    return [_activation(owner, given)] * count


def _activation(owner: str, given: Any) -> Any:
    if given is None or (callable(given) and not isinstance(given, type)):
        return given
    if isinstance(given, str) and given in _ACTIVATIONS:
        return _ACTIVATIONS[given]
    if isinstance(given, str) and given in _ELEMENTWISE:
        return _ELEMENTWISE[given]
    known = ", ".join(sorted({*_ACTIVATIONS, *_ELEMENTWISE}))
    raise ValueError(
        f"{owner}: activation: expected one of {known}, or a function of an array, got {given!r}"
    )


def optimizer(parameters: Any, steps: int) -> Any:
    """The optimizer that the parameters describe, for so many steps an epoch."""
    solver = parameters.solver_ if parameters.solver == "auto" else parameters.solver
    if not isinstance(solver, str):
        return solver
    if solver == "lbfgs":
        return LBFGS(gradient_tolerance=parameters.tol or 0.0)
    rate = _rate(parameters)
    if solver == "adam":
        return Adam(
            rate, beta1=parameters.beta_1, beta2=parameters.beta_2, epsilon=parameters.epsilon
        )
    if solver == "sgd":
        momentum = parameters.momentum
        return SGD(
            rate, momentum=momentum, nesterov=bool(parameters.nesterovs_momentum and momentum)
        )
    found: Any = optim.get(solver)
    if found.whole_batch:  # no learning rate is meant for it
        return found
    return replace(found, learning_rate=rate)


def _rate(parameters: Any) -> Any:
    """The learning rate: a number, or a schedule."""
    first = parameters.learning_rate_init
    if parameters.learning_rate == "invscaling":
        return InverseScaling(first, power=parameters.power_t)
    if parameters.learning_rate == "adaptive":
        # The schedule keeps the factor; `Convergence` changes it, as only it knows when.
        return ReduceOnPlateau(first, factor=ADAPTIVE_FACTOR, patience=_NEVER)
    return first


@dataclass(frozen=True)
class PenalizedStep(TrainingStep):
    """A training step whose loss has the penalty of scikit-learn's `alpha`.

    alpha / 2 * sum(w**2) over all weights with two axes or more, divided by the number of samples
    in the batch, or by the sum of their weights.
    """

    alpha: float = 0.0

    def strengths(self, params: Any, batch: Samples) -> Any:
        strength, count = self.alpha, _count(batch)
        return tree.map(lambda leaf: strength / count if leaf.ndim >= 2 else 0.0, params)

    def objective(
        self, params: Any, state: Any, batch: Samples, key: Any, first_row: int = 0
    ) -> tuple[Any, Any]:
        value, state = super().objective(params, state, batch, key, first_row)
        with scopes.at("loss"):
            for weight in tree.leaves(params):
                if weight.ndim >= 2:
                    xp = namespace(weight)
                    value = value + 0.5 * self.alpha * xp.sum(weight * weight) / _count(batch)
        return value, state


def _count(batch: Samples) -> Any:
    """The number of samples, or the sum of their weights; 1 if all are 0."""
    if batch.sample_weight is None:
        return float(tree.leaves(batch.x)[0].shape[0])
    xp = namespace(batch.sample_weight)
    total = xp.sum(batch.sample_weight)
    return xp.where(total == 0, xp.ones_like(total), total)
