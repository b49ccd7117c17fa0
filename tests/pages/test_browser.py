"""The browser of tests/browser.py shows what a page does, and tells of what it must not do."""

import pytest

from tests.browser import WIDTHS, opened, sideways


def written(folder, body):
    page = folder / "page.html"
    page.write_text(f"<!doctype html><meta name=viewport content=width=device-width>{body}")
    return page.as_uri()


def test_a_page_has_the_width_and_the_colours_of_its_view(browser, tmp_path, view):
    with opened(browser, written(tmp_path, "<p>Here."), *view) as page:
        assert page.evaluate("innerWidth") == WIDTHS[view[0]][0]
        assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == view[1]
        assert sideways(page) == 0


def test_a_wide_page_is_seen(browser, tmp_path, view):
    width = WIDTHS[view[0]][0]
    address = written(tmp_path, f"<p style='margin: 0; width: {width + 20}px'>Wide.")
    with opened(browser, address, *view) as page:
        assert sideways(page) == 20 + 8  # and the margin of the body


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<script>nothing.here</script>", "nothing is not defined"),
        ("<img src=https://example.com/a.png>", "not on this machine"),
    ],
)
def test_failing_scripts_and_other_hosts_are_errors(browser, tmp_path, body, said):
    with pytest.raises(AssertionError, match=said), opened(browser, written(tmp_path, body)):
        pass
