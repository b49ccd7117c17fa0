"""Parity of a sequence of bits: what a hidden state is for.

XOR of two bits needs a hidden layer. The parity of many bits, whether the ones among them are odd
in number, is XOR after XOR: of each bit with the parity so far. A recurrent network reads one bit
at a time and passes on its hidden state. All that it has to keep there is the parity so far, so
what it learns from eight bits holds for a hundred, which no network with an input for each bit
could be asked for.

Not every start gets there: with another seed the network may learn the eight bits and no more.

Run it on any library you have: python examples/parity.py --backend torch
"""

from itertools import product

import click
import numpy as np

import backends
from tinynn import fit
from tinynn.layers import RNN, Linear, Sequential
from tinynn.losses import BinaryCrossEntropy
from tinynn.optim import Adam

LENGTH, LONG = 8, 100
NET = Sequential(RNN(8, return_sequences=True), Linear(1))


def bits_and_parities(bits):
    """Bits as -1 and 1, (sequences, time, 1), and the parity after each of them."""
    return 2.0 * bits[..., None] - 1.0, np.cumsum(bits, axis=1)[..., None] % 2


def main(backend, epochs=80, seed=3, **options):
    """The model, the shares of right parities by length, and how sure it is of the least sure."""
    backend = backends.get(backend)
    short = np.asarray(list(product((0, 1), repeat=LENGTH)))
    long = np.random.default_rng(0).integers(0, 2, size=(200, LONG))
    x, y = bits_and_parities(short)
    model = fit(
        NET, backend.asarray(x, dtype="float32"), backend.asarray(y), loss=BinaryCrossEntropy(),
        optimizer=Adam(0.03), epochs=epochs, batch_size=32, seed=seed, progress=False, **options,
    )  # fmt: skip
    shares = {}
    for bits in (short, long):
        x, y = bits_and_parities(bits)
        x = backend.asarray(x, dtype="float32")
        scores = backend.to_host(model.predict(x))[:, -1]
        shares[bits.shape[1]] = float(np.mean((scores > 0) == y[:, -1]))
        sure = float(1 / (1 + np.exp(-np.abs(scores).min())))
        print(
            f"of {len(bits)} sequences of {bits.shape[1]} bits {shares[bits.shape[1]]:.1%} are "
            f"answered right, the least sure one with a probability of {sure:.1%}"
        )
    return model, shares, sure


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
def command(backend):
    main(backend)


if __name__ == "__main__":
    command()
