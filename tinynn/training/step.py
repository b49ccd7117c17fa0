"""A training step: a pure function of arrays, small enough to be recorded as a whole."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tinynn import tree
from tinynn.data import Samples
from tinynn.layers import run
from tinynn.optim import loss_scale
from tinynn.optim.scaling import all_finite
from tinynn.parallel.shard import Shard
from tinynn.trace import namespace
from tinynn.trace.scopes import scopes
from tinynn.training.objective import objective_of
from tinynn.transforms import value_and_grad

Tree = Any
#: Of what optimizers need, the part that a recorded step can give.
RECORDED_NEEDS = frozenset({"value", "loss_scale", "objective"})


class Carry(NamedTuple):
    """The values that one training step passes on to the next.

    Attributes
    ----------
    params
        The network's parameters.
    state
        The network's state, such as running statistics.
    optimizer_state
        What the optimizer keeps.
    """

    params: Tree
    state: Tree
    optimizer_state: Any


@dataclass(frozen=True)
class TrainingStep:
    """One step of training: the gradient, its reduction, and the update of the parameters.

    Attributes
    ----------
    net
        A layer.
    loss
        A function of (prediction, target) or (prediction, target, sample_weight).
    optimizer
        What makes new parameters of a gradient.
    by_row
        Whether the network answers each row as if it came alone: derivatives are then found from
        it, which is the less work.
    reduce_gradients
        Applied to the gradients before the update; None leaves them.
    shard
        The rows of a batch that this process computes with, in training on several: see
        `tinynn.parallel`. None: all of them.
    compute_dtype
        The name of the dtype that layers compute in, None for that of the parameters.
        Parameters, state, loss, gradients and update keep theirs.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> from tinynn.losses import SquaredError
    >>> from tinynn.optim import SGD
    >>> step = TrainingStep(Linear(1), SquaredError(), SGD(0.1))
    >>> batch = Samples(np.asarray([[1.0], [2.0]]), np.asarray([[3.0], [5.0]]))
    >>> carry = step.init(0, batch)
    >>> carry, loss = step(carry, batch, None)
    >>> loss.shape, carry.params["weight"].shape
    ((), (1, 1))
    """

    net: Any
    loss: Any
    optimizer: Any
    reduce_gradients: Callable[[Tree], Tree] | None = None
    compute_dtype: str | None = None
    by_row: bool = False
    shard: Shard | None = None

    def init(self, key: Any, batch: Samples, dtype: Any = None) -> Carry:
        """The carry to start from, for batches like this one."""
        params, state = self.net.init(key, *batch.inputs, dtype=dtype)
        return Carry(params, state, self.optimizer.init(params))

    def objective(
        self, params: Tree, state: Tree, batch: Samples, key: Any, first_row: int = 0
    ) -> tuple[Any, Tree]:
        """(loss, new state) of a batch, in training: what is differentiated by `params`.

        Of a shard it is this process's part of the loss: their sum is that of the whole batch.
        """
        shard = self.shard
        out = run(
            self.net, params, state, *batch.inputs, key=key, training=True,
            first_row=first_row if shard is None else shard.first_row,
            compute_dtype=self.compute_dtype, shard=shard,
        )  # fmt: skip
        with scopes.at("loss"):
            value = self.cost(out.output, batch)
            if shard is not None:
                value = shard.part_of_loss(value, weight_of(self.loss, out.output, batch))
            for added in out.losses.values():
                value = value + (added if shard is None else added * shard.fraction)
        return value, out.state

    def cost(self, prediction: Tree, batch: Samples) -> Any:
        """The loss of a prediction, without penalties."""
        return cost(self.loss, prediction, batch)

    def strengths(self, params: Tree, batch: Samples) -> Tree | None:
        """For each parameter the strength of a penalty in `objective`, half of it times the square.

        None where there is no penalty.
        """
        return None

    def gradients(self, carry: Carry, batch: Samples, key: Any) -> tuple[Any, Tree, Tree]:
        """(loss, new state, gradients by the parameters)."""
        needs = getattr(self.optimizer, "needs", ())
        scale = loss_scale(carry.optimizer_state) if "loss_scale" in needs else None

        def objective(params: Tree) -> tuple[Any, tuple[Any, Tree]]:
            value, state = self.objective(params, carry.state, batch, key)
            return value if scale is None else value * scale, (value, state)

        (_, (value, state)), gradients = value_and_grad(objective, has_aux=True)(carry.params)
        if scale is not None:
            gradients = tree.map(lambda g: namespace(g, scale).divide(g, scale), gradients)
        if self.shard is not None:
            with scopes.at("all_reduce"):
                value, state, gradients = self.shard.reduced(value, state, gradients)
        if self.reduce_gradients is not None:
            gradients = self.reduce_gradients(gradients)
        return value, state, gradients

    def __call__(self, carry: Carry, batch: Samples, key: Any) -> tuple[Carry, Any]:
        """(carry, loss) one step on. key: (2,) int32, or None if no layer draws."""
        return self.advanced(carry, batch, key, self.gradients)

    def advanced(
        self, carry: Carry, batch: Samples, key: Any, gradients_of: Callable[..., Any]
    ) -> tuple[Carry, Any]:
        """The same, with a function in place of `gradients`, which knows a faster way to them."""
        needs = getattr(self.optimizer, "needs", ())
        if "objective" in needs:  # which finds the derivatives that it needs by itself
            (value, state), gradients = self.objective(*carry[:2], batch, key), None
        else:
            value, state, gradients = gradients_of(carry, batch, key)
        extras = self._extras(value, carry, batch, key, gradients_of)
        with scopes.at("update"):
            params, optimizer_state = self.optimizer.update(
                gradients, carry.optimizer_state, carry.params, **extras
            )
        if "loss_scale" in extras:  # the optimizer left the step out, and so does the state
            sound = all_finite(tree.leaves(gradients))
            state = tree.map(
                lambda new, old: namespace(sound, new, old).where(sound, new, old),
                state,
                carry.state,
            )
        return Carry(params, state, optimizer_state), value

    def _extras(
        self, value: Any, carry: Carry, batch: Samples, key: Any, gradients_of: Any = None
    ) -> dict[str, Any]:
        """The values that the optimizer needs beside the gradient, by name."""

        def again(params: Tree) -> tuple[Any, Tree]:
            value, _, gradients = gradients_of(carry._replace(params=params), batch, key)
            return value, gradients

        have = {"value": value, "value_and_grad": again}
        needs = getattr(self.optimizer, "needs", ())
        if "loss_scale" in needs:
            have["loss_scale"] = loss_scale(carry.optimizer_state)
        if "objective" in needs:
            have["objective"] = objective_of(self, carry, batch, key)
        return {name: have[name] for name in ("value", *needs)} if needs else {}


def cost(loss: Any, prediction: Tree, samples: Samples) -> Any:
    """The loss of a prediction: a 0-d array. A plain function is not asked to weigh samples."""
    if samples.sample_weight is None:
        return loss(prediction, samples.y)
    return loss(prediction, samples.y, samples.sample_weight)


def weight_of(loss: Any, prediction: Tree, samples: Samples) -> Any:
    """The weights that the loss of a prediction was divided by, 0-d; None if all rows weigh 1."""
    if hasattr(loss, "total_weight"):
        return loss.total_weight(prediction, samples.y, samples.sample_weight)
    weight = samples.sample_weight
    return None if weight is None else namespace(weight).sum(weight)


def is_same_tree(a: Tree, b: Tree) -> bool:
    """True if two trees hold the very same arrays."""
    left, right = tree.leaves(a), tree.leaves(b)
    return len(left) == len(right) and all(x is y for x, y in zip(left, right, strict=True))
