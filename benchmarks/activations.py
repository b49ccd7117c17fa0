"""What a step costs with each activation, loss and optimizer: loops beside calls.

    python benchmarks/activations.py [--rounds 7] [--only tanh,gelu] [--width 40] [--batch 48]

A network of 24-40-6, batches of 48, NumPy, on one thread; tanh, the squared error and SGD but for
what the row names. Both engines take turns in one process; a step is the difference of a long and a
short run of `tinynn.fit` in processor time, the least of each. "none" is a function that loops have
no words for, which "auto" leaves to calls. The last line says what is slower in loops.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported

import argparse  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from time import process_time  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from eager import machine  # noqa: E402

import tinynn  # noqa: E402
from tinynn import functional, losses, optim  # noqa: E402
from tinynn.layers import Linear, Sequential  # noqa: E402

BATCHES, SHORT, LONG = 10, 10, 160
ENGINES = ("calls", "loops")
ACTIVATIONS = """relu leaky_relu elu celu selu gelu silu mish sigmoid log_sigmoid softplus softsign
squareplus tanh tanh_shrink softmax log_softmax sparsemax glu relu6 hard_sigmoid hard_silu hard_tanh
hard_shrink soft_shrink threshold""".split()
LOSSES: dict[str, Any] = {
    "squared error": losses.SquaredError(),
    "absolute error": losses.AbsoluteError(),
    "Huber": losses.Huber(),
    "Poisson": losses.Poisson(),
    "binary cross-entropy": losses.BinaryCrossEntropy(),
    "cross-entropy of softmax": losses.SoftmaxCrossEntropy(),
    "negative log likelihood": losses.NegativeLogLikelihood(),
    "log cosh": losses.LogCosh(),
    "smooth L1": losses.SmoothL1(),
    "quantile": losses.Quantile(),
    "hinge": losses.Hinge(),
    "squared hinge": losses.SquaredHinge(),
    "binary focal": losses.BinaryFocal(),
    "focal of softmax": losses.SoftmaxFocal(),
    "cosine distance": losses.CosineDistance(),
    "Kullback-Leibler": losses.KLDivergence(),
}
OPTIMIZERS: dict[str, Any] = {
    "SGD": optim.SGD(0.01),
    "SGD, momentum": optim.SGD(0.01, momentum=0.9),
    "SGD, cosine decay": optim.SGD(optim.CosineDecay(0.01, steps=2000)),
    "RMSprop": optim.RMSprop(0.001),
    "Adagrad": optim.Adagrad(0.01),
    "Adadelta": optim.Adadelta(1.0),
    "Adam": optim.Adam(0.001),
    "AdamW": optim.AdamW(0.001),
    "NAdam": optim.NAdam(0.001),
    "Lion": optim.Lion(0.0001),
    "clipped by global norm": optim.Chain(optim.ClipByGlobalNorm(1.0), optim.SGD(0.01)),
    "averaged": optim.Averaged(optim.SGD(0.01)),
    "clipped by norm": optim.Chain(optim.ClipByNorm(1.0), optim.SGD(0.01)),
    "clipped by value": optim.Chain(optim.ClipByValue(1.0), optim.SGD(0.01)),
    "L2 penalty": optim.Chain(optim.L2(0.01), optim.SGD(0.01)),
    "accumulated": optim.Accumulate(optim.SGD(0.01), steps=2),
}


def rows(width: int) -> Iterator[tuple[str, str, Any, Any, Any]]:
    """Each row's kind and name, and its network, loss and optimizer."""
    plain = Sequential(Linear(width), functional.tanh, Linear(6))
    for name in ACTIVATIONS:
        net = Sequential(Linear(width), getattr(functional, name), Linear(6))
        yield "activation", name, net, LOSSES["squared error"], OPTIMIZERS["SGD"]
    for name, loss in LOSSES.items():
        net = plain
        if name == "negative log likelihood":
            net = Sequential(Linear(width), functional.tanh, Linear(6), functional.log_softmax)
        if name == "Kullback-Leibler":
            net = Sequential(Linear(width), functional.tanh, Linear(6), functional.log_softmax)
        yield "loss", name, net, loss, OPTIMIZERS["SGD"]
    for name, optimizer in OPTIMIZERS.items():
        yield "optimizer", name, plain, LOSSES["squared error"], optimizer


CLASSES = losses.SoftmaxCrossEntropy | losses.NegativeLogLikelihood | losses.SoftmaxFocal
TRUTHS = losses.BinaryCrossEntropy | losses.Poisson | losses.BinaryFocal


def targets(loss: Any, dtype: str, count: int) -> Any:
    """What the loss compares with."""
    draw = np.random.default_rng(1)
    if isinstance(loss, CLASSES):
        return draw.integers(0, 6, count)
    if isinstance(loss, TRUTHS):
        return draw.integers(0, 2, (count, 6)).astype(dtype)
    if isinstance(loss, losses.Hinge | losses.SquaredHinge):
        return draw.choice([-1, 1], (count, 6)).astype(dtype)
    if isinstance(loss, losses.KLDivergence):
        return draw.dirichlet(np.ones(6), count).astype(dtype)
    columns = 2 if isinstance(loss, losses.Quantile) else 6  # three quantiles of each
    return draw.standard_normal((count, columns)).astype(dtype)


def measured(
    net: Any, loss: Any, optimizer: Any, dtype: str, rounds: int, batch: int
) -> list[float] | None:
    """Microseconds a step, by engine; None where loops have no words."""
    x = np.random.default_rng(0).standard_normal((BATCHES * batch, 24)).astype(dtype)
    y = targets(loss, dtype, len(x))

    def run(engine: str, epochs: int) -> Any:
        settings = {"loss": loss, "optimizer": optimizer, "batch_size": batch, "epochs": epochs}
        return tinynn.fit(net, x, y, engine=engine, shuffle=False, progress=False, **settings)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*cannot be written as loops.*")
        try:
            final = [run(engine, SHORT).history["loss"][-1] for engine in ENGINES]
        except RuntimeWarning:
            return None
    np.testing.assert_allclose(*final, rtol=2e-3)
    least = {(engine, epochs): float("inf") for engine in ENGINES for epochs in (SHORT, LONG)}
    for _ in range(rounds):
        for engine, epochs in least:
            start = process_time()
            run(engine, epochs)
            spent = process_time() - start
            least[engine, epochs] = min(least[engine, epochs], spent)
    steps = (LONG - SHORT) * BATCHES
    return [(least[engine, LONG] - least[engine, SHORT]) / steps * 1e6 for engine in ENGINES]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--only", default="", help="names of rows, separated by commas")
    options.add_argument("--width", type=int, default=40)
    options.add_argument("--batch", type=int, default=48)
    given = options.parse_args()
    only = set(filter(None, given.only.split(",")))
    print(f"{machine(('numpy', 'llvmlite'))}; {given.rounds} rounds. Microseconds a step.\n")
    print("| | | float32: calls | loops | ratio | float64: calls | loops | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    slower = []
    for kind, name, *parts in rows(given.width):
        if only and name not in only:
            continue
        cells = []
        for dtype in ("float32", "float64"):
            found = measured(*parts, dtype, given.rounds, given.batch)
            if found is None:
                cells.append("| none |")
                continue
            calls, loops = found
            cells.append(f"{calls:.1f} | {loops:.1f} | {loops / calls:.2f}")
            if loops > calls:
                slower.append(f"{name}, {dtype}")
        print(f"| {kind} | {name} | {' | '.join(cells)} |", flush=True)
    print(f"\nSlower in loops: {'; '.join(slower) or 'nothing'}.")


if __name__ == "__main__":
    main()
