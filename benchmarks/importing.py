"""What importing tinynn costs beyond NumPy.

    python benchmarks/importing.py [--rounds 10]

Each round is a process of its own, which has imported NumPy. The milliseconds are those of the
processor, which other programs disturb less than the clock, the least and the median of all rounds;
the first round, which compiles bytecode, does not count. What they are made of is shown by
`python -X importtime -c "import tinynn"`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from statistics import median

STATEMENTS = ("import tinynn", "from tinynn import fit", "from tinynn.optim import Adam")
PROCESS = """
import numpy
from time import process_time
start = process_time()
{}
print(process_time() - start)
"""


def measure(statement: str, environment: dict[str, str]) -> float:
    """Seconds of processor time that a statement takes in a new process."""
    command = [sys.executable, "-c", PROCESS.format(statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    # Bytecode is written and read, as in an installation, whatever this environment says.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        table(options.rounds, environment | {"PYTHONPYCACHEPREFIX": folder})


def table(count: int, environment: dict[str, str]) -> None:
    print("| | ms, least | median |\n|---|---|---|")
    for statement in STATEMENTS:
        rounds = [measure(statement, environment) for _ in range(count + 1)][1:]
        print(
            f"| `{statement}` | {min(rounds) * 1e3:.0f} | {median(rounds) * 1e3:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
