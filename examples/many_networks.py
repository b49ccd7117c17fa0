"""How wide must the hidden layer be? A thousand networks learn XOR at once, for every width.

`fit_many` trains networks of one architecture together, each from its own seed. Drawn: the share of
the networks that learned XOR.

Run it on any library you have: python examples/many_networks.py --backend torch --out widths.png
"""

from pathlib import Path

import click

import backends
from tinynn import fit_many
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import Adam

X = [[0, 0], [0, 1], [1, 0], [1, 1]]
Y = [[0], [1], [1], [0]]


def main(backend, networks=1000, widths=range(1, 9), steps=200):
    """The share of networks that learned XOR, for each width."""
    backend = backends.get(backend)
    x, y = (backend.asarray(table, dtype="float32") for table in (X, Y))
    shares = {}
    for width in widths:
        net = Sequential(Linear(width), tanh, Linear(1))
        stack = fit_many(
            net, x, y, networks=networks, loss="binary_cross_entropy", optimizer=Adam(0.1),
            epochs=steps, batch_size=None,
        )  # fmt: skip
        right = (stack.predict(x) > 0) == (y > 0.5)  # (networks, 4, 1)
        learned = backend.xp.all(right, axis=(1, 2))
        shares[width] = sum(backend.to_host(learned).tolist()) / networks
        print(f"{width} hidden: {shares[width]:6.1%} of {networks} networks learned XOR")
    return shares


def draw(shares, path):
    """The shares as bars, into a picture file."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 3.5), layout="constrained").subplots()
    axes.bar(list(shares), [100 * share for share in shares.values()], color="#4878a8")
    axes.set(xlabel="hidden units", ylabel="networks that learned XOR (%)", ylim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    axes.figure.savefig(path, dpi=150)


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
@click.option("--networks", default=1000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Draw the shares into this file.")
def command(backend, networks, out):
    shares = main(backend, networks)
    if out:
        draw(shares, out)
        print(f"Drawn: {out}")


if __name__ == "__main__":
    command()
