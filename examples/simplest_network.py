"""The simplest neural network: a hidden layer of ReLUs, a linear output, squared error.

Here the network ends without a squashing function, and the hidden neurons are rectified: what is
below zero becomes zero. Going back, the error passes only where the neuron let the input pass.

Run it on any library you have: python examples/simplest_network.py --backend jax
"""

import click
import numpy as np

import backends
from tinynn import value_and_grad
from tinynn.functional import relu
from tinynn.layers import Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import SGD
from tinynn.trace import namespace

X = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]
Y = [[0], [1], [1], [0]]
W1 = [
    [-0.0250052, 0.39248636, -0.95856533],
    [-0.54775758, 1.01757558, 0.0834066],
    [0.00108387, 0.20093661, 0.49683823],
]
W2 = [[-0.68675167], [-0.49060388], [0.3668211]]


def gradient_by_hand(params, X, y):
    """The chain rule, one line for each step of the forward pass, in reverse."""
    xp = namespace(X)
    w1, w2 = params["0"]["weight"], params["2"]["weight"]
    before = xp.matmul(X, w1)
    hidden = relu(before)
    predicted = xp.matmul(hidden, w2)
    d_predicted = 2.0 * (predicted - y)
    d_w2 = xp.matmul(hidden.T, d_predicted)
    d_hidden = xp.matmul(d_predicted, w2.T)
    d_before = xp.where(before > 0, d_hidden, xp.zeros_like(d_hidden))
    return {"0": {"weight": xp.matmul(X.T, d_before)}, "2": {"weight": d_w2}}


def main(backend, steps=300):
    backend = backends.get(backend)
    x, y, w1, w2 = (backend.asarray(table, dtype="float64") for table in (X, Y, W1, W2))
    net = Sequential(Linear(3, bias=False), relu, Linear(1, bias=False))
    params = {"0": {"weight": w1}, "2": {"weight": w2}}
    squared_error = SquaredError(reduction="sum")
    loss_and_gradient = value_and_grad(lambda params: squared_error(net(params, x), y))
    optimizer = SGD(learning_rate=1e-3)
    state = optimizer.init(params)
    losses = []
    for step in range(steps):
        loss, gradient = loss_and_gradient(params)
        by_hand = gradient_by_hand(params, x, y)
        for name in by_hand:
            found, expected = (backend.to_host(g[name]["weight"]) for g in (gradient, by_hand))
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)
        losses.append(float(backend.to_host(loss)))
        if step % 50 == 0 or step == steps - 1:
            print(f"{step:3d} {losses[-1]}")
        params, state = optimizer.update(gradient, state, params)
    return losses


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
def command(backend):
    main(backend)


if __name__ == "__main__":
    command()
