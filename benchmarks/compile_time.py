"""Compile time: from a function to the program that is run, stage by stage.

    python benchmarks/compile_time.py [--rounds 30] [--only XOR,LeNet] [--cold]

Processor milliseconds on NumPy, on one thread, medians over rounds, each of which does all of it
anew. "record": the step, run once and written down. "key": what tells a later run that the step is
the same. "passes": the graph simplified, and put into the calls that the library has. "emit": from
the graph to the text of the program, memory planned, and Python's compiling of it; of this,
"Python" is the latter alone. Of L-BFGS what is compiled is the loss and its gradient. `--cold`: the
first result of XOR with loops in a process of its own that has trained by calls, by the clock: with
no machine code on disk, and with it, and where the time goes.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from time import process_time
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported

import click  # noqa: E402
import numpy as np  # noqa: E402
from eager import machine  # noqa: E402

import backends  # noqa: E402
from tinynn import tree  # noqa: E402
from tinynn.compiler.pipelines import applied, for_library  # noqa: E402
from tinynn.compiler.reuse import programs_of  # noqa: E402
from tinynn.compiler.train_loop import InPlace  # noqa: E402
from tinynn.data import Samples  # noqa: E402
from tinynn.functional import relu, sigmoid, tanh  # noqa: E402
from tinynn.layers import (  # noqa: E402
    GRU,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Sequential,
    TransformerEncoderBlock,
)
from tinynn.losses import SoftmaxCrossEntropy, SquaredError  # noqa: E402
from tinynn.optim import SGD, Adam  # noqa: E402
from tinynn.optim.flat import Flat  # noqa: E402
from tinynn.training.engines.compiled import recorded, slots_of  # noqa: E402
from tinynn.training.step import TrainingStep  # noqa: E402

HOME = backends.get("numpy")
STAGES = ("record", "key", "passes", "emit", "Python", "all")
FIRST_RESULT = """
import numpy as np, tinynn
from time import perf_counter
from tinynn.functional import sigmoid
from tinynn.layers import Linear, Sequential
from tinynn.optim import SGD
import backends.llvm, tinynn.compiler.loops, tinynn.compiler.pushed
spent = {}
def timed(owner, name):
    function = getattr(owner, name)
    def call(*args, **kwargs):
        start = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] = perf_counter() - start
    setattr(owner, name, call)
timed(backends.llvm, "build")
timed(tinynn.compiler.loops.Loops, "__init__")
X, y = np.eye(4, 3), np.eye(4, 1)
net = Sequential(Linear(4, bias=False), sigmoid, Linear(1, bias=False), sigmoid)
for engine in ("calls", "loops"):
    start = perf_counter()
    tinynn.fit(net, X, y, loss="squared_error", optimizer=SGD(1.0), epochs=1, engine=engine,
               progress=False)
