"""Training in processes that mpiexec or torchrun started.

    nox -s mpi gloo

Not part of the suite, since it needs mpi4py with an MPI library, or PyTorch: pytest collects it
where it is named, `pytest tests/processes.py -k mpi`.
"""

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import ranks_program
from tests.launching import LAUNCHERS, by_hand, launched

both = pytest.mark.parametrize("launcher", LAUNCHERS)


def trained(launcher: str, count: int, *runs: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Of each run what each process printed, in one start of them."""
    done = launched(launcher, count, program(launcher, *runs))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = [[line for line in lines if line["run"] == place] for place in range(len(runs))]
    assert [len(of_run) for of_run in found] == [count] * len(runs)
    return found


def program(communicator: str, *runs: dict[str, Any]) -> list[str]:
    """The arguments of Python that start tests/ranks_program.py on these runs."""
    given = [{"communicator": communicator, **run} for run in runs]
    return ["-m", "tests.ranks_program", json.dumps(given)]


@both
def test_processes_give_the_losses_of_one(launcher: str, tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    calls, library = {"engine": "calls"}, "torch" if launcher == "gloo" else "array_api_strict"
    two, again, other, seeds, sizes, raised, _ = trained(
        launcher,
        2,
        calls,
        calls,
        {"backend": library, "communicator": "auto"},
        {"other": "seed", "caught": True},
        {"other": "batch", "caught": True},
        {"how": "raise", "caught": True},
        {"epochs": 2, "checkpoint": path},
    )
    one = ranks_program.trained({**calls})
    for lines in (two, again, other):
        assert len({line["sum"] for line in lines}) == 1  # the same bits in all
        for line in lines:
            np.testing.assert_allclose(line["loss"], one["loss"], rtol=1e-4)
    assert [line["sum"] for line in again] == [line["sum"] for line in two]
    # Errors that all agree on are raised in all, which can go on.
    for line in seeds:
        assert line["error"].startswith("ParallelError: fit: seed: expected the same")
    for line in sizes:
        assert "fit: batch_size: " in line["error"]
    for line in raised:
        assert "rank 1 has had enough" in line["error"]
    assert sorted(line["error"].partition(":")[0] for line in raised) == [
        "ParallelError",
        "ValueError",
    ]
    # From two processes a run goes on in four, or in one.
    resumed = {"checkpoint": path, "resume": True}
    if launcher == "mpi":
        four, last = trained(launcher, 4, calls, resumed)
        np.testing.assert_allclose(four[0]["loss"], one["loss"], rtol=1e-4)
        assert len({line["sum"] for line in four}) == 1
        np.testing.assert_allclose(last[3]["loss"], one["loss"], rtol=1e-4)
    else:
        found = ranks_program.trained({**resumed})
        np.testing.assert_allclose(found["loss"], one["loss"], rtol=1e-4)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("kill", r"(?i)killed|signal 9|sigkill|exit code: 9"),
        ("raise", "rank 1 has had enough"),
        ("read", "rank 1 cannot read"),
    ],
)
def test_mpi_takes_all_down_with_one(how: str, expected: str) -> None:
    done = launched("mpi", 2, program("mpi", {"how": how}))
    assert done.returncode != 0
    assert re.search(expected, done.stdout + done.stderr), done.stderr


def test_mpi_takes_all_down_with_one_that_fails_before_fit() -> None:
    lines = (
        "from tinynn.parallel import communicator",
        "together = communicator('auto')",
        "assert together.rank != 1, 'rank 1 has no data'",
        "together.barrier()",
    )
    done = launched("mpi", 2, ["-c", "\n".join(lines)])
    assert done.returncode != 0
    assert "rank 1 has no data" in done.stderr


@pytest.mark.parametrize("how", ["kill", "read"])
def test_ranks_of_gloo_end_when_one_has_died(how: str) -> None:
    first, second = by_hand(2, program("gloo", {"how": how}))
    assert first.returncode == 1
    assert "ParallelError: rank 0 of 2: all_reduce: expected an answer of all" in first.stderr
    assert second.returncode == (-signal.SIGKILL if how == "kill" else 1)
    if how == "read":
        assert "rank 1 cannot read" in second.stderr


@both
def test_sigterm_of_one_ends_all_with_a_checkpoint(launcher: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    runs = program(launcher, {"how": "terminate", "checkpoint": str(path)})
    if launcher == "gloo":
        assert [done.returncode for done in by_hand(2, runs)] == [143, 143]
    else:
        assert launched(launcher, 2, runs).returncode != 0
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@both
def test_the_command_line_in_processes(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip("click")
    arguments = ["-m", "tinynn", "train", "xor", "--epochs", "400", "--batch-size", "4"]
    done = launched(launcher, 2, [*arguments, "--out", "xor.safetensors"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saved xor.safetensors") == 1
    assert "accuracy 100.0% (4 of 4 rows)" in done.stdout
    done = launched(launcher, 2, ["-m", "tinynn", "train", "nowhere.csv", "--target", "y"])
    assert done.returncode != 0
    assert "nowhere.csv" in done.stderr


def killed_and_resumed(launcher: str, path: Path, seed: int) -> None:
    """Kill one process of a run at drawn moments, and go on in other numbers of processes.

    Each ends with the numbers of a run that was left alone, in one process.
    """
    draw, last = np.random.default_rng(seed), {"epochs": 20, "checkpoint": str(path)}
    one = ranks_program.trained({"epochs": 20})
    for count in (2, 4):
        # After so many epochs more, this rank, so many seconds later.
        at = int(draw.integers(2, 6)), int(draw.integers(count)), float(draw.uniform(0, 0.002))
        how = {"how": "strike", "at": at, "resume": path.exists(), **last}
        done = launched(launcher, count, program(launcher, how))
        assert done.returncode != 0, f"seed {seed}: {done.stdout}"
    kept = path.read_bytes()
    for count in (1, 2, 4):
        path.write_bytes(kept)
        (lines,) = trained(launcher, count, {"resume": True, **last})
        assert len({line["sum"] for line in lines}) == 1
        np.testing.assert_allclose(lines[0]["loss"], one["loss"], rtol=1e-4)
        assert [file.name for file in path.parent.iterdir()] == [path.name]


@both
def test_a_killed_run_goes_on_in_another_number_of_processes(launcher: str, tmp_path: Path) -> None:
    killed_and_resumed(launcher, tmp_path / "run", seed=0)
