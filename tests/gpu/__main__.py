"""Everything that a machine with a CUDA device can tell, in one command.

    python -m tests.gpu [--parts suite-cupy,bench] [--results gpu-results/results.json]
    python -m tests.gpu --table gpu-results/results.json [others of the same machine]

Takes what the running interpreter has: no nox, no network. A package of tinynn's or of the tests'
that is missing comes from a folder of wheels, `--wheels FOLDER`, filled elsewhere by

    pip download --dest FOLDER --only-binary :all: --python-version 3.12 \\
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \\
        array-api-compat array-api-extra safetensors click rich \\
        "pytest>=9" pytest-xdist hypothesis einops

Each part runs in processes of its own under a time limit. The results are written after each, into
those of parts that ran before, so a machine that is lent for minutes gets them a few at a time.
What is missing is said in a line. On an emulated device, and with --rehearse, no times are kept.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tests.gpu import table

ROOT = Path(__file__).parents[2]
# Package -> the module by which it is known to be there.
NEEDED = {
    "array-api-compat": "array_api_compat",
    "array-api-extra": "array_api_extra",
    "safetensors": "safetensors",
    "click": "click",
    "rich": "rich",
    "pytest": "pytest",
    "pytest-xdist": "xdist",
    "hypothesis": "hypothesis",
    "einops": "einops",
}
OPTIONAL = {"pytest-xdist", "einops"}  # without: one process, and three tests fewer
# Every library on the card at once, and float32 products that are float32.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
}


@dataclass(frozen=True)
class Part:
    """What runs on one device: a suite, or the benchmarks on all (`device` is "")."""

    kind: str
    device: str
    environment: dict[str, str] = field(default_factory=dict)


PARTS = {
    "suite-cupy": Part("suite", "cupy:0"),
    "suite-torch": Part("suite", "torch:cuda"),
    "suite-jax": Part("suite", "jax:cuda"),
    "suite-jax-x64": Part("suite", "jax:cuda", {"JAX_ENABLE_X64": "1"}),
    "conformance-cupy": Part("conformance", "cupy:0"),
    "conformance-jax": Part("conformance", "jax:cuda"),
    "bench": Part("bench", ""),
}


def is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def install(wheels: Path, into: Path) -> None:
    """What is missing, from that folder, into one that only the parts see."""
    absent = [package for package, module in NEEDED.items() if not is_there(module)]
    if absent:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--upgrade"]
        where = ["--find-links", str(wheels), "--target", str(into)]
        done = subprocess.run([*pip, *where, *absent], check=False)
        if done.returncode:
            print(f"not all installed from {wheels}: {', '.join(absent)}")
    sys.path.insert(0, str(into))
    importlib.invalidate_caches()


def environment(extra: dict[str, str], wheels: Path | None) -> dict[str, str]:
    before = os.environ.get("PYTHONPATH")
    search = [str(path) for path in (ROOT, wheels, before) if path]
    return os.environ | SETTINGS | extra | {"PYTHONPATH": os.pathsep.join(search)}


def run(command: Sequence[str], settings: dict[str, str], log: Path, limit: float) -> str:
    """Run it, all that it prints in `log`; how it ended. Its children end with it."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=settings, stdout=file, stderr=file, start_new_session=True
        )
        try:
            code = process.wait(limit)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, KeyboardInterrupt):
                raise
            return f"out of time after {limit:.0f} s"
    return "complete" if code == 0 else f"exit status {code}"


