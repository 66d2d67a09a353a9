"""Boards by URL and by registered name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mx_fpga import boards
from mx_fpga.board import Board, open_boards
from mx_fpga.errors import BoardError
from mx_fpga.fake import DEFAULT, FakeBoard
from mx_fpga.fake_port import FakePort
from mx_plugin import hookimpl, plugins


def test_a_fake_board_is_opened_by_its_url_and_takes_options() -> None:
    with boards.open_board("fake:?columns=4&element_bytes=4096") as board:
        assert (board.hello.columns, board.hello.element_bytes, board.simulated) == (4, 4096, True)
        assert open_boards() == [board]


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("fake:?colums=4", {}, "no option 'colums'; there are version"),
        ("fake:?columns=many", {}, "columns='many' is no number"),
        ("fake:", {"bauds": 1}, "does not take these options"),
        ("fake:", {"board": "ulx4"}, "unknown board 'ulx4'"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_what_there_is(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BoardError, match=message):
        boards.open_board(url, **options)


def test_the_default_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MX_FPGA_URL", raising=False)
    assert boards.default_url() == "sim:"
    monkeypatch.setenv("MX_FPGA_URL", "fake:?columns=3")
    with boards.open_board() as board:
        assert board.hello.columns == 3


class _ThirdParty:
    MX_PLUGIN_INTERFACE = (1, 0)

    def __init__(self, made: Callable[..., Any]) -> None:
        self.made = made

    @hookimpl
    def mx_register_boards(self, register: Any) -> None:
        register("acme", self.made)


def test_a_third_partys_board_registers_as_ours_do() -> None:
    with FakePort(FakeBoard(replace(DEFAULT, name="acme"))) as port:
        plugins.register(_ThirdParty(lambda url, **options: Board.open(url, baudrate=921_600, **options)), "acme_board")
        try:
            with boards.open_board(port.url, "acme", timeout_s=0.5) as board:
                assert (board.name, board.link.timeout_s) == ("acme", 0.5)
            plugins.register(_ThirdParty(lambda url, **options: "a string"), "acme_board")
            with pytest.raises(BoardError, match="made a str, not an mx_fpga Board"):
                boards.open_board(port.url, "acme")
        finally:
            plugins.reset()
