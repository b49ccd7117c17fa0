"""A plugin for pytest: a line of JSON for each test, at once, in the file that GPU_OUTCOMES names.

What was written before a run out of time was ended is kept.
"""

import json
import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """The outcome of a test's call, or of the phase before or after that did not pass."""
    if report.when == "call" or report.outcome != "passed":
        write(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that cannot be imported, or is skipped whole."""
    if report.outcome != "passed":
        write(report)


def write(report: pytest.TestReport | pytest.CollectReport) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # who collects the workers' reports writes them
        return
    told = {"test": report.nodeid, "outcome": report.outcome}
    if report.outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        told["why"] = str(crash.message if crash else report.longreprtext)[:300]
    with open(os.environ["GPU_OUTCOMES"], "a") as file:
        file.write(json.dumps(told) + "\n")
