"""Policy A on a GPU: bit for bit what plain TRL trains there. Only a machine with a card can show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mx_trl import MXCallback

pytestmark = [
    pytest.mark.trl("<1.13"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def test_policy_a_trains_bit_for_bit_like_plain_trl(
    make_ppo: Callable[..., Any],
    numbers_of: Callable[..., Any],
    weights_of: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may add in another order each time
    found = []
    for callbacks in ([], [MXCallback(policy="A", output_dir=tmp_path / "runs")]):
        trainer = make_ppo(tmp_path / f"trainer_{len(found)}", callbacks, use_cpu=False, full_determinism=True)
        trainer.train()
        found.append((numbers_of(trainer), weights_of(trainer)))
    (plain_log, plain), (mx_log, mx) = found
    assert mx_log == plain_log
    assert [name for name in plain if not torch.equal(plain[name], mx[name])] == []
