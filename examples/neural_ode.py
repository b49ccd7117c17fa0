"""A neural ordinary differential equation: the spiral of Chen and others 2018, dy/dt = y^3 A.

The network is the right-hand side. `scan` takes the steps of Runge and Kutta's method, so that the
derivatives go through them, and Levenberg-Marquardt finds the parameters from the trajectory alone.
The adjoint method of the paper (arXiv:1806.07366, section 2), which solves a second equation
backwards, gives the same gradient but for the errors of the steps: both are compared.

    python examples/neural_ode.py --backend torch
"""

import click
import numpy as np

import backends
from tinynn import grad, least_squares, scan, tree, vjp
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import LevenbergMarquardt
from tinynn.trace import namespace

A = np.asarray([[-0.1, 2.0], [-2.0, -0.1]])


def runge_kutta(motion, y, step):
    """The tree y a step later, by the method of order 4."""

    def moved(slope, share):
        return tree.map(lambda y, slope: y + share * step * slope, y, slope)

    a = motion(y)
    b = motion(moved(a, 0.5))
    c = motion(moved(b, 0.5))
    d = motion(moved(c, 1.0))
    return moved(tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, a, b, c, d), 1.0)


def trajectory(motion, start, step, length):
    """(length, starts, 2): the states after each step, from each start."""

    def forward(y, _):
        y = runge_kutta(motion, y, step)
        return y, y

    return scan(forward, start, None, length)[1]


def through_steps(motion, params, start, step, length):
    """The gradient of half the square of the last state, through all steps."""

    def loss(params):
        last = trajectory(lambda y: motion(params, y), start, step, length)[-1, ...]
        return 0.5 * namespace(last).sum(last * last)

    return grad(loss)(params)


def by_adjoint(motion, params, start, step, length):
    """The same gradient by the adjoint method: state, its cotangent and the gradient, backwards."""
    last = trajectory(lambda y: motion(params, y), start, step, length)[-1, ...]

    def backwards(carry):
        y, cotangent, _ = carry
        slope, pullback = vjp(motion, params, y)
        by_params, by_state = pullback(cotangent)
        return -slope, by_state, by_params

    nothing = tree.map(lambda leaf: 0.0 * leaf, params)

    def back(carry, _):
        return runge_kutta(backwards, carry, step), None

    return scan(back, (last, last, nothing), None, length)[0][2]


def main(backend, width=10, seconds=3.0, step=0.05, steps=40):
    """The largest error of the trajectory, of what follows for half as long, and of the adjoint."""
    backend = backends.get(backend)
    start = backend.asarray([[2.0, 0.0]], dtype="float64")
    truth, length = backend.asarray(A, dtype="float64"), round(seconds / step)
    path = trajectory(lambda y: (y**3) @ truth, start, step, round(1.5 * length))[:, 0, :]
    net, short = Sequential(Linear(width), tanh, Linear(2)), 10

    def motion(params, y):
        return net(params, y**3 / 8)

    # Short pieces of the trajectory, from states on it, as in the paper's example.
    places = range(0, length - short, 2)
    starts = backend.xp.stack([path[i, :] for i in places])
    pieces = backend.xp.stack([path[i + 1 : i + 1 + short, :] for i in places], axis=1)

    def residuals(params):
        return trajectory(lambda y: motion(params, y), starts, step, short) - pieces

    found = least_squares(residuals, net.init(0, start)[0], LevenbergMarquardt(), max_steps=steps)
    answer = trajectory(lambda y: motion(found.params, y), start, step, round(1.5 * length))
    off = np.abs(backend.to_host(answer)[:, 0, :] - backend.to_host(path))
    inside, beyond = float(off[:length].max()), float(off[length:].max())
    print(f"{found.iterations} steps: off by {inside:.1e} in training, by {beyond:.1e} beyond")
    given = motion, found.params, start, step, short
    whole, adjoint = (
        np.concatenate([backend.to_host(leaf).ravel() for leaf in tree.leaves(gradient(*given))])
        for gradient in (through_steps, by_adjoint)
    )
    differs = float(np.linalg.norm(adjoint - whole) / np.linalg.norm(whole))
    print(f"the adjoint's gradient differs by {differs:.1e} from that through the steps")
    return inside, beyond, differs


@click.command()
@click.option("--backend", default="numpy", help="numpy, torch, jax, cupy:0, ...")
def command(backend):
    """Follow the spiral."""
    main(backend)


if __name__ == "__main__":
    command()
