"""tinynn.sklearn beside scikit-learn's perceptrons and skorch: time, and what they learn.

    python benchmarks/sklearn_estimators.py [--works digits32,covertype] [--seeds 10]

In one process, on one thread and in turn, in processor time. The same network of one hidden layer
of 100 (relu), Adam, float32, batch, number of epochs and training rows; weights and the order of
rows are of a seed, another one in each round, and so is the split. Ratios to scikit-learn are
medians over the rounds; scores (accuracy, or R2) are of rows held out: their mean and standard
deviation. A round before them, not counted, pays for imports. Ours is trained twice in each round:
first without the programs that earlier rounds have left, and then "again", with them, as a search
does it. What is not installed is left out.
"""

import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, median, stdev
from time import process_time
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported

import click  # noqa: E402
import numpy as np  # noqa: E402
from eager import machine  # noqa: E402
from sklearn.datasets import make_classification, make_friedman1  # noqa: E402
from sklearn.feature_extraction.text import HashingVectorizer  # noqa: E402
from sklearn.metrics import accuracy_score, r2_score  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402

from tinynn.compiler import reuse  # noqa: E402
from tinynn.sklearn import NetworkClassifier, NetworkRegressor  # noqa: E402

HIDDEN, AGAIN = 100, "again"


@dataclass(frozen=True)
class Work:
    """What is learnt: `data` gives X and y, y of floats for a regression."""

    title: str
    data: Callable[[], tuple[Any, Any]]
    batch: int
    epochs: int
    regression: bool = False


def digits() -> tuple[Any, Any]:
    table = np.loadtxt("examples/data/digits.csv", delimiter=",", skiprows=1, dtype=int)
    return (table[:, :64] / 16).astype("float32"), table[:, 64]


def covertype() -> tuple[Any, Any]:
    """Made, of the size and the classes of a table that would have to be fetched."""
    X, y = make_classification(
        100_000, 54, n_informative=20, n_redundant=10, n_classes=7, random_state=0
    )
    return (X / X.std(axis=0)).astype("float32"), y


def friedman() -> tuple[Any, Any]:
    X, y = make_friedman1(20_000, 10, noise=1.0, random_state=0)
    return X.astype("float32"), ((y - y.mean()) / y.std()).astype("float32")


def text() -> tuple[Any, Any]:
    """Made texts of four topics: words by Zipf's law, some of which are of one topic."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 4, size=4000)
    ranks = np.minimum(draw.zipf(1.2, size=(len(y), 80)), 100_000)
    of_topic = draw.random(ranks.shape) < 0.08
    words = np.where(of_topic, ranks * 4 + y[:, None], -ranks)
    documents = [" ".join(f"word{word:x}".replace("-", "n") for word in row) for row in words]
    return HashingVectorizer(n_features=2**16, dtype=np.float32).transform(documents), y


WORKS = {
    "digits32": Work("digits, 1,347 x 64, batch 32", digits, 32, 30),
    "digits200": Work("digits, 1,347 x 64, batch 200", digits, 200, 30),
    "covertype": Work("like covertype, 75,000 x 54, batch 200", covertype, 200, 3),
    "friedman": Work("Friedman 1, 15,000 x 10, batch 200", friedman, 200, 10, regression=True),
    "text": Work("sparse text, 3,000 x 65,536, batch 200", text, 200, 5),
}


def perceptron(kind: Any) -> Callable[[Work, int, Any, Any], Any]:
    """An estimator with MLPClassifier's parameters, which trains for all epochs."""

    def make(work: Work, seed: int, X: Any, y: Any) -> Any:
        shared = {"batch_size": work.batch, "max_iter": work.epochs, "random_state": seed}
        shared |= {"hidden_layer_sizes": (HIDDEN,), "n_iter_no_change": work.epochs + 1}
        return kind(**shared)

    return make


def skorch(work: Work, seed: int, X: Any, y: Any) -> Any:
    import torch
    from skorch import NeuralNetClassifier, NeuralNetRegressor

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    nn, outputs = torch.nn, 1 if work.regression else len(set(y.tolist()))
    net = nn.Sequential(nn.Linear(X.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))
    kind = NeuralNetRegressor if work.regression else NeuralNetClassifier
    loss = nn.MSELoss if work.regression else nn.CrossEntropyLoss
    return kind(
        net, criterion=loss, optimizer=torch.optim.Adam, lr=0.001, max_epochs=work.epochs,
        batch_size=work.batch, train_split=None, verbose=0, iterator_train__shuffle=True,
    )  # fmt: skip


def competitors(work: Work, sparse: bool) -> dict[str, Any]:
    theirs = MLPRegressor if work.regression else MLPClassifier
    ours = NetworkRegressor if work.regression else NetworkClassifier
    found = {theirs.__name__: perceptron(theirs), ours.__name__: perceptron(ours)}
    found[f"{ours.__name__}, {AGAIN}"] = perceptron(ours)
    if sparse:
        print("\nskorch is left out: it takes no sparse matrices")
    elif importlib.util.find_spec("skorch"):
        found["skorch"] = skorch
    else:
        print("\nskorch is not installed, and left out")
    return found


def measure(work: Work, seeds: int) -> None:
    """Print the table of one work."""
    X, y = work.data()
    score = r2_score if work.regression else accuracy_score
    made = competitors(work, sparse=hasattr(X, "tocsr"))
    seconds: dict[str, list[float]] = {name: [] for name in made}
    scores: dict[str, list[float]] = {name: [] for name in made}
    for seed in range(seeds + 1):
        strata = None if work.regression else y
        train_x, test_x, train_y, test_y = train_test_split(
            X, y, stratify=strata, random_state=seed
        )
        for name, make in made.items():
            target = train_y[:, None] if work.regression and name == "skorch" else train_y
            model = make(work, seed, train_x, train_y)
            if not name.endswith(AGAIN):
                reuse.clear()
            before = process_time()
            model.fit(train_x, target)
            took = process_time() - before
            if seed:
                seconds[name].append(took)
                scores[name].append(score(test_y, model.predict(test_x)))
    measured = "R2" if work.regression else "accuracy"
    first = next(iter(seconds.values()))
    print(f"\n{work.title}, {work.epochs} epochs, {seeds} seeds")
    print(f"| | s | least | times scikit-learn | {measured} |\n|---|---|---|---|---|")
    for name, took in seconds.items():
        ratio = median(a / b for a, b in zip(took, first, strict=True))
        learnt = f"{mean(scores[name]):.4f} ± {stdev(scores[name]):.4f}"
        print(f"| {name} | {median(took):.2f} | {min(took):.2f} | {ratio:.2f} | {learnt} |")


@click.command()
@click.option("--works", default=",".join(WORKS))
@click.option("--seeds", default=10)
def main(works: str, seeds: int) -> None:
    warnings.simplefilter("ignore")
    print(machine())
    for name in works.split(","):
        measure(WORKS[name], seeds)


if __name__ == "__main__":
    main()
