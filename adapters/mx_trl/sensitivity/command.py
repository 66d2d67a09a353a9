"""``mx-plugin profile``: from the command line to a sensitivity matrix."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from mx_plugin.report.heatmap import check_path, write_heatmap
from mx_plugin.sensitivity import Batch, TextBar, profile, summary

from ..errors import StageError
from ..models import context_length, end_tokens, ensure_padding, load_policy, load_tokenizer, plain_generation
from ..prompts import fitting_prompts, read_prompts
from .data import batches_of, continued, first_row, has_pairs, paired_batches, prompt_rule_of, read_pairs
from .value_head import as_critic, load_reward_model

logger = logging.getLogger(__name__)

_POSITIVE = ("num_prompts", "max_length", "num_pairs", "batch_size", "top")


@dataclass(frozen=True)
class Loaded:
    """Models and data, as ``profile`` takes them. ``sequences``: token ids of the policy's texts."""

    policy: PreTrainedModel
    batches: dict[str, list[Batch]]
    models: dict[str, Any]
    pairs: list[tuple[Batch, Batch]]
    sequences: list[list[int]]


def load(arguments: argparse.Namespace) -> Loaded:
    """The models that the command line names, prompts continued by the policy, and preferences.

    Raises:
        StageError: what does not fit, with the remedy.
    """
    transformers_logging.disable_progress_bar()
    options = {"dtype": arguments.dtype, "trust_remote_code": arguments.trust_remote_code}
    device = _device(arguments.device)
    policy = load_policy(arguments.model, **options).to(device)
    tokenizer = load_tokenizer(arguments.model, trust_remote_code=arguments.trust_remote_code)
    sequences = _sequences(policy, tokenizer, arguments)
    batches = {"policy": batches_of(sequences, tokenizer.pad_token_id, arguments.batch_size, use_cache=False)}
    models: dict[str, Any] = {}
    pairs: list[tuple[Batch, Batch]] = []
    texts = tokenizer.batch_decode(sequences, skip_special_tokens=True)
    if arguments.reference_model is not None:
        models["reference"] = load_policy(arguments.reference_model, **options).to(device)
    if arguments.value_model is not None:
        models["value"] = as_critic(load_reward_model(arguments.value_model, **options)).to(device)
        batches["value"] = _texts(models["value"], texts, arguments.value_model, arguments)
    if arguments.reward_model is not None:
        models["reward"] = load_reward_model(arguments.reward_model, **options).to(device)
        pairs, batches["reward"] = _scored(models["reward"], texts, arguments)
        if pairs:
            del batches["reward"]
    print(f"{len(sequences)} sequences, {sum(map(len, sequences))} tokens; {_words(pairs)}", file=sys.stderr)
    return Loaded(policy, batches, models, pairs, sequences)


def run(arguments: argparse.Namespace) -> int:
    """Profile, print the most sensitive layers, write the matrix.

    Raises:
        StageError, ProfileError: what does not fit, with the remedy.
    """
    began = time.perf_counter()
    check(arguments)
    loaded = load(arguments)
    found = profile(
        loaded.policy,
        loaded.batches,
        models=loaded.models,
        pairs=loaded.pairs,
        formats=arguments.formats,
        phases=arguments.phases,
        exclude=arguments.exclude,
        engine=arguments.engine,
        scale_rule=arguments.scale_rule,
        backend=arguments.backend,
        seed=arguments.seed,
        output=arguments.output,
        resume=arguments.resume,
        progress=TextBar(sys.stderr),
    )
    print(summary(found, arguments.top))
    if arguments.heatmap is not None:
        write_heatmap(arguments.heatmap, found.matrix())
    print(f"\n{arguments.output}: {len(found.rows)} costs, in {time.perf_counter() - began:.0f} s")
    return 0


