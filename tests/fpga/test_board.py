"""Board: what comes back is the arithmetic's, bit for bit, whatever happens on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mx_fpga import arithmetic
from mx_fpga.board import Board, open_boards
from mx_fpga.elements import FORMATS, element_table
from mx_fpga.errors import BoardError, LinkError, LinkReopened, Refused
from mx_fpga.fake import DEFAULT, FakeBoard
from mx_fpga.fake_port import FakePort
from mx_fpga.protocol import Energy, EnergyScope, EnergySource, Message
from mx_fpga.testing import KINDS, FaultyWire, some_faults
from mx_plugin import quantize
from mx_plugin.errors import FormatError
from mx_plugin.formats import MXTensor

FAST: dict[str, Any] = {"timeout_s": 0.2, "backoff_s": 0.001, "reopen_s": 3.0}


def packed(rows: int, length: int, fmt: str, seed: int = 0) -> MXTensor:
    """Values of very different sizes, with zeros."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, length, generator=draw) * torch.exp2(torch.randint(-9, 9, (rows, 1), generator=draw))
    return quantize(values * (torch.rand(rows, length, generator=draw) > 0.1), fmt)


def any_codes(rows: int, length: int, fmt: str, seed: int = 0) -> MXTensor:
    """Every code there is, NaN and infinities too, with scales from one end to the other."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << element_table(fmt).bits, (rows, length), generator=draw).to(torch.uint8)
    scales = torch.randint(100, 150, (rows, -(-length // 32)), generator=draw).to(torch.uint8)
    scales[torch.rand(scales.shape, generator=draw) < 0.05] = 255
    scales[torch.rand(scales.shape, generator=draw) < 0.05] = 0
    scales[torch.rand(scales.shape, generator=draw) < 0.05] = 254
    return MXTensor.from_codes(codes, scales, fmt)


def expected(x: MXTensor, w: MXTensor) -> NDArray[np.float32]:
    def parts(tensor: MXTensor) -> tuple[Any, Any, str]:
        return tensor.element_codes().numpy(), tensor.scale_codes().numpy(), tensor.format.name

    return arithmetic.matmul_codes(*parts(x), *parts(w))


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


@contextmanager
def opened(
    fake: FakeBoard | None = None, wire: FaultyWire | None = None, **link: Any
) -> Iterator[tuple[Board, FakeBoard]]:
    fake = fake or FakeBoard()
    with FakePort(fake, wire) as port, Board.open(port.url, **{**FAST, **link}) as board:
        yield board, fake


# ---------------------------------------------------------------------------- products


@pytest.mark.parametrize("activations", FORMATS)
@pytest.mark.parametrize("weights", FORMATS)
def test_every_pair_of_formats_is_multiplied_bit_for_bit(weights: str, activations: str) -> None:
    w, x = any_codes(37, 70, weights), any_codes(5, 70, activations, seed=1)
    with opened() as (board, _):
        assert same_bits(board.run(board.load_weight(w), x), expected(x, w))


@pytest.mark.parametrize("geometry", [(1, 1, 1), (4, 8, 8), (2, 3, 4)])
@pytest.mark.parametrize("shape", [(1, 1), (16, 32), (129, 200)])
def test_every_geometry_of_board_gives_the_same_bits(geometry: tuple[int, int, int], shape: tuple[int, int]) -> None:
    rows, columns, group = geometry
    fake = FakeBoard(replace(DEFAULT, rows=rows, columns=columns, group=group))
    w, x = packed(*shape, "MXFP4"), packed(11, shape[1], "MXFP8")
    with opened(fake) as (board, _):
        assert same_bits(board.run(board.load_weight(w), x), expected(x, w))


def test_small_frames_of_a_small_board_are_enough() -> None:
    fake = FakeBoard(replace(DEFAULT, max_payload=200, credits=1))
    w, x = packed(70, 300, "MXFP8"), packed(3, 300, "MXFP6")
    with opened(fake) as (board, _):
        assert same_bits(board.run(board.load_weight(w), x), expected(x, w))


def test_a_weight_is_loaded_once_however_often_it_is_multiplied() -> None:
    w = packed(64, 64, "MXFP8")
    with opened() as (board, fake):
        weight = board.load_weight(w)
        for seed in range(5):
            x = packed(2, 64, "MXFP8", seed)
            assert same_bits(board.run(weight, x), expected(x, w))
        assert fake.requests.count(Message.LOAD_BEGIN) == 1
        assert board.traffic.loads == 1 and board.traffic.runs == 5 and board.traffic.tokens == 10
        assert board.counters().passes > 0


def test_no_tokens_give_no_results() -> None:
    with opened() as (board, _):
        assert board.run(board.load_weight(packed(4, 32, "MXFP8")), packed(0, 32, "MXFP8")).shape == (0, 4)


def test_what_a_board_cannot_take_is_refused_before_anything_is_sent() -> None:
    fake = FakeBoard(replace(DEFAULT, formats=0b1, max_blocks=4))
    with opened(fake) as (board, _):
        with pytest.raises(FormatError, match="does not multiply MXFP4; it knows MXFP8"):
            board.load_weight(packed(4, 32, "MXFP4"))
        with pytest.raises(FormatError, match="blocked along"):
            board.load_weight(quantize(torch.randn(32, 32), "MXFP8", dim=0))
        with pytest.raises(BoardError, match="rows of 1 to 128 elements"):
            board.load_weight(packed(4, 129, "MXFP8"))
        weight = board.load_weight(packed(4, 64, "MXFP8"))
        with pytest.raises(FormatError, match=r"the weight needs \(tokens, 64\)"):
            board.run(weight, packed(4, 32, "MXFP8"))
        with pytest.raises(FormatError, match="does not multiply MXFP6"):
            board.run(weight, packed(4, 64, "MXFP6"))


def test_threads_share_a_board() -> None:
    weights = [packed(48, 64, "MXFP8", seed) for seed in range(3)]
    x = packed(5, 64, "MXFP8", 9)
    wrong: list[int] = []
    with opened() as (board, _):

        def work(number: int) -> None:
            weight = board.load_weight(weights[number])
            for _ in range(5):
                if not same_bits(board.run(weight, x), expected(x, weights[number])):
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert wrong == [] and not any(thread.is_alive() for thread in threads)


# ---------------------------------------------------------------------------- memory


def test_weights_that_do_not_fit_together_take_turns() -> None:
    fake = FakeBoard(replace(DEFAULT, element_bytes=64 * 64 * 2, scale_bytes=1024))
    weights = [packed(64, 64, "MXFP8", seed) for seed in range(4)]
    x = packed(2, 64, "MXFP8", 9)
    with opened(fake) as (board, _):
        loaded = [board.load_weight(w) for w in weights]
        assert board.traffic.loads == 4 and board.memory.evictions == 2
        for _ in range(2):
            for weight, w in zip(loaded, weights, strict=True):
                assert same_bits(board.run(weight, x), expected(x, w))
        assert board.traffic.loads > 4
        loads = board.traffic.loads
        assert same_bits(board.run(loaded[-1], x), expected(x, weights[-1]))
        assert board.traffic.loads == loads, "the last one lies there still"


def test_a_weight_that_is_unloaded_makes_room_without_eviction() -> None:
    fake = FakeBoard(replace(DEFAULT, element_bytes=64 * 64, scale_bytes=1024))
    with opened(fake) as (board, _):
        for seed in range(3):
            weight = board.load_weight(packed(64, 64, "MXFP8", seed))
            board.unload_weight(weight)
            board.unload_weight(weight)
        assert board.memory.evictions == 0 and board.memory.used_bytes == 0


def test_a_weight_larger_than_the_memory_is_multiplied_in_chunks_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeBoard(replace(DEFAULT, element_bytes=4096, scale_bytes=1024))
    w, x = packed(150, 64, "MXFP8"), packed(3, 64, "MXFP8", 1)
    with opened(fake) as (board, _):
        weight = board.load_weight(w)
        assert [chunk.rows for chunk in weight.chunks] == [64, 64, 22]
        assert same_bits(board.run(weight, x), expected(x, w))
        assert board.traffic.loads == 3
    assert "a weight of 150 x 64 MXFP8 (9900 bytes) exceeds the memory of board fake (4096 bytes" in caplog.text


def test_a_weight_of_which_not_even_a_group_fits_is_refused_with_the_sizes() -> None:
    fake = FakeBoard(replace(DEFAULT, element_bytes=512))
    with (
        opened(fake) as (board, _),
        pytest.raises(BoardError, match="16 rows of 64 MXFP8 elements take 1024 bytes and 32"),
    ):
        board.load_weight(packed(4, 64, "MXFP8"))


def test_lazy_loading_waits_for_the_first_product() -> None:
    with opened() as (board, fake):
        w, x = packed(16, 32, "MXFP8"), packed(1, 32, "MXFP8")
        weight = board.load_weight(w, now=False)
        assert Message.LOAD_BEGIN not in fake.requests
        assert same_bits(board.run(weight, x), expected(x, w))


# ---------------------------------------------------------------------------- faults


@pytest.mark.parametrize("kind", KINDS)
def test_damage_on_the_way_changes_no_bit_of_the_result(kind: str) -> None:
    w, x = packed(128, 128, "MXFP8"), packed(12, 128, "MXFP8", 1)
    wire = FaultyWire(
        some_faults([kind], seed=3, count=12, within=30_000, after=100),
        some_faults([kind], seed=4, count=8, within=7_000, after=100),
    )
    with opened(wire=wire) as (board, _):
        weight = board.load_weight(w)
        for _ in range(2):
            assert same_bits(board.run(weight, x), expected(x, w))
    assert wire.board_side.done >= 8 and wire.host_side.done >= 6


def test_a_board_that_is_reset_in_the_middle_gets_everything_again(caplog: pytest.LogCaptureFixture) -> None:
    """The button is pressed between two requests of one product."""
    w, x = packed(64, 64, "MXFP8"), packed(40, 64, "MXFP8", 1)

    class Fragile(FakeBoard):
        runs_left = 7

        def feed(self, data: bytes) -> bytes:
            if self.requests.count(Message.RUN) >= self.runs_left:
                self.runs_left += 10**6
                self.power_up()
            return super().feed(data)

    with opened(Fragile()) as (board, fake):
        weight = board.load_weight(w)
        assert same_bits(board.run(weight, x), expected(x, w))
        assert fake.requests.count(Message.LOAD_BEGIN) == 2 and board.traffic.recoveries >= 1
        assert fake.requests.count(Message.RUN) < 2 * 20, "finished tokens are not multiplied again"
    assert "lost what it held" in caplog.text


@pytest.mark.parametrize("moment", [Message.LOAD_BEGIN, Message.LOAD_CHUNK, Message.LOAD_COMMIT])
def test_a_reset_while_a_weight_is_loaded_starts_it_anew(moment: Message) -> None:
    w, x = packed(128, 128, "MXFP8"), packed(2, 128, "MXFP8", 1)

    class Fragile(FakeBoard):
        pressed = False

        def _answer(self, content: bytes) -> bytes:
            reply = super()._answer(content)
            if not self.pressed and self.requests[-1:] == [moment]:
                self.pressed = True
                self.reset()
            return reply

    with opened(Fragile()) as (board, _):
        assert same_bits(board.run(board.load_weight(w), x), expected(x, w))
        assert board.traffic.recoveries >= 1


def test_a_board_that_forgets_again_and_again_ends_in_a_clear_error() -> None:
    class Forgetful(FakeBoard):
        def _answer(self, content: bytes) -> bytes:
            reply = super()._answer(content)
            if self.requests[-1] == Message.LOAD_COMMIT:
                self.reset()
            return reply

    with opened(Forgetful()) as (board, _):
        weight = board.load_weight(packed(16, 32, "MXFP8"))
        with pytest.raises(BoardError, match=r"lost what it was given 4 times in a row.*Does something reset it"):
            board.run(weight, packed(1, 32, "MXFP8"))


def test_unplugged_and_plugged_again_it_is_loaded_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    w, x = packed(64, 64, "MXFP8"), packed(4, 64, "MXFP8", 1)
    path = tmp_path / "board"
    fake = FakeBoard()
    first = FakePort(fake)
    path.symlink_to(first.url)
    with Board.open(str(path), **FAST) as board:
        weight = board.load_weight(w)
        first.close()
        path.unlink()
        fake.power_up()
        plugs: list[FakePort] = []

        def plug() -> None:
            plugs.append(FakePort(fake))
            path.symlink_to(plugs[0].url)

        timer = threading.Timer(0.2, plug)
        timer.start()
        assert same_bits(board.run(weight, x), expected(x, w))
        assert board.traffic.loads == 2 and board.link.statistics.reopened == 1
        timer.join()
    plugs[0].close()


@pytest.mark.parametrize("stays_away", [False, True])
def test_a_loss_that_something_else_noticed_is_a_loss_for_the_weights_too(tmp_path: Path, stays_away: bool) -> None:
    """A meter reads the board while its port is gone, and by then another host has loaded its own weights."""
    w, x = packed(64, 64, "MXFP8"), packed(4, 64, "MXFP8", 1)
    path = tmp_path / "board"
    fake = FakeBoard()
    first = FakePort(fake)
    path.symlink_to(first.url)
    with Board.open(str(path), **FAST | {"reopen_s": 0.2 if stays_away else 10.0}) as board:
        weight = board.load_weight(w)
        first.close()
        path.unlink()
        with FakePort(fake) as elsewhere, Board.open(elsewhere.url, **FAST) as foreign:
            foreign.load_weight(packed(64, 64, "MXFP8", 2))
        with FakePort(fake) as back:
            if not stays_away:
                path.symlink_to(back.url)
            with pytest.raises(LinkError if stays_away else LinkReopened):
                board.counters()
            if stays_away:
                path.symlink_to(back.url)
                board.counters()
            assert same_bits(board.run(weight, x), expected(x, w))
            assert board.traffic.loads == 2 and board.traffic.recoveries == 1


def test_another_board_at_the_same_port_is_not_taken_for_the_first(tmp_path: Path) -> None:
    path = tmp_path / "board"
    first, second = FakePort(FakeBoard()), FakePort(FakeBoard(replace(DEFAULT, name="stranger")))
    path.symlink_to(first.url)
    with Board.open(str(path), **FAST) as board:
        weight = board.load_weight(packed(16, 32, "MXFP8"))
        path.unlink()
        path.symlink_to(second.url)
        first.close()
        with pytest.raises(BoardError, match="another board answers than before: stranger instead of fake"):
            board.run(weight, packed(1, 32, "MXFP8"))
    second.close()


def test_a_board_of_a_newer_protocol_is_refused_with_the_remedy() -> None:
    refused = pytest.raises(BoardError, match="speaks protocol 2, this host 1: install the mx-plugin that fits")
    with refused, opened(FakeBoard(replace(DEFAULT, version=(2, 0)))):
        pass
    with opened(FakeBoard(replace(DEFAULT, version=(1, 7)))) as (board, _):
        assert board.hello.version == (1, 7)


def test_something_else_at_the_port_is_no_board() -> None:
    class Modem(FakeBoard):
        def feed(self, data: bytes) -> bytes:
            return b"\r\nERROR\r\n"

    began = time.monotonic()
    refused = pytest.raises(LinkError, match=r"no valid reply to HELLO .* Is it a board of this protocol")
    with refused, opened(Modem(), timeout_s=0.02, retries=2):
        pass
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"lanes": 16}, {"handles": 0}, {"columns": 255, "rows": 4}])
def test_a_board_that_says_impossible_things_is_refused(wrong: dict[str, int]) -> None:
    refused = pytest.raises(BoardError, match="says something impossible of itself")
    with refused, opened(FakeBoard(replace(DEFAULT, **wrong))):
        pass


def test_a_refusal_that_no_reload_mends_is_passed_on() -> None:
    class Strict(FakeBoard):
        def _answer(self, content: bytes) -> bytes:
            from mx_fpga import protocol

            if content[0] == Message.RUN:
                return protocol.encode_reply(
                    Message.RUN, int.from_bytes(content[2:4], "little"), b"", protocol.Status.BAD_SHAPE
                )
            return super()._answer(content)

    with opened(Strict()) as (board, _), pytest.raises(Refused, match="refused RUN: BAD_SHAPE"):
        board.run(board.load_weight(packed(4, 32, "MXFP8")), packed(1, 32, "MXFP8"))


# ---------------------------------------------------------------------------- the rest


def test_reset_clears_counters_and_weights_are_loaded_again_when_needed() -> None:
    w, x = packed(16, 32, "MXFP8"), packed(1, 32, "MXFP8")
    with opened() as (board, _):
        weight = board.load_weight(w)
        board.run(weight, x)
        board.reset()
        assert board.counters().passes == 0
        assert same_bits(board.run(weight, x), expected(x, w))
        assert board.ping(b"\0\1\2") == b"\0\1\2"


def test_energy_is_what_the_board_says_and_a_simulated_one_cannot_measure() -> None:
    with opened() as (board, _):
        assert board.read_energy() == Energy(EnergySource.NONE, EnergyScope.UNKNOWN, 0, 0, 0)
    measuring = FakeBoard(replace(DEFAULT, energy=EnergySource.MEASURED))
    with opened(measuring) as (board, _):
        assert board.read_energy().source is EnergySource.MEASURED
        board.simulated = True
        with pytest.raises(BoardError, match="it cannot have"):
            board.read_energy()


def test_open_boards_are_known_until_they_are_closed() -> None:
    assert open_boards() == []
    with opened() as (board, _):
        assert open_boards() == [board]
    assert open_boards() == []


def test_describe_is_plain_data() -> None:
    import json

    with opened() as (board, _):
        board.load_weight(packed(16, 32, "MXFP8"))
        told = json.loads(json.dumps(board.describe()))
    assert told["hello"]["name"] == "fake" and told["hello"]["energy"] == "none"
    assert told["traffic"]["loads"] == 1 and told["link"]["frames_sent"] > 3
