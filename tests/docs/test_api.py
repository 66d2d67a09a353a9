"""The site's reference of Python names leaves no public one out."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import mx_fpga.testing
import mx_plugin
import mx_plugin.testing
import mx_trl

DOCS = Path(__file__).parents[2] / "docs"
ELSEWHERE = {"__version__", "hookimpl"}
"""Not objects with a docstring of their own; plugins.md has the second."""


@pytest.mark.parametrize(
    ("package", "page"),
    [
        (mx_plugin, "api.md"),
        (mx_trl, "api.md"),
        (mx_plugin.testing, "interfaces.md"),
        (mx_fpga.testing, "interfaces.md"),
    ],
)
def test_every_public_name_has_an_entry(package: ModuleType, page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    block = text.partition(f".. currentmodule:: {package.__name__}\n")[2].partition("```")[0]
    listed = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)$", block, re.M))
    assert listed == set(package.__all__) - ELSEWHERE


def test_every_page_is_in_the_sites_contents() -> None:
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {line for block in re.findall(r"```{toctree}(.*?)```", contents, re.S) for line in block.split()}
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= listed
