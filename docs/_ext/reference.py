"""The pages of the reference: one for each public module, one for each of its names.

They are written into docs/reference/ when the build begins (and are not kept in the repository),
from the list of public names that the tests have, tests/public.py.
"""

import inspect
import re
from importlib import import_module
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx

from tests.public import MODULES, documentation, first_sentence, public

SHAPE = re.compile(r"^:type ([^:]+): \((.*)\)$")
ROUTING = re.compile(r"set_\w+_request")
FOLDER = Path(__file__).resolve().parents[1] / "reference"


def write(app: Sphinx) -> None:
    """Write the pages, leaving those alone that are as they were: only others are built again."""
    wanted: dict[str, str] = {}
    first: dict[int, str] = {}  # what was documented before: an object has one place
    for each in MODULES:
        module = import_module(each)
        names = sorted(public(module), key=str.lower)
        wanted[each] = module_page(each, module, names)
        for name in names:
            value, full = getattr(module, name), f"{each}.{name}"
            other = first.setdefault(id(value), full)
            wanted[full] = page(full, module, name, value, other)
    wanted["index"] = index()
    FOLDER.mkdir(exist_ok=True)
    for name, text in wanted.items():
        path = FOLDER / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    for path in FOLDER.glob("*.rst"):
        if path.stem not in wanted:
            path.unlink()


def index() -> str:
    """The page that leads to the modules."""
    rows = []
    for each in MODULES:
        sentence = first_sentence(inspect.getdoc(import_module(each)) or "")
        rows.append(f"   * - :doc:`{each} <{each}>`\n     - {sentence}")
    listed = "\n".join(f"   {each}" for each in MODULES)
    return (
        f"{heading('Every public name')}\n"
        "By the module that it is imported from. What is not here is not public, and may change "
        "with any version. Examples are run as tests, on NumPy.\n\n"
        ".. list-table::\n   :widths: auto\n   :class: names\n\n" + "\n".join(rows) + "\n\n"
        f".. toctree::\n   :hidden:\n\n{listed}\n"
    )


def module_page(each: str, module: ModuleType, names: list[str]) -> str:
    """The module's docstring, and its names with their first sentences."""
    rows = [summary(each, module, name) for name in names]
    listed = "\n".join(f"   {name} <{each}.{name}>" for name in names)
    return (
        f"{heading(each)}\n.. automodule:: {each}\n   :no-members:\n\n"
        ".. list-table::\n   :widths: auto\n   :class: names\n\n" + "\n".join(rows) + "\n\n"
        f".. toctree::\n   :hidden:\n\n{listed}\n"
    )


def summary(each: str, module: ModuleType, name: str) -> str:
    sentence = first_sentence(documentation(module, name))
    return f"   * - :doc:`{name} <{each}.{name}>`\n     - {sentence}"


def page(full: str, module: ModuleType, name: str, value: Any, other: str) -> str:
    """The page of one name: everything its docstring says, and its methods."""
    directive = kind(value)
    if other != full:
        body = f".. py:{directive}:: {name}\n\n   The same as `{other}`.\n"
    elif directive == "module":
        body = f".. automodule:: {value.__name__}\n   :members:\n"
        if value.__name__ != full:
            body += f"   :no-index:\n\n.. py:attribute:: {name}\n   :no-contents-entry:\n"
    elif inspect.isclass(value):
        body = f".. autoclass:: {full}{signature(value)}\n   :members:\n   :show-inheritance:\n"
        # Fields of a named tuple have no docstrings; scikit-learn's have links of its own.
        left_out = [*getattr(value, "_fields", ()), *filter(ROUTING.fullmatch, dir(value))]
        if left_out:
            body += f"   :exclude-members: {', '.join(left_out)}\n"
    elif inspect.isfunction(value):
        body = f".. autofunction:: {full}\n"
    elif callable(value):  # a function of the standard's kind, with its derivative
        text = indent(documentation(module, name), "   ")
        body = f".. py:function:: {name}{inspect.signature(value)}\n\n{text}\n"
    else:
        body = f".. py:data:: {name}\n\n{indent(documentation(module, name), '   ')}\n"
    place = full.rpartition(".")[0]
    said = f"``from {place} import {name}``"
    return f"{heading(name)}\n.. py:currentmodule:: {place}\n\n{said}\n\n{body}"


def signature(value: Any) -> str:
    """The arguments of a class as its dataclass takes them: autodoc shows those of `__new__`."""
    try:
        given = inspect.signature(value)
    except ValueError:  # one of Python's own
        return ""
    bare = [each.replace(annotation=each.empty) for each in given.parameters.values()]
    text = str(given.replace(parameters=bare, return_annotation=given.empty))
    return re.sub(r"<(?:function|class) '?([\w.]+)[^>]*>", lambda found: short(found[1]), text)


def short(name: str) -> str:
    return name.rpartition(".")[2]


def kind(value: Any) -> str:
    if inspect.ismodule(value):
        return "module"
    if inspect.isclass(value):
        return "class"
    return "function" if callable(value) else "data"


def heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"


def shapes(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """A shape in the place of a type stands in parentheses of its own: no second pair."""
    lines[:] = [SHAPE.sub(r":type \1: \2", line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", shapes, priority=900)  # after napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
