"""`python -m tests.gpu`, which waits for a GPU: its results without one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import __main__ as script
from tests.gpu import table

ROOT = Path(__file__).parents[1]
MACHINE = {
    "date": "2026-01-02 03:04 UTC",
    "device": "NVIDIA H100",
    "emulated": False,
    "cuda": "13.0",
    "driver": "580.65",
    "python": "3.12.1",
    "versions": {"cupy-cuda13x": "14.2.0"},
    "missing": {},
}
ROW = {"work": "W1: XOR", "unit": "us a step", "loss": 0.25, "agrees": True, "note": ""}
TIMES = {"median": 12.345, "least": 11.0, "first_ms": 400.0}


def results(note: str = "", **parts: Any) -> dict[str, Any]:
    return {"machine": MACHINE, "note": note, "parts": parts}


def test_the_table_of_benchmarks() -> None:
    rows = [
        ROW | TIMES | {"name": "tinynn"},
        ROW | TIMES | {"name": "wrong", "agrees": False},
        {"work": "W1: XOR", "unit": "us a step", "name": "other", "error": "OSError: a | b\nc"},
    ]
    told = table.markdown(results(bench={"outcome": "complete", "rows": rows})).splitlines()
    assert told[0] == (
        "2026-01-02 03:04 UTC, NVIDIA H100, driver 580.65, CUDA 13.0, Python 3.12.1, "
        "cupy-cuda13x 14.2.0."
    )
    assert told[-6] == "### W1: XOR"
    assert told[-3] == "| tinynn | 12.3 | 11 | 400 | 0.25 |"
    assert told[-2] == "| wrong | 12.3 | 11 | 400 | 0.25, NOT THAT OF NUMPY BY HAND |"
    assert told[-1] == r"| other |  |  |  | not measured: OSError: a \| b c |"


def test_the_table_of_tests() -> None:
    part = {"outcome": "exit status 1", "passed": 3, "failed": 1, "skipped": 0}
    part["failures"] = [{"test": "test_x.py::test_y", "outcome": "failed", "why": "assert 1\n== 2"}]
    told = table.markdown(results(**{"suite-cupy": part}))
    assert "| suite-cupy | 3 | 1 | 0 | exit status 1 |" in told
    assert "- suite-cupy: `test_x.py::test_y`: assert 1 == 2" in told


def test_a_rehearsal_says_so_and_has_no_times() -> None:
    rows = [ROW | {"name": "tinynn"}]
    told = table.markdown(results(table.EMULATED, bench={"outcome": "complete", "rows": rows}))
    assert "**Emulated device, no GPU: no figures of speed.**" in told
    assert "| tinynn | 0.25 |" in told
    assert "median" not in told


def test_a_test_counts_by_the_worst_of_its_phases(tmp_path: Path) -> None:
    written = tmp_path / "outcomes.jsonl"
    rows = [("a", "passed"), ("b", "skipped"), ("a", "failed"), ("c", "passed")]
    text = "".join(json.dumps({"test": test, "outcome": how}) + "\n" for test, how in rows)
    written.write_text(text + '{"test": "torn')
    counts = script.counted(script.lines(written))
    assert [counts[key] for key in ("passed", "skipped", "failed")] == [1, 1, 1]
    assert [row["test"] for row in counts["failures"]] == ["a"]
    assert script.lines(tmp_path / "nonesuch") == []


@pytest.mark.skipif(sys.platform == "win32", reason="the script runs on Linux")
def test_a_part_out_of_time_keeps_what_it_found(tmp_path: Path) -> None:
    """Whatever still runs: the lines that it wrote are counted."""
    test = tmp_path / "test_slow.py"
    test.write_text(
        "import subprocess, sys, time\n"
        "def test_quick(): pass\n"
        "def test_wrong(): assert 1 == 2\n"
        "def test_slow():\n"
        f"    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"    open({str(tmp_path / 'begun')!r}, 'w').close()\n"
        "    time.sleep(60)\n"
    )
    skipped = tmp_path / "test_skipped.py"
    skipped.write_text("import pytest\npytest.skip('no', allow_module_level=True)\n")
    written = tmp_path / "outcomes.jsonl"
    settings = script.environment({"GPU_OUTCOMES": str(written)}, None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.gpu.outcomes", "--rootdir"]
    command += [str(tmp_path), "-c", os.devnull, "-p", "no:cacheprovider", str(skipped), str(test)]
    outcome = script.run(command, settings, tmp_path / "log", 10.0)
    assert (tmp_path / "begun").exists(), (tmp_path / "log").read_text()
    assert outcome == "out of time after 10 s"
    counts = script.counted(script.lines(written))
    assert [counts[key] for key in ("passed", "failed", "skipped")] == [1, 1, 1]
    assert "assert 1 == 2" in counts["failures"][0]["why"]


def test_without_a_device_every_part_says_what_is_missing(tmp_path: Path) -> None:
    """And the results of an earlier command are kept."""
    path = tmp_path / "results.json"
    for part in ("suite-cupy", "conformance-cupy"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.gpu", "--rehearse", "--parts", part, "--results", path],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "ARRAY_API_TESTS": ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"{part}: not run: backend 'cupy" in done.stdout
    found = json.loads(path.read_text())
    assert list(found["parts"]) == ["suite-cupy", "conformance-cupy"]
    assert path.with_suffix(".md").read_text() == table.markdown(found)


def test_results_of_several_commands_are_one_table_and_of_two_machines_none() -> None:
    first, second = results(**{"suite-cupy": {"outcome": "complete"}}), results(bench={"rows": []})
    assert list(script.merged([first, second])["parts"]) == ["suite-cupy", "bench"]
    with pytest.raises(SystemExit, match="results of one machine"):
        script.merged([first, results(table.EMULATED)])


def test_an_unknown_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.parse(["--parts", "suite-cupy,nonesuch"])
    assert "expected some of suite-cupy" in capsys.readouterr().err
