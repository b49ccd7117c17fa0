"""The notebooks of the tutorial, run in a Jupyter kernel, and what they show kept or compared.

`python -m tests.notebooks` runs them and keeps what they show; with `--check` it compares, and
fails where a notebook shows other text than it keeps. Pictures are drawn anew, and not compared.
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorial").glob("*.ipynb"))


def text_of(cell: Any) -> str:
    """The text that a code cell shows, without what stands for a picture."""
    shown = []
    for output in cell["outputs"]:
        data = output.get("data", {})
        if output["output_type"] == "stream":
            shown.append("".join(output["text"]))
        elif not any(kind.startswith("image/") for kind in data):
            shown.append("".join(data.get("text/plain", "")) + "\n")
    return "".join(shown)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def executed(path: Path) -> Any:
    """The notebook after a run of all its cells, with nothing in it that differs between runs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=120,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                output.pop("execution_count", None)
                if output.output_type == "execute_result":
                    output.execution_count = None
    notebook.metadata.language_info = {"name": "python"}
    nbformat.validate(notebook)
    return notebook


def write(path: Path) -> None:
    import nbformat

    path.write_text(nbformat.writes(executed(path), indent=1) + "\n")


def differences(path: Path) -> list[str]:
    """What a run shows and the notebook does not keep, cell by cell."""
    found = []
    for cell, after in zip(read(path)["cells"], executed(path)["cells"], strict=True):
        if cell["cell_type"] != "code":
            continue
        kept, shown = text_of(cell), text_of(after)
        pictures = [len(each["outputs"]) for each in (cell, after)]
        if kept != shown or pictures[0] != pictures[1]:
            found.append(f"{path.name}, {cell['id']}: expected\n{kept}\ngot\n{shown}")
    return found


def main() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if sys.argv[1:] != ["--check"]:
        for path in NOTEBOOKS:
            write(path)
        return
    with ThreadPoolExecutor(2) as pool:  # what takes the time are the kernels, in their processes
        found = [each for some in pool.map(differences, NOTEBOOKS) for each in some]
    if found:
        found += ["To fix it: run python -m tests.notebooks, and look at what changed."]
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
