"""Prompts that no run was trained on, each with an id that is the same in every evaluation."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..errors import StageError
from ..prompts import Prompt, fitting_prompts, read_prompts
from .settings import EvaluationSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """Prompts to answer with their token ids and ids; ``trained``: the prompts that were trained on."""

    prompts: list[Prompt]
    tokens: list[list[int]]
    ids: list[str]
    trained: list[Prompt]


def held_out_prompts(settings: EvaluationSettings, tokenizer: PreTrainedTokenizerBase, context: int | None) -> HeldOut:
    """The first ``settings.num_prompts`` prompts of the data set that training did not see.

    Training saw what ``stages.preparation`` chooses: of the first ``training_prompts`` prompts those that fit, less the
    last ``held_out``.

    Raises:
        StageError: nothing was held out.
    """
    longest = settings.max_prompt_length or (2**31 if context is None else context - settings.response_length)
    every = read_prompts(
        settings.dataset,
        settings.prompt_from,
        split=settings.dataset_split,
        config=settings.dataset_config,
        words=settings.prompt_words,
    )
    first, _ = fitting_prompts(every[: settings.training_prompts], tokenizer, longest)
    trained = first[: len(first) - settings.held_out]
    seen = {_key(prompt) for prompt in trained}
    others = [prompt for prompt in every if _key(prompt) not in seen]
    if not others:
        raise StageError(
            f"all {len(trained)} prompts of {settings.dataset} were trained on, so none is held out: train with a "
            "smaller --num_prompts, or keep some by --num_eval_prompts"
        )
    prompts, tokens = fitting_prompts(others, tokenizer, longest)
    prompts, tokens = prompts[: settings.num_prompts], tokens[: settings.num_prompts]
    if len(prompts) < settings.num_prompts:
        logger.warning("%d prompts are held out, %d were asked for", len(prompts), settings.num_prompts)
    return HeldOut(prompts, tokens, [prompt_id(prompt) for prompt in prompts], trained)


def prompt_id(prompt: Prompt) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the prompt as JSON."""
    return hashlib.sha256(_key(prompt).encode()).hexdigest()[:12]


def _key(prompt: Prompt) -> str:
    return json.dumps(prompt, ensure_ascii=False, sort_keys=True)
