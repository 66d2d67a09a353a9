"""Writes docs/cli.md from the parsers of ``mx-plugin``'s commands and of ``python -m mx_openrlhf``.

    .venv/bin/python docs/tables/cli.py

Only commands of this package are listed, whatever else is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

from mx_openrlhf import arguments as openrlhf
from mx_plugin import plugins
from mx_plugin.config import MXConfig
from mx_plugin.plugins import Command

PAGE = Path(__file__).parents[1] / "cli.md"
OURS = "mx-plugin"
"""The distribution whose commands are listed."""

HEAD = """# Command line

<!-- Written by docs/tables/cli.py from the parsers: change those, then run it. -->

`mx-plugin COMMAND --help` says the same of each command. Exit status: 0; 1 where a command found something wanting; 2
for wrong usage and for every error that is told in one message. Other plugins add commands of their own
([plugins](plugins.md)); the flags of the stages (`examples/*_mx.py`) are in [configuration](configuration.md).
"""

OPENRLHF = """## python -m mx_openrlhf

Run a recipe of OpenRLHF under MX, see [distributed](distributed.md). Flags of ours stand before the recipe's module,
the recipe's own behind it:

```text
{usage}
```

`--mx.output_dir DIR` is where files go, `--mx.config FILE` reads a YAML file, `--mx.NAME VALUE` sets any other option
of [MXConfig](configuration.md), but for those that would have no effect there and are refused:

| option | why |
|---|---|
{refused}
"""


def page() -> str:
    """The whole text."""
    parts = [HEAD, _overview(), *(_command(command) for command in own_commands()), _openrlhf()]
    return "\n".join(parts)


def own_commands() -> list[Command]:
    """What this distribution registers, by name."""
    found = plugins.commands().values()
    return sorted((one for one in found if one.plugin.distribution == OURS), key=lambda one: one.name)


def parser_of(command: Command) -> argparse.ArgumentParser:
    """Its arguments, as ``mx-plugin`` asks for them."""
    parser = argparse.ArgumentParser(prog=f"mx-plugin {command.name}", description=command.summary)
    command.add_arguments(parser)
    return parser


def _overview() -> str:
    rows = [f"| [`{one.name}`](#mx-plugin-{one.name}) | {_cell(_sentence(one.summary))} |" for one in own_commands()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows, ""])


def _command(command: Command) -> str:
    return "\n".join(_parser(parser_of(command), command.summary, 2))


def _parser(parser: argparse.ArgumentParser, summary: str, level: int) -> Iterator[str]:
    """A section for the parser, and one below it for each of its subcommands."""
    yield from (f"{'#' * level} {parser.prog}", "", _sentence(summary), "")
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in parser._action_groups:
        own = [action for action in group._group_actions if _is_shown(action)]
        if own:
            yield from _table(group.title or "", own)
    if parser.epilog and not nested:
        yield from (f"- {line}" for line in parser.epilog.split(" | "))
        yield ""
    for action in nested:
        summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, child in action.choices.items():
            yield from _parser(child, summaries.get(name, ""), level + 1)


def _is_shown(action: argparse.Action) -> bool:
    hidden = isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    return not hidden and action.help != argparse.SUPPRESS


def _table(title: str, actions: Iterable[argparse.Action]) -> Iterator[str]:
    if title not in ("options", "positional arguments"):
        yield from (f"**{title}**", "")
    yield from (f"| {'argument' if title.startswith('positional') else 'option'} | meaning |", "|---|---|")
    yield from (f"| {_cell(_name(action))} | {_cell(_meaning(action))} |" for action in actions)
    yield ""


def _name(action: argparse.Action) -> str:
    """``--policies NAME ...``: as it is written."""
    value = _value(action)
    if not action.option_strings:
        return f"`{value}`"
    return f"`{', '.join(action.option_strings)}{' ' + value if value else ''}`"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices is not None else ""
    name = action.metavar if isinstance(action.metavar, str) else ""
    name = name or choices or (action.dest.upper() if action.option_strings else action.dest)
    return {"+": f"{name} ...", "*": f"[{name} ...]", "?": f"[{name}]"}.get(str(action.nargs), name)


def _meaning(action: argparse.Action) -> str:
    """Its help; with choices that the name does not show, the default that the help does not tell, and whether it must
    be there."""
    text = (action.help or "").replace("%%", "%")
    notes = []
    if action.choices is not None and isinstance(action.metavar, str):
        notes.append(f"one of {', '.join(map(str, action.choices))}")
    if action.option_strings and action.required:
        notes.append("required")
    plain = isinstance(action.default, str | int | float) and not isinstance(action.default, bool)
    if plain and action.default != argparse.SUPPRESS and action.option_strings and not _tells_default(text, action):
        notes.append(f"default: {action.default}")
    return f"{text} ({'; '.join(notes)})" if notes else text


def _tells_default(text: str, action: argparse.Action) -> bool:
    plain = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
    return "default" in text or f"({plain})" in text


def _openrlhf() -> str:
    known = {one.name for one in fields(MXConfig)}
    refused = [f"| `--mx.{name}` | {_cell(why)} |" for name, why in openrlhf.NOT_HERE.items() if name in known]
    usage = openrlhf.USAGE.removeprefix("usage: ").replace(" openrlhf.cli.", " \\\n    openrlhf.cli.")
    return OPENRLHF.format(usage=usage, refused="\n".join(refused))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _cell(text: str) -> str:
    """Safe in a table: no end of a cell, and nothing that would be read as a tag."""
    escaped = text.replace("|", "\\|")
    return escaped if text.startswith("`") else escaped.replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
