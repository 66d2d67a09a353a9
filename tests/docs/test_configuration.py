"""docs/configuration.md is what docs/tables makes of the dataclasses, has every knob, and its ranges are true."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from mx_plugin.config import MXConfig
from mx_plugin.errors import MXError

ROOT = Path(__file__).parents[2]
RECIPES = [*sorted((ROOT / "examples" / "configs").glob("*.yaml"))]


@pytest.fixture(scope="module")
def tables() -> Iterator[ModuleType]:
    """The script, imported as it runs: from its own folder."""
    pytest.importorskip("trl")
    sys.path.insert(0, str(ROOT / "docs" / "tables"))
    import configuration

    yield configuration
    sys.path.remove(str(ROOT / "docs" / "tables"))


@pytest.fixture(scope="module")
def documented() -> set[str]:
    """Every option that has a row."""
    return set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"), re.M))


@pytest.mark.trl("<1.13")
def test_the_page_is_what_the_dataclasses_say(tables: ModuleType) -> None:
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(), "run: python docs/tables/configuration.py"


@pytest.mark.trl
def test_every_dataclass_of_the_stages_has_a_table(tables: ModuleType) -> None:
    from mx_trl.stages import arguments

    ours = {cls for cls in vars(arguments).values() if isinstance(cls, type) and cls.__module__ == arguments.__name__}
    assert ours == {cls for cls, _, _ in tables.SECTIONS} - {MXConfig}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_option_of_a_recipe_has_a_row(recipe: Path, documented: set[str]) -> None:
    data: dict[str, Any] = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for stage in data.pop("stages", []):
        data.update(stage.get("options") or {})
    data.update(data.pop("common", {}))
    assert set(data) <= documented, "add them to docs/tables/ranges.py, then run docs/tables/configuration.py"


def test_every_field_of_mxconfig_has_a_row(documented: set[str]) -> None:
    assert {known.name for known in fields(MXConfig)} <= documented


@pytest.mark.trl
def test_what_the_ranges_of_mxconfig_say_is_so(tables: ModuleType) -> None:
    from mx_plugin import config

    entries = {name.removeprefix("MXConfig."): found for name, found in tables.RANGES.items() if "MXConfig" in name}
    entries |= {name: tables.one_of(*words) for name, words in config._CHOICES.items()}
    tried = 0
    for name, values in entries.items():
        for value in values.inside:
            assert getattr(MXConfig(**{name: value}), name) == value
        for value in values.outside:
            with pytest.raises(MXError, match=name):
                MXConfig(**{name: value})
            tried += 1
    assert tried >= 15
