"""The fenced blocks of the README and of docs/*.md, each with where it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_OPENING = re.compile(r"^( *)(`{3,})(.*)$")


@dataclass(frozen=True)
class Block:
    """``language`` is the fence's word, empty where it has none; ``line`` that of the fence, from 1."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Step:
    """A command of a console block, as the reader types it, and the lines that it is said to print."""

    command: str
    output: str


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order.

    Raises:
        ValueError: a fence that is never closed.
    """
    return blocks_of(page.read_text(encoding="utf-8"), page.name)


def blocks_of(text: str, name: str) -> list[Block]:
    """The same for a page's text."""
    found: list[Block] = []
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        opening = _OPENING.match(line)
        if opening is None:
            continue
        indent, fence, language = opening.groups()
        held: list[str] = []
        for _, inner in lines:
            if inner.strip() == fence:
                break
            held.append(inner.removeprefix(indent))
        else:
            raise ValueError(f"{name}:{number}: this block is never closed")
        found.append(Block(name, number, language.strip(), "\n".join(held) + "\n"))
    return found


def steps(block: Block) -> list[Step]:
    """The commands of a console block: a line from ``$ `` on, with those that continue it after a backslash.

    Raises:
        ValueError: it begins with something else.
    """
    found: list[Step] = []
    lines = iter(block.text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command = command[:-1] + next(lines).strip()
            found.append(Step(command.strip(), ""))
        elif found:
            found[-1] = Step(found[-1].command, found[-1].output + line + "\n")
        else:
            raise ValueError(f"{block}: a console block begins with a command, '$ ...'; found {line!r}")
    return found


EVERY_BLOCK = [block for page in PAGES for block in blocks(page)]


def of_language(*languages: str) -> list[Block]:
    """Every block in one of these languages."""
    return [block for block in EVERY_BLOCK if block.language in languages]
