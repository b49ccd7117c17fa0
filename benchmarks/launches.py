"""What a training step asks of a CUDA device: launches, memory, and readings of it.

    python -m tests.cudacpu python benchmarks/launches.py [--work w1,w2,w3,calls]

The numbers are counted on the emulated device (tests/cudacpu), and are the same on any: they say
how often the host has to speak to the device, not how long anything takes. A step's numbers are the
difference of a long and a short run, so what a run costs once is apart from them.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import click  # noqa: E402
import cupy  # noqa: E402
import cupy_by_hand  # noqa: E402
import numpy as np  # noqa: E402
import works  # noqa: E402
from dense import Dense  # noqa: E402

import backends  # noqa: E402
import tinynn  # noqa: E402
from tests.cudacpu import counters  # noqa: E402
from tinynn import functional as F  # noqa: E402
from tinynn.training import engines, prepare  # noqa: E402

Run = Callable[[int], Any]  # epochs -> their losses, on the device


@dataclass(frozen=True)
class Asked:
    """What the host asked of the device.

    Attributes:
        kernels: launches of CuPy's kernels.
        products: calls of cuBLAS.
        copies: from device to device.
        pool: requests to CuPy's memory pool.
        mallocs: those of them for which the pool had to ask the device.
        sent: copies to the device.
        reads: copies to the host.
        waits: synchronisations.
    """

    kernels: int = 0
    products: int = 0
    copies: int = 0
    pool: int = 0
    mallocs: int = 0
    sent: int = 0
    reads: int = 0
    waits: int = 0

    @property
    def launches(self) -> int:
        """All that is put into the device's queue, one after the other."""
        return self.kernels + self.products + self.copies

    def __sub__(self, other: "Asked") -> "Asked":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Asked(*(mine - theirs for mine, theirs in pairs))

    def share(self, count: int) -> "Asked":
        """One of so many equal parts."""
        shares = [divmod(number, count) for number in astuple(self)]
        if any(rest for _, rest in shares):
            raise ValueError(f"launches: expected {count} equal parts, got {self}")
        return Asked(*(share for share, _ in shares))


class _Requests(cupy.cuda.MemoryHook):  # type: ignore[misc]
    """Counts what is asked of the memory pool."""

    name = "requests"

    def __init__(self) -> None:
        self.count = 0

    def malloc_preprocess(self, **_: Any) -> None:
        self.count += 1


def asked(run: Callable[[], Any]) -> Asked:
    """What this asks of the device."""
    with _Requests() as requests, counters.counting() as seen:
        run()
    return Asked(
        seen.launches, seen.library_calls, seen.copies_on_device, requests.count,
        seen.allocations, seen.copies_to_device, seen.copies_to_host, seen.synchronizations,
    )  # fmt: skip


def measured(make: Callable[[Any], Run], work: Any) -> dict[str, Asked]:
    """What a step asks, and what an epoch and a run of any length ask besides."""

    def runs(work: Any) -> tuple[Asked, Asked]:
        """An epoch, and what a run asks besides."""
        run = make(work)
        run(5), run(5)  # compile the kernels, and fill the pool
        short, long = asked(lambda: run(2)), asked(lambda: run(5))
        epoch = (long - short).share(3)
        return epoch, short - epoch - epoch

    epoch, rest = runs(work)
    if work.batch is None:
        return {"a step": epoch, "a run, besides": rest}
    longer, steps = runs(of_rows(work, 2 * work.rows))[0], work.rows // work.batch
    step = (longer - epoch).share(steps)
    besides = Asked(*(a - steps * b for a, b in zip(astuple(epoch), astuple(step), strict=True)))
    return {"a step": step, "an epoch, besides": besides, "a run, besides": rest}


def of_rows(work: Dense, rows: int) -> Dense:
    """The work with so many rows."""
    return Dense(work.title, work.sizes, work.batch, rows, work.rule)


def problem_of(work: Any, shuffle: bool = False) -> Any:
    """The work, prepared as `fit` prepares it."""
    home = backends.get("cupy")
    x, y = home.asarray(work.x), home.asarray(work.y)
    net, loss, optimizer = work.tinynn()
    kinds = [(str(2 * i), kind) for i in range(work.layers) for kind in work.kinds]
    params: dict[str, Any] = {}
    for (layer, kind), weight in zip(kinds, work.start(), strict=True):
        params.setdefault(layer, {})[kind] = home.asarray(weight)
    return prepare(
        net, x, y, params=params, loss=loss, optimizer=optimizer, batch_size=work.batch,
        shuffle=shuffle,
    )  # fmt: skip


def engine_of(problem: Any, name: str, epochs: int = 1, **settings: Any) -> Any:
    """tinynn's engine of that name, as `fit` makes it."""
    with problem.batches.backend.scope():
        return engines.select(problem, name, epochs=epochs, **settings)


