"""Links between the README and the pages of the docs lead to files and to headings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT

_FENCED = re.compile(r"^( *)(`{3,}).*?^\1\2\s*$", re.S | re.M)
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(text: str) -> set[str]:
    """What ``#...`` may name: each heading, as it is slugged where the repository is hosted and on the site."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        again = 0
        while (name := f"{slug}-{again}" if again else slug) in found:
            again += 1
        found.add(name)
    return found


def broken(page: Path) -> list[str]:
    """Every link of a page that leads nowhere in the repository."""
    wrong = []
    for link in _LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target) if target else page
        if not path.exists():
            wrong.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(prose(path)):
            wrong.append(f"{link}: no heading of {path.name} is called so")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_docs_lead_somewhere(page: Path) -> None:
    assert not broken(page)


def test_a_link_to_a_page_or_heading_that_is_not_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One\n## Two words, `code`\n## Two words, `code`\n", encoding="utf-8")
    page = tmp_path / "page.md"
    good = "[a](other.md#two-words-code) [b](other.md#two-words-code-1) [c](#here) [d](https://example.org/x)"
    bad = "[e](other.md#three) [f](gone.md) [g](#nowhere)"
    page.write_text(f"# Here\n{good}\n{bad}\n```text\n[in code](gone.md)\n```\n", encoding="utf-8")
    assert [one.partition(":")[0] for one in broken(page)] == ["other.md#three", "gone.md", "#nowhere"]


def test_there_are_links_between_the_pages() -> None:
    assert sum(len(_LINK.findall(prose(page))) for page in PAGES) > 60
    assert (ROOT / "README.md") in PAGES
