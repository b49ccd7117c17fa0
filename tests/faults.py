"""Faults that strike a run while it trains and writes checkpoints.

python -m tests.faults [--kills 1000] [--seed 0]

Runs in forked processes are killed at drawn moments, and at drawn calls of the file system, and go
on, until they are done. Each has to end with the bits of a run that was left alone.
"""

import errno
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from tinynn.functional import tanh
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.training import fit

NET = Sequential(Linear(4), BatchNorm(), tanh, Dropout(0.2), Linear(1))
EPOCHS = 4
ERRORS = [OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EROFS)]
#: The calls of the file system of which a checkpoint is made.
CALLS = ("open", "fsync", "replace", "link", "unlink")


def kill() -> None:
    """The end of this process, at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def train(path: Path, *, epochs: int = EPOCHS, keep: int = 1, pause: float = 0.0) -> None:
    """Train on some numbers, from the checkpoint at `path` on if it is there."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 3))
    fit(
        NET, x, x[:, 0] * x[:, 1], batch_size=8, epochs=epochs, engine="calls", progress=False,
        callbacks=[lambda run: time.sleep(pause)] if pause else [],
        checkpoint=path, keep=keep, resume=True,
    )  # fmt: skip


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
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "alone"
        start = time.perf_counter()
        train(alone)
        whole = time.perf_counter() - start
        while done < kills:
            path, keep = Path(folder) / "run", int(draw.integers(1, 4))
            while True:
                if draw.random() < 0.5:
                    fault: Any = after, float(draw.uniform(0.0, 1.5 * whole))
                else:
                    fault = at_call, int(draw.integers(0, 60)), kill
                if not killed(*fault, train, path, keep=keep):
                    break
                done += 1
                if done % 100 == 0:
                    click.echo(f"{done} kills, {runs} runs are over", err=True)
            assert path.read_bytes() == alone.read_bytes(), f"after {done} kills, seed {seed}"
            for left in Path(folder).glob("run*"):
                left.unlink()
            assert [each.name for each in Path(folder).iterdir()] == ["alone"], "leftovers"
            runs += 1
    click.echo(
        f"{done} kills, {runs} runs, each with the bits of one that was left alone (seed {seed})"
    )


if __name__ == "__main__":
    main()
