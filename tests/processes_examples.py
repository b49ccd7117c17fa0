"""The examples in 1, 2 and 4 processes of mpiexec and torchrun: the losses of one, and its bits.

    nox -s mpi gloo

Not part of the suite, as tests/processes.py.
"""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.examples_program import ALONE, CASES, EXAMPLES
from tests.launching import LAUNCHERS, launched


@cache
def lines(launcher: str, count: int) -> dict[str, list[list[dict[str, Any]]]]:
    """What the processes printed, by example, part and process; they are started once."""
    done = launched(launcher, count, ["-m", "tests.examples_program"])
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            given = json.loads(line)
            parts = found.setdefault(given["example"], [])
            while len(parts) <= given["part"]:
                parts.append([])
            parts[given["part"]].append(given)
    return found


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_examples_have_the_losses_of_one_process(launcher: str, name: str) -> None:
    if name in ALONE:
        pytest.skip(f"the example trains by {ALONE[name]}")
    assert name in CASES, f"examples/{name}.py is new: give it a row in tests/examples_program.py"
    alone = lines(launcher, 1)[name]
    for count in (2, 4):
        shared = lines(launcher, count)[name]
        assert len(shared) == len(alone)
        for (one,), ranks in zip(alone, shared, strict=True):
            assert len(ranks) == count
            # The same bits in all processes, and from run to run.
            assert len({total for rank in ranks for total in rank["sums"]}) == 1
            for rank in ranks:
                np.testing.assert_allclose(rank["loss"], one["loss"], rtol=1e-4)
