"""The Python in the documents runs, block after block, as a reader would type it.

A block whose first line is the name of a file is that file, to be imported; of a pyproject.toml
the entry points are installed. Each document has a Python of its own, in which they are found.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE = re.compile(r"```\w+\n# (\w+\.(?:py|toml))\n(.*?)```", re.DOTALL)
RUN = """
import pathlib, re, sys, unittest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

document = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()]).parse(pathlib.Path(sys.argv[1]))
examples = list(document.examples())
assert examples, "it shows no Python"
for example in examples:
    if not re.match(r"# \\w+\\.py\\n", str(example.parsed)):
        try:
            example.evaluate()
        except unittest.SkipTest as reason:
            print("not run:", reason)
"""


def write(name: str, content: str, folder: Path) -> None:
    if name != "pyproject.toml":
        (folder / name).write_text(content)
        return
    # What pip would make of it.
    information = folder / "documented-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: documented\n")
    ((group, points),) = tomllib.loads(content)["project"]["entry-points"].items()
    lines = [f"[{group}]", *(f"{point} = {place}" for point, place in points.items())]
    (information / "entry_points.txt").write_text("\n".join(lines))


PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if "```python" in path.read_text())


@pytest.mark.parametrize(
    "name", ["README.md", "tinynn/compiler/README.md", *(f"docs/{path.name}" for path in PAGES)]
)
def test_python_blocks_run(name: str, tmp_path: Path) -> None:
    # What the examples read is found from the root; what they save goes elsewhere.
    for entry in ROOT.iterdir():
        os.symlink(entry, tmp_path / entry.name)
    library = tmp_path / "of the document"
    library.mkdir()
    for file, content in FILE.findall((ROOT / name).read_text()):
        write(file, content, library)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(ROOT / name)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(library), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
