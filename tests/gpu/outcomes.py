"""A plugin for pytest: a line of JSON for each test, at once, in the file that GPU_OUTCOMES names.

What was written before a run out of time was ended is kept.
"""

import json
import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """The outcome of a test's call, or of the phase before or after that did not pass."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # who collects the workers' reports writes them
        return
    if report.when == "call" or report.outcome != "passed":
        told = {"test": report.nodeid, "outcome": report.outcome}
        if report.outcome == "failed":
            told["why"] = getattr(report.longrepr, "reprcrash", report.longreprtext)
            told["why"] = str(getattr(told["why"], "message", told["why"]))[:300]
        with open(os.environ["GPU_OUTCOMES"], "a") as file:
            file.write(json.dumps(told) + "\n")
