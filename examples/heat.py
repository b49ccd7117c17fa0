"""The heat equation by a network that knows it: u_t = a u_xx, u(x, 0) = sin(pi x), on a cooled bar.

The problem is the one of DeepXDE's documentation (Lu, Meng, Mao and Karniadakis 2021, "DeepXDE: a
deep learning library for solving differential equations"): a = 0.4, both ends are kept at zero,
and the solution is exp(-a pi^2 t) sin(pi x). No error is published with it, so the solution is what
this compares with. The network's output is bent to meet the start and the ends exactly; what it is
trained on is the equation alone, by Levenberg-Marquardt.

    python examples/heat.py --backend torch
"""

import math

import click
import numpy as np

import backends
from tinynn import jvp, least_squares
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import LevenbergMarquardt
from tinynn.trace import namespace


def exact(x, t, a):
    """u at (x, t), arrays of one shape."""
    return np.exp(-a * np.pi**2 * t) * np.sin(np.pi * x)


def solution(net, params, x, t):
    """u of the network: (points,). It is exact at t = 0 and at the ends, x = 0 and x = 1."""
    xp = namespace(x, t)
    inside = net(params, xp.stack([x, t], axis=1))[:, 0]
    return inside * t * x * (1.0 - x) + xp.sin(math.pi * x)


def main(backend, width=20, points=200, steps=40, a=0.4):
    """The relative error in L2 of the solution, on points of its own."""
    backend, rng = backends.get(backend), np.random.RandomState(0)
    net = Sequential(Linear(width), tanh, Linear(1))
    x, t = (backend.asarray(rng.uniform(0, 1, points), dtype="float64") for _ in range(2))
    ones = backend.xp.ones_like(x)

    def residuals(params):
        def by_x(x):
            return jvp(lambda x: solution(net, params, x, t), (x,), (ones,))[1]

        u_xx = jvp(by_x, (x,), (ones,))[1]
        return jvp(lambda t: solution(net, params, x, t), (t,), (ones,))[1] - a * u_xx

    start = net.init(0, backend.xp.stack([x, t], axis=1))[0]
    found = least_squares(residuals, start, LevenbergMarquardt(), max_steps=steps)
    x, t = (a.ravel() for a in np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 51)))
    given = (backend.asarray(a, dtype="float64") for a in (x, t))
    u, wanted = backend.to_host(solution(net, found.params, *given)), exact(x, t, a)
    error = float(np.linalg.norm(u - wanted) / np.linalg.norm(wanted))
    print(f"{found.iterations} steps, residuals {2 * found.value / points:.1e}, error {error:.1e}")
    return error


@click.command()
@click.option("--backend", default="numpy", help="numpy, torch, jax, cupy:0, ...")
def command(backend):
    """Solve it, and compare."""
    main(backend)


if __name__ == "__main__":
    command()
