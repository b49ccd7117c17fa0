"""How the cost of a training step grows with the width of the network, and with the batch.

    python benchmarks/growth.py [--out benchmarks/growth.png] [--most 4096]

A network of two layers, Adam, cross-entropy, float32, in one process and on one thread: tinynn's
engines beside NumPy by hand, PyTorch and a lax.scan of JAX. Microseconds of processor time a step,
by the difference of two run lengths; the losses have to agree. What is not installed is left out.
"""

import os
from importlib.util import find_spec
from time import process_time
from typing import Any

import click

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import numpy as np  # noqa: E402
from dense import Dense  # noqa: E402
from works import Trained, fitted  # noqa: E402

STEPS = 4  # an epoch
ENOUGH = 0.1  # seconds by which the longer run is longer


def ways(work: Dense) -> dict[str, Trained]:
    """Every way of training that network that can be had here."""
    found = {"NumPy by hand": work.by_hand(), "tinynn calls": fitted(work, "calls")}
    if find_spec("llvmlite"):
        found["tinynn loops"] = fitted(work, "loops")
    if find_spec("torch"):
        found["PyTorch"] = work.pytorch()
    if find_spec("jax"):
        found["JAX scan"] = work.scan()
    return found


def seconds(run: Trained, epochs: int) -> float:
    """The processor time of a run."""
    start = process_time()
    run(epochs)
    return process_time() - start


def cost(run: Trained) -> float:
    """Microseconds a step: the middle one of three differences of two run lengths."""
    epochs = 1
    while True:
        epochs *= 2
        for each in (epochs, 2 * epochs):
            run(each)  # what is compiled anew for a number of epochs is compiled here
        short, long = (seconds(run, each) for each in (epochs, 2 * epochs))
        # What a run costs once differs from run to run: the steps have to outweigh that.
        if long - short > max(ENOUGH, short / 2):
            break
    spans = [seconds(run, 2 * epochs) - seconds(run, epochs) for _ in range(3)]
    return sorted(spans)[1] / epochs / STEPS * 1e6


def measured(width: int, batch: int) -> dict[str, float]:
    """The cost of a step for each way, once their losses agree."""
    work = Dense("growth", (width + 1, width, 10), batch, STEPS * batch, "adam")
    found, losses = {}, {}
    for name, run in ways(work).items():
        losses[name] = work.loss(run(2))
        found[name] = cost(run)
    reference = losses["NumPy by hand"]
    for name, loss in losses.items():
        if not np.isclose(loss, reference, rtol=1e-3):
            raise SystemExit(f"{name}: loss {loss}, by hand {reference}, width {width}: no result")
    row = "  ".join(f"{name} {value:,.1f}" for name, value in found.items())
    click.echo(f"width {width}, batch {batch}: {row}")
    return found


def drawn(panels: Any, out: str) -> None:
    """Both panels as a picture."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for axis, (title, label, values) in zip(axes, panels, strict=True):
        for name in next(iter(values.values())):
            axis.loglog(values.keys(), [row[name] for row in values.values()], "o-", label=name)
        axis.set(title=title, xlabel=label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("microseconds a step")
    axes[0].legend()
    figure.savefig(out, dpi=110)
    click.echo(f"wrote {out}")


@click.command(help=__doc__)
@click.option("--out", default="benchmarks/growth.png", show_default=True)
@click.option("--most", default=4096, show_default=True, help="The largest width and batch.")
def command(out: str, most: int) -> None:
    sizes = [4**power for power in range(1, 7) if 4**power <= most]
    widths = {width: measured(width, 32) for width in sizes}
    batches = {batch: measured(64, batch) for batch in sizes}
    drawn([("Batch of 32", "width", widths), ("Width 64", "batch", batches)], out)


if __name__ == "__main__":
    command()
