"""Size and accuracy of a network that is pruned, of whole numbers, or taught, in onnxruntime.

    pip install onnx onnxruntime
    python benchmarks/compression.py [--seeds 5]

The digits of examples/data/digits.csv, 1,297 to train on and 500 to score; a network 64-128-64-10
and a student 64-16-10, 40 epochs of Adam. Bytes are those of the ONNX file, and of the file as zlib
packs it, in which zeros take little room. Medians over seeds; the spread is from the worst seed to
the best.
"""

import argparse
import zlib
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime

import tinynn
from tinynn.compression import Pruning, distill, sparsity
from tinynn.functional import relu
from tinynn.layers import Linear, Sequential
from tinynn.optim import Adam, KeepZeros

DATA = Path(__file__).parents[1] / "examples/data/digits.csv"


def net(*widths: int) -> Any:
    return Sequential(*[part for w in widths for part in (Linear(w), relu)], Linear(10))


def digits(seed: int) -> tuple[Any, ...]:
    table = np.loadtxt(DATA, delimiter=",", skiprows=1)
    order = np.random.default_rng(seed).permutation(len(table))
    x, y = (table[order, :-1] / 16).astype("float32"), table[order, -1].astype("int64")
    return x[500:], y[500:], x[:500], y[:500]


def measured(model: Any, x: Any, y: Any, **options: Any) -> tuple[int, int, float]:
    """Bytes, bytes packed, and the accuracy in onnxruntime."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.to_onnx(path, **options)
        blob = path.read_bytes()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(["output"], {"input": x})
    return len(blob), len(zlib.compress(blob, 9)), float((logits.argmax(axis=1) == y).mean())


def rows(seed: int) -> dict[str, tuple[Any, ...]]:
    x, y, held, truth = digits(seed)
    given: dict[str, Any] = {"epochs": 40, "seed": seed}
    large = tinynn.fit(net(128, 64), x, y, optimizer=Adam(0.002), **given)
    found: dict[str, tuple[Any, ...]] = {"as it was trained": (0.0, large, {})}
    found["weights of 8 bits"] = (0.0, large, {"quantize": True})
    found["weights and products of 8 bits"] = (0.0, large, {"quantize": True, "X": x})
    for share in (0.8, 0.9, 0.95):
        plan = Pruning(share, first=5, last=30)
        pruned = tinynn.fit(
            net(128, 64), x, y, optimizer=KeepZeros(Adam(0.002)), callbacks=plan, **given
        )
        found[f"{share:.0%} of the weights pruned"] = (sparsity(pruned.params), pruned, {})
    found["90% pruned, weights of 8 bits"] = (
        *found["90% of the weights pruned"][:2], {"quantize": True},
    )  # fmt: skip
    small = tinynn.fit(net(16), x, y, optimizer=Adam(0.002), **given)
    found["student, by labels alone"] = (0.0, small, {})
    taught = distill(large, net(16), x, y, optimizer=Adam(0.002), **given)
    found["student, distilled"] = (0.0, taught, {})
    return {
        name: (zeros, *measured(model, held, truth, **options))
        for name, (zeros, model, options) in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    runs = [rows(seed) for seed in range(parser.parse_args().seeds)]
    print("| network | zeros | bytes | packed | accuracy | spread |\n|---|---|---|---|---|---|")
    for name in runs[0]:
        zeros, size, packed, accuracy = zip(*(run[name] for run in runs), strict=True)
        print(
            f"| {name} | {median(zeros):.0%} | {median(size):,.0f} | {median(packed):,.0f} | "
            f"{median(accuracy):.1%} | {min(accuracy):.1%} to {max(accuracy):.1%} |"
        )


if __name__ == "__main__":
    main()
