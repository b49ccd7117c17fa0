"""The picture of explain: boxes, arrows around them, words inside."""

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

import tinynn
from tests.explained import (
    OPTIMIZERS,
    XOR,
    XOR_X,
    XOR_Y,
    explained,
    mixed,
)
from tests.networks import networks
from tinynn.explanation.layout import CHARACTER, SMALL, layout
from tinynn.optim import (
    Adam,
)


def steps_to_draw() -> dict[str, Any]:
    step = tinynn.explain(XOR, XOR_X, XOR_Y, loss="mse")
    others = {name: explained(name, optimizer=OPTIMIZERS[2]) for name in networks()}
    return {"xor": step, "mixed": mixed(optimizer=Adam()), **others}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    return steps_to_draw()


@pytest.mark.parametrize("name", ["xor", "mixed", *networks()])
def test_arrows_go_around_boxes_and_words_stay_inside(drawn: dict[str, Any], name: str) -> None:
    found = layout(drawn[name].description)
    for place, box in enumerate(found.boxes):
        for other in found.boxes[place + 1 :]:
            apart = box.x + box.width <= other.x or other.x + other.width <= box.x
            apart |= box.y + box.height <= other.y or other.y + other.height <= box.y
            assert apart, (box, other)
        assert len(box.texts[0]) * CHARACTER <= box.width - 8
        assert all(len(line) * SMALL <= box.width - 8 for line in box.texts[1:])
        assert box.x + box.width <= found.width
        assert box.y + box.height <= found.height
    for arrow in found.arrows:
        assert len(arrow.heads) == len(arrow.targets) == len(arrow.paths)
        assert arrow.labels, arrow.source
        for points in arrow.paths:
            for (x1, y1), (x2, y2) in pairwise(points):
                assert x1 == x2 or y1 == y2  # straight
                for box in found.boxes:
                    inside = max(x1, x2) > box.x + 1 and min(x1, x2) < box.x + box.width - 1
                    inside &= max(y1, y2) > box.y + 1 and min(y1, y2) < box.y + box.height - 1
                    assert not inside, (arrow.source, box)


@pytest.mark.parametrize("name", ["xor", "mixed", *networks()])
def test_arrows_are_what_lines_take(drawn: dict[str, Any], name: str) -> None:
    description = drawn[name].description
    found = layout(description)
    lead = {(a.source.name, place) for a in found.arrows for b in a.targets for place in b.numbers}
    boxes = {box.name for box in found.boxes}
    for place, each in enumerate(description.lines):
        taken = {(t, place) for t in each.takes if t in boxes and t != each.name}
        if not each.hidden and each.kind != "update":
            assert taken <= lead
    assert len([box for box in found.boxes if box.kind == "update"]) == 1


def test_the_picture_is_svg_of_a_sensible_size(drawn: dict[str, Any]) -> None:
    root = ElementTree.fromstring(drawn["xor"].svg)
    assert float(root.get("width", 0)) < 1300
    assert float(root.get("height", 0)) < 600
    words = [each.text for each in root.iter() if each.tag.endswith("text")]
    for word in ("given", "forward", "backward", "gradients", "update", "h0", "(4, 4)"):
        assert word in words
