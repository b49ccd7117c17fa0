"""A recurrent network forecasts sunspots, a year ahead, and the sun keeps no calendar.

Sunspots come and go in about eleven years, so the simplest forecast is the number of eleven years
ago: the seasonal naive one. But the cycle is shorter or longer each time. A GRU that reads the last
thirty years sees where in its cycle the sun is. It learns from the years up to 1949, and what
it is measured by are the years after, which it has never seen.

Run it on any library you have: python examples/sunspots.py --backend torch
"""

from pathlib import Path

import click
import numpy as np

import backends
from tinynn import fit
from tinynn.layers import GRU, Linear, Sequential
from tinynn.optim import Adam

SUNSPOTS = Path(__file__).parent / "data" / "sunspots.csv"
WINDOW, CYCLE, FIRST_UNSEEN = 30, 11, 1950
SCALE = 100.0  # sunspots of a strong year: networks learn from numbers of about 1

NET = Sequential(GRU(16), Linear(1))


def windows():
    """(year that is forecast, the years before it, the number of that year)."""
    years, counts = np.loadtxt(SUNSPOTS, delimiter=",", skiprows=1).T
    before = np.lib.stride_tricks.sliding_window_view(counts, WINDOW)[:-1]
    return years[WINDOW:], before, counts[WINDOW:]


def main(backend, epochs=60, **options):
    """The model, and the mean absolute errors of its forecasts and of the naive ones."""
    backend = backends.get(backend)
    years, before, counts = windows()
    unseen = years >= FIRST_UNSEEN
    x = backend.asarray(before[:, :, None] / SCALE, dtype="float32")
    y = backend.asarray(counts / SCALE, dtype="float32")
    count = int((~unseen).sum())
    model = fit(
        NET, x[:count, ...], y[:count], loss="squared_error", optimizer=Adam(0.01), epochs=epochs,
        batch_size=32, progress=False, **options,
    )  # fmt: skip
    forecast = backend.to_host(model.predict(x[count:, ...]))[:, 0] * SCALE
    errors = {
        "the network": forecast - counts[unseen],
        "the number of eleven years ago": before[unseen, -CYCLE] - counts[unseen],
        "the number of the year before": before[unseen, -1] - counts[unseen],
    }
    errors = {name: float(np.abs(error).mean()) for name, error in errors.items()}
    for name, error in errors.items():
        print(f"{name}: {error:.1f} sunspots off, on average of {unseen.sum()} unseen years")
    return model, errors


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
def command(backend):
    main(backend)


if __name__ == "__main__":
    command()
