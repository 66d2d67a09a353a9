"""``mx-plugin conformance`` of boards: by URL, by registered name, and what is wrong with a command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mx_fpga.board import Board, open_boards
from mx_fpga.testing.suite import is_url
from mx_plugin import hookimpl, plugins
from mx_plugin.cli import main
from tests.conformance.broken.boards import AnswersAGroupTooMany, opened

Capture = pytest.CaptureFixture[str]


class Installed:
    """A plugin with the board ``acme``, which speaks at a serial URL, and ``broken``, which does not answer right."""

    @hookimpl
    def mx_register_boards(self, register: Any) -> None:
        register("acme", lambda url, **link: Board.open(url, **link))
        register("broken", lambda url: opened(AnswersAGroupTooMany()))


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    plugins.reset()
    plugins.register(Installed())
    yield
    plugins.reset()
    assert open_boards() == []


@pytest.mark.parametrize("words", [["fake:"], ["fake:", "--kind", "board"], ["fake", "--kind", "board"], ["fake"]])
def test_a_board_is_named_by_its_url_or_its_registered_name(words: list[str], capsys: Capture) -> None:
    assert main(["conformance", *words, "--level", "loads"]) == 0
    out = capsys.readouterr().out
    assert "ok      is_a_board" in out and f"board {words[0]}: 3 passed" in out


def test_options_are_the_boards_own_and_a_url_is_one(capsys: Capture) -> None:
    with opened(AnswersAGroupTooMany()) as busy:
        url = busy.link.url
        assert main(["conformance", "acme", f"url={url}", "--level", "loads"]) == 2
        assert "Another program has it open" in capsys.readouterr().err
    assert main(["conformance", "fake", "url=fake:?handles=3", "timeout_s=0.5", "--level", "loads"]) == 0
    assert main(["conformance", "fake:", "bauds=3"]) == 2
    assert "does not take these options" in capsys.readouterr().err


def test_json_says_the_level_the_check_and_what_differs(capsys: Capture) -> None:
    assert main(["conformance", "broken", "url=-", "--level", "says", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["kind"], told["ok"]) == ("broken", "board", False)
    failed = [check for check in told["checks"] if check["status"] == "failed"]
    assert [check["check"] for check in failed] == ["geometry"]
    due = "level says, check geometry: HELLO says 2 rows of 8 turns and 2 columns: RUN of a group should answer 128"
    assert failed[0]["message"].startswith(due)


def test_a_registered_board_that_needs_a_url_asks_for_it_or_takes_the_users(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MX_FPGA_URL", raising=False)
    assert main(["conformance", "acme"]) == 2
    assert "where is board 'acme'? Give url=..., or set MX_FPGA_URL" in capsys.readouterr().err
    monkeypatch.setenv("MX_FPGA_URL", "/dev/no-such-board")
    assert main(["conformance", "acme"]) == 2
    assert "Is the board plugged in?" in capsys.readouterr().err


def test_a_name_that_is_no_board_is_refused_with_what_there_is(capsys: Capture) -> None:
    assert main(["conformance", "acne", "--kind", "board"]) == 2
    assert "no board is named 'acne': did you mean 'acme'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "url"),
    [("/dev/ttyUSB0", True), ("socket://127.0.0.1:7000", True), ("COM3", True), ("sim:", True), ("sim", False),
     ("comet", False), ("acme", False)],
)  # fmt: skip
def test_what_is_a_url(name: str, url: bool) -> None:
    assert is_url(name) is url
