"""The Python in the documents runs, block after block, as a reader would type it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["README.md", "docs/derivatives.md"])
def test_python_blocks_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sybil import Sybil
    from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

    document = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()]).parse(ROOT / name)
    examples = list(document.examples())
    assert examples, f"{name} shows no Python"
    # What the examples read is found from the root; what they save goes elsewhere.
    for entry in ROOT.iterdir():
        os.symlink(entry, tmp_path / entry.name)
    monkeypatch.chdir(tmp_path)
    for example in examples:
        example.evaluate()
