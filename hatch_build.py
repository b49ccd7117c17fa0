"""Metadata that depends on where the repository is: its links, and those of the README.

TINYNN_REPOSITORY is its address. The workflows set it to that of the repository they run in, so
that no address is written down here. Without it a package is built without links.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)")


class RepositoryMetadataHook(MetadataHookInterface):
    """Fills in `project.urls` and `project.readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set both, but for what a source distribution brings from when it was made."""
        repository = os.environ.get("TINYNN_REPOSITORY", "").rstrip("/")
        tag = f"v{metadata['version']}"
        if repository and "urls" not in metadata:
            metadata["urls"] = {
                "Source": repository,
                "Documentation": f"{repository}/tree/{tag}/docs",
                "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
        if "readme" not in metadata:
            text = Path(self.root, "README.md").read_text(encoding="utf-8")
            if repository:
                text = absolute(text, repository, tag)
            metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(text: str, repository: str, tag: str) -> str:
    """The README with its links to files as links to the repository: the index has no files."""

    def link(match: re.Match[str]) -> str:
        image, label, path = match.groups()
        return f"{image}[{label}]({repository}/{'raw' if image else 'blob'}/{tag}/{path})"

    return RELATIVE.sub(link, text)
