"""``backend="auto"`` takes the backend that can hold the trainer's tensors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mx_plugin.config import MXConfig
from mx_plugin.errors import PolicyError
from mx_trl.session import Session, backend_name, refuse_options_of_others


@pytest.mark.parametrize(("device", "expected"), [("cpu", "cpu"), ("cuda:0", "cuda"), ("mps", "reference")])
def test_auto_follows_the_trainers_device(device: str, expected: str) -> None:
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device(device)))
    assert backend_name(MXConfig(), trainer) == expected


def test_a_backend_that_was_named_is_taken() -> None:
    assert backend_name(MXConfig(backend="acme"), SimpleNamespace()) == "acme"


def test_fpga_for_some_layers_leaves_the_others_where_auto_puts_them() -> None:
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu")))
    assert backend_name(MXConfig(backend="fpga"), trainer) == "fpga"
    assert backend_name(MXConfig(backend="fpga", fpga_layers=["*.q_proj"]), trainer) == "cpu"
    assert backend_name(MXConfig(backend="reference", fpga_layers=["*.q_proj"]), trainer) == "reference"


def test_patterns_that_name_the_same_backend_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board has one serial port: it can be opened once."""
    opened: list[str] = []

    def open_backend(name: str) -> SimpleNamespace:
        opened.append(name)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr("mx_trl.session.get_backend", open_backend)
    config = MXConfig(backend="acme", backends=["*.q_proj=acme", "*.k_proj=board", "*.v_proj=board"])
    session = Session(SimpleNamespace(config=config), SimpleNamespace())
    made = [session._backend(name) for name in ("acme", *config.backend_patterns().values())]
    assert opened == ["acme", "board"]
    assert made[0] is made[1] and made[2] is made[3]


def test_options_reach_their_backend_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, dict[str, object]]] = []

    def open_backend(name: str, **options: object) -> SimpleNamespace:
        made.append((name, options))
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr("mx_trl.session.get_backend", open_backend)
    config = MXConfig(backend="acme", fpga_layers=["*.q_proj"], backend_options=["fpga.mode=emulate"])
    session = Session(SimpleNamespace(config=config), SimpleNamespace())
    for name in ("acme", *config.backend_patterns().values()):
        session._backend(name)
    assert made == [("acme", {}), ("fpga", {"mode": "emulate"})]


def test_options_of_a_backend_that_executes_no_layer_are_refused() -> None:
    config = MXConfig(backends=["*.q_proj=fpga"], backend_options=["fgpa.mode=emulate"])
    with pytest.raises(PolicyError, match="'fgpa', which executes no layer: did you mean 'fpga'"):
        refuse_options_of_others(config, "cpu")
