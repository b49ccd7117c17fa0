"""A really, really small neural network: XOR again, watching the error fall.

The same network as in tiny_nn.py, three inputs (the third always 1), four hidden neurons, one
output, from other weights; the mean absolute error is printed every thousand steps.

Run it on any library you have: python examples/really_small_network.py --backend torch
"""

import click
import numpy as np

import backends
from tinynn import grad
from tinynn.functional import sigmoid
from tinynn.losses import SquaredError
from tinynn.trace import namespace

X = [[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]
Y = [[0], [1], [1], [0]]


def forward(weights, X):
    """The hidden layer and the output."""
    xp = namespace(X, *weights)
    hidden = sigmoid(xp.matmul(X, weights[0]))
    return hidden, sigmoid(xp.matmul(hidden, weights[1]))


def backward(weights, X, y):
    """Backprop by hand: how each weight has to change, for the error to fall."""
    xp = namespace(X)
    hidden, out = forward(weights, X)
    out_delta = (y - out) * (out * (1 - out))
    hidden_error = xp.matmul(out_delta, weights[1].T)
    hidden_delta = hidden_error * (hidden * (1 - hidden))
    return xp.matmul(X.T, hidden_delta), xp.matmul(hidden.T, out_delta)


def main(backend, steps=10_000):
    backend = backends.get(backend)
    x, y = (backend.asarray(table, dtype="float64") for table in (X, Y))
    host = np.random.RandomState(1)
    host.random_sample(16)  # the cell with the weights had been run twice
    weights = tuple(backend.asarray(2 * host.random_sample(s) - 1) for s in ((3, 4), (4, 1)))

    half_squared_error = SquaredError(reduction="half_sum")
    gradient = grad(lambda weights: half_squared_error(forward(weights, x)[1], y))
    errors = []
    for step in range(steps):
        downhill = gradient(weights)
        if step % 1000 == 0:
            for g, change in zip(downhill, backward(weights, x, y), strict=True):
                np.testing.assert_allclose(
                    backend.to_host(g), -backend.to_host(change), rtol=1e-9, atol=1e-15
                )
            errors.append(float(np.mean(np.abs(backend.to_host(y - forward(weights, x)[1])))))
            print(f"Error: {errors[-1]:.12g}")
        weights = tuple(w - g for w, g in zip(weights, downhill, strict=True))
    print(f"After training: {backend.to_host(forward(weights, x)[1]).ravel().round(3)}")
    return errors


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
def command(backend):
    main(backend)


if __name__ == "__main__":
    command()
