"""`tinynn predict` on tables larger than the memory that it may take: its memory and its pace.

    python benchmarks/streamed_answers.py [--size 1] [--memory 256] [--kinds csv,parquet,-]

`--size` is in GB of rows of 20 numbers of float64, written as each kind to a temporary folder
(TMPDIR); "-" is CSV on standard input. Each run is a process of its own whose answers go to a file
of the same kind, with `--memory`; the most of its anonymous memory (RssAnon of /proc/PID/status,
sampled every 20 ms; Linux) is told beside the sizes of both files.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

FEATURES, PART = 20, 2**16
NAMES = [f"x{i}" for i in range(FEATURES)]


def part(number: int) -> pl.DataFrame:
    """The rows of a part, drawn by its number."""
    rows = np.random.default_rng(number).standard_normal((PART, FEATURES))
    return pl.DataFrame(rows, schema=NAMES)


def write(kind: str, path: Path, parts: int) -> None:
    """All parts as one file of a kind."""
    if kind in ("csv", "jsonl"):
        with open(path, "wb") as file:
            for number in range(parts):
                if kind == "csv":
                    part(number).write_csv(file, include_header=not number)
                else:
                    part(number).write_ndjson(file)
        return
    made: Any = pa.parquet.ParquetWriter if kind == "parquet" else pa.ipc.new_file
    with made(str(path), part(0).to_arrow().schema) as writer:
        for number in range(parts):
            writer.write_table(part(number).to_arrow())


def anonymous(process: int) -> int:
    """The anonymous memory of a process, in MB; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon")), 0)


def predicted(model: Path, source: Path, out: Path, memory: int, piped: bool) -> tuple[float, int]:
    """(seconds, the most MB of anonymous memory) of a process that answers for a table."""
    command = [sys.executable, "-m", "tinynn", "predict", str(model), "-" if piped else str(source)]
    command += ["--memory", str(memory), "--out", str(out), "--force"]
    start, most = perf_counter(), 0
    with open(source, "rb") as data:
        done = subprocess.Popen(
            command, stdin=data if piped else subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while done.poll() is None:
            most = max(most, anonymous(done.pid))
            sleep(0.02)
        _, said = done.communicate()
    if done.returncode:
        raise RuntimeError(said.decode())
    return perf_counter() - start, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=float, default=1.0, help="GB of float64")
    parser.add_argument("--memory", type=int, default=256, help="MB")
    parser.add_argument("--kinds", default="csv,parquet,feather,jsonl,-")
    options = parser.parse_args()
    parts = max(2, round(options.size * 2**30 / (PART * FEATURES * 8)))
    from tinynn.tabular import fit_table

    print("| data | its MB | --memory | RssAnon, MB | rows/s | answers, MB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = part(0).head(2000).with_columns(y=pl.col("x0") + pl.col("x1"))
        fit_table(table, "y", epochs=2, progress=False, report=lambda line: None).save(folder / "m")
        for kind in options.kinds.split(","):
            ending = "csv" if kind == "-" else kind
            source, out = folder / f"rows.{ending}", folder / f"answers.{ending}"
            write(ending, source, parts)
            took, most = predicted(folder / "m", source, out, options.memory, kind == "-")
            sizes = [path.stat().st_size / 2**20 for path in (source, out)]
            print(
                f"| {kind} | {sizes[0]:.0f} | {options.memory} | {most} | "
                f"{parts * PART / took:,.0f} | {sizes[1]:.0f} |",
                flush=True,
            )
            source.unlink()


if __name__ == "__main__":
    main()
