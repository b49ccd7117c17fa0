"""Outputs of a network for many samples, and what is measured of them."""

from collections.abc import Iterator, Sequence
from typing import Any

from backends import Backend
from tinynn.data import BlockDataset, Dataset, Samples, target_like
from tinynn.data.streams import Stream
from tinynn.layers import run
from tinynn.metrics import Metric, MetricLike
from tinynn.parallel import Communicator
from tinynn.training.inference import Inference, concatenated
from tinynn.training.ranges import Ranges
from tinynn.training.sharded import Gathering
from tinynn.training.step import cost

ROWS_AT_ONCE = 8192  # of a forward pass that only measures


def measure(
    loss: Any, metrics: Sequence[MetricLike], prediction: Any, samples: Samples
) -> list[Any]:
    """The loss, if there is one, and the metrics: arrays on the device, 0-d but of matrices."""
    measured = [] if loss is None else [cost(loss, prediction, samples)]
    for metric in metrics:
        if isinstance(metric, Metric):  # without what a call checks, which would end a training
            found = metric.measure(prediction, samples.y, samples.sample_weight)
            measured.append(metric.compute(found))
        else:  # a plain function is not asked to weigh samples
            measured.append(metric(prediction, samples.y))
    return measured


def evaluate(
    net: Any,
    params: Any,
    state: Any,
    dataset: Dataset,
    loss: Any,
    metrics: Sequence[MetricLike],
    backend: Backend,
    batch_size: int | None = None,
    communicator: Communicator | None = None,
) -> list[Any]:
    """The loss, if there is one, and the metrics over a dataset: 0-d arrays on the device.

    The inputs are read in pieces, where no row's output depends on the others; the outputs and
    targets of all samples are held at once. Of several processes each reads and computes its share
    of the samples, and measures all of them; of a stream each reads all.
    """
    xp, inference = backend.xp, Inference(net, params, state, backend)
    predictions, rest = [], []
    gathering = None
    if communicator is not None and not isinstance(dataset, Stream | BlockDataset):
        gathering = Gathering(communicator, dataset.size, xp)
        dataset = gathering.own(dataset)
    for samples in _passes(dataset, inference, batch_size):
        predictions.append(run(net, params, state, *samples.inputs).output)
        rest.append(samples._replace(x=()))
    prediction, known = concatenated(predictions, xp), concatenated(rest, xp)
    if gathering is not None:
        prediction, known = gathering.gathered((prediction, known))
    return measure(loss, metrics, prediction, matched(known, prediction, xp))


def _passes(dataset: Any, inference: Inference, batch_size: int | None) -> Iterator[Samples]:
    """The samples of each pass through the network; of a stream its batches, of blocks as read."""
    if isinstance(dataset, Stream):
        yield from dataset.batches()
        return
    if isinstance(dataset, BlockDataset):
        most = batch_size or ROWS_AT_ONCE
        for piece in dataset.batches():
            for start in range(0, piece.size, most):
                yield piece.between(start, min(start + most, piece.size))
        return
    for start, stop, _ in inference.parts(dataset, batch_size, ROWS_AT_ONCE):
        yield dataset.between(start, stop)


def matched(samples: Samples, prediction: Any, xp: Any) -> Samples:
    """The samples, whose single target has the axes of a single output."""
    if hasattr(samples.y, "ndim") and hasattr(prediction, "ndim"):
        return samples._replace(y=target_like(samples.y, prediction, xp))
    return samples


def numbers(backend: Backend, arrays: Sequence[Any]) -> list[Any]:
    """0-d arrays as Python numbers, others as nested lists of them, all in one reading."""
    return [array.tolist() for array in on_host(backend, arrays)] if arrays else []


def on_host(backend: Backend, arrays: Sequence[Any]) -> list[Any]:
    """NumPy arrays of the first floating dtype among these arrays, all in one reading."""
    xp = backend.xp
    floats = (a.dtype for a in arrays if xp.isdtype(a.dtype, "real floating"))
    dtype = next(floats, backend.default_float)
    flat = [xp.reshape(xp.astype(a, dtype, copy=False), (-1,)) for a in arrays]
    row, found, start = backend.to_host(flat[0] if len(flat) == 1 else xp.concat(flat)), [], 0
    for array, part in zip(arrays, flat, strict=True):
        stop = start + part.shape[0]
        found.append(row[start:stop].reshape(tuple(array.shape)))
        start = stop
    return found


def check_targets(loss: Any, prediction: Any, samples: Samples) -> None:
    """Let the loss check the targets, if it has such a method."""
    check = getattr(loss, "check", None)
    if check is not None:
        check(prediction, samples.y, samples.sample_weight)


def check_samples(ranges: Ranges, loss: Any, prediction: Any, samples: Samples) -> None:
    """Errors for samples that were read, whose inputs or targets are out of range."""
    ranges.check(samples.inputs)
    check_targets(loss, prediction, samples)
