"""Links and pages that are true on GitHub are made true on the site.

Some pages are files of the repository from outside docs/. Links out of docs/ lead to the page of
that file, else to a copy of it. The glossary's anchors, which are HTML, can be linked to. And code
that is the name of something public links to its reference.
"""

import re
from os.path import relpath
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

from tests.public import MODULES

MEMBERS = {"attribute", "classmethod", "method", "property", "staticmethod"}
DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
PAGES = {
    "start": "README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "benchmarks": "benchmarks/README.md",
    "digits": "examples/data/README.md",
    "emulated-device": "tests/cudacpu/README.md",
}
LINK = re.compile(r"(?<!!)\[([^]\n]+)\]\(([^)#\s:]+)(#[^)\s]*)?\)")
IMAGE = re.compile(r"!\[([^]\n]*)\]\(([^)\s:]+)\)")
ANCHOR = re.compile(r'<a id="([^"]+)">')
NAME = re.compile(r"(?:tinynn|backends)(?:\.\w+)*")


def read(app: Sphinx, docname: str, content: list[str]) -> None:
    """The text of a page: of another file, for some; its links as they are to be on the site."""
    source = ROOT / PAGES[docname] if docname in PAGES else DOCS / f"{docname}.md"
    if source.suffix != ".md" or not source.exists():
        return
    text = source.read_text() if docname in PAGES else content[0]
    here = (DOCS / docname).parent

    def link(found: re.Match[str]) -> str:
        target = (source.parent / found[2]).resolve()
        if not target.is_file():
            return found[0]
        pages = {ROOT / file: DOCS / f"{page}.md" for page, file in PAGES.items()}
        target = pages.get(target, target)
        path = relpath(target, here)
        if target.is_relative_to(DOCS):
            return f"[{found[1]}]({path}{found[3] or ''})"
        return f"{{download}}`{found[1].replace('`', '')} <{path}>`"

    def image(found: re.Match[str]) -> str:
        return f"![{found[1]}]({relpath((source.parent / found[2]).resolve(), here)})"

    content[0] = IMAGE.sub(image, LINK.sub(link, text))


def anchors(app: Sphinx, doctree: nodes.document) -> None:
    """HTML anchors of a page are among those that a link may name."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for node in doctree.findall(nodes.raw):
        for name in ANCHOR.findall(node.astext()):
            slugs[name] = (node.line or 0, name, name)


def names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Code that is the name of something public leads to it: a full name, or that of a class.

    In the glossary the tables of names, each under the name of its module, give the last part.
    """
    objects: Any = app.env.domains["py"].objects  # type: ignore[attr-defined]
    classes: dict[str, str] = {}
    for full, entry in objects.items():
        if entry.objtype == "class":
            classes.setdefault(full.rpartition(".")[2], full)
    for node in list(doctree.findall(nodes.literal)):
        text = node.astext()
        if docname == "glossary" and isinstance(section := _section(node), nodes.section):
            module = section.next_node(nodes.title)
            in_first = isinstance(node.parent.parent, nodes.entry) and not node.parent.index(node)
            row = node.parent.parent
            if module and in_first and row.parent.index(row) == 0 and module.astext() in MODULES:
                text = f"{module.astext()}.{text}"
        text = classes.get(text.removesuffix("()"), text)
        if not NAME.fullmatch(text) or text not in objects or _is_linked(node):
            continue
        entry = objects[text]
        if entry.docname == docname:
            continue
        link = make_refnode(app.builder, docname, entry.docname, entry.node_id, node.deepcopy())
        node.replace_self(link)


def _section(node: nodes.Node) -> nodes.Node | None:
    while node.parent is not None and not isinstance(node, nodes.section):
        node = node.parent
    return node


def _is_linked(node: nodes.Node) -> bool:
    while node.parent is not None:
        if isinstance(node, nodes.reference | nodes.title):
            return True
        node = node.parent
    return False


class Members(SphinxPostTransform):
    """A bare name that only members of classes have is no link, but within such a class.

    It is an argument's or an axis's, as `rows` in a shape; Sphinx would take any class that has it.
    """

    default_priority = 5  # before references are resolved

    def run(self, **kwargs: Any) -> None:
        objects: Any = self.env.domains["py"].objects  # type: ignore[attr-defined]
        kinds: dict[str, set[str]] = {}
        for full, entry in objects.items():
            kinds.setdefault(full.rpartition(".")[2], set()).add(entry.objtype)
        for node in self.document.findall(pending_xref):
            found = kinds.get(node["reftarget"], set())
            if node.get("refdomain") == "py" and found and found <= MEMBERS:
                node.attributes.pop("refspecific", None)  # which looks through all classes


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(Members)
    app.connect("source-read", read)
    app.connect("doctree-read", anchors)
    app.connect("doctree-resolved", names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
