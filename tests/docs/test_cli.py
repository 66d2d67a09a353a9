"""docs/cli.md is what docs/tables makes of the parsers, and leaves no command, option or recipe out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mx_plugin import plugins

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables() -> Iterator[ModuleType]:
    """The script, imported as it runs: from its own folder."""
    sys.path.insert(0, str(ROOT / "docs" / "tables"))
    import cli

    yield cli
    sys.path.remove(str(ROOT / "docs" / "tables"))


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """It and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


def section(page: str, title: str) -> str:
    """What stands under a heading, up to the next."""
    _, found, rest = page.partition(f"# {title}\n")
    assert found, f"no section {title!r}"
    return rest.split("\n#", 1)[0]


@pytest.mark.trl("<1.13")
def test_the_page_is_what_the_parsers_say(tables: ModuleType) -> None:
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(), "run: python docs/tables/cli.py"


def test_every_command_of_this_package_has_a_section_with_each_of_its_options(tables: ModuleType) -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    ours = {name for name, one in plugins.commands().items() if one.plugin.distribution == "mx-plugin"}
    assert {command.name for command in tables.own_commands()} == ours
    for command in tables.own_commands():
        for parser in parsers(tables.parser_of(command)):
            text = section(page, parser.prog)
            for option in (option for action in parser._actions for option in action.option_strings):
                assert option in ("-h", "--help") or option in text, (parser.prog, option)


def test_a_default_that_the_help_does_not_tell_is_told(tables: ModuleType) -> None:
    parser = argparse.ArgumentParser()
    silent = parser.add_argument("--width", type=int, default=7, help="of a block")
    telling = parser.add_argument("--depth", type=int, default=7, help="of a block (default: 7)")
    choice = parser.add_argument("--rule", choices=["floor", "rceil"], metavar="R", help="a | b", required=True)
    assert tables._meaning(silent) == "of a block (default: 7)"
    assert tables._meaning(telling) == "of a block (default: 7)"
    assert tables._meaning(choice) == "a | b (one of floor, rceil; required)"
    assert tables._cell("a | <b>") == "a \\| &lt;b>"


def test_recipes_of_openrlhf_and_what_they_refuse_are_listed(tables: ModuleType) -> None:
    from mx_openrlhf.arguments import NOT_HERE, RECIPES

    text = section(tables.PAGE.read_text(encoding="utf-8"), "python -m mx_openrlhf")
    assert all(name in text for name in RECIPES)
    assert all(f"`--mx.{name}`" in text for name in NOT_HERE)
