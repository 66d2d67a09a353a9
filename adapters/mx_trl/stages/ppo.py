"""PPO: TRL's own PPOTrainer on a policy, prompts and a reward that were checked beforehand, with or without MX."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from datasets import Dataset
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedModel, set_seed
from trl import ModelConfig, get_peft_config

from mx_plugin.config import MXConfig

from ..errors import StageError
from ..models import load_scorer, load_tokenizer, plain_generation
from ..rewards import RuleReward
from ..rewards.columns import ColumnsByTokens
from ..rewards.shaped_model import shape_head
from .arguments import PPOScriptArguments
from .built import BuiltStage, run_options
from .preparation import Prepared, loading_options, prepare
from .progress import show_reward
from .reward_choice import choose_reward, columns_for, shaped, shaping_of
from .summary import StageSummary

if TYPE_CHECKING:
    from trl.experimental.ppo import PPOConfig

REWARD_KEY = "objective/scores"


def load_ppo() -> tuple[type[Any], type[Any]]:
    """(PPOConfig, PPOTrainer) of the installed trl.

    Raises:
        StageError: trl 1.13 or later, which has no PPO.
    """
    try:
        from trl.experimental.ppo import PPOConfig, PPOTrainer
    except ImportError as error:
        raise StageError(
            f"trl {version('trl')} has no PPOTrainer (1.12 is the last that has): pip install 'mx-plugin[ppo]'"
        ) from error
    return PPOConfig, PPOTrainer


def run_ppo(
    script_args: PPOScriptArguments,
    training_args: PPOConfig,
    model_args: ModelConfig,
    mx_config: MXConfig | None = None,
    *,
    run_dir: str | None = None,
) -> StageSummary:
    """Train with PPO and return how it went; see :func:`build_ppo`."""
    return build_ppo(script_args, training_args, model_args, mx_config, run_dir=run_dir).run()


def build_ppo(
    script_args: PPOScriptArguments,
    training_args: PPOConfig,
    model_args: ModelConfig,
    mx_config: MXConfig | None = None,
    *,
    run_dir: str | None = None,
    embedded_dir: str | None = None,
) -> BuiltStage:
    """PPO, ready to train. ``script_args.no_mx`` leaves MXCallback out.

    ``training_args.max_steps``, which PPOTrainer itself ignores, sets the number of PPO steps when
    ``total_episodes`` is not given.

    Args:
        run_dir: where run folders go; default ``training_args.output_dir``.
        embedded_dir: where the embedded model is, or is made; default ``<run_dir>/embedded``.

    Raises:
        StageError: model, reward, prompts and settings that do not fit; see the message.
    """
    load_ppo()
    from ..checkpoints.ppo import ResumablePPOTrainer

    run_dir = run_dir or training_args.output_dir
    set_seed(training_args.seed)
    prepared = prepare(
        script_args,
        model_args,
        response_length=training_args.response_length,
        embedded_dir=embedded_dir or f"{run_dir}/embedded",
        policy_path=_changed(training_args, "sft_model_path"),
    )
    reward, value = _reward_and_value(script_args, training_args, model_args, prepared)
    train, held_out = _datasets(script_args, training_args, prepared)
    ends = _end_tokens(script_args, training_args, prepared)
    callback = None if script_args.no_mx else _mx_callback(mx_config, run_dir)
    trainer = ResumablePPOTrainer(
        args=training_args,
        processing_class=prepared.tokenizer,
        model=prepared.policy,
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=_collator(reward, prepared),
        peft_config=get_peft_config(model_args),
        callbacks=None if callback is None else [callback],
    )
    plain_generation(trainer.policy_model, prepared.tokenizer, ends)
    show_reward(trainer)
    options = run_options(script_args, model_args)
    return BuiltStage("PPO", trainer, callback, REWARD_KEY, prepared.policy_path, options)


def _mx_callback(config: MXConfig | None, run_dir: str) -> Any:
    from ..callback import MXCallback

    return MXCallback(config or MXConfig(), output_dir=run_dir)


# ---------------------------------------------------------------------------- models


def _changed(training_args: Any, name: str) -> str | None:
    """A path of PPOConfig that the user has set; its default, a hub model, is never meant."""
    default = type(training_args).__dataclass_fields__[name].default
    value = getattr(training_args, name)
    return None if value == default else value


def _reward_and_value(
    script: PPOScriptArguments, training_args: Any, model_args: ModelConfig, prepared: Prepared
) -> tuple[nn.Module, PreTrainedModel]:
    options = loading_options(model_args)
    choice = choose_reward(script.reward, _changed(training_args, "reward_model_path"), prepared)
    shaping = shaping_of(script)
    if choice.rule is not None:
        columns = ColumnsByTokens(prepared.tokens, columns_for(choice.rule, script, prepared))
        rule = shaped(choice.rule, shaping)
        reward: nn.Module = RuleReward(rule, prepared.tokenizer, prepared.prompt_width, columns)
    else:
        _check_same_tokens(str(choice.path), prepared)
        reward = load_scorer(str(choice.path), "reward model", **options).requires_grad_(False)
        if shaping is not None:
            shape_head(reward, shaping, prepared.prompt_width)
    value_path = script.value_model_path or (choice.path if choice.users else None) or prepared.policy_path
    return reward, load_scorer(value_path, "value model", **options)


def _check_same_tokens(path: str, prepared: Prepared) -> None:
    """PPO hands the policy's token ids to the reward model, so that both must number tokens alike."""
    theirs, ours = load_tokenizer(path).get_vocab(), prepared.tokenizer.get_vocab()
    differing = [token for token, number in theirs.items() if ours.get(token) != number]
    if differing:
        raise StageError(
            f"reward model {path} and policy {prepared.policy_path} have different tokenizers: {len(differing)} of "
            f"{len(theirs)} tokens differ, e.g. {differing[0]!r}. PPO needs the same, or a rule by --reward"
        )


