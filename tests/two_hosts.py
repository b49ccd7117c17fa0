"""Two hosts on this machine: network namespaces joined by a cable that can be slow, lose and break.

Linux lets root, and in many places any user, make them (`unshare --user --net`).
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ADDRESSES = ("10.9.0.1", "10.9.0.2")
CARDS = ("cable0", "cable1")


@dataclass
class Hosts:
    """Two processes that hold a network namespace each.

    Attributes
    ----------
    pids
        Their numbers.
    """

    pids: tuple[int, int]

    def inside(self, host: int) -> list[str]:
        """What a command begins with that is to run on this host."""
        enter = ("nsenter", "--target", str(self.pids[host]), "--net")
        return [*enter, *(() if os.geteuid() == 0 else ("--user", "--preserve-credentials"))]

    def configure(self, host: int, *command: str) -> None:
        """Carry out a command of ip's or tc's on a host."""
        done = subprocess.run([*self.inside(host), *command], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")

    def shape(self, rate: str) -> None:
        """Make the cable so slow that packets queue up for 2 ms, and those beyond are lost."""
        for host, card in enumerate(CARDS):
            bucket = ("tbf", "rate", rate, "burst", "8kb", "latency", "2ms")
            self.configure(host, "tc", "qdisc", "replace", "dev", card, "root", *bucket)

    def lost(self) -> int:
        """The number of packets that the cable has lost."""
        count = 0
        for host, card in enumerate(CARDS):
            shown = subprocess.run(
                [*self.inside(host), "tc", "-s", "qdisc", "show", "dev", card],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            count += int(shown.partition("dropped ")[2].partition(",")[0])
        return count

    def cut(self) -> None:
        """Lose all packets from now on, with nobody told of it, as when a machine loses power."""
        for host, card in enumerate(CARDS):
            self.configure(host, "tc", "qdisc", "replace", "dev", card, "root", "blackhole")


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """A context of two hosts with a cable between them; OSError where the machine lets none be."""
    if missing := [name for name in ("unshare", "nsenter", "ip", "tc") if not shutil.which(name)]:
        raise OSError(f"{', '.join(missing)} are not installed")
    own = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    sleep = ("sleep", "600")
    holders = [subprocess.Popen(["unshare", *own, "--net", *sleep], stderr=subprocess.PIPE)]
    try:
        _settled(holders[0])
        first = Hosts((holders[0].pid, holders[0].pid))
        enter = first.inside(0)
        holders.append(subprocess.Popen([*enter, "unshare", "--net", *sleep]))
        _settled(holders[1])
        hosts = Hosts((holders[0].pid, holders[1].pid))
        ends = ("name", CARDS[0], "type", "veth", "peer", "name", CARDS[1])
        hosts.configure(0, "ip", "link", "add", *ends, "netns", str(holders[1].pid))
        for host, card in enumerate(CARDS):
            hosts.configure(host, "ip", "link", "set", "lo", "up")
            hosts.configure(host, "ip", "address", "add", f"{ADDRESSES[host]}/24", "dev", card)
            hosts.configure(host, "ip", "link", "set", card, "up")
        yield hosts
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def _settled(holder: subprocess.Popen[bytes]) -> None:
    """Wait until a process has become `sleep`, in the namespace that it has made."""
    for _ in range(500):
        if holder.poll() is not None:
            said = holder.stderr.read().decode().strip() if holder.stderr else ""
            raise OSError(f"no network namespace can be made here: {said}")
        with open(f"/proc/{holder.pid}/comm", encoding="ascii") as file:
            if file.read().strip() == "sleep":
                return
        time.sleep(0.01)
    raise OSError("no network namespace was made within 5 seconds")
