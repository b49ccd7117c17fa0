"""The browser of the tests in this folder, and the views that a page is looked at in."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import WIDTHS, launched, missing


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium; without one, or without Playwright, the test is skipped and says why."""
    if reason := missing():
        pytest.skip(reason)
    with launched() as browser:
        yield browser


@pytest.fixture(params=[(view, dark) for view in WIDTHS for dark in (False, True)], ids=str)
def view(request: pytest.FixtureRequest) -> tuple[str, bool]:
    """The two last arguments of tests.browser.opened: phone and desktop, light and dark."""
    return request.param
