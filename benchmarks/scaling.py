"""How a training step scales with processes: measured on 1 and 2, by a model from 2 to 512.

    python benchmarks/scaling.py [--rounds 15] [--works w4,w3,w2] [--out benchmarks/scaling.png]

Weak scaling: each process, of one thread, has the rows of a batch of one alone, so that a step of
two computes twice as much. Two processes are started once for each communicator (MPI, gloo). In
each round, in turn: rank 0 trains alone while rank 1 sleeps; both train at once, each alone, which
shows what two processes of one machine take from each other; both train together. The losses of all
three have to agree. Times are the least of all rounds, of the clock; efficiency is the time of a
step alone over that of one together. On a machine with other work the clock tells little: the last
column is the same of the processor's time, its median over rounds, in which a rank of gloo does not
wait, but one of MPI does.

What is beyond two processes is a model, and nothing else: see `modelled`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported

import click  # noqa: E402
import numpy as np  # noqa: E402
from compiled import digits, large, wide  # noqa: E402
from works import start_of  # noqa: E402

import backends  # noqa: E402
from tinynn import tree  # noqa: E402
from tinynn.parallel import communicator as find_communicator  # noqa: E402
from tinynn.training import engines, prepare  # noqa: E402


def one_batch() -> Any:
    """W4 with the rows of one step."""
    work = large()
    work.rows = work.batch
    return work


WORKS: dict[str, Callable[[], Any]] = {
    "w4": one_batch,
    "w3": lambda: wide("adam", 128 * 16),
    "w2": digits,
}
LAUNCHERS = {
    "mpi": ["mpiexec", "-n", "2", sys.executable],
    "gloo": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"],
}
NEEDS = {"mpi": "mpi4py", "gloo": "torch"}
ENOUGH = 0.2  # seconds of a measurement
SIZES = (1, 2**22)  # numbers in float32, of the sums by which latency and bandwidth are measured
RANKS = [2**power for power in range(10)]


class Network(NamedTuple):
    """A network that the model assumes: none of these was measured."""

    name: str
    latency: float  # seconds of a message
    bandwidth: float  # bytes a second, in each direction


NETWORKS = (
    Network("10 Gbit/s Ethernet, 30 us", 30e-6, 1.25e9),
    Network("100 Gbit/s InfiniBand, 2 us", 2e-6, 12.5e9),
)


class Copying:
    """A communicator of one process, whose sums are copies: what a step does beside the network."""

    rank, size = 0, 1

    def all_reduce(self, array: Any) -> Any:
        return array.copy()

    def broadcast(self, array: Any) -> Any:
        return array.copy()

    def barrier(self) -> None:
        pass

    def abort(self, message: str) -> None:
        raise SystemExit(message)


def engine_of(work: Any, communicator: Any) -> Any:
    """An engine that carries out the step of a work; each process has a batch of its own of it.

    All have the same rows, so that the losses are those of one process.
    """
    home, count = backends.get("numpy"), 1 if communicator is None else communicator.size
    net, loss, optimizer = work.tinynn()
    size = work.batch or len(work.x)

    def each(array: Any) -> Any:
        batches = array.reshape(-1, size, *array.shape[1:])
        return np.concatenate([batches] * count, axis=1).reshape(-1, *array.shape[1:])

    problem = prepare(
        net, each(work.x), each(work.y), loss=loss, optimizer=optimizer, batch_size=size * count,
        shuffle=False, params=start_of(work, home), communicator=communicator,
    )  # fmt: skip
    return engines.select(problem, "calls", epochs=2)


def seconds(engine: Any, epochs: int) -> tuple[float, float]:
    """The time of a step, of the clock and of the processor."""
    start, worked = time.perf_counter(), time.process_time()
    losses = engine.run_epochs(epochs)
    found = time.perf_counter() - start, time.process_time() - worked
    return found[0] / losses.size, found[1] / losses.size


def measured(work: Any, communicator: Any, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds a step alone, both at once, and together, (rounds, clock and processor): rank 0's."""
    first = communicator.rank == 0
    by = {
        "alone": engine_of(work, None),
        "copying": engine_of(work, Copying()),
        "at once": engine_of(work, None),
        "together": engine_of(work, communicator),
    }
    losses = [np.asarray(engine.run_epochs(1)) for engine in by.values()]  # warm, too
    for each in losses[1:]:
        np.testing.assert_allclose(each, losses[0], rtol=1e-4)
    start = time.perf_counter()
    by["alone"].run_epochs(1)
    epochs = max(1, round(ENOUGH / (time.perf_counter() - start)))
    epochs = int(communicator.all_reduce(np.asarray(float(epochs) * first)))
    found: dict[str, Any] = {name: [] for name in by}
    for number in range(rounds):
        for name, engine in by.items():
            if name in ("alone", "copying") and not first:
                continue
            if name == "at once":
                waited_for(folder / f"{number}", first)
            if name in ("at once", "together"):
                communicator.barrier()
            found[name].append(seconds(engine, epochs))
    params = sum(leaf.size for leaf in tree.leaves(start_of(work, backends.get("numpy"))))
    return found | {"bytes": params * work.x.dtype.itemsize}


