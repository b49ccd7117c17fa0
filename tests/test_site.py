"""The built site: every public name has its place in the reference, and pictures are as the code.

`nox -s docs` builds it. Where it is not built, what needs it is skipped, with that reason.
"""

import importlib
import re
from pathlib import Path

import pytest

from tests.pictures import FOLDER, pictures
from tests.public import MODULES, public

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "docs" / "_build" / "html"


@pytest.fixture(scope="module")
def inventory() -> set[str]:
    """The full names that the site documents, as its inventory lists them for other sites."""
    if not (SITE / "objects.inv").exists():
        pytest.skip("the site is not built: nox -s docs")
    pytest.importorskip("sphinx", reason="Sphinx is not installed: nox -s docs")
    from sphinx.util.inventory import InventoryFile

    with (SITE / "objects.inv").open("rb") as file:
        found = InventoryFile.load(file, "", lambda *parts: "/".join(parts))
    return {name for kind, names in found.items() if kind.startswith("py:") for name in names}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str, inventory: set[str]) -> None:
    wanted = {f"{module}.{name}" for name in public(importlib.import_module(module))}
    assert {module, *wanted} <= inventory


def test_the_site_asks_no_other_host(inventory: set[str]) -> None:
    loads = re.compile(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//([^"]+)"')
    pages = list(SITE.rglob("*.html"))
    assert len(pages) > 100
    found = {(page.name, host) for page in pages for host in loads.findall(page.read_text())}
    assert not found


@pytest.mark.parametrize("name", ["packages.svg", "program.svg"])
def test_the_pictures_are_those_of_the_code(name: str) -> None:
    kept = (FOLDER / name).read_text()
    assert kept == pictures()[name], "to fix it: python -m tests.pictures"
