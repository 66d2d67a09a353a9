"""What values each knob takes. The words of a table and the values that a test tries come from the same entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """``words`` for the table; values ``inside`` are taken, values ``outside`` refused."""

    words: str
    inside: tuple[Any, ...] = ()
    outside: tuple[Any, ...] = ()


def one_of(*values: str) -> Range:
    """A choice of words."""
    return Range(", ".join(f"`{value}`" for value in values), values, ("nothing of that name",))


ABOVE_0 = Range("above 0", (1e-6, 3.0, 1e6), (0.0, -1.0))
FROM_0 = Range("0 or more", (0, 1, 1000), (-1,))
FROM_1 = Range("1 or more", (1, 1000), (0, -1))
SHARE = Range("above 0, at most 1", (1e-6, 0.5, 1.0), (0.0, 1.0001, -0.1))

RANGES: dict[str, Range] = {
    # MXConfig, which checks each of them: tests/docs/test_configuration.py tries the values.
    "MXConfig.rollout_correction_cap": ABOVE_0,
    "MXConfig.gate_outside_clip": SHARE,
    "MXConfig.mismatch_every": FROM_0,
    "MXConfig.kl_every": FROM_0,
    "MXConfig.mismatch_samples": FROM_1,
    # MXConfig, checked when the run begins.
    "MXConfig.policy": Range("`A`, `B`, `C`, `C8`, `D`, a file, a plugin's"),
    "MXConfig.sensitivity_matrix": Range("a CSV file"),
    "MXConfig.max_cost": Range("a number, in the matrix's unit"),
    "MXConfig.policy_options": Range("`NAME.OPTION=VALUE`"),
    "MXConfig.backend": Range("`auto`, `cpu`, `cuda`, `reference`, `fpga`, `noise`, a plugin's"),
    "MXConfig.backends": Range("`PATTERN=NAME`, `PATTERN@PHASE=NAME`"),
    "MXConfig.backend_options": Range("`NAME.OPTION=VALUE`"),
    "MXConfig.fpga_layers": Range("layer patterns"),
    "MXConfig.meters": Range("`modelled`, `zeus`, `fpga`, a plugin's; empty for none"),
    "MXConfig.meter_options": Range("`NAME.OPTION=VALUE`"),
    "MXConfig.energy_target": Range("`as-executed`, `projected:<device>`"),
    "MXConfig.energy_table": Range("a YAML file"),
    "MXConfig.gate_clip": Range("above 0"),
    # Stages.
    "dataset_name": Range("hub id, folder, `.jsonl`, `.jsonl.gz`"),
    "dataset_config": Range("a name"),
    "dataset_train_split": Range("a name"),
    "on_malformed": one_of("fatal", "skip"),
    "end_token": Range("`auto`, `none`, a token"),
    "max_minutes": ABOVE_0,
    "alerts": Range("a YAML file, see [dashboard](dashboard.md)"),
    "profile_schedule": Range("wait, warm-up, active (1 or more), repeat (0: to the end), in steps"),
    "policies": Range("names of policies, each once"),
    "prompt_from": Range("a column, `hh`, `hh_chat`, `story`"),
    "prompt_words": FROM_1,
    "num_prompts": FROM_1,
    "num_eval_prompts": FROM_0,
    "max_prompt_length": FROM_1,
    "reward": Range("see [rewards](rewards.md)"),
    "clip_reward": ABOVE_0,
    "value_model_path": Range("folder or hub id"),
    "reward_model_path": Range("folder or hub id"),
    "num_examples": FROM_1,
    "num_eval_examples": FROM_0,
    "SFTScriptArguments.form": one_of("auto", "text", "pair", "messages", "hh", "hh_chat"),
    "RewardScriptArguments.form": one_of("auto", "pairs", "hh_chat", "scores"),
    "DPOScriptArguments.form": one_of("auto", "hh_chat"),
    "prompt_column": Range("a column"),
    "completion_column": Range("a column"),
    "score_column": Range("a column"),
    "separator": Range("any text"),
}

TRAINER: dict[str, tuple[Range, str]] = {
    "model_name_or_path": (Range("folder or hub id"), "The model that is trained. Default: the embedded one."),
    "dtype": (
        Range("`float32`, `bfloat16`, `float16`, `auto`"),
        "What models are loaded in; unset, stages take `float32`.",
    ),
    "attn_implementation": (Range("`eager`, `sdpa`, ..."), "How attention is computed."),
    "use_peft": (Range("true, false"), "Train LoRA adapters; `lora_r`, `lora_alpha`, ... belong to it."),
    "sft_model_path": (
        Range("folder or hub id"),
        "The policy that PPO starts from; `model_name_or_path` serves as well.",
    ),
    "reward_model_path": (Range("folder or hub id"), "PPO's reward model, a sequence classifier with one label."),
    "output_dir": (Range("a folder"), "The run's folder, see [run files](run_files.md)."),
    "resume_from_checkpoint": (Range("a folder, `auto`"), "Go on from a checkpoint; `auto`: the run's last."),
    "seed": (FROM_0, "Of everything that is drawn: data order, sampling, dropout, stochastic rounding."),
    "learning_rate": (ABOVE_0, "Of AdamW."),
    "lr_scheduler_type": (Range("`linear`, `constant`, `cosine`, ..."), "How the learning rate runs."),
    "max_steps": (Range("1 or more; -1 for none"), "Training steps; PPO: used where `total_episodes` is not given."),
    "num_train_epochs": (ABOVE_0, "Passes through the data, where no number of steps is given."),
    "total_episodes": (FROM_1, "PPO's length in sampled responses."),
    "per_device_train_batch_size": (FROM_1, "Rows of one pass of the model, on each device."),
    "per_device_eval_batch_size": (FROM_1, "The same in evaluations."),
    "gradient_accumulation_steps": (FROM_1, "Passes for one update; PPO's batch is as many times larger."),
    "gradient_checkpointing": (Range("true, false"), "Compute activations again in backward; not the reentrant kind."),
    "bf16": (Range("true, false"), "Autocast to bfloat16; without effect in TRL 1.12's PPO."),
    "logging_steps": (Range("1 or more; a share below 1"), "A line of the log every N steps."),
    "report_to": (Range("`none`, `tensorboard`, `trackio`, `wandb`"), "Who else is told of the log."),
    "save_strategy": (Range("`no`, `steps`, `epoch`"), "When checkpoints are written."),
    "save_steps": (Range("1 or more; a share below 1"), "With `steps`: every N."),
    "save_total_limit": (FROM_1, "Keep no more checkpoints than that."),
    "max_length": (FROM_1, "Longest example in tokens; longer ones are cut."),
    "beta": (FROM_0, "DPO: strength of the reference; GRPO: weight of KL."),
    "temperature": (ABOVE_0, "Of sampling in rollouts."),
    "response_length": (FROM_1, "PPO: tokens of a response."),
    "max_completion_length": (FROM_1, "GRPO: tokens of a completion."),
    "num_generations": (Range("2 or more"), "GRPO: completions of one prompt, which are compared."),
    "num_ppo_epochs": (FROM_1, "PPO: updates with the same responses."),
    "num_mini_batches": (FROM_1, "PPO: parts of a batch, each an update of its own."),
    "kl_coef": (FROM_0, "PPO: weight of KL to the reference in the reward."),
    "vf_coef": (FROM_0, "PPO: weight of the critic's loss."),
    "whiten_rewards": (Range("true, false"), "PPO: rewards of a batch to unit variance."),
    "missing_eos_penalty": (FROM_0, "PPO: taken off the score of a response without an end token."),
}
"""Fields of TRL's and transformers' own dataclasses that our recipes set, or most users will: range and meaning."""
