"""Processes that mpiexec or torchrun starts, for tests of several; none outlives its test."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.two_hosts import ADDRESSES, CARDS, Hosts

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = {
    "mpi": ["mpiexec", "-n", "{}", sys.executable],
    "gloo": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "{}"],
}
LIMIT = 120  # seconds for a start; a rank that waits says where before: ranks_program.LIMIT


def launched(
    launcher: str, count: int, arguments: list[str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What the processes printed together, and how they ended; none of them outlives LIMIT."""
    command = [part.format(count) for part in LAUNCHERS[launcher]]
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = shutil.which(command[0], path=search)
    assert found, f"{command[0]} is not installed"
    return finished([found, *command[1:], *arguments], {}, folder)


def by_hand(
    count: int, arguments: list[str], hosts: Hosts | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Processes of gloo that nobody watches, so that none dies but by itself: by rank.

    Parameters
    ----------
    hosts
        Where they run, one on each; None: all on this one.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    first = "127.0.0.1" if hosts is None else ADDRESSES[0]
    around = {"WORLD_SIZE": str(count), "MASTER_ADDR": first, "MASTER_PORT": port}
    command = [sys.executable, *arguments]

    def run(rank: int) -> subprocess.CompletedProcess[str]:
        if hosts is None:
            return finished(command, around | {"RANK": str(rank)})
        env = around | {"RANK": str(rank), "GLOO_SOCKET_IFNAME": CARDS[rank]}
        return finished([*hosts.inside(rank), *command], env)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def finished(
    command: list[str], env: dict[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command that has ended by itself; else the test fails with what it has printed."""
    around = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **env}
    around["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        process = subprocess.Popen(
            command, cwd=folder or ROOT, env=around, text=True, stdout=out, stderr=error,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            said = f"{command} still runs after {LIMIT} seconds"
        else:
            said = ""
        finally:
            end(process)
        printed = []
        for file in (out, error):
            file.seek(0)
            printed.append(file.read())
    assert not said, "\n".join((said, *printed))
    return subprocess.CompletedProcess(command, process.returncode, *printed)


def end(process: subprocess.Popen[str]) -> None:
    """End a launcher, which ends the processes that it has started, and what is left of them."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
