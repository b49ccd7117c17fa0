"""A network that learns the energy of a pendulum, and one that learns its motion.

Both see the same states (q, p) and how fast they change. The one gives the Hamiltonian, whose
derivatives are the motion (Greydanus, Dzamba and Yosinski 2019), the other the motion itself. Then
both swing for a long time: the true energy, p^2 / 2 + 1 - cos(q), is to stay what it is.

    python examples/pendulum.py --backend torch
"""

import click
import numpy as np

import backends
from tinynn import grad, least_squares
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import LevenbergMarquardt
from tinynn.trace import namespace


def energy(states):
    """(states, 2) -> (states,)"""
    return states[:, 1] ** 2 / 2 + 1 - np.cos(states[:, 0])


def turned(slope):
    """The motion that derivatives of a Hamiltonian make: (dH/dp, -dH/dq)."""
    return namespace(slope).stack([slope[:, 1], -slope[:, 0]], axis=1)


def swing(motion, state, seconds, step):
    """States at all times, by Runge and Kutta's method of order 4."""
    states = [state]
    for _ in range(round(seconds / step)):
        a = motion(state)
        b = motion(state + 0.5 * step * a)
        c = motion(state + 0.5 * step * b)
        d = motion(state + step * c)
        state = state + step / 6 * (a + 2 * b + 2 * c + d)
        states.append(state)
    return states


def main(backend, width=12, points=60, noise=0.05, steps=60, seconds=60.0):
    """The largest change of the true energy while swinging, of both networks."""
    backend, rng = backends.get(backend), np.random.RandomState(0)
    states = rng.uniform(-2, 2, (points, 2))
    seen = np.stack([states[:, 1], -np.sin(states[:, 0])], axis=1) + noise * rng.randn(points, 2)
    x, y = (backend.asarray(a, dtype="float64") for a in (states, seen))
    drifts = {}
    for name, outputs in (("Hamiltonian", 1), ("plain", 2)):
        net = Sequential(Linear(width), tanh, Linear(outputs))

        def motion(params, x, net=net, outputs=outputs):
            if outputs == 2:
                return net(params, x)
            return turned(grad(lambda x: namespace(x).sum(net(params, x)))(x))

        def residuals(params, motion=motion):
            penalties = [1e-2 * params[layer]["weight"] for layer in ("0", "2")]
            return motion(params, x) - y, penalties

        found = least_squares(residuals, net.init(0, x)[0], LevenbergMarquardt(), max_steps=steps)
        start = backend.asarray([[1.5, 0.0]], dtype="float64")
        path = swing(lambda s, p=found.params, m=motion: m(p, s), start, seconds, 0.05)
        energies = energy(np.concatenate([backend.to_host(state) for state in path]))
        drifts[name] = float(np.max(np.abs(energies - energies[0])))
        print(f"{name}: the energy of {energies[0]:.3f} changes by {drifts[name]:.3f} at most")
    return drifts


@click.command()
@click.option("--backend", default="numpy", help="numpy, torch, jax, cupy:0, ...")
def command(backend):
    """Learn, and swing."""
    main(backend)


if __name__ == "__main__":
    command()
