"""How wide must the hidden layer be? A thousand networks learn XOR at once, for every width.

`vmap` turns a function that trains one network from one seed into one that trains a batch of them,
each operation acting on all at once. Drawn: the share of the networks that learned XOR.

Run it on any library you have: python examples/many_networks.py --backend torch --out widths.png
"""

from pathlib import Path

import click

import backends
from backends import random
from tinynn import grad, vmap
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.losses import BinaryCrossEntropy
from tinynn.optim import Adam
from tinynn.trace import namespace

X = [[0, 0], [0, 1], [1, 0], [1, 1]]
Y = [[0], [1], [1], [0]]


def trained(key, x, y, width, steps):
    """Whether the network that starts from this key has learned all four rows: 0 or 1."""
    net = Sequential(Linear(width), tanh, Linear(1))
    loss, optimizer = BinaryCrossEntropy(), Adam(learning_rate=0.1)
    params = net.init(key, x)[0]
    state = optimizer.init(params)
    for _ in range(steps):
        gradient = grad(lambda params: loss(net(params, x), y))(params)
        params, state = optimizer.update(gradient, state, params)
    xp = namespace(key)
    right = xp.equal(net(params, x) > 0, y > 0.5)
    return xp.astype(xp.all(right), x.dtype)


def main(backend, networks=1000, widths=range(1, 9), steps=200):
    """The share of networks that learned XOR, for each width."""
    backend = backends.get(backend)
    x, y = (backend.asarray(table, dtype="float32") for table in (X, Y))
    shares = {}
    for width in widths:
        keys = random.bits(random.key(width, backend), (networks, 2))
        learned = vmap(lambda key, width=width: trained(key, x, y, width, steps))(keys)
        shares[width] = float(backend.to_host(backend.xp.mean(learned)))
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