def waited_for(path: Path, first: bool) -> None:
    """Let the second process sleep until the first is here; a barrier of MPI's would spin."""
    if first:
        path.touch()
    while not path.exists():
        time.sleep(0.002)


def sums(communicator: Any) -> list[float]:
    """Seconds of an all_reduce of each of SIZES: the least of many."""
    found = []
    for size in SIZES:
        array = np.ones(size, "float32")
        times = []
        for _ in range(300 if size == 1 else 30):
            communicator.barrier()
            start = time.perf_counter()
            communicator.all_reduce(array)
            times.append(time.perf_counter() - start)
        found.append(min(times))
    return found


def adding() -> float:
    """Seconds that this machine takes to add a byte to another: the least of many."""
    left, right, times = np.ones(SIZES[1], "float32"), np.ones(SIZES[1], "float32"), []
    for _ in range(30):
        start = time.perf_counter()
        np.add(left, right, out=left)
        times.append(time.perf_counter() - start)
    return min(times) / left.nbytes


def modelled(compute: float, size: int, ranks: int, network: Network, adds: float) -> float:
    """Seconds a step on so many ranks, by the model.

    The all-reduce halves and doubles (Rabenseifner 2004; Thakur, Rabenseifner and Gropp 2005):
    2 log2(ranks) messages one after the other, in which a rank sends, and adds, all but its own
    part: 2 (1 - 1 / ranks) of the bytes go out and in, and half of that is added. A rank computes
    nothing meanwhile, as in `tinynn.fit`, and no two ranks share a network or a memory.

    Parameters
    ----------
    compute
        Seconds a step of one process with a communicator that only copies, measured.
    size
        Bytes of the gradient.
    adds
        Seconds to add a byte, measured.
    """
    if ranks == 1:
        return compute
    share = size * (1 - 1 / ranks)
    messages = 2 * np.log2(ranks) * network.latency
    return compute + float(messages) + 2 * share / network.bandwidth + share * adds


def here(name: str, times: list[float], adds: float) -> Network:
    """Latency and bandwidth between two processes of this machine, by two sums of theirs."""
    small, large_ = times
    size = 4 * SIZES[1]
    # An all-reduce of two ranks: 2 messages, all bytes once, and half of them added.
    bandwidth = size / max(large_ - small - size / 2 * adds, 1e-9)
    return Network(f"{name} on this machine", small / 2, bandwidth)


