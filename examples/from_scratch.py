"""Neural network from scratch: a class with a feedforward and a backprop method.

Two inputs, four hidden neurons, one output, no bias at all. The class is written by hand, in
functions of the array standard; the gradient that tinynn finds stands beside it. Because every
operation acts on the last two axes, stacked weights train many networks at once: here two hundred,
from seeds 0 to 199.

Run it on any library you have: python examples/from_scratch.py --backend dpnp
"""

import click
import numpy as np

import backends
from tinynn import grad
from tinynn.functional import sigmoid
from tinynn.trace import namespace

X = [[0, 0], [0, 1], [1, 0], [1, 1]]
Y = [[0], [1], [1], [0]]


class NeuralNetwork:
    """weights1: (..., 2, 4); weights2: (..., 4, 1)."""

    def __init__(self, x, y, weights1, weights2):
        self.x, self.y, self.weights1, self.weights2 = x, y, weights1, weights2

    def feedforward(self):
        xp = namespace(self.x, self.weights1)
        self.hidden = sigmoid(xp.matmul(self.x, self.weights1))
        self.output = sigmoid(xp.matmul(self.hidden, self.weights2))
        return self.output

    def backprop(self):
        """How the weights change: the chain rule for the squared error, its factor 2 kept."""
        xp = namespace(self.x)
        error = 2 * (self.y - self.output) * (self.output * (1 - self.output))
        d_weights2 = xp.matmul(self.hidden.mT, error)
        back = xp.matmul(error, self.weights2.mT) * (self.hidden * (1 - self.hidden))
        d_weights1 = xp.matmul(self.x.mT, back)
        return d_weights1, d_weights2

    def step(self):
        self.feedforward()
        d_weights1, d_weights2 = self.backprop()
        self.weights1 = self.weights1 + d_weights1
        self.weights2 = self.weights2 + d_weights2


def squared_error(weights, x, y):
    xp = namespace(weights[0])
    output = NeuralNetwork(x, y, *weights).feedforward()
    return xp.sum(xp.square(output - y))


def assert_same_gradient(network):
    """tinynn's gradient of the squared error is the backprop above, with its sign changed."""
    backend = backends.of(network.x)
    network.feedforward()
    found = grad(squared_error)((network.weights1, network.weights2), network.x, network.y)
    for g, change in zip(found, network.backprop(), strict=True):
        np.testing.assert_allclose(
            backend.to_host(g), -backend.to_host(change), rtol=1e-9, atol=1e-15
        )


def main(backend, seeds=200, steps=1500):
    backend = backends.get(backend)
    x, y = (backend.asarray(table, dtype="float64") for table in (X, Y))
    streams = [np.random.RandomState(seed) for seed in range(seeds)]
    drawn = [(host.rand(2, 4), host.rand(4, 1)) for host in streams]
    weights = [backend.asarray(np.stack(each)) for each in zip(*drawn, strict=True)]
    network = NeuralNetwork(x, y, *weights)
    for step in range(steps):
        if step % 500 == 0:
            assert_same_gradient(network)
        network.step()
    outputs = backend.to_host(network.output)  # of the last step, before its update
    worst = np.max(np.abs(outputs - np.asarray(Y)), axis=(1, 2))
    print("Outputs of the network from seed 0:", outputs[0].ravel())
    print(f"Worst error of each of {seeds} networks: median {np.median(worst):.4f}, "
          f"largest {np.max(worst):.4f}")  # fmt: skip
    return worst


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
def command(backend):
    main(backend)


if __name__ == "__main__":
    command()
