"""Running statistics of rewards are part of a checkpoint: a resumed run shapes as the unbroken one did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mx_trl.checkpoints.errors import CheckpointError
from tests.checkpoints.compared import differing, train_log

pytest.importorskip("trl")

if TYPE_CHECKING:
    from mx_trl.stages.built import BuiltStage

SHAPED = {"reward": "sentiment + 0.5*length:6", "normalise_reward": True, "clip_reward": 1.5}


def resumed_is_unbroken(make: Callable[..., BuiltStage], tmp_path: Path) -> BuiltStage:
    unbroken = make(tmp_path / "unbroken", "C8", script=SHAPED, max_steps=3)
    unbroken.train()
    checkpoint = tmp_path / "unbroken" / "checkpoints" / "checkpoint-2"
    resumed = make(tmp_path / "resumed", "C8", script=SHAPED, max_steps=3, resume_from_checkpoint=str(checkpoint))
    resumed.train()
    assert differing(unbroken.trainer, resumed.trainer) == []
    assert train_log(tmp_path / "resumed") == train_log(tmp_path / "unbroken")
    return resumed


@pytest.mark.trl("<1.13")
def test_ppo_goes_on_shaping_where_it_stopped(make_ppo: Callable[..., BuiltStage], tmp_path: Path) -> None:
    resumed = resumed_is_unbroken(make_ppo, tmp_path)
    assert resumed.trainer.reward_model.shaping.moments.count == 12  # three steps of four episodes, not one
    checkpoint = tmp_path / "unbroken" / "checkpoints" / "checkpoint-2"
    plain = make_ppo(tmp_path / "plain", "C8", max_steps=3, resume_from_checkpoint=str(checkpoint))
    with pytest.raises(CheckpointError, match=r"written with another reward: reward\.0"):
        plain.train()


@pytest.mark.trl
def test_grpo_goes_on_shaping_where_it_stopped(make_grpo: Callable[..., BuiltStage], tmp_path: Path) -> None:
    resumed = resumed_is_unbroken(make_grpo, tmp_path)
    assert resumed.trainer.reward_funcs[0].shaping.moments.count == 12
