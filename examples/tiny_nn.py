"""Tiny NN: a neuron that learns a column, and why XOR needs a hidden layer.

Each row of the truth table T is one sample; its third column is always 1 and stands in for a
bias. One neuron finds that the answer is simply the first column. It cannot learn XOR, where no
single column helps; with four hidden neurons between, the network can.

Run it on any library you have: python examples/tiny_nn.py --backend array_api_strict
"""

import click
import numpy as np

import backends
from tinynn import grad
from tinynn.functional import sigmoid
from tinynn.layers import Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import SGD
from tinynn.trace import namespace

T = [[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]
FIRST_COLUMN, XOR = [[0], [0], [1], [1]], [[0], [1], [1], [0]]


def slope(out):
    """The slope of the sigmoid, from its output: steepest at 0.5, flat near 0 and 1."""
    return out * (1 - out)


def one_layer_by_hand(params, X, y):
    """The step of the first notebook: the error, times the slope, through the inputs."""
    xp = namespace(X)
    out = sigmoid(xp.matmul(X, params["0"]["weight"]))
    delta = (y - out) * slope(out)
    return {"0": {"weight": xp.matmul(X.T, delta)}}


def two_layers_by_hand(params, X, y):
    """The step of the second: the error goes back through the weights to the hidden layer."""
    xp = namespace(X)
    w0, w1 = params["0"]["weight"], params["2"]["weight"]
    hidden = sigmoid(xp.matmul(X, w0))
    out = sigmoid(xp.matmul(hidden, w1))
    delta1 = (y - out) * slope(out)
    delta0 = xp.matmul(delta1, w1.T) * slope(hidden)
    return {"0": {"weight": xp.matmul(X.T, delta0)}, "2": {"weight": xp.matmul(hidden.T, delta1)}}


def train(net, params, X, y, by_hand, steps):
    """Full batches, learning rate 1; gives the weights, and the output seen in the last step.

    The gradient of half the squared error is -1 times the notebook's step, which is checked here
    in every thousandth step.
    """
    half_squared_error = SquaredError(reduction="half_sum")

    def loss_and_output(params):
        out = net(params, X)
        return half_squared_error(out, y), out

    optimizer = SGD(learning_rate=1.0)
    state = optimizer.init(params)
    for step in range(steps):
        gradient, out = grad(loss_and_output, has_aux=True)(params)
        if step % 1000 == 0:
            assert_opposite(gradient, by_hand(params, X, y))
        params, state = optimizer.update(gradient, state, params)
    return params, backends.of(out).to_host(out)


def assert_opposite(gradient, step):
    for name in step:
        a, b = (backends.of(g["weight"]).to_host(g["weight"]) for g in (gradient[name], step[name]))
        np.testing.assert_allclose(a, -b, rtol=1e-9, atol=1e-15)


def main(backend, steps=10_000):
    backend = backends.get(backend)
    host = np.random.RandomState(42)  # the notebook's own stream of random numbers

    def weights(*shape):
        return backend.asarray(2 * host.random_sample(shape) - 1)

    X = backend.asarray(T, dtype="float64")

    print("One neuron, target = first column:")
    y = backend.asarray(FIRST_COLUMN, dtype="float64")
    net = Sequential(Linear(1, bias=False), sigmoid)
    _, learned = train(net, {"0": {"weight": weights(3, 1)}}, X, y, one_layer_by_hand, steps)
    print(learned)

    print("Three inputs, four hidden neurons, target = XOR:")
    y = backend.asarray(XOR, dtype="float64")
    net = Sequential(Linear(4, bias=False), sigmoid, Linear(1, bias=False), sigmoid)
    params = {"0": {"weight": weights(3, 4)}, "2": {"weight": weights(4, 1)}}
    error = float(np.mean(np.abs(backend.to_host(y - net(params, X)))))
    print(f"Error: {error}")
    _, xor = train(net, params, X, y, two_layers_by_hand, steps)
    print(xor)

    print("One neuron, target = XOR (it cannot: every answer stays near one half):")
    net = Sequential(Linear(1, bias=False), sigmoid)
    params = {"0": {"weight": weights(3, 1)}}
    _, hopeless = train(net, params, X, y, one_layer_by_hand, steps // 10)
    print(hopeless)
    return learned, error, xor, hopeless


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
def command(backend):
    main(backend)


if __name__ == "__main__":
    command()
