"""A Chromium of this machine, driven by Playwright, for the tests that look at pages.

`python -m tests.browser` prints the path of the one it found, or what is missing. The environment
variable TINYNN_CHROMIUM names another.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

COMMANDS = "chromium chromium-browser google-chrome google-chrome-stable chrome msedge".split()
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
WIDTHS = {"phone": (390, 844), "desktop": (1280, 800)}
LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1")


def chromium() -> str | None:
    """The path of a Chromium: TINYNN_CHROMIUM's, one on PATH, or one where systems put it."""
    if named := os.environ.get("TINYNN_CHROMIUM"):
        return named
    found = filter(None, map(shutil.which, COMMANDS))
    return next(found, None) or next((place for place in PLACES if Path(place).exists()), None)


def missing(playwright: bool = True) -> str:
    """Why no page can be looked at here; empty where one can."""
    found = chromium()
    if found and not Path(found).is_file():
        return f"TINYNN_CHROMIUM: expected a browser's file, got {found}"
    if not found:
        return (
            "no Chromium is installed here. To fix it: install one (apt-get install chromium), "
            "or name one in TINYNN_CHROMIUM"
        )
    if playwright and not find_spec("playwright"):
        return "Playwright is not installed here. To fix it: run nox -s pages"
    return ""


@contextmanager
def launched() -> "Iterator[Browser]":
    """The browser, headless."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium())
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: "Browser", address: str, view: str = "desktop", dark: bool = False
) -> "Iterator[Page]":
    """A page, as a phone or a desktop shows it.

    When it is left: no script of it failed, and it asked for nothing beyond this machine.
    """
    width, height = WIDTHS[view]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        is_mobile=view == "phone",
        has_touch=view == "phone",
    )
    page, errors, remote = context.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: remote.append(request.url))
    try:
        page.goto(address)
        yield page
    finally:
        context.close()
    assert not errors, f"{address}: its scripts failed: {errors}"
    remote = [url for url in remote if not url.startswith(LOCAL)]
    assert not remote, f"{address}: it asked for {remote}, which is not on this machine"


def sideways(page: "Page") -> int:
    """The number of pixels by which a page is wider than its window; 0 if it does not scroll."""
    # Not innerWidth: a phone zooms out to the width of the page.
    assert page.viewport_size
    wide: int = page.evaluate("document.scrollingElement.scrollWidth")
    return max(0, wide - page.viewport_size["width"])


if __name__ == "__main__":
    if reason := missing(playwright=False):
        sys.exit(reason)
    sys.stdout.write(f"{chromium()}\n")
