"""Loads what the stages need - tokenizer, policy, value and reward models - from a folder or the hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .errors import StageError
from .export.manifest import MANIFEST

logger = logging.getLogger(__name__)

PAD = "<|mx_pad|>"

# fmt: off
_SAMPLING = frozenset({
    "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "num_beams",
    "penalty_alpha", "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "sequence_bias",
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
    "min_length", "min_new_tokens", "max_length", "max_new_tokens",
})
# fmt: on


def load_tokenizer(path: str, **options: Any) -> PreTrainedTokenizerBase:
    """Tokenizer of a folder or hub id, padding on the left.

    Raises:
        StageError: nothing there that transformers can load.
    """
    tokenizer = _load(AutoTokenizer, path, "tokenizer", options)
    tokenizer.padding_side = "left"
    return tokenizer


def load_policy(path: str, **options: Any) -> PreTrainedModel:
    """Causal language model; ``options`` go to ``from_pretrained`` (dtype, revision, ...).

    Raises:
        StageError: nothing there that transformers can load.
    """
    return _load(AutoModelForCausalLM, path, "policy", options)


def load_scorer(path: str, what: str, **options: Any) -> PreTrainedModel:
    """Sequence classifier with one label: a reward or value model. A missing head starts at random.

    Raises:
        StageError: nothing there that transformers can load.
    """
    return _load(AutoModelForSequenceClassification, path, what, {"num_labels": 1, **options})


def _load(auto: Any, path: str, what: str, options: dict[str, Any]) -> Any:
    try:
        return auto.from_pretrained(path, **options)
    except (OSError, ValueError, KeyError) as error:
        if (Path(path) / MANIFEST).is_file():
            raise StageError(
                f"the {what} {path!r} is packed (mx_trl.load_model reads it, for inference): give the folder that "
                "it was exported from, or export without --packed"
            ) from error
        raise StageError(f"cannot load the {what} from {path!r}: {error}") from error


# ---------------------------------------------------------------------------- special tokens


def end_tokens(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, choice: str = "auto") -> list[int]:
    """Token ids that end a response.

    Args:
        choice: ``auto`` (all that the model's generation config names, else the tokenizer's), ``none``, or one
            token as the vocabulary writes it.

    Raises:
        StageError: a token that is not in the vocabulary.
    """
    if choice == "none":
        return []
    if choice != "auto":
        return [_token_id(choice, tokenizer)]
    named = policy.generation_config.eos_token_id
    if named is None:
        named = tokenizer.eos_token_id
    return [] if named is None else [named] if isinstance(named, int) else list(named)


def _token_id(token: str, tokenizer: PreTrainedTokenizerBase) -> int:
    vocabulary = tokenizer.get_vocab()
    if token in vocabulary:
        return int(vocabulary[token])
    raise StageError(
        f"end token {token!r} is not in the tokenizer's vocabulary of {len(tokenizer)}; "
        f"its special tokens: {', '.join(tokenizer.all_special_tokens)}"
    )


def ensure_padding(tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel, ends: list[int]) -> None:
    """Give the tokenizer a padding token that ends no response, and that the policy has an embedding for.

    TRL's PPO takes the first padding token for the end of a response and masks it, so that a policy whose
    padding is its end token is never taught to stop. In this order: the tokenizer's own padding token, its
    unknown token, a new token (the policy's embeddings grow by one).
    """
    taken = {*ends, tokenizer.bos_token_id}
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in taken:
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in taken:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": PAD})
        logger.info("padding token: %r (%d)", tokenizer.pad_token, tokenizer.pad_token_id)
    if tokenizer.pad_token_id >= policy.get_input_embeddings().weight.shape[0]:
        _grow(policy, len(tokenizer))


def _grow(policy: PreTrainedModel, tokens: int) -> None:
    """New rows are the mean of the old ones: where all logits are far below 0 (GPT-2), a small row would win them all,
    and a random one would differ between a policy and its reference."""
    before = policy.get_input_embeddings().weight.shape[0]
    policy.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.no_grad():
        for module in (policy.get_input_embeddings(), policy.get_output_embeddings()):
            if module is None or module.weight.shape[0] <= before:
                continue
            for weight in (module.weight, getattr(module, "bias", None)):
                if weight is not None:
                    weight[before:] = weight[:before].float().mean(0).to(weight.dtype)


def plain_generation(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> None:
    """Replace the policy's generation config by one with token ids only.

    PPO's old log-probs are the sampler's scores: a repetition penalty or top-p that comes with a chat model
    would distort them silently.
    """
    shipped = policy.generation_config.to_diff_dict()
    dropped = sorted(_SAMPLING & set(shipped))
    if dropped:
        logger.warning("the model's own sampling settings are not used: %s", ", ".join(dropped))
    policy.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends or None, pad_token_id=tokenizer.pad_token_id
    )


def context_length(policy: PreTrainedModel) -> int | None:
    """Longest sequence of the model in tokens, None when its config does not say."""
    config = policy.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return None
