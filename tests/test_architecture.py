"""The plan of the house, enforced: what may name what, what may import what, what importing costs.

These tests read the source of tinynn and backends as syntax trees.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("array_api_strict", "cupy", "dask", "dpctl", "dpnp", "jax", "numpy", "torch")
NAMED = re.compile(rf"\b({'|'.join(LIBRARIES)}|pytorch)\b", re.IGNORECASE)

# Package -> the packages it may import. A new package needs a row.
ARROWS: dict[str, set[str]] = {
    "tree": set(),
    "config": set(),
    "trace": set(),
    "rules": {"trace", "tree"},
    "transforms": {"trace", "rules", "tree"},
    "compiler": {"trace", "rules", "transforms", "tree"},
    "functional": {"trace", "rules", "transforms"},
    "initializers": {"trace", "rules", "functional", "config"},
    "losses": {"trace", "rules", "transforms", "functional", "config"},
    "metrics": {"trace", "functional", "losses", "config"},
    "layers": {"trace", "rules", "transforms", "functional", "initializers", "config", "tree"},
    "optim": {"trace", "rules", "transforms", "functional", "config", "tree"},
}
ARROWS["uncertainty"] = {"trace", "transforms", "functional", "losses", "layers", "optim"}
ARROWS["uncertainty"] |= {"config", "tree"}
ARROWS["inspection"] = {"trace", "transforms", "layers", "config", "tree"}
ARROWS["data"] = {"tree"}
ARROWS["parallel"] = {"trace", "rules", "transforms", "data", "tree"}
ARROWS["onnx"] = {"trace", "rules", "transforms", "functional", "initializers", "layers", "data"}
ARROWS["onnx"] |= {"tree"}
ARROWS["training"] = set(ARROWS)
ARROWS["explanation"] = set(ARROWS) - {"onnx"}
ARROWS["tabular"] = set(ARROWS) - {"explanation"}
ARROWS["compression"] = set(ARROWS) - {"explanation", "tabular"}
ARROWS["cli"] = set(ARROWS) - {"explanation"}  # it goes through tinynn.explain, as all do
ARROWS["sklearn"] = set(ARROWS) - {"cli", "tabular", "explanation"}
TOP = {"tinynn", "tinynn.__main__"}  # these may import anything


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {path: ast.parse(path.read_text()) for path in files("tinynn") + files("backends")}
MODULES = {module_name(path): path for path in SOURCES}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path, tree: ast.AST) -> Iterator[str]:
    """Full names of what a file's import statements name, relative ones resolved."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def docstrings(tree: ast.AST) -> set[ast.Constant]:
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def spoken(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name and string of a file, docstrings aside (their examples bring a user's arrays)."""
    documentation = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, name) for name in imported(path, node))
        elif isinstance(node, ast.Constant) and node not in documentation:
            yield node.lineno, str(node.value)


@pytest.mark.parametrize("path", files("tinynn"), ids=ids)
def test_tinynn_names_no_array_library(path: Path) -> None:
    named = [(line, text) for line, text in spoken(path, SOURCES[path]) if NAMED.search(text)]
    assert not named, f"{path.name}: what a library needs is a method of its Backend"


@pytest.mark.parametrize("path", list(SOURCES), ids=ids)
def test_no_branch_on_a_backends_name(path: Path) -> None:
    def strings(node: ast.expr) -> bool:
        items = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
        return any(isinstance(item, ast.Constant) and isinstance(item.value, str) for item in items)

    def backendish(node: ast.expr) -> bool:
        return re.search(r"\b(backend|library|xp)\b", ast.unparse(node)) is not None

    branches = [
        ast.unparse(node)
        for node in ast.walk(SOURCES[path])
        if isinstance(node, ast.Compare)
        and any(map(strings, [node.left, *node.comparators]))
        and any(map(backendish, [node.left, *node.comparators]))
    ]
    assert not branches, "make the difference a method of Backend"


@pytest.mark.parametrize("path", files("backends"), ids=ids)
def test_backends_import_nothing_of_tinynn(path: Path) -> None:
    assert not [name for name in imported(path, SOURCES[path]) if name.split(".")[0] == "tinynn"]


