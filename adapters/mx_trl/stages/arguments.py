"""What a stage needs beside TRL's own arguments: prompts, reward, end tokens, and whether MX is used at all."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class StageArguments:
    """Arguments common to all stages. Without a model, prompts or reward the embedded ones are made."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Prompts: hub id, local folder, .jsonl or .jsonl.gz. Default: embedded."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split of a hub or saved dataset."})
    prompt_from: str = field(
        default="prompt",
        metadata={"help": "A column (text or messages), hh or hh_chat (hh-rlhf dialogues), story (first words)."},
    )
    prompt_words: int = field(default=12, metadata={"help": "Words of a story that make its prompt."})
    num_prompts: int | None = field(default=None, metadata={"help": "Use the first N distinct prompts."})
    num_eval_prompts: int = field(default=0, metadata={"help": "Keep the last N prompts out of training."})
    max_prompt_length: int | None = field(
        default=None, metadata={"help": "Leave out prompts of more tokens. Default: what the model's context allows."}
    )
    reward: str | None = field(
        default=None,
        metadata={
            "help": "embedded, model, or a rule: positive_words, sentiment, plain_words, length:WORDS, module:function."
        },
    )
    end_token: str = field(
        default="auto",
        metadata={"help": "Ends a response: auto (the model's own), none, or one token such as <|im_end|>."},
    )
    no_mx: bool = field(default=False, metadata={"help": "Plain TRL, without MXCallback: the baseline."})
    policies: list[str] | None = field(
        default=None, metadata={"help": "Train under several precision policies, one after the other, and compare."}
    )


@dataclass
class PPOScriptArguments(StageArguments):
    """PPO. The reward model's path is PPOConfig's ``reward_model_path``."""

    value_model_path: str | None = field(
        default=None, metadata={"help": "Critic's weights. Default: the reward model's, or the policy's for a rule."}
    )


@dataclass
class GRPOScriptArguments(StageArguments):
    """GRPO, which needs no value model."""

    reward_model_path: str | None = field(default=None, metadata={"help": "With --reward model: where it is."})
