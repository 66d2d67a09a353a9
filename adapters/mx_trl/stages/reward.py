"""The reward model: TRL's own RewardTrainer on pairs, or least squares on scores, with or without MX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl import ModelConfig, get_peft_config

from mx_plugin.config import MXConfig

from ..data.completions import Convert
from ..data.preferences import PairForm, ScoreForm, is_scored
from ..errors import StageError
from .arguments import RewardScriptArguments
from .built import run_options
from .held_out import better_score, squared_error
from .learning import make_lesson, mx_callback, read_lesson
from .learning_stage import LearningStage, check_fits
from .progress import show_reward
from .summary import StageSummary
from .trainers import load_trainer

if TYPE_CHECKING:
    from trl import RewardConfig

_FORMS = ("auto", "pairs", "hh_chat", "scores")


def run_reward(
    script_args: RewardScriptArguments,
    training_args: RewardConfig,
    model_args: ModelConfig,
    mx_config: MXConfig | None = None,
    *,
    run_dir: str | None = None,
) -> StageSummary:
    """Train, leave the model in ``<output_dir>/checkpoints/final``, and say how it went; see :func:`build_reward`."""
    return build_reward(script_args, training_args, model_args, mx_config, run_dir=run_dir).run()


def build_reward(
    script_args: RewardScriptArguments,
    training_args: RewardConfig,
    model_args: ModelConfig,
    mx_config: MXConfig | None = None,
    *,
    run_dir: str | None = None,
    embedded_dir: str | None = None,
) -> LearningStage:
    """The reward model's training, ready. ``script_args.no_mx`` leaves MXCallback out.

    It starts from a policy's weights and a new head, or from a sequence classifier with one label.

    Args:
        run_dir: where run folders go; default ``training_args.output_dir``.
        embedded_dir: where the embedded model is, or is made; default ``<run_dir>/embedded``.

    Raises:
        StageError: model, examples and settings that do not fit; see the message.
    """
    _, trainer_class = load_trainer("Reward")
    run_dir = run_dir or training_args.output_dir
    path, examples = read_lesson(
        script_args,
        model_args.model_name_or_path,
        RewardForm(script_args.form, script_args.score_column),
        embedded_dir=embedded_dir or f"{run_dir}/embedded",
        embedded_file="scores" if script_args.form == "scores" else "pairs",
    )
    lesson = make_lesson(script_args, training_args, model_args, path, examples, trainer="RewardTrainer", scorer=True)
    callback = mx_callback(script_args, mx_config, run_dir)
    scored = "score" in examples[0]
    if scored:
        from .score_trainer import ScoreTrainer

        trainer_class = ScoreTrainer
    trainer = trainer_class(
        model=lesson.model,
        args=training_args,
        train_dataset=lesson.train,
        eval_dataset=lesson.held_out,
        processing_class=lesson.tokenizer,
        peft_config=get_peft_config(model_args),
        callbacks=None if callback is None else [callback],
    )
    check_fits(trainer, lesson, lambda row: 0)  # longer ones are left out, none is cut
    show_reward(trainer)
    measure, name = (squared_error, "squared error") if scored else (better_score, "accuracy")
    return LearningStage(
        "Reward", trainer, callback, "loss", path, run_options(script_args, model_args),
        measure=measure, measure_name=name,
    )  # fmt: skip


@dataclass(frozen=True)
class RewardForm:
    """Pairs or scores; ``auto`` decides by the first row's columns.

    Raises:
        StageError: an unknown form.
    """

    form: str
    score_column: str

    def __post_init__(self) -> None:
        if self.form not in _FORMS:
            raise StageError(f"form={self.form!r} is not a choice for the reward model: {', '.join(_FORMS)}")

    def converter(self, row: Mapping[str, Any]) -> Convert:
        """See :class:`~mx_trl.data.examples.Form`."""
        if self.form == "scores" or (self.form == "auto" and is_scored(row, self.score_column)):
            return ScoreForm(self.score_column).converter(row)
        return PairForm("hh_chat" if self.form == "hh_chat" else "auto").converter(row)
