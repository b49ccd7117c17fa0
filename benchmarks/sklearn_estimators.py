"""tinynn.sklearn beside scikit-learn's MLPClassifier and skorch, on the digits.

    python benchmarks/sklearn_estimators.py [--rounds 7] [--epochs 30]

All in one process and on one thread, in turn, in wall time. The same network (64-100-10, relu),
Adam, batch, number of epochs and training rows; weights start at random, so accuracies on the rows
held out are of one seed a round. Ratios to MLPClassifier are medians over the rounds. What is not
installed is left out.
"""

import importlib.util
import os
import warnings
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported

import click  # noqa: E402
import numpy as np  # noqa: E402
from eager import machine  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.neural_network import MLPClassifier  # noqa: E402

from tinynn.sklearn import NetworkClassifier  # noqa: E402

Made = Callable[[int, int, int], Any]  # (epochs, batch size, seed) -> an estimator


def same(kind: Any, **settings: Any) -> Made:
    """An estimator with MLPClassifier's parameters, which trains for all epochs."""

    def make(epochs: int, batch: int, seed: int) -> Any:
        given = {"batch_size": batch, "max_iter": epochs, "random_state": seed}
        return kind((100,), alpha=1e-4, n_iter_no_change=epochs + 1, **given, **settings)

    return make


def skorch(epochs: int, batch: int, seed: int) -> Any:
    import torch
    from skorch import NeuralNetClassifier

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    net = torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
    return NeuralNetClassifier(
        net, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=0.001,
        max_epochs=epochs, batch_size=batch, train_split=None, verbose=0,
        iterator_train__shuffle=True,
    )  # fmt: skip


def competitors() -> dict[str, Made]:
    found = {
        "MLPClassifier": same(MLPClassifier),
        "NetworkClassifier": same(NetworkClassifier),
        "NetworkClassifier, tol=None": same(NetworkClassifier, tol=None),
    }
    if importlib.util.find_spec("skorch"):
        found["skorch"] = skorch
    else:
        print("skorch is not installed, and left out")
    return found


@click.command()
@click.option("--rounds", default=7)
@click.option("--epochs", default=30)
def main(rounds: int, epochs: int) -> None:
    warnings.simplefilter("ignore")
    table = np.loadtxt("examples/data/digits.csv", delimiter=",", skiprows=1, dtype=int)
    X, y = (table[:, :64] / 16).astype("float32"), table[:, 64]
    print(machine())
    for batch in (32, 200):
        seconds: dict[str, list[float]] = {}
        scores: dict[str, list[float]] = {}
        for seed in range(rounds + 1):
            parts = train_test_split(X, y, stratify=y, random_state=seed)
            for name, make in competitors().items():
                model = make(epochs, batch, seed)
                before = perf_counter()
                model.fit(parts[0], parts[2])
                took = perf_counter() - before
                if seed:  # the first round pays for imports, and for what is compiled
                    seconds.setdefault(name, []).append(took)
                    scores.setdefault(name, []).append(model.score(parts[1], parts[3]))
        print(f"\n{epochs} epochs of {len(parts[0])} rows, batch {batch}, {rounds} rounds")
        print("| | s | least | times MLPClassifier | accuracy |\n|---|---|---|---|---|")
        for name, took in seconds.items():
            ratio = median(a / b for a, b in zip(took, seconds["MLPClassifier"], strict=True))
            accuracy = f"{median(scores[name]):.3f}"
            print(f"| {name} | {median(took):.2f} | {min(took):.2f} | {ratio:.2f} | {accuracy} |")


if __name__ == "__main__":
    main()
