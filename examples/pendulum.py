"""A network that learns the energy of a pendulum, and one that learns its motion.

Both see noisy states (q, p) and how fast they change. The one gives the Hamiltonian, whose
derivatives are the motion, the other the motion itself. Data, losses and measures are those of
Greydanus, Dzamba and Yosinski 2019 (arXiv:1906.01563, table 1; github.com/greydanus/hamiltonian-nn)
with 41,200 parameters and 2000 steps of Adam; here it is about a hundred, and 40 steps of
Levenberg-Marquardt. Their notebook takes q^2 + p^2 for the energy, which is not a pendulum's and
which no network can keep, so that its errors are in phase too: both measures are printed.

    python examples/pendulum.py --backend torch
"""

import click
import numpy as np

import backends
from tinynn import grad, least_squares, scan
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import LevenbergMarquardt
from tinynn.trace import namespace

PUBLISHED = {"plain": (3.26e-2, 3.53e-2, 4.15e-2), "Hamiltonian": (3.28e-2, 3.56e-2, 2.49e-2)}
MEASURES = ("train loss", "test loss", "MSE of q^2 + p^2", "MSE of the energy")


def energy(states):
    """(..., 2) -> (...)"""
    return 3 * (1 - np.cos(states[..., 0])) + states[..., 1] ** 2


def turned(slope):
    """The motion that derivatives of a Hamiltonian make: (dH/dp, -dH/dq)."""
    return namespace(slope).stack([slope[:, 1], -slope[:, 0]], axis=1)


def true_motion(states):
    """(states, 2) -> (states, 2)"""
    return turned(np.stack([3 * np.sin(states[:, 0]), 2 * states[:, 1]], axis=1))


def swing(motion, start, seconds, times, substeps=5):
    """(times, starts, 2): states from 0 to `seconds`, by Runge and Kutta's method of order 4."""
    step = seconds / (times - 1) / substeps

    def forward(state, _):
        a = motion(state)
        b = motion(state + 0.5 * step * a)
        c = motion(state + 0.5 * step * b)
        d = motion(state + step * c)
        return state + step / 6 * (a + 2 * b + 2 * c + d), state

    return scan(forward, start, None, (times - 1) * substeps + 1)[1][::substeps, :, :]


def trajectories(count=50, times=45, noise=0.1):
    """The states seen, and their true motion: (count * times, 2) each, the first half to learn."""
    rng, starts, noises = np.random.RandomState(0), [], []
    for _ in range(count):
        start = rng.rand(2) * 2 - 1
        starts.append(start / np.linalg.norm(start) * (rng.rand() + 1.3))
        noises.append(noise * rng.randn(2, times).T)
    states = swing(true_motion, np.stack(starts), 3.0, times).swapaxes(0, 1).reshape(-1, 2)
    return states + np.concatenate(noises), true_motion(states)


def main(backend, width=20, steps=40, starts=15, seconds=20.0):
    """The measures of both networks."""
    backend = backends.get(backend)
    (x, unseen), (y, wanted) = (
        [backend.asarray(half, dtype="float64") for half in np.split(a, 2)] for a in trajectories()
    )
    start = np.random.RandomState(1).uniform(-0.8, 0.8, (starts, 2))
    start += 0.2 * np.sign(start)
    path, found = swing(true_motion, start, seconds, 100), {}
    for name, outputs in (("plain", 2), ("Hamiltonian", 1)):
        net = Sequential(Linear(width), tanh, Linear(outputs))

        def motion(params, x, net=net, outputs=outputs):
            if outputs == 2:
                return net(params, x)
            return turned(grad(lambda x: namespace(x).sum(net(params, x)))(x))

        def residuals(params, motion=motion):
            penalties = [1e-2 * params[layer]["weight"] for layer in ("0", "2")]
            return motion(params, x) - y, penalties

        first = net.init(0, x)[0]
        params = least_squares(residuals, first, LevenbergMarquardt(), max_steps=steps).params
        begun = backend.asarray(start, dtype="float64")
        swung = backend.to_host(swing(lambda s, p=params, m=motion: m(p, s), begun, seconds, 100))
        found[name] = (
            float(np.mean(backend.to_host(motion(params, x) - y) ** 2)),
            float(np.mean(backend.to_host(motion(params, unseen) - wanted) ** 2)),
            float(np.mean(((swung**2).sum(-1) - (path**2).sum(-1)) ** 2)),
            float(np.mean((energy(swung) - energy(path)) ** 2)),
        )
        theirs = (*PUBLISHED[name], None)
        for measure, ours, other in zip(MEASURES, found[name], theirs, strict=True):
            published = f", published {other:.2e}" if other else ""
            print(f"{name}: {measure} {ours:.2e}{published}")
    return found


@click.command()
@click.option("--backend", default="numpy", help="numpy, torch, jax, cupy:0, ...")
def command(backend):
    """Learn, and swing."""
    main(backend)


if __name__ == "__main__":
    command()
