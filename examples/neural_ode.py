"""A neural ordinary differential equation: the spiral of Chen and others 2018, dy/dt = y^3 A.

The network is the right-hand side. `scan` takes the steps of Runge and Kutta's method, so that the
derivatives go through them, and Levenberg-Marquardt finds the parameters from the trajectory alone.

    python examples/neural_ode.py --backend torch
"""

import click
import numpy as np

import backends
from tinynn import least_squares, scan
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import LevenbergMarquardt

A = np.asarray([[-0.1, 2.0], [-2.0, -0.1]])


def trajectory(motion, start, step, length):
    """(length, starts, 2): the states after each step, from each start."""

    def forward(y, _):
        a = motion(y)
        b = motion(y + 0.5 * step * a)
        c = motion(y + 0.5 * step * b)
        d = motion(y + step * c)
        y = y + step / 6 * (a + 2 * b + 2 * c + d)
        return y, y

    return scan(forward, start, None, length)[1]


def main(backend, width=10, seconds=3.0, step=0.05, steps=40):
    """The largest error of the trajectory, and of what follows it for half as long."""
    backend = backends.get(backend)
    start = backend.asarray([[2.0, 0.0]], dtype="float64")
    truth, length = backend.asarray(A, dtype="float64"), round(seconds / step)
    path = trajectory(lambda y: (y**3) @ truth, start, step, round(1.5 * length))[:, 0, :]
    net, short = Sequential(Linear(width), tanh, Linear(2)), 10
    # Short pieces of the trajectory, from states on it, as in the paper's example.
    places = range(0, length - short, 2)
    starts = backend.xp.stack([path[i, :] for i in places])
    pieces = backend.xp.stack([path[i + 1 : i + 1 + short, :] for i in places], axis=1)

    def residuals(params):
        return trajectory(lambda y: net(params, y**3 / 8), starts, step, short) - pieces

    found = least_squares(residuals, net.init(0, start)[0], LevenbergMarquardt(), max_steps=steps)
    answer = trajectory(lambda y: net(found.params, y**3 / 8), start, step, round(1.5 * length))
    off = np.abs(backend.to_host(answer)[:, 0, :] - backend.to_host(path))
    inside, beyond = float(off[:length].max()), float(off[length:].max())
    print(f"{found.iterations} steps: off by {inside:.1e} in training, by {beyond:.1e} beyond")
    return inside, beyond


@click.command()
@click.option("--backend", default="numpy", help="numpy, torch, jax, cupy:0, ...")
def command(backend):
    """Follow the spiral."""
    main(backend)


if __name__ == "__main__":
    command()
