"""docs/glossary.md names what is there: each public name, each term once, and nothing else."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from tests.public import MODULES, documentation, first_sentence, public

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "glossary.md").read_text()
TERM = re.compile(r'<a id="([^"]*)"></a>(.+)')
LINK = re.compile(r"\[[^]]+\]\((?:docs/)?(?:glossary\.md)?#([^)]+)\)")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    level = heading.partition(" ")[0]
    found = re.search(
        rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", PAGE, re.M | re.S
    )
    assert found, f"docs/glossary.md: expected the heading {heading!r}"
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines[2:]
    ]


def cell(text: str) -> str:
    """The text as a cell of a table in Markdown, in which only code may hold stars."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", r"\|"))
    return "".join(part if part.startswith("`") else part.replace("*", r"\*") for part in parts)


def expected(name: str) -> dict[str, str]:
    module = importlib.import_module(name)
    found = {}
    for each in sorted(public(module), key=str.lower):
        sentence = first_sentence(documentation(module, each))
        found[each] = f"| `{each}` | {cell(sentence)} |"
    return found


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_their_docstrings_first_sentence(module: str) -> None:
    wanted = expected(module)
    cells = rows(f"### {module}")
    given = {row[0].strip("`"): f"| {' | '.join(row)} |" for row in cells}
    assert len(given) == len(cells), f"docs/glossary.md, {module}: a name has two rows"
    wrong = [row for name, row in wanted.items() if given.get(name) != row]
    assert not wrong, "docs/glossary.md, under ### {}: write\n{}".format(module, "\n".join(wrong))
    gone = sorted(set(given) - set(wanted))
    assert not gone, f"docs/glossary.md, under ### {module}: take out the rows of {gone}"
    assert list(given) == list(wanted), f"docs/glossary.md, {module}: expected alphabetical order"


@pytest.mark.parametrize("module", MODULES)
def test_first_sentences_are_sentences(module: str) -> None:
    loaded = importlib.import_module(module)
    for name in public(loaded):
        sentence = first_sentence(documentation(loaded, name))
        assert sentence.endswith("."), f"{module}.{name}: expected a docstring with a sentence"


def terms() -> dict[str, str]:
    """Term -> anchor."""
    found = {}
    for first, *rest in rows("## Terms"):
        row = TERM.fullmatch(first)
        assert row, f'expected <a id="anchor"></a>term in the first cell, got {first}'
        assert row[2] not in found, f"{row[2]} has two rows"
        assert len(rest) == 2, f"{row[2]}: expected a meaning and the names elsewhere"
        assert rest[0].endswith((".", ")")), f"{row[2]}: its meaning is no sentence"
        found[row[2]] = row[1]
    return found


def test_terms_are_unique_and_in_order() -> None:
    found = terms()
    assert list(found) == sorted(found, key=lambda term: re.sub(r"\W", " ", term.lower()))
    for term, anchor in found.items():
        assert anchor == re.sub(r"\W+", "-", term.lower()).strip("-"), f"{term}: {anchor}"


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=str
)
def test_terms_that_documents_mark_are_explained(path: Path) -> None:
    text = path.read_text()
    marked = [
        found[1]
        for found in LINK.finditer(text)
        if "glossary" in found[0] or path.name == "glossary.md"
    ]
    headings = re.findall(r"^#+ (.+)$", PAGE, re.M)
    anchors = {*terms().values(), *(heading.lower().replace(" ", "-") for heading in headings)}
    assert set(marked) <= anchors, "docs/glossary.md: these have no row"


def resolved(name: str) -> bool:
    """Whether a dotted name leads to something."""
    parts = name.split(".")
    value: Any = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(value, part):
            try:
                value = importlib.import_module(".".join(parts[:i]))
            except ModuleNotFoundError:
                return False
        else:
            value = getattr(value, part)
    return True


def test_names_and_files_in_the_terms_exist() -> None:
    text = " ".join(cell for row in rows("## Terms") for cell in row[:2])
    for name in re.findall(r"`((?:tinynn|backends)(?:\.\w+)+)", text):
        assert resolved(name), f"docs/glossary.md: there is no {name}"
    for file in re.findall(r"`((?:tests|tinynn|backends|docs|benchmarks)/[\w/.]*)`", text):
        assert (ROOT / file).exists(), f"docs/glossary.md: there is no file {file}"
