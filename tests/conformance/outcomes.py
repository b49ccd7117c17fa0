"""A plugin for pytest that writes the outcome of each test to the file that OUTCOMES names.

It also makes runs alike: tests of special cases draw one input each, by Python's own generator.
"""

import json
import os
import random
from pathlib import Path

import pytest

_outcomes: dict[str, str] = {}


def pytest_runtest_call(item: pytest.Item) -> None:
    """The same inputs in every run."""
    random.seed(item.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the test's outcome: the first of its phases that did not pass, if any."""
    if _outcomes.get(report.nodeid, "passed") == "passed":
        _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write them, once for all workers of pytest-xdist."""
    if not hasattr(session.config, "workerinput"):
        Path(os.environ["OUTCOMES"]).write_text(json.dumps(_outcomes))
