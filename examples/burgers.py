"""Burgers' equation by a network that knows it: u_t + u u_x = nu u_xx, u(x, 0) = -sin(pi x).

The network's output is bent to meet the start and the walls exactly; what it is trained on is the
equation alone, by Levenberg-Marquardt. The exact solution is Cole's and Hopf's, by Gauss-Hermite
quadrature (Basdevant and others 1986). Raissi, Perdikaris and Karniadakis 2019 have the viscosity
0.01 / pi, for which a front forms that is a hundredth wide, and a relative error in L2 of 6.7e-4.
By default the viscosity is ten times that, so that a small network and seconds are enough.
--published goes on from there, step by step to theirs, with the parameters taken over.

    python examples/burgers.py --backend torch
    python examples/burgers.py --published
"""

import math

import click
import numpy as np

import backends
from tinynn import compile, jvp
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import LevenbergMarquardt
from tinynn.optim.second_order.objective import Objective
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


def residuals(net, params, x, t, nu):
    """u_t + u u_x - nu u_xx at points: (points,)."""
    ones = namespace(x).ones_like(x)

    def by_x(x):
        return jvp(lambda x: solution(net, params, x, t), (x,), (ones,))

    (u, u_x), (_, u_xx) = jvp(by_x, (x,), (ones,))
    u_t = jvp(lambda t: solution(net, params, x, t), (t,), (ones,))[1]
    return u_t + u * u_x - nu * u_xx


def points_of(count, near):
    """(x, t) to satisfy the equation at: all over, and `near` more around the front."""
    rng = np.random.RandomState(0)
    x = rng.uniform(-1, 1, count), 0.05 * np.clip(rng.standard_cauchy(near), -15, 15)
    t = rng.uniform(0, 1, count), rng.uniform(0.2, 1, near)
    return np.concatenate(x), np.concatenate(t)


def main(backend, hidden=(12, 12), points=600, near=0, stages=((0.1, 60),)):
    """The relative error in L2 of the solution, on points of its own.

    stages: pi times the viscosity, and the steps that are taken with it, one after another.
    """
    backend, optimizer = backends.get(backend), LevenbergMarquardt()
    net = Sequential(*[layer for width in hidden for layer in (Linear(width), tanh)], Linear(1))
    x, t = (backend.asarray(a, dtype="float64") for a in points_of(points, near))
    params = net.init(0, backend.xp.stack([x, t], axis=1))[0]

    @compile
    def step(params, state, rows):
        def predict(params):
            return residuals(net, params, *rows)

        def row(params, one):  # no other point counts for its residual
            return residuals(net, params, *[each[None] for each in one])

        def cost(errors):
            return namespace(errors).mean(errors * errors)

        objective = Objective(lambda params: cost(predict(params)), predict, cost, row, rows)
        return optimizer.update(None, state, params, objective=objective)

    grid = np.meshgrid(np.linspace(-1, 1, 257), np.linspace(0.01, 0.99, 50))
    at = [a.ravel() for a in grid]
    for share, steps in stages:
        nu, state = share / math.pi, optimizer.init(params)
        rows = (x, t, nu + 0.0 * x)
        for _ in range(steps):
            params, state = step(params, state, rows)
            if bool(state["converged"]):
                break
        u = solution(net, params, *[backend.asarray(a, dtype="float64") for a in at])
        wanted = exact(*at, nu)
        error = float(np.linalg.norm(backend.to_host(u) - wanted) / np.linalg.norm(wanted))
        taken, loss = int(state["step"]), float(state["value"])
        print(f"nu {share}/pi: {taken} steps, residuals {loss:.1e}, error {error:.1e}", flush=True)
    return error


PUBLISHED = {
    "hidden": (20, 20, 20),
    "points": 1800,
    "near": 1000,
    "stages": ((0.1, 80), (0.05, 80), (0.03, 80), (0.02, 80), (0.014, 80), (0.01, 240)),
}


@click.command()
@click.option("--backend", default="numpy", help="numpy, torch, jax, cupy:0, ...")
@click.option("--published", is_flag=True, help="The viscosity of Raissi and others; ten minutes.")
def command(backend, published):
    """Solve it, and compare."""
    main(backend, **(PUBLISHED if published else {}))


if __name__ == "__main__":
    command()
