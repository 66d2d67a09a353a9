"""The documentation site: ``make docs`` builds it from docs/*.md, the README and the docstrings, without a network.

The pages are Markdown that also reads well where the repository is hosted; what differs on the site is done here.
"""

from __future__ import annotations

import os
import re
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from mx_plugin import __version__

project = "mx-plugin"
author = "The mx-plugin authors"
copyright = "The mx-plugin authors, MIT licence"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["site", "tables", "plots", "data"]
suppress_warnings: list[str] = []
nitpicky = True

# Headings get the anchors that they have where the repository is hosted.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 160
napoleon_numpy_docstring = False
napoleon_use_rtype = False
add_module_names = False

# Types of others have no page here, and no inventory is fetched. The last are types that signatures name and no reader
# makes by hand.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|argparse|pathlib|collections|transformers|trl|numpy|contextlib|typing|abc|enum)\..*"),
    (r"py:.*", r"(Any|Path|optional|Tensor|sequences|int64)"),
    (r"py:class", r"mx_plugin\.(execution\.engine\.Engine|sensitivity\.(assigned\.Assigned|measures\.Measure))"),
    (r"py:class", r"MetricChoice|HeldOut"),
]

html_theme = "furo"
html_title = "mx-plugin"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0969da", "color-brand-content": "#0969da"},
    "dark_css_variables": {"color-brand-primary": "#58a6ff", "color-brand-content": "#58a6ff"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

OUTSIDE = {"../README.md": "index.md", "../CHANGELOG.md": "changelog.md", "../CONTRIBUTING.md": "contributing.md"}
"""Pages that lie outside docs/, and what stands for them on the site."""

ROLE = re.compile(r":(class|func|meth|mod|data):`([^`]+)`")


def link_to_site(text: str) -> str:
    """Markdown with links and roles as the site has them.

    The hooks' docstrings stand word for word in plugins.md, and there a role is Sphinx's; on the site it is a link.
    """
    for outside, page in OUTSIDE.items():
        text = text.replace(f"]({outside}", f"]({page}")
    return ROLE.sub(r"{py:\1}`\2`", text)


def _read(app: Any, page: str, source: list[str]) -> None:
    source[0] = link_to_site(source[0])


def _keep_colons(app: Any, what: str, name: str, one: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in an attribute's first line for its type: a comment goes first."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def _readable(app: Any, what: str, name: str, one: Any, options: Any, arguments: str, returns: str) -> Any:
    """``<factory>``, the default of a dataclass's mutable field, is no Python."""
    return arguments and arguments.replace("<factory>", "..."), returns


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _keep_colons, priority=400)  # before napoleon, which has 500
    app.connect("autodoc-process-signature", _readable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
