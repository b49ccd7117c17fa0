"""Fails where tinynn has become slower than it was at its last release.

    python benchmarks/regression.py [REF] [--rounds 9] [--limit 1.15]

REF is a tag, branch or commit; without it, the newest tag before HEAD. The small works of this
tree's compiled.py are done by tinynn as it is here and as it was there, in two processes that take
turns, so that whatever else the machine does falls on both alike; in processor time. What counts is
the median, over the rounds, of the ratio of the two times in one round. A ratio above the limit is
measured again, in new processes and twice as many rounds, and fails only if it stays above. Losses
have to agree.
"""

import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("eager", "calls", "loops")
NAMES = [*(f"{work} {engine}" for work in ("W1", "W2") for engine in ENGINES), "W7 predict"]


class Result(NamedTuple):
    """One measurement in one tree, in one round."""

    cost: float  # of a step, an epoch or a call, in seconds
    first: float | None  # until the result of a first step, recording and compiling included
    loss: float
    tolerance: float


class Tree:
    """tinynn as it is in one folder, in a process of its own."""

    def __init__(self, folder: Path):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )

    def measure(self, name: str) -> Result:
        """Once more; ClickException if it cannot be done there."""
        assert self.process.stdin
        assert self.process.stdout
        print(name, file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline() or '"the process has ended"')
        if isinstance(answer, str):
            raise click.ClickException(f"{name}: {answer}")
        return Result(*answer)

    def __enter__(self) -> "Tree":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def serve(folder: str) -> None:
    """Answer every name on standard input with a result, or a text that says what went wrong."""
    answers, sys.stdout = sys.stdout, sys.stderr
    sys.path.insert(1, folder)
    import compiled
    import works

    import tinynn

    assert Path(str(tinynn.__file__)).is_relative_to(folder), tinynn.__file__
    kinds: dict[str, Callable[[], Any]] = {
        "W1": works.Xor,
        "W2": compiled.digits,
        "W7": works.Row,
    }
    runs: dict[str, compiled.Run] = {}

    def run_of(name: str) -> compiled.Run:
        kind, how = name.split()
        work = kinds[kind]()
        if how == "predict":
            return compiled.Run(work, lambda work: work.predicted(), work.lengths)
        lengths = work.lengths_jax if compiled.is_quick(how, "numpy") else work.lengths
        return compiled.Run(work, lambda work: works.fitted(work, how), lengths)

    for line in sys.stdin:
        name = line.strip()
        try:
            run = runs.get(name) or runs.setdefault(name, run_of(name))
            run.go()
            first = run.firsts[-1] if run.firsts else None
            answer: Any = Result(run.costs[-1], first, float(run.loss), run.work.tolerance)
        except Exception as error:  # of another tinynn: whatever it is, it is told
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


def ratios(here: Path, there: Path, names: Iterable[str], rounds: int) -> dict[str, list[float]]:
    """Times here over times there, by what was measured, a number for each round."""
    found: dict[str, list[float]] = {}
    with Tree(here) as new, Tree(there) as old:
        for count in range(rounds):
            for name in names:
                order = (new, old) if count % 2 else (old, new)
                results = {tree: tree.measure(name) for tree in order}
                now, then = results[new], results[old]
                if not math.isclose(now.loss, then.loss, rel_tol=now.tolerance):
                    raise click.ClickException(
                        f"{name}: the loss is {now.loss:.8g} here and {then.loss:.8g} there, so "
                        "the times are of different work"
                    )
                found.setdefault(name, []).append(now.cost / then.cost)
                if now.first and then.first and count < 3:  # Run takes it so often
                    found.setdefault(f"{name}, first step", []).append(now.first / then.first)
    return found


def git(*arguments: str) -> str:
    try:
        return subprocess.check_output(
            ["git", *arguments], cwd=ROOT, text=True, stderr=subprocess.PIPE
        ).strip()
    except subprocess.CalledProcessError as error:
        raise click.ClickException(f"git {' '.join(arguments)}: {error.stderr.strip()}") from error


def last_release() -> str:
    """The newest tag before HEAD."""
    if not git("tag", "--merged", "HEAD~1"):
        raise click.ClickException(
            "there is no release yet. To fix it: name a commit to compare with, such as HEAD~40."
        )
    return git("describe", "--tags", "--abbrev=0", "HEAD~1")


def unpack(ref: str, folder: Path) -> None:
    """Put both packages, as they were at `ref`, into the folder."""
    archive = folder / "tree.tar"
    git("archive", f"--output={archive}", ref, "tinynn", "backends")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


@click.command(help=__doc__)
@click.argument("ref", required=False)
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(min=3))
@click.option("--limit", default=1.15, show_default=True, type=click.FloatRange(min=1))
@click.option("--serve", "served", hidden=True, metavar="FOLDER")
def main(ref: str | None, rounds: int, limit: float, served: str | None) -> None:
    if served:
        return serve(served)
    ref = ref or last_release()
    with ExitStack() as stack:
        there = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        unpack(ref, there)
        print(f"This tree beside {ref} ({git('rev-parse', '--short', ref)}), {rounds} rounds.\n")
        print("| | times as long | least | most |\n|---|---|---|---|")
        slow = report(ratios(ROOT, there, NAMES, rounds), limit)
        if not slow:
            return None
        print(f"\nAbove {limit}, so once more in new processes, {2 * rounds} rounds:\n", flush=True)
        again = [name for name in NAMES if any(each.startswith(name) for each in slow)]
        slow &= report(ratios(ROOT, there, again, 2 * rounds), limit)
    if slow:
        raise click.ClickException(f"slower than {ref}: {', '.join(sorted(slow))}")
    return None


def report(found: dict[str, list[float]], limit: float) -> set[str]:
    """Print a table; the names of those above the limit."""
    for name, rounds in found.items():
        print(f"| {name} | {median(rounds):.2f} | {min(rounds):.2f} | {max(rounds):.2f} |")
    sys.stdout.flush()
    return {name for name, rounds in found.items() if median(rounds) > limit}


if __name__ == "__main__":
    main()
