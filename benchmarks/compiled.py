"""What a training step costs once compiled: tinynn's engines beside NumPy by hand and others.

    python benchmarks/compiled.py [--work w1,w2] [--rounds 7] [--rows 59904]

All in one process and on one thread, in turn, in processor time, as in eager.py. A step or an epoch
is the difference of a long and a short run, so what a run costs once is not in it: that is in the
first result, a run of one step or epoch by a competitor made anew, with all that it records,
compiles and allocates. The ratio is the median, over the rounds, of its cost to that of NumPy by
hand in the same round. Losses after as many steps have to agree. What is not installed is left out.

Where `tinynn backends` advises a setting of the environment on this machine, the large works are
done under it as well, in turn with the others, in a second process.
"""

import gc
import importlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from statistics import median
from time import process_time
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")  # and before JAX is

import click  # noqa: E402
import numpy as np  # noqa: E402
import works  # noqa: E402
from dense import Dense  # noqa: E402
from eager import machine  # noqa: E402

import backends  # noqa: E402
from tinynn.training.engines import ENGINES  # noqa: E402

MODULES = ("numpy", "torch", "jax")
Competitors = dict[str, tuple[str, Callable[[Any], works.Trained]]]  # name: (module, how)


def engines_of(*names: str) -> Competitors:
    return {
        f'tinynn, engine="{name}"': ("numpy", lambda work, name=name: works.fitted(work, name))
        for name in names
        if name in ENGINES
    }


BY_HAND: Competitors = {"NumPy by hand": ("numpy", lambda work: work.by_hand())}
BUFFERS: Competitors = {"NumPy, out= buffers": ("numpy", lambda work: work.with_buffers())}
TORCH: Competitors = {"PyTorch, eager": ("torch", lambda work: work.pytorch())}
TRAINING = BY_HAND | BUFFERS | engines_of("calls", "loops") | TORCH
SMALL = BY_HAND | BUFFERS | engines_of("eager", "calls", "loops") | TORCH
JAX: Competitors = BY_HAND | {
    "lax.scan by hand": ("jax", lambda work: work.scan()),
    "lax.scan by hand, with losses": ("jax", lambda work: work.scan(losses=True)),
    'tinynn, engine="jit"': ("jax", lambda work: works.fitted(work, "jit", "jax")),
}
OURS: Competitors = {
    "tinynn, Model.predict": ("numpy", lambda work: work.predicted()),
    "tinynn, Model.compile": ("numpy", lambda work: work.compiled()),
}
PREDICTING = BY_HAND | BUFFERS | OURS | TORCH


class Run:
    """One competitor at one work, and its times in seconds."""

    clock = staticmethod(process_time)

    def __init__(self, work: Any, make: Callable[[Any], works.Trained], lengths: tuple[int, int]):
        self.work, self.make, self.lengths = work, make, lengths
        self.trained = make(work)
        self.loss = work.loss(self.trained(work.lengths[0]))
        for length in lengths:
            self.trained(length)  # what is slow the first time is measured apart
        self.spent: list[tuple[float, ...]] = []  # in each round, by the short and the long run
        self.firsts: list[float] = []

    def go(self) -> None:
        """One more cost of a step or an epoch, and one more time to the first result."""
        self.spent.append(
            tuple(timed(lambda n=n: self.trained(n), self.clock) for n in self.lengths)
        )
        if self.work.first and len(self.firsts) < 3:
            self.firsts.append(timed(lambda: self.make(self.work)(1), self.clock))

    def cost(self, short: float, long: float) -> float:
        """Of one step or epoch, from what the two runs took."""
        return (long - short) / (self.lengths[1] - self.lengths[0]) / self.work.steps

    @property
    def costs(self) -> list[float]:
        return [self.cost(*times) for times in self.spent]

    @property
    def least(self) -> float:
        """From the least of each: in the least difference the short run was merely disturbed."""
        return self.cost(*map(min, zip(*self.spent, strict=True)))


class Advised(Run):
    """The same in a process of its own, under the settings that are advised here."""

    def __init__(self, work: Any, name: str, process: ProcessPoolExecutor):
        self.work, self.name, self.process = work, name, process
        self.lengths = work.lengths_jax if is_quick(name, "numpy") else work.lengths
        self.loss = process.submit(_begin, name, work, self.lengths).result()

    def go(self) -> None:
        self.spent, self.firsts = self.process.submit(_go, self.name).result()


_running: dict[str, Run] = {}  # in the process for what is advised


def _begin(name: str, work: Any, lengths: tuple[int, int]) -> float:
    _running[name] = Run(work, TRAINING[name][1], lengths)
    return _running[name].loss


def _go(name: str) -> Any:
    _running[name].go()
    return _running[name].spent, _running[name].firsts


@cache
def advised_process() -> tuple[ProcessPoolExecutor, str]:
    """A process under the settings that are advised here, and those as text; "" if none are."""
    advice = backends.get("numpy").advice()
    settings = advice.environment if advice else {}
    before = dict(os.environ)
    os.environ.update(settings)  # a process that is spawned takes them over
    process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    process.submit(os.getpid).result()
    os.environ.clear()
    os.environ.update(before)
    return process, " ".join(f"{name}={value}" for name, value in settings.items())


