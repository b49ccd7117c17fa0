"""A day in small: millions of steps, thousands of fits and programs in one process, which stays.

python -m tests.endurance [--steps 10000000] [--calls 200000] [--fits 50000] [--programs 3000]

Anonymous memory, file handles and threads are counted all along, and the processor time that each
part of the work takes. The end has to be like the beginning. Linux alone tells the numbers.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import SGD
from tinynn.training import fit

#: Samples of each part; the first tenth is compared with the last.
SAMPLES = 100
#: Megabytes that a part may have more at its end than after its first tenth: the history of its
#: epochs, and what the allocator keeps.
GROWTH = 4.0
#: Processor time of the last tenth, of that of the first.
SLOWING = 1.2

XOR = np.asarray([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
NET = Sequential(Linear(4), tanh, Linear(1))


@dataclass
class Watch:
    """Samples of this process, and the processor time between them.

    >>> watch = Watch("nothing")
    >>> for _ in range(20):
    ...     watch.sample()
    >>> watch.faults()
    []
    """

    part: str
    memory: list[float] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _since: float = field(default_factory=time.process_time)

    def sample(self) -> None:
        """Count now; what has passed since the last sample is one part of the work."""
        self.seconds.append(time.process_time() - self._since)
        self.memory.append(anonymous_memory())
        self.handles.append(len(os.listdir("/proc/self/fd")))
        self.threads.append(len(os.listdir("/proc/self/task")))
        self._since = time.process_time()

    @property
    def growth(self) -> float:
        """Megabytes that the last tenth has more than the first, at the most of each."""
        tenth = max(1, len(self.memory) // 10)
        return max(self.memory[-tenth:]) - max(self.memory[:tenth])

    @property
    def slowing(self) -> float:
        """Processor time of the last tenth, of that of the first, by the medians."""
        tenth = max(1, len(self.seconds) // 10)
        return median(self.seconds[-tenth:]) / max(median(self.seconds[:tenth]), 1e-9)

    def faults(self, slowing: float = SLOWING) -> list[str]:
        """Everything that is not at the end as it was in the beginning."""
        found = []
        if self.growth >= GROWTH:
            found.append(f"memory grew by {self.growth:.1f} MB")
        for name in ("handles", "threads"):
            counts = getattr(self, name)[1:]  # the first may be of what is begun once
            if len(set(counts)) != 1:
                found.append(f"{name} went from {counts[0]} to {counts[-1]}, {max(counts)} at most")
        if sum(self.seconds) > 1.0 and self.slowing >= slowing:
            found.append(f"the last tenth took {self.slowing:.2f} of the first's processor time")
        return [f"{self.part}: {fault}" for fault in found]

    def __str__(self) -> str:
        return (
            f"{self.part}: {sum(self.seconds):.1f} s of processor time, last tenth / first "
            f"{self.slowing:.2f}; {self.memory[-1]:.1f} MB, {self.growth:+.1f} MB; "
            f"{self.handles[-1]} file handles, {self.threads[-1]} threads"
        )


def anonymous_memory() -> float:
    """RssAnon of this process, in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def steps(count: int, engine: str) -> Watch:
    """So many steps of XOR in one fit."""
    watch = Watch(f"{count:,} steps of XOR by {engine}")
    each = max(1, count // 10 // SAMPLES // 10)  # steps of an epoch, ten epochs to a sample or more
    epochs = count // each

    def look(run: Any) -> None:
        if run.epoch % max(1, epochs // SAMPLES) == 0:
            watch.sample()

    x = np.tile(XOR, (each, 1))
    fit(
        NET, x, x[:, 0] != x[:, 1], loss="squared_error", optimizer=SGD(0.05), batch_size=4,
        epochs=epochs, shuffle=False, engine=engine, callbacks=[look], progress=False,
    )  # fmt: skip
    return watch


def fits(count: int) -> Watch:
    """So many fits, each with a learning rate of its own; every tenth records its step."""
    watch = Watch(f"{count:,} fits")
    y = XOR[:, 0] != XOR[:, 1]
    for number in range(count):
        fit(
            NET, XOR, y, loss="squared_error", optimizer=SGD(0.1 / (1 + number)), epochs=2,
            batch_size=None, engine="auto" if number % 10 else "calls", seed=number,
            progress=False,
        )  # fmt: skip
        if (number + 1) % max(1, count // SAMPLES) == 0:
            watch.sample()
    return watch


def programs(count: int, engine: str) -> Watch:
    """So many fits, each of a program of its own, which no later one takes."""
    watch = Watch(f"{count:,} programs of {engine}")
    for number in range(count):
        net = Sequential(Linear(2 + number % 5), tanh, Linear(1))
        fit(
            net, XOR, XOR[:, :1], loss="squared_error", optimizer=SGD(0.1 / (1 + number)), epochs=1,
            batch_size=None, engine=engine, progress=False,
        )  # fmt: skip
        if (number + 1) % max(1, count // SAMPLES) == 0:
            watch.sample()
    return watch


def parts(steps_: int, calls: int, fits_: int, programs_: int) -> Iterator[Watch]:
    """The parts of the day that are asked for."""
    if steps_:
        yield steps(steps_, "loops")
    if calls:
        yield steps(calls, "calls")
    if fits_:
        yield fits(fits_)
    if programs_:
        yield programs(programs_, "calls")
        few = max(1, programs_ // 10)  # since LLVM takes its time
        machine_code(min(few, 60))  # the memory that LLVM works in is held from now on
        yield machine_code(few)


def machine_code(count: int) -> Watch:
    """So many programs of loops, all of which are compiled."""
    with TemporaryDirectory() as folder:
        os.environ["TINYNN_CACHE"] = folder
        return programs(count, "loops")


@click.command(help=__doc__)
@click.option("--steps", "steps_", default=10_000_000, show_default=True)
@click.option("--calls", default=200_000, show_default=True)
@click.option("--fits", "fits_", default=50_000, show_default=True)
@click.option("--programs", "programs_", default=3000, show_default=True)
@click.option("--slowing", default=SLOWING, show_default=True)
def main(steps_: int, calls: int, fits_: int, programs_: int, slowing: float) -> None:
    found = []
    for watch in parts(steps_, calls, fits_, programs_):
        click.echo(watch)
        found += watch.faults(slowing)
    for fault in found:
        click.echo(fault, err=True)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
