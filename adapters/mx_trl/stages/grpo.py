"""GRPO: TRL's own GRPOTrainer on a policy, prompts and a reward that were checked beforehand, with or without MX."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedModel, set_seed
from trl import GRPOTrainer, ModelConfig, get_peft_config

from mx_plugin.config import MXConfig

from ..errors import StageError
from ..models import ensure_padding, load_scorer, load_tokenizer
from ..rewards.shaped_model import shape_scores
from .arguments import GRPOScriptArguments
from .built import BuiltStage, run_options
from .preparation import Prepared, loading_options, prepare
from .progress import show_reward
from .reward_choice import choose_reward, columns_for, shaped, shaping_of
from .summary import StageSummary

if TYPE_CHECKING:
    from trl import GRPOConfig

logger = logging.getLogger(__name__)

REWARD_KEY = "reward"


def run_grpo(
    script_args: GRPOScriptArguments,
    training_args: GRPOConfig,
    model_args: ModelConfig,
    mx_config: MXConfig | None = None,
    *,
    run_dir: str | None = None,
) -> StageSummary:
    """Train with GRPO and return how it went; see :func:`build_grpo`."""
    return build_grpo(script_args, training_args, model_args, mx_config, run_dir=run_dir).run()


def build_grpo(
    script_args: GRPOScriptArguments,
    training_args: GRPOConfig,
    model_args: ModelConfig,
    mx_config: MXConfig | None = None,
    *,
    run_dir: str | None = None,
    embedded_dir: str | None = None,
) -> BuiltStage:
    """GRPO, ready to train. ``script_args.no_mx`` leaves MXCallback out.

    Args:
        run_dir: where run folders go; default ``training_args.output_dir``.
        embedded_dir: where the embedded model is, or is made; default ``<run_dir>/embedded``.

    Raises:
        StageError: model, reward, prompts and settings that do not fit; see the message.
    """
    run_dir = run_dir or training_args.output_dir
    set_seed(training_args.seed)
    prepared = prepare(
        script_args,
        model_args,
        response_length=training_args.max_completion_length,
        embedded_dir=embedded_dir or f"{run_dir}/embedded",
    )
    _choose_end_token(script_args, prepared)
    reward, reward_tokenizer, columns = _reward(script_args, model_args, prepared)
    train, held_out = _datasets(script_args, prepared, columns)
    callback = None if script_args.no_mx else _mx_callback(mx_config, run_dir)
    trainer = GRPOTrainer(
        model=prepared.policy,
        reward_funcs=[reward],
        reward_processing_classes=[reward_tokenizer],
        args=training_args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=prepared.tokenizer,
        peft_config=get_peft_config(model_args),
        callbacks=None if callback is None else [callback],
    )
    _match_reference(trainer, prepared)
    show_reward(trainer)
    options = run_options(script_args, model_args)
    return BuiltStage("GRPO", trainer, callback, REWARD_KEY, prepared.policy_path, options)


def _match_reference(trainer: GRPOTrainer, prepared: Prepared) -> None:
    """TRL loads the reference from the policy's path: in float32, and without a padding row that was added."""
    reference = getattr(trainer, "ref_model", None)
    if not isinstance(reference, PreTrainedModel):
        return  # none, or one that DeepSpeed or FSDP has taken in hand already
    ensure_padding(prepared.tokenizer, reference, [])
    dtypes = {name: parameter.dtype for name, parameter in prepared.policy.named_parameters()}
    for name, parameter in reference.named_parameters():
        parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))


def _mx_callback(config: MXConfig | None, run_dir: str) -> Any:
    from ..callback import MXCallback

    return MXCallback(config or MXConfig(), output_dir=run_dir)


def _reward(
    script: GRPOScriptArguments, model_args: ModelConfig, prepared: Prepared
) -> tuple[Any, Any, dict[str, list[Any]]]:
    """A reward model with its tokenizer, or a rule with None; then the columns that the rule reads."""
    choice = choose_reward(script.reward, script.reward_model_path, prepared)
    shaping = shaping_of(script)
    if choice.rule is not None:
        return shaped(choice.rule, shaping), None, columns_for(choice.rule, script, prepared)
    model = load_scorer(str(choice.path), "reward model", **loading_options(model_args)).requires_grad_(False)
    if shaping is not None:
        shape_scores(model, shaping)
    return model, load_tokenizer(str(choice.path)), {}


def _choose_end_token(script: GRPOScriptArguments, prepared: Prepared) -> None:
    """GRPOTrainer stops at and masks after the tokenizer's one end token: set the one that is meant."""
    tokenizer, ends = prepared.tokenizer, prepared.ends
    if script.end_token == "none":
        raise StageError("GRPOTrainer always stops at the tokenizer's end token: --end_token none is not possible")
    if len(ends) == 1:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    elif len(ends) > 1:
        logger.warning(
            "the model names %d end tokens (%s), GRPOTrainer uses one, %r: choose by --end_token if it is another",
            len(ends), ", ".join(tokenizer.convert_ids_to_tokens(ends)), tokenizer.eos_token,
        )  # fmt: skip


def _datasets(
    script: GRPOScriptArguments, prepared: Prepared, columns: dict[str, list[Any]]
) -> tuple[Dataset, Dataset | None]:
    rows = [
        {"prompt": prompt, **{name: values[number] for name, values in columns.items()}}
        for number, prompt in enumerate(prepared.prompts)
    ]
    end = prepared.split(script.num_eval_prompts)
    return Dataset.from_list(rows[:end]), Dataset.from_list(rows[end:]) if rows[end:] else None
