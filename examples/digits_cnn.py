"""A small convolutional network reads handwritten digits: 8 x 8 images, five seeds.

A fifth of the digits is held out; which one, the seed says, and the start of the network as well.
Convolutions know what a dense network has to learn, that pixels have neighbours.

Run it on any library you have: python examples/digits_cnn.py --backend torch
"""

from pathlib import Path

import click
import numpy as np

import backends
from tinynn import fit
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Conv2d, Dropout, Flatten, Linear, MaxPool2d, Sequential
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import Adam

DIGITS = Path(__file__).parent / "data" / "digits.csv"

NET = Sequential(
    Conv2d(16, padding="same", bias=False), BatchNorm(), relu,
    Conv2d(32, padding="same", bias=False), BatchNorm(), relu, MaxPool2d(),
    Conv2d(64, padding="same", bias=False), BatchNorm(), relu, MaxPool2d(),
    Flatten(), Dropout(0.3), Linear(10),
)  # fmt: skip


def main(backend, seeds=5, epochs=20, rows=None, **options):
    """The last model, and for each seed the share of held-out digits that were read right."""
    backend = backends.get(backend)
    table = np.loadtxt(DIGITS, delimiter=",", skiprows=1, dtype="int32")[:rows]
    images, digits = table[:, :-1].reshape(-1, 8, 8, 1) / 16 - 0.3, table[:, -1]
    shares = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(digits))
        held, rest = np.split(order, [len(order) // 5])
        model = fit(
            NET, backend.asarray(images[rest], dtype="float32"), backend.asarray(digits[rest]),
            loss=SoftmaxCrossEntropy(), optimizer=Adam(0.003), epochs=epochs, batch_size=64,
            seed=seed, progress=False, **options,
        )  # fmt: skip
        scores = model.predict(backend.asarray(images[held], dtype="float32"))
        read = backend.to_host(scores).argmax(axis=1)
        shares.append(float(np.mean(read == digits[held])))
        print(f"seed {seed}: {shares[-1]:.2%} of {len(held)} held-out digits are read right")
    print(f"on average {np.mean(shares):.2%}")
    return model, shares


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
def command(backend):
    main(backend)


if __name__ == "__main__":
    command()
