"""Two processes of gloo on two hosts: over a cable that is slow and loses packets, and one cut.

    nox -s gloo

Not part of the suite, as tests/processes.py. Hosts are network namespaces; where the machine lets
nobody make them the tests are skipped, and say so.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.launching import by_hand
from tests.two_hosts import Hosts, two_hosts


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    try:
        context = two_hosts()
        made = context.__enter__()
    except OSError as error:
        pytest.skip(f"two hosts cannot be made here: {error}")
    yield made
    context.__exit__(None, None, None)


def program(**run: Any) -> list[str]:
    return ["-m", "tests.ranks_program", json.dumps([{"communicator": "gloo", **run}])]


def printed(done: list[Any]) -> list[dict[str, Any]]:
    for each in done:
        assert each.returncode == 0, each.stderr
    return [json.loads(each.stdout) for each in done]


def test_gloo_over_a_slow_and_lossy_cable_gives_the_same_bits(hosts: Hosts) -> None:
    wide = program(width=2000, epochs=2)  # 56 kB a step
    here = printed(by_hand(2, wide))
    hosts.shape("20mbit")
    there = printed(by_hand(2, wide, hosts))
    assert hosts.lost() > 0
    assert here == there


def test_gloo_ends_on_both_sides_of_a_cut_cable(hosts: Hosts, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with ThreadPoolExecutor() as pool:
        runs = pool.submit(by_hand, 2, program(how="wait", checkpoint=str(path)), hosts)
        while not path.exists():  # training goes on
            assert not runs.done(), runs.result()
            time.sleep(0.05)
        hosts.cut()
        start = time.monotonic()
        done = runs.result()
    # By the system's questions, 15 seconds, and not by gloo's limit of 300.
    assert time.monotonic() - start < 45
    for rank, each in enumerate(done):
        assert each.returncode == 1
        assert f"ParallelError: rank {rank} of 2: all_reduce: expected an answer" in each.stderr
    assert path.exists()
