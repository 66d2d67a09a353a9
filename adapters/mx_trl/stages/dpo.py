"""DPO: TRL's own DPOTrainer on pairs of a better and a worse answer, with or without MX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl import ModelConfig, get_peft_config

from mx_plugin.config import MXConfig

from ..data.preferences import PairForm
from ..models import ensure_padding, load_policy
from .arguments import DPOScriptArguments
from .built import run_options
from .held_out import likelier_answer
from .learning import Lesson, make_lesson, mx_callback, read_lesson
from .learning_stage import LearningStage, check_fits
from .preparation import loading_options
from .progress import show_reward
from .summary import StageSummary
from .trainers import load_trainer

if TYPE_CHECKING:
    from trl import DPOConfig


def run_dpo(
    script_args: DPOScriptArguments,
    training_args: DPOConfig,
    model_args: ModelConfig,
    mx_config: MXConfig | None = None,
    *,
    run_dir: str | None = None,
) -> StageSummary:
    """Train, leave the model in ``<output_dir>/checkpoints/final``, and return how it went; see :func:`build_dpo`."""
    return build_dpo(script_args, training_args, model_args, mx_config, run_dir=run_dir).run()


def build_dpo(
    script_args: DPOScriptArguments,
    training_args: DPOConfig,
    model_args: ModelConfig,
    mx_config: MXConfig | None = None,
    *,
    run_dir: str | None = None,
    embedded_dir: str | None = None,
) -> LearningStage:
    """DPO, ready to train. The reference is the policy as it was loaded. ``script_args.no_mx`` leaves MXCallback out.

    Args:
        run_dir: where run folders go; default ``training_args.output_dir``.
        embedded_dir: where the embedded model is, or is made; default ``<run_dir>/embedded``.

    Raises:
        StageError: model, pairs and settings that do not fit; see the message.
    """
    _, trainer_class = load_trainer("DPO")
    run_dir = run_dir or training_args.output_dir
    path, examples = read_lesson(
        script_args,
        model_args.model_name_or_path,
        PairForm(script_args.form),
        embedded_dir=embedded_dir or f"{run_dir}/embedded",
        embedded_file="pairs",
    )
    lesson = make_lesson(script_args, training_args, model_args, path, examples, trainer="DPOTrainer")
    callback = mx_callback(script_args, mx_config, run_dir)
    peft_config = get_peft_config(model_args)
    trainer = trainer_class(
        model=lesson.model,
        ref_model=_reference(lesson, training_args, model_args) if peft_config is None else None,
        args=training_args,
        train_dataset=lesson.train,
        eval_dataset=lesson.held_out,
        processing_class=lesson.tokenizer,
        peft_config=peft_config,
        callbacks=None if callback is None else [callback],
    )
    check_fits(
        trainer, lesson, lambda row: len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
    )
    show_reward(trainer)
    return LearningStage(
        "DPO", trainer, callback, "rewards/margins", path, run_options(script_args, model_args),
        measure=likelier_answer, measure_name="preference accuracy",
    )  # fmt: skip


def _reference(lesson: Lesson, training_args: Any, model_args: ModelConfig) -> Any:
    """A second copy. Left to itself, DPOTrainer loads one from the path, in another dtype and without our padding."""
    if training_args.precompute_ref_log_probs:
        return None  # made on the policy before its first update
    model = load_policy(lesson.model_path, **loading_options(model_args))
    ensure_padding(lesson.tokenizer, model, [])
    return model.requires_grad_(False)