def check(arguments: argparse.Namespace) -> None:
    """Raise StageError for numbers and words that cannot be."""
    for name in _POSITIVE:
        if getattr(arguments, name) < 1:
            raise StageError(f"--{name} {getattr(arguments, name)}: give 1 or more")
    if arguments.generate < 0:
        raise StageError(f"--generate {arguments.generate}: give 0 or more tokens")
    if arguments.generate >= arguments.max_length:
        raise StageError(
            f"--generate {arguments.generate} leaves no room for a prompt in --max_length {arguments.max_length}; "
            "generate fewer tokens or raise --max_length"
        )
    scoring = (arguments.reward_model, arguments.value_model, arguments.reference_model)
    if arguments.phases and "reward" in arguments.phases and not any(scoring):
        raise StageError(
            "--phases reward needs a model that scores: give --reward_model, --value_model or --reference_model"
        )
    if arguments.pairs and arguments.reward_model is None:
        raise StageError("--pairs are compared by a reward model: give --reward_model")
    if not hasattr(torch, arguments.dtype) or arguments.dtype not in ("float32", "bfloat16", "float16"):
        raise StageError(f"--dtype {arguments.dtype}: give float32, bfloat16 or float16")
    if arguments.heatmap is not None:
        check_path(arguments.heatmap)  # before an hour of work, not after


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise StageError(f"--device {name!r} is no device; give cpu, cuda or auto") from error


def _sequences(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, arguments: argparse.Namespace
) -> list[list[int]]:
    """Token ids of prompts and continuations."""
    context = context_length(policy)
    if context is not None and arguments.max_length > context:
        raise StageError(
            f"--max_length {arguments.max_length} exceeds the context of {arguments.model}, {context} tokens; lower it"
        )
    source, split, config = arguments.dataset, arguments.dataset_split, arguments.dataset_config
    rule = arguments.prompt_from
    if rule == "auto":
        rule = prompt_rule_of(first_row(source, split, config))
    prompts = read_prompts(
        source, rule, split=split, config=config, words=arguments.prompt_words, limit=arguments.num_prompts
    )
    room = arguments.max_length - arguments.generate
    _, tokens = fitting_prompts(prompts, tokenizer, room, "--max_length or lower --generate")
    tokens = [ids for ids in tokens if ids]
    ends = end_tokens(policy, tokenizer)
    ensure_padding(tokenizer, policy, ends)
    plain_generation(policy, tokenizer, ends)
    return continued(
        policy,
        tokenizer,
        tokens,
        new_tokens=arguments.generate,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )


def _scored(
    model: Any, texts: list[str], arguments: argparse.Namespace
) -> tuple[list[tuple[Batch, Batch]], list[Batch]]:
    """What the reward model scores: preferences, or else the policy's texts."""
    tokenizer = load_tokenizer(arguments.reward_model, trust_remote_code=arguments.trust_remote_code)
    pad = _pad(tokenizer)
    model.config.pad_token_id = pad  # a classifier finds the last token by what is not padding
    longest = min(arguments.max_length, context_length(model) or arguments.max_length)
    source = arguments.pairs or arguments.dataset
    split, dataset_config = arguments.dataset_split, arguments.dataset_config
    if arguments.pairs or has_pairs(first_row(source, split, dataset_config)):
        pairs = read_pairs(
            source, tokenizer, split=split, config=dataset_config, limit=arguments.num_pairs, longest=longest
        )
        return paired_batches(pairs, pad, arguments.batch_size), []
    return [], _texts(model, texts, arguments.reward_model, arguments)


def _texts(model: Any, texts: list[str], source: str, arguments: argparse.Namespace) -> list[Batch]:
    """The policy's texts in the tokens of a model that scores them."""
    tokenizer = load_tokenizer(source, trust_remote_code=arguments.trust_remote_code)
    longest = min(arguments.max_length, context_length(model) or arguments.max_length)
    tokens = [ids for text in texts if (ids := list(tokenizer(text)["input_ids"]))]
    cut = sum(len(ids) > longest for ids in tokens)
    if cut:
        logger.warning("%d texts are longer than %d tokens of %s, and cut there", cut, longest, source)
    return batches_of([ids[:longest] for ids in tokens], _pad(tokenizer), arguments.batch_size)


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)


def _words(pairs: list[tuple[Batch, Batch]]) -> str:
    count = sum(len(chosen.mask) for chosen, _ in pairs)
    return f"{count} preferences" if count else "no preferences"
