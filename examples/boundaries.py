"""Watch four networks draw their boundaries, while they learn: live in the terminal.

They are those of tiny_nn.py, really_small_network.py, simplest_network.py and from_scratch.py, from
the same weights, with the same steps: here by `fit`, with a callback that draws the answers over
the first two inputs. Black points are to be 0, white ones 1. XOR needs two bends, and each network
finds its own.

Run it on any library you have: python examples/boundaries.py --backend torch --to boundaries.svg
"""

import base64
import sys
from pathlib import Path

import click
import numpy as np

import backends
import tinynn
from tinynn.functional import relu, sigmoid
from tinynn.inspection import DecisionBoundary, to_png
from tinynn.layers import Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import SGD

T = np.asarray([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
XOR = np.asarray([[0.0], [1.0], [1.0], [0.0]])
X = np.asarray([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
W1 = [
    [-0.0250052, 0.39248636, -0.95856533],
    [-0.54775758, 1.01757558, 0.0834066],
    [0.00108387, 0.20093661, 0.49683823],
]
W2 = [[-0.68675167], [-0.49060388], [0.3668211]]


def network(hidden, inside, *last):
    return Sequential(Linear(hidden, bias=False), inside, Linear(1, bias=False), *last)


def networks():
    """Name, network, weights, X, y, loss, learning rate and steps of each."""
    stream = np.random.RandomState(42)
    stream.random_sample(3)  # the first neuron's
    tiny = [2 * stream.random_sample(shape) - 1 for shape in ((3, 4), (4, 1))]
    stream = np.random.RandomState(1)
    stream.random_sample(16)
    small = [2 * stream.random_sample(shape) - 1 for shape in ((3, 4), (4, 1))]
    simplest = [np.asarray(W1), np.asarray(W2)]
    stream = np.random.RandomState(0)
    scratch = [stream.rand(2, 4), stream.rand(4, 1)]
    squashed, half, whole = network(4, sigmoid, sigmoid), "half_sum", "sum"
    return [
        ("Tiny NN", squashed, tiny, T, XOR, half, 1.0, 10_000),
        ("A really small network", squashed, small, T, XOR, half, 1.0, 10_000),
        ("The simplest network", network(3, relu), simplest, X, XOR, whole, 1e-3, 300),
        ("From scratch", squashed, scratch, T[:, :2], XOR, whole, 1.0, 1500),
    ]


def main(backend, stream, pictures=5, resolution=32, most=10_000):
    """Train all, `most` steps at most; the name, the rows, the model and the surface of each."""
    backend, found = backends.get(backend), []
    for name, net, weights, x, y, reduction, rate, steps in networks():
        steps = min(steps, most)
        x, y, *weights = (backend.asarray(each, dtype="float64") for each in (x, y, *weights))
        print(f"\n{name}, {steps:,} steps", file=stream)
        draw = DecisionBoundary(
            net, x, y, to=stream, columns=(0, 1), every=steps // pictures, resolution=resolution
        )
        model = tinynn.fit(
            net, x, y, params={"0": {"weight": weights[0]}, "2": {"weight": weights[1]}},
            loss=SquaredError(reduction=reduction), optimizer=SGD(rate), batch_size=None,
            shuffle=False, epochs=steps, callbacks=draw, progress=False,
        )  # fmt: skip
        surface = tinynn.inspection.decision_boundary(
            model, x, columns=(0, 1), resolution=resolution
        )
        found.append((name, x, y, model, surface))
    return found


def drawn(found, size=160):
    """All surfaces beside each other, as SVG."""
    parts = []
    for place, (name, x, y, _, surface) in enumerate(found):
        left = place * (size + 16)
        png = to_png(surface, points=x[:, :2], labels=y, size=size)
        data = base64.b64encode(png).decode()
        parts.append(
            f'<image x="{left}" y="24" width="{size}" height="{size}" '
            f'href="data:image/png;base64,{data}"/>'
            f'<text x="{left + size / 2}" y="16" text-anchor="middle">{name}</text>'
        )
    wide = len(found) * (size + 16) - 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {size + 24}" width="{wide}" '
        'role="img">\n<title>The answers of four networks</title>\n'
        "<style>text{font:13px system-ui,sans-serif;fill:#7d8a97}</style>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
@click.option("--to", type=click.Path(dir_okay=False), help="An SVG file, for all four at the end.")
def command(backend, to):
    found = main(backend, sys.stdout)
    if to:
        Path(to).write_text(drawn(found), encoding="utf-8")


if __name__ == "__main__":
    command()
