"""Explained variance and advantage statistics of PPO's critic."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from mx_trl.critic_metrics import critic_metrics, summary

if TYPE_CHECKING:
    from pathlib import Path

    from mx_trl.embedded import EmbeddedFolder

KEYS = {"explained_variance", "advantage_mean", "advantage_std", "return_mean", "value_mean"}


def test_the_summary_is_that_of_the_masked_tokens() -> None:
    returns, values = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(4)).unbind()
    mask = torch.rand(6, 9, generator=torch.Generator().manual_seed(5)) < 0.6
    advantages = torch.where(mask, returns - values, torch.tensor(1e6))
    found = summary(advantages, values, mask)
    r, a = returns[mask], (returns - values)[mask]
    assert found["mx/ppo/explained_variance"] == pytest.approx(1 - (a.var() / r.var()).item(), rel=1e-5)
    assert found["mx/ppo/advantage_mean"] == pytest.approx(a.mean().item(), rel=1e-5)
    assert found["mx/ppo/advantage_std"] == pytest.approx(a.std(correction=0).item(), rel=1e-5)
    assert found["mx/ppo/return_mean"] == pytest.approx(r.mean().item(), rel=1e-5, abs=1e-7)
    assert found["mx/ppo/value_mean"] == pytest.approx(values[mask].mean().item(), rel=1e-5)


@pytest.mark.parametrize(("guess", "worth"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_perfect_critic_explains_all_and_a_constant_one_nothing(guess: float, worth: float) -> None:
    returns = torch.randn(4, 5, generator=torch.Generator().manual_seed(6))
    values = returns * (1 - guess) + 3.0 * guess
    found = summary(returns - values, values, torch.ones(4, 5, dtype=torch.bool))
    assert found["mx/ppo/explained_variance"] == pytest.approx(worth, abs=1e-6)


def test_returns_that_are_all_alike_have_no_explained_variance() -> None:
    values = torch.randn(4, 5, generator=torch.Generator().manual_seed(6))
    found = summary(0.7 - values, values, torch.ones(4, 5, dtype=torch.bool))
    assert "mx/ppo/explained_variance" not in found and "mx/ppo/advantage_std" in found
    assert summary(values, values, torch.zeros(4, 5, dtype=torch.bool)) == {}


@pytest.mark.trl("<1.13")
def test_ppo_logs_them_and_trains_as_without(tmp_path: Path, embedded: EmbeddedFolder) -> None:
    from mx_trl.stages.arguments import PPOScriptArguments
    from tests.rewards.test_in_stages import ppo

    logs = {}
    for no_mx in (False, True):
        script = PPOScriptArguments(
            dataset_name=str(embedded.prompts), num_prompts=8, reward="length:4", no_mx=no_mx
        )  # policy A: the same numbers as plain TRL's
        stage = ppo(
            tmp_path / str(no_mx), embedded, script, max_steps=2, whiten_rewards=True, per_device_train_batch_size=8
        )
        stage.train()
        logs[no_mx] = [entry for entry in stage.trainer.state.log_history if "objective/kl" in entry]
    for with_mx, plain in zip(logs[False], logs[True], strict=True):
        assert {key.removeprefix("mx/ppo/") for key in with_mx if key.startswith("mx/ppo/")} == KEYS
        for key in ("loss/value_avg", "loss/policy_avg", "objective/scores"):
            assert with_mx[key] == plain[key]
        assert with_mx["mx/ppo/advantage_std"] > 0


def test_a_trainer_that_is_not_trls_ppo_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Other:
        def train(self) -> None: ...

    critic: Any = nn.Module()
    critic.score = nn.Linear(2, 1)
    with caplog.at_level(logging.WARNING), critic_metrics(Other(), critic, lambda found: None):
        pass
    assert "mx/ppo/ is not measured: Other is not TRL 1.12's PPOTrainer" in caplog.text
