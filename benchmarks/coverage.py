"""Coverage of conformal intervals and sets over random splits, beside what is promised.

    pip install scikit-learn
    python benchmarks/coverage.py [--splits 200] [--level 0.9]

Each table is halved: one half trains a small network, the other is split again and again into
calibration rows, as many as 200 or two thirds, and rows to measure on. What is promised is
k / (n + 1) of new rows, k = ceil(level * (n + 1)), for scores of which no two are equal.
"""

import argparse
from math import ceil
from typing import Any
from zlib import crc32

import numpy as np
from sklearn import datasets

import tinynn
from tinynn import uncertainty
from tinynn.functional import relu
from tinynn.layers import Linear, Sequential
from tinynn.losses import GaussianNLL, Quantile

TABLES = {
    "diabetes": datasets.load_diabetes,
    "linnerud": lambda **_: datasets.load_linnerud(return_X_y=True),
    "friedman 1": lambda **_: datasets.make_friedman1(1000, noise=1.0, random_state=0),
    "friedman 2": lambda **_: datasets.make_friedman2(1000, noise=50.0, random_state=0),
    "friedman 3": lambda **_: datasets.make_friedman3(1000, noise=0.1, random_state=0),
    "heavy tails": lambda **_: heavy(),
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}


def heavy() -> tuple[Any, Any]:
    draw = np.random.default_rng(0)
    x = draw.uniform(-2, 2, (1000, 1))
    return x, np.sin(3 * x[:, 0]) + (0.1 + abs(x[:, 0])) * draw.standard_t(3, 1000)


def scores(X: Any, y: Any, kind: str) -> Any:
    """The scores of the rows that a network was not trained on."""
    order = np.random.default_rng(1).permutation(len(X))
    X = (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-12)
    y = y if y.dtype.kind == "i" and y.ndim == 1 else (y - y.mean(axis=0)) / y.std(axis=0)
    X, y = X[order], y[order].reshape(len(y), -1)[:, :1] if y.dtype.kind == "f" else y[order]
    half = len(X) // 2
    outputs = {"least_ambiguous": int(y.max()) + 1, "adaptive": int(y.max()) + 1, "absolute": 1}
    loss = {"scaled": GaussianNLL(), "quantile": Quantile((0.05, 0.95))}.get(kind)
    net = Sequential(Linear(16), relu, Linear(outputs.get(kind, 2)))
    model = tinynn.fit(net, X[:half], y[:half], loss=loss, epochs=60)
    model.calibrate(X[half:], y[half:], kind)
    known: Any = model.calibration
    return known.scores.reshape(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--level", type=float, default=0.9)
    options = parser.parse_args()
    print("| table | score | calibration rows | promised | measured |\n|---|---|---|---|---|")
    for name, table in TABLES.items():
        X, y = table(return_X_y=True)
        classes = y.dtype.kind == "i"
        kinds = ("least_ambiguous", "adaptive") if classes else ("absolute", "scaled", "quantile")
        for kind in kinds:
            pool = scores(X, y, kind)
            count = min(200, 2 * len(pool) // 3)
            if ceil((count + 1) * options.level) > count:
                continue
            draw = np.random.default_rng(crc32(f"{name}, {kind}".encode()))
            order = draw.permuted(np.tile(np.arange(len(pool)), (options.splits, 1)), axis=1)
            drawn = pool[order.T]
            margin = uncertainty.conformal_quantile(drawn[:count], options.level)
            promised = ceil((count + 1) * options.level - 1e-9) / (count + 1)
            measured = (drawn[count:] <= margin).mean()
            print(f"| {name} | {kind} | {count} | {promised:.1%} | {measured:.1%} |")


if __name__ == "__main__":
    main()
