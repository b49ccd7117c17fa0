"""The command line for tests: running it, a table of flowers, and a model of them."""

import csv
import random
import re
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from tinynn.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
DIGITS = str(ROOT / "examples/data/digits.csv")
QUICK = ("--epochs", "2", "--hidden", "4")


def run(*arguments, status=0):
    """What the command line prints, on both streams; its exit status is checked."""
    result = CliRunner().invoke(app, list(map(str, arguments)), prog_name="tinynn")
    output = result.output
    assert result.exit_code == status, output
    assert "Traceback" not in output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if status:
        assert len(re.findall("^Error: ", output, flags=re.MULTILINE)) == 1, output
    return output


def process(*arguments):
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tinynn", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def write(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_flowers(folder):
    """90 rows of numbers, a category and a constant; the species follows from both."""
    draw = random.Random(0)
    rows = []
    for _ in range(90):
        length, colour = draw.uniform(1, 9), draw.choice(["red", "blue"])
        species = "rosa" if colour == "red" else "iris" if length > 5 else "viola"
        rows.append([f"{length:.3f}", colour, "cm", f"{3 * length + 1:.3f}", species])
    return write(folder / "flowers.csv", ["length", "colour", "unit", "size", "species"], rows)


def train_model(flowers, folder):
    """A model file, good enough to be kept."""
    path = folder / "flowers.safetensors"
    run("train", flowers, "--target", "species", "--drop", "size", "--out", path, *QUICK)
    return path
