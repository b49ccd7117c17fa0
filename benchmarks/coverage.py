"""Coverage of conformal intervals and sets over splits of small tables, beside the promise.

    pip install scikit-learn statsmodels
    python benchmarks/coverage.py [--splits 200] [--level 0.9] [--only iris,longley]

Half of each table, or all but twelve rows where that is less, trains a small network. The other
rows are dealt out to four blocks again and again: each block in turn is measured, with the others,
200 rows at most, to calibrate by, so that every row is measured as often as any other. What is
promised is k / (n + 1) of new rows, k = ceil(level * (n + 1)), for scores of which no two are
equal; sets by "adaptive" promise that at least, since the likeliest class is always in them.
"error" is the standard error of the mean over the deals, in points.
"""

import warnings
from math import ceil
from typing import Any
from zlib import crc32

import click
import numpy as np
from sklearn import datasets
from small_data import TABLES, Table, of_sklearn

import tinynn
from tinynn import uncertainty
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.losses import GaussianNLL, Quantile

BLOCKS, LEAST, MOST = 4, 12, 200
OF_CLASSES = ("least_ambiguous", "adaptive")


def heavy() -> tuple[Any, Any]:
    """Noise without a variance, whose width depends on x."""
    draw = np.random.default_rng(0)
    x = draw.uniform(-2, 2, (1000, 1))
    return x, np.sin(3 * x[:, 0]) + (0.1 + abs(x[:, 0])) * draw.standard_t(2, 1000)


ALL = [*TABLES, Table("heavy tails", heavy), Table("digits", of_sklearn(datasets.load_digits))]


def trained(table: Table, kind: str) -> tuple[Any, Any, Any]:
    """A network, and the rows and targets that it was not trained on."""
    X, y = table.data()
    order = np.random.default_rng(1).permutation(len(X))
    numbers = y.dtype.kind == "f"
    X, y = X[order], y[order]
    count = min(len(X) // 2, len(X) - LEAST)
    X = (X - X[:count].mean(axis=0)) / (X[:count].std(axis=0) + 1e-12)
    if numbers:
        y = ((y - y[:count].mean()) / y[:count].std())[:, None]
    outputs = 1 if kind == "absolute" else 2 if numbers else int(y.max()) + 1
    loss = {"scaled": GaussianNLL(), "quantile": Quantile((0.05, 0.95))}.get(kind)
    net = Sequential(Linear(16), tanh, Linear(outputs))
    model = tinynn.fit(net, X[:count], y[:count], loss=loss, epochs=60, progress=False)
    return model, X[count:], y[count:]


def coverage(model: Any, X: Any, y: Any, kind: str, level: float) -> float:
    """The share of the last block, of those in X and y, that is covered by the others' doubt."""
    rows = len(X) - len(X) // BLOCKS
    known = slice(0, min(rows, MOST))
    model.calibrate(X[known], y[known], kind)
    if y.ndim == 1:
        found: Any = uncertainty.set_coverage(model.predict_set(X[rows:], level), y[rows:])
    else:
        _, lower, upper = model.predict(X[rows:], interval=level)
        found = uncertainty.interval_coverage(lower, upper, y[rows:])
    return float(found)


def measured(table: Table, kind: str, splits: int, level: float) -> tuple[int, float, float, float]:
    """Calibration rows, the coverage promised, that over all splits, and its standard error."""
    model, X, y = trained(table, kind)
    draw = np.random.default_rng(crc32(f"{table.name}, {kind}".encode()))
    deals, block = [], len(X) // BLOCKS
    for _ in range(splits // BLOCKS):
        order = draw.permutation(len(X))
        turns = [np.roll(order, place * block) for place in range(BLOCKS)]
        deals.append(np.mean([coverage(model, X[t], y[t], kind, level) for t in turns]))
    count = min(len(X) - block, MOST)
    promised = ceil((count + 1) * level - 1e-9) / (count + 1)
    return count, promised, float(np.mean(deals)), float(np.std(deals) / len(deals) ** 0.5)


@click.command()
@click.option("--splits", default=200)
@click.option("--level", default=0.9)
@click.option("--only", default="", help="Tables by name, with commas.")
def main(splits: int, level: float, only: str) -> None:
    """Print the table of benchmarks/README.md."""
    warnings.simplefilter("ignore")
    print("| table | score | calibration rows | promised | measured | error |\n" + "|---" * 6 + "|")
    worst = 0.0
    for table in [t for t in ALL if not only or t.name in only.split(",")]:
        numbers = table.data()[1].dtype.kind == "f"
        for kind in ("absolute", "scaled", "quantile") if numbers else OF_CLASSES:
            count, promised, found, error = measured(table, kind, splits, level)
            at_least = kind == "adaptive"
            worst = max(worst, abs(found - promised) * (not at_least))
            print(
                f"| {table.name} | {kind} | {count} | {'at least ' * at_least}{promised:.1%} "
                f"| {found:.1%} "
                f"| {100 * error:.2f} |",
                flush=True,
            )
    print(f"\nFarthest from the promise, adaptive sets aside: {100 * worst:.2f} points.")


if __name__ == "__main__":
    main()
