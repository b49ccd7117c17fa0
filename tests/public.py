"""The public names, for docs/glossary.md, the reference of the site, and the tests of both."""

import ast
import inspect
import re
from itertools import pairwise
from types import ModuleType
from typing import Any

MODULES = """
    tinynn backends tinynn.layers tinynn.losses tinynn.optim tinynn.metrics tinynn.data
    tinynn.explanation tinynn.functional tinynn.initializers tinynn.parallel tinynn.sklearn
    tinynn.tabular tinynn.training tinynn.tree tinynn.trace tinynn.compiler tinynn.onnx
    tinynn.uncertainty tinynn.inspection tinynn.compression
""".split()


def public(module: ModuleType) -> list[str]:
    """What a module says is public, or defines under a name without an underscore."""
    own = [name for name, value in vars(module).items() if is_defined_in(module, name, value)]
    return list(getattr(module, "__all__", own))


def is_defined_in(module: ModuleType, name: str, value: Any) -> bool:
    own = getattr(value, "__module__", None) == module.__name__
    return own and not name.startswith("_") and (inspect.isclass(value) or inspect.isroutine(value))


def documentation(module: ModuleType, name: str) -> str:
    """The docstring of a public name; of a value the string under its assignment."""
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.ismodule(value) or callable(value):
        return inspect.getdoc(value) or ""
    body = ast.parse(inspect.getsource(module)).body
    for statement, after in pairwise(body):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        named = name in [target.id for target in targets if isinstance(target, ast.Name)]
        if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return inspect.cleandoc(str(after.value.value))
    return ""


def first_sentence(text: str) -> str:
    """The first sentence of a docstring."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    found = re.match(r'.*?\.(?=\s+[A-Z`("]|$)', paragraph)
    return found[0] if found else paragraph
