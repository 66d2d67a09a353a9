"""The backend ``fpga`` as an engine runs it: some layers, some phases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mx_fpga.fake import FakeBoard
from mx_fpga.fake_port import FakePort
from mx_fpga.protocol import Message
from mx_plugin import get_backend
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.phases import TRACKER
from mx_plugin.precision import PolicyProvider, PrecisionPolicy

LINK = {"timeout_s": 0.2, "retries": 2, "backoff_s": 0.001, "reopen_s": 0.1}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 48), nn.Linear(48, 64, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x)))


POLICY = {"version": 1, "name": "test", "defaults": {"rollout": "MXFP4", "reward": "MXFP8", "gradient": "MXFP8"}}


def run_phases(engine: Engine, model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    results = []
    for phase in ("rollout", "reward"):
        with torch.no_grad(), engine.phase(phase):
            results.append(model(x))
    with engine.phase("gradient"):
        model(x).sum().backward()
    results.append(model.up.weight.grad.clone())
    engine.restore()
    assert TRACKER.phase == "other"
    return results


@pytest.mark.parametrize("mode", ["offload", "emulate", "verify"])
def test_one_layers_rollouts_on_the_board_and_the_rest_elsewhere(
    make: Any, port: FakePort, fake: FakeBoard, mode: str
) -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(5, 64)
    plain = Engine(PolicyProvider(PrecisionPolicy.from_dict(POLICY)), get_backend("cpu"))
    plain.adopt({"policy": model})
    expected = run_phases(plain, model, x)
    model.zero_grad()
    options: dict[str, Any] = {} if mode == "emulate" else {"url": port.url, **LINK}
    backend = make(mode=mode, **options)
    engine = Engine(PolicyProvider(PrecisionPolicy.from_dict(POLICY)), get_backend("cpu"), {"up@rollout": backend})
    engine.adopt({"policy": model})
    found = run_phases(engine, model, x)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[1], expected[1]) and torch.equal(found[2], expected[2]), "elsewhere nothing changes"
    if mode == "verify":
        assert torch.equal(found[0], expected[0]) and backend.findings.board_mismatches == 0
    assert fake.requests.count(Message.LOAD_COMMIT) == (0 if mode == "emulate" else 1)


def test_all_phases_on_the_board_train_too(make: Any, port: FakePort) -> None:
    model = Net()
    engine = Engine(PolicyProvider(PrecisionPolicy.from_dict(POLICY)), make(url=port.url, **LINK))
    engine.adopt({"policy": model})
    on_board = run_phases(engine, model, torch.ones(2, 64))
    model.zero_grad()
    engine = Engine(PolicyProvider(PrecisionPolicy.from_dict(POLICY)), make(mode="emulate"))
    engine.adopt({"policy": model})
    on_host = run_phases(engine, model, torch.ones(2, 64))
    assert all(torch.equal(a, b) for a, b in zip(on_board, on_host, strict=True))
