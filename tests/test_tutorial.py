"""The notebooks of the tutorial show what they keep, and it is what was once published."""

import io
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import pytest

from tests.notebooks import NOTEBOOKS, read, text_of
from tests.variants import Variant

NAMES = [path.stem for path in NOTEBOOKS]
WITH_TINYNN = NOTEBOOKS[-1]

# Page -> the figures that its network is known by, each on a line.
PUBLISHED = {
    "1-a-neuron": ["0.00966808 0.00786589 0.99358863 0.99211705"],
    "2-a-hidden-layer": [
        "0.49963945276141286",
        "0.00706947 0.99217766 0.99074812 0.01002659",
        "0.498143063951 0.0447576809491 0.0273990949977 0.0212823881636 0.017947679405",
        "0.0157831271653 0.0142368549605 0.0130629438924 0.0121333462089 0.0113740710438",
    ],
    "3-relu-and-gradient-descent": ["0 3.579065898514 1 3.559050835414", "299 1.182902614797"],
    "4-the-class": ["0.03861796 0.96425342 0.96514691 0.03352662"],
    "5-with-tinynn": [
        "0.00966808 0.00786589 0.99358863 0.99211705",
        "0.00706947 0.99217766 0.99074812 0.01002659",
        "0.0447576809491 0.0273990949977 0.0212823881636 0.017947679405",
        "0.0157831271653 0.0142368549605 0.0130629438924 0.0121333462089 0.0113740710438",
        "0 3.579065898514 1 3.559050835414",
        "299 1.182902614797",
        "median 0.0493",
    ],
}


def cells(path: Path) -> list[dict]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def check(path: Path, skip: str = "nothing", **instead: str) -> None:
    """Run the code as a reader would, and compare the text after each cell."""
    space: dict = {}
    for cell in cells(path):
        source = "".join(cell["source"])
        for old, new in instead.items():
            source = source.replace(f'backends.get("{old}")', f'backends.get("{new}")')
        if skip in source:
            continue
        with redirect_stdout(io.StringIO()) as shown:
            exec(compile(source, f"{path.name}, {cell['id']}", "exec"), space)
        assert shown.getvalue() == text_of(cell), f"{path.name}, {cell['id']}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_run_shows_what_the_notebook_keeps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    check(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_the_published_figures_are_there(path: Path) -> None:
    text = "".join(text_of(cell) for cell in cells(path)).replace("Error:", " ")
    words = " ".join(text.translate(str.maketrans("[],", "   ")).split())
    for figures in PUBLISHED[path.stem]:
        assert figures in words, f"{path.name} shows no {figures}"


# The others take long for so many calls; tests/test_examples.py has these networks on them too.
@pytest.mark.only("numpy", "torch", "jax", "cupy")
@pytest.mark.usefixtures("float64")
def test_the_last_page_shows_the_same_on_every_backend(variant: Variant) -> None:
    # The program at the end is written in calls of the library, so each has its own.
    check(WITH_TINYNN, skip="explain", numpy=variant.spec)


def test_pages_lead_from_one_to_the_next() -> None:
    for path, after in pairwise(NOTEBOOKS):
        text = "".join("".join(cell["source"]) for cell in read(path)["cells"])
        assert f"({after.name})" in text
