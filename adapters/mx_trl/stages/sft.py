"""Supervised fine-tuning: TRL's own SFTTrainer on texts, prompts with completions, or dialogues, with or without MX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl import ModelConfig, get_peft_config

from mx_plugin.config import MXConfig

from ..data.completions import CompletionForm
from .arguments import SFTScriptArguments
from .built import run_options
from .held_out import next_token_loss
from .learning import make_lesson, mx_callback, read_lesson
from .learning_stage import LearningStage, check_fits
from .progress import show_reward
from .summary import StageSummary
from .trainers import load_trainer

if TYPE_CHECKING:
    from trl import SFTConfig


def run_sft(
    script_args: SFTScriptArguments,
    training_args: SFTConfig,
    model_args: ModelConfig,
    mx_config: MXConfig | None = None,
    *,
    run_dir: str | None = None,
) -> StageSummary:
    """Train, leave the model in ``<output_dir>/checkpoints/final``, and return how it went; see :func:`build_sft`."""
    return build_sft(script_args, training_args, model_args, mx_config, run_dir=run_dir).run()


def build_sft(
    script_args: SFTScriptArguments,
    training_args: SFTConfig,
    model_args: ModelConfig,
    mx_config: MXConfig | None = None,
    *,
    run_dir: str | None = None,
    embedded_dir: str | None = None,
) -> LearningStage:
    """SFT, ready to train. ``script_args.no_mx`` leaves MXCallback out.

    Args:
        run_dir: where run folders go; default ``training_args.output_dir``.
        embedded_dir: where the embedded model is, or is made; default ``<run_dir>/embedded``.

    Raises:
        StageError: model, examples and settings that do not fit; see the message.
    """
    _, trainer_class = load_trainer("SFT")
    run_dir = run_dir or training_args.output_dir
    form = CompletionForm(
        script_args.form, script_args.prompt_column, script_args.completion_column, script_args.separator,
        script_args.as_chat,
    )  # fmt: skip
    path, examples = read_lesson(
        script_args,
        model_args.model_name_or_path,
        form,
        embedded_dir=embedded_dir or f"{run_dir}/embedded",
        embedded_file="dialogues",
    )
    lesson = make_lesson(script_args, training_args, model_args, path, examples, trainer="SFTTrainer")
    callback = mx_callback(script_args, mx_config, run_dir)
    trainer = trainer_class(
        model=lesson.model,
        args=training_args,
        train_dataset=lesson.train,
        eval_dataset=lesson.held_out,
        processing_class=lesson.tokenizer,
        peft_config=get_peft_config(model_args),
        callbacks=None if callback is None else [callback],
    )
    check_fits(trainer, lesson, lambda row: len(row["input_ids"]))
    show_reward(trainer)
    return LearningStage(
        "SFT", trainer, callback, "loss", path, run_options(script_args, model_args),
        measure=next_token_loss, measure_name="loss",
    )  # fmt: skip