# ---------------------------------------------------------------------------- data


def _datasets(script: PPOScriptArguments, training_args: Any, prepared: Prepared) -> tuple[Dataset, Dataset | None]:
    """Token ids to train with and to sample from. Fewer than a batch would make PPOTrainer wait for ever."""
    per_rank = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    batch = per_rank * PartialState().num_processes
    if training_args.total_episodes is None and training_args.max_steps > 0:
        training_args.total_episodes = training_args.max_steps * batch
    end = prepared.split(script.num_eval_prompts, at_least=batch)
    train, held_out = prepared.tokens[:end], prepared.tokens[end:]
    if not held_out:
        return Dataset.from_dict({"input_ids": train}), None
    training_args.per_device_eval_batch_size = min(training_args.per_device_eval_batch_size, len(held_out))
    return Dataset.from_dict({"input_ids": train}), Dataset.from_dict({"input_ids": held_out})


def _collator(reward: nn.Module, prepared: Prepared) -> DataCollatorWithPadding:
    # Only so do those who see no more than token ids know where the response begins.
    if isinstance(reward, RuleReward) or getattr(reward, "shaping", None) is not None:
        return DataCollatorWithPadding(prepared.tokenizer, padding="max_length", max_length=prepared.prompt_width)
    return DataCollatorWithPadding(prepared.tokenizer)


# ---------------------------------------------------------------------------- end of a response


def _end_tokens(script: PPOScriptArguments, training_args: Any, prepared: Prepared) -> list[int]:
    """All ids at which generation stops. PPOTrainer itself knows one stop token, and is told the first.

    Generation pads what follows any of them, and PPOTrainer takes the first padding for the end, so several
    end tokens work; only ``missing_eos_penalty`` looks for the tokenizer's one end token, which is set here.
    """
    if training_args.stop_token == "eos":
        return [prepared.tokenizer.eos_token_id]
    if training_args.stop_token_id is not None:
        return [training_args.stop_token_id]
    ends = prepared.ends
    if len(ends) > 1 and training_args.missing_eos_penalty is not None:
        names = prepared.tokenizer.convert_ids_to_tokens(ends)
        raise StageError(f"missing_eos_penalty knows one end token, the model has {names}: choose one by --end_token")
    if ends:
        training_args.stop_token_id = ends[0]
        prepared.tokenizer.eos_token = prepared.tokenizer.convert_ids_to_tokens(ends[0])
    return ends
