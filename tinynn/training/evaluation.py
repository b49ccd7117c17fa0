"""Outputs of a network for many samples, and what is measured of them."""

from collections.abc import Sequence
from typing import Any

from backends import Backend
from tinynn import tree
from tinynn.data import Dataset, Samples, target_like
from tinynn.data.streams import rows_in_pieces
from tinynn.layers import run
from tinynn.metrics import Metric, MetricLike
from tinynn.training.step import cost

ROWS_AT_ONCE = 8192  # of a forward pass that only measures


def forward(
    net: Any, params: Any, state: Any, x: Any, xp: Any, batch_size: int | None = None
) -> Any:
    """The network's output in inference for x, in pieces of at most `batch_size` samples."""
    inputs = x if type(x) is tuple else (x,)
    count = tree.leaves(x)[0].shape[0]
    if batch_size is None or batch_size >= count:
        return run(net, params, state, *inputs).output
    if batch_size < 1:
        raise ValueError(
            f"predict: batch_size: expected 1 or more, or None, got {batch_size}. To fix it: "
            "give how many samples to pass at once"
        )
    pieces = []
    for start in range(0, count, batch_size):
        stop = min(start + batch_size, count)
        part = tree.map(lambda a, start=start, stop=stop: a[start:stop, ...], inputs)
        pieces.append(run(net, params, state, *part).output)
    return concatenated(pieces, xp)


def measure(
    loss: Any, metrics: Sequence[MetricLike], prediction: Any, samples: Samples
) -> list[Any]:
    """The loss, if there is one, and the metrics: 0-d arrays on the device."""
    measured = [] if loss is None else [cost(loss, prediction, samples)]
    for metric in metrics:
        # A plain function is not asked to weigh samples.
        weighs = samples.sample_weight is not None and isinstance(metric, Metric)
        weights = (samples.sample_weight,) if weighs else ()
        measured.append(metric(prediction, samples.y, *weights))
    return measured


def evaluate(
    net: Any,
    params: Any,
    state: Any,
    dataset: Dataset,
    loss: Any,
    metrics: Sequence[MetricLike],
    backend: Backend,
    batch_size: int | None = ROWS_AT_ONCE,
) -> list[Any]:
    """The loss, if there is one, and the metrics over a dataset: 0-d arrays on the device.

    The inputs are read in pieces; the outputs and targets of all samples are held at once.
    """
    xp, predictions, rest = backend.xp, [], []
    for samples in rows_in_pieces(dataset, batch_size):
        predictions.append(run(net, params, state, *samples.inputs).output)
        rest.append(samples._replace(x=()))
    prediction = concatenated(predictions, xp)
    return measure(loss, metrics, prediction, matched(concatenated(rest, xp), prediction, xp))


def concatenated(parts: list[Any], xp: Any) -> Any:
    """Trees of arrays put together along their first axis."""
    if len(parts) == 1:
        return parts[0]
    return tree.map(lambda *arrays: xp.concat(arrays, axis=0), *parts)


def matched(samples: Samples, prediction: Any, xp: Any) -> Samples:
    """The samples, whose single target has the axes of a single output."""
    if hasattr(samples.y, "ndim") and hasattr(prediction, "ndim"):
        return samples._replace(y=target_like(samples.y, prediction, xp))
    return samples


def numbers(backend: Backend, scalars: Sequence[Any]) -> list[float]:
    """0-d arrays as Python numbers, all in one reading."""
    if not scalars:
        return []
    xp = backend.xp
    row: list[float] = backend.to_host(
        xp.stack([xp.astype(scalar, scalars[0].dtype, copy=False) for scalar in scalars])
    ).tolist()
    return row


def check_targets(loss: Any, prediction: Any, samples: Samples) -> None:
    """Let the loss check the targets, if it has such a method."""
    check = getattr(loss, "check", None)
    if check is not None:
        check(prediction, samples.y, samples.sample_weight)