def advised(work: Any) -> dict[str, Run]:
    """What NumPy and tinynn do under the settings that are advised here, by name."""
    process, settings = advised_process()
    names = [name for name, (module, _) in TRAINING.items() if module == "numpy" and settings]
    return {f"{name}, {settings}": Advised(work, name, process) for name in names}


def timed(function: Callable[[], Any], clock: Callable[[], float] = process_time) -> float:
    gc.collect()
    gc.disable()
    start = clock()
    function()
    spent = clock() - start
    gc.enable()
    return spent


def ratio(run: Run, other: Run) -> float:
    return median(mine / his for mine, his in zip(run.costs, other.costs, strict=True))


def missing(competitors: Competitors) -> list[str]:
    def absent(module: str) -> bool:
        try:
            importlib.import_module(module)
        except ImportError:
            return True
        return False

    return [name for name, (module, _) in competitors.items() if absent(module)]


def is_quick(name: str, module: str) -> bool:
    """Whether runs have to be longer, or what a step costs drowns in what a run costs once."""
    return module == "jax" or "loops" in name


def measure(work: Any, competitors: Competitors, rounds: int, advise: bool = False) -> list[str]:
    """One table, as lines of Markdown."""
    absent = missing(competitors)
    runs = {
        name: Run(work, make, work.lengths_jax if is_quick(name, module) else work.lengths)
        for name, (module, make) in competitors.items()
        if name not in absent
    }
    hand = runs["NumPy by hand"]
    runs |= advised(work) if advise else {}
    for name, run in runs.items():
        np.testing.assert_allclose(run.loss, hand.loss, rtol=work.tolerance, err_msg=name)
    for _ in range(rounds):
        for run in runs.values():
            run.go()
    lines = [
        f"| | {work.unit}, median | least | times NumPy by hand | first result, ms | loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        first = f"{median(run.firsts) * 1e3:.1f}" if run.firsts else ""
        lines.append(
            f"| {name} | {median(run.costs) * work.scale:.2f} | {run.least * work.scale:.2f} "
            f"| {ratio(run, hand):.2f} | {first} | {run.loss:.8g} |"
        )
    lines += [f"\nNot installed, so not measured: {', '.join(absent)}."] if absent else []
    scan, losses, jit = (runs.get(name) for name in list(JAX)[1:])
    if scan and losses and jit:
        lines.append(
            f'\nengine="jit" to lax.scan by hand: {ratio(jit, scan):.2f}; to one that, like fit, '
            f"gives the loss of every step: {ratio(jit, losses):.2f}."
        )
    return lines


def tables(name: str, work: Any, rounds: int) -> list[str]:
    """The work's table, and for small works that of JAX's arrays."""
    small = name in ("w1", "w2")
    competitors = PREDICTING if name == "w7" else SMALL if small else TRAINING
    lines = [f"### {work.title}", *measure(work, competitors, rounds, name in ("w3", "w4"))]
    if small:
        lines += [f"\n### {work.title}, on JAX's arrays"]
        lines += measure(work, JAX, rounds)
    return lines


def digits() -> Dense:
    title = "W2: digits 64-32-10, Adam, batch 32, float32, 1792 rows"
    work = Dense(title, (64, 32, 10), 32, 1792, "adam")
    work.lengths, work.lengths_jax = (2, 12), (100, 1600)
    return work


def wide(rule: str, rows: int) -> Dense:
    named = "Adam" if rule == "adam" else "SGD with momentum 0.9"
    title = f"W3: 784-256-128-10, {named}, batch 128, float32, {rows} rows"
    return Dense(title, (784, 256, 128, 10), 128, rows, rule)


def large() -> Dense:
    work = Dense(
        "W4: 1024-2048-2048-1024, SGD, batch 512, float32",
        (1024, 2048, 2048, 1024), 512, 2048, "sgd",
    )  # fmt: skip
    work.steps, work.unit, work.lengths = 4, "ms a step", (1, 4)
    work.lengths_jax = work.lengths
    return work


def whole_batches(context: Any, parameter: Any, rows: int) -> int:
    if rows < 128 or rows % 128:
        raise click.BadParameter(f"expected a multiple of 128, the size of a batch, got {rows}")
    return rows


def known(context: Any, parameter: Any, names: str) -> list[str]:
    wanted = names.split(",")
    if unknown := set(wanted) - {"w1", "w2", "w3", "w4", "w7"}:
        raise click.BadParameter(f"expected some of w1,w2,w3,w4,w7, got {', '.join(unknown)}")
    return wanted


@click.command(help=__doc__)
@click.option("--work", default="w1,w2,w3,w4,w7", show_default=True, callback=known)
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
@click.option("--rows", default=59904, show_default=True, callback=whole_batches, help="Of w3.")
def main(work: list[str], rounds: int, rows: int) -> None:
    makers: dict[str, list[Callable[[], Any]]] = {
        "w1": [works.Xor],
        "w2": [digits],
        "w3": [lambda: wide("adam", rows), lambda: wide("momentum", rows)],
        "w4": [large],
        "w7": [works.Row],
    }
    print(f"{machine(MODULES)}; {rounds} rounds.")
    for name in work:
        for make in makers[name]:
            print("\n" + "\n".join(tables(name, make(), rounds)), flush=True)


if __name__ == "__main__":
    main()
