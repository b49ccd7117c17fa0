"""The documentation site in a browser: on a phone and a desktop, light and dark."""

from pathlib import Path

import pytest

from tests.browser import opened, sideways
from tests.seeds import PARTS, parts

SITE = Path(__file__).resolve().parents[2] / "docs" / "_build" / "html"
SHOWN = """
    index tutorial/1-a-neuron glossary design benchmarks reference/tinynn.sklearn.NetworkClassifier
""".split()


@pytest.fixture(autouse=True, scope="module")
def site():
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built: nox -s pages builds it")


@parts
def test_every_page_fits_a_phone(browser, part):
    # Of the source of the modules, which is one block of code, one page stands for all.
    pages = [*SITE.rglob("*.html")]
    pages = [page for page in pages if "_modules" not in page.parts or page.stem == "fit"]
    assert len(pages) > 100
    too_wide = {}
    with opened(browser, (SITE / "index.html").as_uri(), "phone") as page:
        for each in sorted(pages)[part::PARTS]:
            page.goto(each.as_uri(), wait_until="domcontentloaded")
            if pixels := sideways(page):
                too_wide[str(each.relative_to(SITE))] = pixels
    assert not too_wide


@pytest.mark.parametrize("name", SHOWN)
def test_pages_fit_every_view(browser, view, name):
    with opened(browser, (SITE / f"{name}.html").as_uri(), *view) as page:
        assert sideways(page) == 0
        assert page.locator("h1").first.is_visible()
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
        assert page.evaluate(broken) == []
        # Furo follows the browser's colours: light text on dark pages, and the other way round.
        colour = page.evaluate("getComputedStyle(document.body).color")
        light = sum(map(int, colour.strip("rgb()").split(",")[:3])) > 3 * 128
        assert light == view[1]


def test_search_works_from_a_folder(browser):
    with opened(browser, (SITE / "search.html").as_uri() + "?q=dropout") as page:
        page.wait_for_selector("ul.search li a")
        found = page.locator("ul.search li a").all_inner_texts()
    assert any("Dropout" in text for text in found)