print(perf_counter() - start, spent["__init__"] - spent["build"], spent["build"])
"""


@dataclass(frozen=True)
class Work:
    """A network, its loss and optimizer, and the shapes of a batch; `classes` of targets or 0."""

    title: str
    net: Any
    loss: Any
    optimizer: Any
    x: tuple[int, ...]
    y: tuple[int, ...]
    classes: int = 0
    dtype: str = "float32"
    searches: bool = False

    def batch(self) -> Samples:
        draw = np.random.default_rng(0)
        y = draw.integers(0, self.classes, self.y) if self.classes else draw.normal(size=self.y)
        y = y if self.classes else y.astype(self.dtype)
        return Samples(draw.normal(size=self.x).astype(self.dtype), y)


XENT, SQUARES = SoftmaxCrossEntropy(), SquaredError(reduction="half_sum")
LENET = Sequential(
    Conv2d(6, kernel_size=5, padding=2), relu, MaxPool2d(),
    Conv2d(16, kernel_size=5), relu, MaxPool2d(), Flatten(),
    Linear(120), relu, Linear(84), relu, Linear(10),
)  # fmt: skip
SIGMOIDS = Sequential(Linear(4, bias=False), sigmoid, Linear(1, bias=False), sigmoid)
WORKS = [
    Work("XOR 3-4-1, SGD", SIGMOIDS, SQUARES, SGD(1.0), (4, 3), (4, 1), dtype="float64"),
    Work("wine 13-16-3, L-BFGS", Sequential(Linear(16), tanh, Linear(3)), XENT, SGD(1.0),
         (142, 13), (142,), 3, "float64", searches=True),
    Work("digits 64-32-10, Adam", Sequential(Linear(32), relu, Linear(10)), XENT, Adam(1e-3),
         (32, 64), (32,), 10),
    Work("LeNet, SGD", LENET, XENT, SGD(0.05), (64, 28, 28, 1), (64,), 10),
    Work("GRU 8-32, SGD", Sequential(GRU(32), Linear(1)), SQUARES, SGD(0.01), (32, 100, 8),
         (32, 1)),
    Work("transformer block, SGD", TransformerEncoderBlock(4), SQUARES, SGD(0.01), (16, 32, 64),
         (16, 32, 64)),
]  # fmt: skip


def step_of(work: Work) -> tuple[Callable[..., Any], tuple[Any, ...], int, list[list[int]]]:
    """(step, its arguments, how many inputs live on, which are parameters and their moments)"""
    step, batch = TrainingStep(work.net, work.loss, work.optimizer), work.batch()
    carry = step.init(0, batch, dtype=work.dtype)
    if not work.searches:
        return step, (carry, batch, None), len(tree.leaves(carry)), slots_of(carry)
    flat = Flat.of(carry.params)

    def evaluated(point: Any, batch: Samples) -> Any:  # as an L-BFGS search does
        here = carry._replace(params=flat.tree(point))
        value, _, gradients = step.gradients(here, batch, None)
        return flat.vector(gradients), value

    return evaluated, (flat.vector(carry.params), batch), 1, [[0]]


def measured(work: Work) -> Callable[[], list[float]]:
    step, arguments, kept, rows = step_of(work)

    def once() -> list[float]:
        times = [process_time()]
        graph = recorded(step, HOME, *arguments)
        times.append(process_time())
        programs_of(graph, HOME)
        times.append(process_time())
        graph = applied(graph, for_library(HOME.lowering))
        times.append(process_time())
        loop = InPlace(graph, kept, HOME, rows)
        times.append(process_time())
        compile(loop.source, "a program", "exec")
        times.append(process_time())
        parts = [after - before for before, after in pairwise(times)]
        return [1e3 * part for part in (*parts, sum(parts[:4]))]

    return once


def first_results() -> list[float]:
    """Milliseconds to the first result with loops: without machine code on disk, and with it.

    Of each: all of it, of which the kernel is written, of which there is machine code of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TINYNN_CACHE": folder}
        run = partial(subprocess.run, env=environment, check=True, capture_output=True, text=True)
        texts = [run([sys.executable, "-c", FIRST_RESULT]).stdout for _ in range(2)]
        return [1e3 * float(each) for text in texts for each in text.split()]


@click.command(help=__doc__)
@click.option("--rounds", default=30, show_default=True, type=click.IntRange(min=1))
@click.option("--only", default="", help="The first words of works, by commas.")
@click.option("--cold", is_flag=True, help="The first result with loops.")
def main(rounds: int, only: str, cold: bool) -> None:
    works = [w for w in WORKS if not only or w.title.startswith(tuple(only.split(",")))]
    runs = {work.title: measured(work) for work in works}
    for _ in range(3):
        for once in runs.values():
            once()
    found: dict[str, list[list[float]]] = {title: [] for title in runs}
    for _ in range(rounds):
        for title, once in runs.items():
            found[title].append(once())
    print(f"{machine(['numpy', 'llvmlite'])}; {rounds} rounds. Milliseconds.\n")
    print(f"| | {' | '.join(STAGES)} |\n|---|{'---|' * len(STAGES)}")
    for title, times in found.items():
        print(f"| {title} | {' | '.join(f'{median(t):.2f}' for t in zip(*times, strict=True))} |")
    if cold:
        rows = [first_results() for _ in range(max(1, rounds // 6))]
        none, _, compiling, disk, writing, loading = map(median, zip(*rows, strict=True))
        print(
            f"\nXOR, loops, the first result: {none:.0f} ms cold, {compiling:.0f} of them LLVM's; "
            f"{disk:.1f} ms from disk: {writing:.1f} to write the kernel, {loading:.1f} to find "
            f"and link its machine code, {disk - writing - loading:.1f} for the rest of fit."
        )


if __name__ == "__main__":
    main()
