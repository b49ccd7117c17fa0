"""What optimizers of second order are given: the loss as a function of what the network answers."""

from collections.abc import Callable
from typing import Any

from tinynn import tree
from tinynn.config import label
from tinynn.data import Samples
from tinynn.layers import run
from tinynn.optim.second_order.objective import Objective
from tinynn.trace import namespace

Tree = Any
FEW = 16  # rows that are enough to see whether they count for each other
_OFF = 0.125  # added to parameters, as one of 0 may keep what rows have to do with each other out


def objective_of(step: Any, carry: Any, batch: Samples, key: Any) -> Objective:
    """The objective of a training step on a batch.

    step: a `TrainingStep`. Where a loss added by a layer, or the loss itself, keeps the whole from
    being convex in the prediction, the objective says so to who asks for it.
    """
    state = carry.state

    def loss(params: Tree) -> Any:
        return step.objective(params, state, batch, key)[0]

    def forward(params: Tree, **tapped: Any) -> Any:
        out = run(
            step.net, params, state, *batch.inputs, key=key, training=True,
            compute_dtype=step.compute_dtype, **tapped,
        )  # fmt: skip
        if out.losses:
            raise ValueError(
                "fit: optimizer: expected a loss of the network's output alone, got one to which "
                f"layers add {', '.join(out.losses)}. To fix it: take NewtonCG or LBFGS, or leave "
                "these losses out"
            )
        return out

    def predict(params: Tree) -> Tree:
        return forward(params).output

    def tapped(params: Tree, perturbations: dict[str, Any]) -> tuple[Tree, dict[str, Any]]:
        out = forward(params, perturbations=perturbations, tapping=True)
        return out.output, out.taps

    def cost(prediction: Tree) -> Any:
        return step.cost(prediction, batch)

    if not getattr(step.loss, "convex", False):
        return Objective(loss, unfit=_unfit(step.loss))
    row = _of_row(step, state, batch, key) if step.by_row else None
    rows = batch.inputs if row else None
    return Objective(
        loss, predict, cost, row, rows, step.strengths(carry.params, batch), tapped=tapped,
        weights=batch.sample_weight,
    )  # fmt: skip


def _unfit(loss: Any) -> str:
    return (
        "expected a loss that is convex in the prediction and curved, such as SquaredError(), "
        f"SoftmaxCrossEntropy() or Huber(), got {label(loss)}. To fix it: take NewtonCG or LBFGS, "
        "which work with any, or one of these losses"
    )


def _of_row(step: Any, state: Tree, batch: Samples, key: Any) -> Callable[[Tree, Tree], Tree]:
    def row(params: Tree, inputs: Tree) -> Tree:
        alone = tree.map(lambda leaf: namespace(leaf).expand_dims(leaf, axis=0), inputs)
        return run(
            step.net, params, state, *alone, key=key, training=True,
            compute_dtype=step.compute_dtype,
        ).output  # fmt: skip

    return row


def is_by_row(step: Any, start: tuple[Tree, Tree], samples: Samples, key: Any) -> bool:
    """Whether the network answers each row as if it came alone, in training; reads one boolean.

    Then the derivatives of a row's answers are found from it alone, for less. samples: a few.
    """
    from tinynn.transforms import vmap  # few optimizers need it

    state = start[1]
    params = tree.map(lambda leaf: leaf + _OFF, start[0])

    def answers() -> tuple[Any, Tree]:
        out = run(step.net, params, state, *samples.inputs, key=key, training=True)
        if out.draws or not hasattr(out.output, "dtype"):
            return None, None
        alone = vmap(lambda row: _of_row(step, state, samples, key)(params, row))(samples.inputs)
        return namespace(alone).reshape(alone, out.output.shape), out.output

    try:
        alone, together = answers()
    except Exception:  # of whatever kind, from a layer that takes all rows or none
        return False
    if alone is None:
        return False
    xp = namespace(together)
    off = xp.abs(alone - together)
    room = 100.0 * float(xp.finfo(off.dtype).eps) * (1.0 + xp.max(xp.abs(together)))
    return bool(xp.max(off) <= room)