def trained(work: Any, engine: str, shuffle: bool = False) -> Run:
    """tinynn's engine of that name, after its first epoch."""
    problem = problem_of(work, shuffle)
    made, batches = engine_of(problem, engine), problem.batches
    epochs = [0]

    def epoch() -> Any:
        this = batches.epoch(epochs[0])
        epochs[0] += 1
        return batches.loss_of_epoch(made.run(this, 0, batches.steps), this)

    def run(count: int) -> Any:
        if made.fuses_epochs:
            losses = batches.backend.xp.reshape(made.run_epochs(count), (count, -1))
            return batches.loss_of_epoch(losses, batches.epoch(0))
        return batches.backend.xp.stack([epoch() for _ in range(count)])

    run(1)
    return run


def by_hand(work: Any, fused: bool = False) -> Run:
    """An expert's CuPy."""
    make = cupy_by_hand.xor if isinstance(work, works.Xor) else cupy_by_hand.dense
    return make(work, fused)


WAYS: dict[str, Callable[[Any], Run]] = {
    'tinynn, engine="eager"': lambda work: trained(work, "eager"),
    'tinynn, engine="calls"': lambda work: trained(work, "calls"),
    "CuPy by hand": by_hand,
    "CuPy by hand, kernels of its own": lambda work: by_hand(work, fused=True),
}
SHUFFLED: dict[str, Callable[[Any], Run]] = {
    'tinynn, engine="calls", shuffled': lambda work: trained(work, "calls", shuffle=True),
}
# One thread block carries loops out, which is for small networks.
LOOPS: dict[str, Callable[[Any], Run]] = {
    'tinynn, engine="loops"': lambda work: trained(work, "loops"),
}
LOOPS_SHUFFLED: dict[str, Callable[[Any], Run]] = {
    'tinynn, engine="loops", shuffled': lambda work: trained(work, "loops", shuffle=True),
}
HEAD = ("", "launches", *(field.name for field in fields(Asked)))


def table(work: Any) -> list[str]:
    """What is asked in each way of doing the work, without the lines of nothing."""
    rows: list[Any] = [HEAD, ("---",) * len(HEAD)]
    ways, small = dict(WAYS), work.x.shape[1] <= 64
    ways |= LOOPS if small else {}
    ways |= SHUFFLED | (LOOPS_SHUFFLED if small else {}) if work.batch else {}
    for title, make in ways.items():
        for part, numbers in measured(make, work).items():
            if numbers != Asked():
                rows.append((f"{title}: {part}", numbers.launches, *astuple(numbers)))
    return [f"### {work.title}", *("| " + " | ".join(map(str, cells)) + " |" for cells in rows)]


def all_works() -> dict[str, list[Any]]:
    digits = "W2: digits 64-32-10, Adam, batch 32, float32"
    wide = "W3: 784-256-128-10, {}, batch 128, float32"
    return {
        "w1": [works.Xor()],
        "w2": [Dense(digits, (64, 32, 10), 32, 128, "adam")],
        "w3": [
            Dense(wide.format(name), (784, 256, 128, 10), 128, 256, rule)
            for name, rule in (("Adam", "adam"), ("SGD with momentum", "momentum"))
        ],
    }


#: Calls on images, (batch, height, width, channels).
CALLS: dict[str, Callable[[Any], Any]] = {
    "max_pool(x, 3, stride=2, padding=1)": lambda x: F.max_pool(x, 3, stride=2, padding=1),
    "max_pool(x, 5, stride=3)": lambda x: F.max_pool(x, 5, stride=3),
    "avg_pool(x, 3, stride=2, padding=1)": lambda x: F.avg_pool(x, 3, stride=2, padding=1),
    "adaptive_max_pool(x, 5)": lambda x: F.adaptive_max_pool(x, 5),
    "adaptive_avg_pool(x, 5)": lambda x: F.adaptive_avg_pool(x, 5),
    "upsample(x)": F.upsample,
    'upsample(x, method="linear")': lambda x: F.upsample(x, method="linear"),
}


def table_of_calls() -> list[str]:
    """What a call and its pullback ask, not compiled; and the same in functions of the standard."""
    home, rows = backends.get("cupy"), [("", "call", "pullback", "by slices", "pullback")]
    x = home.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), dtype="float32")
    none = dict.fromkeys(("takes_pool", "takes_upsample"), lambda self, *args: False)
    for title, call in CALLS.items():
        found: list[Any] = [f"`{title}`"]
        for way in (nullcontext(), patch.multiple(type(home), **none)):
            with way:
                y, pull = tinynn.vjp(call, x)
                pull(y)  # compiles the kernels
                found += [asked(partial(call, x)).launches, asked(partial(pull, y)).launches]
        rows.append(tuple(map(str, found)))
    rows.insert(1, ("---",) * len(rows[0]))
    title = "### Launches, calls on images, (2, 16, 16, 3), float32"
    return [title, *("| " + " | ".join(cells) + " |" for cells in rows)]


@click.command(help=__doc__)
@click.option("--work", default="w1,w2,w3,calls", show_default=True)
def main(work: str) -> None:
    counters.device()  # says what to do where there is nothing that counts
    tables = (
        made
        for name in work.split(",")
        for made in ([table_of_calls()] if name == "calls" else map(table, all_works()[name]))
    )
    for lines in tables:
        print("\n".join(lines), flush=True)
        print()


if __name__ == "__main__":
    main()
