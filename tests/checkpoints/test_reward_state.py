"""A reward that keeps running statistics goes on with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkpoints.compared import differing, train_log

pytest.importorskip("trl")

if TYPE_CHECKING:
    from mx_trl.stages.built import BuiltStage

Make = Callable[..., "BuiltStage"]


class Rising:
    """Gives each completion one more than the last: what it gives depends on all that it gave before."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, completions: list[Any], **_: Any) -> list[float]:
        first = self.given
        self.given += len(completions)
        return [float((first + n) * 7 % 11) for n in range(len(completions))]

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: Any) -> None:
        self.given = state["given"]


@pytest.fixture
def rising() -> Iterator[ModuleType]:
    """``rising_reward:rule``, importable: a new :class:`Rising` must be put there for each run."""
    module = ModuleType("rising_reward")
    sys.modules["rising_reward"] = module
    yield module
    del sys.modules["rising_reward"]


def _resumed_equals_unbroken(make: Make, rising: ModuleType, folder: Path) -> None:
    script = {"reward": "rising_reward:rule"}
    rising.rule = Rising()
    unbroken = make(folder / "unbroken", "C8", script=script)
    unbroken.train()
    checkpoint = folder / "unbroken" / "checkpoints" / "checkpoint-2"
    rising.rule = Rising()
    resumed = make(folder / "resumed", "C8", script=script, resume_from_checkpoint=str(checkpoint))
    resumed.train()
    assert differing(unbroken.trainer, resumed.trainer) == []
    assert train_log(folder / "resumed") == train_log(folder / "unbroken")


@pytest.mark.trl("<1.13")
def test_ppo(make_ppo: Make, rising: ModuleType, tmp_path: Path) -> None:
    _resumed_equals_unbroken(make_ppo, rising, tmp_path)


def test_grpo(make_grpo: Make, rising: ModuleType, tmp_path: Path) -> None:
    _resumed_equals_unbroken(make_grpo, rising, tmp_path)


def test_another_reward_is_refused(make_grpo: Make, rising: ModuleType, tmp_path: Path) -> None:
    from mx_trl.checkpoints.errors import CheckpointError

    rising.rule = Rising()
    make_grpo(tmp_path / "first", script={"reward": "rising_reward:rule"}, max_steps=1).train()
    checkpoint = tmp_path / "first" / "checkpoints" / "checkpoint-1"
    with pytest.raises(CheckpointError, match="written with another reward"):
        make_grpo(tmp_path / "second", max_steps=2, resume_from_checkpoint=str(checkpoint)).train()