@click.group(invoke_without_command=True, help=__doc__)
@click.option("--rounds", default=15, show_default=True)
@click.option("--works", default=",".join(WORKS), show_default=True)
@click.option("--out", default="benchmarks/scaling.png", show_default=True)
@click.pass_context
def command(context: click.Context, rounds: int, works: str, out: str) -> None:
    if context.invoked_subcommand:
        return
    names, found = works.split(","), {}
    for name, launcher in LAUNCHERS.items():
        if not find_spec(NEEDS[name]):
            click.echo(f"{name} is left out: {NEEDS[name]} is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            program = [__file__, "rank", name, works, str(rounds), folder]
            search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            start = [shutil.which(launcher[0], path=search) or launcher[0], *launcher[1:], *program]
            subprocess.run(start, check=True)
            found[name] = json.loads((Path(folder) / "found").read_text())
    for line in table(names, found):
        click.echo(line)
    picture(names, found, out)


@command.command(name="rank", hidden=True)
@click.argument("name")
@click.argument("works")
@click.argument("rounds", type=int)
@click.argument("folder", type=click.Path(path_type=Path))
def rank(name: str, works: str, rounds: int, folder: Path) -> None:
    """One of the two processes."""
    communicator: Any = find_communicator(name)
    found: dict[str, Any] = {"sums": sums(communicator), "adds": adding()}
    for work in works.split(","):
        (place := folder / work).mkdir(exist_ok=True)
        found[work] = measured(WORKS[work](), communicator, rounds, place)
    if communicator.rank == 0:
        (folder / "found").write_text(json.dumps(found))
    communicator.barrier()


class Measured(NamedTuple):
    """What is shown of a work: seconds a step."""

    alone: float
    at_once: float
    together: float
    copying: float
    efficiency: float
    processor: float  # the efficiency in its time
    size: int  # bytes of the gradient


def summary(of: dict[str, Any]) -> Measured:
    """The least times of all rounds."""
    names = ("alone", "at once", "together", "copying")
    alone, at_once, together, copying = (np.asarray(of[name]) for name in names)
    least = [float(a[:, 0].min()) for a in (alone, at_once, together, copying)]
    processor = float(np.median(alone[:, 1] / together[:, 1]))
    return Measured(*least, least[0] / least[2], processor, of["bytes"])


def table(names: list[str], found: dict[str, Any]) -> list[str]:
    """What was measured, as Markdown, and what the model says of it."""
    rows = [f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, NumPy {np.__version__}\n"]
    rows.append(
        "| work | through | gradient | alone | both at once, each alone | together | efficiency | "
        "model of together | efficiency, processor time |"
    )
    rows.append("|---|---|---|---|---|---|---|---|---|")
    for work in names:
        for name, of in found.items():
            it, network = summary(of[work]), here(name, of["sums"], of["adds"])
            model = modelled(it.copying, it.size, 2, network, of["adds"])
            times = (f"{1e3 * a:.4g} ms" for a in (it.alone, it.at_once, it.together))
            parts = [WORKS[work]().title.split(",")[0], name, size_of(it.size), *times]
            parts += [f"{it.efficiency:.2f}", f"{1e3 * model:.4g} ms", f"{it.processor:.2f}"]
            rows.append("| " + " | ".join(parts) + " |")
    for name, of in found.items():
        network = here(name, of["sums"], of["adds"])
        rows.append(
            f"\n{network.name}: {1e6 * network.latency:.3g} us a message, "
            f"{network.bandwidth / 1e9:.3g} GB/s; {1 / of['adds'] / 1e9:.3g} GB/s are added"
        )
    return rows


def picture(names: list[str], found: dict[str, Any], out: str) -> None:
    """The efficiency that the model gives, with what was measured, and what it assumes."""
    import matplotlib.pyplot as plt

    name, of = next(iter(found.items()))
    local = here(name, of["sums"], of["adds"])
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.8), sharey=True)
    for axis, network in zip(axes, NETWORKS, strict=True):
        for number, work in enumerate(names):
            it, color = summary(of[work]), f"C{number}"
            steps = [modelled(it.copying, it.size, n, network, of["adds"]) for n in RANKS[1:]]
            shown = f"{work.upper()}: {1e3 * it.alone:.3g} ms alone, {size_of(it.size)}"
            axis.plot(RANKS[1:], it.alone / np.asarray(steps), "--", color=color, label=shown)
            axis.plot([1, 2], [1, it.efficiency], "o", color=color, markersize=7)
            checked = it.alone / modelled(it.copying, it.size, 2, local, of["adds"])
            axis.plot(2, checked, "x", color=color, markersize=9)
        title = f"MODEL, not measured: {network.name}"
        axis.set(xscale="log", ylim=(0, 1.08), xlabel="ranks", title=title)
        axis.set_xticks(RANKS, [str(n) for n in RANKS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("weak-scaling efficiency")
    shown = axes[0].get_legend_handles_labels()
    figure.legend(*shown, loc="lower center", bbox_to_anchor=(0.5, 0.14), ncols=3, fontsize=9)
    said = (
        f"Dots are measured: 1 and 2 processes of one thread on one machine, through {name}, "
        f"at a load of {os.getloadavg()[0]:.1f}. Crosses are the model of those 2, with the "
        f"latency and\nbandwidth measured between them: {1e6 * local.latency:.2g} us, "
        f"{local.bandwidth / 1e9:.2g} GB/s. Dashed lines are the model: step = compute + "
        "2 log2(n) latency + 2 (1 - 1/n) bytes / bandwidth\n+ (1 - 1/n) bytes / "
        f"{1 / of['adds'] / 1e9:.2g} GB/s of adding. It assumes: compute as measured in one "
        "process, the same on every rank and in every step (no stragglers, no jitter);\n"
        "a machine of its own for each rank; a network without contention, of the latency and "
        "bandwidth named above each panel;\nan all-reduce that halves and doubles; nothing "
        "computed while it communicates."
    )
    figure.tight_layout(rect=(0, 0.19, 1, 1))
    figure.text(0.02, 0.015, said, fontsize=8)
    figure.savefig(out, dpi=110)
    click.echo(f"wrote {out}")


def size_of(count: int) -> str:
    """Bytes, for people."""
    for unit, least in (("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return f"{count / least:.3g} {unit}"
    return f"{count} bytes"


if __name__ == "__main__":
    command()
