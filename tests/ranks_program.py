"""A program that tests/processes.py starts in several processes: it trains, run after run.

mpiexec -n 2 python -m tests.ranks_program '[{"communicator": "mpi"}]'

Each process prints a line for each run: its loss and a checksum of its parameters, or its error.
"""

import faulthandler
import json
import os
import signal
import sys
import threading
import time
import zlib
from typing import Any

import numpy as np

import backends
import tinynn
from tinynn import tree
from tinynn.data import Samples
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.parallel import ParallelError

LIMIT = 90  # seconds after which a process that still waits says where, and ends
ROWS = 43
NET = Sequential(Linear(8, bias=False), BatchNorm(synchronized=True), relu, Dropout(0.2), Linear(2))


def rank() -> int:
    """The number of this process, as what launched it says."""
    return int(os.environ.get("RANK") or os.environ.get("PMI_RANK") or 0)


class Failing:
    """A callback, and a dataset, that does something to one rank in the middle of a run."""

    def __init__(self, how: str, x: Any, y: Any) -> None:
        self.how, self.x, self.y, self.size, self.read = how, x, y, ROWS, 0

    def act(self, run: Any) -> None:
        """The callback."""
        time.sleep(0.01)
        if run.epoch != 3 or run.rank != 1:
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "raise":
            raise ValueError("rank 1 has had enough")
        if self.how == "terminate":
            signal.raise_signal(signal.SIGTERM)

    def take(self, order: Any) -> Samples:
        self.read += 1
        if self.how == "read" and rank() == 1 and self.read == 40:
            raise OSError("rank 1 cannot read")
        return Samples(self.x[order], self.y[order])

    def between(self, start: int, stop: int) -> Samples:
        return self.take(slice(start, stop))


class Struck:
    """A callback that kills one rank, somewhere in the steps that follow so many more epochs."""

    def __init__(self, epochs: int, rank: int, later: float) -> None:
        self.left, self.rank, self.later = epochs, rank, later

    def act(self, run: Any) -> None:
        self.left -= 1
        if self.left == 0 and run.rank == self.rank:
            threading.Timer(self.later, os.kill, (os.getpid(), signal.SIGKILL)).start()


def trained(given: dict[str, Any]) -> dict[str, Any]:
    """The loss and a checksum of the parameters of one run; of one that is `caught`, its error."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 4)).astype("float32")
    y = 1 * (x[:, 0] > x[:, 1])
    backend = backends.get(given.pop("backend", "numpy"))
    how, other, caught = (given.pop(name, "") for name in ("how", "other", "caught"))
    width, at = given.pop("width", None), given.pop("at", None)
    data: tuple[Any, ...] = backend.asarray(x), backend.asarray(y)
    arguments = {"epochs": 4, "batch_size": 10, "seed": 1, "progress": False, **given}
    arguments["loss"] = "cross_entropy"
    net = NET if width is None else Sequential(Linear(width), relu, Linear(2))
    if how == "strike":
        arguments["callbacks"] = [Struck(*at).act]
    elif how:
        failing = Failing(how, x, y)
        arguments |= {"epochs": 2000, "callbacks": [failing.act]}
        data = (failing,)
        net = Sequential(Linear(2))
    if other and rank() == 1:
        arguments |= {"seed": 2} if other == "seed" else {"batch_size": 0}
    try:
        model = tinynn.fit(net, *data, **arguments)
    except (ParallelError, ValueError) as error:
        if not caught:
            raise
        return {"error": f"{type(error).__name__}: {error}"}
    total = zlib.crc32(b"".join(backend.to_host(a).tobytes() for a in tree.leaves(model.params)))
    return {"sum": total, "loss": model.history["loss"]}


def main(runs: list[dict[str, Any]]) -> None:
    for place, given in enumerate(runs):
        # One call, so that lines of several processes stay lines.
        sys.stdout.write(json.dumps({"run": place, **trained(given)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    main(json.loads(sys.argv[1]))
