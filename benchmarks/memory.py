"""The memory of a training step: tinynn on NumPy beside PyTorch.

pip install torch jax equinox optax
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
python benchmarks/memory.py [--only lenet]

The networks of `on_their_arrays.py`, and more; the same start, batches and losses, float32. Each
trains two epochs in a process of its own. What is counted is the most anonymous memory (of Linux)
beyond what the process held after a step of two rows, with its data made and what that step left
given back: parameters, the optimizer's state, gradients, and what lies between layers. PyTorch's
parameters are made before, and are added.
"""

import ctypes
import gc
import multiprocessing
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch._dynamo  # which its optimizers import with their first step
from convolutional import WORKS
from on_their_arrays import ALL, Trained, Work, classes, dense, draws, images, of_torch, ours
from torch import nn

from backends import numpy_functions
from tinynn import layers, tree
from tinynn.functional import relu


def depthwise() -> Work:
    def as_theirs(params: Any) -> list[Any]:
        turns = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
        found = [params[i][kind] for i in ("0", "2", "5") for kind in ("weight", "bias")]
        return [np.ascontiguousarray(p.transpose(turns[p.ndim])) for p in found]

    return Work(
        "Depthwise 3 x 3 and 1 x 1, 32-64, 32 x 32, batch 32, momentum",
        layers.Sequential(
            layers.Conv2d(32, kernel_size=3, padding=1, groups=32), relu,
            layers.Conv2d(64, kernel_size=1), relu,
            layers.GlobalAvgPool(), layers.Linear(10),
        ),
        "cross entropy", "momentum",
        lambda: nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        ),
        None,
        (draws(64, 32, 32, 32), classes(10, 64)),
        32,
        as_theirs,
        theirs=lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)),
        loops=False,
    )  # fmt: skip


def vocabulary() -> Work:
    """As `embedding`, of the tokens of a language."""
    made, ids = ALL["embedding"](), np.random.default_rng(0).integers(0, 100_000, (320, 50))
    return replace(
        made,
        title="EmbeddingBag 100,000 x 64, 50 tokens, Adam",
        net=layers.Sequential(layers.EmbeddingBag(100_000, 64), layers.Linear(4)),
        torch=lambda: nn.Sequential(nn.EmbeddingBag(100_000, 64, mode="mean"), nn.Linear(64, 4)),
        data=(ids.astype("int32"), made.data[1]),
    )


def wider() -> Work:
    title, widths = "784-1024-512-10, batch 128, Adam", (784, 1024, 512, 10)
    return replace(dense(title, widths, 128, 1280), loops=False)


def wide() -> Work:
    title, widths = "1024-2048-2048-10, batch 512, Adam", (1024, 2048, 2048, 10)
    return replace(dense(title, widths, 512, 1024), loops=False)


def w4() -> Work:
    title, widths = "1024-2048-2048-1024, batch 512, SGD", (1024, 2048, 2048, 1024)
    data = draws(1024, 1024), draws(1024, 1024, seed=1)
    made = dense(title, widths, 512, 1024)
    return replace(made, loss="mean squared", optimizer="SGD, 0.01", data=data, loops=False)


BESIDE: dict[str, Callable[[], Work]] = {
    **{name: ALL[name] for name in ("lenet", "gru", "lstm", "block", "embedding", "w3")},
    "vocabulary": vocabulary,
    "wider": wider,
    "blocks": lambda: images(WORKS[1], "Blocks 3 x 3, 32 channels, momentum", None),
    "depthwise": depthwise,
    "w4": w4,
    "wide": wide,
}


def without_llvmlite(work: Work) -> Trained:
    numpy_functions.has_llvm = lambda: False
    return ours(work, "numpy", "calls")


def with_llvmlite(work: Work) -> Trained:
    """By the engine that `fit` takes for long runs."""
    return ours(work, "numpy", "loops" if work.loops else "calls")


WAYS = {
    "PyTorch": of_torch,
    "NumPy alone": without_llvmlite,
    "with llvmlite": with_llvmlite,
}


def status(name: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024


def peak(work: Work, way: str, pipe: Any) -> None:
    """Send the MB at most, and the losses."""
    x, y = work.data
    make, parameters = WAYS[way], sum(leaf.nbytes for leaf in tree.leaves(work.start))
    make(replace(work, data=(x[:2], y[:2]), batch=2, given=work.start))(1)
    run = make(work)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("RssAnon")
    Path("/proc/self/clear_refs").write_text("5")  # what is held now is the most there was
    losses = run(2)
    most = status("VmHWM") - status("RssFile") - before
    pipe.send((most + (parameters / 2**20 if way == "PyTorch" else 0), np.asarray(losses)))


def measured(work: Work, way: str) -> tuple[float, Any]:
    """In a process of its own, which is a copy of this one."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=peak, args=(work, way, theirs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # JAX says so of its threads: none is used
        process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


@click.command(help=__doc__)
@click.option("--only", type=click.Choice([*BESIDE]), multiple=True)
def main(only: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    print("| a step of | " + " | ".join(f"{way}, MB" for way in WAYS) + " | times PyTorch |")
    print("|---" * (len(WAYS) + 2) + "|")
    for name in only or BESIDE:
        work = BESIDE[name]()
        found = {way: measured(work, way) for way in WAYS}
        (theirs, losses), *own = found.values()
        for _, other in own:
            np.testing.assert_allclose(other, losses, rtol=1e-3)
        shown = " | ".join(f"{most:.1f}" for most, _ in found.values())
        ratios = ", ".join(f"{most / theirs:.2f}" for most, _ in own)
        print(f"| {work.title} | {shown} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