@pytest.mark.parametrize("path", files("tinynn"), ids=ids)
def test_arrows_run_one_way(path: Path) -> None:
    name = module_name(path)
    if name in TOP:
        return
    package = name.split(".")[1]
    assert package in ARROWS, f"{package} is a new package: say in ARROWS what it may import"
    ours = (name.split(".") for name in imported(path, SOURCES[path]))
    packages = {parts[1] for parts in ours if parts[0] == "tinynn" and len(parts) > 1}
    assert packages - {package} <= ARROWS[package]


@pytest.mark.parametrize("program", ["onnx", "sklearn"])
def test_one_package_imports_another_program(program: str) -> None:
    """The name is looked for in full (`tinynn.sklearn` is ours), in `import_module` as well."""

    def asked_for(tree: ast.AST) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                yield from (a.value for a in node.args if isinstance(a, ast.Constant))

    by = {
        path.parent.name
        for path, tree in SOURCES.items()
        for name in (*imported(path, tree), *asked_for(tree))
        if name.partition(".")[0] == program
    }
    assert by == {program}


def test_arrows_have_no_circle() -> None:
    TopologicalSorter(ARROWS).prepare()  # raises CycleError


def test_modules_have_no_circle() -> None:
    """Imports inside functions count too; those for type checkers alone do not."""

    def nearest(name: str) -> str | None:
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        return name or None

    graph = {}
    for path, tree in SOURCES.items():
        name = module_name(path)
        if name in TOP:
            continue
        body = [node for node in tree.body if not _for_type_checkers(node)]
        found = {nearest(each) for each in imported(path, ast.Module(body, []))}
        graph[name] = found - {None, name}
    TopologicalSorter(graph).prepare()


def _for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.mark.parametrize("path", files("tests"), ids=ids)
def test_what_tests_share_is_in_no_test(path: Path) -> None:
    found = imported(path, ast.parse(path.read_text()))
    assert not [name for name in found if name.startswith("tests.test_")]


@pytest.mark.parametrize(
    "path",
    [*SOURCES, *files("tests"), *files("examples"), ROOT / "noxfile.py"],
    ids=ids,
)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_extras_ask_for_what_backends_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    lines = "\n".join(wanted)
    for path in files("backends"):
        source = path.read_text()
        if needed := re.search(r'^    minimum = "([\d.]+)"', source, re.MULTILINE):
            (name,) = re.findall(r'^    name = "(\w+)"', source, re.MULTILINE)
            given = re.search(rf"^{name.replace('_', '-')}\S*>=([\d.]+)", lines, re.MULTILINE)
            assert given, f"no extra installs {name}"
            assert given[1] == needed[1].removesuffix(".0")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)


def test_import_loads_no_array_library_but_numpy() -> None:
    loaded = python(
        "-c",
        "import sys, numpy; before = set(sys.modules); import tinynn; "
        "print(*sorted(set(sys.modules) - before))",
    ).stdout.split()
    heavy = {*LIBRARIES, "click", "matplotlib", "narwhals", "pandas", "polars", "rich", "scipy"}
    heavy |= {"onnx", "onnxruntime", "ndonnx"}
    assert not heavy & {name for name in loaded if "." not in name}
    # As dear as NumPy itself: it pulls in numpy.f2py and numpy.testing.
    assert "array_api_compat.numpy" not in loaded


def test_what_only_training_needs_is_imported_on_first_use() -> None:
    """That keeps `import tinynn` below a tenth of a second: benchmarks/importing.py measures it."""
    said = python(
        "-c",
        "import sys, tinynn; print(*[n for n in sys.modules if n.startswith('tinynn.')]); "
        "print(tinynn.layers.Linear, tinynn.fit, tinynn.optim.Adam, 'losses' in dir(tinynn))",
    ).stdout.splitlines()
    packages = {name.split(".")[1] for name in said[0].split()}
    assert packages == {"rules", "trace", "transforms", "tree"}
    assert said[1].count("<") == 3
    assert said[1].endswith("True")
