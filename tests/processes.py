"""Training in processes that mpiexec or torchrun started.

    nox -s mpi gloo

Not part of the suite, since it needs mpi4py with an MPI library, or PyTorch: pytest collects it
where it is named, `pytest tests/processes.py -k mpi`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = {
    "mpi": ["mpiexec", "-n", "{}"],
    "gloo": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "{}"],
}
both = pytest.mark.parametrize("launcher", LAUNCHERS)


def launched(
    launcher: str, count: int, arguments: list[str], folder: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [part.format(count) for part in LAUNCHERS[launcher]]
    command[0] = (
        shutil.which(command[0], path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or ""
    )
    if launcher == "mpi":
        command.append(sys.executable)
    around = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **env}
    around["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [*command, *arguments], cwd=folder or ROOT, env=around, text=True, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip


def trained(launcher: str, count: int, **given: Any) -> list[dict[str, Any]]:
    """What each process of the program printed; without a communicator, of one alone."""
    arguments = ["-m", "tests.ranks_program", json.dumps({"communicator": launcher, **given})]
    done = launched(launcher, count, arguments)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == count
    return lines


@both
def test_processes_give_the_losses_of_one(launcher: str) -> None:
    (one,) = trained(launcher, 1, engine="calls")
    for count in (4, 2) if launcher == "mpi" else (2,):
        lines = trained(launcher, count, engine="calls")
        assert len({line["sum"] for line in lines}) == 1  # the same bits in all
        for line in lines:
            np.testing.assert_allclose(line["loss"], one["loss"], rtol=1e-4)
    # And from run to run.
    assert trained(launcher, count, engine="calls")[0] == lines[0]


@pytest.mark.parametrize(("launcher", "library"), [("mpi", "array_api_strict"), ("gloo", "torch")])
def test_other_libraries(launcher: str, library: str) -> None:
    if library == "array_api_strict":
        pytest.importorskip(library)
    lines = trained(launcher, 2, backend=library, communicator="auto")
    np.testing.assert_allclose(lines[0]["loss"], trained(launcher, 2)[0]["loss"], rtol=1e-3)


@both
@pytest.mark.parametrize("how", ["kill", "raise", "read"])
def test_a_process_that_dies_takes_the_others_down(launcher: str, how: str) -> None:
    arguments = ["-m", "tests.ranks_program", json.dumps({"communicator": launcher, "how": how})]
    start = time.monotonic()
    done = launched(launcher, 2, arguments)
    assert done.returncode != 0
    assert time.monotonic() - start < 30  # its start included
    said = done.stdout + done.stderr
    expected = {"kill": r"(?i)sigkill|signal: 9|killed", "raise": "rank 1 has had enough"}
    assert re.search(expected.get(how, "rank 1 cannot read"), said), said


@both
def test_sigterm_of_one_ends_all_with_a_checkpoint(launcher: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    given = {"communicator": launcher, "how": "terminate", "checkpoint": str(path)}
    done = launched(launcher, 2, ["-m", "tests.ranks_program", json.dumps(given)])
    assert done.returncode != 0
    assert path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@both
def test_a_run_goes_on_in_another_number_of_processes(launcher: str, tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    (one,) = trained(launcher, 1, epochs=4)
    trained(launcher, 2, epochs=2, checkpoint=path)
    count = 4 if launcher == "mpi" else 1  # four of torchrun's take long to start
    last = trained(launcher, count, epochs=4, checkpoint=path, resume=True)[0]
    np.testing.assert_allclose(last["loss"], one["loss"], rtol=1e-4)


@both
def test_processes_that_differ_are_found(launcher: str) -> None:
    for other, said in {
        "seed": "fit: seed: expected the same",
        "batch": "fit: batch_size: ",
    }.items():
        given = json.dumps({"communicator": launcher, "other": other})
        done = launched(launcher, 2, ["-m", "tests.ranks_program", given])
        assert done.returncode != 0
        assert said in done.stderr


@both
def test_the_command_line(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip("click")
    arguments = ["-m", "tinynn", "train", "xor", "--epochs", "400", "--batch-size", "4"]
    done = launched(launcher, 2, [*arguments, "--out", "xor.safetensors"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saved xor.safetensors") == 1
    assert "accuracy 100.0% (4 of 4 rows)" in done.stdout
    done = launched(launcher, 2, ["-m", "tinynn", "train", "nowhere.csv", "--target", "y"])
    assert done.returncode != 0
    assert "nowhere.csv" in done.stderr


EXAMPLES = """
import json, runpy, sys
from dataclasses import replace
import tinynn, tinynn.training
from tinynn.layers import BatchNorm, Sequential
models, fit = [], tinynn.training.fit
def shared(net, *args, **given):
    if isinstance(net, Sequential):  # statistics of the whole batch, as one process has them
        whole = [isinstance(part, BatchNorm) for part in net.layers]
        pairs = zip(whole, net.layers)
        net = Sequential(*(replace(p, synchronized=True) if w else p for w, p in pairs))
    models.append(fit(net, *args, communicator="auto", **given))
    return models[-1]
tinynn.fit = tinynn.training.fit = shared
runpy.run_path("examples/digits_cnn.py")["main"]("numpy", seeds=1, epochs=1, rows=200)
given = dict(size=4000, epochs=1, width=8, blocks=1, length=1, progress=False)
runpy.run_path("examples/character_transformer.py")["main"]("numpy", **given)
sys.stdout.write("\\n" + json.dumps({"losses": [m.history["loss"] for m in models]}) + "\\n")
"""


def test_examples_in_mpi_processes() -> None:
    pytest.importorskip("click")
    found = []
    for count in (1, 2, 4):
        done = launched("mpi", count, ["-c", EXAMPLES])
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"losses"')]
        assert len(set(lines)) == 1
        found.append([loss[-1] for loss in json.loads(lines[0])["losses"]])
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-4)
