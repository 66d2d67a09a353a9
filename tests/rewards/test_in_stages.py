"""Rules, sums and shaping as the stages train on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from trl import GRPOConfig, ModelConfig

from mx_plugin.config import MXConfig
from mx_trl.errors import StageError
from mx_trl.stages.arguments import GRPOScriptArguments, PPOScriptArguments
from mx_trl.stages.grpo import build_grpo

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder


COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "max_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "seed": 3,
}


@pytest.fixture
def sums(tmp_path: Path) -> str:
    """Questions with right answers, as GSM8K has them."""
    rows = [{"question": f"describe the garden {n}", "answer": f"#### {n}"} for n in range(8)]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def grpo(tmp_path: Path, embedded: EmbeddedFolder, script: GRPOScriptArguments, **config: Any) -> Any:
    settings = {**COMMON, "output_dir": str(tmp_path / "run"), "num_generations": 4, "max_completion_length": 4}
    model = ModelConfig(model_name_or_path=str(embedded.policy))
    return build_grpo(script, GRPOConfig(**(settings | config)), model, MXConfig(policy="A"))


@pytest.mark.trl
def test_grpo_trains_on_a_sum_with_a_verifiable_part(tmp_path: Path, embedded: EmbeddedFolder, sums: str) -> None:
    script = GRPOScriptArguments(
        dataset_name=sums, prompt_from="question", reward="gsm8k + 0.5*length:4", normalise_reward=True
    )
    stage = grpo(tmp_path, embedded, script)
    assert stage.trainer.train_dataset[3] == {"prompt": "describe the garden 3", "answer": "#### 3"}
    stage.train()
    logged = next(entry for entry in stage.trainer.state.log_history if "reward/length_4" in entry)
    assert -1.0 <= logged["reward/length_4"] <= 0.0 and logged["reward/gsm8k"] == 0.0
    assert stage.trainer.reward_funcs[0].shaping.moments.count == 4


@pytest.mark.trl
def test_a_verifiable_reward_needs_a_data_set_of_ones_own(tmp_path: Path, embedded: EmbeddedFolder) -> None:
    script = GRPOScriptArguments(dataset_name=str(embedded.prompts), reward="gsm8k")
    with pytest.raises(StageError, match=r"needs the column 'answer'; columns: prompt"):
        grpo(tmp_path, embedded, script)


def ppo(tmp_path: Path, embedded: EmbeddedFolder, script: PPOScriptArguments, **config: Any) -> Any:
    from mx_trl.stages.ppo import build_ppo, load_ppo

    settings = {**COMMON, "output_dir": str(tmp_path / "run"), "num_ppo_epochs": 1, "response_length": 4}
    settings |= {"gradient_accumulation_steps": 1, "num_sample_generations": 0}
    model = ModelConfig(model_name_or_path=str(embedded.policy))
    return build_ppo(script, load_ppo()[0](**(settings | config)), model, MXConfig(policy="A"))


@pytest.mark.trl("<1.13")
def test_ppo_finds_the_right_answer_by_the_prompts_tokens(tmp_path: Path, embedded: EmbeddedFolder, sums: str) -> None:
    script = PPOScriptArguments(dataset_name=sums, prompt_from="question", reward="gsm8k", num_eval_prompts=2)
    stage = ppo(tmp_path, embedded, script, per_device_eval_batch_size=2)
    seen: list[Any] = []
    inner = stage.trainer.reward_model.text.rule
    stage.trainer.reward_model.text.rule = lambda **given: seen.append(given) or inner(**given)
    stage.train()
    assert len(seen) == 1 and len(seen[0]["prompts"]) == 4
    for prompt, answer in zip(seen[0]["prompts"], seen[0]["answer"], strict=True):
        assert answer == f"#### {prompt.split()[-1]}"


@pytest.mark.trl("<1.13")
@pytest.mark.parametrize(("reward", "no_mx"), [("length:4", False), ("length:4", True), ("model", False)])
def test_ppo_shapes_rules_and_models_and_counts_no_samples_for_the_log(
    reward: str, no_mx: bool, tmp_path: Path, embedded: EmbeddedFolder, sums: str
) -> None:
    script = PPOScriptArguments(
        dataset_name=sums, prompt_from="question", reward=reward, num_eval_prompts=2, normalise_reward=True,
        clip_reward=0.75, no_mx=no_mx,
    )  # fmt: skip
    models = {"reward_model_path": str(embedded.reward)} if reward == "model" else {}
    stage = ppo(tmp_path, embedded, script, num_sample_generations=1, per_device_eval_batch_size=2, **models)
    stage.train()
    scores = [entry["objective/scores"] for entry in stage.trainer.state.log_history if "objective/scores" in entry]
    assert len(scores) == 1 and abs(scores[0]) <= 0.75
    assert stage.trainer.reward_model.shaping.moments.count == 4
