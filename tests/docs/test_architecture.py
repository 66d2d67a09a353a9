"""docs/architecture.svg shows every import between two rooms, and no other arrow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

grimp = pytest.importorskip("grimp")

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def plots() -> Iterator[ModuleType]:
    """The script, imported as it runs: from its own folder."""
    sys.path.insert(0, str(DOCS / "plots"))
    import architecture

    yield architecture
    sys.path.remove(str(DOCS / "plots"))


@pytest.fixture(scope="module")
def rooms(plots: ModuleType) -> ModuleType:
    """What knows the rooms."""
    return sys.modules["rooms"]


def arrows(svg: str) -> set[tuple[str, str]]:
    """(importer, imported) of every arrow in a picture."""
    labels = [element.get("aria-label") or "" for element in ElementTree.fromstring(svg).iter()]
    return {(one.partition(" imports ")[0], one.partition(" imports ")[2]) for one in labels if " imports " in one}


def test_the_arrows_of_the_picture_are_the_imports_between_rooms(plots: ModuleType, rooms: ModuleType) -> None:
    graph = grimp.build_graph(*rooms.PACKAGES, cache_dir=None)
    found = {
        (rooms.room_of(module).name, rooms.room_of(imported).name)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    between = {edge for edge in found if edge[0] != edge[1]}
    drawn = arrows(plots.PICTURE.read_text(encoding="utf-8"))
    assert drawn == between, f"run: python docs/plots/architecture.py (differs in {sorted(drawn ^ between)})"


def test_the_picture_is_what_the_script_draws(plots: ModuleType, rooms: ModuleType) -> None:
    drawn = plots.draw(rooms.built_rooms(), rooms.imports())
    assert plots.PICTURE.read_text(encoding="utf-8") == drawn, "run: python docs/plots/architecture.py"


def test_an_import_for_types_alone_is_dashed(plots: ModuleType, rooms: ModuleType) -> None:
    found = rooms.imports()
    svg = ElementTree.fromstring(plots.draw(rooms.built_rooms(), found))
    dashed = {element.get("aria-label") for element in svg.iter() if element.get("stroke-dasharray")}
    assert dashed == {f"{one.importer} imports {one.imported}" for one in found if one.typing_only}
    assert "interfaces imports sensitivity" in dashed, "hookspecs names its types and loads none of it"


def test_a_line_meets_a_room_where_no_other_does(plots: ModuleType, rooms: ModuleType) -> None:
    svg = ElementTree.fromstring(plots.draw(rooms.built_rooms(), rooms.imports()))
    heads = [element.get("points", "").split()[0] for element in svg.iter("{http://www.w3.org/2000/svg}polygon")]
    assert len(set(heads)) == len(heads) == len(rooms.imports())


def test_a_module_of_no_room_is_refused(rooms: ModuleType) -> None:
    with pytest.raises(LookupError, match=r"ROOMS"):
        rooms.room_of("mx_plugin.attic.box")
