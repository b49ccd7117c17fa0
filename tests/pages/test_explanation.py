"""The page of tinynn.explain: lines, boxes and arrows of one value answer to each other."""

import numpy as np
import pytest

import tinynn
from tests.browser import opened, sideways
from tinynn.functional import relu, sigmoid
from tinynn.layers import Dropout, Linear, Sequential
from tinynn.optim import Adam

X = np.asarray([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
Y = np.asarray([[0.0], [1.0], [1.0], [0.0]])
XOR = Sequential(Linear(4, bias=False), sigmoid, Linear(1, bias=False), sigmoid)
DIGITS = Sequential(Linear(100), relu, Dropout(0.1), Linear(10))


@pytest.fixture(scope="module")
def xor(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "xor.html"
    tinynn.explain(XOR, X, Y, loss="mse", values=True).save(path)
    return path.as_uri()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(32, 64)), draw.integers(0, 10, size=32)
    path = tmp_path_factory.mktemp("pages") / "digits.html"
    tinynn.explain(DIGITS, x, y, optimizer=Adam(), values=True).save(path)
    return path.as_uri()


def line(page, start):
    """The first line of the program that begins so."""
    return page.locator("li.line:not(.part)").filter(has_text=start).first


def chosen(page, what):
    """The names of the chosen boxes, or arrows."""
    return page.locator(f"#picture g.{what}.chosen").evaluate_all(
        "all => all.map(each => each.dataset.name)"
    )


def same(page):
    """The names that are marked in the program."""
    return set(page.locator(".value.same").all_text_contents())


def test_a_line_shows_its_formula_its_numbers_and_its_value_in_the_picture(xor, browser):
    with opened(browser, xor) as page:
        line(page, "h1 = sigmoid(h0)").hover()
        detail = page.locator("#detail").inner_text()
        assert "h1 = sigmoid(h0)" in detail
        assert "y = 1 / (1 + exp(-x))" in detail
        assert "shape (4, 4)" in detail
        assert len(page.locator("#detail .numbers").inner_text().splitlines()) == 4
        assert chosen(page, "box") == ["h1"]
        assert chosen(page, "arrow") == ["h1"]
        assert same(page) == {"h1"}
        line(page, "h2_grad").hover()
        assert chosen(page, "box") == ["h2_grad"]
        assert chosen(page, "arrow") == ["h2_grad"]
        near = page.locator("#picture g.box.near").evaluate_all("a => a.map(e => e.dataset.name)")
        assert sorted(near) == ["prediction", "prediction_grad"]


def test_a_box_shows_its_line(xor, browser):
    with opened(browser, xor) as page:
        page.locator('#picture g.box[data-name="weight_2_grad"]').hover()
        (text,) = page.locator("li.line.chosen").all_text_contents()
        assert text.startswith("weight_2_grad = h1.T @ h2_grad")
        assert "∂L/∂W = xᵀ ∂L/∂y" in page.locator("#detail").inner_text()
        page.locator('#picture g.box[data-name="weight_0"]').hover()
        assert page.locator("li.line.chosen").count() == 0
        assert "parameter" in page.locator("#detail").inner_text()
        assert same(page) == {"weight_0"}
        page.locator("#picture g.box.update").hover()
        updated = page.locator("li.line.chosen").all_text_contents()
        assert [text.partition(" =")[0] for text in updated] == ["weight_0", "weight_2"]


def test_keys_lead_from_line_to_line(xor, browser):
    with opened(browser, xor) as page:
        line(page, "h0 = ").focus()
        assert chosen(page, "box") == ["h0"]
        page.keyboard.press("ArrowDown")
        assert chosen(page, "box") == ["h1"]
        page.keyboard.press("ArrowUp")
        assert chosen(page, "box") == ["h0"]
        page.locator('#picture g.box[data-name="loss"]').focus()
        assert "L = mean((p - t)²)" in page.locator("#detail").inner_text()


def test_a_tap_chooses(digits, browser):
    with opened(browser, digits, "phone") as page:
        line(page, "mask_2 = ").tap()
        assert "m = 0 with probability rate" in page.locator("#detail").inner_text()
        assert chosen(page, "box") == ["mask_2"]
        # The picture has moved to the box; the page has not.
        line(page, "weight_3_grad = ").tap()
        box, frame = (
            page.locator(at).bounding_box() for at in ("#picture g.box.chosen", "#picture")
        )
        assert box["x"] >= frame["x"]
        assert box["x"] + box["width"] <= frame["x"] + frame["width"]
        assert sideways(page) == 0


def test_lines_unfold(xor, browser):
    def shown(page):
        return page.locator("li.line:visible").count()

    with opened(browser, xor) as page:
        assert shown(page) == 13
        page.get_by_label("every call").check()
        folded = 25  # calls, in 9 of the 13 lines
        assert shown(page) == 13 + folded
        page.locator("li.part").filter(has_text="v15 = ").first.hover()
        assert chosen(page, "box") == ["h2_grad"]
        page.get_by_label("every call").uncheck()
        page.get_by_label("views and set-up").check()
        assert shown(page) == 13 + 2


def test_headings_are_those_of_the_text(digits, browser):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(32, 64)), draw.integers(0, 10, size=32)
    step = tinynn.explain(DIGITS, x, y, optimizer=Adam())

    def headings(detail):
        rows = step.text(detail).splitlines()[1:-1]
        return [row for row in rows if row.startswith("# ")]

    def shown(page):
        return page.locator("li.place:visible").all_text_contents()

    with opened(browser, digits) as page:
        assert shown(page) == [row for row in headings("lines") if not row.startswith("#  ")]
        page.get_by_label("views and set-up").check()
        assert shown(page) == [row for row in headings("all") if not row.startswith("#  ")]


def test_nothing_scrolls_sideways_and_words_stay_inside(digits, browser, view):
    with opened(browser, digits, *view) as page:
        line(page, "weight_0 = adam").hover()
        assert sideways(page) == 0
        wide = page.locator("#picture g.box").evaluate_all(
            """boxes => boxes.filter(box => {
                const edge = box.querySelector("rect").getBoundingClientRect();
                return [...box.querySelectorAll("text")].some(text => {
                    const words = text.getBoundingClientRect();
                    return words.right > edge.right || words.bottom > edge.bottom;
                });
            }).map(box => box.dataset.name)"""
        )
        assert wide == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, ground[4:-1].split(","))) > 3 * 128
        assert light != view[1]


def test_a_notebook_shows_the_page_in_a_frame(browser, tmp_path):
    step = tinynn.explain(XOR, X, Y, loss="mse", values=True)
    around = tmp_path / "notebook.html"
    around.write_text(
        "<!doctype html><meta charset=utf-8><style>li { color: red }</style>"
        f"<p id=picture>Around.</p>{step._repr_html_()}",
        "utf-8",
    )
    with opened(browser, around.as_uri()) as page:
        frame = page.frame_locator("iframe")
        frame.locator("li.line").first.hover()
        assert "y = x W" in frame.locator("#detail").inner_text()
        assert page.locator("#picture").inner_text() == "Around."
        color = frame.locator("li.line").first.evaluate("e => getComputedStyle(e).color")
        assert color != "rgb(255, 0, 0)"


def test_the_picture_alone(browser, tmp_path, view):
    path = tmp_path / "xor.svg"
    tinynn.explain(XOR, X, Y, loss="mse").save(path)
    with opened(browser, path.as_uri(), *view) as page:
        ground = page.locator("rect.ground").evaluate("e => getComputedStyle(e).fill")
        assert ground == ("rgb(17, 24, 39)" if view[1] else "rgb(255, 255, 255)")
