"""``RLHFTrainer``: the loop in five lines, on whichever stage the installed TRL has."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mx_plugin import AdaptiveController
from mx_trl import RLHFTrainer
from mx_trl.embedded import EmbeddedFolder
from mx_trl.errors import StageError

SMALL = {"per_device_train_batch_size": 8, "reward": "sentiment", "use_cpu": True, "bf16": False,
         "gradient_checkpointing": False, "disable_tqdm": True}  # fmt: skip
PPO = {"num_ppo_epochs": 1, "response_length": 8, "num_mini_batches": 1}
GRPO = {"num_generations": 2, "max_completion_length": 8, "logging_steps": 1}


@pytest.fixture
def config() -> dict[str, object]:
    from mx_trl.experiments.recipe import installed_stage

    return SMALL | (PPO if installed_stage(None) == "ppo" else GRPO)


def test_it_trains_in_the_controllers_formats_and_leaves_files_and_model(
    embedded: EmbeddedFolder, config: dict[str, object], tmp_path: Path
) -> None:
    trainer = RLHFTrainer(
        model_name=str(embedded.policy),
        dataset=str(embedded.prompts),
        controller=AdaptiveController(policy="C8"),
        config=config,
    )
    summary = trainer.train(num_steps=1, log_energy=False, output_dir=tmp_path)
    assert summary.steps == 1
    with (tmp_path / "policy_C8" / "energy.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert "MXFP8/MXFP8" in {row["format"] for row in rows if row["phase"] == "rollout"}
    assert {row["joules"] for row in rows} == {""}
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters() > 100_000


@pytest.mark.trl(">=1.13")
def test_ppo_without_a_ppo_trainer_is_a_clear_error() -> None:
    with pytest.raises(StageError, match=r"has no PPOTrainer \(1.12 is the last"):
        RLHFTrainer(stage="ppo")


def test_unknown_options_are_refused(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    trainer = RLHFTrainer(str(embedded.policy), str(embedded.prompts), "C", {**SMALL, "lerning_rate": 1.0})
    with pytest.raises(StageError, match="lerning_rate"):
        trainer.train(num_steps=1, output_dir=tmp_path)
