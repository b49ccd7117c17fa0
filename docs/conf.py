"""The documentation site, built by Sphinx from the Markdown of this folder: nox -s docs."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

import tinynn  # noqa: E402 - from this folder's own tree

project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
author = copyright = "the tinynn authors"
version = release = tinynn.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    # of this folder
    "links",
    "mathml",
    "reference",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
suppress_warnings = ["myst.header"]  # the README begins lower down where it is part of a page

# Docstrings: single backquotes are code, and link to what has that name.
default_role = "py:obj"
autodoc_typehints = "none"  # shapes and dtypes are in the text; most types are Any
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["attrs_inline", "dollarmath"]
myst_heading_anchors = 3
# Notebooks are shown as they are stored; tests/test_tutorial.py runs them and compares.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
html_math_renderer = "mathml"

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "tinynn"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_search_summary = False  # summaries are fetched, which pages opened from a folder cannot
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {
        "color-brand-primary": "#1f5f8b",
        "color-brand-content": "#1f5f8b",
        "font-stack": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7fbbe3",
        "color-brand-content": "#7fbbe3",
    },
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# What only a network can tell is asked by nox -s linkcheck alone.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_workers = 4
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]
