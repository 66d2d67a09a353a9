"""SFT, reward model and DPO, interrupted and resumed, are the unbroken run: weights, optimiser and log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkpoints.compared import differing, train_log

pytest.importorskip("trl")

if TYPE_CHECKING:
    from mx_trl.stages.built import BuiltStage

Make = Callable[..., "BuiltStage"]


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo"])
def test_resumed_is_unbroken_bit_for_bit(kind: str, make_learning: Make, mx_gradient: str, tmp_path: Path) -> None:
    # 10 examples are 2 1/2 batches of 4: step 2 lies within an epoch, step 3 ends one; the log has a line each 2 steps.
    config: dict[str, Any] = {"logging_steps": 2}
    unbroken = make_learning(kind, tmp_path / "unbroken", mx_gradient, **config)
    unbroken.train()
    for step in (2, 3):
        checkpoint = tmp_path / "unbroken" / "checkpoints" / f"checkpoint-{step}"
        resumed = make_learning(
            kind, tmp_path / f"from{step}", mx_gradient, resume_from_checkpoint=str(checkpoint), **config
        )
        assert resumed.train().steps == 5
        assert differing(unbroken.trainer, resumed.trainer) == []
        assert train_log(tmp_path / f"from{step}") == train_log(tmp_path / "unbroken")


def test_a_checkpoint_of_plain_trl_is_taken_up_with_a_warning(
    make_learning: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_learning("sft", tmp_path / "first", max_steps=2).train()
    checkpoint = tmp_path / "first" / "checkpoints" / "checkpoint-1"
    (checkpoint / "mx_state.json").unlink()
    stage = make_learning("sft", tmp_path / "second", max_steps=2, resume_from_checkpoint=str(checkpoint))
    assert stage.train().steps == 2
    assert "not bit for bit" in caplog.text
