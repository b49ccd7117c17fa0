"""What a large raw table costs: read, made ready for a network, trained on, predicted and written.

    python benchmarks/tables.py [--rows 1000000] [--rounds 3]

The table has eleven columns: a date, six numbers (one of them with holes), a whole number, two
columns of categories, and a class to predict; 76 MB of CSV at a million rows. It is made anew, by a
seed. Each measurement is a process of its own: the seconds are those of the work, without imports
(and those of processor time on all cores, which other programs disturb less), and the megabytes are
the most that the process held, all imports included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars

READ = """
table = reading.read(path)
preparation = TablePreparation.fit(table, "kind")
X = preparation.transform(table)
y = preparation.targets(table)
"""
PREDICT = """
table = reading.read(path)
blob, labels = writing.answers(model, table, None, False)
files.write(path + ".answers.csv", blob)
"""
TRAIN = """
from tinynn.cli.app import app
from tinynn.tabular import fitting
inner, within = fitting.fit, []
def fit(*arguments, **options):
    begun = perf_counter(), process_time()
    made = inner(*arguments, **options)
    within[:] = perf_counter() - begun[0], process_time() - begun[1]
    return made
fitting.fit = fit
options = ["--target", "kind", "--out", path + ".model", "--epochs", "1", "--no-progress"]
sys.stdout = sys.stderr
app(["train", path, *options], standalone_mode=False)
sys.stdout = sys.__stdout__
"""
PROCESS = """
import json, resource, sys
from time import perf_counter, process_time
import tinynn
from tinynn.cli import reading, writing
from tinynn.tabular import TablePreparation
from tinynn.training import files
path, saved = sys.argv[1:]
model = tinynn.load(saved)
within = []
start, used = perf_counter(), process_time()
{work}
seconds, used = perf_counter() - start, process_time() - used
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, used, held, *within]))
"""


def make(rows: int) -> polars.DataFrame:
    """The table, by a seed."""
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(6, rows)) * np.asarray([[1], [10], [100], [1], [5], [50]])
    frame: dict[str, object] = {
        "when": np.datetime64("2020-01-01") + draw.integers(0, 1500, rows).astype("timedelta64[D]"),
        "visits": draw.integers(0, 500, rows),
        "colour": draw.choice(["red", "green", "blue", "black", "white"], rows),
        "town": draw.choice([f"town {i}" for i in range(40)], rows),
    }
    frame |= {f"n{i}": column.round(4) for i, column in enumerate(numbers)}
    frame["kind"] = np.where(numbers[0] + numbers[3] > 0, "yes", "no")
    holes = polars.when(polars.Series(draw.random(rows) > 0.05)).then(polars.col("n5"))
    return polars.DataFrame(frame).with_columns(holes.alias("n5"))


def measure(work: str, *arguments: str) -> list[float]:
    """Seconds, seconds of processor time on all cores, and megabytes at most.

    TRAIN gives the two kinds of seconds of `fit` within it besides.
    """
    source = PROCESS.format(work=work)
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, check=True
    )
    numbers: list[float] = json.loads(done.stdout)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        frame = make(options.rows)
        files = [Path(folder, f"table.{ending}") for ending in ("csv", "parquet")]
        frame.write_csv(files[0])
        frame.write_parquet(files[1])
        saved = Path(folder, "model.safetensors")
        train = "import sys, polars; from tinynn.tabular import fit_table; "
        train += "frame = polars.read_csv(sys.argv[1], n_rows=20_000); "
        train += "fit_table(frame, 'kind', epochs=2).save(sys.argv[2])"
        subprocess.run([sys.executable, "-c", train, str(files[0]), str(saved)], check=True)
        print(f"| {options.rows:,} rows | size, MB | seconds, least | of processor | MB at most |")
        print("|---|---|---|---|---|")
        for file in files:
            for name, work in (("read and ready", READ), ("predicted and written", PREDICT)):
                rounds = [measure(work, str(file), str(saved)) for _ in range(options.rounds)]
                print(
                    f"| {file.suffix[1:]}: {name} | {file.stat().st_size / 1e6:.0f} "
                    f"| {min(each[0] for each in rounds):.2f} "
                    f"| {min(each[1] for each in rounds):.2f} "
                    f"| {max(each[2] for each in rounds):.0f} |",
                    flush=True,
                )
        rounds = [measure(TRAIN, str(files[0]), str(saved)) for _ in range(options.rounds)]
        print(
            "\n| csv to a saved model, one epoch | seconds, least | of processor |\n|---|---|---|"
        )
        for name, (wall, used) in (("tinynn train", (0, 1)), ("of it, fit", (3, 4))):
            least = [min(each[place] for each in rounds) for place in (wall, used)]
            print(f"| {name} | {least[0]:.2f} | {least[1]:.2f} |")
        ratios = sorted(each[1] / each[4] for each in rounds)
        print(f"| ratio, median | {ratios[len(ratios) // 2]:.2f} | |")


if __name__ == "__main__":
    main()
