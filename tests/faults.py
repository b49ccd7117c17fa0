"""Faults that strike a run while it trains and writes checkpoints.

python -m tests.faults [--kills 1000] [--seed 0]

Runs in forked processes, on arrays, on batches of a generator and on blocks, with and without a
checkpoint of the best epoch, are killed at drawn moments, and at drawn calls of the file system,
and go on, until they are done. Each has to end with the bits of a run that was left alone.
"""

import errno
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np

from tinynn.data import Blocks
from tinynn.functional import tanh
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.training import fit
from tinynn.training.pace import Pace

NET = Sequential(Linear(4), BatchNorm(), tanh, Dropout(0.2), Linear(1))
EPOCHS = 4
ERRORS = [OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EROFS)]
#: The calls of the file system of which a checkpoint is made.
CALLS = ("open", "fsync", "replace", "link", "unlink")


def kill() -> None:
    """The end of this process, at once."""
    os.kill(os.getpid(), signal.SIGKILL)


class Made(Blocks):
    """Blocks of the rows of two arrays."""

    def __init__(self, x: Any, y: Any) -> None:
        self.rows, self.sizes, self.window = (x, y), [12] * (len(x) // 12), 24

    def read_block(self, block: int) -> tuple[Any, ...]:
        return tuple(each[12 * block : 12 * (block + 1)] for each in self.rows)


#: What a run is trained on, of X and y: the arguments of `fit`.
SOURCES: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "arrays": lambda x, y: {"X": x, "y": y, "batch_size": 8},
    "batches": lambda x, y: {
        "X": lambda: ((x[i : i + 8], y[i : i + 8]) for i in range(0, len(x), 8))
    },
    "blocks": lambda x, y: {"X": Made(x, y), "batch_size": 8},
}


def train(
    path: Path,
    *,
    epochs: int = EPOCHS,
    keep: int = 1,
    pause: float = 0.0,
    source: str = "arrays",
    best: bool = False,
    often: bool = False,
) -> None:
    """Train on some numbers, from the checkpoint at `path` on if it is there.

    `often` writes checkpoints within epochs too, every three steps.
    """
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 3))
    small = property(lambda self: 3, lambda self, steps: None)
    chunks: Any = patch.object(Pace, "steps", small, create=True) if often else nullcontext()
    with chunks:
        fit(
            NET, **SOURCES[source](x, x[:, 0] * x[:, 1]), loss="squared_error", epochs=epochs,
            engine="calls", progress=False, checkpoint=path, keep=keep, resume=True,
            keep_best="loss" if best else False, every=timedelta(microseconds=1) if often else 1,
            callbacks=[lambda run: time.sleep(pause)] if pause else [],
        )  # fmt: skip


class Struck:
    """A trace function: Ctrl-C at a line of a file that runs, and again a few lines later."""

    def __init__(self, file: str, line: int, again: int) -> None:
        self.file, self.places, self.count = file, (line, line + again), 0

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        return self.struck if frame.f_code.co_filename == self.file else None

    def struck(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            self.count += 1
            if self.count in self.places:
                signal.raise_signal(signal.SIGINT)
        return self.struck


def struck(
    file: str, every: int, run: Callable[[int], Any], again: Callable[[int], int] = lambda _: 0
) -> Iterator[tuple[int, Any]]:
    """(line, result) of runs with Ctrl-C at every so many-th line of a file, till one has no more.

    run: is given the line's number. again: so many lines later there is a second Ctrl-C. Runs that
    end by a KeyboardInterrupt have no result: there was no epoch yet, or all were over.
    """
    line, before = 0, sys.gettrace()
    while True:
        striking = Struck(file, line := line + every, again(line))
        sys.settrace(striking)
        try:
            result = run(line)
        except KeyboardInterrupt:
            continue
        finally:
            sys.settrace(before)
        yield line, result
        if striking.count < line:
            return


def files_of(path: Path) -> dict[str, bytes]:
    """The bytes of what a run has left: its checkpoint, and that of the best epoch."""
    best = path.with_name(f"{path.name}.best")
    return {each.name.removeprefix(path.name): each.read_bytes() for each in (path, best)
            if each.exists()}  # fmt: skip


def killed(run: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Carry it out in a forked process; True if that was killed, AssertionError if it failed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(*args, **kwargs)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert status == 0, f"the child ended with {status}"
    return False


def after(seconds: float, run: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Carry it out, in a process that is killed after so long."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Timer(seconds, kill).start()
    run(*args, **kwargs)


def at_call(number: int, fault: Any, run: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Carry it out, with a fault in place of that call of the file system."""
    count = 0
    before = {name: getattr(os, name) for name in CALLS}

    def struck(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number + 1:
                if isinstance(fault, OSError):
                    raise fault
                fault()
            return before[name](*args, **kwargs)

        return call

    try:
        for name in CALLS:
            setattr(os, name, struck(name))
        run(*args, **kwargs)
    finally:
        for name, function in before.items():
            setattr(os, name, function)


@click.command(help=__doc__)
@click.option("--kills", default=1000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, seed: int) -> None:
    draw, done, runs = np.random.default_rng(seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = [{"source": s, "best": b, "often": o} for s in SOURCES for b in (False, True)
                 for o in (False, True)]  # fmt: skip
        alone, whole = [], 0.0
        for number, kind in enumerate(kinds):
            start = time.perf_counter()
            train(folder / f"alone{number}", **kind)
            alone.append(files_of(folder / f"alone{number}"))
            whole = time.perf_counter() - start
        for left in folder.iterdir():
            left.unlink()
        while done < kills:
            path, keep, number = folder / "run", int(draw.integers(1, 4)), runs % len(kinds)
            while True:
                if draw.random() < 0.5:
                    fault: Any = after, float(draw.uniform(0.0, 1.5 * whole))
                else:
                    fault = at_call, int(draw.integers(0, 60)), kill
                if not killed(*fault, train, path, keep=keep, **kinds[number]):
                    break
                done += 1
                if done % 100 == 0:
                    click.echo(f"{done} kills, {runs} runs are over", err=True)
            assert files_of(path) == alone[number], f"after {done} kills, seed {seed}"
            for left in folder.glob("run*"):
                left.unlink()
            assert not [*folder.iterdir()], "leftovers"
            runs += 1
    click.echo(
        f"{done} kills, {runs} runs, each with the bits of one that was left alone (seed {seed})"
    )


if __name__ == "__main__":
    main()