def lines(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines; the last may be torn."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many tests fared how, a test by the worst of its phases."""
    worst: dict[str, dict[str, Any]] = {}
    ranks = ("passed", "skipped", "failed")
    for row in rows:
        known = worst.setdefault(row["test"], row)
        worst[row["test"]] = max(known, row, key=lambda row: ranks.index(row["outcome"]))
    counts = {rank: sum(row["outcome"] == rank for row in worst.values()) for rank in ranks}
    return {**counts, "failures": [row for row in worst.values() if row["outcome"] == "failed"]}


def merged(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts of several results as one, under the last one's date."""
    kinds = {(results["machine"]["device"], results["note"]) for results in found}
    if len(kinds) > 1:
        raise SystemExit(
            f"tests.gpu: expected results of one machine, got {sorted(kinds)}. "
            "To fix it: name another file"
        )
    parts = {name: part for results in found for name, part in results["parts"].items()}
    return found[-1] | {"parts": parts}


class Session:
    """The options, the results so far and the files beside them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.path = options, options.results
        self.folder = self.path.resolve().parent
        self.folder.mkdir(parents=True, exist_ok=True)
        self.wheels = Path(tempfile.gettempdir(), "tinynn-gpu") if options.wheels else None
        if self.wheels:
            install(options.wheels.resolve(), self.wheels)
        self.results: dict[str, Any] = {"parts": {}}

    def look(self) -> None:
        """Describe the machine; go on with the results of an earlier command on the same."""
        absent = [name for name, module in NEEDED.items() if not is_there(module)]
        for package in absent:
            print(f"missing: {package} (pip install {package}, or --wheels FOLDER)", flush=True)
        if set(absent) - OPTIONAL:
            raise SystemExit("tests.gpu: nothing can run without them")
        chosen = [PARTS[name] for name in self.options.parts]
        devices = dict.fromkeys(part.device for part in chosen if part.device)
        asked = subprocess.run(
            [sys.executable, "-m", "tests.gpu.machine", *devices],
            cwd=ROOT, env=environment({}, self.wheels), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if asked.returncode:
            raise SystemExit(f"tests.gpu: the machine cannot be described:\n{asked.stderr}")
        machine = json.loads(asked.stdout.splitlines()[-1])
        if machine["emulated"] and not self.options.rehearse:
            raise SystemExit("tests.gpu: the device is emulated, no GPU. To fix it: --rehearse")
        rehearsal = table.REHEARSAL if self.options.rehearse else ""
        note = table.EMULATED if machine["emulated"] else rehearsal
        self.results |= {"machine": machine, "note": note}
        if self.path.exists():
            self.results = merged([json.loads(self.path.read_text()), self.results])
        print(table.markdown(self.results | {"parts": {}}), flush=True)

    def take(self, name: str) -> None:
        """Run one part, and write what it found."""
        part, started = PARTS[name], monotonic()
        missing = self.results["machine"]["missing"].get(part.device, "")
        missing = missing or self.no_suite(part)
        found = (
            {"outcome": f"not run: {missing}"} if missing else getattr(self, part.kind)(name, part)
        )
        if not missing and not self.results["note"]:
            found["seconds"] = round(monotonic() - started)
        self.results["parts"][name] = found
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(self.results, indent=1) + "\n")
        draft.replace(self.path)
        self.path.with_suffix(".md").write_text(table.markdown(self.results))
        counts = [f"{found[key]} {key}" for key in ("passed", "failed", "skipped") if key in found]
        print(f"{name}: {', '.join([*counts, found['outcome']])}", flush=True)

    def no_suite(self, part: Part) -> str:
        suite = self.options.array_api_tests
        return NO_SUITE if part.kind == "conformance" and not (suite and suite.is_dir()) else ""

    def command(self, name: str, *command: str, **settings: str) -> str:
        """Run a part's command under its limit, its output in a log beside the results."""
        chosen = environment({**PARTS[name].environment, **settings}, self.wheels)
        limit = self.options.limit
        return run([sys.executable, *command], chosen, self.folder / f"{name}.log", limit)

    def fresh(self, name: str) -> Path:
        path = self.folder / f"{name}.jsonl"
        path.unlink(missing_ok=True)
        return path

    def parallel(self) -> list[str]:
        workers = self.options.workers
        many = workers > 1 and is_there("xdist")
        return ["-n", str(workers), "--dist", "worksteal"] if many else []

    def suite(self, name: str, part: Part) -> dict[str, Any]:
        """tinynn's own tests."""
        written = self.fresh(name)
        arguments = ["-q", "-p", "no:cacheprovider", "-p", "tests.gpu.outcomes", *self.parallel()]
        paths = self.options.tests.split()
        outcome = self.command(
            name, "-m", "pytest", "--backend", part.device, *arguments, *paths,
            GPU_OUTCOMES=str(written),
        )  # fmt: skip
        return {"outcome": outcome, **counted(lines(written))}

    def conformance(self, name: str, part: Part) -> dict[str, Any]:
        """The public suite of the Array API; what it prints last is the comparison."""
        library = part.device.partition(":")[0]
        suite = str(self.options.array_api_tests.resolve())
        examples = ["--max-examples", "2" if self.options.rehearse else "20"]
        outcome = self.command(name, "-m", "tests.conformance", suite, library, *examples,
                               *self.parallel())  # fmt: skip
        told = (self.folder / f"{name}.log").read_text().splitlines()
        said = [line.strip() for line in told if line.startswith((f"{library}: of", "  worse"))]
        return {"outcome": "; ".join([outcome, *said])}

    def bench(self, name: str, part: Part) -> dict[str, Any]:
        """Works W1 to W4 by all competitors."""
        written = self.fresh(name)
        options = ["--work", self.options.work, *(["--rehearse"] if self.results["note"] else [])]
        outcome = self.command(
            name, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(written), *options
        )
        return {"outcome": outcome, "rows": lines(written)}


NO_SUITE = "no checkout of array-api-tests is named (--array-api-tests FOLDER)"


def known(names: str) -> list[str]:
    chosen = names.split(",")
    if unknown := set(chosen) - set(PARTS):
        told = f"expected some of {','.join(PARTS)}, got {', '.join(sorted(unknown))}"
        raise argparse.ArgumentTypeError(told)
    return chosen


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    suite = os.environ.get("ARRAY_API_TESTS")
    add = options.add_argument
    add("--parts", type=known, default=list(PARTS), help=f"of {','.join(PARTS)}; all by default")
    add("--results", type=Path, default=Path("gpu-results/results.json"))
    add("--limit", type=float, default=570.0, help="seconds for each part (570)")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes for tests")
    add("--tests", default="tests", help="paths and options for pytest, in one argument")
    add("--work", default="w1,w2,w3,w4", help="of the benchmarks")
    add("--wheels", type=Path, help="a folder of wheels to install what is missing from")
    add("--array-api-tests", type=Path, default=Path(suite) if suite else None,
        help="a checkout of array-api-tests (or the variable ARRAY_API_TESTS)")  # fmt: skip
    add("--rehearse", action="store_true", help="tiny works, no times: for an emulated device")
    add("--table", type=Path, nargs="+", metavar="RESULTS",
        help="print the tables of results of one machine, run nothing")  # fmt: skip
    return options.parse_args(arguments)


def main() -> None:
    options = parse()
    if options.table:
        print(table.markdown(merged([json.loads(path.read_text()) for path in options.table])))
        return
    session = Session(options)
    session.look()
    for name in options.parts:
        session.take(name)
    print(f"\n{options.results} and {options.results.with_suffix('.md')} are written")


if __name__ == "__main__":
    main()
