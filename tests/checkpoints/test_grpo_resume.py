"""GRPO, interrupted and resumed, is the unbroken run: weights, optimiser and log, between two uses of a sample too."""

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


@pytest.mark.parametrize(
    ("policy", "config"),
    [
        pytest.param(None, {}, marks=pytest.mark.slow, id="plain"),
        pytest.param("C8", {"beta": 0.1}, marks=pytest.mark.slow, id="C8_with_reference"),
        pytest.param("everything", {"num_iterations": 2}, id="stochastic_rounding_and_samples_used_twice"),
        pytest.param("A", {"steps_per_generation": 2, "logging_steps": 3}, id="between_two_lines_of_the_log"),
    ],
)
def test_resumed_is_unbroken_bit_for_bit(
    policy: str | None, config: dict[str, Any], make_grpo: Make, mx_gradient: str, tmp_path: Path
) -> None:
    policy = mx_gradient if policy == "everything" else policy
    unbroken = make_grpo(tmp_path / "unbroken", policy, **config)
    unbroken.train()
    for step in (1, 3):
        checkpoint = tmp_path / "unbroken" / "checkpoints" / f"checkpoint-{step}"
        resumed = make_grpo(tmp_path / f"from{step}", policy, resume_from_checkpoint=str(checkpoint), **config)
        assert resumed.train().steps == 5
        assert differing(unbroken.trainer, resumed.trainer) == []
        assert train_log(tmp_path / f"from{step}") == train_log(tmp_path / "unbroken")


def test_what_was_stopped_in_time_goes_on_by_auto_in_the_same_folder(make_grpo: Make, tmp_path: Path) -> None:
    unbroken = make_grpo(tmp_path / "unbroken", "C8")
    unbroken.train()
    for _ in range(2):
        stage = make_grpo(tmp_path / "run", "C8", script={"max_minutes": 1e-9}, resume_from_checkpoint="auto")
        assert stage.train().stopped
    last = make_grpo(tmp_path / "run", "C8", resume_from_checkpoint="auto")
    assert last.train().resumed_from == tmp_path / "run" / "checkpoints" / "checkpoint-2"
    assert differing(unbroken.trainer, last.trainer) == []
    assert train_log(tmp_path / "run") == train_log(tmp_path / "unbroken")
