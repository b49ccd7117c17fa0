"""What a step costs with each activation, loss and optimizer: loops beside calls.

    python benchmarks/activations.py [--rounds 7] [--only tanh,gelu]

A network of 24-40-6, batches of 48, NumPy, on one thread; tanh, the squared error and SGD but for
what the row names. Both engines take turns in one process; a step is the difference of a long and a
short run of `tinynn.fit` in processor time, the least of each.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported

import argparse  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from time import process_time  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from eager import machine  # noqa: E402

import tinynn  # noqa: E402
from tinynn import functional, losses, optim  # noqa: E402
from tinynn.layers import Linear, Sequential  # noqa: E402

ROWS, BATCH, SHORT, LONG = 480, 48, 10, 160
ENGINES = ("calls", "loops")
ACTIVATIONS = "relu leaky_relu elu gelu silu sigmoid softplus tanh softmax log_softmax".split()
LOSSES: dict[str, Any] = {
    "squared error": losses.SquaredError(),
    "absolute error": losses.AbsoluteError(),
    "Huber": losses.Huber(),
    "Poisson": losses.Poisson(),
    "binary cross-entropy": losses.BinaryCrossEntropy(),
    "cross-entropy of softmax": losses.SoftmaxCrossEntropy(),
    "negative log likelihood": losses.NegativeLogLikelihood(),
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
}


def rows() -> Iterator[tuple[str, str, Any, Any, Any]]:
    """Each row's kind and name, and its network, loss and optimizer."""
    plain = Sequential(Linear(40), functional.tanh, Linear(6))
    for name in ACTIVATIONS:
        net = Sequential(Linear(40), getattr(functional, name), Linear(6))
        yield "activation", name, net, LOSSES["squared error"], OPTIMIZERS["SGD"]
    for name, loss in LOSSES.items():
        net = plain
        if name == "negative log likelihood":
            net = Sequential(Linear(40), functional.tanh, Linear(6), functional.log_softmax)
        yield "loss", name, net, loss, OPTIMIZERS["SGD"]
    for name, optimizer in OPTIMIZERS.items():
        yield "optimizer", name, plain, LOSSES["squared error"], optimizer


def targets(loss: Any, dtype: str) -> Any:
    """What the loss compares with."""
    draw = np.random.default_rng(1)
    if isinstance(loss, losses.SoftmaxCrossEntropy | losses.NegativeLogLikelihood):
        return draw.integers(0, 6, ROWS)
    if isinstance(loss, losses.BinaryCrossEntropy | losses.Poisson):
        return draw.integers(0, 2, (ROWS, 6)).astype(dtype)
    return draw.standard_normal((ROWS, 6)).astype(dtype)


def measured(net: Any, loss: Any, optimizer: Any, dtype: str, rounds: int) -> list[float]:
    """Microseconds a step, by engine."""
    x = np.random.default_rng(0).standard_normal((ROWS, 24)).astype(dtype)
    y = targets(loss, dtype)

    def run(engine: str, epochs: int) -> Any:
        settings = {"loss": loss, "optimizer": optimizer, "batch_size": BATCH, "epochs": epochs}
        return tinynn.fit(net, x, y, engine=engine, shuffle=False, progress=False, **settings)

    final = [run(engine, SHORT).history["loss"][-1] for engine in ENGINES]
    np.testing.assert_allclose(*final, rtol=2e-3)
    least = {(engine, epochs): float("inf") for engine in ENGINES for epochs in (SHORT, LONG)}
    for _ in range(rounds):
        for engine, epochs in least:
            start = process_time()
            run(engine, epochs)
            spent = process_time() - start
            least[engine, epochs] = min(least[engine, epochs], spent)
    steps = (LONG - SHORT) * (ROWS // BATCH)
    return [(least[engine, LONG] - least[engine, SHORT]) / steps * 1e6 for engine in ENGINES]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--only", default="", help="names of rows, separated by commas")
    given = options.parse_args()
    only = set(filter(None, given.only.split(",")))
    print(f"{machine(('numpy', 'llvmlite'))}; {given.rounds} rounds. Microseconds a step.\n")
    print("| | | float32: calls | loops | ratio | float64: calls | loops | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, name, *parts in rows():
        if only and name not in only:
            continue
        cells = []
        for dtype in ("float32", "float64"):
            calls, loops = measured(*parts, dtype, given.rounds)
            cells.append(f"{calls:.1f} | {loops:.1f} | {loops / calls:.2f}")
        print(f"| {kind} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
