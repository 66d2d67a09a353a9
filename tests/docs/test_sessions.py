"""The tutorial and the how-to guides do what they say, typed as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, blocks
from tests.docs.session import Differs, compare, play, sections

TUTORIAL = ROOT / "docs" / "tutorial.md"
HOWTO = sections(ROOT / "docs" / "howto.md")
BEFORE = "Before you begin"


@pytest.mark.slow
@pytest.mark.trl("<1.13")
@pytest.mark.timeout(1800)
def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    assert play(blocks(TUTORIAL), tmp_path) >= 8


@pytest.mark.slow
@pytest.mark.trl("<1.13")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("title", [title for title in HOWTO if title != BEFORE])
def test_a_recipe_does_what_it_says(title: str, tmp_path: Path) -> None:
    """Each by itself, after what the page says to do first."""
    assert play([*HOWTO[BEFORE], *HOWTO[title]], tmp_path) >= 2


def session(folder: Path, *found: tuple[str, str]) -> int:
    return play([Block("page", line, language, text) for line, (language, text) in enumerate(found)], folder)


def test_files_are_written_commands_typed_and_what_they_print_is_compared(tmp_path: Path) -> None:
    ran = session(
        tmp_path,
        ("python", "# tell.py\nprint('took 3.25 s')\nprint('done')\n"),
        ("console", "$ python tell.py   # a remark\ntook 0.1 s\ndone\n$ make env\n$ ls examples/ppo_mx.py\n"),
        ("python", "print('a')\nprint('b', 7)\nprint('c')\n"),
        ("text", "...\nb 12\n...\n"),
    )
    assert ran == 3


@pytest.mark.parametrize(
    ("language", "text", "why"),
    [
        ("console", "$ python -c 'print(1, 2)'\n1\n", "there came"),
        ("console", "$ echo done\ndome\n", "there came"),
        ("console", "$ false\n", "ended with 1"),
        ("python", "raise ValueError('no')\n", "ValueError: no"),
        ("sh", "true\n", "nobody knows"),
    ],
)
def test_what_differs_is_told(language: str, text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(Differs, match=why):
        session(tmp_path, (language, text))


def test_a_format_is_no_number() -> None:
    block = Block("page", 1, "text", "")
    compare(block, "MXFP4 12 -----\n", "MXFP4   9 ---------\n\n")
    with pytest.raises(Differs):
        compare(block, "MXFP4 12\n", "MXFP8 12\n")
