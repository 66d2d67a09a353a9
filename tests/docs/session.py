"""A page of the docs as a reader who follows it: files are written, commands typed, and what they print is compared.

A block of Python or YAML whose first line is ``# name.ext`` is that file. Other Python runs, and a block of text behind
it is what it prints; behind a command stands what the command prints. Numbers may differ, words may not, and a line
``...`` stands for any lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.docs.blocks import ROOT, Block, blocks_of, steps

PAGES_RUN_WHOLE = ("tutorial.md", "howto.md")
"""Pages whose every block is run, in order."""

NOT_TYPED = {
    "make env": "it builds the environment in which this test runs",
    ". .venv/bin/activate": "this test's environment is active already",
}
"""Commands that a session leaves out: {command: why}."""

_NAMED = re.compile(r"# ([\w.-]+\.(?:py|yaml))\n")
_NUMBER = re.compile(r"(?<![A-Za-z_\d.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?%?")


class Differs(AssertionError):
    """A command failed, or printed something else than the page says."""


def play(page: list[Block], folder: Path) -> int:
    """Follow the blocks in ``folder``, in which ``examples`` lies as in the checkout.

    Returns:
        How many commands and scripts were run.

    Raises:
        Differs: at which block, and how.
    """
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(ROOT / "examples")
    ran = 0
    printed = ""
    for block in page:
        named = _NAMED.match(block.text)
        if block.language in ("python", "yaml") and named:
            (folder / named[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            printed = _run(block, [sys.executable, "-c", block.text], folder)
            ran += 1
        elif block.language == "text":
            compare(block, block.text, printed)
        elif block.language == "console":
            for step in steps(block):
                if step.command.partition("  #")[0].strip() in NOT_TYPED:
                    continue
                compare(block, step.output, _run(block, ["bash", "-c", step.command], folder))
                ran += 1
        else:
            raise Differs(f"{block}: nobody knows how to follow a block of {block.language or 'no language'}")
    return ran


def _run(block: Block, words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise Differs(f"{block}: {words[-1]!r} ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-3000:]}")
    return done.stdout


def _environment() -> Mapping[str, str]:
    """The reader's shell, with this environment's programs first."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return {**os.environ, "PATH": path, "TERM": "dumb", "COLUMNS": "200"}


def compare(block: Block, expected: str, printed: str) -> None:
    """Line by line; a page that shows nothing says nothing.

    Raises:
        Differs: with both.
    """
    if not expected.strip():
        return
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in _plain(expected).splitlines()
    )
    if not re.fullmatch(pattern, _plain(printed)):
        raise Differs(f"{block} says\n{expected}\nand there came\n{printed}")


def _plain(text: str) -> str:
    """Without what a machine or a clock decides: numbers, and the width of columns."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"-{3,}", "---", _NUMBER.sub("#", line))
        line = re.sub(r"\s+", " ", line).strip()
        if line:
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def sections(page: Path) -> dict[str, list[Block]]:
    """The blocks of each section of a page, by its heading; what stands above the first is left out."""
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {
        title: blocks_of(text, f"{page.name}, {title!r}") for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }
