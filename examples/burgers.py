"""Burgers' equation by a network that knows it: u_t + u u_x = nu u_xx, u(x, 0) = -sin(pi x).

The network's output is bent to meet the start and the walls exactly; what it is trained on is the
equation alone, by Levenberg-Marquardt. The exact solution is Cole's and Hopf's, by Gauss-Hermite
quadrature (Basdevant and others 1986), as Raissi, Perdikaris and Karniadakis 2019 compare with;
theirs is the viscosity 0.01 / pi, here it is ten times that, so that a small network is enough.

    python examples/burgers.py --backend torch
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


def exact(x, t, nu):
    """u at (x, t), arrays of one shape, t above 0."""
    z, weight = np.polynomial.hermite.hermgauss(100)
    y = x[:, None] - np.sqrt(4 * nu * t)[:, None] * z
    shift = -np.cos(np.pi * y) / (2 * np.pi * nu)
    density = weight * np.exp(shift - shift.max(axis=1, keepdims=True))
    return -(np.sin(np.pi * y) * density).sum(axis=1) / density.sum(axis=1)


def solution(net, params, x, t):
    """u of the network: (points,). It is exact at t = 0 and at the walls."""
    xp = namespace(x, t)
    inside = net(params, xp.stack([x, t], axis=1))[:, 0]
    return inside * t * (1.0 - x * x) - xp.sin(math.pi * x)


def main(backend, width=12, points=600, steps=60, nu=0.1 / math.pi):
    """The relative error in L2 of the solution, on points of its own."""
    backend = backends.get(backend)
    net, rng = (
        Sequential(Linear(width), tanh, Linear(width), tanh, Linear(1)),
        np.random.RandomState(0),
    )
    x = backend.asarray(rng.uniform(-1, 1, points), dtype="float64")
    t = backend.asarray(rng.uniform(0, 1, points), dtype="float64")
    ones = backend.xp.ones_like(x)

    def residuals(params):
        def by_x(x):
            return jvp(lambda x: solution(net, params, x, t), (x,), (ones,))

        (u, u_x), (_, u_xx) = jvp(by_x, (x,), (ones,))
        u_t = jvp(lambda t: solution(net, params, x, t), (t,), (ones,))[1]
        return u_t + u * u_x - nu * u_xx

    start = net.init(0, backend.xp.stack([x, t], axis=1))[0]
    found = least_squares(residuals, start, LevenbergMarquardt(), max_steps=steps)
    x, t = (a.ravel() for a in np.meshgrid(np.linspace(-1, 1, 101), np.linspace(0.05, 1, 20)))
    given = (backend.asarray(a, dtype="float64") for a in (x, t))
    u, wanted = backend.to_host(solution(net, found.params, *given)), exact(x, t, nu)
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
