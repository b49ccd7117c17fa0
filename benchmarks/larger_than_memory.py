"""Training from files larger than memory: its speed beside the same rows in memory, and its memory.

    python benchmarks/larger_than_memory.py [--size 1] [--kinds npy,parquet,zarr,hdf5] [--rounds 3]

`--size` is in GB: rows of 64 numbers of float32 and a target, written uncompressed to a temporary
folder (TMPDIR), in parts of 16 MB. Each run is a process of its own that trains three epochs, by
"calls", shuffled, and tells how many rows a second went through the steps in the faster of the last
two, and the most anonymous memory (RssAnon of /proc/self/status, sampled every 20 ms; Linux). The
run in memory has as many of the rows as 1 GB holds. Kinds and memory take turns; ratios are of
medians. By the clock other programs on the machine count too; the processor time of the thread of
the steps is that of the training loop alone, and `reading` is that of all other threads in units of
it: below 1, what reads and shuffles is the faster. `waits` is the part of an epoch in which the
steps waited for rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, sleep, thread_time
from typing import Any

import numpy as np

FEATURES, PART = 64, 2**16  # rows of a part: 16 MB
NETWORKS = {"64-64-1": (64,), "64-128-128-1": (128, 128)}


def part(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a part, drawn by its number."""
    rng = np.random.default_rng(number)
    x = rng.standard_normal((PART, FEATURES), "float32")
    return x, np.sin(x[:, 0]) + x[:, 1] * x[:, 2]


def write(kind: str, folder: Path, parts: int) -> None:
    """All parts as files of a kind."""
    rows = parts * PART
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([("x", pa.list_(pa.float32(), FEATURES)), ("y", pa.float32())])
        settings = {"compression": None, "use_dictionary": False}
        with pq.ParquetWriter(folder / "rows.parquet", schema, **settings) as file:
            for x, y in map(part, range(parts)):
                lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), FEATURES)
                file.write_table(pa.table([lists, y], schema), row_group_size=PART)
    elif kind == "zarr":
        import zarr

        group = zarr.open_group(str(folder / "rows.zarr"), mode="w")
        shapes = {"x": (rows, FEATURES), "y": (rows,)}
        made = [
            group.create_array(
                name, shape=shape, chunks=(PART, *shape[1:]), dtype="f4", compressors=None
            )
            for name, shape in shapes.items()
        ]
        for i in range(parts):
            for array, values in zip(made, part(i), strict=True):
                array[i * PART : (i + 1) * PART] = values
    elif kind == "hdf5":
        import h5py

        with h5py.File(folder / "rows.h5", "w") as file:
            made = [
                file.create_dataset(n, (rows, *s), "f4", chunks=(PART, *s))
                for n, s in {"x": (FEATURES,), "y": ()}.items()
            ]
            for i in range(parts):
                for array, values in zip(made, part(i), strict=True):
                    array[i * PART : (i + 1) * PART] = values
    else:
        for i in range(parts):
            for name, values in zip("xy", part(i), strict=True):
                np.save(folder / f"{name}-{i:05}.npy", values)


def source(kind: str, folder: Path) -> Any:
    """The files of a kind, as data."""
    from tinynn.data import HDF5, NpyFolder, Parquet, Zarr

    if kind == "parquet":
        return Parquet(folder / "rows.parquet", x="x", y="y")
    if kind == "zarr":
        return Zarr(folder / "rows.zarr")
    return HDF5(folder / "rows.h5") if kind == "hdf5" else NpyFolder(folder)


def anonymous() -> int:
    """The anonymous memory of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon: this is measured on Linux alone")


class Watch:
    """The most anonymous memory while it is open."""

    def __enter__(self) -> "Watch":
        self.most, self.open = anonymous(), True
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self) -> None:
        while self.open:
            self.most = max(self.most, anonymous())
            sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.open = False
        self.thread.join()


def train(kind: str, folder: Path, parts: int, hidden: tuple[int, ...]) -> dict[str, float]:
    """Rows a second, processor time, the most anonymous memory, and how long the steps waited."""
    from tinynn import fit
    from tinynn.data import blockdataset
    from tinynn.functional import relu
    from tinynn.layers import Linear, Sequential

    net = Sequential(*(each for w in hidden for each in (Linear(w), relu)), Linear(1))
    waited, ends = [0.0], []
    plain = blockdataset.ahead

    def ahead(*arguments: Any) -> Any:
        rows = plain(*arguments)
        while True:
            start = perf_counter()
            each = next(rows, None)
            waited[-1] += perf_counter() - start
            if each is None:
                return
            yield each

    blockdataset.ahead = ahead

    def end(run: Any) -> None:
        ends.append((perf_counter(), thread_time(), process_time()))
        waited.append(0.0)

    if kind == "memory":
        parts = min(parts, 2**30 // (PART * FEATURES * 4))
        rows = [part(i) for i in range(parts)]
        data: tuple[Any, ...] = tuple(np.concatenate(each) for each in zip(*rows, strict=True))
        del rows
    else:
        data = (source(kind, folder),)
    with Watch() as watch:
        fit(
            net, *data, loss="squared_error", epochs=3, batch_size=256, engine="calls",
            callbacks=[end], progress=False,
        )  # fmt: skip
    took = [[b - a for a, b in zip(*pair, strict=True)] for pair in pairwise(ends)]
    best = min(range(2), key=lambda epoch: took[epoch][0])
    clock, steps, all_threads = took[best]
    return {
        "rows": parts * PART / clock,
        "steps": parts * PART / steps,
        "reading": (all_threads - steps) / steps,
        "memory": watch.most,
        "waits": waited[1 + best] / clock,
    }


def run(kind: str, folder: Path, parts: int, network: str) -> dict[str, float]:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--run", kind, "--folder", str(folder)]
    command += ["--parts", str(parts), "--network", network]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=float, default=1.0, help="GB of each file")
    parser.add_argument("--kinds", default="npy,parquet,zarr,hdf5")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    for hidden in ("run", "folder", "parts", "network"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.networks.split(",")) - set(NETWORKS):
        parser.error(f"--networks: expected some of {', '.join(NETWORKS)}, got {sorted(unknown)}")
    if options.run:
        hidden = NETWORKS[options.network]
        found = train(options.run, Path(options.folder), int(options.parts), hidden)
        print(json.dumps(found))
        return
    table(options)


def table(options: argparse.Namespace) -> None:
    parts = max(2, round(options.size * 2**30 / (PART * FEATURES * 4)))
    print("| network | data | rows/s | of memory's | by processor time | reading | waits | MB |")
    print("|---|---|---|---|---|---|---|---|")
    kinds = options.kinds.split(",")
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            (at := Path(folder, kind)).mkdir()
            write(kind, at, parts)
        for network in options.networks.split(","):
            found: dict[str, list[dict[str, float]]] = {kind: [] for kind in ("memory", *kinds)}
            for _ in range(options.rounds):
                for kind, rounds in found.items():
                    rounds.append(run(kind, Path(folder, kind), parts, network))
            mid = {
                kind: {name: median(r[name] for r in rounds) for name in rounds[0]}
                for kind, rounds in found.items()
            }
            for kind, of in mid.items():
                shares = [of[name] / mid["memory"][name] for name in ("rows", "steps")]
                most = max(r["memory"] for r in found[kind]) / 2**20
                print(
                    f"| {network} | {kind} | {of['rows']:,.0f} | {shares[0]:.2f} | {shares[1]:.2f} "
                    f"| {of['reading']:.2f} | {of['waits']:.0%} | {most:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
