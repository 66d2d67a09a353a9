"""A probe that cannot re-score a model says so and lets it train."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mx_trl import MXCallback

pytestmark = pytest.mark.trl("<1.13")


def test_a_model_that_cannot_be_rescored_still_trains(
    make_ppo: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mx_trl.gate import MismatchProbe

    def refuse(*_: Any) -> None:
        raise TypeError("forward() got an unexpected keyword argument 'position_ids'")

    monkeypatch.setattr(MismatchProbe, "_forward", refuse)
    with caplog.at_level(logging.WARNING):
        trainer = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path)])
        trainer.train()
    assert trainer.state.global_step == 2
    told = [r.getMessage() for r in caplog.records if "mismatch is not measured in this run" in r.getMessage()]
    assert len(told) == 1 and "position_ids" in told[0]
