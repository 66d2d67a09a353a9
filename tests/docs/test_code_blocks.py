"""Every Python block of the README and of the docs runs, unless it needs a trainer that the reader brings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[object]:
    found = []
    for page in PAGES:
        for number, code in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)):
            if "Trainer(..." not in code:  # an ellipsis stands for the reader's own arguments
                found.append(pytest.param(code, id=f"{page.name}-{number}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs", "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("code", blocks("yaml"))
def test_yaml_blocks_are_valid_policies_or_alert_rules(code: str, tmp_path: Path) -> None:
    from mx_plugin import PrecisionPolicy
    from mx_trl.dashboard.rules import load_rules

    path = tmp_path / "policy.yaml"
    path.write_text(code, encoding="utf-8")
    if code.startswith("# alerts"):
        assert load_rules(path)
        return
    assert PrecisionPolicy.from_yaml(path).name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_docs_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
