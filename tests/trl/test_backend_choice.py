"""``backend="auto"`` takes the backend that can hold the trainer's tensors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mx_plugin.config import MXConfig
from mx_trl.session import backend_name


@pytest.mark.parametrize(("device", "expected"), [("cpu", "cpu"), ("cuda:0", "reference"), ("mps", "reference")])
def test_auto_follows_the_trainers_device(device: str, expected: str) -> None:
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device(device)))
    assert backend_name(MXConfig(), trainer) == expected


def test_a_backend_that_was_named_is_taken() -> None:
    assert backend_name(MXConfig(backend="acme"), SimpleNamespace()) == "acme"
