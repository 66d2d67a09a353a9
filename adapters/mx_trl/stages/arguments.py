"""What a stage needs beside TRL's own arguments: data, reward, end tokens, and whether MX is used at all."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class CommonArguments:
    """Arguments of every stage. Without a model and data the embedded ones are made."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Data: hub id, local folder, .jsonl or .jsonl.gz. Default: embedded."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split of a hub or saved dataset."})
    on_malformed: str = field(
        default="fatal",
        metadata={"help": "Rows that do not fit, named by file and line: fatal, or skip (warn and leave them out)."},
    )
    end_token: str = field(
        default="auto",
        metadata={"help": "Ends a response: auto (the model's own), none, or one token such as <|im_end|>."},
    )
    no_mx: bool = field(default=False, metadata={"help": "Plain TRL, without MXCallback: the baseline."})
    max_minutes: float | None = field(
        default=None, metadata={"help": "Stop after the step that ends later than this, with a checkpoint."}
    )
    stability: bool = field(
        default=False,
        metadata={"help": "Record whether training is healthy; the built-in alert rules watch it."},
    )
    alerts: str | None = field(default=None, metadata={"help": "As --stability, by the alert rules of this YAML file."})
    dashboard: bool = field(
        default=False, metadata={"help": "As --stability, and show it live on this machine while training goes on."}
    )
    profile: bool = field(
        default=False, metadata={"help": "Say where time and memory go; traces and a flame graph of a few steps."}
    )
    profile_schedule: list[int] | None = field(
        default=None,
        metadata={"help": "With --profile: steps to wait, to warm up, to profile, and how often. Default: 1 1 2 1."},
    )
    policies: list[str] | None = field(
        default=None, metadata={"help": "Train under several precision policies, one after the other, and compare."}
    )


@dataclass
class StageArguments(CommonArguments):
    """Stages that generate, PPO and GRPO: where prompts and reward come from."""

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
            "help": "embedded, model, a rule (sentiment, ending:TEXT, gsm8k, length:24, module:function, ...) or a sum "
            "of rules: 'sentiment + 0.5*length:24'; docs/rewards.md has all."
        },
    )
    normalise_reward: bool = field(
        default=False, metadata={"help": "Rewards relative to their running mean, in running standard deviations."}
    )
    clip_reward: float | None = field(
        default=None, metadata={"help": "Keep rewards within -C .. C, after normalising if that is asked for."}
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


@dataclass
class ExampleArguments(CommonArguments):
    """Stages that learn from examples: how many are used, and how many are kept out to measure what was learnt."""

    num_examples: int | None = field(default=None, metadata={"help": "Use the first N examples."})
    num_eval_examples: int = field(
        default=0, metadata={"help": "Keep the last N examples out of training, and measure on them before and after."}
    )


@dataclass
class SFTScriptArguments(ExampleArguments):
    """SFT: which columns hold the text."""

    form: str = field(
        default="auto",
        metadata={"help": "auto (by the columns' names), text, pair, messages, hh or hh_chat (hh-rlhf dialogues)."},
    )
    prompt_column: str | None = field(
        default=None, metadata={"help": "Form pair: the prompt's column, text or messages."}
    )
    completion_column: str | None = field(default=None, metadata={"help": "Form pair: the completion's column."})
    separator: str | None = field(
        default=None,
        metadata={
            "help": "Form pair, plain text: stands between the two. Default: nothing after a column named prompt, "
            "else a newline."
        },
    )
    as_chat: bool = field(
        default=False, metadata={"help": "Form pair, plain text: make it a user's and an assistant's message."}
    )


@dataclass
class RewardScriptArguments(ExampleArguments):
    """The reward model: pairs of a better and a worse answer, or answers with scores."""

    form: str = field(
        default="auto",
        metadata={"help": "auto (by the columns' names), pairs, hh_chat (hh-rlhf dialogues as messages), scores."},
    )
    score_column: str = field(default="score", metadata={"help": "Form scores: the column of numbers."})


@dataclass
class DPOScriptArguments(ExampleArguments):
    """DPO: pairs of a better and a worse answer."""

    form: str = field(
        default="auto", metadata={"help": "auto (as the columns are), or hh_chat (hh-rlhf dialogues as messages)."}
    )
