"""What importing tinynn costs beyond NumPy.

    python benchmarks/importing.py [--rounds 10]

Each round is a process of its own, which has imported NumPy. The milliseconds are those of the
processor, which other programs disturb less than the clock, the least and the median of all rounds;
the first round, which may compile bytecode, does not count. What they are made of is shown by
`python -X importtime -c "import tinynn"`.
"""

import argparse
import subprocess
import sys
from statistics import median

STATEMENTS = ("import tinynn", "from tinynn import fit", "from tinynn.optim import Adam")
PROCESS = """
import numpy
from time import process_time
start = process_time()
{}
print(process_time() - start)
"""


def measure(statement: str) -> float:
    """Seconds of processor time that a statement takes in a new process."""
    command = [sys.executable, "-c", PROCESS.format(statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    print("| | ms, least | median |\n|---|---|---|")
    for statement in STATEMENTS:
        rounds = [measure(statement) for _ in range(options.rounds + 1)][1:]
        print(
            f"| `{statement}` | {min(rounds) * 1e3:.0f} | {median(rounds) * 1e3:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
