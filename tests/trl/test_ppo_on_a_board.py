"""PPO with products on a board: the simulated RTL behind its serial port, and boards that fail in mid-training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mx_fpga.board import open_boards
from mx_fpga.errors import BoardError
from mx_fpga.fake import FakeBoard
from mx_fpga.fake_port import FakePort
from mx_fpga.layout import run_cycles
from mx_fpga.protocol import Counters, Message
from mx_fpga.simulator import Simulator
from mx_fpga.testing import FaultyWire
from mx_trl import MXCallback
from tests.fpga.conftest import simulator, verilator  # noqa: F401
from tests.fpga.raw_board import RawBoard

pytestmark = pytest.mark.trl("<1.13")

LAYER = "*.layers.0.self_attn.q_proj"
QUICK = ["fpga.timeout_s=0.2", "fpga.retries=2", "fpga.backoff_s=0.001", "fpga.reopen_s=0.2"]
"""A board that is lost is given up soon."""


class Run:
    """What a training run left behind."""

    def __init__(self, trainer: Any, callback: MXCallback) -> None:
        assert callback.run_dir is not None
        self.weights = {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}
        self.config = json.loads((callback.run_dir / "config.json").read_text())
        self.log = (callback.run_dir / "training_log.txt").read_text()
        self.summary = callback.summary()

    @property
    def fpga(self) -> dict[str, Any]:
        """What the backend says of itself in config.json."""
        (told,) = [each for each in self.config["backends"] if each["backend"] == "fpga"]
        return told

    def same_weights(self, other: Run) -> bool:
        return all(torch.equal(tensor, other.weights[name]) for name, tensor in self.weights.items())


@pytest.fixture
def train(make_ppo: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """``train(*options, **config)``: a step of PPO under policy C with one projection's rollouts on a board."""
    runs = iter(range(100))

    def train(*options: str, **config: Any) -> Run:
        folder = tmp_path / str(next(runs))
        chosen = {"fpga_layers": [LAYER], **config}
        callback = MXCallback(policy="C", backend_options=list(options), output_dir=folder, **chosen)
        trainer = make_ppo(folder, [callback], steps=1, response_length=4, num_ppo_epochs=1)
        try:
            trainer.train()
        except BoardError as error:
            error.run = Run(trainer, callback)  # type: ignore[attr-defined]
            raise
        return Run(trainer, callback)

    yield train
    assert open_boards() == []


# ---------------------------------------------------------------------------- a board that works


def test_one_projections_rollouts_are_multiplied_by_the_simulated_board(
    train: Callable[..., Run],
    simulator: Simulator,  # noqa: F811
) -> None:
    """The board's own counters say so; and the training is, bit for bit, that of the host's emulation."""
    run, emulated = train(f"fpga.url={simulator.url}"), train("fpga.mode=emulate")
    assert run.same_weights(emulated)
    hits = run.config["hits"]["policy"]["rollout"]["model.layers.0.self_attn.q_proj"]
    traffic = run.fpga["board"]["traffic"]
    assert traffic["runs"] == hits + 1 > 4, "every call of the layer in generation, and one of the step-0 gate"
    assert run.fpga["emulated_calls"] == 0
    with RawBoard(simulator.url) as board:
        counters, geometry = Counters.decode(board.ask(Message.COUNTERS)), board.geometry
    rows, length = run.weights["policy.model.layers.0.self_attn.q_proj.weight"].shape
    one = run_cycles(geometry.groups(rows), -(-length // 32), "MXFP4", "MXFP8", geometry)
    assert counters.passes % one == 0
    assert traffic["tokens"] / geometry.columns <= counters.passes // one <= traffic["tokens"]
    assert f"multiplied {traffic['runs']} times" in run.summary and "the host, with the same bits, 0 times" in run.log


@pytest.mark.slow
def test_all_layers_are_verified_by_the_simulated_board_without_a_difference(
    train: Callable[..., Run],
    simulator: Simulator,  # noqa: F811
) -> None:
    """Training is the executing backend's, bit for bit; a differing bit between board and host would end it."""
    options = (f"fpga.url={simulator.url}", "fpga.mode=verify", "fpga.on_mismatch=fail", "fpga.share=1.0")
    run, plain = train(*options, fpga_layers=None, backend="fpga"), train(fpga_layers=None, backend="cpu")
    assert run.same_weights(plain)
    found = run.fpga["findings"]
    assert found["mirrored_calls"] == run.fpga["board"]["traffic"]["runs"] > 100
    assert found["board_elements"] == found["executor_elements"] > 10_000
    assert found["board_mismatches"] == found["executor_mismatches"] == found["unmirrored_calls"] == 0
    assert f"board and emulate differ in 0 of {found['board_elements']} elements" in run.summary
    with RawBoard(simulator.url) as board:
        assert Counters.decode(board.ask(Message.COUNTERS)).passes > found["board_elements"] // 32


# ---------------------------------------------------------------------------- boards that fail


class Unplugged(FakeBoard):
    """Says nothing any more in the third product."""

    def feed(self, data: bytes) -> bytes:
        reply = super().feed(data)
        return b"" if self.requests.count(Message.RUN) > 66 else reply


def noisy() -> FakePort:
    """A cable that is sound for two products, and then damages every frame."""
    return FakePort(FakeBoard(), FaultyWire(to_board=dict.fromkeys(range(13_500, 10**6, 20), "flip")))


@pytest.mark.parametrize(
    ("make_port", "why"),
    [(noisy, "the board got a damaged frame"), (lambda: FakePort(Unplugged()), r"no reply within 0\.2 s")],
    ids=["CRC errors", "silence"],
)
def test_a_board_lost_in_training_ends_it_with_a_clear_error(
    train: Callable[..., Run], make_port: Callable[[], FakePort], why: str
) -> None:
    with (
        make_port() as port,
        pytest.raises(BoardError, match=rf"no valid reply to \w+ from .* in 3 attempts: .*{why}") as lost,
    ):
        train(f"fpga.url={port.url}", *QUICK)
    run: Run = lost.value.run  # type: ignore[attr-defined]
    assert f"training ended after step 0 with LinkError: {lost.value}" in run.log
    assert run.fpga["board"]["traffic"]["runs"] == 2, "it worked at first"


@pytest.mark.parametrize("make_port", [noisy, lambda: FakePort(Unplugged())], ids=["CRC errors", "silence"])
def test_by_option_training_goes_on_with_the_same_bits_and_says_so_in_the_log(
    train: Callable[..., Run], make_port: Callable[[], FakePort]
) -> None:
    with make_port() as port:
        run = train(f"fpga.url={port.url}", "fpga.on_failure=emulate", *QUICK)
        assert port.board.requests.count(Message.RUN) >= 64, "it worked at first"
    assert run.same_weights(train("fpga.mode=emulate"))
    assert run.fpga["gave_up"] and run.fpga["emulated_calls"] > 0
    given_up = f"WARNING mx_fpga.lazy_board: the board at {port.url} is given up: {run.fpga['gave_up']}"
    assert run.log.count("is given up") == 1 and given_up in run.log
    assert "fpga: the board was given up: no valid reply" in run.summary
